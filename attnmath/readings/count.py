"""Operations, read off the equations.

FLOPs of a term = (factors - 1 + one if it sums) x the index tuples that exist, so a multiply-add is 2; functions and
reductions by their row in `ops`; joining terms costs one addition each, of which every sum has one to spare; a table of
positions and constants costs nothing. Pairs that a mask excludes do not exist and are not counted. Where which pairs
exist depends on data, the count is an upper bound, and the step says so.

All of it is duck-typed: Python integers (exact at any size), float64 arrays (sweeps), Formula or SymPy (formulas).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.language.arith import Number, minimum, prod
from attnmath.language.masks import Mask, MaskExpr
from attnmath.language.ops import OPS
from attnmath.language.order import ordered
from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Op,
    Part,
    Program,
    Ref,
    Shift,
    digits,
    letters,
    ops,
    refs,
    settled,
    terms,
)


class Flops(Struct, frozen=True):
    """Floating-point operations by what they belong to; they add up to the layer's total."""

    projections: Number = 0  # products with learned weights
    matmul: Number = 0  # products between queries, keys and values, 2 per multiply-add
    softmax: Number = 0  # all other work inside the fused region: softmax, decays, outer products, selection
    other: Number = 0  # what lies outside both: rotary, norms, gates, convolutions, compression

    @property
    def core(self) -> Number:
        """The fused region: matmul and softmax."""
        return self.matmul + self.softmax

    @property
    def total(self) -> Number:
        """Everything."""
        return self.projections + self.core + self.other

    def __add__(self, more: Flops) -> Flops:
        return Flops(
            self.projections + more.projections,
            self.matmul + more.matmul,
            self.softmax + more.softmax,
            self.other + more.other,
        )


class Step(Struct, frozen=True):
    """One equation and what it costs; `at_most`: an upper bound, since the data decide which of its pairs exist."""

    equation: Equation
    flops: Flops
    exps: Number
    at_most: bool = False

    @property
    def name(self) -> str:
        """The tensor it defines."""
        return self.equation.out.name


class Space:
    """A page's index space at given sizes: how many index tuples exist, and how many elements a tensor has."""

    def __init__(self, program: Program, sizes: Mapping[str, Number]) -> None:
        for n, v in sizes.items():
            if getattr(getattr(v, "dtype", None), "kind", "f") in "iub":
                raise InputError(f"{n} is an array of integers, which wrap silently; give float64 (exact up to 2^53)")
        self.program, self.sizes = program, sizes
        self._known: dict[tuple[str, ...], Number] = {}
        self._bounded: set[tuple[str, ...]] = set()  # the letters whose tuples are counted from above only
        self.at_most = False  # whether such a count was asked for

    @cached_property
    def masks(self) -> dict[tuple[str, str], Mask]:
        return {pair: mask.build(self.sizes) for pair, mask in self.program.sees.items()}

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Number]:
        """How many (query, key) pairs each mask allows."""
        return {(q, k): m.pairs(self.sizes[q], self.length(k), self.past(q)) for (q, k), m in self.masks.items()}

    def past(self, q: str) -> Number:
        """The position of the first query."""
        return self.sizes.get("past", 0) if q == "t" else 0

    def length(self, d: str) -> Number:
        """The length of an index; `c i` is one axis read as two, `n|s` one of two parts."""
        return prod(sum(self.sizes[p] for p in x.strip("()").split("|")) for x in d.split())

    def tuples(self, found: Iterable[str]) -> Number:
        """How many index tuples exist: the product of the lengths, pairs under a mask counted as pairs."""
        names = tuple(dict.fromkeys(found))
        if names not in self._known:
            self._known[names] = self._tuples(names)
        self.at_most |= names in self._bounded
        return self._known[names]

    def _tuples(self, found: tuple[str, ...]) -> Number:
        rest = list(found)
        for d in rest:
            if "|" in d:
                total: Number = 0
                for part in d.split("|"):
                    total = total + self.tuples(y for x in rest for y in (part.strip("()").split() if x == d else [x]))
                return total
        count: Number = 1
        for (q, k), pairs in self.pairs.items():
            both = {q, *k.split()}
            if both <= set(found):
                if both <= set(rest):
                    count = count * pairs
                    rest = [x for x in rest if x not in both]
                else:  # a second mask on one query: as if every query saw as many as any does
                    self._bounded.add(found)
        return count * prod(self.sizes[d] for d in rest)

    def partners(self, found: tuple[str, ...], left: tuple[str, ...]) -> tuple[str, ...]:
        """The letters of the left that a mask joins to a letter that a term sums over: which tuples exist depends on them."""
        out = []
        for q, k in self.pairs:
            both = [q, *k.split()]
            summed = [d for d in both if d in found and d not in left]
            out += [d for d in both if summed and d not in found and d in left]
        return tuple(dict.fromkeys(out))

    def elements(self, index: tuple[Index, ...]) -> Number:
        """How many elements a tensor with this index has, masks aside."""
        return prod(self._axis(i) for i in index)

    def check_lengths(self) -> None:
        """Every axis is as long as whatever indexes it; InputError names the first that is not (integers only)."""
        tensors = self.program.tensors
        for r in (r for e in self.program.equations for x in (e.out, *e.alts) for r in refs(x)):
            for i, own in zip(r.index, tensors[r.name]):
                if i == own or isinstance(i, (Shift, Ref)) or i == "last" or _gathers(i):
                    continue
                a, b = self._axis(i), self._axis(own)
                if isinstance(a, int) and isinstance(b, int) and (a > b if _whole_blocks(i) else a != b):
                    raise InputError(f"{r}: {i} is {a} long, but the {own} of {r.name} is {b}")

    def _axis(self, i: Index) -> Number:
        if isinstance(i, (Group, Cat)):
            lengths = [self._axis(p) for p in i.parts]
            return prod(lengths) if isinstance(i, Group) else sum(lengths)
        if isinstance(i, (Ref, Part)):
            return prod(self.sizes[d] for d in letters(i))
        return self.length(i.base if isinstance(i, Shift) else i)


