"""Before Llama: GPT, OPT, Falcon, BLOOM; encoders: BERT and its kin."""

from __future__ import annotations

from msgspec.structs import replace

from attnmath.models.families.llama import EVERYWHERE
from attnmath.models.schema import (
    BIASED,
    EMBEDDING,
    FFN,
    GELUS,
    HEAD,
    HEADS,
    LAYER_NORM,
    LAYER_NORM_PLAIN,
    ONCE,
    SHAPE,
    UNCOUNTED,
    WIDE,
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
    attention,
    decoder,
    flag,
    gated,
    head_dim,
    headed,
    plain,
    rope,
    rotary_share,
    size,
    unread,
)

ALL_BIASED = ("bias:on=Q+k+v+Y", True)
MLP_BIASED = (("bias:on=U+Y", True),)
MULTI = {k: v for k, v in HEADS.items() if k != "kv-heads"}


def positions(field: str, more: int = 0) -> Block:
    """Learned positions, a row each, and so many spare ones.

    >>> positions("n_positions", 2).sizes["vocab"]({"n_positions": 1024})
    1026
    """
    return replace(EMBEDDING, sizes={**WIDE, "vocab": lambda c: c[field] + more})


def _norms(c: Config) -> int:
    if not c["parallel_attn"]:
        return 2
    given = c["num_ln_in_parallel_attn"]
    return 2 if given == 2 or (given is None and c["new_decoder_architecture"]) else 1


def _falcon_kv(c: Config) -> int:
    heads = c["num_attention_heads"]
    return (c["num_kv_heads"] or heads) if c["new_decoder_architecture"] or not c["multi_query"] else 1


def _falcon_ffn(c: Config) -> int:
    return int(c["ffn_hidden_size"] or 4 * c["hidden_size"])


def _falcon_fused(c: Config) -> str:
    grouped = not c["new_decoder_architecture"] and not c["multi_query"] and c["num_kv_heads"]
    if not grouped or c["num_kv_heads"] == c["num_attention_heads"]:
        return ""
    return f"num_kv_heads = {c['num_kv_heads']}: without new_decoder_architecture and multi_query each head has its own"


