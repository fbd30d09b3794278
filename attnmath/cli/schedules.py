"""`attnmath schedules`."""

from __future__ import annotations

from typing import Any

import click

from attnmath import layers
from attnmath.cli import options, render
from attnmath.errors import NoSchedule
from attnmath.language.syntax import Program
from attnmath.readings.schedules import SCHEDULES, Schedule, bound, parse


@click.command("schedules", short_help="In which order and tiles a core is walked.")
@click.argument("schedule", required=False)
@click.option("--variant", metavar="NAME", help="In this variant's own indices.")
@options.format_option("csv", "markdown")
def command(schedule: str | None, variant: str | None, format_: str, as_json: bool) -> None:
    """In which order and tiles a core is walked, for --schedule; SCHEDULE shows one.

    Loops from the outermost to the innermost: an index and its tile. heads: all indices of heads; kv: those that keys have,
    shared: the others; (t shared)/64: packed into one tile; z=8: the keys in eight parts.

    \b
    attnmath schedules
    attnmath schedules split-kv:z=16 --variant gqa
    attnmath cost --variant gqa --heads 32 --seq 8k --schedule 'b heads t/64 n/64' --explain hbm_bytes.fused
    """
    found = list(SCHEDULES.values()) if schedule is None else [parse(schedule)]
    if variant is not None:
        page = layers.build(variant).form()
        found = [bound(s, page) for s in found if schedule is not None or _walks(s, page)]
    rows: list[dict[str, Any]] = [
        {"name": s.name, "loops": str(s), "meaning": s.meaning, "on_chip": s.on_chip, "source": s.source} for s in found
    ]
    format_ = options.chosen(format_, as_json)
    if format_ == "json":
        render.as_json({"schema": "attnmath.schedules/1", "schedules": rows})
    elif schedule is not None and format_ == "text":
        (row,) = rows
        shown = [(f"  {k.replace('_', ' ')}", v) for k, v in row.items() if k != "name" and v]
        render.page([render.strong(row["name"] or "loops"), *render.columns(shown)])
    else:
        render.listing(rows, ("name", "loops", "on_chip", "meaning"), format_)


def _walks(schedule: Schedule, page: Program) -> bool:
    """Whether a schedule fits a page."""
    try:
        return bool(bound(schedule, page))
    except NoSchedule:
        return False
