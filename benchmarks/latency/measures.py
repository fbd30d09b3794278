"""How wrong estimates are: one row a kernel, and tables of it. Definitions as in the script that comes with the data."""

from __future__ import annotations

from collections.abc import Iterable

import data
import numpy as np
import pandas as pd

from attnmath.hardware.calibrate import Case, estimate
from attnmath.hardware.constants import Book
from attnmath.hardware.kernels import PHASES

BANDS_S = (0, 50e-6, 200e-6, 1e-3, 10e-3, 1e9)
BANDS = ("<50us", "50-200us", "0.2-1ms", "1-10ms", ">10ms")
LEAST_S, WIDEST = 20e-6, 256  # what the protocol takes: kernels above 20 us, heads up to 256
COLUMNS = ("phase", "gpu", "engine", "kernel", "measured_s", "estimated_s")


def flat(pairs: Iterable[tuple[Case, np.ndarray]]) -> pd.DataFrame:
    """Cases and their estimates as one row a kernel."""
    parts = [pd.DataFrame(dict(zip(COLUMNS, (c.phase, c.gpu, c.engine, c.kernel, c.measured_s, e)))) for c, e in pairs]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def estimated(table: pd.DataFrame, book: Book) -> pd.DataFrame:
    """Every attention row whose kernel is modelled, with its id, its sizes and its estimate."""
    found = []
    for case, ids in data.cases(table):
        found.append(flat([(case, estimate(case, book))]).assign(id=ids))
    sizes = table.drop(columns=["phase", "gpu", "engine"])
    rows = pd.concat(found, ignore_index=True).merge(sizes, on="id")
    return rows.sort_values(["phase", "gpu", "engine"], key=_order, kind="stable", ignore_index=True)


def _order(column: pd.Series) -> pd.Series:
    return column.map(list(PHASES).index) if column.name == "phase" else column


def chosen(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Rows of a kind: core, fp8, window, or small (kernels of at most 20 us)."""
    if kind == "core":
        return rows[rows.protocol == "core"]
    if kind == "small":
        plain = (rows.kv_dtype == "bf16") & (rows.window == 0) & (rows.head_dim <= WIDEST) & (rows.op == "attention")
        return rows[plain & (rows.measured_s <= LEAST_S)]
    rows = rows[(rows.op == "attention") & (rows.measured_s > LEAST_S) & (rows.head_dim <= WIDEST)]
    return rows[(rows.kv_dtype == "fp8") & (rows.window == 0)] if kind == "fp8" else rows[rows.window > 0]


def measured(rows: pd.DataFrame) -> pd.Series:
    """Errors of some rows, in %: of |estimate / measured - 1| the median, the 90th percentile and what lies within 10
    and 25; `bias` is the median of estimate / measured - 1; `rank` is Spearman's correlation.
    """
    ratio = (rows.estimated_s / rows.measured_s).to_numpy()
    error = np.abs(ratio - 1) * 100
    varied = len(rows) > 2 and rows.estimated_s.nunique() > 1
    return pd.Series(
        {
            "kernels": len(rows),
            "median": np.median(error),
            "p90": np.percentile(error, 90),
            "bias": (np.median(ratio) - 1) * 100,
            "within 10 %": np.mean(error <= 10) * 100,
            "within 25 %": np.mean(error <= 25) * 100,
            "rank": rows.estimated_s.rank().corr(rows.measured_s.rank()) if varied else np.nan,
        }
    )


def by(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """The errors of each group."""
    return rows.groupby(list(keys), observed=True, sort=False)[["estimated_s", "measured_s"]].apply(measured)


def by_band(rows: pd.DataFrame) -> pd.DataFrame:
    """The errors by phase and by band of measured time."""
    return by(rows.assign(band=pd.cut(rows.measured_s, BANDS_S, labels=BANDS)), "phase", "band").sort_index(
        key=lambda at: at.map(list(PHASES if at.name == "phase" else BANDS).index)
    )


def over_gpus(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and 90th percentile by accelerator, averaged over accelerators: one row a phase."""
    return by(rows, "phase", "gpu").groupby("phase", sort=False)[["median", "p90", "rank"]].mean()
