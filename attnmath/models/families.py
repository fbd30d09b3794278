"""How a family's `config.json` becomes attention layers: one row per family.

The rules are those of the families' modelling code in transformers 5.23.0. A field of the config is either in its
family's row (it shapes the attention), in HARMLESS (it does not), or it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError

REQUIRED = "required"
Config = Mapping[str, Any]


class Field(Struct, frozen=True):
    """A field that shapes the attention: `size` (whole, at least 1; `size0`: at least 0), `number` (more than 0), `flag`,
    `share` (0 < x <= 1), `types`, `rope` (`ropes`: one for each kind of layer), `unread` (the family's code never reads
    it); or `true` or `false`, for one that the family's code never reads and that must not say otherwise.

    `default` is what the family's class takes where the field is absent; null is None wherever it has a default.
    """

    kind: str
    default: Any = REQUIRED


class Family(Struct, frozen=True):
    """`sizes`: option <- field, or a function of the config where a field has a default of its own; `uses`: modifiers, each
    with the field that switches it on, or "" for always; `windows`: how the sliding window is spread over the layers.
    """

    variant: str
    fields: Mapping[str, Field]
    sizes: Mapping[str, str | Callable[[Config], Any]]
    uses: tuple[tuple[str | Callable[[Config], str], str | Callable[[Config], Any]], ...]
    windows: Callable[[Config], list[int | None]]


def _head_dim(c: Config) -> Any:
    from attnmath.language.arith import exact_div

    return c["head_dim"] or exact_div(c["hidden_size"], c["num_attention_heads"])


def rotary_share(c: Config) -> float:
    """Which share of a head's dimensions turns; the field may stand in any of three places.

    >>> rotary_share({"partial_rotary_factor": 0.5, "rope_parameters": None, "rope_scaling": None})
    0.5
    """
    tables = [c["rope_parameters"] or {}, c["rope_scaling"] or {}]
    found = [
        x for x in (c["partial_rotary_factor"], *(t.get("partial_rotary_factor") for t in tables)) if x is not None
    ]
    return float(found[0]) if found else 1.0


def _rope(c: Config) -> str:
    """Rotary over all dimensions of a head, or over the stated share of them."""
    share = rotary_share(c)
    return "rope" if share == 1 else f"rope:dims={int(_head_dim(c) * share)}"


def _no_window(c: Config) -> list[int | None]:
    return [None] * c["num_hidden_layers"]


def _window_everywhere(c: Config) -> list[int | None]:
    return [c["sliding_window"]] * c["num_hidden_layers"]


def _window_by_layer(c: Config) -> list[int | None]:
    """Qwen: none unless `use_sliding_window`; then the layers in `layer_types`, else those from `max_window_layers` on."""
    w = c["sliding_window"] if c["use_sliding_window"] else None
    if c["layer_types"]:
        return [w if kind == "sliding_attention" else None for kind in c["layer_types"]]
    return [w if i >= c["max_window_layers"] else None for i in range(c["num_hidden_layers"])]


def _window_by_type(c: Config) -> list[int | None]:
    """Qwen's mixtures of experts: the layers in `layer_types`; without it, versions of the code differ."""
    if c["use_sliding_window"] and c["sliding_window"] and not c["layer_types"]:
        raise InputError(
            "use_sliding_window without layer_types: which layers slide is not stated, and versions of the code differ"
        )
    return _window_by_layer({**c, "max_window_layers": 0})


def _pattern(period: int, full: int) -> Callable[[Config], list[int | None]]:
    """Sliding layers but for one of every `period`, the one at place `full`; or as `layer_types` says."""

    def windows(c: Config) -> list[int | None]:
        kinds = c["layer_types"] or [
            "full_attention" if i % period == full else "sliding_attention" for i in range(c["num_hidden_layers"])
        ]
        return [c["sliding_window"] if kind == "sliding_attention" else None for kind in kinds]

    return windows


