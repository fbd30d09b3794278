"""What a forward pass keeps for the backward one: whatever the program of the gradient reads of it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from attnmath.language.arith import Number
from attnmath.language.ops import OPS
from attnmath.language.syntax import Expr, Index, Op, Program, Ref, letters, ops, refs
from attnmath.readings.count import Space, learned, recursive, tables
from attnmath.readings.gradient import Gradient
from attnmath.readings.memory import DRAWN, bits, in_bytes, state_bits

KINDS = {
    "given": "handed in: what the layer reads",
    "made": "what the forward pass computed",
    "row": "one number of a row: a mean, a sum, a maximum; single precision",
    "drawn": "zeros and ones of dropout, a byte each",
    "place": "places that data chose, 64 bits each",
    "table": "made of positions alone: one for all layers and sequences",
}


class Saved(Struct, frozen=True):
    """A tensor that is kept, its elements and the bits of each; `readers`: what the backward pass computes from it."""

    tensor: str
    index: tuple[Index, ...]
    elements: Number
    bits: Number
    kind: str
    readers: tuple[str, ...]

    @property
    def bytes(self) -> Number:
        """Its size."""
        return in_bytes(self.elements * self.bits)


def saved(found: Gradient, sizes: Mapping[str, Number], dtype: str) -> tuple[Saved, ...]:
    """Every tensor that is kept, in the order in which the forward pass makes them; learned ones, which are there anyway,
    are left out. A tensor that is another one under other indices is that one; what was drawn for a tensor that is computed
    again is drawn again, from its seed.

    >>> from attnmath import blocks
    >>> from attnmath.readings.gradient import gradient
    >>> page = blocks.get("gated-mlp").program
    >>> kept = saved(gradient(page), {"b": 1, "t": 10, "m": 4, "ffn": 16}, "bf16")
    >>> [(s.tensor, s.bytes) for s in kept]
    [('X', 80), ('G', 320), ('U', 320), ('Hsilu', 320), ('H', 320)]
    """
    page, space = found.forward, Space(found.forward, sizes)
    kinds, base = _kinds(page), _views(page)
    readers: dict[str, list[str]] = {}
    for e in found.backward.equations:
        for r in (r for x in (e.out, *e.alts) for r in (refs(x) if e.alts else ())):
            if r.name in page.tensors and r.name not in found.backward.defined and r.name not in found.seeds.values():
                readers.setdefault(base.get(r.name, r.name), []).append(e.out.name)
    wide, again = _wide(page), {page.tensors[n] for n in found.backward.defined if n in page.tensors}
    return tuple(
        Saved(
            n,
            page.tensors[n],
            space.elements(page.tensors[n]),
            _bits(n, kinds[n], n in wide, n in recursive(page), dtype),
            kinds[n],
            tuple(dict.fromkeys(readers[n])),
        )
        for n in page.tensors
        if n in readers and kinds[n] != "learned" and not (kinds[n] == "drawn" and page.tensors[n] in again)
    )


def _bits(name: str, kind: str, wide: bool, state: bool, dtype: str) -> Number:
    if kind in ("drawn", "place"):
        return {"drawn": 8, "place": 64}[kind]
    return state_bits(dtype) if wide or state or kind == "row" else bits(dtype)


def _kinds(page: Program) -> dict[str, str]:
    """What each tensor is: a row of KINDS, or learned."""
    free, out = tables(page), {}
    read = [t for e in page.equations for x in (e.out, *e.alts) for t in refs(x)]
    gathered = {r.name for t in read for i in t.index for r in refs(i)}
    for name, index in page.tensors.items():
        made = page.defined.get(name)
        if name in gathered:
            out[name] = "place"
        elif made is None or not made.alts:
            out[name] = "drawn" if name.startswith(DRAWN) else "learned" if learned(Ref(name, index)) else "given"
        elif name in free:
            out[name] = "table"
        else:
            out[name] = "row" if all(_of_rows(a, out) for a in made.alts) else "made"
    return out


def _of_rows(x: Expr, kinds: Mapping[str, str]) -> bool:
    """Whether an expression reduces rows to a number each, or goes on from such numbers alone."""
    if isinstance(x, Op):
        return OPS[x.name].along == "drop" or all(_of_rows(a, kinds) for a in x.args)
    return not isinstance(x, Ref) or kinds.get(x.name) in ("row", "table")


def _views(page: Program) -> dict[str, str]:
    """Tensors that are another one, read under other indices and in full: that one's name."""
    out: dict[str, str] = {}
    for e in page.equations:
        x = e.alts[0] if len(e.alts) == 1 else None
        if isinstance(x, Ref) and not any(refs(i) for i in x.index) and len(letters(e.out)) <= len(letters(x)):
            out[e.out.name] = out.get(x.name, x.name)
    return out


def _wide(page: Program) -> set[str]:
    """The tensors in single precision: cast up, or computed from such, and not cast down."""
    out: set[str] = set()
    for e in page.equations:
        for a in e.alts:
            up = any(o.name == "upcast" for o in ops(a)) or any(r.name in out for r in refs(a))
            if up and not (isinstance(a, Op) and a.name == "downcast"):
                out.add(e.out.name)
    return out
