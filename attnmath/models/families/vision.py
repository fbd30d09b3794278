"""Models that see: a tower for pictures beside a language model, each a family of its own."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.classic import MLP_BIASED
from attnmath.models.schema import (
    BIASED,
    GELUS,
    UNCOUNTED,
    WIDE,
    Block,
    Config,
    Family,
    Field,
    Stack,
    Value,
    act,
    always,
    flag,
    gated,
    plain,
    size,
)


def _seen(*blocks: Block) -> tuple[Block, ...]:
    return tuple(replace(b, part="vision", over=UNCOUNTED) for b in blocks)


_NORM = Block("vision", "layer-norm", WIDE, BIASED)
_RMS = Block("vision", "rms-norm", WIDE)


def _linear(wide: Value, out: Value, *, biased: bool = True, page: str = "linear") -> Block:
    return Block("vision", page, {"d-model": wide, "out": out}, BIASED if biased else ())


def _table(rows: Value) -> Block:
    return Block("vision", "embedding", {**WIDE, "vocab": rows})


def _attention(heads: str, *uses: tuple[str, bool]) -> Block:
    sizes: dict[str, Value] = {
        "heads": heads,
        "d-model": "hidden_size",
        "head-dim": lambda c: c["hidden_size"] // c[heads],
    }
    return Block("vision", "mha", sizes, uses, mask="full")


_BIAS = ("bias:on=Q+k+v+Y", True)


def _patch(c: Config) -> int:
    return int(c["in_channels"] * c["temporal_patch_size"] * c["patch_size"] ** 2)


def _merged(c: Config) -> int:
    return int(c["hidden_size"] * c["spatial_merge_size"] ** 2)


def _embedded(c: Config) -> int:
    return int(c["embed_dim"] * c["spatial_merge_size"] ** 2)


def _merger(norm: Value, times: Value = 1) -> tuple[Block, ...]:
    blocks = (
        Block("vision", "layer-norm", {"d-model": norm}, BIASED),
        _linear(_merged, _merged),
        _linear(_merged, "out_hidden_size"),
    )
    return tuple(replace(b, times=times) for b in blocks)


_QWEN = {
    "depth": size(27),
    "hidden_size": size(1152),
    "intermediate_size": size(4304),
    "num_heads": size(16),
    "in_channels": size(3),
    "patch_size": size(16),
    "spatial_merge_size": size(2),
    "temporal_patch_size": size(2),
    "out_hidden_size": size(3584),
    "num_position_embeddings": size(2304),
    "hidden_act": act("gelu_pytorch_tanh", *GELUS),
    "deepstack_visual_indexes": Field("places", ()),
}
_LAYERS = always("attention", "mlp", "norms", layers="depth")
_ROWS = {
    "attention": _seen(_attention("num_heads", _BIAS)),
    "mlp": _seen(Block("vision", plain(), {**WIDE, "ffn": "intermediate_size"}, MLP_BIASED)),
    "norms": _seen(_NORM, _NORM),
}
QWEN_TOWER = Family(
    _QWEN,
    (
        Stack(
            _ROWS,
            _LAYERS,
            _seen(_linear(_patch, "hidden_size"), _table("num_position_embeddings")),
            _seen(*_merger("hidden_size"), *_merger(_merged, lambda c: len(c["deepstack_visual_indexes"] or ()))),
        ),
    ),
)
QWEN3_VL_TOWER = replace(QWEN_TOWER, fields={**_QWEN, "deepstack_visual_indexes": Field("places", (8, 16, 24))})
QWEN3_5_TOWER = replace(QWEN_TOWER, fields={**_QWEN, "deepstack_visual_indexes": Field("empty", ())})

QWEN2_VL_TOWER = Family(
    {
        **{
            k: f
            for k, f in _QWEN.items()
            if k not in ("intermediate_size", "out_hidden_size", "num_position_embeddings")
        },
        "depth": size(32),
        "embed_dim": size(1280),
        "hidden_size": size(3584),
        "mlp_ratio": size(4),
        "patch_size": size(14),
        "hidden_act": act("quick_gelu", *GELUS),
        "deepstack_visual_indexes": Field("unread", None),
        "in_chans": Field("unread", None),
        "spatial_patch_size": Field("unread", None),
    },
    (
        Stack(
            {
                "attention": _seen(
                    Block(
                        "vision",
                        "mha",
                        {
                            "heads": "num_heads",
                            "d-model": "embed_dim",
                            "head-dim": lambda c: c["embed_dim"] // c["num_heads"],
                        },
                        (_BIAS,),
                        mask="full",
                    )
                ),
                "mlp": _seen(
                    Block(
                        "vision",
                        "mlp",
                        {"d-model": "embed_dim", "ffn": lambda c: c["embed_dim"] * c["mlp_ratio"]},
                        MLP_BIASED,
                    )
                ),
                "norms": _seen(*(Block("vision", "layer-norm", {"d-model": "embed_dim"}, BIASED),) * 2),
            },
            _LAYERS,
            _seen(_linear(_patch, "embed_dim", biased=False)),
            _seen(
                Block("vision", "layer-norm", {"d-model": "embed_dim"}, BIASED),
                _linear(_embedded, _embedded),
                _linear(_embedded, "hidden_size"),
            ),
        ),
    ),
)
QWEN2_5_VL_TOWER = Family(
    {
        **{k: f for k, f in _QWEN.items() if k != "num_position_embeddings"},
        "depth": size(32),
        "hidden_size": size(3584),
        "intermediate_size": size(3420),
        "patch_size": size(14),
        "hidden_act": act("silu", "silu"),
        "deepstack_visual_indexes": Field("unread", None),
        "tokens_per_second": Field("unread", None),
        "window_size": Field("unread", 112),
        "fullatt_block_indexes": Field("unread", None),
        "in_chans": Field("unread", None),
        "spatial_patch_size": Field("unread", None),
    },
    (
        Stack(
            {
                **_ROWS,
                "mlp": _seen(
                    Block("vision", gated(), {**WIDE, "ffn": "intermediate_size"}, (("bias:on=G+U+Y", True),))
                ),
                "norms": _seen(_RMS, _RMS),
            },
            _LAYERS,
            _seen(_linear(_patch, "hidden_size", biased=False)),
            _seen(_RMS, _linear(_merged, _merged), _linear(_merged, "out_hidden_size")),
        ),
    ),
)

SIGLIP = Family(
    {
        "hidden_size": size(768),
        "intermediate_size": size(3072),
        "num_hidden_layers": size(12),
        "num_attention_heads": size(12),
        "num_channels": size(3),
        "image_size": size(224),
        "patch_size": size(16),
        "hidden_act": act("gelu_pytorch_tanh", *GELUS),
        "vision_use_head": Field("false", True),
    },
    (
        Stack(
            {**_ROWS, "attention": _seen(_attention("num_attention_heads", _BIAS))},
            always("attention", "mlp", "norms"),
            _seen(
                _linear(lambda c: c["num_channels"] * c["patch_size"] ** 2, "hidden_size"),
                _table(lambda c: (c["image_size"] // c["patch_size"]) ** 2),
            ),
            _seen(_NORM),
        ),
    ),
)
_HEAD_NORM = ("norm", True)
GEMMA4_TOWER = Family(
    {
        "hidden_size": size(768),
        "intermediate_size": size(3072),
        "num_hidden_layers": size(16),
        "num_attention_heads": size(12),
        "num_key_value_heads": size(12),
        "head_dim": size(64),
        "global_head_dim": Field("unread", None),
        "patch_size": size(16),
        "position_embedding_size": size(10240),
        "pooling_kernel_size": Field("unread", 3),
        "hidden_activation": act("gelu_pytorch_tanh", *GELUS),
        "attention_bias": Field("false", False),
        "standardize": flag(False),
        "use_clipped_linears": Field("unread", False),
        "rope_parameters": Field("unread", None),
        "default_output_length": Field("unread", None),
    },
    (
        Stack(
            {
                "attention": _seen(
                    Block(
                        "vision",
                        "gqa",
                        {
                            "heads": "num_attention_heads",
                            "kv-heads": "num_key_value_heads",
                            "head-dim": "head_dim",
                            "d-model": "hidden_size",
                        },
                        (_HEAD_NORM,),
                        mask="full",
                    )
                ),
                "mlp": _seen(Block("vision", gated("hidden_activation"), {**WIDE, "ffn": "intermediate_size"})),
                "norms": _seen(_RMS, _RMS, _RMS, _RMS),
            },
            always("attention", "mlp", "norms"),
            _seen(
                _linear(lambda c: 3 * c["patch_size"] ** 2, "hidden_size", biased=False),
                _table(lambda c: 2 * c["position_embedding_size"]),
            ),
        ),
    ),
)


LLAMA4_TOWER = Family(
    {
        "hidden_size": size(768),
        "intermediate_size": size(5632),
        "num_hidden_layers": size(34),
        "num_attention_heads": size(16),
        "num_channels": size(3),
        "image_size": size(448),
        "patch_size": size(14),
        "vision_output_dim": size(7680),
        "projector_input_dim": size(4096),
        "projector_output_dim": size(4096),
        "pixel_shuffle_ratio": Field("unread", 0.5),
        "hidden_act": act("gelu", *GELUS),
        "multi_modal_projector_bias": Field("false", False),
        "vision_feature_select_strategy": Field("unread", "default"),
        "vision_feature_layer": Field("unread", None),
        "projector_dropout": Field("unread", 0),
        "rope_parameters": Field("unread", None),
    },
    (
        Stack(
            {**_ROWS, "attention": _seen(_attention("num_attention_heads", _BIAS))},
            always("attention", "mlp", "norms"),
            _seen(
                _linear(lambda c: c["num_channels"] * c["patch_size"] ** 2, "hidden_size", biased=False),
                _table(lambda c: (c["image_size"] // c["patch_size"]) ** 2 + 2),  # a class row, and its position
                _NORM,
            ),
            _seen(
                _NORM,
                _linear("intermediate_size", "projector_input_dim", biased=False),
                _linear("projector_output_dim", "projector_output_dim", biased=False),
            ),
        ),
    ),
)


_CONFIG = Field("config", None)
_UNTIED = flag(False)
GENERATES = ("ForConditionalGeneration",)


def _both(vision: str, text: str, *bridge: Block, tie: Field = _UNTIED, **fields: Field) -> Family:
    seen = tuple(replace(b, when="vision_config") for b in _seen(*bridge))
    stack = (Stack({}, (lambda c: [],), (), seen),) if bridge else ()
    return Family(
        {"text_config": _CONFIG, "vision_config": _CONFIG, "tie_word_embeddings": tie, **fields},
        stack,
        inside={"vision_config": vision, "text_config": text},
        classes=GENERATES,
    )


def _width(name: str):  # type: ignore[no-untyped-def]
    return lambda c: c[name]["hidden_size"]


GEMMA3 = _both(
    "siglip_vision_model",
    "gemma3_text",
    _linear(_width("vision_config"), _width("text_config"), biased=False),
    Block("vision", "rms-norm", {"d-model": _width("vision_config")}),
    tie=flag(True),
    mm_tokens_per_image=Field("unread", 256),
)
GEMMA4 = _both(
    "gemma4_vision",
    "gemma4_text",
    _linear(_width("vision_config"), _width("text_config"), biased=False),
    tie=flag(True),
    audio_config=Field("none", None),
    vision_soft_tokens_per_image=Field("unread", 280),
)

FAMILIES = {
    "qwen3_vl_vision": QWEN3_VL_TOWER,
    "qwen3_vl_moe_vision": QWEN3_VL_TOWER,
    "qwen3_5_vision": QWEN3_5_TOWER,
    "qwen3_5_moe_vision": QWEN3_5_TOWER,
    "siglip_vision_model": SIGLIP,
    "gemma4_vision": GEMMA4_TOWER,
    "qwen2_vl_vision": QWEN2_VL_TOWER,
    "qwen2_5_vl_vision": QWEN2_5_VL_TOWER,
    "qwen2_vl": replace(_both("qwen2_vl_vision", "qwen2_vl_text"), flat=True),
    "qwen2_5_vl": replace(_both("qwen2_5_vl_vision", "qwen2_5_vl_text"), flat=True),
    "qwen3_vl": _both("qwen3_vl_vision", "qwen3_vl_text"),
    "qwen3_vl_moe": _both("qwen3_vl_moe_vision", "qwen3_vl_moe_text"),
    "qwen3_5": _both("qwen3_5_vision", "qwen3_5_text"),
    "qwen3_5_moe": _both("qwen3_5_moe_vision", "qwen3_5_moe_text"),
    "gemma3": GEMMA3,
    "gemma4": GEMMA4,
    "llama4_vision_model": LLAMA4_TOWER,
    "llama4": _both(
        "llama4_vision_model",
        "llama4_text",
        _linear(lambda c: c["vision_config"]["vision_output_dim"], _width("text_config"), biased=False),
        tie=Field("unread", False),  # its language model is a whole class, and its config decides
    ),
}
