"""`attnmath roofline`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options, output, several
from attnmath.errors import InputError


@click.command("roofline", short_help="Where variants stand under a GPU's roofs.")
@click.argument("names", nargs=-1, metavar="VARIANT...")
@click.option("--variant", "more", metavar="NAME", multiple=True, help="The same as an argument; repeatable.")
@click.option("-o", "--output", "path", metavar="FILE", help="Draw it too: FILE.svg, FILE.png or FILE.pdf.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@options.layer_options
@click.option(
    "--form", metavar="NAME", help="Of the variants that have it, this form [the one that a kernel would take]."
)
@options.size_options
@options.dtype_options
@options.measured_option
@options.format_option("csv", "markdown")
def command(
    names: tuple[str, ...],
    more: tuple[str, ...],
    path: str | None,
    force: bool,
    measured: str | None,
    format_: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Where variants stand under the roofs of a GPU: the most that its memory, its matrix units and its exponentials
    allow; all variants if none is named. With -o also as a picture.

    --phase takes a list, and lists of --seq, --context or --batch become lines of points. An option counts for the variants
    that have a use for it. --measured takes a time for each row of the table.

    \b
    attnmath roofline mha gqa mla --seq 8k --heads 32 --gpu h100-sxm --phase prefill,decode
    attnmath roofline gqa --seq 1k,8k,64k --heads 32 --gpu b200-sxm --phase prefill,decode -o gqa.svg
    attnmath roofline gqa --seq 8k --heads 32 --gpu h100-sxm --measured 1.2ms
    """
    from attnmath.cli import render, render_roofline
    from attnmath.rooflines import roofline

    if values["gpu"] is None:
        raise InputError("a roofline is an accelerator's: give a --gpu; `attnmath gpus` lists them")
    if path is not None:
        output.figure(path)
        output.free(path, force)
    chosen = several.chosen((*names, *more), values)
    phases = list(dict.fromkeys(p.strip() for p in values["phase"].split(",")))
    points = len(list(options.each_row(values))) * len(chosen) * len(phases)
    if points > options.MAX_ROWS:
        raise InputError(f"{points:,} points; at most {options.MAX_ROWS:,}")
    costs = []
    for phase in phases:
        found = several.costs(chosen, {**values, "phase": phase}, formulas=False)
        costs += [c for k in range(len(chosen)) for c in found[k :: len(chosen)]]  # a variant's sizes together
    found_ = roofline(options.with_times(costs, measured))
    if path is not None:
        from attnmath.reporting import figures

        drawn = figures.roofline(found_, output.figure(path))
        output.write(path, drawn, force)
        render.note(f"wrote {path}: {len(drawn):,} bytes")
    render_roofline.show(found_, options.chosen(format_, as_json))
    if options.chosen(format_, as_json) == "text":
        render.assumptions(costs, but=("engine", "schedule"))
