"""Gemma: wide heads, norms before and after, windows between layers that see everything."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.llama import EVERYWHERE, TYPES, pattern
from attnmath.models.schema import (
    BIAS,
    EMBEDDING,
    GELUS,
    HEADS,
    MLP,
    RMS,
    ROPE,
    SHAPE,
    Block,
    Config,
    Family,
    Field,
    Rule,
    Switch,
    Value,
    act,
    always,
    attention,
    both,
    decoder,
    experts,
    flag,
    gated,
    size,
    sliding_or_full,
    value,
    windowed,
)

_GEMMA = {
    **{k: f for k, f in SHAPE.items() if k != "hidden_act"},
    "num_key_value_heads": size(16),
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


def _turning(kind: str, width: Value) -> Rule:
    def rope(c: Config) -> str:
        share = _share(c, kind)
        return "rope" if share == 1 else f"rope:dims={int(value(width, c) * share)}"

    return rope


def _own(c: Config) -> Config:
    """What the layers that see everything have of their own: as a saved config says layer by layer (null, or nothing at
    all: no difference), or else as two fields say.
    """
    if c["per_layer_config"] is not False:
        return next(iter((c["per_layer_config"] or {}).values()), {})
    heads = c["num_global_key_value_heads"] if c["attention_k_eq_v"] else None
    return {"head_dim": c["global_head_dim"], **({"num_key_value_heads": heads} if heads else {})}


def _global_dim(c: Config) -> int:
    return int(_own(c).get("head_dim", c["head_dim"]))


def _global_heads(c: Config) -> int:
    return int(_own(c).get("num_key_value_heads", c["num_key_value_heads"]))


def _layered(c: Config) -> str:
    """What is wrong with a per_layer_config: it may say how the layers that see everything differ, all of them alike."""
    own = c["per_layer_config"] or {}
    full = [i for i, kind in enumerate(_seeing(c)) if kind == "full_attention"]
    places = sorted(int(k) for k in own if str(k).isdigit())
    alike = len({repr(sorted(x.items())) if isinstance(x, dict) else "" for x in own.values()}) <= 1
    known = all(isinstance(x, dict) and set(x) <= set(_PER_LAYER_SIZES) for x in own.values())
    known = known and all(type(n) is int and n > 0 for x in own.values() for n in x.values())
    if own and not (alike and known and places == full and len(places) == len(own)):
        return (
            "per_layer_config: widths and heads of the layers that see everything are understood, alike in all of them"
        )
    return ""


def _shared(c: Config) -> str:
    """What is wrong with layers that reuse a cache: a layer of each kind before them has to make it."""
    n = c["num_kv_shared_layers"]
    kinds = _seeing(c)
    if not n or set(kinds[: max(len(kinds) - n, 0)]) == set(kinds):
        return ""
    return "num_kv_shared_layers: a layer that shares needs one of its kind before it that does not"


_PER_LAYER_SIZES = ("head_dim", "num_key_value_heads")
_V_NORM = ("norm:on=v,weight=none", True)
_SHARED: tuple[tuple[str | Rule, Switch], ...] = (("norm:on=Q", True),)


def _gemma4(
    kind: str, width: Rule | str, norms: tuple[tuple[str | Rule, Switch], ...], *more: tuple[str, bool]
) -> Block:
    return attention(*more[:1], *norms, (_turning(kind, width), True), *more[1:])


_OWN = (("norm", True), _V_NORM)
_GLOBAL_SIZES = {**HEADS, "head-dim": _global_dim, "kv-heads": _global_heads}
_LOCAL = windowed(_gemma4("sliding_attention", "head_dim", _OWN))
_GLOBAL = replace(_gemma4("full_attention", _global_dim, _OWN), sizes=_GLOBAL_SIZES)
_TIED = replace(_gemma4("full_attention", _global_dim, _OWN, ("shared-projection", True)), sizes=_GLOBAL_SIZES)
_REUSED = (("shared-kv", True),)


def _reusing(block: Block) -> Block:
    """The same layer with another's keys and values: it has queries of its own only."""
    kept = tuple(u for u in block.uses if u[0] not in ("norm", "norm:on=v,weight=none", "shared-projection"))
    turned = tuple(
        (lambda c, f=f: f(c).replace("rope:", "rope:on=Q,") if ":" in f(c) else "rope:on=Q", s) for f, s in kept
    )
    return replace(block, uses=(*_SHARED, *turned, *_REUSED))


