"""`attnmath compare`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options, several


@click.command("compare", short_help="Several variants side by side.")
@click.argument("names", nargs=-1, metavar="VARIANT...")
@click.option("--variant", "more", metavar="NAME", multiple=True, help="The same as an argument; repeatable.")
@options.layer_options
@options.schedule_option
@options.recompute_option
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

    costs = several.costs(several.chosen((*names, *more), values), values)
    render.comparison(costs, options.chosen(format_, as_json))
