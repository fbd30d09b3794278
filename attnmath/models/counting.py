"""Readings of a model: what it learns, caches and computes, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from attnmath import blocks, layers, variants
from attnmath.language.letters import OPTIONS
from attnmath.language.syntax import Program, Ref, ops, refs
from attnmath.layers import Layer
from attnmath.models import Model, Piece
from attnmath.models.schema import PARTS
from attnmath.readings.count import Space, learned

HEADS = ("h", "g", "group")
SPLIT = (*HEADS, "r", "ffn", "vocab")  # the axes that tensor ranks share; the first of a tensor's that there is


def layer_of(p: Piece) -> Layer:
    """A piece's page with its modifiers and mask, at the sizes of its own words.

    >>> layer_of(Piece("norm", "rms-norm", (), {"d-model": 64}, None, (), "tokens"))
    <Layer rms-norm with nothing, None>
    """
    return _layer(*_asked(p))


def _asked(p: Piece) -> tuple[str, tuple[str, ...], str | None, bool, tuple[tuple[str, int], ...]]:
    words = tuple((k, v) for k, v in p.sizes.items() if k not in OPTIONS)
    return p.page, p.uses, p.mask, "window" in p.sizes, words


@lru_cache
def _names(*asked: Any) -> frozenset[str]:
    """The letters that a page stands on, and those that say how heads are grouped."""
    return frozenset((*_layer(*asked).names, "h", "g"))


@lru_cache
def _layer(
    page: str, uses: tuple[str, ...], mask: str | None, window: bool, words: tuple[tuple[str, int], ...]
) -> Layer:
    from msgspec.structs import replace

    found = variants.get(page) if page in variants.names() else blocks.get(page)
    built = layers.build(found, uses, mask, window)
    return replace(built, local={**built.local, **dict(words)})


def by_letter(p: Piece, **tokens: int) -> dict[str, int]:
    """A piece's sizes by letter, and how many tokens it runs over.

    >>> by_letter(Piece("norm", "rms-norm", (), {"d-model": 64}, None, (), "tokens"), t=3)
    {'b': 1, 't': 3, 'm': 64}
    """
    named = {OPTIONS[k]: v for k, v in p.sizes.items() if k in OPTIONS}
    names = _names(*_asked(p))
    return {k: v for k, v in {"b": 1, "t": 1, **tokens, **named}.items() if k in names}


def chosen(page: Program) -> dict[str, tuple[str, str]]:
    """The learned tensors of which only some rows are read, those of the experts that are chosen: the axis, and how many; one
    number for each expert is the router's.

    >>> chosen(layers.build(blocks.get("experts")).form())["WG"]
    ('expert', 'active')
    """
    picked = {e.out.name for e in page.equations for a in e.alts for op in ops(a) if op.name == "topk"}
    found = {}
    for r in (r for e in page.equations for a in e.alts for r in refs(a)):
        for axis, i in enumerate(r.index):
            routed = len(r.index) > 1 and isinstance(i, Ref) and i.name in picked
            if routed and learned(Ref(r.name, ())) and isinstance(i, Ref):
                found[r.name] = str(page.tensors[r.name][axis]), str(i.index[-1])
    return found


def weights(p: Piece) -> dict[str, tuple[int, int]]:
    """(numbers, numbers that one token needs) of each learned tensor of a piece, but for those that are another's.

    >>> weights(Piece("norm", "rms-norm", (), {"d-model": 64}, None, (), "tokens"))
    {'WN': (64, 64)}
    """
    layer = layer_of(p)
    page = layer.form()
    sizes, _ = layer.sizes(by_letter(p), page=page)
    space, some = Space(page, sizes), chosen(page)
    out = {}
    for name, r in page.inputs.items():
        if learned(r) and name not in p.shares:
            whole = int(space.elements(r.index))
            axis, few = some.get(name, ("", ""))
            out[name] = whole, whole // int(sizes[axis]) * min(int(sizes[few]), int(sizes[axis])) if axis else whole
    return out


class Parameters(Struct, frozen=True):
    """How many numbers a model has learned: `active` for one token, `embedding` (input embedding, learned positions, untied
    head), and by part; routed experts and their router apart.
    """

    total: int
    active: int
    embedding: int
    by_part: dict[str, int]


def parameters(model: Model) -> Parameters:
    """What a model has learned.

    >>> from attnmath.models import describe
    >>> llama = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 10, "intermediate_size": 16}
    >>> parameters(describe(llama, "llama", "x")).total
    824
    """
    parts = dict.fromkeys(PARTS, 0)
    total = active = embedding = 0
    for p in model.pieces:
        some = chosen(layer_of(p).form()) if p.part == "experts" else {}
        for name, (whole, used) in weights(p).items():
            parts["router" if p.part == "experts" and name not in some else p.part] += whole * p.count
            total, active = total + whole * p.count, active + used * p.count
            if p.part == "embedding" or p.page == "head":
                embedding += whole * p.count
    return Parameters(total, active, embedding, {k: v for k, v in parts.items() if v})


def shards(axes: Iterable[str], lengths: Mapping[str, Any], tensor: int) -> int:
    """Into how many parts the tensor ranks divide a tensor with these axes; a head that fewer than all have is held by several.

    >>> shards(("m", "h", "d"), {"h": 32}, 8), shards(("m", "g", "d"), {"g": 4}, 8), shards(("m",), {}, 8)
    (8, 4, 1)
    """
    own = [i for i in axes if i in SPLIT]
    if not own:
        return 1
    heads = int(lengths[own[0]]) * (int(lengths["r"]) if "g" in own and "r" in own else 1)
    return min(tensor, heads) if own[0] in HEADS else tensor
