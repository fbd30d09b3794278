"""Reverse mode: from a page to the page of its gradient, in the same language.

One rule does it: where an equation reads A[i], the cotangent dA[i] gains the cotangent of the left times everything else
in the term, by the adjoint texts of `ops`. Reading becomes writing: a slice becomes a pad, a gather a scatter, and t-1
becomes t+1, so that the gradient of a recurrence is a recurrence that runs backwards and that of a triangular solve the
transposed solve, without a rule for either. What only chooses (a selection's places) is a constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, LanguageError, Unknown
from attnmath.language.modify import prune
from attnmath.language.ops import OPS
from attnmath.language.order import in_order, ordered
from attnmath.language.parse import expression
from attnmath.language.rewrite import (
    Indices,
    Names,
    Steps,
    Term,
    cats,
    flat,
    letters_of,
    moved,
    renamed,
    tidy,
    times,
    total,
    whole,
    written,
)
from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Num,
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
    swap_refs,
    terms,
)
from attnmath.readings.count import tables
from attnmath.readings.recompute import recomputed, renamed_in

ARITHMETIC = {"+": "sum", "-": "diff", "neg": "neg", "*": "product", "/": "quotient", "^": "power"}  # and part names
ROW_SUM = "sum_o(y * g)"  # of a tensor times its cotangent: FlashAttention's D
ROWS = "old"  # the index of a cache's rows, with their number


class Gradient(Struct, frozen=True, dict=True):
    """A page and the page of its gradient.

    `forward`: the page, with a name for every function inside a larger expression; `backward`: what computes the
    cotangents from it; `cotangents`: the name of each tensor's; `seeds`: of each output, what its cotangent is handed in
    as; `past`: of each cached tensor, the cotangent of its cached rows, along indices whose lengths are in `sizes`;
    `again`: what the backward page computes again, by the name that it has on the forward one; `rerun`: of these, what a
    second forward pass does; `statistics`: rows' numbers that take a tensor's place (`recompute.py`).
    """

    forward: Program
    backward: Program
    cotangents: Mapping[str, str]
    seeds: Mapping[str, str]
    past: Mapping[str, str] = {}
    sizes: Mapping[str, int] = {}
    again: Mapping[str, str] = {}
    rerun: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[str, ...]:
        """The tensors of the forward page, its inputs included, that the backward page reads; tables cost nothing."""
        free = tables(self.forward)
        return tuple(n for n in self.backward.inputs if n in self.forward.tensors and n not in free)

    @cached_property
    def renamed(self) -> dict[str, str]:
        """What the backward page's tensors are called where both pages are one: what is there twice, S' the second time."""
        names = Names([*self.forward.tensors, *self.backward.tensors])
        twice = [n for n in self.backward.defined if n in self.forward.tensors]
        return {n: n for n in self.backward.defined} | {n: names.fresh(f"{n}'") for n in twice}

    @cached_property
    def together(self) -> Program:
        """Both as one page."""
        both, own, new = self.forward, self.backward, self.renamed

        def read(r: Ref) -> Ref:
            return Ref(new.get(r.name, r.name), r.index)

        inputs = [e for e in own.equations if not e.alts and e.out.name not in both.tensors]
        made = [renamed_in(e, read) for e in own.equations if e.alts]
        dims = {**both.dims, **{new.get(n, n): d for n, d in own.dims.items()}}
        return replace(both, equations=(*inputs, *both.equations, *made), dims=dims)


def gradient(
    page: Program,
    outputs: Iterable[str] = (),
    wrt: Iterable[str] = (),
    past: Mapping[str, int] | None = None,
    recompute: str = "none",
) -> Gradient:
    """The page of the gradient of `outputs` (the page's result if none is named) with respect to `wrt`.

    `wrt`: tensors of the page; without it, every input but tables and what is drawn, whose names are words (KEEP, FREQ).
    `past`: cached tensors whose rows from before the new tokens are to have a gradient, and how many rows there are.
    `recompute`: none, selective or full, what the backward page computes again and does not read (`recompute.py`).
    Raises LanguageError if an operation on the way has no adjoint, InputError if a tensor is not on the way.

    >>> from attnmath import variants
    >>> page = prune(variants.get("mha").program, ["O"])
    >>> print(gradient(page, wrt=["Q", "K", "V"]).backward)
    dO[b t h e]
    Q[b t h d]
    K[b n h d]
    V[b n h e]
    A[b h t n]
    dA[b h t n] = dO[b t h e] * V[b n h e]
    D[b h t] = sum_n(A[b h t n] * dA[b h t n])
    dL[b h t n] = A[b h t n] * (dA[b h t n] - D[b h t])
    dS[b h t n] = dL[b h t n] / sqrt(d)
    dV[b n h e] = dO[b t h e] * A[b h t n]
    dK[b n h d] = dS[b h t n] * Q[b t h d]
    dQ[b t h d] = dS[b h t n] * K[b n h d]
    t sees n: causal
    """
    low = lower(page)
    ends, asked, rows = tuple(outputs) or (page.output,), tuple(wrt), dict(past or {})
    for name in (*ends, *asked, *rows):
        if name not in page.tensors:
            raise Unknown("tensor", str(name), page.tensors)
    wanted = asked or tuple(n for n in page.inputs if not _tabled(n))
    reverse = _Reverse(low, ends, wanted, rows)
    if lost := [n for n in asked if n not in reverse.active]:
        raise InputError(
            f"{', '.join(lost)}: {', '.join(ends)} does not depend on it but through what only chooses, or not at all"
        )
    if not reverse.active:
        raise InputError(
            f"{', '.join(ends)} depends on nothing that has a gradient: what it reads only chooses, or is a table"
        )
    made = reverse.run()
    of = {n: reverse.cotangent[n] for n in wanted if n in reverse.active}
    cached = {n: c for n, c in reverse.past.items() if c in made.defined}
    found = Gradient(low, prune(made, [*of.values(), *cached.values()]), of, reverse.seeds, cached, reverse.sizes)
    return recomputed(found, reverse.cotangent, recompute)


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
    names, known = Names(page.tensors), cats(page)
    out = [Equation(Ref(n, page.tensors[n]), ()) for n in page.inputs]

    def hoisted(x: Expr, top: bool, host: str, named: dict[Expr, Ref]) -> Expr:
        if not isinstance(x, Op):
            return x
        x = Op(x.name, tuple(hoisted(a, False, host, named) for a in x.args), x.over)
        if top or x.name in ARITHMETIC or not refs(x):
            return x
        if x not in named:
            named[x] = Ref(names.fresh(host + x.name), letters(x))
            out.extend(written(named[x], [(named[x].index, x)], known, names))
        return named[x]

    tabled = tables(page)
    for e in page.equations:
        if e.alts and e.out.name in tabled:
            out.append(e)
        elif e.alts:
            named: dict[Expr, Ref] = {}
            parts = [(index, hoisted(x, True, e.out.name, named)) for index, x in settled(e)]
            out.extend(written(e.out, parts, known, names) if named else [e])
    return replace(page, equations=tuple(out))


# -- which tensors a gradient goes through


def _flows(x: Expr) -> Iterator[Ref]:
    """The tensors that an expression passes a cotangent on to: not the places it reads at, nor what is constant by pieces."""
    if isinstance(x, Ref):
        yield x
    if isinstance(x, Op) and OPS[x.name].adjoint != ():
        for a in x.args:
            yield from _flows(a)


def between(page: Program, outputs: Iterable[str], wrt: Iterable[str]) -> set[str]:
    """The tensors that depend on one of `wrt` and that an output depends on.

    >>> from attnmath import variants
    >>> sorted(between(variants.get("mha").program, ["O"], ["V"]))
    ['O', 'V']
    """
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


class Gain(Struct, frozen=True):
    """What a cotangent gains: a term, under the indices that its tensor is read with."""

    at: Indices
    term: Term


Gains = dict[Indices, list[Gain]]  # by their indices, parts of an axis together


class _Reverse:
    """The page walked from its end to its beginning.

    `gains`: what each cotangent has gained so far, and in which turn; `made`: the equations so far; `dims`: the axes of
    what is written under other indices; `kept`: the cotangents of the page's own tensors, whose names stay.
    """

    def __init__(self, page: Program, outputs: tuple[str, ...], wrt: tuple[str, ...], rows: Mapping[str, int]) -> None:
        self.page, self.outputs, self.rows = page, outputs, rows
        self.active = between(page, outputs, (*wrt, *rows))
        self.axes, self.cats, self.names = page.tensors, cats(page), Names(page.tensors)
        self.cotangent = {n: self.names.fresh(f"d{n}") for n in page.tensors}
        self.kept = set(self.cotangent.values())
        self.past = {n: self.names.fresh(f"d{n}past") for n in rows}
        self.sizes = {f"{ROWS}{n}": n for n in rows.values()}
        self.gains: dict[str, list[tuple[int, Gain]]] = {}
        self.made: list[Equation] = []
        self.inputs: list[Equation] = []
        self.dims: dict[str, Indices] = {}
        self.seeds: dict[str, str] = {}
        self.shared: dict[Expr, Ref] = {}  # reductions that several adjoints read
        self.cotangents = set(self.kept)  # and those of parts of equations
        self.turn = 0

    def run(self) -> Program:
        for group, loop in reversed(list(ordered(self.page))):
            live = [e for e in reversed(group) if e.out.name in self.active]
            if loop:  # every gain of a recursion before any of its cotangents is closed
                for e in live:
                    self.walk(e)
            for e in live:
                self.close(e.out.name, self.cotangent[e.out.name], self.axes[e.out.name])
                if not loop:
                    self.walk(e)
        for name in self.page.inputs:
            if name in self.active:
                self.close(name, self.cotangent[name], self.axes[name])
        for name, target in self.past.items():
            if target in self.gains:
                self.close(target, target, self.cached_axes(name))
        made = _without_copies(self.made, self.kept, self.dims)
        read = {r.name for e in made for x in (e.out, *e.alts) for r in refs(x)}
        forward = [Equation(Ref(n, d), ()) for n, d in self.axes.items() if n in read]
        dims = {n: d for n, d in {**self.page.dims, **self.dims}.items() if n in read}
        return in_order(Program((*self.inputs, *forward, *made), self.page.sees, dims))

    # -- down an expression, the cotangent in hand

    def walk(self, e: Equation) -> None:
        self.turn += 1
        for index, x in settled(e):
            g, y = Ref(self.cotangent[e.out.name], index), Ref(e.out.name, index)
            self.spread(x, g, y, letters(g), e.out.name)

    def leads(self, x: Expr) -> bool:
        """Whether a tensor that is to have a gradient is below."""
        return any(r.name in self.active for r in _flows(x))

    def spread(self, x: Expr, g: Expr, y: Ref | None, space: tuple[str, ...], host: str) -> None:
        """Each term of `x` gets the cotangent. `y`: the tensor that holds x; `space`: the letters that the cotangent has and
        those that were summed on the way; `host`: the tensor whose equation this is part of.
        """
        parts = terms(x)
        several = sum(any(map(self.leads, (*num, *den))) for _, num, den in parts) > 1
        if several and not isinstance(g, Ref) and isinstance(x, Op):
            g = self.named(g, letters(x), space, host + ARITHMETIC[x.name])
            space = letters(g)
        for sign, num, den in parts:
            own = letters_of((*num, *den))
            holds = y if y and len(parts) == 1 and sign > 0 and set(own) <= set(letters(y)) else None
            mine = _filled("neg", 0, {"g": g}) if sign < 0 else g
            self.product(num, den, mine, holds, tuple(dict.fromkeys((*space, *own))), host)

    def product(
        self, num: tuple[Expr, ...], den: tuple[Expr, ...], g: Expr, y: Ref | None, space: tuple[str, ...], host: str
    ) -> None:
        """Each factor gets the cotangent times the others, each divisor what the quotient's adjoint says."""
        up = down = g
        if den:
            env: dict[str, Expr] = {"a": times(num), "b": times(den), "g": g}
            env["y"] = y or Op("/", (env["a"], env["b"]))
            up, down = _filled("/", 0, env), _filled("/", 1, env)
        alone = y if len(num) == 1 and not den else None
        for factors, mine in ((num, up), (den, down)):
            for k, f in enumerate(factors):
                rest = (*factors[:k], *factors[k + 1 :])
                own = _filled("*", 0, {"b": times(rest), "g": mine}) if rest else mine
                self.factor(f, own, alone, space, host)

    def factor(self, x: Expr, g: Expr, y: Ref | None, space: tuple[str, ...], host: str) -> None:
        if not isinstance(x, (Ref, Op)) or not self.leads(x):
            return
        if isinstance(x, Ref):
            self.emit(x, g, space)
        elif x.name in ARITHMETIC and x.name != "^":
            self.spread(x, g, y, space, host)
        else:
            self.function(x, g, y, space, host)

    def function(self, x: Op, g: Expr, y: Ref | None, space: tuple[str, ...], host: str) -> None:
        adjoint = OPS[x.name].adjoint
        if adjoint is None or len(adjoint) < len(x.args):
            which = f" for each of its {len(x.args)} arguments" if adjoint else ""
            raise LanguageError(f"{x.name} has no adjoint{which} in the table of operations: `{x}` has no gradient")
        if not isinstance(g, Ref):
            g = self.named(g, letters(x), space, host + ARITHMETIC.get(x.name, x.name))
            space = letters(g)
        env = dict(zip("ab", x.args)) | {"y": y or x, "g": g}
        for k, (arg, text) in enumerate(zip(x.args, adjoint)):
            if self.leads(arg):
                around = [
                    d for d in space if not (k and d in x.over)
                ]  # a second argument stands beside what x runs along
                own = tuple(dict.fromkeys((*around, *letters(arg))))
                self.spread(arg, self.filled(text, env, x.over, host), None, own, host)

    def filled(self, text: str, env: Mapping[str, Expr], over: tuple[str, ...], host: str) -> Expr:
        """An adjoint's text with its letters filled in; a reduction in it gets a name, and what it says more than once."""
        said = [str(o) for o in ops(expression(text))]

        def fill(x: Expr) -> Expr:
            if not isinstance(x, Op):
                return env.get(str(x.value), x) if isinstance(x, Num) else x
            new = _folded(Op(x.name, tuple(map(fill, x.args)), over if x.over else ()), self.page)
            if not isinstance(new, Op) or not (new.over or (x.name not in ARITHMETIC and said.count(str(x)) > 1)):
                return new
            if new not in self.shared:
                wishes = ("D", f"D{host}") if str(x) == ROW_SUM else (host + new.name,)
                self.shared[new] = Ref(self.names.fresh(*wishes), letters(new))
                self.write(self.shared[new], [(self.shared[new].index, new)])
            return self.shared[new]

        return fill(expression(text))

    def named(self, g: Expr, index: tuple[str, ...], space: tuple[str, ...], name: str) -> Ref:
        """A cotangent that several terms read, under a name of its own, and under every letter that is yet to be summed."""
        lost = [d for d in space if d not in (*index, *letters(g))]
        out = Ref(self.names.fresh(f"d{name}"), (*index, *lost))
        self.cotangents.add(out.name)
        self.write(out, [(out.index, total(tidy(g, self.cotangents)))])
        return out

    # -- at a tensor: its cotangent gains

    def emit(self, r: Ref, g: Expr, space: tuple[str, ...]) -> None:
        for term in tidy(g, self.cotangents):
            own = tuple(dict.fromkeys((*letters(r), *term.letters)))
            if lost := [d for d in space if d not in own]:  # each of so many reads the same: repeat, then sum
                term = Term(1, (self.named(total([term]), (*own, *lost), (), r.name),))
            self.gain(r.name, self.axes[r.name], r, term)
            if r.name in self.past and any(isinstance(i, Shift) for i in r.index):
                self.gain(self.past[r.name], self.cached_axes(r.name), r, term, self.rows[r.name])

    def gain(self, target: str, axes: Indices, r: Ref, term: Term, rows: int = 0) -> None:
        """What is read under shifted indices is written under plain ones: dA[t-1] = g(t) as dA[t] = g(t+1).

        `rows`: of the past, whose first row stands so many steps before the new tokens.
        """
        index = list(r.index)
        for axis, i in enumerate(r.index):
            if not isinstance(i, Shift):
                continue
            mine = str(axes[axis])
            back: Steps = (*((-s, n) for s, n in i.by), *([(-1, rows)] if rows else []))
            if not self.movable(term, i.base, mine):
                steps = [n for _, n in i.by if isinstance(n, str) and n in term.letters]
                plain = letters_of(j.base if isinstance(j, Shift) else j for j in (*index[axis:], *index[:axis]))
                own = tuple(dict.fromkeys((*plain, *steps)))
                term = Term(1, (self.named(total([term]), own, own, r.name + i.base),))
            num, den = (tuple(moved(f, i.base, mine, back) for f in fs) for fs in (term.num, term.den))
            term = Term(term.value, num, den)
            index[axis] = mine
        if rows:
            term = Term(term.value, tuple(map(_sliced, term.num)), term.den)
        self.gains.setdefault(target, []).append((-self.turn, Gain(tuple(index), term)))

    def movable(self, term: Term, old: str, new: str) -> bool:
        """Whether an index can be moved in a term: no other takes its letter, no mask speaks of it, nothing divides by what
        lies outside.
        """
        if len(term.num) == 1 and not term.den and isinstance(term.num[0], Ref):
            return new == old or new not in term.letters
        found = set(term.letters)
        risky = letters_of([*term.den, *(f for f in term.num if isinstance(f, Op))])
        reads = (i for f in term.num for r in refs(f) for i in r.index if isinstance(i, (Cat, Part, Ref)))
        masked = any(old in (q, *k.split()) and {q, *k.split()} <= found for q, k in self.page.sees)
        taken = new != old and new in found
        return not (taken or masked or old in risky or any(old in letters(i) for i in reads))

    def cached_axes(self, name: str) -> Indices:
        """A tensor's axes, the rows of its cache in place of the tokens."""
        reads = [r for e in self.page.equations for a in e.alts for r in refs(a) if r.name == name]
        cached = {k for r in reads for k, i in enumerate(r.index) if isinstance(i, Shift)}
        return tuple(f"{ROWS}{self.rows[name]}" if k in cached else i for k, i in enumerate(self.axes[name]))

    # -- a cotangent is closed: all that it gained, as one equation

    def close(self, name: str, target: str, axes: Indices) -> None:
        found = [gain for _, gain in sorted(self.gains.pop(name, []), key=lambda g: g[0])]
        if name in self.outputs:
            seed = Ref(self.names.fresh(f"{target}0") if found else target, axes)
            self.seeds[name] = seed.name
            self.inputs.append(Equation(seed, ()))
            self.dims[seed.name] = axes
            if not found:
                return
            found.append(Gain(axes, Term(1, (seed,))))
        groups: Gains = {}
        for gain in found:
            groups.setdefault(tuple(whole(i, self.cats) for i in gain.at), []).append(gain)
        own = next((at for at, gains in groups.items() if any(target in g.term.reads for g in gains)), None)
        main, groups = self.merged(groups, own, axes)
        mine = groups.pop(main, [])
        for at, gains in groups.items():
            side = Ref(self.names.fresh(target + _suffix(at, main)), at)
            self.dims[side.name] = axes
            self.put(side, gains)
            mine.append(Gain(main, Term(1, (Ref(side.name, main),))))
        if main != axes:
            self.dims[target] = axes
        self.put(Ref(target, main), mine)

    def merged(self, groups: Gains, own: Indices | None, axes: Indices) -> tuple[Indices, Gains]:
        """(the indices of the cotangent, its gains), as many as can be under the same letters."""
        plain = [at for at in groups if all(isinstance(i, str) and i != "last" for i in at)]
        best: tuple[Indices, Gains] | None = None
        for main in [own] if own else dict.fromkeys([*(at for at in (axes,) if at in groups), *plain, *groups, axes]):
            out: Gains = {main: []}
            for at, gains in groups.items():
                for gain in gains:
                    new = gain if at == main else self.under(at, main, gain)
                    out.setdefault(main if new else at, []).append(new or gain)
            covers = main in plain or main == axes or len(out) == 1
            if covers and (best is None or len(out) < len(best[1])):
                best = main, out
        assert best, "its own axes take everything"
        return best

    def under(self, old: Indices, new: Indices, gain: Gain) -> Gain | None:
        """A gain under other letters, or None where that would catch another index or move a mask."""
        pairs = list(zip(flat(old), flat(new)))
        if gain.at != old or list(map(_kind, old)) != list(map(_kind, new)):
            return None
        if any(
            a != b and not all(isinstance(x, str) and x != "last" and "|" not in x for x in (a, b)) for a, b in pairs
        ):
            return None
        names = {str(a): str(b) for a, b in pairs if a != b}
        found = {*gain.term.letters, *letters_of(old)}
        after = {names.get(d, d) for d in found}
        if len(after) < len(found) or set(names.values()) & set(gain.term.letters):
            return None
        for q, k in self.page.sees:
            pair = {q, *k.split()}
            if (pair <= found and pair & set(names)) or (pair <= after and pair & set(names.values())):
                return None
        num, den = ([renamed(f, names) for f in fs] for fs in (gain.term.num, gain.term.den))
        return Gain(new, Term(gain.term.value, tuple(num), tuple(den)))

    def put(self, out: Ref, gains: list[Gain]) -> None:
        """One equation of all gains under the same indices: of an axis of parts, an expression for each."""
        cut = [k for k in range(len(out.index)) if any(isinstance(g.at[k], Part) for g in gains)]
        if not cut:
            self.write(out, [(out.index, total(g.term for g in gains))])
            return
        (k, *more), entire = cut, [g for g in gains if not isinstance(g.at[cut[0]], Part)]
        if more:
            raise LanguageError(f"{out}: a gradient by parts of two axes at once is not built yet")
        if entire:
            side = Ref(self.names.fresh(out.name + "parts"), out.index)
            self.dims[side.name] = self.dims.get(out.name, out.index)
            self.put(side, [g for g in gains if g not in entire])
            self.write(out, [(out.index, total([*(g.term for g in entire), Term(1, (side,))]))])
            return
        axis = whole(out.index[k], self.cats)
        parts = [Part(axis, n) for n in range(len(axis.parts))] if isinstance(axis, Cat) else []
        by_part = [(p, total(g.term for g in gains if g.at[k] == p)) for p in parts]
        self.write(out, [((*out.index[:k], p, *out.index[k + 1 :]), x) for p, x in by_part])

    def write(self, out: Ref, parts: Sequence[tuple[Indices, Expr]]) -> None:
        self.made += written(out, parts, self.cats, self.names)


def _filled(op: str, arg: int, env: Mapping[str, Expr]) -> Expr:
    """An adjoint text of the arithmetic, filled in."""

    def fill(x: Expr) -> Expr:
        if isinstance(x, Num):
            return env.get(str(x.value), x)
        return Op(x.name, tuple(map(fill, x.args)), x.over) if isinstance(x, Op) else x

    return fill(expression((OPS[op].adjoint or ())[arg]))


def _folded(x: Op, page: Program) -> Expr:
    """A power less one worked out; a sum over a constant is the number of elements, where no mask says otherwise."""
    a, b = x.args if len(x.args) == 2 else (x.args[0], None)
    if x.name == "sum":
        inside = {p for d in letters(a) for p in digits(d)}
        own = {p for d in x.over for p in digits(d)}
        masked = any({q, *k.split()} <= inside and {q, *k.split()} & own for q, k in page.sees)
        one = total(tidy(a))
        if isinstance(one, Num) and not masked and not any("|" in d for d in x.over):
            return total(tidy(times((one, *map(Num, x.over)))))
    if x.name == "-" and isinstance(a, Num) and isinstance(b, Num) and not isinstance(a.value, str):
        return x if isinstance(b.value, str) else Num(a.value - b.value)
    return a if x.name == "^" and b == Num(1) else x


def _sliced(x: Expr) -> Expr:
    """An expression that reads only so many rows of an axis: its index says so, where a plain one means all of them."""

    def index(i: Index) -> Index:
        if isinstance(i, Group):
            return Group(tuple(map(index, i.parts)))
        return Shift(i, ((1, 1), (-1, 1))) if isinstance(i, str) and i.startswith(ROWS) else i

    return swap_refs(x, lambda r: Ref(r.name, tuple(map(index, r.index))))


def _kind(i: Index) -> tuple[type, int]:
    return type(i), len(flat([i]))


def _suffix(at: Indices, main: Indices) -> str:
    """What tells indices from the main ones, in letters: i for (c i), T for T[b t k]."""
    out = ""
    for i in (x for x in at if x not in main):
        own = [x for x in flat([i]) if x not in flat(main)]
        gathers = [r.name for x in own for r in refs(x)]
        out += "".join(gathers or [d for x in own for d in letters(x)][-1:])
    return "".join(c for c in out if c.isalnum())


def _without_copies(made: list[Equation], kept: set[str], dims: Mapping[str, Indices]) -> list[Equation]:
    """The equations without those that only give another name to what has one; names in `kept` stay."""
    for e in made:
        left, right = e.out, e.alts[0]
        if len(e.alts) > 1 or not isinstance(right, Ref) or not _same_axes(left, right):
            continue
        if {left.name, right.name} & set(dims) or {left.name, right.name} <= kept:
            continue
        old, new = (left, right) if left.name not in kept else (right, left)
        order = [old.index.index(i) for i in new.index]

        def swap(r: Ref, old: Ref = old, new: Ref = new, order: list[int] = order) -> Ref:
            return Ref(new.name, tuple(r.index[n] for n in order)) if r.name == old.name else r

        rest = [Equation(swap(x.out), tuple(swap_refs(a, swap) for a in x.alts)) for x in made if x is not e]
        return _without_copies(rest, kept, dims)
    return made


def _same_axes(a: Ref, b: Ref) -> bool:
    plain = all(isinstance(i, str) and i != "last" for i in a.index)
    return plain and sorted(map(str, a.index)) == sorted(map(str, b.index))
