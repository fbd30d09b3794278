"""Layers of attention among recurrent ones: Qwen3-Next and 3.5, Nemotron-H, Mamba-2."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.mixtures import QWEN_EXPERTS, QWEN_SHARED, qwen_experts
from attnmath.models.schema import (
    EMBEDDING,
    HEAD,
    HEADS,
    MLP,
    NEVER_TIED,
    RMS,
    ROPE,
    SHAPE,
    WIDE,
    Block,
    Config,
    Family,
    Field,
    Stack,
    Value,
    act,
    agree,
    always,
    attention,
    decoder,
    experts,
    flag,
    plain,
    size,
    unread,
)

DELTA: dict[str, Value] = {
    "heads": "linear_num_value_heads",
    "kv-heads": "linear_num_key_heads",
    "head-dim": "linear_key_head_dim",
    "v-head-dim": "linear_value_head_dim",
    "conv-width": "linear_conv_kernel_dim",
    "d-model": "hidden_size",
}
_ATTENTION = attention(("gate", True), ("norm:weight=1+w", True), ROPE)


def _kinds(c: Config) -> list[str]:
    every = c["full_attention_interval"]
    return (
        list(c["layer_types"])
        if c["layer_types"]
        else ["linear_attention" if (i + 1) % every else "full_attention" for i in range(c["num_hidden_layers"])]
    )


ROWS = {"full_attention": (_ATTENTION,), "linear_attention": (Block("attention", "gated-deltanet", DELTA),)}
FIELDS = {
    **SHAPE,
    "num_key_value_heads": size(2),
    "head_dim": size(256),
    "partial_rotary_factor": Field("share", 0.25),
    "attention_bias": Field("false", False),
    "attn_output_gate": Field("true", True),
    "linear_conv_kernel_dim": size(4),
    "linear_key_head_dim": size(128),
    "linear_value_head_dim": size(128),
    "linear_num_key_heads": size(16),
    "linear_num_value_heads": size(32),
    "full_attention_interval": size(4),
    "layer_types": Field("types", None, ("full_attention", "linear_attention")),
}
QWEN3_NEXT = Family(
    {
        **FIELDS,
        **QWEN_EXPERTS,
        "moe_intermediate_size": size(512),
        "shared_expert_intermediate_size": size(512),
        "num_experts_per_tok": size(10),
        "num_experts": size(512),
    },
    (decoder({**ROWS, **QWEN_SHARED}, (_kinds, qwen_experts)),),
    mtp=("full_attention", "sparse", "norms"),
)
QWEN3_5_TEXT = Family(
    {**FIELDS, "num_key_value_heads": size(4), "mlp_only_layers": Field("empty", None)},
    (decoder({**ROWS, "mlp": (MLP,)}, (_kinds, *always("mlp"))),),
    mtp=("full_attention", "mlp", "norms"),
)
QWEN3_5_MOE_TEXT = Family(
    {
        **{k: f for k, f in FIELDS.items() if k != "intermediate_size"},
        "moe_intermediate_size": size(512),
        "shared_expert_intermediate_size": size(512),
        "num_experts_per_tok": size(8),
        "num_experts": size(256),
        "mlp_only_layers": Field("empty", None),
        "intermediate_size": Field("unread", None),
        "decoder_sparse_step": Field("one", 1),
    },
    (decoder({**ROWS, **QWEN_SHARED}, (_kinds, *always("sparse"))),),
    mtp=("full_attention", "sparse", "norms"),
)

_MAMBA = Block(
    "attention",
    "mamba2",
    {
        "heads": "mamba_num_heads",
        "kv-heads": "n_groups",
        "head-dim": "ssm_state_size",
        "v-head-dim": "mamba_head_dim",
        "conv-width": "conv_kernel",
        "d-model": "hidden_size",
        "block-size": "chunk_size",
    },
)
LETTERS = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}
NAMES = {"mamba": "linear_attention", "attention": "full_attention", "sparse": "moe", "dense": "mlp"}


def _nemotron_kinds(c: Config) -> list[str]:
    """One thing a layer: a state space, attention, experts or a feed-forward layer."""
    if c["layers_block_type"] is not None:
        return [NAMES.get(x, x) for x in c["layers_block_type"]]
    return [LETTERS[x] for x in c["hybrid_override_pattern"] or ""]


_NEMOTRON_LAYERS = (_nemotron_kinds, lambda c: ["norms"] * len(_nemotron_kinds(c)))
NEMOTRON_H = Family(
    {
        "vocab_size": size(131072),
        "hidden_size": size(4096),
        "num_hidden_layers": size(None),
        "hybrid_override_pattern": Field("pattern", None, tuple(LETTERS)),
        "layers_block_type": Field("types", None, (*dict.fromkeys((*LETTERS.values(), *NAMES)),)),
        "num_attention_heads": size(32),
        "num_key_value_heads": size(8),
        "head_dim": size(128),
        "tie_word_embeddings": flag(False),
        "attention_bias": Field("unread", False),
        "intermediate_size": size(21504),
        "mlp_hidden_act": act("relu2", "relu2"),
        "mlp_bias": flag(False),
        "use_bias": Field("false", False),
        "mamba_proj_bias": Field("false", False),
        "use_conv_bias": Field("true", True),
        "mamba_hidden_act": act("silu", "silu"),
        "mamba_num_heads": size(128),
        "mamba_head_dim": size(64),
        "ssm_state_size": size(128),
        "n_groups": size(8),
        "conv_kernel": size(4),
        "chunk_size": size(128),
        "expand": Field("unread", 2),
        "n_routed_experts": size(8),
        "n_shared_experts": size(1),
        "num_experts_per_tok": size(2),
        "moe_intermediate_size": size(7688),
        "moe_shared_expert_intermediate_size": size(7688),
        "moe_latent_size": Field("null", None),
        "sliding_window": Field("none", None),
        "partial_rotary_factor": Field("unread", None),
        "rope_parameters": Field("unread", None),
        "rope_scaling": Field("unread", None),
        "attention_head_dim": size(None),
    },
    (
        replace(
            decoder(
                {
                    "full_attention": (Block("attention", "gqa", HEADS),),
                    "linear_attention": (_MAMBA,),
                    "mlp": (
                        Block(
                            "mlp",
                            plain("mlp_hidden_act"),
                            {**WIDE, "ffn": "intermediate_size"},
                            (("bias:on=U+Y", "mlp_bias"),),
                        ),
                    ),
                    "moe": (
                        experts(
                            "experts-relu2",
                            expert="n_routed_experts",
                            active="num_experts_per_tok",
                            ffn="moe_intermediate_size",
                        ),
                        Block(
                            "shared_experts",
                            plain("mlp_hidden_act"),
                            {**WIDE, "ffn": "moe_shared_expert_intermediate_size"},
                            (("bias:on=U+Y", "mlp_bias"),),
                        ),
                    ),
                },
                (),
                norms=1,
                head=replace(HEAD, tied=False),
            ),
            kinds=_NEMOTRON_LAYERS,
        ),
    ),
    aliases={
        "layer_types": "layers_block_type",
        "mamba_n_groups": "n_groups",
        "mamba_d_conv": "conv_kernel",
        "mamba_conv_bias": "use_conv_bias",
        "mamba_chunk_size": "chunk_size",
        "mamba_d_state": "ssm_state_size",
    },
    checks=(
        lambda c: "" if _nemotron_kinds(c) else "hybrid_override_pattern is missing; it says what each layer is",
        lambda c: (
            ""
            if not c["hybrid_override_pattern"]
            or _nemotron_kinds(c) == _nemotron_kinds({**c, "layers_block_type": None})
            else "hybrid_override_pattern and layers_block_type contradict each other"
        ),
        agree("num_hidden_layers", "the number of layers that are named", lambda c: len(_nemotron_kinds(c))),
        agree("attention_head_dim", "head_dim"),
    ),
    notes=NEVER_TIED,
)
MAMBA2 = Family(
    {
        "vocab_size": size(32768),
        "hidden_size": size(4096),
        "num_hidden_layers": size(64),
        "num_heads": size(128),
        "head_dim": size(64),
        "state_size": size(128),
        "n_groups": size(8),
        "conv_kernel": size(4),
        "chunk_size": size(256),
        "expand": Field("unread", 2),
        "use_bias": Field("false", False),
        "use_conv_bias": Field("true", True),
        "tie_word_embeddings": flag(False),
        "hidden_act": act("silu", "silu"),
        "rms_norm": Field("true", None),
        **unread("intermediate_size", "norm_before_gate", "time_step_init_scheme", "time_step_scale"),
    },
    (
        Stack(
            {
                "mixer": (
                    RMS,
                    replace(
                        _MAMBA,
                        sizes={
                            **_MAMBA.sizes,
                            "heads": "num_heads",
                            "head-dim": "state_size",
                            "v-head-dim": "head_dim",
                        },
                    ),
                )
            },
            always("mixer"),
            (EMBEDDING,),
            (RMS, HEAD),
        ),
    ),
)

FAMILIES = {
    "qwen3_next": QWEN3_NEXT,
    "qwen3_5_text": QWEN3_5_TEXT,
    "qwen3_5_moe_text": QWEN3_5_MOE_TEXT,
    "nemotron_h": NEMOTRON_H,
    "mamba2": MAMBA2,
}
