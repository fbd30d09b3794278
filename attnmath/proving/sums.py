"""Finite sums of products, decided: two expressions are equal for all sizes if their normal forms are one.

This is the kernel that a derivation's trust rests on. The language is SymPy's own (Sum, Product, Indexed, KroneckerDelta, any
function); only the decision is ours. Beside the axioms of a commutative ring its rules are, each sound for every size:

    prefix   every range is half open and starts at 0: the sum over [a, b) is the one over [0, b) less the one over [0, a)
    peel     [0, t+1) is [0, t) and the term at t; the same for products, as ratios (factors are taken to be non-zero)
    linear   sums distribute over +, constants leave them, independent sums come apart (Fubini)
    count    a sum of what does not depend on its index is the range's length times it; powers of the index alone: Faulhaber
    delta    the sum over k of delta(k, j) f(k) is f(j), where j is known to lie in k's range, and only there; of a position
             that is computed, f(j) times the sum over k of delta(k, j)
    name     a bound index has no name: the smallest of all spellings is the normal one
    exp      exp(a + b) = exp(a) exp(b)
    lemma    an equation that was handed in: a sum of exactly these factors, or these factors, are that

Ranges follow Karr's convention, as SymPy's do: the ordinary one wherever the upper end is not below the lower. Of SymPy are
trusted: its Add and Mul, expand, xreplace, diff, together, and the summation of polynomials. The procedure is sound, not
complete: what is not shown equal is not thereby refuted. `tests/test_proving.py` fuzzes it against `oracle.py`, which shares no
line with it, and breaks each rule on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from typing import Any

from sympy import (
    Add,
    Function,
    Indexed,
    IndexedBase,
    Integer,
    KroneckerDelta,
    Mul,
    Pow,
    Product,
    Sum,
    Symbol,
    exp,
    expand,
    fraction,
    summation,
    sympify,
    together,
)
from sympy.core.function import AppliedUndef

from attnmath.proving.terms import Claim, Index, Partial, bound_name, fresh, rename

Bound = dict[Any, Any]  # a bound index and the end of its range, which starts at 0
Term = tuple[Any, tuple[tuple[Any, Any], ...]]
ORDERS = 720  # renamings that are tried for one spelling, at the most: beyond, two equal sums may not be seen to be


# -- opening: an expression as terms, each a product under named ranges that start at 0 -------------------------------


def _ends(lo: Any, hi: Any) -> Iterator[tuple[int, Any, int]]:
    """The half-open range as (+1, its end) and (-1, its start), each a base and the whole number to peel."""
    for sign, end in ((1, hi + 1), (-1, lo)):
        shift, base = expand(end).as_coeff_Add()
        if not shift.is_Integer:
            shift, base = Integer(0), end
        yield sign, base, int(shift)


def _peeled(base: Any, shift: int) -> list[tuple[int, Any]]:
    """What [0, base + shift) has beyond [0, base)."""
    return [(1, base + s) for s in range(shift)] + [(-1, base + s) for s in range(shift, 0)]


def _open_sum(e: Any) -> Iterator[Term]:
    v, lo, hi = e.limits[-1]
    body = Sum(e.function, *e.limits[:-1]) if len(e.limits) > 1 else e.function
    for sign, base, shift in _ends(lo, hi):
        if base != 0:
            d = bound_name()
            yield sign * body.xreplace({v: d}), ((d, base),)
        for s, place in _peeled(base, shift):
            yield sign * s * body.xreplace({v: place}), ()


def _open_product(e: Any) -> Any:
    ((v, lo, hi),) = e.limits
    out = Integer(1)
    for sign, base, shift in _ends(lo, hi):
        if base != 0:
            out *= Product(e.function, (v, 0, base - 1)) ** sign
        for s, place in _peeled(base, shift):
            out *= e.function.xreplace({v: place}) ** (sign * s)
    return out


def _expand(e: Any) -> Any:
    """SymPy's expand, but exp(sum) stays one factor: SymPy makes it a product, which exp(-sum) no longer cancels."""

    def split(x: Any) -> Any:
        return Mul(*(x.func(*x.args[:-1], t) for t in x.exp.args))

    return expand(e, power_exp=False).replace(lambda x: isinstance(x, (exp, Pow)) and x.exp.is_Add, split)