def _scale(c: Config) -> str:
    return f"scale:width={c['query_pre_attn_scalar']:g}"


_SHAPE = {
    "hidden_size": Field("size"),
    "num_hidden_layers": Field("size"),
    "num_attention_heads": Field("size"),
    "num_key_value_heads": Field("size"),
    "head_dim": Field("size", None),
    "partial_rotary_factor": Field("share", None),
    "rope_parameters": Field("rope", None),
    "rope_scaling": Field("rope", None),
}
_WINDOWED = {
    "sliding_window": Field("size", 4096),
    "use_sliding_window": Field("flag", False),
    "max_window_layers": Field("size0", 28),
    "layer_types": Field("types", None),
}
_HEADS: dict[str, str | Callable[[Config], Any]] = {
    "heads": "num_attention_heads",
    "kv-heads": "num_key_value_heads",
    "d-model": "hidden_size",
    "head-dim": _head_dim,
}
_BIAS = ("bias:on=Q+k+v+Y", "attention_bias")

_LLAMA = Family(
    "gqa",
    {**_SHAPE, "num_key_value_heads": Field("size", None), "attention_bias": Field("flag", False)},
    {**_HEADS, "kv-heads": lambda c: c["num_key_value_heads"] or c["num_attention_heads"]},
    (_BIAS, (_rope, "")),
    _no_window,
)
_MISTRAL = Family("gqa", {**_SHAPE, "sliding_window": Field("size", 4096)}, _HEADS, ((_rope, ""),), _window_everywhere)
_MIXTRAL = replace(_MISTRAL, fields={**_SHAPE, "sliding_window": Field("size", None)})
_QWEN2 = Family(
    "gqa",
    {**_SHAPE, **_WINDOWED, "attention_bias": Field("true", None)},
    _HEADS,
    (("bias:on=Q+k+v", ""), (_rope, "")),
    _window_by_layer,
)
_QWEN3 = Family(
    "gqa",
    {
        **_SHAPE,
        **_WINDOWED,
        "attention_bias": Field("flag", False),
        "qkv_bias": Field("false", None),
        "use_qk_norm": Field("true", None),
    },
    _HEADS,
    (_BIAS, ("norm", ""), (_rope, "")),
    _window_by_layer,
)
_DEEPSEEK = Family(
    "mla",
    {
        "hidden_size": Field("size"),
        "num_hidden_layers": Field("size"),
        "num_attention_heads": Field("size"),
        "num_key_value_heads": Field("size", None),  # no key/value heads here: one latent
        "q_lora_rank": Field("size", 1536),
        "kv_lora_rank": Field("size"),
        "qk_nope_head_dim": Field("size"),
        "qk_rope_head_dim": Field("size"),
        "v_head_dim": Field("size"),
        "attention_bias": Field("flag", False),
        "rope_scaling": Field("rope", None),
        "rope_parameters": Field("rope", None),
    },
    {
        "heads": "num_attention_heads",
        "d-model": "hidden_size",
        "head-dim": "qk_nope_head_dim",
        "v-head-dim": "v_head_dim",
        "rope-dim": "qk_rope_head_dim",
        "kv-rank": "kv_lora_rank",
        "q-rank": "q_lora_rank",
    },
    (
        ("direct-queries", lambda c: c["q_lora_rank"] is None),
        (lambda c: "bias:on=" + ("cQ+" if c["q_lora_rank"] else "") + "cKV+kR+Y", "attention_bias"),
        ("rope:layout=interleaved", ""),
    ),
    _no_window,
)

