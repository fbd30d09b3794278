"""How a roofline looks as text, JSON, CSV or Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnmath.cli import render
from attnmath.cli.render import Row, columns, exact, page, percent, scaled, strong

if TYPE_CHECKING:
    from attnmath.rooflines import Point, Roofline

HEADING: Row = ("variant", "phase", "seq", "context", "FLOP/byte", "attainable", "of the peak", "bound by", "at least")
MEASURED: Row = ("measured", "of the bound", "MFU", "memory")
LEFT = (0, 1)  # columns of words


def show(found: Roofline, format_: str) -> None:
    """Print where the points stand."""
    if format_ == "json":
        render.as_json(found.to_dict())
    elif format_ == "csv":
        render.csv([_flat(found, p) for p in found.points])
    elif format_ == "markdown":
        rows = _rows(found)
        page(render.markdown(rows, _right(rows)))
    else:
        page(_lines(found))


def _flat(found: Roofline, p: Point) -> dict[str, Any]:
    head = {"gpu": found.gpu, "variant": p.variant, "with": " ".join(p.with_), "phase": p.phase, "form": p.form}
    own = [n for n in p.__struct_fields__ if n not in (*head, "with_", "inputs", "assumed", "measured")]
    measured = {f"measured.{n}": getattr(p.measured, n) for n in p.measured.__struct_fields__}
    return {**head, **p.inputs, **{n: getattr(p, n) for n in own}, **measured}


def _right(rows: list[Row]) -> list[int]:
    return [k for k in range(len(rows[0])) if k not in LEFT]


def _rows(found: Roofline) -> list[Row]:
    """A heading, and a row per point."""
    batches, measured = len({p.inputs["batch"] for p in found.points}) > 1, any(p.measured.time_s for p in found.points)
    heading = (*HEADING[:2], *(("batch",) if batches else ()), *HEADING[2:], *(MEASURED if measured else ()))
    return [heading, *(_row(p, batches, measured) for p in found.points)]


def _row(p: Point, batches: bool, measured: bool) -> Row:
    sign, m = render.less(p.at_most), p.measured
    sizes = (*(("batch",) if batches else ()), "seq", "context")
    return (
        p.name,
        p.phase,
        *(exact(p.inputs.get(k)) for k in sizes),
        "-" if p.intensity is None else f"{sign}{p.intensity:,.4g}",
        "-" if p.attainable_flop_per_s is None else sign + scaled(p.attainable_flop_per_s, "FLOP/s"),
        "-" if p.share_of_tensor_peak is None else sign + percent(p.share_of_tensor_peak),
        exact(p.bound),
        "-" if p.time_bound_s is None else scaled(p.time_bound_s, "s"),
        *(
            (
                scaled(m.time_s or 0, "s"),
                percent(m.share_of_bound),
                sign + percent(m.mfu),
                scaled(m.hbm_bytes_per_s or 0, "B/s"),
            )
            if measured
            else ()
        ),
    )


def _lines(found: Roofline) -> list[str]:
    first, rows = found.points[0], _rows(found)
    caches = list(dict.fromkeys(p.inputs["kv_dtype"] for p in found.points))
    stored = f", cache {', '.join(caches)}" if caches != [found.dtype] else ""
    with_ = f" with {', '.join(first.with_)}" if first.with_ else ""
    warm = ", L2 warm" if found.l2 == "warm" else ""
    table = columns(rows, _right(rows))
    lines = [strong(f"under the roofs of {found.title}{with_}, {found.dtype}{stored}{warm}"), ""]
    lines += [strong(table[0]), *table[1:], "", *columns(_roofs(found), (1,))]
    if any(p.at_most for p in found.points):
        lines.append(
            f"{render.less(True).strip()}: the data decide which pairs exist; shown is what all of them come to"
        )
    lines += [f"no {unit} roof: {why}" for unit, why in found.absent.items()]
    return [*lines, "bounds, no estimates: of the core only, without projections; real kernels are slower"]


def _roofs(found: Roofline) -> list[Row]:
    """The roofs that these points can meet."""
    rows: list[Row] = [("roofs", "", "")]
    for r in found.roofs:
        if r.unit == "hbm":
            rows.append(("  hbm", scaled(r.at(1.0), "B/s"), f"binds below {found.ridge:,.4g} FLOP/byte, the ridge"))
        elif r.unit == "exp":
            alike = f"{r.flop_per_exp or 0:.3g}"
            names = [p.name for p in found.points if p.flop_per_exp and f"{p.flop_per_exp:.3g}" == alike]
            rows.append(("  exp", scaled(r.at(0), "FLOP/s"), f"at {r.name}: {', '.join(dict.fromkeys(names))}"))
        elif r.name == found.dtype:
            rows.append((f"  tensor {r.name}", scaled(r.at(0), "FLOP/s"), "the peak"))
        elif r.name == "fp32":
            rows.append(("  fp32", scaled(r.at(0), "FLOP/s"), "outside the matrix units; in no bound"))
    return rows
