"""What a family of models is made of: fields of its `config.json`, blocks of equations, and layers of blocks.

A family is tables: which fields it reads, which blocks a layer of each kind has, and which kind each layer is. Everything
that is counted is then a reading of the blocks' pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Union

from msgspec import Struct

REQUIRED = "required"
Config = Mapping[str, Any]
Rule = Callable[[Config], Any]
Value = Union[str, int, Rule]  # a field by its name, a number, or a rule
Switch = Union[str, bool, Rule]  # a field that is true, a rule, or always or never
Kinds = Callable[[Config], list[str]]  # one name for each layer

TEXT = "tokens"  # what a block runs over: the new tokens,
SOURCE = "source"  # the tokens of an encoder,
ONCE = "sequences"  # one place of each sequence,
UNCOUNTED = "uncounted"  # or something that no config says the number of: patches of pictures, frames of sound

PARTS = {  # what parameters are told apart by
    "embedding": "rows for tokens, learned positions and types, and their norms' neighbours",
    "attention": "what mixes tokens: projections, norms and biases inside attention, state-space and linear-attention layers",
    "mlp": "dense feed-forward layers",
    "router": "what chooses experts",
    "shared_experts": "experts that every token goes through",
    "experts": "routed experts, all of them",
    "norm": "norms between layers",
    "connections": "learned residual connections (hyper-connections, per-layer inputs)",
    "head": "what makes logits or pooled features, where it is not the embedding",
    "vision": "the tower for pictures and its projector",
    "audio": "what turns sound into tokens",
}


class Field(Struct, frozen=True):
    """A field that is understood: `size` (whole, at least 1; `size0`: at least 0), `number` (more than 0), `flag`, `share`
    (0 < x <= 1), `act` (an activation), `types` (kinds of layers), `flags` (0 or 1 for each layer), `sizes` (a list of
    whole numbers), `rope` (`ropes`: one for each kind of layer), `config` (an object that is a config of its own), `text`,
    `unread` (the family's code never reads it, and neither do its rules); or `true` or `false`, for one that must not
    say otherwise.

    `default` is what the family's class takes where the field is absent. Null is false for a switch; else it is None
    where the default is no number, and where classes know a null of its own (`checks.NULLABLE`). `among`: the texts
    that a list or a text may hold.
    """

    kind: str
    default: Any = REQUIRED
    among: tuple[str, ...] = ()


class Block(Struct, frozen=True):
    """A page of equations at sizes from the config.

    `part`: which of PARTS its parameters belong to; `page`: a variant, or a page of `attnmath/blocks`; `sizes`: by option
    or by the page's own words; `uses`: modifiers, each with the switch that turns it on; `mask`: instead of the page's;
    `when`: whether it is there at all; `times`: how many there are; `tied`: whether the tensors in
    `shares` are another block's; `over`: what it runs over.
    """

    part: str
    page: str | Rule
    sizes: Mapping[str, Value] = {}
    uses: tuple[tuple[str | Rule, Switch], ...] = ()
    mask: str | Rule | None = None
    when: Switch = True
    times: Value = 1
    tied: Switch = False
    shares: tuple[str, ...] = ("WHEAD",)
    over: str = TEXT


class Stack(Struct, frozen=True):
    """Layers on top of each other: `rows` says what blocks a name stands for, `kinds` which names each layer has, one list
    for each of its halves; `before` and `after` stand outside of the layers.
    """

    rows: Mapping[str, tuple[Block, ...]]
    kinds: tuple[Kinds, ...]
    before: tuple[Block, ...] = ()
    after: tuple[Block, ...] = ()


class Family(Struct, frozen=True):
    """`fields`: what is read; `stacks`: what there is; `inside`: fields that hold the config of another family (None: of
    the one that it names), whose stacks come first; `classes`: the endings of the names of those classes whose parameters
    are known (the part of the name before them does not matter; `Model` is the class that is named as the family is).
    """

    fields: Mapping[str, Field]
    stacks: tuple[Stack, ...]
    inside: Mapping[str, str | None] = {}
    flat: bool = False  # whether the fields of its text_config may stand beside it, and its embedding be tied in either
    classes: tuple[str, ...] = ("ForCausalLM", "LMHeadModel", "Model")
    aliases: Mapping[str, str] = {}  # other names of fields
    defaults: Mapping[str, str] = {}  # fields that are another's where they are absent
    source_tokens: Value | None = None  # how many tokens an encoder always makes
    mtp: tuple[str, ...] = ()  # the rows of a layer for multi-token prediction
    checks: tuple[Callable[[Config], str], ...] = ()  # what single fields cannot show: a complaint, or nothing
    notes: tuple[tuple[str, Switch], ...] = ()  # what a reader of the counts has to know, and when
    uncounted: str = ""  # why there are no FLOPs, if there are none
    source: str = "transformers 5.23.0"


def value(rule: Value | None, c: Config) -> Any:
    """What a field, a number or a rule is for this config.

    >>> value("hidden_size", {"hidden_size": 64}), value(3, {}), value(lambda c: c["a"] + 1, {"a": 1})
    (64, 3, 2)
    """
    return c[rule] if isinstance(rule, str) else rule(c) if callable(rule) else rule


def on(switch: Switch, c: Config) -> bool:
    """Whether a switch is on for this config.

    >>> on(True, {}), on("bias", {"bias": False})
    (True, False)
    """
    return bool(value(switch, c)) if not isinstance(switch, bool) else switch


def text(rule: str | Rule | None, c: Config) -> str | None:
    """A text, or what a rule makes of the config.

    >>> text("rope", {}), text(lambda c: c["x"], {"x": "sink"})
    ('rope', 'sink')
    """
    return str(rule(c)) if callable(rule) else rule


def always(*names: str, layers: str = "num_hidden_layers") -> tuple[Kinds, ...]:
    """The same rows in every layer.

    >>> [kinds({"num_hidden_layers": 2}) for kinds in always("attention", "mlp")]
    [['attention', 'attention'], ['mlp', 'mlp']]
    """
    return tuple(lambda c, name=name: [name] * c[layers] for name in names)


# -- fields and blocks that many families share


def size(default: Any = REQUIRED) -> Field:
    """A size, with the class's default.

    >>> size(8).default
    8
    """
    return Field("size", default)


def flag(default: bool) -> Field:
    """A switch, with the class's default.

    >>> flag(True).kind
    'flag'
    """
    return Field("flag", default)


def unread(*names: str) -> dict[str, Field]:
    """Fields that configs of a family have, and its code never reads.

    >>> unread("pooler_type")["pooler_type"].kind
    'unread'
    """
    return dict.fromkeys(names, Field("unread", None))


def act(default: str, *more: str) -> Field:
    """An activation, of those that the blocks have.

    >>> act("silu", "silu").among
    ('silu',)
    """
    return Field("act", default, tuple(dict.fromkeys((default, *(more or ACTIVATIONS)))))


GELUS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "quick_gelu")
ACTIVATIONS = ("silu", "swish", *GELUS, "relu", "relu2")
PLAIN = dict.fromkeys(GELUS, "mlp") | {"relu": "mlp-relu", "relu2": "mlp-relu2"}  # GELU is counted as the exact one
GATED = dict.fromkeys(GELUS, "gated-mlp-gelu") | {"silu": "gated-mlp", "swish": "gated-mlp"}


def gated(field: str = "hidden_act") -> Rule:
    """The gated feed-forward page with the activation that a field names.

    >>> gated()({"hidden_act": "silu"})
    'gated-mlp'
    """
    return lambda c: GATED[c[field]]


def plain(field: str = "hidden_act") -> Rule:
    """The feed-forward page with the activation that a field names.

    >>> plain()({"hidden_act": "relu"})
    'mlp-relu'
    """
    return lambda c: PLAIN[c[field]]


BIASED = (("bias:on=Y", True),)
WIDE = {"d-model": "hidden_size"}
RMS = Block("norm", "rms-norm", WIDE)
LAYER_NORM = Block("norm", "layer-norm", WIDE, BIASED)
LAYER_NORM_PLAIN = Block("norm", "layer-norm", WIDE)
EMBEDDING = Block("embedding", "embedding", {**WIDE, "vocab": "vocab_size"})


def headed(c: Config) -> bool:
    """Whether the class has a head for language modelling.

    >>> headed({"class": "LlamaForCausalLM"}), headed({"class": "LlamaModel"})
    (True, False)
    """
    return not c["class"].endswith("Model") or c["class"].endswith("LMHeadModel")


HEAD = Block("head", "head", {**WIDE, "vocab": "vocab_size"}, when=headed, tied="tie_word_embeddings")
NEVER_TIED = (("tie_word_embeddings is true, but the class does not tie the head", "tie_word_embeddings"),)


def head_dim(c: Config) -> Any:
    """The width of a head: a field, or the model's width spread over the heads.

    >>> head_dim({"hidden_size": 64, "num_attention_heads": 4})
    16
    """
    from attnmath.language.arith import exact_div

    return c.get("head_dim") or exact_div(c["hidden_size"], c["num_attention_heads"])


HEADS: dict[str, Value] = {
    "heads": "num_attention_heads",
    "kv-heads": lambda c: c["num_key_value_heads"] or c["num_attention_heads"],
    "d-model": "hidden_size",
    "head-dim": head_dim,
}
SHAPE = {
    "vocab_size": size(),
    "hidden_size": size(),
    "intermediate_size": size(),
    "num_hidden_layers": size(),
    "num_attention_heads": size(),
    "num_key_value_heads": size(None),
    "head_dim": size(None),
    "tie_word_embeddings": flag(False),
    "hidden_act": act("silu", *GATED),
    "partial_rotary_factor": Field("share", None),
    "rope_parameters": Field("rope", None),
    "rope_scaling": Field("rope", None),
}


def rotary_share(c: Config) -> float:
    """Which share of a head's dimensions turns; the field may stand in any of three places.

    >>> rotary_share({"partial_rotary_factor": 0.5, "rope_parameters": None, "rope_scaling": None})
    0.5
    """
    tables = [c["rope_parameters"] or {}, c["rope_scaling"] or {}]
    found = [
        x for x in (c.get("partial_rotary_factor"), *(t.get("partial_rotary_factor") for t in tables)) if x is not None
    ]
    return float(found[0]) if found else 1.0


def rope(c: Config) -> str:
    """Rotary over all dimensions of a head, or over the stated share of them.

    >>> rope({"partial_rotary_factor": 0.5, "rope_parameters": None, "rope_scaling": None, "head_dim": 64})
    'rope:dims=32'
    """
    share = rotary_share(c)
    return "rope" if share == 1 else f"rope:dims={int(head_dim(c) * share)}"


ROPE = (rope, True)
BIAS = ("bias:on=Q+k+v+Y", "attention_bias")


def attention(*uses: tuple[str | Rule, Switch], page: str = "gqa", sizes: Mapping[str, Value] = HEADS) -> Block:
    """Attention layers with these modifiers.

    >>> attention(("sink", True)).uses
    (('sink', True),)
    """
    return Block("attention", page, sizes, uses)


def windowed(block: Block, field: Value = "sliding_window") -> Block:
    """The same attention under a sliding window.

    >>> windowed(attention()).page
    'sliding-window'
    """
    from msgspec.structs import replace

    return replace(block, page="sliding-window", sizes={**block.sizes, "window": field})


def both(block: Block) -> dict[str, tuple[Block, ...]]:
    """Rows for layers that see everything, and for those that slide.

    >>> sorted(both(attention()))
    ['full_attention', 'sliding_attention']
    """
    return {"full_attention": (block,), "sliding_attention": (windowed(block),)}


FFN = {**WIDE, "ffn": "intermediate_size"}
MLP = Block("mlp", gated(), FFN)


def decoder(
    rows: Mapping[str, tuple[Block, ...]],
    kinds: tuple[Kinds, ...],
    *,
    norms: int = 2,
    norm: Block = RMS,
    head: Block = HEAD,
    before: tuple[Block, ...] = (EMBEDDING,),
) -> Stack:
    """A decoder: an embedding, layers with `norms` norms each, a norm, and a head.

    >>> sorted(decoder({"mlp": (MLP,)}, always("mlp")).rows)
    ['mlp', 'norms']
    """
    return Stack({"norms": (norm,) * norms, **rows}, (*kinds, *always("norms")), before, (norm, head))


def experts(page: str | Rule = "experts", **sizes: Value) -> Block:
    """Routed experts: `expert` of them, `active` for each token, `ffn` wide.

    >>> experts(expert=8, active=2, ffn=64).part
    'experts'
    """
    return Block("experts", page, {**WIDE, **sizes})


def sliding_or_full(c: Config, full: Callable[[int], bool]) -> list[str]:
    """Kinds of attention by `layer_types`, else by a rule of the layer's place.

    >>> sliding_or_full({"layer_types": None, "num_hidden_layers": 2}, lambda i: i == 1)
    ['sliding_attention', 'full_attention']
    """
    return (
        list(c["layer_types"])
        if c["layer_types"]
        else ["full_attention" if full(i) else "sliding_attention" for i in range(c["num_hidden_layers"])]
    )


def sparse_from(first: str) -> Kinds:
    """Feed-forward layers: dense ones first, then experts.

    >>> sparse_from("first")({"first": 1, "num_hidden_layers": 2})
    ['dense', 'sparse']
    """
    return lambda c: ["sparse" if i >= c[first] else "dense" for i in range(c["num_hidden_layers"])]


def spread(when: Switch = True) -> Rule:
    """A complaint where heads are not as wide as norms over all of them are made for.

    >>> spread()({"head_dim": 8, "hidden_size": 64, "num_attention_heads": 4})
    'head_dim = 8, but norms are made for 16 (hidden_size / num_attention_heads)'
    """

    def complaint(c: Config) -> str:
        even = c["hidden_size"] // c["num_attention_heads"]
        if not on(when, c) or c["head_dim"] in (None, even):
            return ""
        return f"head_dim = {c['head_dim']}, but norms are made for {even} (hidden_size / num_attention_heads)"

    return complaint


def agree(field: str, other: str, rule: Value | None = None) -> Rule:
    """A complaint where a field that the class does not read says other than what it reads.

    >>> agree("ff_factor", "4")({"ff_factor": 3, "4": 4})
    'ff_factor = 3 and 4 = 4 contradict each other'
    """

    def complaint(c: Config) -> str:
        said, read = c[field], value(other if rule is None else rule, c)
        return "" if said is None or said == read else f"{field} = {said} and {other} = {read} contradict each other"

    return complaint
