"""How right the time model is: errors on what was not fitted, on what was, without each part, and against papers.

    python benchmarks/latency/run.py [FOLDER] [--write] [--quick]

FOLDER holds dev.parquet, by default ../shared/measured; the data are NVIDIA aiconfigurator's (Apache-2.0) and stay there. The
report goes to standard output; --write puts it, and its figure, into reports/. --quick fits a sample of the rows and
says so. Without the data it says so and stops.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share two cores

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import ablation
import data
import floors
import leave_out
import measures
import pandas as pd
import report
import scatter

from attnmath.hardware.calibrate import Case
from attnmath.hardware.constants import built_in
from attnmath.hardware.kernels import PHASES

REPORTS = Path(__file__).resolve().parents[2] / "reports"
NAME = "time-model"
LEFT_OUT = {
    "engine": leave_out.by_engine,
    "shape": leave_out.by_shape,
    "GPU": leave_out.by_gpu,
}
STAGED = ("prefill", "decode", "encoder")
STAGE_ROWS, QUICK_ROWS = 500, 150

Job = tuple[str, str, str]
_cases: list[Case] = []


def jobs() -> Iterator[Job]:
    """(what, which one, phase) of everything that fits: the slow ones first."""
    phases = [p for p in PHASES if any(c.phase == p for c in _cases)]
    for phase in phases:
        yield from (("left out", by, phase) for by in LEFT_OUT)
    for phase in STAGED:
        yield from (("stage", str(i), phase) for i in range(len(ablation.stages())))


def done(job: Job, quick: bool) -> pd.DataFrame:
    """The estimates that a job makes, one row a kernel."""
    what, which, phase = job
    own = [c for c in _cases if c.phase == phase]
    if what == "stage":
        few = leave_out.thinned(own, QUICK_ROWS if quick else STAGE_ROWS)
        return measures.flat(ablation.staged(few, leave_out.empty(built_in()), int(which)))
    if quick:
        own = leave_out.thinned(own, QUICK_ROWS)
    return measures.flat(LEFT_OUT[which](own, built_in()))


def all_done(quick: bool) -> dict[Job, pd.DataFrame]:
    """Every job's estimates, two at a time; progress goes to standard error."""
    wanted, found, start = list(jobs()), {}, time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        for future in as_completed(running := {pool.submit(done, job, quick): job for job in wanted}):
            found[running[future]] = future.result()
            what, which, phase = running[future]
            words = f"{len(found)}/{len(wanted)}, {time.monotonic() - start:.0f} s: {what} {which}, {phase}"
            print(words, file=sys.stderr, flush=True)
    return {job: found[job] for job in wanted}


def without_each(cases: list[Case]) -> pd.DataFrame:
    """Median and 90th percentile by phase, over accelerators, without each part in turn; nothing is fitted anew."""
    found = {}
    for name, part in {"(the model)": ablation.Without(""), **ablation.EACH}.items():
        rows = measures.flat((c, ablation.estimate(c, built_in(), (), [part])) for c in cases)
        found[name] = measures.over_gpus(rows)
    return pd.concat(found, names=["without"])


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("folder", nargs="?", type=Path, default=data.FOLDER)
    cli.add_argument("--write", action="store_true", help=f"write reports/{NAME}.md and its figure")
    cli.add_argument("--quick", action="store_true", help="fit a sample; tables of what was fitted are of all rows")
    args = cli.parse_args()
    if not (args.folder / "dev.parquet").exists():
        print(f"skipped: no measurements at hand ({args.folder / 'dev.parquet'})")
        return
    if args.quick and args.write:
        cli.error("--quick is a look at a sample: it writes no report")
    table = data.table(args.folder)
    _cases[:] = [c for c, _ in data.cases(table[table.protocol == "core"])]
    estimated = measures.estimated(table, built_in())
    text = report.written(
        estimated=estimated,
        fits=all_done(args.quick),
        each=without_each(_cases),
        floors=floors.shares(table),
        figure=f"{NAME}.svg",
        quick=args.quick,
    )
    sys.stdout.write(text)
    if args.write:
        (REPORTS / f"{NAME}.md").write_text(text)
        (REPORTS / f"{NAME}.svg").write_bytes(scatter.drawn(measures.chosen(estimated, "core")))


if __name__ == "__main__":
    main()