def _seeing(c: Config) -> list[str]:
    kinds = pattern(6, 5)(c)
    return [*kinds[:-1], "full_attention"]  # the last layer always sees everything


def _gemma4_kinds(c: Config) -> list[str]:
    first = c["num_hidden_layers"] - c["num_kv_shared_layers"]
    tied = {"full_attention": "tied_attention"} if c["attention_k_eq_v"] else {}
    return [tied.get(k, k) if i < first else f"{k}_reused" for i, k in enumerate(_seeing(c))]


def _gemma4_mlp(c: Config) -> list[str]:
    first = c["num_hidden_layers"] - (c["num_kv_shared_layers"] if c["use_double_wide_mlp"] else 0)
    return ["mlp" if i < first else "wide_mlp" for i in range(c["num_hidden_layers"])]


def _all_layers(c: Config) -> int:
    return int(c["num_hidden_layers"] * c["hidden_size_per_layer_input"])


_PER_LAYER = "hidden_size_per_layer_input"
PER_LAYER = (
    Block("connections", "per-layer-input", {"d-model": "hidden_size", "width": _PER_LAYER}, when=_PER_LAYER),
    replace(RMS, when=_PER_LAYER),
)
PER_LAYER_STEM = (
    Block("embedding", "embedding", {"d-model": _all_layers, "vocab": "vocab_size_per_layer_input"}, when=_PER_LAYER),
    Block("connections", "linear", {"d-model": "hidden_size", "out": _all_layers}, when=_PER_LAYER),
    Block("norm", "rms-norm", {"d-model": _PER_LAYER}, when=_PER_LAYER),
)
_MOE: Switch = "enable_moe_block"
_BESIDE = (
    *PER_LAYER,
    replace(
        experts("experts-gemma", expert="num_experts", active="top_k_experts", ffn="moe_intermediate_size"), when=_MOE
    ),
    *(replace(RMS, when=_MOE),) * 3,
)
_WIDE = {**MLP.sizes, "ffn": lambda c: 2 * c["intermediate_size"]}
GEMMA4_TEXT = Family(
    {
        **_GEMMA,
        "vocab_size": size(262144),
        "hidden_size": size(2304),
        "intermediate_size": size(9216),
        "num_hidden_layers": size(30),
        "num_attention_heads": size(8),
        "num_key_value_heads": size(4),
        "attention_bias": Field("false", False),
        "global_head_dim": size(512),
        "num_global_key_value_heads": size(None),
        "per_layer_config": Field("layered", False),
        "attention_k_eq_v": flag(False),
        "rope_parameters": Field("ropes", None),
        "sliding_window": size(512),
        "layer_types": TYPES,
        _PER_LAYER: Field("size0", 256),
        "vocab_size_per_layer_input": size(262144),
        "num_kv_shared_layers": Field("size0", 0),
        "use_double_wide_mlp": flag(False),
        "enable_moe_block": flag(False),
        "moe_intermediate_size": size(None),
        "num_experts": size(None),
        "top_k_experts": size(None),
    },
    (
        decoder(
            {
                "full_attention": (_GLOBAL,),
                "tied_attention": (_TIED,),
                "sliding_attention": (_LOCAL,),
                "full_attention_reused": (_reusing(_GLOBAL),),
                "sliding_attention_reused": (_reusing(_LOCAL),),
                "mlp": (_MLP, *_BESIDE),
                "wide_mlp": (replace(_MLP, sizes=_WIDE), *_BESIDE),
            },
            (_gemma4_kinds, _gemma4_mlp),
            norms=4,
            before=(EMBEDDING, *PER_LAYER_STEM),
        ),
    ),
    checks=(
        _layered,
        lambda c: (
            "enable_moe_block: num_experts, top_k_experts and moe_intermediate_size say how many and how wide"
            if c["enable_moe_block"] and not (c["num_experts"] and c["top_k_experts"] and c["moe_intermediate_size"])
            else ""
        ),
        _shared,
    ),
)

FAMILIES = {"gemma": GEMMA, "gemma2": GEMMA2, "gemma3_text": GEMMA3_TEXT, "gemma4_text": GEMMA4_TEXT}
