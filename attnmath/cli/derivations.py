"""`attnmath derivations`."""

from __future__ import annotations

import click

from attnmath import derivations
from attnmath.cli import options, render
from attnmath.cli.derive import names


@click.command("derivations", short_help="The derivations that there are.")
@click.argument("name", required=False, shell_complete=names)
@options.format_option("csv", "markdown")
def command(name: str | None, format_: str, as_json: bool) -> None:
    """The derivations that there are; NAME shows what one of them asks and states. `attnmath derive NAME` proves it.

    \b
    attnmath derivations
    attnmath derivations softmax
    """
    format_ = options.chosen(format_, as_json)
    if name is None and format_ != "json":
        render.listing([{"name": n, "title": t} for n, t in derivations.titles().items()], ("name", "title"), format_)
        return
    pages = [derivations.get(n) for n in ([name] if name is not None else derivations.titles())]
    rows = [
        {"name": p.name, "title": p.title, "source": p.source, "question": p.question, "statement": p.statement}
        for p in pages
    ]
    if format_ == "json":
        render.as_json({"schema": "attnmath.derivations/1", "derivations": rows})
    elif format_ == "text":
        from attnmath.reporting.derivation import spoken

        (d,) = rows
        lines = [render.strong(f"{d['name']}: {d['title']}"), d["source"], "", d["question"], "", d["statement"]]
        render.page([spoken(x) for x in lines])
    else:
        render.listing(rows, ("name", "title", "source"), format_)
