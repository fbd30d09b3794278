"""`attnmath cost`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options
from attnmath.costs import cost


@click.command("cost", short_help="What a layer costs.")
@click.option("--variant", metavar="NAME|FILE.attn", help="The attention variant; `attnmath variants` lists them.")
@click.option(
    "--model", metavar="config.json|DIR", help="All attention layers of a model instead, from its config.json."
)
@options.layer_options
@click.option(
    "--form",
    metavar="NAME",
    help="Which of the variant's equivalent sets of equations [the one that a kernel would take].",
)
@options.schedule_option
@options.recompute_option
@options.size_options
@options.dtype_options
@options.measured_option
@click.option(
    "--explain",
    metavar="KEY",
    help="One number's equation, substitution and source: flops.matmul, hbm_bytes.compulsory, ...",
)
@click.option(
    "--assume-ignored",
    metavar="FIELD",
    multiple=True,
    help="With --model: go on without a field that is not understood.",
)
@click.option(
    "--verbose", is_flag=True, help="Also the equations' costs one by one, and the conventions with their sources."
)
@options.format_option("csv", "markdown")
def command(
    explain: str | None, verbose: bool, measured: str | None, format_: str, as_json: bool, **values: Any
) -> None:
    """What one attention layer costs: operations, bytes, cache, memory, and on a GPU a lower bound on time.

    Every number stands beside the formula that it comes from; --explain KEY traces one.

    \b
    attnmath cost --variant gqa --seq 8k --heads 32
    attnmath cost --variant gqa --seq 128k --heads 64 --kv-heads 8 --phase decode --gpu h100-sxm
    attnmath cost --variant gqa --seq 8k --heads 32 --phase train --recompute full
    attnmath cost --variant mla --seq 4k --heads 128 --d-model 7168 --with rope:layout=interleaved
    attnmath cost --variant gqa --seq 1k,8k,128k --heads 32 --format csv
    attnmath cost --variant gqa --seq 8k --heads 32 --gpu h100-sxm --measured 1.2ms
    attnmath cost --model path/to/config.json --seq 8k --explain kv_cache_bytes_per_token
    """
    from attnmath.cli import render

    rows = list(options.each_row(values))
    with_formulas = len(rows) == 1 or explain is not None or options.chosen(format_, as_json) != "csv"
    costs = options.with_times([cost(**row, formulas=with_formulas) for row in rows], measured)
    if explain is not None:
        from attnmath.cli.explained import show

        show(costs, explain, options.chosen(format_, as_json))
        return
    render.costs(costs, options.chosen(format_, as_json), verbose)
