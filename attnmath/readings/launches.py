"""What runs one after the other when nothing but neighbours is fused: matrix products with their sizes, and passes over memory.

A term that sums over an axis of two tensors, each of which has an axis of the result to itself, is a matrix product. What
lies between two of them, norms, activations, dropouts, softmaxes, is one pass, which reads what it needs and writes what
others read, once. A tensor that is another one under other indices costs nothing. Where ranks share an axis that a product
sums over, each holds a part of the sum, and the parts are added up over the links.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.language.arith import Number, prod
from attnmath.language.syntax import Equation, Expr, Program, Ref, letters, refs, settled, terms
from attnmath.readings.count import Space, learned, tables
from attnmath.readings.memory import DRAWN

NOBODY: Mapping[str, int] = {}


class Product(Struct, frozen=True):
    """`copies` products of (m by k) with (k by n) that make the tensors `of`; `partial`: the sum runs over a shared axis;
    `rows_each`: rows for each token, one for each expert that it has chosen.
    """

    of: tuple[str, ...]
    m: Number
    n: Number
    k: Number
    copies: Number
    partial: bool
    rows_each: Number = 1

    @property
    def flops(self) -> Number:
        """Operations, 2 per multiply-add; pairs that a mask excludes among them."""
        return 2 * self.m * self.n * self.k * self.copies


class Pass(Struct, frozen=True):
    """Equations between two products that run as one: what it reads and writes, in bytes."""

    of: tuple[str, ...]
    bytes: Number


class Launches(Struct, frozen=True):
    """What one page runs: its products, its passes over memory, and tensors of which each rank holds a part of the sum, with
    their bytes.
    """

    products: tuple[Product, ...]
    passes: tuple[Pass, ...]
    summed_bytes: Number

    @property
    def flops(self) -> Number:
        """Operations of all products."""
        return sum((p.flops for p in self.products), 0)

    @property
    def pass_bytes(self) -> Number:
        """What all passes move."""
        return sum((p.bytes for p in self.passes), 0)


def launches(
    page: Program,
    sizes: Mapping[str, Number],
    element_bytes: float,
    of: Iterable[str] | None = None,
    shared: Mapping[str, int] = NOBODY,
    by_tokens: int = 1,
) -> Launches:
    """What the equations `of` a page run (all, if none are named), at these sizes, those of one rank; `shared`: the axes that
    ranks share, and how many do; `by_tokens`: how many share by their tokens what has none of these axes. What another
    equation of the page reads is written, and so is the page's result.

    >>> from attnmath import blocks
    >>> page = blocks.get("mlp").program
    >>> found = launches(page, {"b": 1, "t": 8, "m": 4, "ffn": 16}, 2.0, shared={"ffn": 2})
    >>> [(p.of, p.m, p.n, p.k, p.partial) for p in found.products]
    [(('U',), 8, 16, 4, False), (('Y',), 8, 4, 16, True)]
    >>> found.passes, found.summed_bytes
    ((Pass(of=('H',), bytes=512.0),), 64.0)
    """
    space, free, views = Space(page, sizes), tables(page), _views(page)
    wanted = set(page.defined if of is None else of) - free - set(views)
    products: dict[tuple[Any, ...], Product] = {}
    runs: list[list[Equation]] = [[]]
    summed: Number = 0
    for e in page.defined.values():
        if e.out.name not in wanted:
            continue
        found = [p for index, x in settled(e) for p in _products(e.out, index, x, space, shared, free, views)]
        if not found:
            runs[-1].append(e)
            continue
        runs.append([])
        for key, p in found:
            products[key] = _joined(products[key], p) if key in products else p
        if any(p.partial for _, p in found):
            rows = max(p.rows_each for _, p in found)  # those of a token are added up first
            summed = summed + space.elements(page.tensors[e.out.name]) * element_bytes / rows
    own = frozenset(d for d, ways in shared.items() if ways > 1)
    passes = tuple(_pass(run, page, space, views, element_bytes, own, by_tokens) for run in runs if run)
    return Launches(tuple(products.values()), passes, summed)


def _views(page: Program) -> dict[str, str]:
    """Tensors that are one other under other indices: that one's name."""
    out: dict[str, str] = {}
    for e in page.defined.values():
        x = e.alts[0] if len(e.alts) == 1 else None
        whole = isinstance(x, Ref) and set(letters(x)) <= {*letters(e.out), "past", "t", "n"}
        if isinstance(x, Ref) and whole and not any(refs(i) for i in (*x.index, *e.out.index)):
            out[e.out.name] = out.get(x.name, x.name)
    return out


