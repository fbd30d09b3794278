"""How a tiling looks as text, JSON, CSV or Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnmath.cli import render
from attnmath.cli.render import Row, columns, exact, page, percent, scaled, strong
from attnmath.results import document

if TYPE_CHECKING:
    from attnmath.hardware.search import Candidate, Search
    from attnmath.tiling import Tiling

HEADING: Row = (
    *(
        "tile",
        "stages",
        "smem",
        "registers",
        "blocks",
        "splits",
        "waves",
        "of rounding",
        "efficiency",
        "loaded",
        "time",
    ),
    *("of the best", "works most"),
)
SHIPPED: Row = ("shipped by", "tile", "place", "time", "of the best", "loaded", "of the least", "")


def show(found: list[Tiling], format_: str, top: int, verbose: bool) -> None:
    """Print them."""
    if format_ == "json":
        rows = [t.to_dict() for t in found]
        render.as_json(
            rows[0] if len(rows) == 1 else {"schema": rows[0].pop("schema"), "rows": [_bare(r) for r in rows]}
        )
    elif format_ == "csv":
        render.csv([r for t in found for r in _flat(t)])
    elif format_ == "markdown":
        tables = [_markdown(t, top) for t in found]
        page([line for k, lines in enumerate(tables) for line in ([""] if k else []) + lines])
    else:
        page([line for k, t in enumerate(found) for line in ([""] if k else []) + _text(t, top, verbose)])


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "schema"}


def _flat(t: Tiling) -> list[dict[str, Any]]:
    """A row per tile that fits; none where no rules are known."""
    head = {"gpu": t.gpu, "variant": t.variant, "with": " ".join(t.with_), "phase": t.phase, **t.inputs}
    head |= {"engine": t.engine, "kernel": t.kernel}
    found = _found(t)
    by = {
        (x.rows, x.keys): [y.kernel for y in found.shipped if (y.rows, y.keys) == (x.rows, x.keys)]
        for x in found.candidates
    }
    return [{**head, **document(x), "shipped_by": " ".join(by[x.rows, x.keys])} for x in found.candidates]


def _found(t: Tiling) -> Search:
    from attnmath.errors import InputError

    if t.search is None:
        raise InputError(f"no table of tiles: {t.absent}")
    return t.search


def _markdown(t: Tiling, top: int) -> list[str]:
    rows = _tiles(_found(t), top)
    return render.markdown(rows, range(1, len(rows[0]) - 1))


def _text(t: Tiling, top: int, verbose: bool) -> list[str]:
    from attnmath.tiling import engine_title

    name = " ".join([t.variant, *([t.form] if t.form else [])])
    name += f" with {', '.join(t.with_)}" if t.with_ else ""
    lines = [strong(f"{name}, {t.phase}, on {t.title}: {engine_title(t.engine)}, {t.kernel}"), t.kernel_title, ""]
    lines += ["cut", *columns(_cut(t), (1,)), ""]
    lines += ["estimated time", *columns(_time(t), (1, 2))]
    lines += [f"  assumed: {x}" for x in t.estimated_with]
    if verbose:
        lines += ["", "equations"]
        for x in t.trace:
            shown = scaled(x.value, "s") if x.unit == "s" else f"{exact(x.value)} {x.unit}".rstrip()
            worked = f"{x.numbers} = " if " " in x.numbers else ""
            lines += [f"  {x.name} = {x.equation}", f"    = {worked}{shown}"]
        lines += [f"  kernel: {t.source}"]
    lines += [""]
    if t.search is None:
        return [*lines, f"no search for tiles: {t.absent}"]
    return [*lines, *_search(t.search, top)]


def _cut(t: Tiling) -> list[Row]:
    g, n = t.grid, t.footprint
    rows: list[Row] = [("  tile", f"{g.rows} x {g.keys}", f"queries by keys, heads of {g.head_dim} and {g.v_head_dim}")]
    if g.group > 1:
        rows[0] = (*rows[0][:2], f"{rows[0][2]}; {g.group} query heads share one")
    rows += [
        (
            "  query tiles",
            exact(g.query_tiles),
            f"for each of {g.groups:,} {'groups of heads' if g.group > 1 else 'heads'}",
        ),
        ("  tiles of keys", exact(g.visits), "that they visit"),
        (
            "  tile efficiency",
            percent(g.tile_efficiency),
            f"{g.pairs:,} pairs a head under the mask, the rest is padding",
        ),
        ("  blocks", exact(g.blocks), f"keys in {g.splits} parts" if g.splits > 1 else "keys in one part"),
        (
            "  waves",
            f"{g.waves:.4g}",
            f"{g.resident} a processor, of {g.processors}; whole waves cost {g.wave_loss:.3g} times that",
        ),
        ("  loaded", scaled(g.loaded_bytes, "bytes"), f"with no cache; {scaled(g.compulsory_bytes, 'bytes')} if once"),
    ]
    if n is not None:
        held = f"of {scaled(n.smem_block_bytes, 'bytes')} a block may use, {n.stages:g} stages"
        rows.append(("  shared memory", scaled(n.smem_bytes, "bytes"), held))
        if n.tensor_memory_bytes:
            rows.append(("  tensor memory", scaled(n.tensor_memory_bytes, "bytes"), "of accumulators"))
        else:
            rows.append(
                ("  registers", exact(n.registers), f"of {n.register_limit} a thread; weights wait in {n.weights_in}")
            )
        rows += [("  does not fit", "", f"{why}: the kernel must do otherwise there") for why in n.misfits]
    return rows


def _time(t: Tiling) -> list[Row]:
    rows: list[Row] = []
    for unit, share in sorted(t.busy.items(), key=lambda x: -x[1]):
        rows.append((f"  {unit}", scaled(t.unit_s[unit], "s"), percent(share), "binds" if unit == t.binds else ""))
    rows.append(("  last wave", scaled(t.tail_s, "s"), "", "")) if t.tail_s else None
    rows.append(("  kernel", scaled(t.kernel_time_s, "s"), "", ""))
    rows.append(("  launch", scaled(t.launch_time_s, "s"), "", "binds" if t.binds == "launch" else ""))
    rows.append(("  together", scaled(t.time_s, "s"), "", _band(t)))
    if t.time_bound_s:
        ratio = f"the estimate is {t.time_s / t.time_bound_s:.3g} times that"
        rows.append(("  bound", scaled(t.time_bound_s, "s"), "", f"{t.time_bound_by}; {ratio}"))
    return rows


def _band(t: Tiling) -> str:
    band = t.time_error_band
    if band is None:
        return "nobody measured it" if t.engine != "ideal" else "what no kernel reaches"
    where = "here" if band.here else "elsewhere"
    return (
        f"off by {percent(band.median)} in the median, {percent(band.p90)} at the 90th percentile, "
        f"of {band.kernels:,} kernels measured {where}"
    )


def _search(found: Search, top: int) -> list[str]:
    rows = _tiles(found, top)
    refused = ", ".join(f"{n} by {why}" for why, n in sorted(found.refused.items(), key=lambda x: -x[1]))
    head = f"tiles: {len(found.candidates)} of {found.tried} fit {found.instruction}"
    lines = [head + (f" (refused: {refused})" if refused else "") + "; the fastest", ""]
    table = columns(rows, range(1, len(rows[0]) - 1))
    lines += [strong(table[0]), *table[1:]]
    alike = sum(c.time_s <= 1.01 * found.best_by_time.time_s for c in found.candidates)
    lines += [f"{alike} of them within 1 % of the best"] if alike > 1 else []
    best = found.best_by_loads
    if best != found.best_by_time:
        over = best.time_s / found.best_by_time.time_s
        lines.append(
            f"the least is loaded by {best.rows} x {best.keys}: {scaled(best.loaded_bytes, 'bytes')}, "
            f"in {over:.3g} times the best time"
        )
    table = columns([SHIPPED, *(_shipped(x) for x in found.shipped)], range(2, 7))
    lines += ["", strong(table[0]), *table[1:], ""]
    return [*lines, *(f"assumed: {x}" for x in found.assumed)]


def _tiles(found: Search, top: int) -> list[Row]:
    """A heading, and a row for each of the fastest."""
    return [HEADING, *(_tile(c, found.best_by_time) for c in found.candidates[:top])]


def _tile(c: Candidate, best: Candidate) -> Row:
    return (
        f"{c.rows} x {c.keys}",
        f"{c.stages:g}",
        scaled(c.smem_bytes, "bytes"),
        exact(c.registers) if c.registers else "-",
        exact(c.blocks),
        exact(c.splits),
        f"{c.waves:.3g}",
        f"{c.wave_loss:.3g}",
        percent(c.tile_efficiency),
        scaled(c.loaded_bytes, "bytes"),
        scaled(c.time_s, "s"),
        f"{c.time_s / best.time_s:.3f}",
        c.binds,
    )


def _shipped(x: Any) -> Row:
    if x.candidate is None:
        return (x.kernel, f"{x.rows} x {x.keys}", "-", "-", "-", "-", "-", f"does not fit: {x.misfit}")
    c = x.candidate
    return (
        x.kernel,
        f"{x.rows} x {x.keys}",
        exact(x.place),
        scaled(c.time_s, "s"),
        f"{x.time_ratio:.3f}",
        scaled(c.loaded_bytes, "bytes"),
        f"{x.loaded_ratio:.3f}",
        "",
    )
