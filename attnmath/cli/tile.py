"""`attnmath tile`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options
from attnmath.costs import cost
from attnmath.errors import InputError

TOP = 8


@click.command("tile", short_help="How a kernel cuts a core up on a GPU, and which tiles there are.")
@click.argument("name", required=False, metavar="VARIANT")
@click.option("--variant", metavar="NAME|FILE.attn", help="The same as the argument.")
@click.option(
    "--top", metavar="N", default=str(TOP), help=f"Of the tiles that fit, so many are shown, the fastest first [{TOP}]."
)
@options.layer_options
@click.option("--form", metavar="NAME", help="Which of the variant's forms [the one that a kernel would take].")
@click.option(
    "--schedule",
    metavar="NAME|LOOPS",
    help="With --phase train: whose tiles, flash-1, flash-2, flash-3 or loops [flash-2].",
)
@options.size_options
@options.dtype_options
@click.option("--verbose", is_flag=True, help="Also the equation behind each number, with the numbers in it.")
@options.format_option("csv", "markdown")
def command(
    name: str | None,
    variant: str | None,
    top: str,
    verbose: bool,
    format_: str,
    as_json: bool,
    **values: Any,
) -> None:
    """How an engine's kernel cuts an attention core up on a GPU, what limits it, and how long it takes; then every tile that
    fits the GPU, the fastest first, beside those that FlashAttention 2 and 3 ship.

    Times are estimates, from constants fitted to measured kernels; --engine ideal is a kernel without overheads. CSV and
    Markdown hold the tiles. --phase train: what blocks of both passes hold, which tiles fit, and what is moved.

    \b
    attnmath tile gqa --seq 8k --heads 32 --gpu h100-sxm
    attnmath tile gqa --seq 32k --heads 32 --gpu a100-sxm-80g --phase decode --batch 8 --engine sglang
    attnmath tile mha --seq 4k --heads 16 --head-dim 64 --mask full --gpu b200-sxm --verbose
    attnmath tile gqa --seq 8k --heads 32 --gpu a100-sxm-80g --phase train
    """
    from attnmath.cli import render, render_tile
    from attnmath.tiling import tiling

    if (name is None) == (variant is None):
        raise InputError("name one variant: attnmath tile gqa --seq 8k --heads 32 --gpu h100-sxm")
    if values["gpu"] is None:
        raise InputError("tiles are an accelerator's: give a --gpu; `attnmath gpus` lists them")
    if values["schedule"] is not None and values["phase"] != "train":
        raise InputError("--schedule has a use here only with --phase train: otherwise an --engine's kernel is cut up")
    shown = options.parse_size(top)
    if shown < 1:
        raise InputError(f"--top {top}: at least 1")
    rows = list(options.each_row({**values, "variant": name if name is not None else variant}))
    costs = [cost(**row, formulas=False) for row in rows]
    if values["phase"] == "train":
        from attnmath.cli import render_training_tiles
        from attnmath.training_tiles import training_tiling

        render_training_tiles.show([training_tiling(c) for c in costs], options.chosen(format_, as_json), shown)
        if options.chosen(format_, as_json) == "text":
            render.assumptions(costs)
        return
    render_tile.show([tiling(c) for c in costs], options.chosen(format_, as_json), shown, verbose)
    if options.chosen(format_, as_json) == "text":
        render.assumptions(costs)