def terms(e: Any) -> Iterator[Term]:
    """An expression whose bound names are its own, as (product, ranges from 0) pairs that add up to it.

    >>> from attnmath.proving.terms import counts, tensors
    >>> t, j = counts("t j")
    >>> x, = tensors("x")
    >>> [len(bound) for _, bound in terms(fresh(Sum(x[j], (j, 0, t))))]
    [1, 0]
    """
    for t in Add.make_args(_expand(e)):
        heads = [
            b for f in Mul.make_args(t) for b, n in [f.as_base_exp()] if isinstance(b, Sum) and n.is_Integer and n > 0
        ]
        if not heads:
            yield t, ()
            continue
        for body, bound in _open_sum(heads[0]):
            for b, more in terms(fresh(body) * (t / heads[0])):
                yield b, bound + more


def factors(body: Any) -> Iterator[Any]:
    """A product as a list; whole powers are written out.

    >>> from sympy.abc import x, y
    >>> sorted(factors(x**2 * y), key=str)
    [x, x, y]
    """
    for f in Mul.make_args(body):
        b, n = f.as_base_exp()
        yield from [b] * int(n) if n.is_Integer and n > 0 and not b.is_number else [f]


# -- matching: an Index stands for any position of its range, everything else for itself ------------------------------


def inside(w: Any, upper: Any, bound: Mapping[Any, Any]) -> bool:
    """Is w known to lie in [0, upper)?

    >>> from attnmath.proving.terms import counts, sizes
    >>> inside(sizes("n") - 1, sizes("n"), {}), inside(counts("t"), sizes("n"), {})
    (True, False)
    """
    if w in bound:
        return bool(bound[w] == upper)
    if isinstance(w, Index):
        return bool(w.size == upper)
    return bool(w.is_nonnegative and (upper - w).is_positive)


def _unify(pattern: Any, target: Any, wild: dict[Any, Any], bound: Mapping[Any, Any] | None) -> bool:
    """Whether the pattern becomes the target; with `bound`, only where each Index is known to lie in its range."""
    if isinstance(pattern, Index):
        if pattern not in wild and bound is not None and not inside(target, pattern.size, bound):
            return False
        return bool(wild.setdefault(pattern, target) == target)
    if pattern == target and not pattern.has(Index):  # an Index has to be noted even where it stands for itself
        return True
    return (
        bool(pattern.args)
        and pattern.func == target.func
        and len(pattern.args) == len(target.args)
        and all(_unify(x, y, wild, bound) for x, y in zip(pattern.args, target.args))
    )


class Lemma:
    """An equation used as a rewriting rule: its left side is a product, or the sum of one over one whole dimension."""

    def __init__(self, claim: Claim) -> None:
        lhs = claim.lhs
        self.v: Any = None
        self.upper: Any = None
        if isinstance(lhs, Sum):
            if len(lhs.limits) != 1 or lhs.limits[0][1] != 0:
                raise ValueError("a lemma's left side is a product, or the sum of one over one range from 0")
            self.v, _, hi = lhs.limits[0]
            self.upper, lhs = hi + 1, lhs.function
        self.pattern, self.rhs = list(factors(lhs)), claim.rhs
        if any(p.is_number for p in self.pattern):
            raise ValueError("a lemma's left side has no numbers")

    def __call__(self, body: Any, bound: Bound, around: Mapping[Any, Any]) -> tuple[Any, Bound] | None:
        """One use of the lemma in a term, if it fits."""
        if self.v is None:
            return self._rewrite(body, bound, around)
        for b, upper in bound.items():
            held = [f for f in factors(body) if f.has(b)]
            if upper != self.upper or len(held) != len(self.pattern) or any(u.has(b) for u in bound.values()):
                continue
            rest = {u: x for u, x in bound.items() if u != b}
            for order in permutations(held):
                wild: dict[Any, Any] | None = {}
                marked = [rename(p, self.v, b) for p in self.pattern]
                wild = self._fits(marked, order, {**around, **rest})
                if wild is not None:
                    return body / Mul(*held) * fresh(self.rhs).xreplace(wild), rest
        return None

    def _rewrite(self, body: Any, bound: Bound, around: Mapping[Any, Any]) -> tuple[Any, Bound] | None:
        fs = list(factors(body))
        heads = {type(p) for p in self.pattern}
        for chosen in permutations([f for f in fs if type(f) in heads], len(self.pattern)):
            wild = self._fits(self.pattern, chosen, {**around, **bound})
            if wild is not None:
                return body / Mul(*chosen) * fresh(self.rhs).xreplace(wild), bound
        for f in fs:  # or one of them below the line
            b, n = f.as_base_exp()
            if len(self.pattern) == 1 and n.is_Integer and n < 0:
                wild = self._fits(self.pattern, (b,), {**around, **bound})
                if wild is not None:
                    return body / f * fresh(self.rhs).xreplace(wild) ** n, bound
        return None

    @staticmethod
    def _fits(pattern: list[Any], target: Iterable[Any], known: Mapping[Any, Any]) -> dict[Any, Any] | None:
        wild: dict[Any, Any] = {}
        return wild if all(_unify(p, t, wild, known) for p, t in zip(pattern, target, strict=True)) else None


