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
    elif name is None:
        _list(found, format_)
    elif format_ == "text":
        render.page(_page(found[0]))
    else:
        rows = [(k, render.exact(f.value), q.unit, "; ".join(f.sources), f.note) for k, f, q in _figures(found[0])]
        heading = ("figure", "value", "unit", "source", "note")
        if format_ == "csv":
            render.csv([dict(zip(heading, r)) for r in rows])
        else:
            render.page(render.markdown([heading, *rows], (1,)))


def _list(found: list[hardware.Gpu], format_: str) -> None:
    """A row each, with the figures that most of them have."""
    keys = [
        *("name", "title", "architecture", "processors", "bf16_flop_per_s", "sustained_fraction"),
        *("hbm_bytes", "hbm_bytes_per_s", "l2_bytes", "link_bytes_per_s"),
    ]
    rows = []
    for g in found:
        own = {"bf16_flop_per_s": "tensor_flop_per_s.bf16", "sustained_fraction": "sustained_tensor_fraction"}
        values = {k: f.value for k, f, _ in _figures(g)}
        texts = {"name": g.name, "title": g.title, "architecture": g.architecture or None}
        rows.append({k: texts[k] if k in texts else values.get(own.get(k, k)) for k in keys})
    render.listing(rows, keys, format_, range(3, len(keys)))


def _page(g: hardware.Gpu) -> list[str]:
    """What the vendor states and what programs reach apart, then the notes, then each source once."""
    kind = [g.vendor, g.architecture, g.compute_capability and f"compute capability {g.compute_capability}"]
    out = [render.strong(f"{g.name}: {g.title}"), *filter(None, [", ".join(filter(None, kind))])]
    figures = _figures(g)
    texts = list(dict.fromkeys(s for _, f, _ in figures for s in f.sources))
    rows = {
        k: (k, render.exact(f.value), q.unit, " ".join(f"[{texts.index(s) + 1}]" for s in f.sources), f.note)
        for k, f, q in figures
    }
    lines = dict(zip(rows, render.columns([r[:4] for r in rows.values()], (1,))))
    for title, measured in (("as stated", False), ("as measured", True)):
        shown = [lines[k] for k, _, q in figures if q.measured == measured]
        out += ["", title, *(f"  {line}" for line in shown)] if shown else []
    if g.link:
        out += ["", f"peers over {g.link}"]
    out += (
        ["", "notes", *(f"  {r[0]}: {r[4]}" for r in rows.values() if r[4])]
        if any(f.note for _, f, _ in figures)
        else []
    )
    return [*out, "", "sources", *(f"  [{k}] {text}" for k, text in enumerate(texts, 1))]


def _figures(g: hardware.Gpu) -> list[tuple[str, hardware.Figure, hardware.Quantity]]:
    """Every figure in the order of the table of figures, then the rates."""
    rows = [(k, g.figures[k], q) for k, q in hardware.FIGURES.items() if k in g.figures]
    return [*rows, *((f"tensor_flop_per_s.{k}", f, hardware.RATE) for k, f in g.tensor_flop_per_s.items())]


def _document(g: hardware.Gpu) -> dict[str, Any]:
    figures = {
        k: {
            "value": f.value,
            "unit": q.unit,
            "meaning": q.meaning,
            "measured": q.measured,
            "sources": list(f.sources),
            "note": f.note,
        }
        for k, f, q in _figures(g)
    }
    texts = {k: getattr(g, k) for k in ("name", "title", "vendor", "architecture", "compute_capability", "link")}
    return {**texts, "figures": figures}
