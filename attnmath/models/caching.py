"""What an attention layer keeps from step to step, read off its page: rows of a cache, keys that only choose, states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from attnmath.keys import Reading, usual_form
from attnmath.language.syntax import Program, Ref, ops, refs
from attnmath.models import Piece
from attnmath.models.counting import by_letter, layer_of
from attnmath.models.schema import TEXT
from attnmath.readings.count import recursive
from attnmath.readings.memory import bits, check_blocks, state_bits

FAR = 2**24  # a context beyond every window


class Kept(Struct, frozen=True):
    """One tensor that a layer keeps: `bits` for each `every` tokens, of at most the last `window` (None: all); or a state, as
    many bits whatever the context. `chooses`: its numbers only choose others; `source`: tokens of an encoder; `axes` and
    their lengths, for whoever shares it among ranks.
    """

    tensor: str
    bits: int
    every: int
    window: int | None
    state: str  # "" a cache, "recurrent", or "convolution"
    chooses: bool
    source: bool
    axes: tuple[str, ...]
    lengths: dict[str, int]


def bidirectional(p: Piece) -> bool:
    """Whether every token sees later ones, so that nothing can be kept for them.

    >>> bidirectional(Piece("attention", "mha", (), {}, "full", (), "tokens"))
    True
    """
    return p.mask is not None and p.mask.split(":")[0] in ("full", "around")


def reading(
    p: Piece, tokens: dict[str, int], dtype: str = "bf16", kv_dtype: str = "bf16", train: bool = False
) -> Reading:
    """A piece's page in the form that a kernel would take, at its sizes; `train`: with the page of its gradient, nothing
    computed again.

    >>> linear = Piece("mlp", "linear", (), {"d-model": 8, "out": 3}, None, (), "tokens")
    >>> reading(linear, {"b": 1, "t": 5}).flops.projections
    240
    """
    layer = layer_of(p)
    given = {k: v for k, v in by_letter(p, **tokens).items() if k not in layer.local}
    form, _ = usual_form(layer, given, dtype, kv_dtype, train)
    page = layer.form(form)
    sizes, _ = layer.sizes(given, page=page)
    return Reading(page, sizes, dtype, kv_dtype, train=train, recompute="none" if train else None)


def choosing(page: Program) -> frozenset[str]:
    """The tensors that only choose: whose numbers reach the result through a selection alone.

    >>> from attnmath import variants
    >>> sorted(choosing(variants.get("dsa").program) & {"kI", "aKV"})
    ['kI']
    """
    found, todo = {page.output}, [page.output]
    while todo:
        made = page.defined.get(todo.pop())
        for r in (r for a in (made.alts if made else ()) for r in refs(a)):
            inner = {x.name for i in r.index for x in refs(i)} if isinstance(r, Ref) else set()
            for name in {r.name} - inner:
                if name not in found and not _selects(page, name):
                    found.add(name)
                    todo.append(name)
    return frozenset(n for n in page.tensors if n not in found)


def _selects(page: Program, name: str) -> bool:
    made = page.defined.get(name)
    return made is not None and any(op.name == "topk" for a in made.alts for op in ops(a))


def index_bits_of(dtype: str) -> Callable[[int], int]:
    """Bits of a row of an indexer's keys: fp8 with a 4-byte scale a row, as FlashMLA and DeepGEMM lay them out; else plain.

    >>> index_bits_of("fp8")(128) // 8
    132
    """
    if dtype == "fp8":
        return lambda width: 8 * width + 32
    return lambda width: int(width * bits(dtype))


def kept(p: Piece, dtype: str, kv_dtype: str, index_dtype: str = "fp8") -> list[Kept]:
    """All that one attention layer keeps; nothing for an encoder, which sees everything at once.

    >>> gqa = Piece("attention", "gqa", (), {"heads": 4, "kv-heads": 2, "head-dim": 8, "d-model": 32}, None, (), "tokens")
    >>> [(k.tensor, k.bits, k.axes) for k in kept(gqa, "bf16", "bf16")]
    [('k', 256, ('b', 't', 'g', 'd')), ('v', 256, ('b', 't', 'g', 'e'))]
    """
    if p.part != "attention" or p.over != TEXT or bidirectional(p):
        return []
    source = p.page == "cross"
    x = reading(p, {"b": 1, "t": 1, "n": FAR} | ({"kept": FAR} if source else {}), dtype, kv_dtype)
    check_blocks(x.caches, kv_dtype)
    only, states, out = choosing(x.page), recursive(x.page), []
    for c in x.caches:
        numbers: Any = c.per_row
        rows: Any = c.rows
        every: Any = c.every
        state = "" if rows is not None else "recurrent" if c.tensor in states else "convolution"
        wide = {"": bits(kv_dtype), "recurrent": state_bits(dtype), "convolution": bits(dtype)}[state]
        chooses = c.tensor in only and not state
        total: Any = index_bits_of(index_dtype)(numbers) if chooses else numbers * wide
        axes = tuple(map(str, x.page.tensors[c.tensor]))
        lengths = {k: v for k, v in x.sizes.items() if isinstance(v, int)}
        window = rows * every if rows is not None and c.capped else None
        out.append(Kept(c.tensor, -(-total // 1), every, window, state, chooses, source, axes, lengths))
    return out