# -- rewriting one term -----------------------------------------------------------------------------------------------


def _deltas(body: Any, bound: Bound, around: Mapping[Any, Any]) -> tuple[Any, Bound] | None:
    for f in factors(body):
        if not isinstance(f, KroneckerDelta):
            continue
        for v, w in (f.args[:2], f.args[1::-1]):
            if v in bound and inside(w, bound[v], {**around, **bound}):
                left = {u: x.xreplace({v: w}) for u, x in bound.items() if u != v}
                return (body / f).xreplace({v: w}), left
        a, b = sorted(f.args[:2], key=str)
        rest = body / f
        if rest.has(b) and b.is_Symbol and b not in bound and a not in bound:
            return KroneckerDelta(a, b) * rest.xreplace({b: a}), bound
    return _moved(body, bound)


def _moved(body: Any, bound: Bound) -> tuple[Any, Bound] | None:
    """delta(w, k) f(k) as delta(w, k) f(w), where w is not a plain index and may lie outside k's range: a lemma may say not."""
    for f in factors(body):
        if isinstance(f, KroneckerDelta):
            for v, w in (f.args[:2], f.args[1::-1]):
                if v in bound and w.args and not w.has(v) and (body / f).has(v):
                    return f * (body / f).xreplace({v: w}), bound
    return None


def _counts(body: Any, bound: Bound) -> tuple[Any, Bound] | None:
    for v, upper in bound.items():
        if any(u.has(v) for u in bound.values()):
            continue
        held = Mul(*[f for f in factors(body) if f.has(v)])
        if held.is_polynomial(v) and not held.atoms(Indexed, Function, Partial):
            counted = upper if held == 1 else summation(held, (v, 0, upper - 1))
            return body / held * counted, {u: x for u, x in bound.items() if u != v}
    return None


# -- closing: the normal spelling -------------------------------------------------------------------------------------


def _parts(fs: Iterable[Any], bound: Bound) -> list[tuple[set[Any], list[Any]]]:
    """Factors that share a bound index belong together; independent sums come apart."""
    groups: list[tuple[set[Any], list[Any]]] = []
    for f in fs:
        names = {v for v in bound if f.has(v)}
        for v in list(names):
            names |= {u for u in bound if bound[v].has(u)}
        held = [f]
        for g in [g for g in groups if g[0] & names]:
            groups.remove(g)
            names |= g[0]
            held = g[1] + held
        groups.append((names, held))
    return groups


def _orders(names: set[Any], body_factors: list[Any], bound: Bound) -> Iterator[list[Any]]:
    """The renamings worth trying: those that respect what an index looks like with all others blanked."""
    blank = Symbol("_")

    def colour(v: Any) -> str:
        others = {u: blank for u in names if u != v} | {v: Symbol("__")}
        return str((bound[v].xreplace(others), sorted(str(f.xreplace(others)) for f in body_factors if f.has(v))))

    classes: dict[str, list[Any]] = {}
    for v in names:
        classes.setdefault(colour(v), []).append(v)

    def arranged(keys: list[str]) -> Iterator[list[Any]]:
        if not keys:
            yield []
            return
        for first in permutations(classes[keys[0]]):
            for rest in arranged(keys[1:]):
                yield [*first, *rest]

    for n, order in enumerate(arranged(sorted(classes))):
        if n == ORDERS:
            return
        yield order


def _normal_name(n: int) -> Any:
    return Symbol(f"_{n}", integer=True, nonnegative=True)


