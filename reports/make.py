"""Write the committed documents: each variant's equations. A test checks that they are what this writes."""

from __future__ import annotations

from pathlib import Path

from attnmath import layers, variants
from attnmath.reporting import render
from attnmath.reporting.equations import data

HERE = Path(__file__).resolve().parent


def documents() -> dict[str, str]:
    """File name -> text."""
    return {f"{name}.md": render("equations.md", data(layers.build(name))) for name in variants.names()}


if __name__ == "__main__":
    for name, text in documents().items():
        (HERE / name).write_text(text)
        print(f"reports/{name}")
