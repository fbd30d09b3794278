"""`attnmath modifiers`."""

from __future__ import annotations

from inspect import cleandoc

import click

from attnmath import modifiers
from attnmath.cli import options, render


@click.command("modifiers", short_help="What can be put on a variant.")
@click.argument("name", required=False)
@options.format_option("csv", "markdown")
def command(name: str | None, format_: str, as_json: bool) -> None:
    """What can be put on a variant with --with; NAME shows one with its options.

    \b
    attnmath modifiers
    attnmath modifiers rope
    attnmath equations gqa --with rope:layout=interleaved
    """
    format_ = options.chosen(format_, as_json)
    found = [modifiers.get(n) for n in ([name] if name is not None else modifiers.names())]
    rows = [
        {"name": m.name, "title": m.title, "about": m.about, "source": m.source, "options": m.options} for m in found
    ]
    if format_ == "json":
        render.as_json({"schema": "attnmath.modifiers/1", "modifiers": rows})
    elif name and format_ == "text":
        m = found[0]
        render.page(
            [
                render.strong(f"{m.name}: {m.title}"),
                m.source,
                m.about,
                "",
                "options: " + (", ".join(f"{k}={v}" for k, v in m.options.items()) or "none"),
            ]
        )
        if m.lines.__doc__:
            render.page([cleandoc(m.lines.__doc__).partition("\n\n>>>")[0]])
    else:  # the defaults: one modifier at a time
        render.listing(
            [{**r, "options": ", ".join(m.options)} for r, m in zip(rows, found)],
            ("name", "title", "options", "source"),
            format_,
        )
