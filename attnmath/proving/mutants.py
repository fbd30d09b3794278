"""Nearby claims, which ought to fail: one change at one place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sympy import Add, Derivative, Indexed, Integral, KroneckerDelta, Limit, Product, Subs, Sum, sympify

from attnmath.proving.terms import Claim, Index, Partial

OUTER = (Sum, Product, Subs, Derivative, Limit, Integral, Partial)  # of these, the first argument carries the value


def _sites(e: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The subexpressions that carry a value: not indices, limits or names."""
    yield path, e
    if isinstance(e, (Indexed, KroneckerDelta)) or not e.args:
        return
    for n in [0] if isinstance(e, OUTER) else range(len(e.args)):
        yield from _sites(e.args[n], (*path, n))


def _put(e: Any, path: tuple[int, ...], new: Any) -> Any:
    return e.func(*(_put(a, path[1:], new) if n == path[0] else a for n, a in enumerate(e.args))) if path else new


def _near(e: Any) -> Iterator[Any]:
    """Twice a part, one more, its negative; a term dropped, a range cut short, two indices exchanged."""
    for path, x in _sites(e):
        if isinstance(e, Derivative) and path:
            continue
        yield from (_put(e, path, 2 * x), _put(e, path, x + 1), _put(e, path, -x))
        if x.is_Add:
            yield from (_put(e, path, Add(*(b for b in x.args if b != a))) for a in x.args)
        if isinstance(x, Sum):
            v, lo, hi = x.limits[0]
            yield _put(e, path, Sum(x.function, (v, lo, hi - 1), *x.limits[1:]))
        if isinstance(x, Indexed):
            for n, a in enumerate(x.indices):
                for m, b in enumerate(x.indices[:n]):
                    if isinstance(a, Index) and isinstance(b, Index) and a.size == b.size:
                        swapped = [*x.indices]
                        swapped[n], swapped[m] = b, a
                        yield _put(e, path, x.base[tuple(swapped)])


def mutants(claim: Claim, most: int = 16, seed: int = 1) -> list[Claim]:
    """Changed claims, at most so many, the right side's first; the same ones for the same seed.

    >>> from attnmath.proving.terms import counts, eq, tensors
    >>> x, = tensors("x")
    >>> t = counts("t")
    >>> len(mutants(eq(x[t], x[t] + 1), 5))
    5
    """
    rng, out = random.Random(seed), []
    for side in (1, 0):
        e = sympify(claim.args[side])
        changed: list[Any] = []
        for new in _near(e):
            if new != e and new not in changed:
                changed.append(new)
        rng.shuffle(changed)
        out += [type(claim)(*((m, claim.rhs) if side == 0 else (claim.lhs, m)), evaluate=False) for m in changed]
    return out[:most]
