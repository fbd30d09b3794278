"""Fit the time model's constants to the measured kernels, and write attnmath/hardware/constants.toml anew.

    python benchmarks/latency/fit.py [FOLDER]       FOLDER holds dev.parquet, by default ../shared/measured

Every kernel that an engine ran on an accelerator weighs the same; bf16, no window, above 20 us, as measured (the
protocol that the data call core). The error bands come from the same run: on what was fitted, by kernel, and on what was
not, by phase.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small solves: threads only wait for each other

import sys
from collections.abc import Iterable
from pathlib import Path

import data
import numpy as np
from leave_out import by_engine, by_gpu

from attnmath.hardware import constants
from attnmath.hardware.calibrate import Case, estimate, fit
from attnmath.hardware.constants import Book
from attnmath.hardware.kernels import PHASES

HEADER = """# The time model's constants; `attnmath/hardware/constants.py` says what each means and what physics allows.
# Written by benchmarks/latency/fit.py from NVIDIA aiconfigurator's measurements (github.com/ai-dynamo/aiconfigurator,
# Apache-2.0, commit 095f58a51). Bands: median and 90th percentile of |estimate / measured - 1|; [elsewhere] on engines and
# accelerators that were left out of the fit.
"""


def fitted(cases: Iterable[Case], start: Book) -> Book:
    """All phases, each fitted on its own."""
    book, cases = start, list(cases)
    for phase in PHASES:
        own = [c for c in cases if c.phase == phase]
        book = fit(own, book) if own else book
    return book


def errors(pairs: Iterable[tuple[Case, np.ndarray]]) -> np.ndarray:
    """|estimate / measured - 1| of every row."""
    return np.concatenate([np.abs(e / c.measured_s - 1) for c, e in pairs])


def band(found: np.ndarray, gpus: Iterable[str] = ()) -> str:
    """One band as TOML."""
    listed = f", gpus = [{', '.join(repr(g) for g in sorted(set(gpus)))}]" if gpus else ""
    return (
        f"{{ median = {np.median(found):.3f}, p90 = {np.percentile(found, 90):.3f}, kernels = {len(found)}{listed} }}"
    )


def written(book: Book, cases: list[Case]) -> str:
    """The constants and their bands as TOML."""
    lines = [HEADER, "[shared]", *(f"{k} = {v:.6g}" for k, v in book.shared.items())]
    for kind in ("kernels", "engines"):
        for name, rows in sorted(getattr(book, kind).items()):
            for phase, values in rows.items():
                lines += ["", f"[{kind}.{name}.{phase}]", *(f"{k} = {v:.4g}" for k, v in values.items())]
    lines += ["", "# ---- how wrong it was"]
    for kernel in sorted({c.kernel for c in cases}):
        lines += ["", f"[bands.{kernel}]"]
        for phase in dict.fromkeys(c.phase for c in cases if c.kernel == kernel):
            own = [c for c in cases if (c.kernel, c.phase) == (kernel, phase)]
            lines.append(f"{phase} = {band(errors((c, estimate(c, book)) for c in own), [c.gpu for c in own])}")
    lines += ["", "[elsewhere]"]
    for phase in PHASES:
        own = [c for c in cases if c.phase == phase]
        out = [*by_engine(own, book), *by_gpu(own, book)]
        if out:
            lines.append(f"{phase} = {band(errors(out))}")
    return "\n".join(lines) + "\n"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else data.FOLDER
    rows = data.table(folder)
    cases = [c for c, _ in data.cases(rows[(rows.protocol == "core") | (rows.phase == "comm")])]
    start = Book(constants.built_in().shared, {}, {}, {}, {}, constants.BUILT_IN)
    text = written(fitted(cases, start), cases)
    Path(constants.BUILT_IN).write_text(text)
    print(text)


if __name__ == "__main__":
    main()
