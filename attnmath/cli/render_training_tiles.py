"""How the tiles of both passes look as text, JSON, CSV or Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnmath.cli import render
from attnmath.cli.render import Row, columns, page, scaled, strong
from attnmath.results import document

if TYPE_CHECKING:
    from attnmath.training_tiles import PassTile, TrainingTiling

HEADING: Row = ("pass", "tile", "smem", "accumulators", "moved", "")


def show(found: list[TrainingTiling], format_: str, top: int) -> None:
    """Print them."""
    if format_ == "json":
        rows = [t.to_dict() for t in found]
        bare = [{k: v for k, v in r.items() if k != "schema"} for r in rows]
        render.as_json(rows[0] if len(rows) == 1 else {"schema": rows[0]["schema"], "rows": bare})
    elif format_ == "csv":
        render.csv([r for t in found for r in _flat(t)])
    elif format_ == "markdown":
        page([x for t in found for x in render.markdown([HEADING, *_rows(t, top)], range(1, 5))])
    else:
        page([line for k, t in enumerate(found) for line in ([""] if k else []) + _text(t, top)])


def _passes(t: TrainingTiling) -> list[tuple[str, list[PassTile]]]:
    return [("forward", t.forward), ("backward", t.backward)]


def _flat(t: TrainingTiling) -> list[dict[str, Any]]:
    head = {"gpu": t.gpu, "variant": t.variant, "with": " ".join(t.with_), "phase": t.phase, **t.inputs}
    return [{**head, "pass": name, **document(x)} for name, tiles in _passes(t) for x in tiles]


def _rows(t: TrainingTiling, top: int) -> list[Row]:
    """Of each pass the tiles that fit and move least, and the schedule's own."""
    out: list[Row] = []
    for name, tiles in _passes(t):
        for k, x in enumerate(tiles):
            if (k < top and not x.misfit) or x.usual:
                said = "; ".join(filter(None, ("the schedule's own" * x.usual, x.misfit)))
                held = (
                    scaled(x.smem_bytes, "bytes"),
                    scaled(x.accumulator_bytes, "bytes"),
                    scaled(x.hbm_bytes, "bytes"),
                )
                out.append((name, f"{x.rows} x {x.keys}", *held, said))
    return out


def _text(t: TrainingTiling, top: int) -> list[str]:
    name = " ".join([t.variant, *([t.form] if t.form else [])])
    name += f" with {', '.join(t.with_)}" if t.with_ else ""
    room = f"{scaled(t.smem_block_bytes, 'bytes')} of shared memory, {scaled(t.register_bytes, 'bytes')} of registers"
    bound = f"both passes take at least {scaled(t.time_bound_s, 's')}, by {t.time_bound_by}" if t.time_bound_s else ""
    shown = columns([HEADING, *_rows(t, top)], range(1, 5))
    return [
        strong(f"{name}, {t.phase}, on {t.title}: {t.inputs['schedule']}; backward {t.inputs['backward_schedule']}"),
        f"tiles of queries by keys, heads of {t.head_dim} and {t.v_head_dim}; a block may hold {room}",
        "",
        strong(shown[0]),
        *shown[1:],
        "",
        *([bound] if bound else []),
        "what is moved is counted with no cache; no time is estimated: backward kernels have no model here",
    ]
