"""`formula`: a number of `cost` as a SymPy expression."""

from __future__ import annotations

from collections.abc import Iterable

from attnmath import layers
from attnmath import modifiers as mods
from attnmath.errors import InputError, Unknown
from attnmath.keys import KEYS, Reading, usual_form
from attnmath.language.letters import LETTERS, needed
from attnmath.readings import symbolic
from attnmath.readings.schedules import parse
from attnmath.request import PHASES, TRAIN, by_letter, check, check_texts, check_trainable, check_useful, plain


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
    schedule: str | None = None,
    recompute: str | None = None,
    **sizes: int,
) -> symbolic.Expr:
    """One number of `cost` as a SymPy expression in the registry's letters (`attnmath variants NAME` shows whose they are).

    It takes the options of `cost`. A size whose default is an expression (d-model, v-head-dim, context) stands for that
    expression unless it is given. Where a window or a chunk asks for a minimum: with every size given it is resolved as
    at these sizes, as in `cost`, whose `regime` names the conditions; otherwise Min and Max remain, and each loop of the
    schedule is taken to have several turns. Raises InputError for an unknown key or an option without use.

    >>> formula("gqa", "flops.matmul")
    2*b*d*h*t*(t + 1)
    >>> formula("sliding-window", "kv_cache_bytes", seq=8192, heads=32, window=4096)
    4*b*d*g*w
    """
    check_texts({"variant": variant, "key": key, "phase": phase, "mask": mask, "form": form})
    check_texts({"schedule": schedule})
    if key not in KEYS:
        raise Unknown("key", key, KEYS)
    given = {k.replace("_", "-"): plain(v) for k, v in sizes.items()}
    if len(given) < len(sizes):
        raise InputError("an option is given twice, once with - and once with _")
    check(given, phase, dtype, kv_dtype, "cold", phases=(*PHASES, TRAIN))
    train = phase == TRAIN
    check_trainable(phase, recompute, {"kv-dtype": kv_dtype})
    layer = layers.build(variant, modifiers, mask, "window" in given)
    check_useful(layer, given)
    asked = by_letter(given, phase, layer.names)
    known = not any(LETTERS[n].default is None and n not in asked for n in needed(layer.names, asked))
    if phase == "decode":
        asked.setdefault("n", 1)
    open_ = {n: asked.get(n, 1) for n in needed(layer.names, asked) if LETTERS[n].default is None}
    extends = "past" in layer.names and "n" in {**asked, **open_}

    store = dtype or "bf16"
    chosen = form if form is not None or not known else usual_form(layer, asked, store, kv_dtype or store, train)[0]
    page = layer.form(chosen)
    symbols, _ = layer.sizes({**asked, **open_}, lambda letter, value: symbolic.lift(letter, extends), page)
    values, _ = layer.sizes(asked, page=page) if known else ({}, {})
    walk = parse(schedule) if schedule is not None else None
    reading = Reading(page, symbols, store, kv_dtype or store, walk, values or None, train, recompute)
    if key == "hbm_bytes.fused" or walk is not None:
        _ = reading.traffic  # where no schedule walks this core, it says why
    return symbolic.finished(KEYS[key].read(reading), values)