class Normal:
    """The normal form under some lemmas; `used` collects the rules that fired, for the page to print."""

    def __init__(self, lemmas: Iterable[Lemma] = ()) -> None:
        self.lemmas = tuple(lemmas)
        self.used: set[str] = set()

    def __call__(self, e: Any, around: Mapping[Any, Any] = {}) -> Any:
        """The normal form of an expression; `around`: names that sums around it bind, with the ends of their ranges."""
        return self._normal(fresh(sympify(e)), around)

    def _normal(self, e: Any, around: Mapping[Any, Any]) -> Any:
        out = []
        todo = [(body, dict(bound), False) for body, bound in terms(self._flat(e))]
        while todo:
            body, bound, settled = todo.pop()
            step = self._rewritten(body, bound, around)
            if step is None and (settled or not body.has(Sum, Product)):
                parts = _parts(factors(body), bound)
                out.append(Mul(*(self._spelled(names, fs, bound, around) for names, fs in parts)))
                continue
            body, left = step or (fresh(self._inner(body, {**around, **bound})), bound)
            todo += [(b, {**left, **dict(more)}, step is None) for b, more in terms(body)]
        return Add(*out)

    def _rewritten(self, body: Any, bound: Bound, around: Mapping[Any, Any]) -> tuple[Any, Bound] | None:
        if step := _deltas(body, bound, around):
            self.used.add("delta")
            return step
        for lemma in self.lemmas:
            if step := lemma(body, bound, around):
                self.used.add("lemma")
                return step
        if step := _counts(body, bound):
            self.used.add("count")
        return step

    def _flat(self, e: Any) -> Any:
        """Products as ratios of those from 0, as far as their ends allow."""
        return e.replace(lambda x: isinstance(x, Product), _open_product) if e.has(Product) else e

    def _inner(self, e: Any, around: Mapping[Any, Any]) -> Any:
        """The same with what stands inside opaque heads normalised: exp(sum), 1/sum, f(sum)."""
        if not e.has(Sum, Product):
            return e
        if isinstance(e, Sum):
            return self._normal(e, around)
        if isinstance(e, Product):
            ((v, lo, hi),) = e.limits
            taken = {s.name for s in e.free_symbols}
            name = next(_normal_name(n) for n in range(len(taken) + 1) if f"_{n}" not in taken)
            return Product(self._inner(rename(e.function, v, name), around), (name, lo, self._inner(hi, around)))
        return e.func(*(self._inner(a, around) for a in e.args))

    def _spelled(self, names: set[Any], fs: list[Any], bound: Bound, around: Mapping[Any, Any]) -> Any:
        """The sum over `names` in the smallest of its spellings."""
        body = Mul(*fs)
        if not names:
            return self._inner(body, around)
        taken = {s.name for s in body.free_symbols - names}
        new = [_normal_name(n) for n in range(len(names) + len(taken)) if f"_{n}" not in taken][: len(names)]
        best = None
        for order in _orders(names, fs, bound):
            named = dict(zip(order, new))
            limits = sorted(((named[v], bound[v].xreplace(named)) for v in names), key=lambda x: x[0].name)
            inner_first = sorted(limits, key=lambda x: not x[1].free_symbols & set(new))
            known = {**around, **{named[v]: bound[v].xreplace(named) for v in names}}
            e = Sum(self._inner(body.xreplace(named), known), *((v, 0, u - 1) for v, u in inner_first))
            if best is None or str(e) < str(best):
                best = e
        return best


# -- definitions ------------------------------------------------------------------------------------------------------


def head(e: Any) -> Any:
    """What a reference refers to: the tensor of an entry, the function of a call, a symbol itself.

    >>> from attnmath.proving.terms import counts, tensors
    >>> head(tensors("Q")[0][counts("t")])
    Q
    """
    if isinstance(e, Indexed):
        return e.base
    if isinstance(e, Partial):
        return e.func, *map(head, e.args)
    return e.func if isinstance(e, AppliedUndef) else e


def unfold(e: Any, definitions: Iterable[Claim]) -> Any:
    """Replace, once, each name by what it stands for: an Index on the left stands for any position, the rest for itself.

    >>> from attnmath.proving.terms import eq, indices, sizes, tensors
    >>> x, y = tensors("x y")
    >>> i, j = indices("i j", sizes("n"))
    >>> unfold(x[j] + 1, [eq(x[i], 2 * y[i])])
    2*y[j] + 1
    """
    for d in definitions:
        if isinstance(d.lhs, Partial) or e.has(head(d.lhs)):
            e = fresh(e).replace(
                lambda x, d=d: type(x) is type(d.lhs) and head(x) == head(d.lhs), lambda x, d=d: _unfolded(x, d)
            )
    return e


