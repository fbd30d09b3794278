"""Costs for a page: read off the variants' equations, never typed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnmath.errors import AttnmathError
from attnmath.proving.checks import Within, decided
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
    from sympy import factor

    from attnmath import formula

    found = formula(variant, key, **options)
    if missing := sorted({str(s) for s in found.free_symbols} - set(letters)):
        raise AttnmathError(f"{key} of {variant}: what are {', '.join(missing)} on this page?")
    spoken = {k: v if isinstance(v, (str, int)) else " ".join(map(str, v)) for k, v in options.items()}
    told = "".join(f", {k.replace('_', ' ')} {v}" for k, v in spoken.items())
    source = f"{key} of {variant}{told}, read off its equations"
    rhs = factor(found.subs({s: letters[str(s)] for s in found.free_symbols}, simultaneous=True).doit())
    return Let(eq(name, rhs), f"{says}: {source}" if says else source)


def walked(
    name: Any, variant: str, schedule: str, tiles: Mapping[str, Any], letters: Mapping[str, Any], says: str = ""
) -> Let:
    """A definition whose right side is hbm_bytes.fused of a variant without a mask, under a schedule in tiles of any size.

    `tiles`: the tile of each loop that has one, a symbol; each loop has several turns. `letters` as in `read_off`.

    >>> from attnmath.proving.terms import reals, sizes
    >>> N, R, r, c, d = sizes("N R r c d")
    >>> letters = {"b": 1, "h": 1, "d": d, "t": r * R, "n": r * R}
    >>> walked(reals("F"), "mha", "flash-2", {"t": r, "n": r}, letters).claim.rhs
    4*R*d*r*(R + 1)
    """
    from msgspec.structs import replace
    from sympy import factor

    from attnmath import layers
    from attnmath.keys import Reading
    from attnmath.readings import symbolic
    from attnmath.readings.schedules import named

    layer = layers.build(variant, (), "full", False)
    page = layer.form(None)
    sizes, _ = layer.sizes(dict.fromkeys("tnh", 1), lambda letter, value: symbolic.lift(letter, True), page)
    row = named(schedule)
    loops = tuple(replace(x, tile=tiles.get(x.index[0], x.tile)) for x in row.loops)
    found = symbolic.finished(Reading(page, sizes, "bf16", "bf16", replace(row, loops=loops)).traffic.total, None)
    rhs = factor(found.subs({s: letters[str(s)] for s in found.free_symbols if str(s) in letters}).doit())
    source = f"hbm_bytes.fused of {variant}, mask full, schedule {schedule} in such tiles, read off its loops"
    return Let(eq(name, rhs), f"{says}: {source}" if says else source)


def pairs(
    mask: str, new: Any, keys: Any, past: Any = 0, *, known: tuple[Within, ...] = (), written: Any = None, **sizes: Any
) -> Any:
    """How many pairs the table of masks counts between `new` queries after `past` earlier tokens and `keys` keys, of symbols.

    `sizes`: what the letters in the mask's text are; `known`: the ranges of symbols that decide its Min, Max and floor.
    `written`: the same number as a reader would write it; AttnmathError if it is another.

    >>> from attnmath.proving.terms import counts, sizes
    >>> t, p = sizes("t"), counts("p")
    >>> pairs("causal", t, p + t, p)
    t*(2*p + t + 1)/2
    """
    from sympy import expand, factor, sympify

    from attnmath.language.masks import build_text

    new, keys, past = (sympify(x) for x in (new, keys, past))
    found = build_text(mask, past=past, **sizes).pairs(new, keys, past)
    found = expand(decided(sympify(found).doit(), list(known)))
    if written is not None and expand(found - written) != 0:
        raise AttnmathError(f"{mask}: the table of masks counts {factor(found)}, not {written}")
    return factor(found) if written is None else written


def apart(cost: Let) -> Let:
    """The same cost as a sum of terms, for one that is too long for a line: a product is not broken, a sum is.

    >>> from attnmath.proving.terms import reals
    >>> F, x, y = reals("F x y")
    >>> apart(Let(eq(F, x * (x + y)))).claim.rhs
    x**2 + x*y
    """
    from sympy import expand

    return Let(eq(cost.claim.lhs, expand(cost.claim.rhs)), cost.says)
