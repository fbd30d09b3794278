"""Reverse mode: from a page to the page of its gradient, in the same language.

One rule does it: where an equation reads A[i], the cotangent dA[i] gains the cotangent of the left times everything else
in the term, by the adjoint texts of `ops`. Reading becomes writing: a slice becomes a pad, a gather a scatter, and t-1
becomes t+1, so that the gradient of a recurrence is a recurrence that runs backwards and that of a triangular solve the
transposed solve, without a rule for either. What only chooses (a selection's places) is a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, LanguageError, Unknown
from attnmath.language.modify import prune
from attnmath.language.ops import OPS
from attnmath.language.order import in_order, ordered
from attnmath.language.parse import expression
from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Num,
    Op,
    Part,
    Pos,
    Program,
    Ref,
    Shift,
    digits,
    letters,
    ops,
    refs,
    settled,
    swap_refs,
    terms,
)

ARITHMETIC = ("+", "-", "*", "/", "^", "neg")
ROW_SUM = "sum_o(y * g)"  # of a tensor times its cotangent: FlashAttention's D
ROWS = "old"  # the index of a cache's rows, with their number
WORDS = {"+": "sum", "-": "diff", "neg": "neg", "*": "product", "/": "quotient"}  # what part of an equation is called


class Gradient(Struct, frozen=True, dict=True):
    """A page and the page of its gradient.

    `forward`: the page, with a name for every function inside a larger expression; `backward`: what computes the
    cotangents from it; `cotangents`: the name of each tensor's; `seeds`: of each output, what its cotangent is handed in
    as; `past`: of each cached tensor, the cotangent of its cached rows, along indices whose lengths are in `sizes`.
    """

    forward: Program
    backward: Program
    cotangents: Mapping[str, str]
    seeds: Mapping[str, str]
    past: Mapping[str, str] = {}
    sizes: Mapping[str, int] = {}

    @cached_property
    def together(self) -> Program:
        """Both as one page."""
        both, own = self.forward, self.backward
        inputs = [e for e in own.equations if not e.alts and e.out.name not in both.tensors]
        made = [e for e in own.equations if e.alts]
        return replace(both, equations=(*inputs, *both.equations, *made), dims={**both.dims, **own.dims})


def gradient(
    page: Program,
    outputs: Iterable[str] = (),
    wrt: Iterable[str] = (),
    past: Mapping[str, int] | None = None,
) -> Gradient:
    """The page of the gradient of `outputs` (the page's result if none is named) with respect to `wrt`.

    `wrt`: tensors of the page; without it, every input but tables and what is drawn, whose names are words (KEEP, FREQ).
    `past`: cached tensors whose rows from before the new tokens are to have a gradient, and how many rows there are.
    Raises LanguageError if an operation on the way has no adjoint, InputError if a tensor is not on the way.

    >>> from attnmath import variants
    >>> page = prune(variants.get("mha").program, ["O"])
    >>> print(gradient(page, wrt=["Q", "K", "V"]).backward)
    dO[b t h e]
    dV[b n h e] = dO[b t h e] * A[b h t n]
    dA[b h t n] = dO[b t h e] * V[b n h e]
    D[b h t] = sum_n(A[b h t n] * dA[b h t n])
    dL[b h t n] = A[b h t n] * (dA[b h t n] - D[b h t])
    dS[b h t n] = dL[b h t n] / sqrt(d)
    dK[b n h d] = dS[b h t n] * Q[b t h d]
    dQ[b t h d] = dS[b h t n] * K[b n h d]
    t sees n: causal
    """
    low = lower(page)
    ends = tuple(outputs) or (page.output,)
    asked, rows = tuple(wrt), dict(past or {})
    for name in (*ends, *asked, *rows):
        if name not in page.tensors:
            raise Unknown("tensor", str(name), page.tensors)
    reverse = _Reverse(low, ends, asked or tuple(n for n in page.inputs if not _tabled(n)), rows)
    if lost := [n for n in asked if n not in reverse.active]:
        raise InputError(
            f"{', '.join(lost)}: {', '.join(ends)} does not depend on it but through what only chooses, or not at all"
        )
    made = reverse.run()
    kept = [n for n in (asked or [n for n in page.inputs if not _tabled(n)]) if n in reverse.active]
    cached = {n: c for n, c in reverse.past_names.items() if c in made.defined}
    made = prune(made, [*(reverse.cotangent[n] for n in kept), *cached.values()])
    return Gradient(low, made, {n: reverse.cotangent[n] for n in kept}, reverse.seeds, cached, reverse.sizes)


def _tabled(name: str) -> bool:
    """A word in capitals names what is drawn or tabulated (KEEP, FREQ); one that begins with W or B is learned."""
    return len(name) > 2 and name.isupper() and name[0] not in "WB"


def lower(page: Program) -> Program:
    """The page with a name for every function and reduction inside a larger expression, so that none is computed twice and
    none is read under another's indices.

    >>> from attnmath.language.parse import program
    >>> print(lower(program("Y[t m] = X[t m] / sqrt(mean_m(X[t m] * X[t m]) + eps)")))
    X[t m]
    Ymean[t] = mean_m(X[t m] * X[t m])
    Ysqrt[t] = sqrt(Ymean[t] + eps)
    Y[t m] = X[t m] / Ysqrt[t]
    """
    names, cats = _Names(page.tensors), _cats(page)
    out = [Equation(Ref(n, page.tensors[n]), ()) for n in page.inputs]
    for e in page.equations:
        if not e.alts:
            continue
        named: dict[Expr, Ref] = {}

        def hoist(x: Expr, top: bool, e: Equation = e, named: dict[Expr, Ref] = named) -> Expr:
            if not isinstance(x, Op):
                return x
            x = Op(x.name, tuple(hoist(a, False) for a in x.args), x.over)
            if top or x.name in ARITHMETIC or not refs(x):
                return x
            if x not in named:
                named[x] = Ref(names.fresh(e.out.name + x.name), letters(x))
                out.extend(_written(named[x], [(named[x].index, x)], cats, names))
            return named[x]

        parts = [(index, hoist(x, True)) for index, x in settled(e)]
        out.extend(_written(e.out, parts, cats, names) if named else [e])
    return replace(page, equations=tuple(out))


class _Names:
    """Names that are still free."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def fresh(self, *wishes: str) -> str:
        more = (f"{wishes[-1]}{k}" for k in range(2, 1000))
        name = next(n for n in (*wishes, *more) if n not in self.taken)
        self.taken.add(name)
        return name


# -- terms: (coefficient, factors, divisors)

Term = tuple[float, tuple[Expr, ...], tuple[Expr, ...]]


def _tidy(x: Expr, first: Iterable[str] = ()) -> list[Term]:
    """The terms of an expression, numbers multiplied out, what is on both sides of a fraction cancelled, and the tensors
    named in `first` (cotangents) in front.
    """
    front, out = set(first), []
    for sign, num, den in terms(x):
        value: float = sign
        up, down = [], list(den)
        for f in num:
            if isinstance(f, Num) and not isinstance(f.value, str):
                value *= f.value
            elif f in down:
                down.remove(f)
            else:
                up.append(f)
        up.sort(key=lambda f: not (isinstance(f, Ref) and f.name in front))
        if value:
            out.append((value, tuple(up), tuple(down)))
    return out


def _sum(found: Iterable[Term]) -> Expr:
    """Terms joined, like ones collected."""
    total: dict[tuple[tuple[str, ...], tuple[str, ...]], Term] = {}
    for value, num, den in found:
        key = tuple(sorted(map(str, num))), tuple(sorted(map(str, den)))
        total[key] = (total[key][0] + value if key in total else value, num, den)
    out: Expr | None = None
    for value, num, den in sorted((t for t in total.values() if t[0]), key=lambda t: t[0] < 0):
        number = () if abs(value) == 1 and num else (Num(abs(value)),)
        x = _times((*number, *num))
        x = Op("/", (x, _times(den))) if den else x
        out = (Op("neg", (x,)) if value < 0 else x) if out is None else Op("-" if value < 0 else "+", (out, x))
    return Num(0) if out is None else out


def _times(factors: Sequence[Expr]) -> Expr:
    out, *rest = factors or (Num(1),)
    for f in rest:
        out = Op("*", (out, f))
    return out


def _letters(xs: Iterable[Expr | Index]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(d for x in xs for d in letters(x)))


# -- parts of axes: inside this file, a read says which part it means; a page leaves that to what the term names


def _cats(page: Program) -> dict[str, Cat]:
    """Every `n|c` of a page by its text."""
    found = [i for e in page.equations for x in (e.out, *e.alts) for r in refs(x) for i in r.index]
    return {str(i): i for i in (*found, *(i for d in page.dims.values() for i in d)) if isinstance(i, Cat)}


def _whole(i: Index, cats: Mapping[str, Cat]) -> Index:
    return i.cat if isinstance(i, Part) else cats.get(i, i) if isinstance(i, str) else i


def _written(
    out: Ref, parts: Sequence[tuple[tuple[Index, ...], Expr]], cats: Mapping[str, Cat], names: _Names
) -> Iterator[Equation]:
    """The equation as a page has it; where a term does not say which part of an axis it reads, that part gets a name."""
    whole = lambda r: Ref(r.name, tuple(_whole(i, cats) for i in r.index))
    left = whole(Ref(out.name, parts[0][0]))
    e = Equation(left, tuple(swap_refs(x, whole) for _, x in parts))
    if [_texts(x) for _, x in settled(e)] != [_texts(x) for _, x in parts]:
        slices: dict[Ref, Ref] = {}
        for r in dict.fromkeys(r for _, x in parts for r in refs(x) if any(isinstance(i, Part) for i in r.index)):
            own = tuple(i.cat.parts[i.i] if isinstance(i, Part) else i for i in r.index)
            suffix = "".join(d for i in r.index if isinstance(i, Part) for d in letters(i))
            slices[r] = Ref(names.fresh(r.name + suffix), own)
            yield Equation(slices[r], (whole(r),))
        e = Equation(left, tuple(swap_refs(x, lambda r: whole(slices.get(r, r))) for _, x in parts))
    yield e


def _texts(x: Expr) -> list[str]:
    return [str(r) for r in refs(x)]


# -- moved indices


def _moved(x: Expr, old: str, new: Shift) -> Expr:
    """`x` with the index `old` read at `new`."""
    by = new.by

    def index(i: Index) -> Index:
        if i == old:
            return _shift(new.base, by)
        if isinstance(i, Shift) and i.base == old:
            return _shift(new.base, (*i.by, *by))
        return Group(tuple(map(index, i.parts))) if isinstance(i, Group) else i

    if isinstance(x, Pos) and x.dim == old:
        start = [(s, "past") for s, d in ((1, old), (-1, new.base)) if d == "t"]
        steps = _steps((*by, *start))
        moved = _sum([(1, (Pos(new.base),), ()), *((s * n, (), ()) for s, n in steps if isinstance(n, int))])
        for s, n in steps:
            moved = moved if isinstance(n, int) else Op("+" if s > 0 else "-", (moved, Num(n)))
        return moved
    if isinstance(x, Op):
        return Op(x.name, tuple(_moved(a, old, new) for a in x.args), x.over)
    return swap_refs(x, lambda r: Ref(r.name, tuple(map(index, r.index)))) if isinstance(x, Ref) else x


def _steps(by: Iterable[tuple[int, str | int]]) -> tuple[tuple[int, str | int], ...]:
    """A shift's steps, what goes there and back cancelled."""
    names: dict[str, int] = {}
    number = 0
    for s, n in by:
        if isinstance(n, int):
            number += s * n
        else:
            names[n] = names.get(n, 0) + s
    rest = [(1 if k > 0 else -1, n) for n, k in names.items() for _ in range(abs(k))]
    return (*rest, *([(1 if number > 0 else -1, abs(number))] if number else []))


def _shift(base: str, by: tuple[tuple[int, str | int], ...]) -> Index:
    """A shifted index; a plain one runs over a whole axis, which that of a cache's rows never does."""
    steps = _steps(by) or (by if base.startswith(ROWS) else ())
    return Shift(base, steps) if steps else base


def _renamed(x: Expr, names: Mapping[str, str]) -> Expr:
    """`x` with indices under other letters."""

    def index(i: Index) -> Index:
        if isinstance(i, str):
            return names.get(i, i)
        if isinstance(i, Shift):
            return Shift(names.get(i.base, i.base), tuple((s, names.get(n, n) if isinstance(n, str) else n) for s, n in i.by))
        return type(i)(tuple(map(index, i.parts))) if isinstance(i, (Group, Cat)) else i

    if isinstance(x, Pos):
        return Pos(names.get(x.dim, x.dim))
    if isinstance(x, Op):
        return Op(x.name, tuple(_renamed(a, names) for a in x.args), tuple(names.get(o, o) for o in x.over))
    return swap_refs(x, lambda r: Ref(r.name, tuple(map(index, r.index)))) if isinstance(x, Ref) else x


# -- which tensors a gradient goes through


def _flows(x: Expr) -> Iterator[Ref]:
    """The tensors that an expression passes a cotangent on to: not the places it reads at, nor what is piecewise constant."""
    if isinstance(x, Ref):
        yield x
    if isinstance(x, Op) and OPS[x.name].adjoint != ():
        for a in x.args:
            yield from _flows(a)


def _active(page: Program, outputs: Iterable[str], wrt: Iterable[str]) -> set[str]:
    """The tensors between `wrt` and the outputs."""
    reads = {n: {r.name for a in e.alts for r in _flows(a)} for n, e in page.defined.items()}
    back = set(outputs)
    todo = list(back)
    while todo:
        more = reads.get(todo.pop(), set()) - back
        back |= more
        todo += more
    forth = set(wrt)
    while more := {n for n, own in reads.items() if n not in forth and own & forth}:
        forth |= more
    return back & forth


@lru_cache(256)
def _adjoint(text: str) -> Expr:
    return expression(text)


class _Reverse:
    """The page walked from its end to its beginning.

    `gains`: for each tensor, what its cotangent has gained so far, as (the indices it was read under, term).
    """

    def __init__(self, page: Program, outputs: tuple[str, ...], wrt: tuple[str, ...], past: Mapping[str, int]) -> None:
        self.page, self.outputs = page, outputs
        self.active = _active(page, outputs, (*wrt, *past))
        self.axes, self.cats = page.tensors, _cats(page)
        self.names = _Names(page.tensors)
        self.cotangent = {n: self.names.fresh(f"d{n}") for n in page.tensors}
        self.rows = past
        self.kept = set(self.cotangent.values())
        self.past_names = {n: self.names.fresh(f"d{n}past") for n in past}
        self.sizes = {f"{ROWS}{n}": n for n in past.values()}
        self.gains: dict[str, list[tuple[int, tuple[tuple[Index, ...], Term]]]] = {}
        self.equations: list[Equation] = []
        self.dims: dict[str, tuple[Index, ...]] = {}
        self.seeds: dict[str, str] = {}
        self.turn = 0
        self.shared: dict[Expr, Ref] = {}  # reductions that several adjoints read
        self.written: set[str] = set(self.cotangent.values())

    def run(self) -> Program:
        for group, loop in reversed(list(ordered(self.page))):
            live = [e for e in reversed(group) if e.out.name in self.active]
            if loop:  # every gain of a recursion before any of its cotangents is closed
                for e in live:
                    self.walk(e)
                for e in live:
                    self.close(e.out.name)
            else:
                for e in live:
                    self.close(e.out.name)
                    self.walk(e)
        for name in self.page.inputs:
            if name in self.active:
                self.close(name)
        for name in [n for n in self.rows if self.past_names[n] in self.gains]:
            self.close(self.past_names[name])
        made = self.without_copies([e for e in self.equations if e.alts])
        names = _names(x for e in made for x in (e.out, *e.alts))
        read = [Equation(Ref(n, d), ()) for n, d in self.axes.items() if n in names]
        seeds = [e for e in self.equations if not e.alts]
        dims = {n: d for n, d in {**self.page.dims, **self.dims}.items() if n in names}
        return in_order(Program((*seeds, *read, *made), self.page.sees, dims))

    def without_copies(self, made: list[Equation]) -> list[Equation]:
        """The equations without those that only give another name to what has one."""
        k = 0
        while k < len(made):
            left, right = made[k].out, made[k].alts[0]
            k += 1
            if len(made[k - 1].alts) > 1 or not isinstance(right, Ref) or not _same_axes(left, right):
                continue
            if {left.name, right.name} & set(self.dims) or {left.name, right.name} <= self.kept:
                continue
            old, new = (left, right) if left.name not in self.kept else (right, left)
            order = [old.index.index(i) for i in new.index]
            swap = lambda r: Ref(new.name, tuple(r.index[n] for n in order)) if r.name == old.name else r
            rest = [e for e in made if e is not made[k - 1]]
            made = [Equation(swap(e.out), tuple(swap_refs(a, swap) for a in e.alts)) for e in rest]
            k = 0
        return made

    # -- down an expression, the cotangent in hand

    def walk(self, e: Equation) -> None:
        self.turn += 1
        for index, x in settled(e):
            g, y = Ref(self.cotangent[e.out.name], index), Ref(e.out.name, index)
            self.spread(x, g, y, letters(g), e.out.name)

    def leads(self, x: Expr) -> list[Ref]:
        return [r for r in _flows(x) if r.name in self.active]

    def spread(self, x: Expr, g: Expr, y: Ref | None, space: tuple[str, ...], host: str) -> None:
        """Each term of `x` gets the cotangent. `y`: the tensor that holds x; `space`: the letters of all that was summed."""
        parts = terms(x)
        several = sum(any(self.leads(f) for f in (*num, *den)) for _, num, den in parts) > 1
        if several and not isinstance(g, Ref):
            g = self.named(g, letters(x), space, host + WORDS.get(x.name if isinstance(x, Op) else "", ""))
            space = letters(g)
        for sign, num, den in parts:
            mine = _fill("neg", 0, {"g": g}) if sign < 0 else g
            own = _letters((*num, *den))
            whole = y if len(parts) == 1 and sign > 0 and y and set(own) <= set(letters(y)) else None
            self.product(num, den, mine, whole, tuple(dict.fromkeys((*space, *own))), host)

    def product(
        self, num: tuple[Expr, ...], den: tuple[Expr, ...], g: Expr, y: Ref | None, space: tuple[str, ...], host: str
    ) -> None:
        if not den and len(num) == 1:
            return self.factor(num[0], g, y, space, host)
        up = down = g
        if den:
            a, b = _times(num), _times(den)
            env = {"a": a, "b": b, "g": g, "y": y or Op("/", (a, b))}
            up, down = _fill("/", 0, env), _fill("/", 1, env)
        for factors, mine in ((num, up), (den, down)):
            for k, f in enumerate(factors):
                if self.leads(f):
                    rest = (*factors[:k], *factors[k + 1 :])
                    self.factor(f, _fill("*", 0, {"b": _times(rest), "g": mine}) if rest else mine, None, space, host)

    def factor(self, x: Expr, g: Expr, y: Ref | None, space: tuple[str, ...], host: str) -> None:
        if isinstance(x, Ref):
            self.emit(x, g, space)
        elif isinstance(x, Op) and x.name in WORDS:
            self.spread(x, g, y, space, host)
        elif isinstance(x, Op):
            self.function(x, g, y, space, host)

    def function(self, x: Op, g: Expr, y: Ref | None, space: tuple[str, ...], host: str) -> None:
        row = OPS[x.name]
        if not self.leads(x):
            return
        if row.adjoint is None:
            raise LanguageError(f"{x.name} has no adjoint, so `{x}` has no gradient; its row in the table of operations says none")
        if not isinstance(g, Ref):
            g = self.named(g, letters(x), space, host + x.name)
            space = letters(g)
        env = dict(zip("ab", x.args)) | {"y": y or x, "g": g}
        for k, (arg, text) in enumerate(zip(x.args, row.adjoint)):
            if self.leads(arg):
                mine = self.filled(text, env, x.over, host)
                around = [d for d in space if not (k and d in x.over)]
                self.spread(arg, mine, None, tuple(dict.fromkeys((*around, *letters(arg)))), host)

    def filled(self, text: str, env: Mapping[str, Expr], over: tuple[str, ...], host: str) -> Expr:
        """An adjoint's text with its letters filled in; a reduction in it gets a name, and what it says more than once."""
        whole = _adjoint(text)
        said = [str(o) for o in ops(whole)]

        def fill(x: Expr) -> Expr:
            if isinstance(x, Num):
                return env.get(str(x.value), x)
            if not isinstance(x, Op):
                return x
            new: Expr = _folded(Op(x.name, tuple(map(fill, x.args)), over if x.over else ()), self.page)
            if not isinstance(new, Op) or not (new.over or (x.name not in ARITHMETIC and said.count(str(x)) > 1)):
                return new
            if new not in self.shared:
                wishes = (("D", f"D{host}") if str(x) == ROW_SUM else (host + new.name,))
                self.shared[new] = Ref(self.names.fresh(*wishes), letters(new))
                self.write(self.shared[new], [(self.shared[new].index, new)])
            return self.shared[new]

        return fill(whole)

    def named(self, g: Expr, index: tuple[str, ...], space: tuple[str, ...], name: str) -> Ref:
        """A cotangent that several terms read, under a name of its own, and under every letter that it has to be summed over."""
        lost = [d for d in space if d not in (*index, *letters(g))]
        out = Ref(self.names.fresh(f"d{name}"), (*index, *lost))
        self.written.add(out.name)
        self.write(out, [(out.index, _sum(_tidy(g, self.written)))])
        return out

    # -- at a tensor: its cotangent gains

    def emit(self, r: Ref, g: Expr, space: tuple[str, ...]) -> None:
        if r.name not in self.active:
            return
        for value, num, den in _tidy(g, self.written):
            lost = [d for d in space if d not in (*letters(r), *_letters((*num, *den)))]
            if lost:  # each of so many reads the same: repeat, then sum
                index = tuple(dict.fromkeys((*letters(r), *_letters((*num, *den)), *lost)))
                num, den, value = (self.named(_sum([(value, num, den)]), index, index, r.name),), (), 1
            if r.name in self.rows:
                self.gain(r, (value, num, den), self.rows[r.name])
            self.gain(r, (value, num, den), None)

    def gain(self, r: Ref, term: Term, rows: int | None) -> None:
        """A cotangent read under shifted indices is written under plain ones: A'[t-1] = g(t) as A'[t] = g(t+1).

        `rows`: of the past, instead; its first row stands so many steps before the new tokens.
        """
        index = list(r.index)
        for axis, i in enumerate(r.index):
            if not isinstance(i, Shift):
                continue
            mine = str(self.axes[r.name][axis])
            back: tuple[tuple[int, str | int], ...] = tuple((-s, n) for s, n in i.by)
            if rows is not None:
                mine, back = f"{ROWS}{rows}", (*back, (-1, rows))
            value, num, den = term
            if not self._movable(num, den, i.base, mine):
                plain = _letters((*(j.base if isinstance(j, Shift) else j for j in index[axis:]), *index[:axis]))
                steps = (n for _, n in i.by if isinstance(n, str) and n in _letters((*num, *den)))
                own = tuple(dict.fromkeys((*plain, *steps)))
                value, num, den = 1, (self.named(_sum([term]), own, own, r.name + i.base),), ()
            new = Shift(mine, back)
            term = value, tuple(_moved(f, i.base, new) for f in num), tuple(_moved(f, i.base, new) for f in den)
            index[axis] = mine
        if rows is not None and not any(isinstance(i, Shift) for i in r.index):
            return
        self.gains.setdefault(r.name if rows is None else self.past_names[r.name], []).append((-self.turn, (tuple(index), term)))

    def _movable(self, num: tuple[Expr, ...], den: tuple[Expr, ...], old: str, new: str) -> bool:
        """Whether an index can be moved in a term: no other takes its letter, no mask speaks of it, nothing divides by what
        lies outside.
        """
        if len(num) == 1 and not den and isinstance(num[0], Ref) and new not in letters(num[0]):
            return True
        found = set(_letters((*num, *den)))
        risky = [*den, *(f for f in num if isinstance(f, Op))]
        inside = [i for f in num for r in refs(f) for i in r.index if isinstance(i, (Cat, Part, Ref)) and old in letters(i)]
        masked = any(old in (q, *k.split()) and {q, *k.split()} <= found for q, k in self.page.sees)
        return not (new != old and new in found) and not masked and not inside and old not in _letters(risky)

    # -- a cotangent is closed: all that it gained, as one equation

    def close(self, name: str) -> None:
        past = {c: n for n, c in self.past_names.items()}
        target = name if name in past else self.cotangent[name]
        axes = self.axes[past.get(name, name)]
        if name in past:
            axes = tuple(self._old(past[name], k, i) for k, i in enumerate(axes))
        found = [gain for _, gain in sorted(self.gains.pop(name, []), key=lambda g: g[0])]
        if name in self.outputs:
            seed = self.names.fresh(f"{target}0") if found else target
            self.seeds[name] = seed
            self.equations.append(Equation(Ref(seed, axes), ()))
            self.dims[seed] = axes
            if not found:
                return
            found.append((axes, (1, (Ref(seed, axes),), ())))
        groups: dict[tuple[Index, ...], list[tuple[tuple[Index, ...], Term]]] = {}
        for index, term in found:
            groups.setdefault(tuple(_whole(i, self.cats) for i in index), []).append((index, term))
        own = next((i for i, g in groups.items() for _, (_, num, den) in g if target in _names((*num, *den))), None)
        main, merged = self._merged(groups, own, axes)
        total = merged.pop(main, [])
        for index, gained in merged.items():
            side = Ref(self.names.fresh(target + _suffix(index, main)), index)
            self.dims[side.name] = axes
            self.parts(side, gained)
            total.append((main, (1, (Ref(side.name, main),), ())))
        self.parts(Ref(target, main), total)
        if main != axes:
            self.dims[target] = axes

    def _old(self, name: str, axis: int, i: Index) -> Index:
        """The rows of a cache have a length of their own."""
        reads = [r for e in self.page.equations for a in e.alts for r in refs(a) if r.name == name]
        return f"{ROWS}{self.rows[name]}" if any(isinstance(r.index[axis], Shift) for r in reads) else i

    def _merged(
        self, groups: dict[tuple[Index, ...], list[tuple[tuple[Index, ...], Term]]], own: tuple[Index, ...] | None, axes: tuple[Index, ...]
    ) -> tuple[tuple[Index, ...], dict[tuple[Index, ...], list[tuple[tuple[Index, ...], Term]]]]:
        """(the indices of the cotangent, its gains by theirs), as many as can be under the same letters."""
        plain = [i for i in groups if all(isinstance(x, str) and x != "last" for x in i)]
        best: tuple[tuple[Index, ...], dict[tuple[Index, ...], list[tuple[tuple[Index, ...], Term]]]] | None = None
        for main in [own] if own else dict.fromkeys([*(i for i in (axes,) if i in groups), *plain, *groups, axes]):
            out: dict[tuple[Index, ...], list[tuple[tuple[Index, ...], Term]]] = {main: []}
            for index, gained in groups.items():
                for at, term in gained:
                    new = (at, term) if index == main else self._under(index, main, at, term)
                    out.setdefault(main if new else index, []).append(new or (at, term))
            covers = main in plain or main == axes or len(out) == 1
            if covers and (best is None or len(out) < len(best[1])):
                best = main, out
        assert best
        return best

    def _under(
        self, index: tuple[Index, ...], main: tuple[Index, ...], at: tuple[Index, ...], term: Term
    ) -> tuple[tuple[Index, ...], Term] | None:
        """A gain under other letters, or None where that would catch another index or move a mask."""
        pairs = list(zip(_flat(index), _flat(main)))
        if at != index or [type(i) for i in index] != [type(i) for i in main] or len(_flat(index)) != len(_flat(main)):
            return None
        if any(a != b and not (isinstance(a, str) and isinstance(b, str) and "|" not in a + b) for a, b in pairs):
            return None
        moved = {str(a): str(b) for a, b in pairs if a != b}
        value, num, den = term
        found = {*_letters((*num, *den)), *_letters(index)}
        after = {moved.get(d, d) for d in found}
        for q, k in self.page.sees:
            both = {q, *k.split()}
            if (both <= found and both & set(moved)) or (both <= after and both & set(moved.values())):
                return None
        if len(after) < len(found) or set(moved.values()) & set(_letters((*num, *den))) or "last" in (*moved, *moved.values()):
            return None
        return main, (value, tuple(_renamed(f, moved) for f in num), tuple(_renamed(f, moved) for f in den))

    def parts(self, out: Ref, gained: list[tuple[tuple[Index, ...], Term]]) -> None:
        """One equation of all gains under the same indices: of an axis of parts, an expression for each."""
        cut = [k for k, i in enumerate(out.index) if isinstance(i, Cat) and any(isinstance(at[k], Part) for at, _ in gained)]
        if not cut:
            return self.write(out, [(out.index, _sum(t for _, t in gained))])
        if len(cut) > 1:
            raise LanguageError(f"{out}: two axes of parts at once have no gradient yet")
        k = cut[0]
        whole = [(at, t) for at, t in gained if not isinstance(at[k], Part)]
        if whole:
            side = Ref(self.names.fresh(out.name + "parts"), out.index)
            self.dims[side.name] = self.dims.get(out.name, out.index)
            self.parts(side, [(at, t) for at, t in gained if isinstance(at[k], Part)])
            return self.write(out, [(out.index, _sum([*(t for _, t in whole), (1, (Ref(side.name, out.index),), ())]))])
        cat = out.index[k]
        assert isinstance(cat, Cat)
        alts = []
        for n in range(len(cat.parts)):
            index = (*out.index[:k], Part(cat, n), *out.index[k + 1 :])
            alts.append((index, _sum(t for at, t in gained if at[k] == Part(cat, n))))
        self.write(out, alts)

    def write(self, out: Ref, parts: Sequence[tuple[tuple[Index, ...], Expr]]) -> None:
        self.equations += _written(out, parts, self.cats, self.names)


def _fill(op: str, arg: int, env: Mapping[str, Expr]) -> Expr:
    """An adjoint text of the arithmetic, filled in."""

    def fill(x: Expr) -> Expr:
        if isinstance(x, Num):
            return env.get(str(x.value), x)
        return Op(x.name, tuple(map(fill, x.args)), x.over) if isinstance(x, Op) else x

    return fill(_adjoint((OPS[op].adjoint or ())[arg]))


def _folded(x: Op, page: Program) -> Expr:
    """Zeros, ones and numbers worked in; a sum over a constant is the number of elements, where no mask says otherwise."""
    a, b = (*x.args, Num(0))[:2]
    if x.name == "sum":
        inside = {p for d in letters(a) for p in digits(d)}
        own = {p for d in x.over for p in digits(d)}
        masked = any({q, *k.split()} <= inside and {q, *k.split()} & own for q, k in page.sees)
        one = _sum(_tidy(a))
        if isinstance(one, Num) and not masked and not any("|" in d for d in x.over):
            return _sum(_tidy(_times((one, *map(Num, x.over)))))
    if x.name == "-" and isinstance(a, Num) and isinstance(b, Num) and not isinstance(a.value, str) and not isinstance(b.value, str):
        return Num(a.value - b.value)
    return a if x.name == "^" and b == Num(1) else x


def _names(xs: Iterable[Expr]) -> set[str]:
    return {r.name for x in xs for r in refs(x)}


def _same_axes(a: Ref, b: Ref) -> bool:
    return all(isinstance(i, str) and i != "last" for i in a.index) and sorted(map(str, a.index)) == sorted(map(str, b.index))


def _flat(index: Iterable[Index]) -> list[Index]:
    return [x for i in index for x in (_flat(i.parts) if isinstance(i, Group) else [i])]


def _suffix(index: tuple[Index, ...], main: tuple[Index, ...]) -> str:
    """What tells indices from the main ones, in letters: i for (c i), T for T[b t k]."""
    out = ""
    for i in (x for x in index if x not in main):
        flat = [x for x in _flat([i]) if x not in _flat(main)]
        gathers = [r.name for x in flat for r in refs(x)]
        out += "".join(gathers or [d for x in flat for d in letters(x)][-1:])
    return "".join(c for c in out if c.isalnum())