def _products(
    out: Ref,
    index: tuple[Any, ...],
    x: Expr,
    space: Space,
    shared: Mapping[str, int],
    free: frozenset[str],
    views: Mapping[str, str],
) -> Iterator[tuple[tuple[str, ...], Product]]:
    """The matrix products among the terms of an equation, each with what it has in common with those that run as one with
    it: the activations that several weights are multiplied with, or the sum that several terms go into.
    """
    scattered = any(refs(i) for i in index)  # rows of a learned tensor, where the data say
    left = tuple(dict.fromkeys(d for i in index if not refs(i) for d in letters(i)))
    for _, num, _ in terms(x):
        named = [f for f in num if isinstance(f, Ref)]
        wide = sorted(((f, _axes(f)) for f in named), key=lambda found: -len(found[1]))[:2]
        if len(wide) < 2 or any(f.name in free for f, _ in wide):
            continue
        (f, one), (g, two) = wide
        over = [d for d in one if d in two and d not in left]
        rows, columns = ([d for d in a if d in left and d not in b] for a, b in ((one, two), (two, one)))
        if not (over and rows and columns):
            continue
        if learned(Ref(f.name, ())) or (out.name.startswith("dW") and f.name.startswith("d")):
            (f, one, rows), (g, two, columns) = (g, two, columns), (f, one, rows)  # what is given stands first
        alike = [d for d in one if d in two and d in left]
        rest = [d for h in (f, g) for d in letters(h) if d not in (*over, *rows, *columns, *alike)]
        more = prod(space.sizes[d] for d in dict.fromkeys(rest))  # rows for each expert that is chosen
        m, n, k, copies = (prod(space.sizes[d] for d in found) for found in (rows, columns, over, alike))
        m, k = (m, k * more) if scattered else (m * more, k)
        partial = any(shared.get(d, 1) > 1 for d in over)
        each = {d for i in (*f.index, *g.index) if isinstance(i, Ref) for d in letters(i.index[-1])} & set(left)
        p = Product((out.name,), m, n, k, copies, partial, prod(space.sizes[d] for d in each))
        teaches, weighs = out.name.startswith("dW"), learned(Ref(g.name, ()))
        given = views.get(f.name, f.name)
        if weighs and out.name.startswith("d"):
            yield ("sum", out.name, m, n, copies), p
        elif weighs or teaches:
            yield ("of" if weighs else "to", given, m, k, copies), p
        else:
            yield ("sum", out.name, m, n, copies), p


def _joined(p: Product, more: Product) -> Product:
    """Two that run as one: the weights side by side, or, where both go into one sum, the sums after each other."""
    of, partial = tuple(dict.fromkeys((*p.of, *more.of))), p.partial or more.partial
    if of == p.of:
        return replace(p, k=p.k + more.k, partial=partial)
    return replace(p, of=of, n=p.n + more.n, partial=partial)


def _axes(f: Ref) -> tuple[str, ...]:
    """The letters of a factor; of rows of a learned tensor that are gathered, those of its own axes alone."""
    if learned(Ref(f.name, ())) and "b" in letters(f):
        return tuple(d for i in f.index if not isinstance(i, Ref) for d in letters(i))
    return letters(f)


def _pass(
    run: list[Equation],
    page: Program,
    space: Space,
    views: Mapping[str, str],
    element_bytes: float,
    shared: frozenset[str],
    by_tokens: int,
) -> Pass:
    """What equations that run as one read of others, and write for others; of rows that are gathered, as many as there are."""

    def size(r: Ref) -> Number:
        width = 1.0 if r.name.startswith(DRAWN) else element_bytes
        gathered = any(refs(i) for i in r.index)
        count = prod(space.sizes[d] for d in letters(r)) if gathered else space.elements(page.tensors[r.name])
        return count * width / (1 if shared & set(letters(r)) else by_tokens)

    own = {e.out.name: e.out for e in run}
    read = {views.get(r.name, r.name): r for e in run for r in e.reads if r.name not in own}
    later = {views.get(r.name, r.name) for e in page.defined.values() if e.out.name not in own for r in e.reads}
    later |= {n for n in own if not any(n in (r.name for r in e.reads) for e in page.defined.values())}  # results
    return Pass(tuple(own), sum((size(r) for r in (*read.values(), *(own[n] for n in own if n in later))), 0))
