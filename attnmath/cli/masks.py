"""`attnmath masks`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options, render
from attnmath.errors import InputError
from attnmath.language.masks import MASKS, Mask

SIDE = 16  # positions in the picture


@click.command("masks", short_help="Which keys a query may see.")
@click.argument("mask", required=False)
@options.format_option("csv", "markdown")
def command(mask: str | None, format_: str, as_json: bool) -> None:
    """Which keys a query may see, for --mask; MASK shows the first pairs of one.

    \b
    attnmath masks
    attnmath masks window:4
    attnmath masks 'first:2 | window:4'
    attnmath cost --variant gqa --heads 32 --seq 8k --mask 'first:4 | window:1k'
    """
    format_ = options.chosen(format_, as_json)
    if mask is not None:
        if format_ != "text":
            raise InputError("a mask's picture has one format, text; without MASK the list has others")
        render.page(_picture(mask))
        return
    rows: list[dict[str, Any]] = [
        {
            "name": name.replace("_", "-"),
            "sizes": list(m.args),
            "meaning": m.meaning,
            "latex": m.latex,
            "keys": m.over,
        }
        for name, m in MASKS.items()
    ]
    if format_ == "json":
        render.as_json({"schema": "attnmath.masks/1", "masks": rows})
    else:
        shown = [{**r, "sizes": ", ".join(r["sizes"])} for r in rows]
        render.listing(shown, ("name", "sizes", "keys", "meaning"), format_)


def _picture(text: str) -> list[str]:
    """A line for each query, a sign for each key: x where the pair exists."""
    from attnmath.language.parse import mask

    written = mask(text)
    if written.names:
        raise InputError(f"mask {written}: {', '.join(written.names)[:80]}: a picture needs sizes that are numbers")
    built: Mask = written.build({})
    tokens = int(written.tokens({})) if written.many else SIDE
    side = min(SIDE, tokens)
    rows = ["".join(" x" if built.dense(i, j) else " ." for j in range(side)) for i in range(side)]
    keys = "blocks" if written.over_blocks else "keys"
    return [
        render.strong(f"{written}: {built.pairs(side, side):,} of {side * side} pairs"),
        f"a line for each of the first {side} queries, a sign for each of the first {side} {keys}; x: the query sees it",
        *rows,
    ]
