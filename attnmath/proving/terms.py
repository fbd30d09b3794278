"""The vocabulary of claims: positions with a range, sums over whole dimensions, and nodes that print before they are evaluated.

A claim is an ordinary SymPy relation. What SymPy lacks is here: an index that knows its range, an expectation, a partial
derivative that stays written as one, and substitution that does not capture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sympy import Dummy, Eq, Expr, Function, Ge, Gt, IndexedBase, Ne, Product, Sum, Symbol, Tuple, symbols, sympify

Claim = Any  # a SymPy relation that nobody has evaluated


class Index(Symbol):
    """A position in [0, size). The range is part of the type: it is what lets a delta or a lemma contract a sum.

    >>> n = sizes("n")
    >>> Index("i", n).size
    n
    """

    def __new__(cls, name: str, size: Expr) -> Index:
        self = Symbol.__xnew__(cls, name, integer=True, nonnegative=True)
        self.size = sympify(size)
        return self

    def _hashable_content(self) -> tuple[Any, ...]:
        return (*super()._hashable_content(), self.size)

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self.name, self.size), {}


class E(Function):
    """The expectation of an expression; which tensors are random, and by what law, is said by the check."""

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\mathbb{{E}}{power}\left[{printer._print(self.args[0])}\right]"


class Partial(Expr):
    """The partial derivative of an expression by one entry of a tensor (or one symbol), not yet taken.

    What the expression's names stand for is unfolded before it is taken, all but the tensor that it is taken by: so
    `Partial(L, P[i, j])` and `Partial(L, S[i, j])` are what a reader means by them.
    """

    def __new__(cls, what: Any, by: Any) -> Partial:
        return Expr.__new__(cls, sympify(what), sympify(by))

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        what, by = (printer._print(a) for a in self.args)
        simple = self.args[0].is_Symbol or (not self.args[0].is_Add and not self.args[0].has(Sum))
        of = (
            rf"\frac{{\partial {what}}}{{\partial {by}}}"
            if simple
            else rf"\frac{{\partial}}{{\partial {by}}}\left({what}\right)"
        )
        return of if exp is None else rf"\left({of}\right)^{{{exp}}}"


class AtMost(Function):
    """1 where the first is at most the second, else 0: Iverson's bracket, of whole numbers."""

    nargs = 2

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        return rf"\left[{printer._print(self.args[0])} \leq {printer._print(self.args[1])}\right]"


def indices(names: str, size: Any) -> list[Index]:
    """Positions in one dimension, by name.

    >>> indices("i j", sizes("n"))
    [i, j]
    """
    return [Index(n, size) for n in names.split()]


def sizes(names: str) -> Any:
    """Whole numbers of at least 1: the lengths of dimensions.

    >>> sizes("n").is_positive
    True
    """
    return symbols(names, integer=True, positive=True)


def counts(names: str) -> Any:
    """Whole numbers from 0 on: steps, and ends of ranges.

    >>> counts("t").is_nonnegative
    True
    """
    return symbols(names, integer=True, nonnegative=True)


def reals(names: str, **kinds: bool) -> Any:
    """Real numbers.

    >>> reals("x", positive=True).is_real
    True
    """
    return symbols(names, real=True, **kinds)


def tensors(names: str, **kinds: bool) -> list[Any]:
    """Tensors of real entries; `positive=True` where every entry is.

    >>> tensors("Q K")
    [Q, K]
    """
    return [IndexedBase(n, real=True, **kinds) for n in names.split()]


def total(body: Any, *over: Index) -> Any:
    """The sum over whole dimensions.

    >>> x, = tensors("x")
    >>> i, = indices("i", sizes("n"))
    >>> total(x[i], i)
    Sum(x[i], (i, 0, n - 1))
    """
    return Sum(body, *((i, 0, i.size - 1) for i in over))


def eq(lhs: Any, rhs: Any) -> Claim:
    """Both sides are equal: a claim, not evaluated.

    >>> eq(reals("x"), reals("x"))
    Eq(x, x)
    """
    return Eq(sympify(lhs), sympify(rhs), evaluate=False)


def gt(lhs: Any, rhs: Any) -> Claim:
    """The left side is the larger: a claim, not evaluated.

    >>> gt(2, 1)
    2 > 1
    """
    return Gt(sympify(lhs), sympify(rhs), evaluate=False)


