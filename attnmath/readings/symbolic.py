"""The counts as SymPy expressions. The only importer of SymPy.

The lines that count integers count symbols here; nothing is typed a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

Expr = sp.Expr
PAST = sp.Symbol("past", integer=True, nonnegative=True)


def symbol(letter: str) -> sp.Symbol:
    """The symbol of a letter of the registry: a whole number of at least 1.

    >>> symbol("t")
    t
    """
    return sp.Symbol(letter, integer=True, positive=True)


def lift(letter: str, extends: bool) -> sp.Expr:
    """A letter as it is counted with; where the context extends the new tokens, it is t + past, so that n >= t is known.

    >>> lift("n", extends=True)
    past + t
    """
    return symbol("t") + PAST if letter == "n" and extends else symbol(letter)


def finished(x: Any, at: Mapping[str, int] | None) -> sp.Expr:
    """A count in the registry's letters, factored; with values `at`, every Min and Max as the argument that it is there.

    >>> finished(symbol("t") ** 2 + symbol("t"), None)
    t*(t + 1)
    """
    found = sp.expand(sp.sympify(x))
    if at:
        found = _resolved(found, {symbol(k): v for k, v in at.items()} | {PAST: at.get("past", 0)})
    return sp.factor(sp.expand(found.subs(PAST, symbol("n") - symbol("t"))))


def _resolved(x: sp.Expr, at: Mapping[sp.Symbol, int]) -> sp.Expr:
    """Every Min and Max as the argument that it is at this point."""

    def branch(pick: Any, sign: int) -> Any:  # of equals, the one with more symbols: a constant is equal by chance
        return lambda *args: pick(args, key=lambda a: (a.subs(at), sign * len(a.free_symbols)))

    return x.replace(sp.Max, branch(max, 1)).replace(sp.Min, branch(min, -1))
