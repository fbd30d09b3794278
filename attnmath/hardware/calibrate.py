"""Fitting the time model's constants to measured times; `attnmath gpus calibrate`, and the benchmark's leave-out tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.hardware import constants
from attnmath.hardware.collectives import collective
from attnmath.hardware.constants import Book
from attnmath.hardware.gemm import gemm
from attnmath.hardware.kernels import IDEAL, KERNELS
from attnmath.hardware.machine import Machine
from attnmath.hardware.timing import Cut, Shape, Times, cut, decode, prefill

SPREAD = 0.06  # of log(estimate / measured): errors beyond it count less than by their square
PULL = 0.5  # of a constant towards where it starts, for those that the times do not show


class Case(Struct, frozen=True):
    """Measured times of one kernel as one engine runs it on one accelerator; `shape` and `measured_s` are arrays."""

    phase: str
    gpu: str
    engine: str
    kernel: str
    machine: Machine
    shape: Any  # a Shape, a Product, or the arguments of `collective`
    measured_s: Any
    warm: bool = True


Address = tuple[str, str, str, str]  # kernels or engines, name, phase, constant


def run(
    phase: str,
    engine: str,
    kernel: str,
    machine: Machine,
    shape: Any,
    k: Mapping[str, float],
    warm: bool,
    cuts: tuple[Cut, ...] = (),
) -> Times:
    """The estimate of a kernel in a phase; `shape` is a Shape or a Product; `cuts`, if they are known.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> k, _ = constants.built_in().of("flash-attention-3", "vllm", "decode")
    >>> shape = Shape(64.0, 1.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> t = run("decode", "vllm", "flash-attention-3", machine(get("h100-sxm")), shape, k, False)
    >>> 640e-6 < t.time_s < 900e-6
    True
    """
    if phase == "gemm":
        return gemm(shape, machine, k, warm)
    row = KERNELS[kernel]
    if phase.endswith("decode"):
        return decode(shape, machine, row, k, warm, cuts)
    rotates = engine == "trtllm" and phase == "prefill"
    writes = phase != "encoder" and engine != IDEAL
    return prefill(shape, machine, row, k, warm, writes, rotates, cuts)


def estimate(case: Case, book: Book, cuts: tuple[Cut, ...] = ()) -> Any:
    """The estimated times of a case, seconds.

    >>> import numpy as np
    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> shape = Shape(np.array([1.0, 64.0]), 1.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> case = Case("decode", "h100-sxm", "vllm", "flash-attention-3", machine(get("h100-sxm")), shape, None)
    >>> estimate(case, constants.built_in()).shape
    (2,)
    """
    k, _ = book.of(case.kernel, case.engine, case.phase)
    return estimate_with(case, k, cuts)


def estimate_with(case: Case, k: Mapping[str, float], cuts: tuple[Cut, ...] = ()) -> Any:
    """The estimated times of a case with these constants, seconds.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> shape = Shape(1.0, 1.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> case = Case("decode", "h100-sxm", "ideal", "ideal", machine(get("h100-sxm")), shape, None)
    >>> k, _ = constants.built_in().of("ideal", "ideal", "decode")
    >>> 10e-6 < estimate_with(replace(case, warm=False), k) < 11e-6
    True
    """
    if case.phase == "collective":
        name, num_gpus, message_bytes, link_bytes_per_s = case.shape
        return collective(name, case.kernel, num_gpus, message_bytes, link_bytes_per_s, k)[0]
    return run(case.phase, case.engine, case.kernel, case.machine, case.shape, k, case.warm, cuts).time_s


def addresses(cases: Iterable[Case]) -> list[Address]:
    """Every constant that these cases can say something about.

    >>> addresses([])
    []
    """
    found: dict[Address, None] = {}
    for c in cases:
        own, around = constants.OF_PHASE[c.phase]
        found |= dict.fromkeys(("kernels", c.kernel, c.phase, k) for k in own)
        found |= dict.fromkeys(("engines", c.engine, c.phase, k) for k in around)
    return list(found)


START = {
    "mma_efficiency": 0.8,
    "overlap": 0.3,
    "block_cycles": 2500.0,
    "tile_cycles": 60.0,
    "exposed": 0.5,
    "hbm_efficiency": 0.9,
    "combine_us": 2.0,
    "part_cycles": 200.0,
    "launch_us": 9.0,
    "write_bytes_per_clock": 20.0,
    "token_cycles": 60.0,
    "stage_bytes_per_clock": 64.0,
    "step_us": 0.8,
    "latent_share": 0.2,
    "bulk_us": 12.0,
    "bulk_share": 0.75,
}


def fit(
    cases: Sequence[Case],
    book: Book,
    rounds: int = 15,
    estimate: Callable[[Case, Book, tuple[Cut, ...]], Any] = estimate,
) -> Book:
    """The constants that explain these cases best; every case weighs the same.

    Least squares of log(estimate / measured) with a soft loss (scipy's soft_l1), each constant inside its range. What the
    cases say nothing about keeps its value in `book`. `estimate`: another model's times of a case, to compare with.

    >>> import numpy as np
    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> book, sizes = constants.built_in(), 2.0 ** np.arange(4, 12)
    >>> shape = Shape(sizes, 1.0, 4096.0, 32.0, 8.0, 128.0, 128.0)
    >>> case = Case("decode", "h100-sxm", "vllm", "flash-attention-3", machine(get("h100-sxm")), shape, sizes)
    >>> measured_s = estimate(case, book)
    >>> found = fit([replace(case, measured_s=measured_s)], book)
    >>> bool((abs(estimate(case, found) / measured_s - 1) < 0.02).all())
    True
    """
    import numpy as np
    from scipy.optimize import least_squares

    where = addresses(cases)
    ranges = [{**constants.KERNEL, **constants.ENGINE}[a[3]] for a in where]
    low, high = np.array([r.low for r in ranges]), np.array([r.high for r in ranges])
    start = np.clip((np.array([_start(book, a) for a in where]) - low) / (high - low), 0.01, 0.99)
    concerns = [[i for i, c in enumerate(cases) if a[1:3] in ((c.kernel, c.phase), (c.engine, c.phase))] for a in where]
    ends = np.cumsum([0, *(len(c.measured_s) for c in cases)])
    weight = [1 / np.sqrt(len(c.measured_s)) for c in cases]
    pull = PULL / np.sqrt(len(where))

    cuts = [_cuts(c) for c in cases]

    def errors(at: Any, i: int) -> Any:
        estimated = estimate(cases[i], _with(book, where, low + (high - low) * at), cuts[i])
        return np.log(estimated / cases[i].measured_s) * weight[i]

    def all_errors(at: Any) -> Any:
        return np.concatenate([*(errors(at, i) for i in range(len(cases))), pull * (at - start)])

    def slopes(at: Any) -> Any:
        base = all_errors(at)
        out = np.zeros((len(base), len(at)))
        for j, concerned in enumerate(concerns):
            step = 1e-3 if at[j] < 0.99 else -1e-3
            moved = at.copy()
            moved[j] += step
            for i in concerned:
                out[ends[i] : ends[i + 1], j] = (errors(moved, i) - base[ends[i] : ends[i + 1]]) / step
        out[ends[-1] :, :] = pull * np.eye(len(at))
        return out

    scale = SPREAD / np.sqrt(ends[-1] / len(cases))
    found = least_squares(all_errors, start, jac=slopes, bounds=(0, 1), loss="soft_l1", f_scale=scale, max_nfev=rounds)
    return _with(book, where, low + (high - low) * found.x)


def _start(book: Book, a: Address) -> float:
    """Where a constant starts: at its value, so that a few timings move it only as far as they say."""
    kind, name, phase, constant = a
    return float(getattr(book, kind).get(name, {}).get(phase, {}).get(constant, START[constant]))


def part(c: Case, rows: Any) -> Case:
    """The chosen rows of a case: places, or a boolean for each.

    >>> import numpy as np
    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> shape = Shape(np.array([1.0, 64.0]), 1.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> case = Case("decode", "h100-sxm", "vllm", "flash-attention-3", machine(get("h100-sxm")), shape, np.ones(2))
    >>> part(case, [1]).shape.batch
    array([64.])
    """
    import numpy as np

    fields = ((f, getattr(c.shape, f)) for f in c.shape.__struct_fields__)
    own = {f: v[rows] for f, v in fields if isinstance(v, np.ndarray)}
    return replace(c, shape=replace(c.shape, **own), measured_s=c.measured_s[rows])


def _cuts(c: Case) -> tuple[Cut, ...]:
    """What of a case does not depend on the constants."""
    if not isinstance(c.shape, Shape):
        return ()
    return cut(c.shape, c.machine, KERNELS[c.kernel], c.phase.endswith("decode"))


def _with(book: Book, where: Sequence[Address], values: Iterable[float]) -> Book:
    tables: dict[str, dict[str, dict[str, dict[str, float]]]] = {
        kind: {name: {phase: dict(v) for phase, v in rows.items()} for name, rows in getattr(book, kind).items()}
        for kind in ("kernels", "engines")
    }
    for (kind, name, phase, constant), value in zip(where, values):
        tables[kind].setdefault(name, {}).setdefault(phase, {})[constant] = float(value)
    return replace(book, kernels=tables["kernels"], engines=tables["engines"])
