"""Multi-head latent attention and what came after it: DeepSeek, Kimi, GLM."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from attnmath.models.schema import (
    HEAD,
    MLP,
    NEVER_TIED,
    RMS,
    SHAPE,
    WIDE,
    Block,
    Config,
    Family,
    Field,
    Value,
    act,
    agree,
    always,
    decoder,
    experts,
    flag,
    gated,
    size,
    sparse_from,
)

LATENT: dict[str, Value] = {
    "heads": "num_attention_heads",
    "d-model": "hidden_size",
    "head-dim": "qk_nope_head_dim",
    "v-head-dim": "v_head_dim",
    "rope-dim": "qk_rope_head_dim",
    "kv-rank": "kv_lora_rank",
    "q-rank": "q_lora_rank",
}
_INDEXED: dict[str, Value] = {
    **LATENT,
    "index-heads": "index_n_heads",
    "index-dim": "index_head_dim",
    "top-k": "index_topk",
}
_ROPE = ("rope:layout=interleaved", True)


def _direct(c: Config) -> bool:
    return c["q_lora_rank"] is None


def _bias(c: Config) -> str:
    return "bias:on=" + ("cQ+" if c["q_lora_rank"] else "") + "cKV+kR+Y"


_MLA = Block("attention", "mla", LATENT, (("direct-queries", _direct), (_bias, "attention_bias"), _ROPE))
_DSA = Block(
    "attention",
    "dsa",
    _INDEXED,
    (
        ("bias:on=cQ+cKV+kR+Y", "attention_bias"),
        _ROPE,
        (lambda c: f"rope:on=qI+kI,dims={c['qk_rope_head_dim']}", True),
    ),
)
ROUTED = experts(expert="n_routed_experts", active="num_experts_per_tok", ffn="moe_intermediate_size")


def _shared_width(c: Config) -> int:
    return int(c["moe_intermediate_size"] * (c["n_shared_experts"] or 0))


SHARED = Block("shared_experts", gated(), {**WIDE, "ffn": _shared_width}, when=lambda c: bool(c["n_shared_experts"]))
ROWS = {"dense": (MLP,), "sparse": (ROUTED, SHARED)}
FIELDS = {
    **{k: f for k, f in SHAPE.items() if k != "partial_rotary_factor"},
    "num_key_value_heads": Field("unread", None),  # no key/value heads here: one latent
    "head_dim": Field("unread", None),
    "qk_head_dim": Field("unread", None),
    "q_lora_rank": size(1536),
    "kv_lora_rank": size(),
    "qk_nope_head_dim": size(),
    "qk_rope_head_dim": size(),
    "v_head_dim": size(),
    "attention_bias": flag(False),
    "moe_intermediate_size": size(),
    "n_routed_experts": size(),
    "n_shared_experts": Field("size0", 1),
    "num_experts_per_tok": size(),
    "moe_layer_freq": Field("one", 1),  # DeepSeek's own code reads it, transformers does not
    "first_k_dense_replace": Field("size0", 0),
}
_LAYERS = (*always("attention"), sparse_from("first_k_dense_replace"))
_NEXT = ("attention", "sparse", "norms")
V2 = Family(
    {**FIELDS, "n_shared_experts": Field("size0", 2)},
    (decoder({"attention": (_MLA,), **ROWS}, _LAYERS),),
    checks=(
        lambda c: (
            f"hidden_size = {c['hidden_size']} is not divisible by num_attention_heads = {c['num_attention_heads']}"
            if c["hidden_size"] % c["num_attention_heads"]
            else ""
        ),
    ),
)
V3 = Family({**FIELDS, "first_k_dense_replace": Field("size0", 3)}, V2.stacks, mtp=_NEXT)
KIMI_K2 = replace(V3, classes=(*V3.classes, "DeepseekV3Model"))


def _mlp_types(c: Config) -> list[str]:
    types = c["mlp_layer_types"]
    return list(types) if types else sparse_from("first_k_dense_replace")(c)


_MLP_TYPES = Field("types", None, ("dense", "sparse"))
V32 = Family(
    {
        **FIELDS,
        "first_k_dense_replace": Field("size0", 3),
        "mlp_layer_types": _MLP_TYPES,
        "layer_types": Field("types", None, ("indexed_attention",)),
        "index_n_heads": size(64),
        "index_head_dim": size(128),
        "index_topk": size(2048),
        "mlp_bias": Field("false", False),
    },
    (decoder({"attention": (_DSA,), **ROWS}, (*always("attention"), _mlp_types)),),
    mtp=_NEXT,
)
GLM_DSA = Family(
    {
        **V32.fields,
        "q_lora_rank": size(2048),
        "qk_nope_head_dim": size(192),
        "v_head_dim": size(256),
        "index_n_heads": size(32),
        "indexer_types": Field("types", None, ("full",)),  # layers that share another's choice are not understood yet
        "indexer_rope_interleave": Field("unread", True),
        "index_topk_freq": Field("one", 1),
        "index_topk_pattern": Field("none", None),
        "index_skip_topk_offset": Field("unread", None),
    },
    V32.stacks,
    mtp=_NEXT,
)


def _lite_types(c: Config) -> list[str]:
    return _mlp_types({**c, "first_k_dense_replace": 1})


GLM4_LITE = Family(
    {
        **{k: f for k, f in FIELDS.items() if k != "head_dim"},
        "q_lora_rank": size(768),
        "qk_nope_head_dim": size(192),
        "v_head_dim": size(256),
        "first_k_dense_replace": Field("size0", None),
        "partial_rotary_factor": Field("unread", None),
        "mlp_layer_types": _MLP_TYPES,
    },
    (decoder({"attention": (_MLA,), **ROWS}, (*always("attention"), _lite_types)),),
    aliases={"head_dim": "qk_rope_head_dim"},
    mtp=_NEXT,
    checks=(agree("first_k_dense_replace", "the number of dense layers", lambda c: _lite_types(c).count("dense")),),
)

# DeepSeek-V4: windows over one shared head, compressed entries beside them, residual streams that mix
_RATIOS = {0: "window", 4: "csa", 128: "hca"}
_TYPES = {
    "sliding_attention": "window",
    "compressed_sparse_attention": "csa",
    "heavily_compressed_attention": "hca",
}


def _v4_kinds(c: Config) -> list[str]:
    n = c["num_hidden_layers"]
    if c["layer_types"]:
        return [_TYPES[x] for x in c["layer_types"]][:n]
    if c["compress_ratios"]:
        return [_RATIOS[x] for x in c["compress_ratios"][:n]]  # beyond the layers: multi-token prediction
    return ["hca"] * min(n, 2) + ["csa" if i % 2 else "hca" for i in range(max(n - 2, 0))]


_V4: dict[str, Value] = {
    "heads": "num_attention_heads",
    "d-model": "hidden_size",
    "head-dim": "head_dim",
    "q-rank": "q_lora_rank",
    "o-rank": "o_lora_rank",
    "o-groups": "o_groups",
    "window": "sliding_window",
}


def _turn(on: str, more: str = "") -> tuple[Any, bool]:
    return lambda c: f"rope:on={on},dims={c['qk_rope_head_dim']},part=last,layout=interleaved{more}", True


def _v4(page: str, *more: tuple[Any, bool], **sizes: Value) -> tuple[Block, ...]:
    named = {k.replace("_", "-"): v for k, v in sizes.items()}
    turns = (_turn("Q+kv"), *more, _turn("O", ",turn=back"))
    return (Block("attention", page, {**_V4, **named}, turns),)


_MIX = {**WIDE, "stream": "hc_mult"}
_CONNECTIONS = Block("connections", "hyper-connections", _MIX, times=2)
V4 = Family(
    {
        **{k: f for k, f in SHAPE.items() if k not in ("intermediate_size", "partial_rotary_factor")},
        "num_key_value_heads": Field("one", 1),
        "head_dim": size(512),
        "q_lora_rank": size(1024),
        "o_lora_rank": size(1024),
        "o_groups": size(8),
        "qk_rope_head_dim": size(64),
        "partial_rotary_factor": Field("unread", None),
        "sliding_window": size(128),
        "compress_ratios": Field("sizes", None, ("0", "4", "128")),
        "layer_types": Field("types", None, tuple(_TYPES)),
        "index_n_heads": size(64),
        "index_head_dim": size(128),
        "index_topk": size(512),
        "attention_bias": Field("false", False),
        "mlp_bias": Field("false", False),
        "moe_intermediate_size": size(2048),
        "n_routed_experts": size(256),
        "n_shared_experts": Field("one", 1),
        "num_experts_per_tok": size(6),
        "num_hash_layers": Field(
            "size0", 3
        ),  # they choose by the token's hash instead of its score: a table, no weights
        "hc_mult": size(4),
        "hidden_act": act("silu", "silu"),
    },
    (
        replace(
            decoder(
                {
                    "window": _v4("shared-window"),
                    "csa": _v4(
                        "csa",
                        _turn("e"),
                        _turn("eI"),
                        index_heads="index_n_heads",
                        index_dim="index_head_dim",
                        top_k="index_topk",
                        block_size=4,
                    ),
                    "hca": _v4("hca", _turn("e"), block_size=128),
                    "sparse": (ROUTED, SHARED, _CONNECTIONS),
                },
                (_v4_kinds, *always("sparse")),
            ),
            after=(Block("connections", "hyper-head", _MIX), RMS, HEAD),
        ),
    ),
    aliases={"intermediate_size": "moe_intermediate_size"},
)

# Kimi Linear: three layers of delta attention to one of latent attention without positions
_LINEAR = "linear_attn_config"


def _linear(key: str, field: str):  # type: ignore[no-untyped-def]
    return lambda c: (c[_LINEAR] or {}).get(key, c[field])


def _kimi_kinds(c: Config) -> list[str]:
    n, places = c["num_hidden_layers"], (c[_LINEAR] or {}).get("full_attn_layers")
    if c["layer_types"]:
        return list(c["layer_types"])
    full = [x - 1 for x in places] if places is not None else [i for i in range(1, n) if i % 4 == 0]
    return ["full_attention" if i in full else "linear_attention" for i in range(n)]


def _kimi_places(c: Config) -> str:
    linear = c[_LINEAR] or {}
    places = [linear[k] for k in ("full_attn_layers", "kda_layers") if k in linear]
    fits = not places or (
        len(places) == 2 and sorted(x for p in places for x in p) == list(range(1, c["num_hidden_layers"] + 1))
    )
    return "" if fits else f"{_LINEAR}: full_attn_layers and kda_layers name each layer once, from 1"


KIMI_LINEAR = Family(
    {
        **{k: f for k, f in FIELDS.items() if k not in ("n_routed_experts", "n_shared_experts", "num_experts_per_tok")},
        "q_lora_rank": size(None),
        "moe_intermediate_size": size(1024),
        "num_experts": size(256),
        "num_shared_experts": Field("size0", 1),
        "num_experts_per_token": size(8),
        "first_k_dense_replace": Field("size0", 1),
        "mlp_layer_types": _MLP_TYPES,
        "layer_types": Field("types", None, ("full_attention", "linear_attention")),
        _LINEAR: Field("linear", None),
        "linear_head_dim": size(128),
        "linear_num_heads": size(32),
        "linear_conv_kernel_dim": size(4),
        "mla_use_nope": Field("true", True),
    },
    (
        decoder(
            {
                "full_attention": (replace(_MLA, uses=_MLA.uses[:2]),),
                "linear_attention": (
                    Block(
                        "attention",
                        "kda",
                        {
                            "heads": _linear("num_heads", "linear_num_heads"),
                            "head-dim": _linear("head_dim", "linear_head_dim"),
                            "conv-width": _linear("short_conv_kernel_size", "linear_conv_kernel_dim"),
                            "d-model": "hidden_size",
                        },
                    ),
                ),
                "dense": (MLP,),
                "sparse": (
                    experts(expert="num_experts", active="num_experts_per_token", ffn="moe_intermediate_size"),
                    Block(
                        "shared_experts",
                        gated(),
                        {**WIDE, "ffn": lambda c: c["moe_intermediate_size"] * c["num_shared_experts"]},
                        when="num_shared_experts",
                    ),
                ),
            },
            (_kimi_kinds, _mlp_types),
            head=replace(HEAD, tied=False),
        ),
    ),
    aliases={
        "num_experts_per_tok": "num_experts_per_token",
        "num_local_experts": "num_experts",
        "n_shared_experts": "num_shared_experts",
    },
    checks=(_kimi_places,),
    notes=NEVER_TIED,
)

FAMILIES = {
    "deepseek_v2": V2,
    "deepseek_v3": V3,
    "kimi_k2": KIMI_K2,
    "deepseek_v32": V32,
    "deepseek_v4": V4,
    "glm4_moe_lite": GLM4_LITE,
    "glm_moe_dsa": GLM_DSA,
    "kimi_linear": KIMI_LINEAR,
}