_GEMMA2 = Family(
    "gqa",
    {
        **_SHAPE,
        "head_dim": Field("size", 256),
        "attention_bias": Field("flag", False),
        "query_pre_attn_scalar": Field("number", 256),
        "attn_logit_softcapping": Field("number", 50.0),
        "sliding_window": Field("size", 4096),
        "layer_types": Field("types", None),
    },
    _HEADS,
    (
        _BIAS,
        (_rope, ""),
        (_scale, ""),
        (lambda c: f"softcap:cap={c['attn_logit_softcapping']:g}", "attn_logit_softcapping"),
    ),
    _pattern(2, 1),
)
_GEMMA3 = replace(  # local and global layers differ in their rope's base only, which costs nothing
    _GEMMA2,
    fields={
        **{k: f for k, f in _GEMMA2.fields.items() if k != "attn_logit_softcapping"},
        "rope_parameters": Field("ropes", None),
        "attn_logit_softcapping": Field("unread", None),
    },
    uses=(_BIAS, ("norm:weight=1+w", ""), ("rope", ""), (_scale, "")),
    windows=_pattern(6, 5),
)
_GPT_OSS = Family(
    "gqa",
    {
        **_SHAPE,
        "head_dim": Field("size", 64),
        "attention_bias": Field("true", True),
        "sliding_window": Field("size", 128),
        "layer_types": Field("types", None),
    },
    _HEADS,
    (("bias:on=Q+k+v+Y", ""), (_rope, ""), ("sink", "")),
    _pattern(2, 1),
)
_OLMO2 = replace(_LLAMA, uses=(_BIAS, ("norm:over=all", ""), (_rope, "")))

FAMILIES: dict[str, Family] = {  # by model_type
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "mixtral": _MIXTRAL,
    "qwen2": _QWEN2,
    "qwen2_moe": replace(_QWEN2, windows=_window_by_type),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(_QWEN3, windows=_window_by_type),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gpt_oss": _GPT_OSS,
    "olmo2": _OLMO2,
}

ROPE_KEYS = frozenset(  # what a rotary table may hold: the share of dimensions, and what only moves the frequencies
    """
    rope_type type factor rope_theta partial_rotary_factor low_freq_factor high_freq_factor
    original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim attention_factor short_factor long_factor
    truncate
    """.split()
)

LAYER_TYPES = ("full_attention", "sliding_attention")

HARMLESS = frozenset(  # fields that do not change what the attention layers compute, cache or cost
    [
        "architectures",
        "model_type",
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "auto_map",
        "torch_dtype",
        "dtype",
        "is_encoder_decoder",
        "is_decoder",
        "use_cache",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "torchscript",
        "tie_word_embeddings",
        "tie_encoder_decoder",
        "pruned_heads",
        "chunk_size_feed_forward",
        "use_bfloat16",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "id2label",
        "label2id",
        "num_labels",
        "tokenizer_class",
        "prefix",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "attn_implementation",
        "vocab_size",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "max_position_embeddings",
        "max_length",
        "max_sequence_length",
        "model_max_length",
        "initializer_range",
        "attention_dropout",
        "hidden_dropout",
        "dropout",
        "resid_pdrop",
        "embd_pdrop",
        "output_router_logits",
        "router_aux_loss_coef",
        "aux_loss_alpha",
        "seq_aux",
        "router_jitter_noise",
        "ep_size",
        "pretraining_tp",
        "rope_theta",
        "rope_interleave",
        "original_max_position_embeddings",
        "rope_local_base_freq",
        "use_mrope",
        "final_logit_softcapping",
        "cache_implementation",
        "sliding_window_size",
        "use_bidirectional_attention",
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "initial_context_length",
        "experts_per_token",
        "swiglu_limit",
        "hidden_act",
        "hidden_activation",
        "intermediate_size",
        "mlp_bias",
        "rms_norm_eps",
        "norm_eps",
        "layer_norm_eps",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
        "first_k_dense_replace",
        "moe_layer_freq",
        "n_group",
        "topk_group",
        "topk_method",
        "scoring_func",
        "routed_scaling_factor",
        "moe_router_dtype",
        "num_nextn_predict_layers",
        "quantization_config",
    ]
)
