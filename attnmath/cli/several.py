"""The same sizes for several variants: an option counts for those that have a use for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnmath import layers, variants
from attnmath.cli import options
from attnmath.costs import cost
from attnmath.errors import InputError, NoSchedule, together
from attnmath.readings.memory import caches_tokens
from attnmath.readings.schedules import bound, parse
from attnmath.results import Cost


def chosen(names: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The variants that were named, each once; or all (a sliding window only where a --window is given)."""
    if values["with_"] and not names:
        raise InputError("name the variants that --with is to modify")
    return list(dict.fromkeys(names)) or [n for n in variants.names() if n != "sliding-window" or values.get("window")]


def costs(names: Sequence[str], values: Mapping[str, Any], formulas: bool = True) -> list[Cost]:
    """The cost of every variant at every row of sizes, row by row; refuses an option that none has a use for."""
    rows = list(options.each_row(values))
    sizes = set(options.taken({k: v for k, v in values.items() if v is not None})[0])
    useful = {n: _useful(n, values) for n in names}
    if nowhere := [s for s in sorted(sizes) if not any(s in own for own in useful.values())]:
        options_ = ", ".join(f"--{s.replace('_', '-')}" for s in nowhere)
        raise InputError(f"{options_} has no use for any of {', '.join(names)}")
    cached = [n for n in names if any(map(caches_tokens, variants.get(n).forms.values()))]
    if values["kv_dtype"] and not cached:
        raise InputError(f"--kv-dtype has no use for any of {', '.join(names)}: they cache no tokens")
    form = values.get("form")
    formed = [n for n in names if form in variants.get(n).forms]
    if form is not None and not formed:
        raise InputError(f"--form {form} is a form of none of {', '.join(names)}")
    walked = _walked(values.get("schedule"), names, values["with_"])
    fitting = {"form": formed, "kv_dtype": cached, "schedule": walked}
    unused = {n: {option for option, fit in fitting.items() if n not in fit} for n in names}

    def own(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in row.items() if (k not in sizes or k in useful[name]) and k not in unused[name]}

    return [cost(n, **own(n, row), formulas=formulas) for row in rows for n in names]


def _walked(schedule: str | None, names: Sequence[str], uses: Sequence[str]) -> list[str]:
    """The variants that a schedule can walk, in some form; refused if there is none."""
    if schedule is None:
        return list(names)
    found: list[str] = []
    errors: dict[str, str] = {}
    for n in names:
        for page in layers.build(n, uses).forms.values():
            try:
                bound(parse(schedule), page)
            except NoSchedule as error:
                errors[n] = str(error)
            else:
                found.append(n)
    if not found:
        raise InputError(together((f"{n}: {why}" for n, why in errors.items()), f"--schedule {schedule[:80]}:"))
    return found


def _useful(name: str, values: Mapping[str, Any]) -> set[str]:
    """The sizes that a variant has a use for; a window slides over any mask of positions."""
    own = layers.options_of(layers.build(name, values["with_"], values["mask"]))
    slides = values.get("window") is not None and "past" in layers.build(name).names
    return {o.replace("-", "_") for o in own} | ({"window"} if slides else set())
