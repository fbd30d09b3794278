"""Llama and the dense decoders like it: grouped queries, rotary positions, gated feed-forward layers."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.models.schema import (
    BIAS,
    FFN,
    GELUS,
    HEAD,
    LAYER_NORM,
    LAYER_NORM_PLAIN,
    MLP,
    REQUIRED,
    ROPE,
    SHAPE,
    Block,
    Config,
    Family,
    Field,
    Kinds,
    act,
    agree,
    always,
    attention,
    both,
    decoder,
    flag,
    head_dim,
    plain,
    size,
    sliding_or_full,
    spread,
    unread,
    windowed,
)

EVERYWHERE = always("attention", "mlp")
MLP_BIAS = replace(MLP, uses=(("bias:on=G+U+Y", "mlp_bias"),))

LLAMA = Family(
    {**SHAPE, "attention_bias": flag(False), "mlp_bias": flag(False)},
    (decoder({"attention": (attention(BIAS, ROPE),), "mlp": (MLP_BIAS,)}, EVERYWHERE),),
)


def slides(c: Config) -> list[str]:
    """Every layer, if there is a window.

    >>> slides({"sliding_window": None, "num_hidden_layers": 2})
    ['full_attention', 'full_attention']
    """
    return ["sliding_attention" if c["sliding_window"] else "full_attention"] * c["num_hidden_layers"]


def _qwen_kinds(c: Config) -> list[str]:
    """None unless `use_sliding_window`; then the layers in `layer_types`, else those from `max_window_layers` on."""
    if not (c["use_sliding_window"] and c["sliding_window"]):
        return ["full_attention"] * c["num_hidden_layers"]
    return sliding_or_full(c, lambda i: i < c["max_window_layers"])


def qwen_moe_kinds(c: Config) -> list[str]:
    """Qwen's mixtures of experts: the layers in `layer_types`; without it, versions of the code differ.

    >>> qwen_moe_kinds({"use_sliding_window": False, "sliding_window": None, "num_hidden_layers": 1})
    ['full_attention']
    """
    if c["use_sliding_window"] and c["sliding_window"] and not c["layer_types"]:
        raise InputError(
            "use_sliding_window without layer_types: which layers slide is not stated, and versions of the code differ"
        )
    return _qwen_kinds({**c, "max_window_layers": 0})


FULL_OR_SLIDING = ("full_attention", "sliding_attention")
TYPES = Field("types", None, FULL_OR_SLIDING)
WINDOWS = {
    "sliding_window": size(4096),
    "use_sliding_window": flag(False),
    "max_window_layers": Field("size0", 28),
    "layer_types": TYPES,
}
_NO_BIAS = Field("false", None)

MISTRAL = Family(
    {**SHAPE, "num_key_value_heads": size(8), "sliding_window": size(4096)},
    (decoder({**both(attention(ROPE)), "mlp": (MLP,)}, (slides, *always("mlp"))),),
)
QWEN2 = Family(
    {**SHAPE, **WINDOWS, "num_key_value_heads": size(32), "attention_bias": Field("true", None)},
    (decoder({**both(attention(("bias:on=Q+k+v", True), ROPE)), "mlp": (MLP,)}, (_qwen_kinds, *always("mlp"))),),
)
QWEN2_VL_TEXT = Family(
    {
        **QWEN2.fields,
        "num_key_value_heads": size(8),
        "max_window_layers": Field("size0", 80),
        "head_dim": Field("unread", None),
    },
    QWEN2.stacks,
)
QWEN3_ATTENTION = attention(BIAS, ("norm", True), ROPE)
QWEN3_FIELDS = {
    **SHAPE,
    **WINDOWS,
    "num_key_value_heads": size(32),
    "head_dim": size(128),
    "attention_bias": flag(False),
    "qkv_bias": _NO_BIAS,
    "use_qk_norm": Field("true", None),
}
QWEN3 = Family(QWEN3_FIELDS, (decoder({**both(QWEN3_ATTENTION), "mlp": (MLP,)}, (_qwen_kinds, *always("mlp"))),))
QWEN3_VL_TEXT = Family(
    {**SHAPE, "num_key_value_heads": size(32), "head_dim": size(128), "attention_bias": flag(False)},
    (decoder({"attention": (QWEN3_ATTENTION,), "mlp": (MLP,)}, EVERYWHERE),),
)

PHI = Family(
    {
        **SHAPE,
        "partial_rotary_factor": Field("share", 0.5),
        "hidden_act": act("gelu_new", *GELUS, "relu"),
        "qk_layernorm": flag(False),
    },
    (
        decoder(
            {
                "attention": (attention(("bias:on=Q+k+v+Y", True), ("norm:kind=layer", "qk_layernorm"), ROPE),),
                "mlp": (Block("mlp", plain(), FFN, (("bias:on=U+Y", True),)),),
            },
            EVERYWHERE,
            norms=1,
            norm=LAYER_NORM,
            head=replace(HEAD, uses=(("bias:on=Y", True),)),
        ),
    ),
    checks=(spread("qk_layernorm"),),
)
PHI3 = Family(
    {
        **SHAPE,
        "sliding_window": size(None),
        **dict.fromkeys(("attention_bias", "mlp_bias", "lm_head_bias"), _NO_BIAS),
        **dict.fromkeys(("full_attn_mod", "interpolate_factor"), Field("one", None)),
    },
    MISTRAL.stacks,
)


def _cohere(*uses: tuple[str, str]) -> Block:
    return attention(BIAS, *uses, ROPE)


_COHERE = {**SHAPE, "tie_word_embeddings": flag(True), "attention_bias": flag(False)}
COHERE = Family(
    {**_COHERE, "use_qk_norm": flag(False)},
    (
        decoder(
            {"attention": (_cohere(("norm:kind=layer,gain=per-head,bias=none", "use_qk_norm")),), "mlp": (MLP,)},
            EVERYWHERE,
            norms=1,
            norm=LAYER_NORM_PLAIN,
        ),
    ),
)


def pattern(period: int, full: int) -> Kinds:
    """Sliding layers but for one of every `period`, the one at place `full`; or as `layer_types` says.

    >>> pattern(2, 1)({"layer_types": None, "num_hidden_layers": 2})
    ['sliding_attention', 'full_attention']
    """
    return lambda c: sliding_or_full(c, lambda i: i % period == full)


_ALWAYS = ("use_embedding_sharing", "use_gated_activation", "use_parallel_block", "use_parallel_embedding")
COHERE2 = Family(
    {
        **_COHERE,
        "sliding_window": size(4096),
        "layer_types": TYPES,
        "sliding_window_pattern": size(4),
        "layer_switch": size(None),
        "order_of_interleaved_layers": Field("text", None, ("local_attn_first",)),
        "position_embedding_type": Field("text", None, ("rope_gptj",)),
        "rotary_pct": Field("one", None),
        "use_qk_norm": Field("false", None),
        **dict.fromkeys(_ALWAYS, Field("true", None)),
    },
    (
        decoder(
            {
                "full_attention": (attention(BIAS),),  # the layers that see everything have no rotary positions
                "sliding_attention": (windowed(_cohere()),),
                "mlp": (MLP,),
            },
            (
                lambda c: sliding_or_full(c, lambda i: (i + 1) % c["sliding_window_pattern"] == 0),
                *always("mlp"),
            ),
            norms=1,
            norm=LAYER_NORM_PLAIN,
        ),
    ),
    checks=(agree("layer_switch", "sliding_window_pattern"),),
)

_OLMO_ATTENTION = attention(BIAS, ("norm:over=all", True), ROPE)
_OLMO = {**SHAPE, "attention_bias": flag(False)}
OLMO2 = Family(_OLMO, (decoder({"attention": (_OLMO_ATTENTION,), "mlp": (MLP,)}, EVERYWHERE),))
OLMO3 = Family(
    {**_OLMO, "sliding_window": size(4096), "layer_types": TYPES},
    (decoder({**both(_OLMO_ATTENTION), "mlp": (MLP,)}, (pattern(4, 3), *always("mlp"))),),
)
STARCODER2 = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(2),
        "hidden_act": act("gelu_pytorch_tanh", *GELUS),
        "tie_word_embeddings": flag(True),
        "use_bias": flag(True),
        "mlp_type": Field("text", "default", ("default",)),
        "norm_type": Field("text", "layer_norm", ("layer_norm",)),
        "sliding_window": size(None),
        "layer_types": TYPES,
    },
    (
        decoder(
            {
                **both(attention(("bias:on=Q+k+v+Y", "use_bias"), ROPE)),
                "mlp": (Block("mlp", plain(), FFN, (("bias:on=U+Y", "use_bias"),)),),
            },
            (slides, *always("mlp")),
            norm=LAYER_NORM,
        ),
    ),
)


def _smollm_kinds(c: Config) -> list[str]:
    """Every fourth layer has no rotary positions."""
    turns = c["no_rope_layers"] or [
        int((i + 1) % c["no_rope_layer_interval"] != 0) for i in range(c["num_hidden_layers"])
    ]
    return ["attention" if x else "nope" for x in turns]


SMOLLM3 = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(4),
        "tie_word_embeddings": flag(True),
        "attention_bias": flag(False),
        "mlp_bias": flag(False),
        "no_rope_layers": Field("flags", None),
        "no_rope_layer_interval": size(4),
        "use_sliding_window": Field("false", None),
        "max_window_layers": Field("unread", None),
        "layer_types": Field("types", None, ("full_attention",)),
    },
    (
        decoder(
            {"attention": (attention(BIAS, ROPE),), "nope": (attention(BIAS),), "mlp": (MLP_BIAS,)},
            (_smollm_kinds, *always("mlp")),
        ),
    ),
)
GLM_ATTENTION = attention(("bias:on=Q+k+v", "attention_bias"), ROPE)
_GLM = {
    **SHAPE,
    "num_key_value_heads": size(2),
    "head_dim": size(128),
    "partial_rotary_factor": Field("share", 0.5),
    "attention_bias": flag(True),
}
GLM = Family(_GLM, (decoder({"attention": (GLM_ATTENTION,), "mlp": (MLP,)}, EVERYWHERE),))
GLM4 = Family(_GLM, (decoder({"attention": (GLM_ATTENTION,), "mlp": (MLP,)}, EVERYWHERE, norms=4),))

STABLELM = Family(
    {
        **SHAPE,
        **unread("head_dim", "num_heads", "rope_pct"),
        "num_key_value_heads": size(32),
        "partial_rotary_factor": Field("share", 0.25),
        "rotary_scaling_factor": Field("one", None),
        "use_qkv_bias": flag(False),
        "qk_layernorm": flag(False),
        "use_parallel_residual": flag(False),
    },
    (
        decoder(
            {
                "attention": (
                    attention(
                        ("bias:on=Q+k+v", "use_qkv_bias"),
                        ("norm:kind=layer,gain=per-head,bias=none", "qk_layernorm"),
                        ROPE,
                    ),
                ),
                "mlp": (MLP,),
                "norms": (LAYER_NORM, replace(LAYER_NORM, when=lambda c: not c["use_parallel_residual"])),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
        ),
    ),
)
SEED_OSS = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(8),
        "head_dim": size(128),
        "attention_bias": flag(True),
        "attention_out_bias": flag(False),
        "mlp_bias": flag(False),
    },
    (
        decoder(
            {
                "attention": (
                    attention(("bias:on=Q+k+v", "attention_bias"), ("bias:on=Y", "attention_out_bias"), ROPE),
                ),
                "mlp": (MLP_BIAS,),
            },
            EVERYWHERE,
        ),
    ),
)
ERNIE4_5 = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(2),
        "head_dim": size(128),
        "tie_word_embeddings": flag(True),
        "use_bias": flag(False),
    },
    (
        decoder(
            {
                "attention": (attention(("bias:on=Q+k+v+Y", "use_bias"), ROPE),),
                "mlp": (replace(MLP, uses=(("bias:on=G+U+Y", "use_bias"),)),),
            },
            EVERYWHERE,
        ),
    ),
)
EXAONE4 = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(32),
        "sliding_window": size(4096),
        "sliding_window_pattern": Field("unread", 4),
        "layer_types": Field("types", REQUIRED, FULL_OR_SLIDING),
    },
    (
        decoder(
            {
                "full_attention": (attention(("norm", True), (lambda c: "rope", lambda c: not c["sliding_window"])),),
                "sliding_attention": (windowed(attention(("norm", True), ROPE)),),
                "mlp": (MLP,),
            },
            (lambda c: list(c["layer_types"]), *always("mlp")),
        ),
    ),
)
HUNYUAN = Family(
    {
        **SHAPE,
        "attention_bias": flag(False),
        "use_qk_norm": Field("true", None),
        "attention_head_dim": size(None),
        "use_cla": Field("false", None),  # caches shared among layers
        "cla_share_factor": Field("unread", None),
    },
    (decoder({"attention": (attention(BIAS, ROPE, ("norm", True)),), "mlp": (MLP,)}, EVERYWHERE),),
    classes=("ForCausalLM", "HunYuanDenseV1Model"),
    checks=(agree("attention_head_dim", "head_dim", head_dim),),
)
GRANITE = Family(LLAMA.fields, LLAMA.stacks)
NEMOTRON = Family(
    {
        **SHAPE,
        "hidden_act": act("relu2", "relu2"),
        "partial_rotary_factor": Field("share", 0.5),
        "attention_bias": flag(False),
        "mlp_bias": flag(False),
    },
    (
        decoder(
            {
                "attention": (attention(BIAS, ROPE),),
                "mlp": (Block("mlp", plain(), FFN, (("bias:on=U+Y", "mlp_bias"),)),),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
        ),
    ),
)

FAMILIES = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen2_vl_text": QWEN2_VL_TEXT,
    "qwen2_5_vl_text": QWEN2_VL_TEXT,
    "qwen3": QWEN3,
    "qwen3_vl_text": QWEN3_VL_TEXT,
    "phi": PHI,
    "phi3": PHI3,
    "cohere": COHERE,
    "cohere2": COHERE2,
    "olmo2": OLMO2,
    "olmo3": OLMO3,
    "starcoder2": STARCODER2,
    "smollm3": SMOLLM3,
    "glm": GLM,
    "glm4": GLM4,
    "stablelm": STABLELM,
    "seed_oss": SEED_OSS,
    "ernie4_5": ERNIE4_5,
    "exaone4": EXAONE4,
    "hunyuan_v1_dense": HUNYUAN,
    "granite": GRANITE,
    "nemotron": NEMOTRON,
}
