"""`attnmath gpus`."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from attnmath import hardware
from attnmath.cli import options, output, render
from attnmath.errors import InputError
from attnmath.hardware import constants


class Gpus(click.Group):
    """`gpus NAME` shows one; only what is a command's name is a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is no command is the name of an accelerator."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both ways of using it."""
        formatter.write_usage(ctx.command_path, "[NAME|FILE.toml] [--format text|json|csv|markdown]")
        formatter.write_usage(ctx.command_path, "calibrate FILE.csv --gpu NAME -o FILE.toml", "       ")


@click.group("gpus", cls=Gpus, short_help="The accelerators.")
def command() -> None:
    """The accelerators that are known; NAME, or a TOML file of your own, shows every figure with its source.

    \b
    attnmath gpus
    attnmath gpus h100-sxm
    attnmath gpus my-gpu.toml
    attnmath gpus calibrate timings.csv --gpu h100-sxm --engine vllm -o mine.toml
    """


@command.command("calibrate", short_help="Fit the time model's constants to your own timings.")
@click.argument("source", metavar="FILE")
@click.option("--gpu", metavar="NAME|FILE.toml", help="The accelerator that was measured; else a column gpu.")
@click.option(
    "--engine", metavar="vllm|sglang|trtllm", help="Whose kernels ran, where there is no column engine [vllm]."
)
@click.option("--phase", metavar="prefill|decode", help="The phase, where there is no column phase [prefill].")
@click.option("--l2", metavar="cold|warm", help="warm: replays of one graph, as most timings are [cold].")
@click.option("--name", metavar="NAME", help="What the file calls the accelerator [the GPU's name, -calibrated].")
@click.option("-o", "--output", "path", metavar="FILE.toml", help="Where to write the accelerator with its constants.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@options.format_option()
def calibrate_(
    source: str, name: str | None, path: str | None, force: bool, format_: str, as_json: bool, **values: str | None
) -> None:
    """Constants of the time model, fitted to measured times: a table of shapes with the columns of `attnmath sweep`, and one
    of latency_s, latency_ms, latency_us, measured_s, measured_ms or measured_us.

    Estimates with --gpu FILE.toml take them. Every kernel needs a dozen rows, of different sizes. What is printed is the
    error before the fit, after it, and on rows that were left out of it in turn.

    \b
    attnmath gpus calibrate timings.csv --gpu h100-sxm --engine vllm --l2 warm -o mine.toml
    attnmath cost --variant gqa --seq 8k --heads 32 --gpu mine.toml
    """
    from attnmath.calibrations import calibrate, written
    from attnmath.sweeping import texts_checked
    from attnmath.sweeping.measured import cases
    from attnmath.sweeping.tables import Table

    given = {k: v for k, v in values.items() if v is not None}
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        raise InputError(f"--name {name[:40]!r}: letters, digits and - only")
    if path is not None:
        output.free(path, force)
        if not path.endswith(".toml"):
            raise InputError(f"-o {path}: an accelerator's file ends in .toml")
    texts_checked(given)
    table = Table(source)
    found = calibrate(cases(table, given), given.get("gpu") or _only_gpu(table), name or "")
    if path is not None:
        command = f"attnmath gpus calibrate {os.path.basename(source)}"
        output.write(path, written(found, command), force)
        render.note(f"wrote {path}")
    if options.chosen(format_, as_json) == "json":
        render.as_json(found.to_dict())
    else:
        render.page(_calibrated(found))


def _only_gpu(table: Any) -> str:
    """The accelerator of a table's column gpu; InputError if there are several."""
    names: dict[str, None] = {}
    table.rewind()
    for batch in table.blocks():
        names |= dict.fromkeys(str(x) for x in batch.column(batch.schema.get_field_index(table.known["gpu"])).unique())
    if len(names) != 1:
        raise InputError(
            f"{table.path}: rows of {', '.join(list(names)[:8])}: a file holds the constants of one accelerator"
        )
    return next(iter(names))


def _calibrated(c: Any) -> list[str]:
    """Errors before and after, then the constants."""
    rows: list[tuple[str, ...]] = [("kernel", "engine", "phase", "rows", "before", "fitted", "left out")]
    for e in c.errors:
        spreads = (f"{100 * m:.1f} / {100 * p:.1f} %" for m, p in (e.before, e.after, e.left_out))
        rows.append((e.kernel, e.engine, e.phase, f"{e.rows:,}", *spreads))
    out = [*render.columns(rows, (3,)), "median / 90th percentile of |estimate / measured - 1|", ""]
    for kind, name, phase in c.fitted:
        out.append(f"{name}, {phase}")
        meanings = {**constants.KERNEL, **constants.ENGINE}
        lines = [
            (f"  {k}", f"{v:.4g}", f"{meanings[k].unit}: {meanings[k].meaning}{_at_its_end(v, meanings[k])}")
            for k, v in getattr(c.book, kind)[name][phase].items()
        ]
        out += render.columns(lines, (1,))
    return out


def _at_its_end(value: float, row: constants.Meaning) -> str:
    near = 0.005 * (row.high - row.low)
    return (
        " (at the end of its range: the timings do not show it)" if not row.low + near < value < row.high - near else ""
    )


@command.command("show", hidden=True)
@click.argument("name", required=False)
@options.format_option("csv", "markdown")
def show(name: str | None, format_: str, as_json: bool) -> None:
    """One accelerator, or all."""
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