BASE = {
    **{
        k: f
        for k, f in SHAPE.items()
        if k not in ("num_key_value_heads", "partial_rotary_factor", "rope_parameters", "rope_scaling")
    },
    "head_dim": Field("unread", None),
    "hidden_act": act("gelu", *GELUS, "relu"),
    "tie_word_embeddings": flag(True),
}
_GPT = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
_INNER: dict[str, Value] = {**WIDE, "ffn": lambda c: c["n_inner"] or 4 * c["hidden_size"]}
_GPT_MLP = Block("mlp", plain("activation_function"), _INNER, MLP_BIASED)
GPT2 = Family(
    {
        **BASE,
        "vocab_size": size(50257),
        "hidden_size": size(768),
        "num_hidden_layers": size(12),
        "num_attention_heads": size(12),
        "n_inner": size(None),
        "max_position_embeddings": size(1024),
        "activation_function": act("gelu_new", *GELUS, "relu"),
        **unread("intermediate_size", "hidden_act", "n_special", "predict_special_tokens"),
        "add_cross_attention": Field("false", False),
        "scale_attn_weights": Field("true", True),
        "scale_attn_by_inverse_layer_idx": Field("unread", False),
    },
    (
        decoder(
            {
                "attention": (Block("attention", "mha", MULTI, (ALL_BIASED,)),),
                "mlp": (_GPT_MLP,),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
            before=(EMBEDDING, positions("max_position_embeddings")),
        ),
    ),
    aliases=_GPT,
)
GPT_BIGCODE = Family(
    {
        **GPT2.fields,
        "multi_query": flag(True),
        "activation_function": act("gelu_pytorch_tanh", *GELUS, "relu"),
        **unread(
            "inference_runner", "max_batch_size", "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input"
        ),
    },
    (
        decoder(
            {
                "attention": (
                    attention(
                        ALL_BIASED,
                        sizes={**MULTI, "kv-heads": lambda c: 1 if c["multi_query"] else c["num_attention_heads"]},
                    ),
                ),
                "mlp": (_GPT_MLP,),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
            before=(EMBEDDING, positions("max_position_embeddings")),
        ),
    ),
    aliases=_GPT,
)
GPTJ = Family(
    {
        **GPT2.fields,
        "vocab_size": size(50400),
        "hidden_size": size(4096),
        "num_hidden_layers": size(28),
        "num_attention_heads": size(16),
        "max_position_embeddings": Field("unread", 2048),
        "rotary_dim": size(64),
        "rotary": Field("true", None),
        "tie_word_embeddings": flag(False),
    },
    (
        decoder(
            {
                "attention": (
                    Block(
                        "attention",
                        "mha",
                        MULTI,
                        ((lambda c: f"rope:dims={c['rotary_dim']},layout=interleaved", True),),
                    ),
                ),
                "mlp": (_GPT_MLP,),
            },
            EVERYWHERE,
            norms=1,
            norm=LAYER_NORM,
            head=replace(HEAD, uses=(("bias:on=Y", True),)),
        ),
    ),
    aliases=_GPT,
)


def _neox_rope(c: Config) -> str:
    """A quarter of the dimensions turn, or the share that one of three fields states."""
    stated = (
        rotary_share(c)
        if c["partial_rotary_factor"] or (c["rope_parameters"] or {}).get("partial_rotary_factor")
        else None
    )
    return rope({**c, "partial_rotary_factor": stated or c["rotary_pct"]})


GPT_NEOX = Family(
    {
        **BASE,
        "partial_rotary_factor": Field("share", None),
        "rope_parameters": Field("rope", None),
        "rope_scaling": Field("rope", None),
        "rotary_pct": Field("share", 0.25),
        "rotary_emb_base": Field("unread", None),
        "tie_word_embeddings": flag(False),
        "attention_bias": flag(True),
        "use_parallel_residual": Field("unread", True),
    },
    (
        decoder(
            {
                "attention": (
                    Block(
                        "attention",
                        "mha",
                        MULTI,
                        (
                            ("bias:on=Q+k+v+Y", "attention_bias"),
                            (_neox_rope, True),
                        ),
                    ),
                ),
                "mlp": (Block("mlp", plain(), FFN, MLP_BIASED),),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
        ),
    ),
)


def _narrow(c: Config) -> bool:
    return bool(_embedded(c) != c["hidden_size"])


def _embedded(c: Config) -> int:
    return int(c["word_embed_proj_dim"] or c["hidden_size"])


_NORMED_LAST = replace(LAYER_NORM, when=lambda c: c["do_layer_norm_before"] and not c["_remove_final_layer_norm"])
_INTO = Block("embedding", "linear", {"d-model": _embedded, "out": "hidden_size"}, when=_narrow)
_OUT_OF = Block("head", "linear", {**WIDE, "out": _embedded}, when=_narrow)
_OPT_EMBEDDING = replace(EMBEDDING, sizes={**EMBEDDING.sizes, "d-model": _embedded})
OPT = Family(
    {
        **BASE,
        "vocab_size": size(50272),
        "ffn_dim": size(3072),
        "intermediate_size": Field("unread", None),
        "max_position_embeddings": size(2048),
        "do_layer_norm_before": flag(True),
        "_remove_final_layer_norm": flag(False),
        "word_embed_proj_dim": size(None),
        "enable_bias": flag(True),
        "layer_norm_elementwise_affine": Field("true", True),
        "learned_embeddings": Field("true", None),
        "scale_embeddings": Field("false", None),
        "activation_function": act("relu", "relu", *GELUS),
        "hidden_act": Field("unread", None),
    },
    (
        replace(
            decoder(
                {
                    "attention": (Block("attention", "mha", MULTI, (("bias:on=Q+k+v+Y", "enable_bias"),)),),
                    "mlp": (
                        Block(
                            "mlp",
                            plain("activation_function"),
                            {**WIDE, "ffn": "ffn_dim"},
                            (("bias:on=U+Y", "enable_bias"),),
                        ),
                    ),
                },
                EVERYWHERE,
                norm=LAYER_NORM,
                before=(_OPT_EMBEDDING, _INTO, positions("max_position_embeddings", 2)),
            ),
            after=(_NORMED_LAST, _OUT_OF, replace(HEAD, sizes={**HEAD.sizes, "d-model": _embedded})),
        ),
    ),
)
_FALCON_BIAS = ("bias:on=Q+k+v+Y", "bias")
FALCON = Family(
    {
        **BASE,
        "intermediate_size": Field("unread", None),
        "ffn_hidden_size": size(None),
        "activation": act("gelu", *GELUS),
        "hidden_act": Field("unread", None),
        "rope_parameters": Field("rope", None),
        "rope_scaling": Field("rope", None),
        "partial_rotary_factor": Field("share", None),
        "num_kv_heads": size(None),
        "multi_query": flag(True),
        "parallel_attn": flag(True),
        "new_decoder_architecture": flag(False),
        "num_ln_in_parallel_attn": size(None),
        "alibi": flag(False),
        "bias": flag(False),
        "apply_residual_connection_post_layernorm": Field("false", False),
        "n_head": Field("unread", None),
        "n_layer": Field("unread", None),
        "n_head_kv": size(None),
        "ff_factor": size(None),
    },
    (
        decoder(
            {
                "attention": (
                    attention(
                        _FALCON_BIAS,
                        ("alibi", "alibi"),
                        (rope, lambda c: not c["alibi"]),
                        sizes={**HEADS, "kv-heads": _falcon_kv},
                    ),
                ),
                "mlp": (
                    Block(
                        "mlp",
                        plain("activation"),
                        {**WIDE, "ffn": _falcon_ffn},
                        (("bias:on=U+Y", "bias"),),
                    ),
                ),
                "norms": (replace(LAYER_NORM, times=_norms),),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
        ),
    ),
    checks=(
        _falcon_fused,
        agree("n_head_kv", "num_kv_heads", lambda c: c["num_kv_heads"] or c["num_attention_heads"]),
        agree("ff_factor", "ffn_hidden_size / hidden_size", lambda c: _falcon_ffn(c) / c["hidden_size"]),
    ),
)
BLOOM = Family(
    {
        **BASE,
        "vocab_size": size(250880),
        "intermediate_size": Field("unread", None),
        "hidden_act": Field("unread", None),
        "apply_residual_connection_post_layernorm": Field("unread", False),
    },
    (
        decoder(
            {
                "attention": (Block("attention", "mha", MULTI, (ALL_BIASED, ("alibi", True))),),
                "mlp": (Block("mlp", "mlp", {**WIDE, "ffn": lambda c: 4 * c["hidden_size"]}, MLP_BIASED),),
            },
            EVERYWHERE,
            norm=LAYER_NORM,
            before=(EMBEDDING, LAYER_NORM),
        ),
    ),
    aliases={"n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_embed": "hidden_size"},
)

# -- encoders
SELF = {"attention": (Block("attention", "mha", MULTI, (ALL_BIASED,), mask="full"),)}
ENCODER_MLP = Block("mlp", plain(), FFN, MLP_BIASED)
EMBEDDINGS = (
    EMBEDDING,
    positions("max_position_embeddings"),
    replace(EMBEDDING, sizes={**WIDE, "vocab": "type_vocab_size"}),
    LAYER_NORM,
)


def _pooled(*classes: str) -> Rule:
    return lambda c: any(c["class"].endswith(x) for x in classes)


POOLER = Block("head", "linear", WIDE, BIASED, over=ONCE)
PREDICTIONS = (
    Block("head", "linear", WIDE, BIASED, when=headed),
    Block("norm", "layer-norm", WIDE, BIASED, when=headed),
    replace(HEAD, uses=(("bias:on=Y", True),)),
    Block(  # the bias that is the head's own where they are tied, and read by nothing where they are not
        "head",
        "embedding",
        {"d-model": "vocab_size", "vocab": 1},
        when=lambda c: headed(c) and not c["tie_word_embeddings"],
        over=UNCOUNTED,
    ),
)
NEXT_SENTENCE = Block("head", "linear", {**WIDE, "out": 2}, BIASED, when=_pooled("ForPreTraining"), over=ONCE)


def _encoder(rows: dict[str, tuple[Block, ...]], pooler: Rule) -> tuple[Stack, ...]:
    return (
        Stack(
            {**SELF, "mlp": (ENCODER_MLP,), "norms": (LAYER_NORM, LAYER_NORM), **rows},
            always("attention", "mlp", "norms"),
            EMBEDDINGS,
            (replace(POOLER, when=pooler), *PREDICTIONS, NEXT_SENTENCE),
        ),
    )


BERT_FIELDS = {
    **BASE,
    "vocab_size": size(30522),
    "hidden_size": size(768),
    "num_hidden_layers": size(12),
    "num_attention_heads": size(12),
    "intermediate_size": size(3072),
    "max_position_embeddings": size(512),
    "type_vocab_size": size(2),
    "position_embedding_type": Field("text", "absolute", ("absolute",)),
    "is_decoder": Field("false", False),
    "add_cross_attention": Field("false", False),
    **unread("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    **unread("pooler_size_per_head", "pooler_type"),
}
BERT = Family(
    BERT_FIELDS,
    _encoder({}, _pooled("BertModel", "ForPreTraining")),
    classes=("ForMaskedLM", "Model", "ForPreTraining"),
)
ROBERTA = Family(
    {**BERT_FIELDS, "vocab_size": size(50265)},
    _encoder({}, _pooled("Model")),
    classes=("ForMaskedLM", "Model"),
)
LONGFORMER = Family(
    {
        **BERT_FIELDS,
        "attention_window": Field("window", 512),
        "attention_mode": Field("text", None, ("longformer",)),
        "ignore_attention_mask": Field("unread", None),
    },
    _encoder(
        {
            "attention": (
                *SELF["attention"],
                replace(POOLER, part="attention", times=3, over=UNCOUNTED),
            )
        },
        _pooled("Model"),
    ),
    classes=("ForMaskedLM", "Model"),
    uncounted="its attention, a window with global tokens that have projections of their own, is no variant here yet",
)
BIG_BIRD = Family(
    {
        **BERT_FIELDS,
        "vocab_size": size(50358),
        "max_position_embeddings": size(4096),
        "hidden_act": act("gelu_new", *GELUS),
        "attention_type": Field("text", "block_sparse", ("block_sparse", "original_full")),
        "use_bias": Field("true", True),
        "block_size": size(64),
        "num_random_blocks": size(3),
    },
    _encoder({}, lambda c: True),
    classes=("ForMaskedLM", "Model", "ForPreTraining"),
    uncounted="its attention, over windows, global and random blocks, is no variant here yet",
)
XLNET = Family(
    {
        **BASE,
        "vocab_size": size(32000),
        "hidden_size": size(1024),
        "num_hidden_layers": size(24),
        "num_attention_heads": size(16),
        "d_inner": size(4096),
        "d_head": size(None),
        "ff_activation": act("gelu", *GELUS, "relu"),
        **unread("hidden_act", "intermediate_size"),
        "attn_type": Field("text", "bi", ("bi",)),
        "untie_r": Field("unread", True),
        "mem_len": Field("unread", None),
    },
    (
        Stack(
            {
                "attention": (
                    Block("attention", "mha", MULTI, mask="full"),
                    Block(
                        "attention", "relative-projection", {"heads": "num_attention_heads", **MULTI}, over=UNCOUNTED
                    ),
                ),
                "mlp": (Block("mlp", plain("ff_activation"), {**WIDE, "ffn": "d_inner"}, MLP_BIASED),),
                "norms": (LAYER_NORM, LAYER_NORM),
            },
            always("attention", "mlp", "norms"),
            (EMBEDDING, Block("embedding", "embedding", {**WIDE, "vocab": 1})),
            (replace(HEAD, uses=(("bias:on=Y", True),)),),
        ),
    ),
    aliases={
        "d_model": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
    },
    classes=("LMHeadModel", "Model"),
    checks=(agree("d_head", "hidden_size / num_attention_heads", head_dim),),
    uncounted="its attention, with relative positions and segments, is no variant here yet",
)


def _modern_kinds(c: Config) -> list[str]:
    every = c["global_attn_every_n_layers"]
    return (
        list(c["layer_types"])
        if c["layer_types"]
        else ["sliding_attention" if i % every else "full_attention" for i in range(c["num_hidden_layers"])]
    )


_MODERN = Block("attention", "mha", MULTI, (("bias:on=Q+k+v+Y", "attention_bias"), ("rope", True)), mask="full")
_NORM = replace(LAYER_NORM_PLAIN, uses=(("bias:on=Y", "norm_bias"),))
MODERNBERT = Family(
    {
        **BERT_FIELDS,
        "vocab_size": size(50368),
        "num_hidden_layers": size(22),
        "intermediate_size": size(1152),
        "type_vocab_size": Field("unread", None),
        "max_position_embeddings": Field("unread", None),
        "hidden_activation": act("gelu", *GELUS),
        "hidden_act": Field("unread", None),
        "attention_bias": flag(False),
        "mlp_bias": flag(False),
        "norm_bias": flag(False),
        "decoder_bias": flag(True),
        "classifier_bias": flag(False),
        "global_attn_every_n_layers": size(3),
        "local_attention": size(128),
        "layer_types": Field("types", None, ("full_attention", "sliding_attention")),
        "global_rope_theta": Field("unread", None),
        "local_rope_theta": Field("unread", None),
        "rope_parameters": Field("unread", None),
    },
    (
        Stack(
            {
                "full_attention": (_MODERN,),
                "sliding_attention": (replace(_MODERN, mask=lambda c: f"around:{c['local_attention'] // 2}"),),
                "mlp": (Block("mlp", gated("hidden_activation"), FFN, (("bias:on=G+U+Y", "mlp_bias"),)),),
                "norms": (_NORM, _NORM),
                "first": (_NORM,),
            },
            (
                _modern_kinds,
                *always("mlp"),
                lambda c: ["norms" if i else "first" for i in range(c["num_hidden_layers"])],
            ),
            (EMBEDDING, _NORM),
            (
                _NORM,
                Block("head", "linear", WIDE, (("bias:on=Y", "classifier_bias"),), when=headed),
                replace(_NORM, when=headed),
                replace(HEAD, uses=(("bias:on=Y", "decoder_bias"),)),
            ),
        ),
    ),
    classes=("ForMaskedLM", "Model"),
)

FAMILIES = {
    "gpt2": GPT2,
    "gpt_bigcode": GPT_BIGCODE,
    "gptj": GPTJ,
    "gpt_neox": GPT_NEOX,
    "opt": OPT,
    "falcon": FALCON,
    "bloom": BLOOM,
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": replace(ROBERTA, fields=BERT_FIELDS),
    "longformer": LONGFORMER,
    "big_bird": BIG_BIRD,
    "xlnet": XLNET,
    "modernbert": MODERNBERT,
}
