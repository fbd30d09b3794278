"""`attnmath report`."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from attnmath import layers
from attnmath.cli import options, output, render
from attnmath.costs import cost
from attnmath.errors import InputError
from attnmath.language.letters import LETTERS, OPTIONS, needed
from attnmath.request import by_letter, check

KINDS = {".md": "report.md", ".tex": "report.tex", ".html": "report.html"}
DEFAULTS = {"seq": 8192, "heads": 32, "window": 4096}  # of what has to be given and was not


@click.command("report", short_help="A document: what a variant computes and costs.")
@click.argument("name", required=False)
@click.option("--variant", metavar="NAME|FILE.attn", help="The same as the argument.")
@click.option("-o", "--output", "path", metavar="FILE", required=True, help="Where to: FILE.md, FILE.tex or FILE.html.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@options.layer_options
@click.option("--form", metavar="NAME", help="The form whose costs are shown [the one that a kernel would take].")
@options.size_options
@options.dtype_options
def command(name: str | None, variant: str | None, path: str, force: bool, **values: Any) -> int:
    """A document about one variant: its equations with shapes, masks, costs with their formulas, and what was checked.

    Markdown, LaTeX or HTML, by FILE's ending. Without sizes: --seq 8192, --heads 32 (and --window 4096 where one is needed).

    \b
    attnmath report gqa -o gqa.md --seq 8k --heads 32 --gpu h100-sxm
    attnmath report mla -o mla.html --phase decode --with rope
    attnmath report path/to/mine.attn -o path/to/mine.tex

    Every number in it can be traced, by the command that stands beside it:

    \b
    attnmath cost --variant gqa --seq 8k --heads 32 --explain flops.matmul
    """
    if (name is None) == (variant is None):
        raise InputError("name one variant: attnmath report gqa -o gqa.md")
    template = _template(path)
    output.free(path, force)
    text, failed = _document(name or variant or "", path, template, values)
    output.write(path, text, force)
    render.note(f"wrote {path}: {len(text.encode()):,} bytes")
    for one in failed:
        render.note(f"check failed: {one.name}: {one.text}")
    return 1 if failed else 0


def _template(path: str) -> str:
    ending = os.path.splitext(path)[1].lower()
    if ending not in KINDS:
        raise InputError(f"-o {path}: the ending says which document it is: {', '.join(KINDS)}")
    return KINDS[ending]


def _document(variant: str, path: str, template: str, values: dict[str, Any]) -> tuple[str, list[Any]]:
    """(the document, the checks that failed)."""
    from attnmath.reporting import render as fill
    from attnmath.reporting.checks import Request
    from attnmath.reporting.variant import SAY, data

    rows = list(options.each_row({**values, "variant": variant}))
    if len(rows) != 1:
        raise InputError(f"a document is about one size; these lists make {len(rows)}")
    row = rows[0]
    check({}, row["phase"], None, None, "cold")
    layer = layers.build(variant, row["modifiers"], row["mask"], row.get("window") is not None)
    row, defaults = _filled(layer, row)
    given = {k.replace("_", "-"): v for k, v in row.items() if k.replace("_", "-") in OPTIONS}
    request = Request(
        variant=variant,
        sizes=by_letter(given, row["phase"], layer.names),
        defaults=defaults,
        commands=_commands(variant, path, given, row),
        uses=tuple(row["modifiers"]),
        mask=row["mask"],
        window=row.get("window") is not None and "window" not in defaults,
    )
    found = data(layer, cost(**row), request)
    return fill(template, {"r": found, "say": SAY}), [check for check in found.checks if check.passed is False]


def _filled(layer: layers.Layer, row: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The options with those that the layer cannot do without, and the names of these."""
    missing = {}
    for letter in needed(layer.names, layer.variant.where):
        option = LETTERS[letter].option or ""
        open_ = letter not in layer.local and letter not in layer.variant.where and LETTERS[letter].default is None
        if option in DEFAULTS and open_ and row.get(option) is None:
            missing[option] = DEFAULTS[option]
    if "seq" in missing and row.get("context") is not None:
        missing["seq"] = 1 if row["phase"] == "decode" else row["context"]
    return {**row, **missing}, tuple(missing)


def _commands(variant: str, path: str, given: dict[str, Any], row: dict[str, Any]) -> Any:
    """The command lines that reproduce the document; paths without the folders of this machine."""
    from attnmath.reporting.checks import Commands

    variant = _portable(variant)
    layer = [word for use in row["modifiers"] for word in ("--with", use)]
    layer += ["--mask", row["mask"]] if row["mask"] is not None else []
    sizes = [word for k, v in given.items() for word in (f"--{k}", str(v))]
    rest = {
        "form": row["form"],
        "phase": row["phase"],
        "dtype": row["dtype"],
        "kv-dtype": row["kv_dtype"],
        "l2": row["l2"],
    }
    rest |= {"gpu": _portable(row["gpu"]) if row["gpu"] else None}
    kept = {k: v for k, v in rest.items() if v is not None and (k, v) not in (("phase", "prefill"), ("l2", "cold"))}
    all_ = [*layer, *sizes, *(word for k, v in kept.items() for word in (f"--{k}", v))]
    window = ["--window", str(given["window"])] if "window" in given else []
    return Commands(
        shlex.join(["attnmath", "report", variant, "-o", _portable(os.path.basename(path)), *all_]),
        shlex.join(["attnmath", "cost", "--variant", variant, *all_, "--explain", "KEY"]),
        shlex.join(["attnmath", "equations", variant, *layer, *window]),
    )


def _portable(path: str) -> str:
    """A name, or a path as it was typed; of an absolute one its last part."""
    path = os.path.basename(path) if os.path.isabs(path) else path
    return f"./{path}" if path.startswith("-") else path
