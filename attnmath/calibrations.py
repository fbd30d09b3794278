"""`attnmath gpus calibrate`: constants of the time model fitted to one's own timings, and an accelerator's file with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.hardware import Gpu, get

if TYPE_CHECKING:
    from attnmath.hardware.calibrate import Case
    from attnmath.hardware.constants import Book

FOLDS = 3
ROUNDS = 60  # of least squares
LEAST = 12  # rows of a kernel: fewer say nothing about its constants


class Errors(Struct, frozen=True):
    """|estimate / measured - 1| of a kernel's rows: median and 90th percentile.

    `before` with the constants that there were, `after` the fit, and `left_out`: of rows whose layers were left out of it.
    """

    kernel: str
    engine: str
    phase: str
    rows: int
    before: tuple[float, float]
    after: tuple[float, float]
    left_out: tuple[float, float]


class Calibration(Struct, frozen=True):
    """Constants fitted to timings of one accelerator, and how wrong estimates are with them."""

    gpu: Gpu
    name: str
    book: Book
    errors: tuple[Errors, ...]
    fitted: tuple[tuple[str, str, str], ...]  # kernels or engines, name, phase

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "schema": "attnmath.calibrate/1",
            "gpu": self.gpu.name,
            "name": self.name,
            "kernels": [{f: getattr(e, f) for f in e.__struct_fields__} for e in self.errors],
            "constants": [
                {"of": name, "phase": phase, "values": dict(getattr(self.book, kind)[name][phase])}
                for kind, name, phase in self.fitted
            ],
        }


def calibrate(cases: Sequence[Case], gpu: str, name: str = "") -> Calibration:
    """The constants that explain these timings best; `gpu`, a name or file, is the accelerator that they are of.

    Every kernel needs some rows. Raises InputError where there are too few, or where rows are of other accelerators.

    >>> calibrate([], "h100-sxm").name
    'h100-sxm-calibrated'
    """
    from attnmath.hardware.calibrate import addresses, fit
    from attnmath.hardware.constants import of_gpu

    own = get(gpu)
    if others := sorted({c.gpu for c in cases} - {own.name}):
        raise InputError(f"rows of {', '.join(others)}: a file holds the constants of one accelerator, here {own.name}")
    few = [c for c in cases if len(c.measured_s) < LEAST]
    if few:
        raise InputError(
            f"{few[0].kernel} in {few[0].phase}: {len(few[0].measured_s)} rows; at least {LEAST} say something about "
            "its constants"
        )
    start = of_gpu(gpu)
    book = fit(cases, start, ROUNDS) if cases else start
    fitted = tuple(dict.fromkeys((kind, who, phase) for kind, who, phase, _ in addresses(cases)))
    errors = tuple(_errors(c, start, book, cases) for c in cases)
    return Calibration(own, name or f"{own.name}-calibrated", book, errors, fitted)


def _errors(c: Case, before: Book, after: Book, cases: Sequence[Case]) -> Errors:
    from attnmath.hardware.calibrate import estimate

    found = (abs(estimate(c, b) / c.measured_s - 1) for b in (before, after))
    was, now = (_spread(x) for x in found)
    return Errors(c.kernel, c.engine, c.phase, len(c.measured_s), was, now, _spread(_left_out(c, cases, before)))


def _left_out(c: Case, cases: Sequence[Case], start: Book) -> Any:
    """The errors of a case's rows, each set of them left out of the fit in turn."""
    import numpy as np

    from attnmath.hardware.calibrate import estimate, fit, part

    sets = np.arange(len(c.measured_s)) % FOLDS
    others = [x for x in cases if x is not c]
    out = []
    for k in range(FOLDS):
        rest, left = part(c, sets != k), part(c, sets == k)
        book = fit([*others, rest], start, ROUNDS)
        out.append(abs(estimate(left, book) / left.measured_s - 1))
    return np.concatenate(out)


def _spread(errors: Any) -> tuple[float, float]:
    import numpy as np

    return round(float(np.median(errors)), 4), round(float(np.percentile(errors, 90)), 4)


def written(c: Calibration, command: str) -> str:
    """The accelerator's file: its figures with their sources, then the constants.

    >>> from attnmath.hardware.constants import built_in
    >>> text = written(Calibration(get("h100-sxm"), "mine", built_in(), (), ()), "attnmath gpus calibrate ...")
    >>> text.splitlines()[3]
    '[mine]'
    """
    g = c.gpu
    texts = {k: getattr(g, k) for k in ("title", "vendor", "architecture", "link")}
    lines = [
        f"# Written by `{command}`: {g.name}'s figures, and constants of the time model",
        "# fitted to measured times. Use it as --gpu FILE.",
        "",
        f"[{c.name}]",
        *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in texts.items() if v),
        *(f"{k} = {_figure(f)}" for k, f in g.figures.items()),
        "",
        f"[{c.name}.tensor_flop_per_s]",
        *(f"{k} = {_figure(f)}" for k, f in g.tensor_flop_per_s.items()),
    ]
    for kind, name, phase in c.fitted:
        values: Mapping[str, float] = getattr(c.book, kind)[name][phase]
        lines += ["", f"[{kind}.{name}.{phase}]", *(f"{k} = {v:.6g}" for k, v in values.items())]
    for e in c.errors:
        lines += [
            "",
            f"[bands.{e.kernel}.{e.phase}]",
            f"median = {e.left_out[0]}",
            f"p90 = {e.left_out[1]}",
            f"kernels = {e.rows}",
            f"gpus = [{json.dumps(c.name)}]",
        ]
    return "\n".join(lines) + "\n"


def _figure(f: Any) -> str:
    note = f", note = {json.dumps(f.note, ensure_ascii=False)}" if f.note else ""
    return f"{{ value = {f.value!r}, source = {json.dumps(list(f.sources), ensure_ascii=False)}{note} }}"
