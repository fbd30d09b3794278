"""Tables of measured times: the columns of a sweep and one of times, as the time model's cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from attnmath.errors import InputError, together
from attnmath.hardware.calibrate import Case
from attnmath.sweeping.cells import Problems, block
from attnmath.sweeping.rows import in_columns, jobs
from attnmath.sweeping.tables import Table

TIMES = {
    f"{name}_{unit}": scale
    for name in ("measured", "latency")
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6))
}
MOST = 200_000


def cases(table: Table, options: Mapping[str, str]) -> list[Case]:
    """The table's rows by kernel, engine and phase; `options` stand in for missing columns and empty cells.

    Raises InputError with every bad row's line and column, and where there is no column of times, or no accelerator.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "timings.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write("seq,heads,latency_us\\n1k,32,80\\n2k,32,256\\n")
    ...     found = cases(Table(path), {"gpu": "h100-sxm"})
    >>> [(c.kernel, c.measured_s.round(9).tolist()) for c in found]
    [('flash-attention-3', [8e-05, 0.000256])]
    """
    column = [n for n in table.names if n in TIMES]
    if len(column) != 1:
        raise InputError(
            f"{table.path}: {'no column' if not column else 'several columns'} of measured times: call one of them "
            f"{', '.join(TIMES)}"
        )
    if "gpu" not in table.known and "gpu" not in options:
        raise InputError("give --gpu, or a column gpu: constants are fitted beside an accelerator's data sheet")
    problems, found, first = Problems(), [], 0
    for batch in table.blocks():
        rows = block(batch, first, table.known, options, problems)
        times = _times(batch, column[0], first, problems)
        found += [
            Case(job.phase, job.gpu.name, job.engine, job.kernel, job.rates, job.shape, times[at], job.warm)
            for at, job in jobs(rows, problems)
        ]
        first += batch.num_rows
        if problems.full:
            break
        if first > MOST:
            raise InputError(f"{table.path}: more than {MOST:,} rows; a sample of them says as much")
    if problems.found:
        raise InputError(_told(problems, table))
    if not found:
        raise InputError(f"{table.path}: no rows")
    return _joined(found)


def _times(batch: pa.RecordBatch, column: str, first: int, problems: Problems) -> Any:
    """The measured times in seconds, an array; what is none above 0 is a problem."""
    cells = batch.column(batch.schema.get_field_index(column))
    try:
        values = pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False) * TIMES[column]
    except pa.ArrowException:
        texts = [_number(str(x)) for x in cells.to_pylist()]
        values = np.array(texts) * TIMES[column]
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        problems.add(first + int(bad[0]), column, f"{str(cells[int(bad[0])])[:40]!r} is no time above 0", len(bad) - 1)
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _joined(found: list[Case]) -> list[Case]:
    """One case per kernel, engine, phase and state of the L2: parts of several blocks put together."""
    from msgspec.structs import astuple, replace

    by: dict[Any, list[Case]] = {}
    for c in found:
        how = (c.shape.causal, c.shape.q_bytes, c.shape.kv_bytes, c.shape.latent)
        by.setdefault((c.phase, c.gpu, c.engine, c.kernel, c.warm, how, astuple(c.machine)), []).append(c)
    out = []
    for parts in by.values():
        shape = parts[0].shape
        arrays = {
            f: np.concatenate([getattr(p.shape, f) for p in parts])
            for f in shape.__struct_fields__
            if isinstance(getattr(shape, f), np.ndarray)
        }
        measured = np.concatenate([p.measured_s for p in parts])
        out.append(replace(parts[0], shape=replace(shape, **arrays), measured_s=measured))
    return out


def _told(problems: Problems, table: Table) -> str:
    found = sorted(problems.found.items(), key=lambda item: item[1][0])
    lines = table.line([row for _, (row, _) in found])
    texts = []
    for (column, why), (row, more) in found:
        others = f" and {more:,} more like it" if more else ""
        said = (why if column else in_columns(why)).replace("\n  ", "; ")
        texts.append(f"{lines[row]}{f', column {column}' if column else ''}: {said}{others}")
    return together(texts, f"{table.path}: {len(texts)} error{'s' * (len(texts) > 1)}")
