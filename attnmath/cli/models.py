"""`attnmath models`."""

from __future__ import annotations

from typing import Any

import click

from attnmath.cli import options, render
from attnmath.errors import InputError, Unknown
from attnmath.models import presets
from attnmath.models.families import PLACES


@click.command("models", short_help="The models that are known by name.")
@click.argument("name", required=False)
@click.option("--families", is_flag=True, help="The model types whose config.json is understood, instead.")
@options.format_option("csv", "markdown")
def command(name: str | None, families: bool, format_: str, as_json: bool) -> None:
    """The models that are known by name; NAME shows one's fields and where they come from.

    \b
    attnmath models
    attnmath models qwen3-8b
    attnmath model qwen3-8b --seq 8k
    attnmath models --families
    """
    format_ = options.chosen(format_, as_json)
    if families:
        if name is not None or format_ != "text":
            raise InputError("--families is a list of its own, as text")
        render.page(sorted(PLACES))
        return
    if name is not None and name not in presets.names():
        raise Unknown("model", name, presets.names(), "presets")
    rows = [_row(n) for n in ([name] if name is not None else presets.names())]
    if format_ == "json":
        render.as_json({"schema": "attnmath.models/1", "models": rows})
    elif name is not None and format_ == "text":
        shown = [(k, str(v)) for k, v in rows[0]["config"].items()]
        render.page([render.strong(f"{name}: {rows[0]['source']}"), "", *render.columns(shown)])
    else:
        render.listing(rows, ("name", "family", "source"), format_)


def _row(name: str) -> dict[str, Any]:
    config, source = presets.get(name)
    return {"name": name, "family": config["model_type"], "source": source, "config": config}
