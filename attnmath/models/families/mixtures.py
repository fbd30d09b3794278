"""Mixtures of experts over grouped-query attention."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.llama import (
    GLM_ATTENTION,
    MISTRAL,
    QWEN3_ATTENTION,
    QWEN3_FIELDS,
    TYPES,
    WINDOWS,
    pattern,
    qwen_moe_kinds,
    slides,
)
from attnmath.models.schema import (
    BIAS,
    HEAD,
    HEADS,
    LAYER_NORM,
    MLP,
    ROPE,
    SHAPE,
    WIDE,
    Block,
    Config,
    Family,
    Field,
    agree,
    always,
    attention,
    both,
    decoder,
    experts,
    flag,
    gated,
    rope,
    size,
    sparse_from,
    spread,
)

ROUTED = experts(expert="num_local_experts", active="num_experts_per_tok", ffn="intermediate_size")
ROUTED_MOE = experts(expert="num_experts", active="num_experts_per_tok", ffn="moe_intermediate_size")
ONE = Block("shared_experts", "linear", {**WIDE, "out": 1})


def shared(ffn: str, gate: bool = False) -> tuple[Block, ...]:
    """An expert that every token goes through, with a gate of its own or without.

    >>> [b.page if isinstance(b.page, str) else "gated" for b in shared("x", gate=True)]
    ['gated', 'linear']
    """
    block = Block("shared_experts", gated(), {**WIDE, "ffn": ffn})
    return (block, ONE) if gate else (block,)


MIXTRAL = Family(
    {
        **MISTRAL.fields,
        "sliding_window": size(None),
        "num_local_experts": size(8),
        "num_experts_per_tok": size(2),
    },
    (decoder({**both(attention(ROPE)), "moe": (ROUTED,)}, (slides, *always("moe"))),),
)
PHIMOE = Family(
    {
        **MIXTRAL.fields,
        "num_local_experts": size(16),
        "attention_bias": flag(False),
        "lm_head_bias": flag(False),
    },
    (
        decoder(
            {**both(attention(BIAS, ROPE)), "moe": (ROUTED,)},
            (slides, *always("moe")),
            norm=LAYER_NORM,
            head=replace(HEAD, uses=(("bias:on=Y", "lm_head_bias"),)),
        ),
    ),
)


def qwen_experts(c: Config) -> list[str]:
    """Experts in every so-manieth layer, but where the config names dense ones.

    >>> qwen_experts({"mlp_only_layers": [1], "decoder_sparse_step": 1, "num_hidden_layers": 2})
    ['sparse', 'dense']
    """
    dense, step = c["mlp_only_layers"] or [], c["decoder_sparse_step"]
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(c["num_hidden_layers"])]
    return ["sparse" if x else "dense" for x in sparse]


QWEN_EXPERTS = {
    "decoder_sparse_step": size(1),
    "mlp_only_layers": Field("places", None),
    "moe_intermediate_size": size(),
    "num_experts_per_tok": size(),
    "num_experts": size(),
}
QWEN_ROWS = {"dense": (MLP,), "sparse": (ROUTED_MOE,)}
QWEN_SHARED = {"dense": (MLP,), "sparse": (ROUTED_MOE, *shared("shared_expert_intermediate_size", gate=True))}
QWEN2_MOE = Family(
    {
        **SHAPE,
        **WINDOWS,
        **QWEN_EXPERTS,
        "shared_expert_intermediate_size": size(),
        "qkv_bias": flag(True),
        "num_key_value_heads": size(16),
    },
    (
        decoder(
            {**both(attention(("bias:on=Q+k+v", "qkv_bias"), ROPE)), **QWEN_SHARED},
            (qwen_moe_kinds, qwen_experts),
        ),
    ),
)
QWEN3_MOE = Family(
    {
        **QWEN3_FIELDS,
        "head_dim": size(None),
        "num_key_value_heads": size(4),
        **QWEN_EXPERTS,
        "shared_expert_intermediate_size": Field("none", 0),
    },
    (decoder({**both(QWEN3_ATTENTION), **QWEN_ROWS}, (qwen_moe_kinds, qwen_experts)),),
    aliases={"num_local_experts": "num_experts"},
)
QWEN3_VL_MOE_TEXT = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(16),
        "attention_bias": flag(False),
        "sliding_window": Field("none", None),
        "tie_word_embeddings": flag(True),
        **QWEN_EXPERTS,
    },
    (decoder({"attention": (QWEN3_ATTENTION,), **QWEN_ROWS}, (*always("attention"), qwen_experts)),),
    aliases={"num_local_experts": "num_experts"},
)

GPT_OSS = Family(
    {
        **SHAPE,
        "head_dim": size(64),
        "num_key_value_heads": size(8),
        "attention_bias": Field("true", True),
        "sliding_window": size(128),
        "layer_types": TYPES,
        "num_local_experts": size(128),
        "num_experts_per_tok": size(4),
        "experts_per_token": size(None),
    },
    (
        decoder(
            {
                **both(attention(("bias:on=Q+k+v+Y", True), ROPE, ("sink", True))),
                "moe": (replace(ROUTED, page="experts-bias"),),
            },
            (pattern(2, 1), *always("moe")),
        ),
    ),
    aliases={"num_experts": "num_local_experts"},
    checks=(agree("experts_per_token", "num_experts_per_tok"),),
)

_MINIMAX = {
    **SHAPE,
    "head_dim": size(128),
    "num_key_value_heads": size(8),
    "rotary_dim": size(None),
    "num_local_experts": size(),
    "num_experts_per_tok": size(),
}


def _turning(c: Config) -> str:
    return f"rope:dims={c['rotary_dim']}" if c["rotary_dim"] and c["rotary_dim"] != c["head_dim"] else rope(c)


MINIMAX_M2 = Family(
    {
        **_MINIMAX,
        "use_qk_norm": Field("true", True),
        "qk_norm_type": Field("text", "per_layer", ("per_layer",)),
        "attn_type_list": Field("flags", None),
        "layer_types": Field("types", None, ("full_attention",)),
        "shared_intermediate_size": Field("none", 0),
        "attention_bias": Field("false", False),
        "sliding_window": Field("none", None),
    },
    (
        decoder(
            {"attention": (attention(("norm:over=all", True), (_turning, True)),), "moe": (ROUTED,)},
            always("attention", "moe"),
        ),
    ),
)
M3_SPARSE = "sparse_attention_config"


def _m3(key: str, default: object):  # type: ignore[no-untyped-def]
    return lambda c: (c[M3_SPARSE] or {}).get(key, default)


def _m3_attention(c: Config) -> list[str]:
    places = _m3("sparse_attention_freq", [0] * c["num_hidden_layers"])(c)
    return ["minimax_m3_sparse" if x else "full_attention" for x in places]


_M3_NORMS = ("norm:weight=1+w", True)
MINIMAX_M3 = Family(
    {
        **_MINIMAX,
        "hidden_act": Field("act", "silu", ("silu", "swigluoai")),
        "num_key_value_heads": size(4),
        "dense_intermediate_size": size(12288),
        "shared_intermediate_size": size(3072),
        "moe_intermediate_size": Field("unread", None),
        "n_shared_experts": size(1),
        "moe_layer_freq": Field("flags", None),
        "mlp_layer_types": Field("types", None, ("dense", "sparse")),
        M3_SPARSE: Field("sparse", None),
        "use_qk_norm": Field("true", True),
        "qk_norm_type": Field("text", "per_head", ("per_head",)),
        "use_gemma_norm": Field("true", True),
        "attention_output_gate": Field("false", False),
        "first_k_dense_replace": Field("unread", None),
    },
    (
        decoder(
            {
                "full_attention": (attention(_M3_NORMS, (_turning, True)),),
                "minimax_m3_sparse": (
                    attention(
                        ("norm:on=Q+k+qI+kI,weight=1+w", True),
                        (lambda c: _turning(c).replace("rope", "rope:on=Q+k+qI+kI").replace("kI:", "kI,"), True),
                        page="msa",
                        sizes={
                            **HEADS,
                            "block-size": _m3("sparse_block_size", 128),
                            "top-k": _m3("sparse_topk_blocks", 16),
                            "index-dim": _m3("sparse_index_dim", 128),
                        },
                    ),
                ),
                "dense": (Block("mlp", "gated-mlp", {**WIDE, "ffn": "dense_intermediate_size"}),),
                "sparse": (ROUTED, Block("shared_experts", "gated-mlp", {**WIDE, "ffn": "shared_intermediate_size"})),
            },
            (
                _m3_attention,
                lambda c: list(
                    c["mlp_layer_types"]
                    or ["sparse" if x else "dense" for x in c["moe_layer_freq"] or [1] * c["num_hidden_layers"]]
                ),
            ),
        ),
    ),
    checks=(
        lambda c: (
            ""
            if _m3("sparse_num_index_heads", c["num_key_value_heads"])(c) == c["num_key_value_heads"]
            else "sparse_num_index_heads: an index head for each key/value head is understood, no other number"
        ),
        lambda c: (
            ""
            if _m3("sparse_local_block", 1)(c) == 1
            else "sparse_local_block: one block is understood, no other number"
        ),
        lambda c: (
            "" if _m3("sparse_init_block", 0)(c) == 0 else "sparse_init_block: none is understood, no other number"
        ),
    ),
)

GLM4_MOE = Family(
    {
        **SHAPE,
        "num_key_value_heads": size(8),
        "partial_rotary_factor": Field("share", 0.5),
        "attention_bias": flag(False),
        "use_qk_norm": flag(False),
        "moe_intermediate_size": size(1408),
        "num_experts_per_tok": size(8),
        "n_shared_experts": size(1),
        "n_routed_experts": size(128),
        "first_k_dense_replace": Field("size0", 1),
    },
    (
        decoder(
            {
                "attention": (replace(GLM_ATTENTION, uses=(GLM_ATTENTION.uses[0], ("norm", "use_qk_norm"), ROPE)),),
                "dense": (MLP,),
                "sparse": (
                    experts(expert="n_routed_experts", active="num_experts_per_tok", ffn="moe_intermediate_size"),
                    *shared(lambda c: c["moe_intermediate_size"] * c["n_shared_experts"]),  # type: ignore[arg-type]
                ),
            },
            (*always("attention"), sparse_from("first_k_dense_replace")),
        ),
    ),
    mtp=("attention", "sparse", "norms"),
)


def _turns(c: Config) -> list[bool]:
    given = c["no_rope_layers"] or [
        int((i + 1) % c["no_rope_layer_interval"] != 0) for i in range(c["num_hidden_layers"])
    ]
    return list(map(bool, given))


def _llama4_kinds(c: Config) -> list[str]:
    """Layers without rotary positions see everything, the others a chunk."""
    turns = _turns(c)
    types = c["layer_types"] or ["chunked_attention" if x else "full_attention" for x in turns]
    return [f"{kind}{'' if turn else '_nope'}" for kind, turn in zip(types, turns)]


def _llama4_experts(c: Config) -> list[str]:
    step = c["interleave_moe_layer_step"]
    sparse = c["moe_layers"] if c["moe_layers"] is not None else range(step - 1, c["num_hidden_layers"], step)
    return ["sparse" if i in sparse else "dense" for i in range(c["num_hidden_layers"])]


_LLAMA4_ROPE = attention(BIAS, ("rope:layout=interleaved", True), ("norm:weight=none", "use_qk_norm"))
_LLAMA4_NOPE = attention(BIAS, (lambda c: f"temperature-tuning:floor={c['floor_scale']:g}", "attn_temperature_tuning"))


def _chunked(c: Config) -> str:
    return f"chunked:{c['attention_chunk_size']}"


LLAMA4_TEXT = Family(
    {
        **SHAPE,
        "intermediate_size": size(8192),
        "intermediate_size_mlp": size(16384),
        "num_key_value_heads": size(8),
        "head_dim": size(128),
        "num_local_experts": size(16),
        "num_experts_per_tok": size(1),
        "interleave_moe_layer_step": size(1),
        "moe_layers": Field("places", None),
        "use_qk_norm": flag(True),
        "no_rope_layers": Field("flags", None),
        "no_rope_layer_interval": size(4),
        "attention_chunk_size": size(8192),
        "layer_types": Field("types", None, ("full_attention", "chunked_attention")),
        "attn_temperature_tuning": Field("truthy", True),
        "floor_scale": Field("number", 8192),
        "attn_scale": Field("number", 0.1),
        "attention_bias": flag(False),
    },
    (
        decoder(
            {
                "chunked_attention": (replace(_LLAMA4_ROPE, mask=_chunked),),
                "full_attention": (_LLAMA4_ROPE,),
                "full_attention_nope": (_LLAMA4_NOPE,),
                "chunked_attention_nope": (replace(_LLAMA4_NOPE, mask=_chunked),),
                "dense": (Block("mlp", gated(), {**WIDE, "ffn": "intermediate_size_mlp"}),),
                "sparse": (ROUTED, *shared("intermediate_size")),
            },
            (_llama4_kinds, _llama4_experts),
        ),
    ),
)
GRANITEMOE = Family(
    {
        **MIXTRAL.fields,
        "num_key_value_heads": size(None),
        "attention_bias": flag(False),
        "sliding_window": Field("none", None),
    },
    (decoder({"attention": (attention(BIAS, ROPE),), "moe": (ROUTED,)}, always("attention", "moe")),),
)
_OLMOE_ATTENTION = attention(BIAS, ("norm:over=all", True), ROPE)
OLMOE = Family(
    {
        **SHAPE,
        "attention_bias": flag(False),
        "num_experts": size(64),
        "num_experts_per_tok": size(8),
        "clip_qkv": Field("none", None),
    },
    (
        decoder(
            {
                "attention": (_OLMOE_ATTENTION,),
                "moe": (experts(expert="num_experts", active="num_experts_per_tok", ffn="intermediate_size"),),
            },
            always("attention", "moe"),
        ),
    ),
    checks=(spread(),),
)

FAMILIES = {
    "mixtral": MIXTRAL,
    "phimoe": PHIMOE,
    "qwen2_moe": QWEN2_MOE,
    "qwen3_moe": QWEN3_MOE,
    "qwen3_vl_moe_text": QWEN3_VL_MOE_TEXT,
    "gpt_oss": GPT_OSS,
    "minimax_m2": MINIMAX_M2,
    "minimax_m3": MINIMAX_M3,
    "glm4_moe": GLM4_MOE,
    "llama4_text": LLAMA4_TEXT,
    "granitemoe": GRANITEMOE,
    "olmoe": OLMOE,
}
