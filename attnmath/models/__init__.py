"""A model's `config.json` as blocks of equations: which page, with which modifiers, at which sizes, how many times."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.files import line_of, read_json, read_text
from attnmath.models import presets
from attnmath.models.checks import checked
from attnmath.models.families import PLACES, get
from attnmath.models.schema import SOURCE, TEXT, Block, Config, Family, Stack, on, text, value


class Piece(Struct, frozen=True):
    """A block at its sizes, `count` times: `sizes` by option or by the page's own words; `shares`: the tensors that are
    another block's.
    """

    part: str
    page: str
    uses: tuple[str, ...]
    sizes: Mapping[str, int]
    mask: str | None
    shares: tuple[str, ...]
    over: str
    count: int = 1


class LayerSpec(Struct, frozen=True):
    """A run of equal attention layers: `sizes` by option, `uses` as after --with."""

    count: int
    variant: str
    uses: tuple[str, ...]
    sizes: Mapping[str, int]
    mask: str | None = None
    over: str = TEXT


class Model(Struct, frozen=True, eq=False):  # a key by its identity
    """A model: its blocks, equal ones together, and its attention layers in order, runs of equal ones together.

    `sequence`: the layers of the last stack one by one, each its blocks, what stands before the first and after the last
    with these; `edges`: how many blocks these are; `source_tokens`: how many an encoder always makes, None: as many as it
    is given; `assumed`: fields that the config does not have, with the values that the family's class then takes;
    `left_out`: what the config says nothing of, or what is not counted; `refused`: what is not said, and why
    (`parameters`, `flops`).
    """

    name: str
    family: str
    kind: str
    pieces: tuple[Piece, ...]
    runs: tuple[LayerSpec, ...]
    assumed: Mapping[str, Any]
    source: str
    config: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    refused: Mapping[str, str] = {}
    sequence: tuple[tuple[Piece, ...], ...] = ()
    edges: tuple[int, int] = (0, 0)
    source_tokens: int | None = None

    @property
    def layers(self) -> int:
        """How many attention layers there are."""
        return sum(r.count for r in self.runs)

    @property
    def inner(self) -> tuple[tuple[Piece, ...], ...]:
        """The layers of the last stack one by one, without what stands before and after them; none if there are none."""
        before, after = self.edges
        if self.edges == (0, 0) and len(self.sequence) == 1:
            return ()
        first, *rest = self.sequence
        found = [first[before:], *rest]
        found[-1] = found[-1][: len(found[-1]) - after]
        return tuple(found)

    @property
    def positions(self) -> int | None:
        """The longest context that the config names."""
        text = self.config.get("text_config")
        for c in (self.config, text if isinstance(text, dict) else {}):
            for key in ("max_position_embeddings", "n_positions", "model_max_length", "max_target_positions"):
                if isinstance(c.get(key), int) and not isinstance(c.get(key), bool):
                    return int(c[key])
        return None


MTP_FIELDS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")


def mtp_layers(config: Config) -> int:
    """How many layers for multi-token prediction a config, or the text_config in it, names.

    >>> mtp_layers({"num_nextn_predict_layers": 1})
    1
    """
    inner = config.get("text_config")
    both = (config, inner) if isinstance(inner, dict) else (config,)
    return next((x for c in both for k in MTP_FIELDS if isinstance(x := c.get(k), int) and 0 < x < 100), 0)


def read(
    name: str, assume_ignored: tuple[str, ...] = (), assume_family: str | None = None, with_mtp: bool = False
) -> Model:
    """The model that a config.json describes, or the one in a directory, a preset, or `org/name` in a hub's local cache.

    `assume_ignored`: fields that the caller declares harmless; `assume_family`: the model_type whose rules to read it by;
    `with_mtp`: layers for multi-token prediction, too. Raises InputError, with all of them at once: a field that is missing,
    of the wrong type, or unknown (it could change the architecture).

    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
    >>> llama = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32}
    >>> _ = path.write_text(json.dumps(llama | {"vocab_size": 32000, "intermediate_size": 11008}))
    >>> read(str(path)).layers
    32
    >>> read("llama-3.1-8b").layers
    32
    """
    if not isinstance(name, str):
        raise InputError(f"a model is a preset, or the path of a config.json, not {name!r:.40}")
    found = presets.get(name)[0] if name in presets.names() and not os.path.exists(name) else None
    path = name if found is not None else _file(name)
    raw, source = (found, "") if found is not None else (read_json(path), read_text(path))
    kind = assume_family or _kind(raw, path)
    label = name if found is not None else os.path.basename(path.removesuffix("/config.json")).removesuffix(".json")
    at = f"preset, from {presets.get(name)[1]}" if found is not None else "config.json"
    try:
        if kind not in PLACES:
            if assume_family is None:
                return assumed_decoder(raw, kind, label, source)
            raise InputError(f"--assume-family: {unknown_type(kind)}")
        model = describe(raw, kind, label, source, tuple(assume_ignored), with_mtp)
        return replace(model, source=f"{at}, read as {get(kind).source} reads {kind}")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def assumed_decoder(raw: Config, kind: str, name: str, source: str = "") -> Model:
    """What can be said of a model whose model_type is not known, were it a plain decoder: attention's shapes and cache.

    Raises InputError where a field says that it is none.

    >>> assumed_decoder({"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}, "new", "x").refused["flops"][:21]
    "model_type 'new' is n"
    """
    telling = [k for k, v in raw.items() if v not in (None, False, 0) and re.search(TELLING, k)]
    if telling:
        lines = [f"{line_of(source, k)}{k[:60]}" for k in telling[:20]]
        raise InputError(
            f"{line_of(source, 'model_type')}{unknown_type(kind)}; it is no plain decoder, going by {', '.join(lines)}; "
            "--assume-family NAME reads it as another family"
        )
    plain = {k: raw[k] for k in (*SHAPE_FIELDS, "rope_scaling", "rope_parameters") if k in raw}
    model = describe({"vocab_size": 1, "intermediate_size": 1, **plain}, "llama", name, source)
    why = f"model_type {kind[:60]!r} is not known; --assume-family NAME reads it as another family"
    return replace(
        model,
        family=kind[:60],
        kind="",
        pieces=tuple(p for p in model.pieces if p.part == "attention"),
        assumed={**model.assumed, "architecture": "plain decoder"},
        source=f"assumed: plain decoder ({unknown_type(kind)})",
        config=raw,
        refused={"parameters": why, "flops": why},
    )


def unknown_type(kind: str) -> str:
    """What to say of a model_type that is not known.

    >>> unknown_type("lama")
    "unknown model_type 'lama': did you mean 'llama' or 'llama4'? `attnmath models --families` lists those that are understood"
    """
    from difflib import get_close_matches

    near = get_close_matches(kind[:80].lower(), PLACES, 2, 0.6)
    hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"unknown model_type {kind[:80]!r}{hint} `attnmath models --families` lists those that are understood"


TELLING = (
    r"lora|rank|latent|linear_|ssm|mamba|conv|hybrid|pattern|layer_types|layers_block|compress|index_|sparse|window|chunk_?size$"
    r"|_config$|encoder|decoder_l|global|cross_|recurrent|state_size|per_layer|kv_shared|share|attn_type|block_type"
)
SHAPE_FIELDS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim")


def describe(
    raw: Config, kind: str, name: str, source: str = "", ignored: tuple[str, ...] = (), with_mtp: bool = False
) -> Model:
    """The model that a config describes, read by the rules of one family; `source`: its text, for line numbers; `with_mtp`:
    layers for multi-token prediction, too. Raises InputError as `read` does.

    >>> gpt = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 32}
    >>> [(p.part, p.page, p.count) for p in describe(gpt, "gpt2", "x").pieces][2:4]
    [('attention', 'mha', 2), ('mlp', 'mlp', 2)]
    """
    family = get(kind)
    named = raw.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(x, str) for x in named):
        raise InputError("architectures is no list of names")
    cls = named[0] if named else f"({family.classes[0]})"
    found = _expand(family, raw, source, ignored, cls.strip("()"), top=True)
    if with_mtp:
        found.pieces += _mtp(found, mtp_layers(raw) or 1)
        found.assumed |= {} if mtp_layers(raw) else {MTP_FIELDS[0]: 1}
    refused = {}
    if not understood(cls.strip("()"), kind, family.classes) or len(named) > 1:
        known = ", ".join(f"...{x}" for x in family.classes)
        refused["parameters"] = (
            f"the class {', '.join(named)[:80]} has parameters that are not known here; known are {known}"
        )
    reasons = [f.uncounted for f in found.families if f.uncounted]
    if reasons:
        refused["flops"] = reasons[0]
    assumed = dict(found.assumed)
    if not named:
        assumed["architectures"] = f"a class whose name ends in {family.classes[0]}"
    return Model(
        name,
        kind,
        cls.strip("()"),
        _together(found.pieces),
        tuple(_runs(found.pieces)),
        assumed,
        f"config.json, read as {family.source} reads {kind}",
        raw,
        tuple(found.left_out),
        refused,
        *_sequence(found.groups, found.pieces),
        found.source_tokens,
    )


def understood(cls: str, kind: str, endings: tuple[str, ...]) -> bool:
    """Whether a class's parameters are known: by the ending of its name, or because it is named as its family is.

    >>> [understood(x, "gpt2", ("ForCausalLM", "Model")) for x in ("MyForCausalLM", "GPT2Model", "GPT2OtherModel")]
    [True, True, False]
    """
    base = re.sub("[-_]", "", kind).removesuffix("model") + "model"
    return cls.endswith(tuple(x for x in endings if x != "Model")) or (
        "Model" in endings and cls.replace("_", "").lower() == base
    )


class _Found(Struct):
    pieces: list[Piece] = []
    groups: list[list[Piece]] = []  # the layers of the last stack
    source_tokens: int | None = None
    text: Config = {}
    assumed: dict[str, Any] = {}
    left_out: list[str] = []
    families: list[Family] = []


def _expand(family: Family, raw: Config, source: str, ignored: tuple[str, ...], cls: str, top: bool = False) -> _Found:
    """All blocks of a config, those of the configs inside it first."""
    raw = _nested(raw, family) if family.flat else raw
    config, assumed = checked(raw, family, source, ignored, top)
    config["class"] = cls
    out = _Found(families=[family])
    inner: dict[str, Any] = {}
    for field, kind in family.inside.items():
        own = config[field]
        if own is None and field == "text_config":
            raise InputError("text_config is missing; it shapes the model")
        if own is None:
            out.left_out.append(f"what {field} would describe, which the config does not have")
            continue
        said = own.get("model_type")
        kind = kind or str(said)
        if kind not in PLACES or (said is not None and said not in (kind, raw.get("model_type"))):
            raise InputError(f"{field}: model_type {str(said)[:60]!r} is not the {kind} that is understood here")
        below = {k: v for k, v in own.items() if k != "architectures"}
        if field == "text_config" and "tie_word_embeddings" in config:
            inner_tie = family.flat and below.get("tie_word_embeddings") is True
            below["tie_word_embeddings"] = inner_tie or config["tie_word_embeddings"]
        more = _expand(get(kind), below, source, (), cls)
        out.pieces += more.pieces
        out.groups, out.source_tokens = more.groups or out.groups, more.source_tokens
        out.families += more.families
        out.left_out += more.left_out
        assumed |= {f"{field}.{k}": v for k, v in more.assumed.items()}
        inner[field] = {**checked(below, get(kind), source, (), False)[0], "class": cls}
    config |= inner
    out.text = inner.get("text_config", config)
    out.assumed = assumed
    out.left_out += [note for note, switch in family.notes if on(switch, config)]
    out.source_tokens = value(family.source_tokens, config) or out.source_tokens
    for stack in family.stacks:
        before, layers, after = _stack(stack, config)
        out.pieces += [*before, *(p for layer in layers for p in layer), *after]
        out.groups = layers or out.groups
    return out


def _sequence(groups: list[list[Piece]], pieces: list[Piece]) -> tuple[tuple[tuple[Piece, ...], ...], tuple[int, int]]:
    """(layers one by one, what comes before them with the first and what comes after with the last; how many these are)."""
    if not groups:
        return (tuple(pieces),), (0, 0)
    inside = [p for g in groups for p in g]
    at = next(k for k, p in enumerate(pieces) if p is inside[0])
    before, after = pieces[:at], pieces[at + len(inside) :]
    first, *rest = groups
    whole = [[*before, *first], *rest]
    whole[-1] = [*whole[-1], *after]
    return tuple(map(tuple, whole)), (len(before), len(after))


def _nested(raw: Config, family: Family) -> Config:
    """A config whose language model's fields stand beside those of its tower, with them in a text_config."""
    if raw.get("text_config") is not None:
        return raw
    outer = {k: v for k, v in raw.items() if k in family.fields or k in ("model_type", "architectures")}
    return {**outer, "text_config": {k: v for k, v in raw.items() if k not in outer}}


def _mtp(found: _Found, times: int) -> list[Piece]:
    """Layers for multi-token prediction: a layer of the model, a projection of two inputs to one, and three norms; embedding
    and head are the model's own.
    """
    family = next((f for f in found.families if f.mtp), None)
    if family is None:
        raise InputError("--with-mtp: this family has no layers for multi-token prediction that are known here")
    wide = found.text["hidden_size"]
    rows = [p for name in family.mtp for p in _pieces(family.stacks[-1].rows[name], found.text)]
    extra = [
        Piece("mlp", "linear", (), {"d-model": 2 * wide, "out": wide}, None, (), TEXT),
        Piece("norm", "rms-norm", (), {"d-model": wide}, None, (), TEXT, 3),
    ]
    return [*rows, *extra] * times


def _stack(stack: Stack, c: Config) -> tuple[list[Piece], list[list[Piece]], list[Piece]]:
    """(blocks before the layers, the blocks of each layer, blocks after them)."""
    kinds = [k(c) for k in stack.kinds]
    if any("sliding_attention" in k for k in kinds) and "sliding_window" in c and not c["sliding_window"]:
        raise InputError("sliding_window is null, but there are layers that slide")
    if len(set(map(len, kinds))) > 1:
        raise InputError(f"the layers' lists differ in length: {', '.join(str(len(k)) for k in kinds)}")
    names = list(zip(*kinds))
    rows = {name: _pieces(stack.rows[name], c) for name in dict.fromkeys(n for row in names for n in row)}
    layers = [[replace(p) for name in row for p in rows[name]] for row in names]
    return _pieces(stack.before, c), layers, _pieces(stack.after, c)


def _pieces(blocks: Iterable[Block], c: Config) -> list[Piece]:
    return [_piece(b, c) for b in blocks if on(b.when, c) and value(b.times, c)]


def _piece(b: Block, c: Config) -> Piece:
    sizes = {k: value(v, c) for k, v in b.sizes.items()}
    return Piece(
        b.part,
        text(b.page, c) or "",
        tuple(str(text(u, c)) for u, switch in b.uses if on(switch, c)),
        {k: v for k, v in sizes.items() if v is not None},
        text(b.mask, c),
        b.shares if on(b.tied, c) else (),
        b.over,
        int(value(b.times, c)),
    )


def _key(p: Piece) -> tuple[Any, ...]:
    return p.part, p.page, p.uses, tuple(p.sizes.items()), p.mask, p.shares, p.over


def _together(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Equal blocks as one, in the order in which each stands first."""
    found: dict[tuple[Any, ...], Piece] = {}
    for p in pieces:
        known = found.get(_key(p))
        found[_key(p)] = replace(p, count=p.count + known.count) if known else p
    return tuple(found.values())


def _runs(pieces: list[Piece]) -> Iterable[LayerSpec]:
    attention = [p for p in pieces if p.part == "attention" and p.over in (TEXT, SOURCE)]
    for _, run in groupby(attention, key=lambda p: (_key(p)[1:5], p.over)):
        same = list(run)
        p = same[0]
        yield LayerSpec(sum(x.count for x in same), p.page, p.uses, p.sizes, p.mask, p.over)


def _file(name: str) -> str:
    """The config.json itself: a file, of a directory, or of a model in the local cache of a hub."""
    if os.path.isdir(name):
        inside = os.path.join(name, "config.json")
        if not os.path.isfile(inside):
            raise InputError(f"{name}: a directory without a config.json")
        return inside
    if os.path.exists(name):
        return name
    if cached := presets.cached(name):
        return cached
    if name.endswith(".json") or name.count("/") > 1 or name.startswith((".", "/")):
        return name
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), presets.names(), 3, 0.6)
    hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ";"
    raise InputError(
        f"unknown model {name[:80]!r}{hint} `attnmath models` lists the presets; it is no file either, and no model of that name "
        "is in the local cache of a hub"
    )


def _kind(raw: Config, path: str) -> str:
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        found = "is missing" if "model_type" not in raw else f"is {str(kind)[:40]!r}, no text"
        raise InputError(
            f"{path}: model_type {found}; it says how to read the other fields (`attnmath models --families` lists those that "
            "are understood)"
        )
    return kind
