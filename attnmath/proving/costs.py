"""Costs for a page: read off the variants' equations, never typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnmath.errors import AttnmathError
from attnmath.proving.page import Let
from attnmath.proving.terms import eq


def read_off(name: Any, variant: str, key: str, letters: Mapping[str, Any], says: str = "", **options: Any) -> Let:
    """A definition whose right side is a number of `attnmath cost` as a formula, in the page's symbols.

    `letters`: what the registry's letters are on this page; every one of the formula's has to be named. `options`: those of
    `attnmath.formula` (phase, mask, form, modifiers, schedule, sizes).

    >>> from attnmath.proving.terms import reals, sizes
    >>> b, h, n, d = sizes("b h n d")
    >>> read_off(reals("F"), "mha", "flops.matmul", {"b": b, "h": h, "t": n, "d": d}, mask="full").claim.rhs
    4*b*d*h*n**2
    """
    from attnmath import formula

    found = formula(variant, key, **options)
    if missing := sorted({str(s) for s in found.free_symbols} - set(letters)):
        raise AttnmathError(f"{key} of {variant}: what are {', '.join(missing)} on this page?")
    told = "".join(f", {k.replace('_', ' ')} {v}" for k, v in options.items())
    source = f"{key} of {variant}{told}, read off its equations"
    rhs = found.subs({s: letters[str(s)] for s in found.free_symbols}, simultaneous=True)
    return Let(eq(name, rhs), f"{says}: {source}" if says else source)
