"""The counts as SymPy expressions. The only importer of SymPy.

The lines that count integers count symbols here; nothing is typed a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy as sp

from attnmath import layers
from attnmath import modifiers as mods
from attnmath.errors import Unknown
from attnmath.keys import KEYS, Reading, cheapest
from attnmath.language.letters import LETTERS, needed
from attnmath.request import by_letter, check, check_texts, check_useful

PAST = sp.Symbol("past", integer=True, nonnegative=True)


def symbol(letter: str) -> sp.Symbol:
    """The symbol of a letter of the registry: a whole number of at least 1."""
    return sp.Symbol(letter, integer=True, positive=True)


def formula(
    variant: str,
    key: str,
    *,
    modifiers: Iterable[str | mods.Use] = (),
    phase: str = "prefill",
    mask: str | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    form: str | None = None,
    **sizes: int,
) -> sp.Expr:
    """One number of `cost` as a SymPy expression in the registry's letters (`attnmath variants NAME` shows whose they are).

    It takes the options of `cost`. A size whose default is an expression (d-model, v-head-dim, context) stands for that
    expression unless it is given. Where a window or a chunk asks for a minimum: with every size given it is resolved as
    at these sizes, as in `cost`, whose `regime` names the conditions; otherwise Min and Max remain. Raises InputError for
    an unknown key or an option without use.

    >>> formula("gqa", "flops.matmul")
    2*b*d*h*t*(t + 1)
    >>> formula("sliding-window", "kv_cache_bytes", seq=8192, heads=32, window=4096)
    4*b*d*g*w
    """
    check_texts({"variant": variant, "key": key, "phase": phase, "mask": mask, "form": form})
    if key not in KEYS or KEYS[key].read is None:
        raise Unknown("key", key, [k for k, row in KEYS.items() if row.read])
    given = {k.replace("_", "-"): v for k, v in sizes.items()}
    check(given, phase, dtype, kv_dtype, "cold")
    layer = layers.build(variant, modifiers, mask, "window" in given)
    check_useful(layer, given)
    asked = by_letter(given, phase, layer.names)
    known = not any(LETTERS[n].default is None and n not in asked for n in needed(layer.names, asked))
    if phase == "decode":
        asked.setdefault("n", 1)
    open_ = {n: asked.get(n, 1) for n in needed(layer.names, asked) if LETTERS[n].default is None}
    used = {**asked, **open_}
    extends = "past" in layer.names and "n" in used

    def lift(letter: str, value: Any) -> sp.Expr:
        return symbol("t") + PAST if letter == "n" and extends else symbol(letter)

    symbols, _ = layer.sizes(used, lift)
    store = dtype or "bf16"
    values, _ = layer.sizes(asked) if known else ({}, {})
    page = layer.form(
        form if form is not None else (cheapest(layer.forms, values, store, kv_dtype or store) if known else None)
    )
    read = KEYS[key].read
    assert read is not None
    found = sp.expand(sp.sympify(read(Reading(page, symbols, store, kv_dtype or store))))
    if known:
        found = _resolved(found, {symbol(k): v for k, v in values.items()} | {PAST: values.get("past", 0)})
    return sp.factor(sp.expand(found.subs(PAST, symbol("n") - symbol("t"))))


def _resolved(x: sp.Expr, at: Mapping[sp.Symbol, int]) -> sp.Expr:
    """Every Min and Max as the argument that it is at this point."""

    def branch(pick: Any, sign: int) -> Any:  # of equals, the one with more symbols: a constant is equal by chance
        return lambda *args: pick(args, key=lambda a: (a.subs(at), sign * len(a.free_symbols)))

    return x.replace(sp.Max, branch(max, 1)).replace(sp.Min, branch(min, -1))
