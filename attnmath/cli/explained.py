"""`attnmath cost --explain KEY`: how an explanation is printed."""

from __future__ import annotations

from typing import Any

from attnmath.cli.render import Row, as_json, columns, exact, page, pretty, scaled, strong
from attnmath.explain import Explanation, explain
from attnmath.results import Cost


def show(costs: list[Cost], key: str, format_: str) -> None:
    """Print the explanation of one key for every cost."""
    found = [explain(c, key) for c in costs]
    if format_ == "json":
        documents = [_document(e) for e in found]
        as_json(documents[0] if len(found) == 1 else {"schema": "attnmath.explain/1", "rows": documents})
        return
    page(line for k, (c, e) in enumerate(zip(costs, found)) for line in ([""] if k else []) + _lines(c, e))


def _document(e: Explanation) -> dict[str, Any]:
    parts = [{"what": what, "value": value} for what, value in e.parts]
    fields = ("key", "value", "unit", "meaning", "formula", "substitution", "source")
    return {
        "schema": "attnmath.explain/1",
        **{f: getattr(e, f) for f in fields},
        "regime": list(e.regime),
        "parts": parts,
    }


def _lines(c: Cost, e: Explanation) -> list[str]:
    number = isinstance(e.value, (int, float)) and not isinstance(e.value, bool)
    size = f"  ({scaled(e.value, e.unit)})" if number and e.unit and abs(e.value) >= 1000 else ""
    value = "null" if e.value is None else exact(e.value)
    out = [strong(f"{e.key} = {value} {e.unit}".rstrip()) + size, f"  {e.meaning}", ""]
    rows: list[Row] = [
        ("  formula", pretty(e.formula)),
        ("  here", f"{pretty(e.substitution)}" + (f" = {value}" if number and e.substitution else "")),
        ("  while", pretty(" and ".join(e.regime))),
        ("  where", ", ".join(f"{k.replace('_', '-')} {exact(v)}" for k, v in c.inputs.items())),
        ("  convention", e.source),
        ("  variant", f"{c.variant}: {c.source}"),
    ]
    out += columns([r for r in rows if r[1]])
    if e.parts:
        parts: list[Row] = [(f"  {exact(value)}", what) for what, value in e.parts]
        out += ["", "  made of", *columns(parts, (0,))]
    return out
