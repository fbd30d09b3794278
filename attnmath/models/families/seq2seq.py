"""Encoders with decoders: T5, BART, Whisper."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.classic import MLP_BIASED, positions
from attnmath.models.schema import (
    BIASED,
    GELUS,
    SOURCE,
    UNCOUNTED,
    Block,
    Config,
    Family,
    Field,
    Rule,
    Stack,
    Value,
    act,
    agree,
    always,
    flag,
    headed,
    plain,
    size,
)

WIDE: dict[str, Value] = {"d-model": "d_model"}
RMS = Block("norm", "rms-norm", WIDE)
LAYER_NORM = Block("norm", "layer-norm", WIDE, BIASED)
EMBEDDING = Block("embedding", "embedding", {**WIDE, "vocab": "vocab_size"})
HEAD = Block("head", "head", {**WIDE, "vocab": "vocab_size"}, when=headed, tied="tie_word_embeddings")


def _over(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    return tuple(replace(b, over=SOURCE) if b.over != UNCOUNTED else b for b in blocks)


def encoder(rows: dict[str, tuple[Block, ...]], kinds: tuple, **ends: tuple[Block, ...]) -> Stack:  # type: ignore[type-arg]
    """A stack over the source's tokens.

    >>> encoder({"norms": (RMS,)}, ()).rows["norms"][0].over
    'source'
    """
    return Stack({k: _over(v) for k, v in rows.items()}, kinds, **{k: _over(v) for k, v in ends.items()})


# -- T5: relative buckets, shared by all layers of a stack
_T5: dict[str, Value] = {**WIDE, "heads": "num_heads", "head-dim": "d_kv"}


def _buckets(side: str) -> Rule:
    return lambda c: (
        f"t5-bias:side={side},buckets={c['relative_attention_num_buckets']},far={c['relative_attention_max_distance']}"
    )


def _t5_attention(side: str, mask: str | None) -> tuple[Block, Block]:
    first = Block("attention", "mha", _T5, (("scale:value=1", True), (_buckets(side), True)), mask=mask)
    return first, replace(first, tied=True, shares=("WREL",))


def _first(layers: str) -> tuple[Rule, ...]:
    return (lambda c: ["first" if i == 0 else "attention" for i in range(c[layers])],)


_ACTS = {"relu": "mlp-relu", "gelu": "mlp", "gated-gelu": "gated-mlp-gelu", "gated-silu": "gated-mlp"}
_T5_MLP = Block("mlp", lambda c: _ACTS[c["feed_forward_proj"]], {**WIDE, "ffn": "d_ff"})
_T5_CROSS = Block("attention", "cross", {**_T5, "memory-dim": "d_model"}, (("scale:value=1", True),))
_ENCODER_BIAS, _DECODER_BIAS = _t5_attention("encoder", "full"), _t5_attention("decoder", None)


_T5_STACKS = (
    encoder(
        {"first": _ENCODER_BIAS[:1], "attention": _ENCODER_BIAS[1:], "mlp": (_T5_MLP, RMS, RMS)},
        (*_first("num_layers"), *always("mlp", layers="num_layers")),
        after=(RMS,),
    ),
    Stack(
        {"first": _DECODER_BIAS[:1], "attention": _DECODER_BIAS[1:], "mlp": (_T5_CROSS, _T5_MLP, RMS, RMS, RMS)},
        (*_first("num_decoder_layers"), *always("mlp", layers="num_decoder_layers")),
        (EMBEDDING,),
        (RMS, replace(HEAD, tied=True)),
    ),
)


T5 = Family(
    {
        "vocab_size": size(32128),
        "d_model": size(512),
        "d_kv": size(64),
        "d_ff": size(2048),
        "num_layers": size(6),
        "num_decoder_layers": size(None),
        "num_heads": size(8),
        "relative_attention_num_buckets": size(32),
        "relative_attention_max_distance": size(128),
        "feed_forward_proj": Field("text", "relu", tuple(_ACTS)),
        "dense_act_fn": Field("unread", None),
        "num_hidden_layers": size(None),
        "is_gated_act": Field("flag", None),
        "tie_word_embeddings": flag(True),
        "n_positions": Field("unread", None),
        "is_decoder": Field("false", False),
    },
    _T5_STACKS,
    classes=("ForConditionalGeneration", "Model"),
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
    },
    checks=(
        agree("num_hidden_layers", "num_layers"),
        agree("is_gated_act", "a gated feed_forward_proj", lambda c: c["feed_forward_proj"].startswith("gated")),
    ),
    notes=(
        (
            "tie_word_embeddings is false, but the class ties the head all the same; a checkpoint with a head of its own "
            "(T5 1.1, Flan-T5) holds vocab_size x d_model more numbers",
            lambda c: not c["tie_word_embeddings"],
        ),
    ),
    defaults={"num_decoder_layers": "num_layers"},
)

# -- BART and Whisper: learned or fixed positions, biases everywhere


def _heads(side: str) -> dict[str, Value]:
    return {
        **WIDE,
        "heads": f"{side}_attention_heads",
        "head-dim": lambda c: c["d_model"] // c[f"{side}_attention_heads"],
    }


def _mlp(side: str) -> Block:
    return Block("mlp", plain("activation_function"), {**WIDE, "ffn": f"{side}_ffn_dim"}, MLP_BIASED)


def _seq2seq(
    bias: str,
    encoder_ends: tuple[tuple[Block, ...], tuple[Block, ...]],
    decoder_ends: tuple[tuple[Block, ...], tuple[Block, ...]],
) -> tuple[Stack, Stack]:
    own = (bias, True)
    return (
        encoder(
            {
                "attention": (Block("attention", "mha", _heads("encoder"), (own,), mask="full"),),
                "mlp": (_mlp("encoder"), LAYER_NORM, LAYER_NORM),
            },
            always("attention", "mlp", layers="encoder_layers"),
            before=encoder_ends[0],
            after=encoder_ends[1],
        ),
        Stack(
            {
                "attention": (
                    Block("attention", "mha", _heads("decoder"), (own,)),
                    Block("attention", "cross", {**_heads("decoder"), "memory-dim": "d_model"}, (own,)),
                ),
                "mlp": (_mlp("decoder"), LAYER_NORM, LAYER_NORM, LAYER_NORM),
            },
            always("attention", "mlp", layers="decoder_layers"),
            *decoder_ends,
        ),
    )


_BOTH = {
    "vocab_size": size(50265),
    "d_model": size(1024),
    "encoder_layers": size(12),
    "encoder_ffn_dim": size(4096),
    "encoder_attention_heads": size(16),
    "decoder_layers": size(12),
    "decoder_ffn_dim": size(4096),
    "decoder_attention_heads": size(16),
    "activation_function": act("gelu", *GELUS, "relu"),
    "tie_word_embeddings": flag(True),
    "is_decoder": Field("false", False),
    "tie_encoder_decoder": Field("false", False),
    "extra_pos_embeddings": Field("unread", None),
}
_SAME = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}
_BART_POSITIONS = replace(
    positions("max_position_embeddings", 2), sizes={**WIDE, "vocab": lambda c: c["max_position_embeddings"] + 2}
)


def _untied(c: Config) -> bool:
    return not c["tie_word_embeddings"]


_SHARED = replace(EMBEDDING, when=_untied, over=UNCOUNTED)  # read by nothing, then


def _bart(
    *final: Block, positions_: tuple[Block, ...] = (_BART_POSITIONS,), normed: tuple[Block, ...] = (LAYER_NORM,)
) -> tuple[Stack, Stack]:
    return _seq2seq(
        "bias:on=Q+k+v+Y",
        ((replace(EMBEDDING, when=_untied), *positions_, *normed), final),
        ((EMBEDDING, _SHARED, *positions_, *normed), (*final, HEAD)),
    )


BART = Family(
    {**_BOTH, "max_position_embeddings": size(1024)},
    _bart(),
    classes=("ForConditionalGeneration", "Model"),
    aliases=_SAME,
)
MBART = replace(BART, stacks=_bart(LAYER_NORM))
PEGASUS = replace(
    BART,
    stacks=_bart(
        LAYER_NORM,
        positions_=(replace(_BART_POSITIONS, sizes={**WIDE, "vocab": "max_position_embeddings"}),),
        normed=(),
    ),
)


def _conv(width: Value) -> Block:
    """Three taps of a convolution over frames, as a projection of three frames."""
    return Block("audio", "linear", {"d-model": width, "out": "d_model"}, BIASED, over=UNCOUNTED)


WHISPER = Family(
    {
        **_BOTH,
        "vocab_size": size(51865),
        "d_model": size(384),
        "encoder_layers": size(4),
        "encoder_ffn_dim": size(1536),
        "encoder_attention_heads": size(6),
        "decoder_layers": size(4),
        "decoder_ffn_dim": size(1536),
        "decoder_attention_heads": size(6),
        "num_mel_bins": size(80),
        "max_source_positions": size(1500),
        "max_target_positions": size(448),
        "max_position_embeddings": Field("unread", None),
    },
    _seq2seq(
        "bias:on=Q+v+Y",
        (
            (
                _conv(lambda c: 3 * c["num_mel_bins"]),
                _conv(lambda c: 3 * c["d_model"]),
                replace(EMBEDDING, sizes={**WIDE, "vocab": "max_source_positions"}),
            ),
            (LAYER_NORM,),
        ),
        (
            (EMBEDDING, replace(EMBEDDING, sizes={**WIDE, "vocab": "max_target_positions"})),
            (LAYER_NORM, HEAD),
        ),
    ),
    classes=("ForConditionalGeneration", "Model"),
    aliases={**_SAME, "num_key_value_heads": "encoder_attention_heads"},
    source_tokens="max_source_positions",
)

MT5 = replace(
    T5,
    fields={
        **T5.fields,
        "vocab_size": size(250112),
        "d_ff": size(1024),
        "num_layers": size(8),
        "num_heads": size(6),
        "feed_forward_proj": Field("text", "gated-gelu", tuple(_ACTS)),
    },
)

FAMILIES = {"t5": T5, "mt5": MT5, "bart": BART, "mbart": MBART, "pegasus": PEGASUS, "whisper": WHISPER}