def _unfolded(x: Any, d: Claim) -> Any:
    wild: dict[Any, Any] = {}
    return fresh(d.rhs).xreplace(wild) if _unify(d.lhs, x, wild, None) else x


def grad(e: Any, entry: Any) -> Any:
    """The partial derivative by one entry of a tensor, with bound names out of harm's way.

    >>> from attnmath.proving.terms import indices, sizes, tensors, total
    >>> x, = tensors("x")
    >>> i, j = indices("i j", sizes("n"))
    >>> Normal()(grad(total(x[i] ** 2, i), x[j]))
    2*x[j]
    """
    return fresh(e).diff(entry)


def taken(e: Any, definitions: tuple[Claim, ...] = ()) -> Any:
    """Every Partial taken, innermost first; what its names stand for is unfolded, all but the tensor it is taken by.

    >>> from attnmath.proving.terms import eq, reals
    >>> x, y = reals("x y")
    >>> taken(Partial(y, x), (eq(y, x**2),))
    2*x
    """
    if not e.has(Partial):
        return e
    if not isinstance(e, Partial):
        return e.func(*(taken(a, definitions) for a in e.args))
    what, entry = taken(e.args[0], definitions), e.args[1]
    by = str(head(entry))
    on_the_way = tuple(d for d in definitions if str(head(d.lhs)) != by and by in reached(d.rhs, definitions))
    while latest := [d for d in on_the_way if _mentions(what, d)]:
        before, what = what, unfold(what, latest[-1:])
        if what == before:
            break
    return grad(what, entry)


def heads(e: Any) -> set[str]:
    """The names of the tensors, functions and symbols in an expression.

    >>> from attnmath.proving.terms import counts, tensors
    >>> x, = tensors("x")
    >>> sorted(heads(x[counts("t")]))
    ['t', 'x']
    """
    named = {str(x.base) for x in e.atoms(Indexed)} | {x.func.__name__ for x in e.atoms(AppliedUndef)}
    return named | {str(s) for s in e.free_symbols if not isinstance(s, (Indexed, IndexedBase))}


def reached(e: Any, definitions: Iterable[Claim], but: Iterable[str] = ()) -> set[str]:
    """The names that an expression depends on, through definitions; those of `but` are not looked into.

    >>> from attnmath.proving.terms import eq, reals
    >>> x, y, z = reals("x y z")
    >>> sorted(reached(z, [eq(z, y + 1), eq(y, 2 * x)]))
    ['x', 'y', 'z']
    """
    known = {str(head(d.lhs)): d.rhs for d in definitions}
    out, todo = set(), heads(e)
    while todo:
        name = todo.pop()
        out.add(name)
        if name in known and name not in but:
            todo |= heads(known[name]) - out
    return out


def equal(
    lhs: Any,
    rhs: Any,
    lemmas: Iterable[Lemma] = (),
    definitions: tuple[Claim, ...] = (),
    of: tuple[str, ...] | None = None,
) -> set[str] | None:
    """The rules that show both sides equal for all sizes; None if it is not shown, which does not refute it.

    Definitions are unfolded one after the other, the page's last first, until both sides are the same; `of`: only those of
    these names. A name that was unfolded is among the rules, as "= name".

    >>> from attnmath.proving.terms import indices, sizes, tensors, total
    >>> x, = tensors("x")
    >>> i, j = indices("i j", sizes("n"))
    >>> equal(total(x[i], i) ** 2, total(x[i] * x[j], i, j)) is None
    False
    >>> equal(total(x[i], i) ** 2, total(x[i] ** 2, i)) is None
    True
    """
    normal = Normal(lemmas)
    gap = normal(taken(sympify(lhs) - sympify(rhs), definitions))
    definitions = tuple(d for d in definitions if of is None or str(head(d.lhs)) in of)
    while gap != 0 and (latest := [d for d in definitions if _mentions(gap, d)]):
        normal.used.add(f"= {head(latest[-1].lhs)}")
        before, gap = gap, normal(unfold(gap, latest[-1:]))
        if gap == before:  # its row is not one of those that may be unfolded
            definitions = tuple(d for d in definitions if d is not latest[-1])
    if gap == 0:
        return normal.used
    top = fraction(together(gap))[0]
    normal.used.add("fraction")
    return normal.used if top != gap and normal(expand(top)) == 0 else None


def _mentions(e: Any, definition: Claim) -> bool:
    name = head(definition.lhs)
    return any(head(x) == name for x in e.atoms(Indexed, AppliedUndef, Symbol))