def count(program: Program, sizes: Mapping[str, Number]) -> tuple[Step, ...]:
    """What each equation costs, in order.

    `sizes`: the length of every index and the value of every option that the page names (see `letters.resolve`).

    >>> from attnmath import variants
    >>> from attnmath.language.letters import resolve
    >>> page = variants.get("gqa").program
    >>> steps = count(page, resolve(page.names, {"t": 8192, "h": 32, "g": 8})[0])
    >>> total(steps).matmul
    549822922752
    """
    space, inside, free = Space(program, sizes), {e.out.name for e in core(program)}, tables(program)
    space.check_lengths()
    by_data = any(
        op.name == "only" and not {r.name for r in refs(op)} <= free
        for e in program.equations
        for a in e.alts
        for op in ops(a)
    )
    steps = []
    for e in program.equations:
        if e.alts:
            space.at_most = False
            flops, exps = (Flops(), 0) if e.out.name in free else _cost(e, space, e.out.name in inside)
            steps.append(Step(e, flops, exps, space.at_most or (by_data and e.out.name in inside)))
    return tuple(steps)


def tables(program: Program) -> frozenset[str]:
    """The tensors that are made of positions and constants alone: they can be made once, and cost nothing.

    >>> from attnmath.language.parse import program
    >>> sorted(tables(program("F[p] = 2^-@p\\nR[t p] = @t * F[p]\\nQ[b t p] = X[b t p] * R[t p]")))
    ['F', 'R']
    """
    found: set[str] = set()
    for e in program.equations:
        if e.alts and all(r.name in found for a in e.alts for r in refs(a)):
            found.add(e.out.name)
    return frozenset(found)


def total(steps: Iterable[Step]) -> Flops:
    """The FLOPs of all steps together.

    >>> total([]).total
    0
    """
    out = Flops()
    for s in steps:
        out = out + s.flops
    return out


def _cost(e: Equation, space: Space, inside: bool) -> tuple[Flops, Number]:
    """(FLOPs, exponentials) of one equation."""
    rest: Number = 0
    exps: Number = 0
    flops = Flops()
    scatters = any(refs(i) for i in e.out.index)  # what is written where data say adds up
    for index, x in settled(e):
        left = tuple(d for i in index for d in letters(i))
        parts, summing = terms(x), 0
        for _, num, den in parts:
            found = tuple(dict.fromkeys(d for f in (*num, *den) for d in letters(f)))
            over = set(found) - set(left)
            sums = scatters or bool(over)
            found = (*found, *space.partners(found, left))
            summing += sums
            product = (len(num) + len(den) - 1 + sums) * space.tuples(found)
            if (over and _projects(num)) or (sums and _teaches(e.out, num)):
                flops = flops + Flops(projections=product)
            elif sums and inside and sum(map(_data, num)) > 1:  # a third factor is no part of a matrix product
                matmul = 2 * space.tuples(found)
                flops, rest = flops + Flops(matmul=matmul), rest + (product - matmul)
            else:
                rest = rest + product
            for f in (*num, *den):
                more = _inside(f, space)
                rest, exps = rest + more[0], exps + more[1]
        rest = rest + max(0, len(parts) - 1 - summing) * space.tuples(left)
    return flops + (Flops(softmax=rest) if inside else Flops(other=rest)), exps


def _inside(x: Expr, space: Space) -> tuple[Number, Number]:
    """(FLOPs, exponentials) of the functions in an expression, each computed once per tuple of its own indices."""
    if not isinstance(x, Op) or not refs(x):
        return 0, 0
    row = OPS[x.name]
    here = space.tuples(dict.fromkeys(d for a in x.args for d in letters(a)) if row.along else letters(x))
    if row.along == "swap":  # who selects none looks at none
        here = here * minimum(1, space.elements((x.over[1],)))
    flops, exps = row.cost * here, row.exps * here
    if row.joins and len(x.args) > 1:
        rows = space.tuples(d for d in letters(x.args[0]) if d not in x.over)
        flops, exps = flops + row.joins * rows, exps + row.exps * rows
    for a in x.args:
        more = _inside(a, space)
        flops, exps = flops + more[0], exps + more[1]
    return flops, exps


