"""`attnmath compare`."""

from __future__ import annotations

from typing import Any

import click

from attnmath import layers, variants
from attnmath.cli import options
from attnmath.costs import cost
from attnmath.errors import InputError
from attnmath.readings.memory import caches_tokens


@click.command("compare", short_help="Several variants side by side.")
@click.argument("names", nargs=-1, metavar="VARIANT...")
@click.option("--variant", "more", metavar="NAME", multiple=True, help="The same as an argument; repeatable.")
@options.layer_options
@options.size_options
@options.dtype_options
@options.format_option("csv", "markdown")
def command(names: tuple[str, ...], more: tuple[str, ...], format_: str, as_json: bool, **values: Any) -> None:
    """The costs of several variants side by side, at the same sizes; all variants if none is named.

    An option counts for the variants that have a use for it. All variants take no --window but sliding-window, which needs
    one: name the variants, or give it.

    \b
    attnmath compare mha gqa mqa --seq 8k --heads 32
    attnmath compare gqa mla --seq 32k --heads 128 --phase decode --gpu h200-sxm
    """
    from attnmath.cli import render

    chosen = list(dict.fromkeys((*names, *more))) or [
        n for n in variants.names() if n != "sliding-window" or values.get("window")
    ]
    if values["with_"] and not (names or more):
        raise InputError("name the variants that --with is to modify")
    rows = list(options.each_row(values))
    sizes = set(options.taken({k: v for k, v in values.items() if v is not None})[0])
    useful = {n: _useful(n, values) for n in chosen}
    if nowhere := [s for s in sorted(sizes) if not any(s in own for own in useful.values())]:
        options_ = ", ".join(f"--{s.replace('_', '-')}" for s in nowhere)
        raise InputError(f"{options_} has no use for any of {', '.join(chosen)}")
    cached = [n for n in chosen if any(map(caches_tokens, variants.get(n).forms.values()))]
    if values["kv_dtype"] and not cached:
        raise InputError(f"--kv-dtype has no use for any of {', '.join(chosen)}: they cache no tokens")
    unused = {n: set() if n in cached else {"kv_dtype"} for n in chosen}
    costs = [
        cost(n, **{k: v for k, v in row.items() if (k not in sizes or k in useful[n]) and k not in unused[n]})
        for row in rows
        for n in chosen
    ]
    render.comparison(costs, options.chosen(format_, as_json))


def _useful(name: str, values: dict[str, Any]) -> set[str]:
    """The sizes that a variant has a use for; a window slides over any mask of positions."""
    own = layers.options_of(layers.build(name, values["with_"], values["mask"]))
    slides = values.get("window") is not None and "past" in layers.build(name).names
    return {o.replace("-", "_") for o in own} | ({"window"} if slides else set())
