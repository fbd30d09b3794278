"""Gemma: wide heads, norms before and after, windows between layers that see everything."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.llama import EVERYWHERE, TYPES, pattern
from attnmath.models.schema import (
    BIAS,
    GELUS,
    HEADS,
    MLP,
    ROPE,
    SHAPE,
    Config,
    Family,
    Field,
    act,
    always,
    attention,
    both,
    decoder,
    flag,
    gated,
    size,
    sliding_or_full,
    windowed,
)

_GEMMA = {
    **{k: f for k, f in SHAPE.items() if k != "hidden_act"},
    "head_dim": size(256),
    "tie_word_embeddings": flag(True),
    "attention_bias": flag(False),
    "hidden_activation": act("gelu_pytorch_tanh", *GELUS),
    "hidden_act": Field("unread", None),
    "use_bidirectional_attention": Field("towards", None),
}
_MLP = replace(MLP, page=gated("hidden_activation"))
GEMMA = Family(_GEMMA, (decoder({"attention": (attention(BIAS, ROPE),), "mlp": (_MLP,)}, EVERYWHERE),))


def _scale(c: Config) -> str:
    return f"scale:width={c['query_pre_attn_scalar']:g}"


GEMMA2 = Family(
    {
        **_GEMMA,
        "num_key_value_heads": size(4),
        "query_pre_attn_scalar": Field("number", 256),
        "attn_logit_softcapping": Field("number", 50.0),
        "sliding_window": size(4096),
        "layer_types": TYPES,
    },
    (
        decoder(
            {
                **both(
                    attention(
                        BIAS,
                        ROPE,
                        (_scale, True),
                        (lambda c: f"softcap:cap={c['attn_logit_softcapping']:g}", "attn_logit_softcapping"),
                    )
                ),
                "mlp": (_MLP,),
            },
            (pattern(2, 1), *always("mlp")),
            norms=4,
        ),
    ),
)


def _gemma3_kinds(c: Config) -> list[str]:
    return sliding_or_full(c, lambda i: (i + 1) % c["sliding_window_pattern"] == 0)


GEMMA3_TEXT = Family(  # local and global layers differ in their rope's base only, which costs nothing
    {
        **_GEMMA,
        "vocab_size": size(262208),
        "hidden_size": size(2304),
        "intermediate_size": size(9216),
        "num_hidden_layers": size(26),
        "num_attention_heads": size(8),
        "num_key_value_heads": size(4),
        "rope_parameters": Field("ropes", None),
        "query_pre_attn_scalar": Field("number", 256),
        "attn_logit_softcapping": Field("unread", None),
        "sliding_window": size(4096),
        "layer_types": TYPES,
        "sliding_window_pattern": size(6),
    },
    (
        decoder(
            {
                **both(attention(BIAS, ("norm:weight=1+w", True), ("rope", True), (_scale, True))),
                "mlp": (_MLP,),
            },
            (_gemma3_kinds, *always("mlp")),
            norms=4,
        ),
    ),
    aliases={"_sliding_window_pattern": "sliding_window_pattern"},
)


def _share(c: Config, kind: str) -> float:
    table = (c["rope_parameters"] or {}).get(kind) or {}
    return float(table.get("partial_rotary_factor", 1 if kind == "sliding_attention" else 0.25))


def _turning(kind: str, width: str):  # type: ignore[no-untyped-def]
    def rope(c: Config) -> str:
        share = _share(c, kind)
        return "rope" if share == 1 else f"rope:dims={int(c[width] * share)}"

    return rope


_NORMS = (("norm", True), ("norm:on=v,weight=none", True))
_LOCAL = windowed(attention(BIAS, *_NORMS, (_turning("sliding_attention", "head_dim"), True)))
_GLOBAL = replace(
    attention(BIAS, *_NORMS, (_turning("full_attention", "global_head_dim"), True)),
    sizes={
        **HEADS,
        "head-dim": "global_head_dim",
        "kv-heads": lambda c: (c["attention_k_eq_v"] and c["num_global_key_value_heads"]) or c["num_key_value_heads"],
    },
)
_TIED = replace(_GLOBAL, uses=(BIAS, ("shared-projection", True), *_GLOBAL.uses[1:]))


def _gemma4_kinds(c: Config) -> list[str]:
    kinds = pattern(6, 5)(c)
    if kinds[-1] != "full_attention":
        kinds[-1] = "full_attention"  # the last layer always sees everything
    tied = {"full_attention": "tied_attention"} if c["attention_k_eq_v"] else {}
    return [tied.get(k, k) for k in kinds]


GEMMA4_TEXT = Family(
    {
        **_GEMMA,
        "vocab_size": size(262144),
        "hidden_size": size(2304),
        "intermediate_size": size(9216),
        "num_hidden_layers": size(30),
        "num_attention_heads": size(8),
        "num_key_value_heads": size(4),
        "global_head_dim": size(512),
        "num_global_key_value_heads": size(None),
        "attention_k_eq_v": flag(False),
        "rope_parameters": Field("ropes", None),
        "sliding_window": size(512),
        "layer_types": TYPES,
        "hidden_size_per_layer_input": Field("none", 256),
        "num_kv_shared_layers": Field("none", 0),
        "enable_moe_block": Field("false", False),
        "moe_intermediate_size": Field("unread", None),
        "num_experts": Field("unread", None),
        "top_k_experts": Field("unread", None),
        "vocab_size_per_layer_input": Field("unread", None),
        "use_double_wide_mlp": Field("false", False),
    },
    (
        decoder(
            {
                "full_attention": (_GLOBAL,),
                "tied_attention": (_TIED,),
                "sliding_attention": (_LOCAL,),
                "mlp": (_MLP,),
            },
            (_gemma4_kinds, *always("mlp")),
            norms=4,
        ),
    ),
)

FAMILIES = {"gemma": GEMMA, "gemma2": GEMMA2, "gemma3_text": GEMMA3_TEXT, "gemma4_text": GEMMA4_TEXT}
