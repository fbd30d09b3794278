"""`attnmath equations`."""

from __future__ import annotations

from typing import Any

import click

from attnmath import layers
from attnmath.cli import options, render
from attnmath.errors import InputError
from attnmath.reporting.equations import data


@click.command("equations", short_help="What a variant computes, line by line.")
@click.argument("name", required=False)
@click.option("--variant", metavar="NAME|FILE.attn", help="The same as the argument.")
@options.layer_options
@click.option("--window", metavar="W", help="Intersect the mask with a sliding window of w keys.")
@click.option("--form", metavar="NAME", help="One of the variant's forms only.")
@click.option("--backward", is_flag=True, help="The equations of the gradients: dX of X, from that of the result.")
@click.option(
    "--recompute",
    metavar="none|selective|full",
    help="With --backward: what it computes again and does not read; selective is FlashAttention's.",
)
@options.format_option("markdown", "latex")
def command(
    name: str | None,
    variant: str | None,
    with_: tuple[str, ...],
    mask: str | None,
    window: str | None,
    form: str | None,
    backward: bool,
    recompute: str | None,
    format_: str,
    as_json: bool,
) -> None:
    """What a variant computes, line by line, with the shape of every tensor and what each letter stands for.

    A term sums over the letters that the left side does not name.

    \b
    attnmath equations gqa
    attnmath equations mla --form absorbed --with rope
    attnmath equations gqa --backward --recompute selective
    attnmath equations gqa --format latex
    """
    format_ = options.chosen(format_, as_json)
    if (name is None) == (variant is None):
        raise InputError("name one variant: attnmath equations gqa")
    if window is not None:
        options.sizes_from({"window": window})
    layer = layers.build(name or variant or "", with_, mask, window is not None)
    layer.form(form)
    if recompute is not None and not backward:
        raise InputError("--recompute has a use only with --backward")
    found = data(layer, form, backward, recompute or "none")
    if format_ == "json":
        render.as_json({"schema": "attnmath.equations/1", **found})
    elif format_ == "text":
        render.page(_text(found))
    else:
        from attnmath.reporting import render as fill

        click.echo(fill({"markdown": "equations.md", "latex": "equations.tex"}[format_], found), nl=False)


def _text(found: dict[str, Any]) -> list[str]:
    out = [
        render.strong(f"{found['variant']}: {found['title']}"),
        str(found["source"]),
        *([str(found["about"])] if found["about"] else []),
    ]
    forms = found["forms"]
    for form in forms:
        out += ["", *([f"form {form['name']}:"] if len(forms) > 1 else []), *form["text"]]
    rows = found["legend"]
    return [*out, "", *render.columns([(r["letter"], r["meaning"], r["set_by"]) for r in rows])]
