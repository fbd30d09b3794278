"""`attnmath derive`."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from attnmath import derivations
from attnmath.cli import options, render


def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The derivations that a name may become, for the shell."""
    return [CompletionItem(n, help=t) for n, t in derivations.titles().items() if n.startswith(incomplete)]


@click.command("derive", short_help="Why: a derivation, step by step, each step checked.")
@click.argument("name", shell_complete=names)
@options.format_option("latex", "markdown")
def command(name: str, format_: str, as_json: bool) -> None:
    """Why it is so: a derivation, step by step. It is proved anew each time; what does not hold is not printed.

    Under each step stands how it was verified: a proof for all sizes, unless it says otherwise.

    \b
    attnmath derivations
    attnmath derive softmax
    attnmath derive softmax --format latex
    """
    format_ = options.chosen(format_, as_json)
    page = derivations.get(name)
    from attnmath.reporting import derivation

    found = derivation.data(page.prove(), typeset=format_ != "text")
    if format_ == "json":
        render.as_json({"schema": "attnmath.derive/1", **found})
    elif format_ == "text":
        render.page(_text(found))
    else:
        from attnmath.reporting import render as fill

        template = {"markdown": "derivation.md", "latex": "derivation.tex"}[format_]
        click.echo(fill(template, {"d": derivation.document(found, format_)}), nl=False)


def _text(d: dict[str, Any]) -> list[str]:
    from attnmath.reporting.derivation import carried, levels, spoken, tied

    width = min(shutil.get_terminal_size().columns, 110) if sys.stdout.isatty() else 100

    def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
        indent = " " * len(first) if rest is None else rest
        return textwrap.wrap(
            spoken(text), width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
        )

    def formula(text: str, indent: str) -> Iterator[str]:
        kept = re.sub(r"\[[^\[\]]*\]", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text)  # indices stay together
        lines = textwrap.wrap(
            kept,
            width,
            initial_indent=indent,
            subsequent_indent=indent + "    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from (x.replace("\N{NO-BREAK SPACE}", " ") for x in lines)

    out = [render.strong(f"{d['name']}: {spoken(d['title'])}"), *wrapped(d["source"]), ""]
    out += [*wrapped(d["question"]), "", *wrapped(d["statement"]), ""]
    out += [*render.columns([("  " + r["text"], spoken(r["meaning"])) for r in d["notation"]]), ""]
    for row in d["definitions"]:
        out += [*wrapped(f"{row['meaning']}:", "  "), *(x for t in row["text"] for x in formula(t, "      "))]
    for row in d["hypotheses"]:
        out += [*wrapped(f"assumed: {row['meaning']}:", "  "), *formula(row["text"], "      ")]
    out += [x for a in d["assumes"] for x in wrapped(f"assumed: {a}", "  ")]
    for s in d["steps"]:
        out += ["", *wrapped(f"{s['says']}:", f"{s['number']:2}. "), *formula(s["text"], "      ")]
        out += wrapped(f"[{carried(s)}]", "    ")
    out += ["", *wrapped(d["so"]), ""]
    for tie in d["ties"]:
        out += wrapped(f"Computed: {tied(tie)}.")
    return [*out, f"{levels(d)}."]