def learned(x: Expr) -> bool:
    """A learned tensor: its name starts with W or B, and it is the same for every sequence; which of its rows are read may
    depend on the sequence.

    >>> learned(Ref("WQ", ("m", "h", "d"))), learned(Ref("X", ("b", "t", "m")))
    (True, False)
    """
    return isinstance(x, Ref) and x.name[0] in "WB" and "b" not in x.index


def _projects(num: tuple[Expr, ...]) -> bool:
    """Whether a term that sums is a matrix product with a learned tensor, and not a gain within a sum over two activations."""
    return any(map(learned, num)) and sum(_data(f) and not learned(f) for f in num) < 2


def _teaches(out: Ref, num: tuple[Expr, ...]) -> bool:
    """Whether a term is a matrix product that makes the gradient of a learned tensor: its cotangent, which stands first,
    lacks what the forward product summed over.
    """
    taught = out.name[0] == "d" and len(out.name) > 1 and learned(Ref(out.name[1:], out.index))
    return taught and len(num) > 1 and not set(letters(out)) <= set(letters(num[0]))


def _data(x: Expr) -> bool:
    return "b" in letters(x) and bool(refs(x))


def _gathers(i: Index) -> bool:
    return isinstance(i, Group) and any(isinstance(p, Ref) for p in i.parts)


def _whole_blocks(i: Index) -> bool:
    """Whether an index reads an axis block by block, some of them: it leaves out what does not fill one, or lies elsewhere."""
    lead = i.parts[0] if isinstance(i, Group) else None
    return isinstance(lead, Shift) or lead in ("o", "o'", "f")


def core(program: Program) -> tuple[Equation, ...]:
    """The fused region: the equations in which a query meets a key, or that belong to a recursion or read its state, or are
    made chunk by chunk; and those that make a number for each row of pairs out of what the region has, for it to read.

    >>> from attnmath import variants
    >>> [e.out.name for e in core(variants.get("mha").program)]
    ['S', 'L', 'A', 'O']
    """
    pairs = [{q, *k.split()} for q, k in program.sees]
    free, states = tables(program), recursive(program)

    def meets(e: Equation) -> bool:
        found = set(letters(e.out)).union(*(letters(a) for a in e.alts), *(op.over for a in e.alts for op in ops(a)))
        return any(p <= {part for d in found for part in digits(d)} for p in pairs)

    def steps(e: Equation) -> bool:
        chunked = "c" in letters(e.out)
        return chunked or e.out.name in states or any(r.name in states for a in e.alts for r in refs(a))

    inside = {e.out.name: e for e in program.defined.values() if e.out.name not in free and (meets(e) or steps(e))}
    read = {r.name for e in inside.values() for r in e.reads}
    rows = [_row(e.out, pair) for e in inside.values() for pair in program.sees]

    def of_rows(e: Equation) -> bool:
        mine = e.out.name in read and {r.name for r in e.reads} <= read | set(inside)
        return mine and e.out.name not in free and set(letters(e.out)) in rows

    return tuple(e for e in program.defined.values() if e.out.name in inside or of_rows(e))


def _row(out: Ref, pair: tuple[str, str]) -> set[str] | None:
    """The indices of a row of what is indexed by a query and its keys; None of anything else."""
    q, k = pair[0], set(pair[1].split())
    found = letters(out)
    rest = {d for d in found if not k & set(digits(d))}
    return rest if q in rest and k <= {p for d in found for p in digits(d)} else None


def recursive(program: Program) -> frozenset[str]:
    """The tensors that a recursion computes.

    >>> from attnmath.language.parse import program
    >>> sorted(recursive(program("H[t] = 2 * H[t-1] + X[t]\\nY[t] = H[t]")))
    ['H']
    """
    seen: set[str] = set()
    made = program.defined
    for e in made.values():  # in order, only a recursion reads what is not there yet
        seen.add(e.out.name)
        if any(r.name in made and (r.name == e.out.name or r.name not in seen) for a in e.alts for r in refs(a)):
            return frozenset(x.out.name for group, loop in ordered(program) if loop for x in group)
    return frozenset()


def unmasked(program: Program) -> Program:
    """The same page with every pair in existence: what dense code computes.

    >>> from attnmath import variants
    >>> str(unmasked(variants.get("mha").program).sees["t", "n"])
    'full'
    """
    return replace(program, sees={pair: MaskExpr("full") for pair in program.sees})


def parameters(program: Program, sizes: Mapping[str, Number]) -> Number:
    """How many learned numbers the page reads.

    >>> from attnmath import variants
    >>> page = variants.get("mha").program
    >>> parameters(page, {"m": 768, "h": 12, "d": 64, "e": 64, "b": 1, "t": 1, "n": 1, "past": 0})
    2359296
    """
    space, out = Space(program, sizes), 0
    for r in program.inputs.values():
        if learned(r):
            out = out + space.elements(r.index)
    return out
