"""`attnmath schema`."""

from __future__ import annotations

import click

from attnmath.cli import render


@click.command("schema", short_help="The JSON Schema of a verb's output.")
@click.argument("name")
def command(name: str) -> None:
    """The JSON Schema of a verb's output, or of a GPU file (`gpu-file`).

    \b
    attnmath schema cost
    attnmath schema gpu-file
    """
    from attnmath.schemas import json_schema

    render.as_json(json_schema(name))
