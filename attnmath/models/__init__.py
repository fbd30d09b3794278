"""A model's `config.json` as blocks of equations: which page, with which modifiers, at which sizes, how many times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.files import line_of, read_json, read_text
from attnmath.models.checks import checked
from attnmath.models.families import PLACES, get
from attnmath.models.schema import SOURCE, TEXT, Block, Config, Family, Stack, on, text, value

MAX_LAYERS = 10_000


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


class Model(Struct, frozen=True):
    """A model: its blocks, equal ones together, and its attention layers in order, runs of equal ones together.

    `assumed`: fields that the config does not have, with the values that the family's class then takes; `left_out`: what the
    config says nothing of, or what is not counted; `refused`: what is not said, and why (`parameters`, `flops`).
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

    @property
    def layers(self) -> int:
        """How many attention layers there are."""
        return sum(r.count for r in self.runs)


def read(path: str, assume_ignored: tuple[str, ...] = (), assume_family: str | None = None) -> Model:
    """The model that a config.json describes, or the one in a directory.

    `assume_ignored`: fields that the caller declares harmless; `assume_family`: the model_type whose rules to read it by.
    Raises InputError, with all of them at once: a field that is missing, of the wrong type, or unknown (it could change the
    architecture).

    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
    >>> llama = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32}
    >>> _ = path.write_text(json.dumps(llama | {"vocab_size": 32000, "intermediate_size": 11008}))
    >>> read(str(path)).layers
    32
    """
    if not isinstance(path, str):
        raise InputError(f"a model is named by the path of its config.json, not {path!r:.40}")
    path = _file(path)
    raw = read_json(path)
    kind = assume_family or _kind(raw, path)
    if kind not in PLACES:
        unknown = Unknown("model_type", kind, PLACES, "families that are understood")
        raise InputError(f"{path}: {'' if assume_family else line_of(read_text(path), 'model_type')}{unknown}")
    name = os.path.basename(path.removesuffix("/config.json")).removesuffix(".json")
    try:
        return describe(raw, kind, name, read_text(path), tuple(assume_ignored))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def describe(raw: Config, kind: str, name: str, source: str = "", ignored: tuple[str, ...] = ()) -> Model:
    """The model that a config describes, read by the rules of one family; `source`: its text, for line numbers."""
    family = get(kind)
    named = raw.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(x, str) for x in named):
        raise InputError("architectures is no list of names")
    cls = named[0] if named else f"({family.classes[0]})"
    found = _expand(family, raw, source, ignored, cls.strip("()"), top=True)
    refused = {}
    if not cls.strip("()").endswith(family.classes) or len(named) > 1:
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
    )


class _Found(Struct):
    pieces: list[Piece] = []
    assumed: dict[str, Any] = {}
    left_out: list[str] = []
    families: list[Family] = []


def _expand(family: Family, raw: Config, source: str, ignored: tuple[str, ...], cls: str, top: bool = False) -> _Found:
    """All blocks of a config, those of the configs inside it first."""
    config, assumed = checked(raw, family, source, ignored, top)
    config["class"] = cls
    out = _Found(families=[family])
    inner: dict[str, Any] = {}
    for field, kind in family.inside.items():
        own = config[field]
        if own is None:
            out.left_out.append(f"what {field} would describe, which the config does not have")
            continue
        said = own.get("model_type")
        kind = kind or str(said)
        if kind not in PLACES or (said is not None and said not in (kind, raw.get("model_type"))):
            raise InputError(f"{field}: {Unknown('model_type', str(said), [kind])}")
        below = {k: v for k, v in own.items() if k != "architectures"}
        if field == "text_config" and config.get("tie_word_embeddings") is not None:
            below["tie_word_embeddings"] = config["tie_word_embeddings"]
        more = _expand(get(kind), below, source, (), cls)
        out.pieces += more.pieces
        out.families += more.families
        out.left_out += more.left_out
        assumed |= {f"{field}.{k}": v for k, v in more.assumed.items()}
        inner[field] = {**checked(below, get(kind), source, (), False)[0], "class": cls}
    config |= inner
    out.assumed = assumed
    out.left_out += [note for note, switch in family.notes if on(switch, config)]
    for stack in family.stacks:
        out.pieces += _stack(stack, config)
    return out


def _stack(stack: Stack, c: Config) -> list[Piece]:
    kinds = [k(c) for k in stack.kinds]
    if len(set(map(len, kinds))) > 1:
        raise InputError(f"the layers' lists differ in length: {', '.join(str(len(k)) for k in kinds)}")
    layers = [name for row in zip(*kinds) for name in row]
    rows = {name: _pieces(stack.rows[name], c) for name in dict.fromkeys(layers)}
    return [*_pieces(stack.before, c), *(p for name in layers for p in rows[name]), *_pieces(stack.after, c)]


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
    count: dict[tuple[Any, ...], int] = {}
    for p in pieces:
        count[_key(p)] = count.get(_key(p), 0) + p.count
    return tuple(Piece(*key[:3], dict(key[3]), *key[4:], count=n) for key, n in count.items())


def _runs(pieces: list[Piece]) -> Iterable[LayerSpec]:
    attention = [p for p in pieces if p.part == "attention" and p.over in (TEXT, SOURCE)]
    for _, run in groupby(attention, key=lambda p: (_key(p)[1:5], p.over)):
        same = list(run)
        p = same[0]
        yield LayerSpec(sum(x.count for x in same), p.page, p.uses, p.sizes, p.mask, p.over)


def _file(path: str) -> str:
    """The config.json itself: of a directory, or of a model in the local cache of a hub."""
    if os.path.isdir(path):
        inside = os.path.join(path, "config.json")
        if not os.path.isfile(inside):
            raise InputError(f"{path}: a directory without a config.json")
        return inside
    return path


def _kind(raw: Config, path: str) -> str:
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        found = "is missing" if "model_type" not in raw else f"is {str(kind)[:40]!r}, no text"
        raise InputError(f"{path}: model_type {found}; it says how to read the other fields: {', '.join(PLACES)}")
    return kind