def ge(lhs: Any, rhs: Any) -> Claim:
    """The left side is at least the right: a claim, not evaluated.

    >>> ge(2, 2)
    2 >= 2
    """
    return Ge(sympify(lhs), sympify(rhs), evaluate=False)


def ne(lhs: Any, rhs: Any) -> Claim:
    """The sides are not equal as functions: a claim, not evaluated.

    >>> ne(2, 3)
    Ne(2, 3)
    """
    return Ne(sympify(lhs), sympify(rhs), evaluate=False)


def fresh(e: Any) -> Any:
    """The expression with every bound index under a name of its own.

    SymPy's subs, xreplace and diff all capture bound names, so nothing may be substituted before this.

    >>> x, = tensors("x")
    >>> i, = indices("i", sizes("n"))
    >>> i in fresh(total(x[i], i)).atoms(Index)
    False
    """
    if not e.has(Sum, Product):
        return e
    if not isinstance(e, (Sum, Product)):
        return e.func(*map(fresh, e.args))
    body, limits = e.function, list(e.limits)
    for n, (v, lo, hi) in enumerate(
        limits
    ):  # innermost first: its name is visible to the body and to nothing further out
        d = bound_name()
        body = rename(body, v, d)
        limits[:n] = [(w, a.xreplace({v: d}), b.xreplace({v: d})) for w, a, b in limits[:n]]
        limits[n] = (d, lo, hi)
    return e.func(fresh(body), *((v, fresh(lo), fresh(hi)) for v, lo, hi in limits))


def bound_name() -> Any:
    """A name that nothing else has.

    >>> bound_name() == bound_name()
    False
    """
    return Dummy("v", integer=True, nonnegative=True)


def rename(e: Any, old: Any, new: Any) -> Any:
    """Replace a free name; an inner binding of the same name is left alone.

    >>> x, = tensors("x")
    >>> i, j = indices("i j", sizes("n"))
    >>> rename(x[i] * total(x[i], i), i, j) == x[j] * total(x[i], i)
    True
    """
    if e == old:
        return new
    if not e.args or not e.has(old):
        return e
    if isinstance(e, (Sum, Product)) and old in [limit[0] for limit in e.limits]:
        outside = [
            Tuple(v, rename(lo, old, new), rename(hi, old, new)) if v == old else Tuple(v, lo, hi)
            for v, lo, hi in e.limits
        ]
        return e.func(e.function, *outside)
    return e.func(*(rename(a, old, new) for a in e.args))


def spelled(e: Any) -> Any:
    """The expression with its bound names spelled by how deep they lie, so that a renaming makes no difference.

    >>> x, = tensors("x")
    >>> i, j = indices("i j", sizes("n"))
    >>> spelled(total(x[i], i)) == spelled(total(x[j], j))
    True
    """
    if not e.has(Sum, Product):
        return e
    args = [spelled(a) for a in e.args]
    if not isinstance(e, (Sum, Product)):
        return e.func(*args)
    depth = max((int(s.name[1:].split("_")[0]) for s in args[0].atoms(Symbol) if _deep(s)), default=0)
    body, limits = args[0], [tuple(limit) for limit in args[1:]]
    for n, (v, lo, hi) in enumerate(limits):
        name = Symbol(f"_{depth + 1}_{n}", integer=True, nonnegative=True)
        body = rename(body, v, name)
        limits[:n] = [(w, a.xreplace({v: name}), b.xreplace({v: name})) for w, a, b in limits[:n]]
        limits[n] = (name, lo, hi)
    return e.func(body, *limits)


def _deep(s: Any) -> bool:
    return re.fullmatch(r"_\d+_\d+", s.name) is not None


def at(e: Any, positions: Mapping[Any, Any]) -> Any:
    """The expression with free names replaced, all at once, without capturing any that is bound.

    >>> x, = tensors("x")
    >>> i, k = indices("i k", sizes("n"))
    >>> shown = at(total(x[k] * x[i], k), {i: k})
    >>> shown.free_symbols >= {k}, shown.function == x[k] ** 2
    (True, False)
    """
    return fresh(sympify(e)).xreplace({k: sympify(v) for k, v in positions.items()})
