"""`attnmath gpus`."""

from __future__ import annotations

from typing import Any

import click

from attnmath import hardware
from attnmath.cli import options, render


@click.command("gpus", short_help="The accelerators.")
@click.argument("name", required=False)
@options.format_option("csv", "markdown")
def command(name: str | None, format_: str, as_json: bool) -> None:
    """The accelerators that are known; NAME, or a TOML file of your own, shows every figure with its source.

    \b
    attnmath gpus
    attnmath gpus h100-sxm
    attnmath gpus my-gpu.toml
    """
    format_ = options.chosen(format_, as_json)
    found = [hardware.get(n) for n in ([name] if name is not None else hardware.names())]
    if format_ == "json":
        render.as_json({"schema": "attnmath.gpus/1", "gpus": [_document(g) for g in found]})
    elif name:
        rows = [(k, render.exact(f.value), "; ".join(f.sources), f.note) for k, f in _figures(found[0])]
        if format_ == "csv":
            render.csv([dict(zip(("figure", "value", "source", "note"), r)) for r in rows])
        elif format_ == "markdown":
            render.page(render.markdown([("figure", "value", "source", "note"), *rows], (1,)))
        else:
            render.page(
                [
                    render.strong(f"{found[0].name}: {found[0].title}"),
                    "",
                    *render.columns([r[:2] for r in rows], (1,)),
                    "",
                    "sources",
                ]
            )
            render.page(f"  {r[0]}: {r[2]}{f' ({r[3]})' if r[3] else ''}" for r in rows)
    else:
        keys = ("bf16_flop_per_s", "hbm_bytes", "hbm_bytes_per_s", "l2_bytes")
        render.listing(
            [{"name": g.name, "title": g.title, **dict(zip(keys, _main(g)))} for g in found],
            ("name", "title", *keys),
            format_,
            (2, 3, 4, 5),
        )


def _figures(g: hardware.Gpu) -> list[tuple[str, hardware.Figure]]:
    return [*g.figures.items(), *((f"tensor_flop_per_s.{k}", f) for k, f in g.tensor_flop_per_s.items())]


def _main(g: hardware.Gpu) -> list[Any]:
    own = dict(_figures(g))
    return [
        f.value if (f := own.get(k)) else None
        for k in ("tensor_flop_per_s.bf16", "hbm_bytes", "hbm_bytes_per_s", "l2_bytes")
    ]


def _document(g: hardware.Gpu) -> dict[str, Any]:
    figures = {k: {"value": f.value, "sources": list(f.sources), "note": f.note} for k, f in _figures(g)}
    return {"name": g.name, "title": g.title, "vendor": g.vendor, "figures": figures}
