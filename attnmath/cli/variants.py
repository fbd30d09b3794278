"""`attnmath variants`."""

from __future__ import annotations

import click

from attnmath import variants
from attnmath.cli import options, render


@click.command("variants", short_help="The variants that there are.")
@click.argument("name", required=False)
@options.format_option("csv", "markdown")
def command(name: str | None, format_: str, as_json: bool) -> None:
    """The variants that there are; NAME shows one: its equations, forms, options and source.

    \b
    attnmath variants
    attnmath variants mla
    """
    format_ = options.chosen(format_, as_json)
    if name is None and format_ != "json":
        listed = [{"name": n, **variants.header(n)} for n in variants.names()]
        render.listing(listed, ("name", "title", "source"), format_)
        return
    found = [variants.get(n) for n in ([name] if name is not None else variants.names())]
    rows = [
        {
            "name": v.name,
            "title": v.title,
            "source": v.source,
            "about": v.about,
            "forms": list(v.forms),
            "options": list(v.options),
        }
        for v in found
    ]
    if format_ == "json":
        equations = [
            {"equations": {f: v.equations(f).splitlines() for f in v.forms}, "tensors": v.tensors} for v in found
        ]
        render.as_json({"schema": "attnmath.variants/1", "variants": [{**r, **e} for r, e in zip(rows, equations)]})
    elif name and format_ == "text":
        v = found[0]
        render.page([render.strong(f"{v.name}: {v.title}"), v.source, *([v.about] if v.about else []), ""])
        for form in v.forms:
            render.page([*([f"form {form}:"] if len(v.forms) > 1 else []), v.equations(form), ""])
        render.page(["options: " + ", ".join(f"--{o}" for o in v.options)])
    else:
        render.listing(rows, ("name", "title", "source"), format_)
