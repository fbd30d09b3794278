"""What each part of the time model is worth: the error without it, and the error of the model as its parts are added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from attnmath.hardware.calibrate import Case, estimate_with, fit
from attnmath.hardware.constants import ENGINE, KERNEL, SHARED, WITHOUT_OVERHEAD, Book
from attnmath.hardware.kernels import KERNELS
from attnmath.hardware.timing import Cut, Shape, cut

FREE = 1e9  # a rate that never limits


class Without(Struct, frozen=True):
    """A part taken out of the model: constants and figures of the machine as they are where there is no such effect."""

    meaning: str
    constants: Mapping[str, float] = {}
    machine: Mapping[str, float] = {}


def _constant(name: str) -> Without:
    row = {**KERNEL, **ENGINE, **SHARED}[name]
    return Without(row.meaning, {name: NEUTRAL[name]})


NEUTRAL: dict[str, float] = {
    **WITHOUT_OVERHEAD,
    "stage_bytes_per_clock": FREE,
    "step_us": 0.0,
    "latent_share": 1.0,
    "bulk_us": 0.0,
    "bulk_share": 1.0,
    "fp32_per_score": 0.0,
    "l2_kept": 0.0,
    "l2_gone": 1.0,
    "reference_hz": 0.0,
}
EACH: dict[str, Without] = {name: _constant(name) for name in {**KERNEL, **ENGINE, **SHARED}} | {
    "l2 (nothing kept)": Without("what a replay finds in the L2", {"l2_kept": 0.0, "l2_gone": 1e-9}),
    "sustained": Without("part of the peak that large matrix products reach", machine={"sustained": 1.0}),
    "l2_partitions": Without("parts of the L2, each with its own copy", machine={"l2_partitions": 1.0}),
    "mma_sync": Without("part of the peak that the synchronous instruction reaches", machine={"mma_sync": 1.0}),
    "exp_per_clock": Without("time of the exponentials", machine={"exp_per_clock": FREE}),
    "smem_bytes_per_clock": Without("reads of shared memory", machine={"smem_bytes_per_clock": FREE}),
}

TILES, WAVES = "tiles", "waves"
STAGES: tuple[tuple[str, Without, str], ...] = (  # in this order they are added to a roofline
    ("efficiency", Without("", {"mma_efficiency": 1.0, "hbm_efficiency": 1.0}, {"sustained": 1.0}), ""),
    ("launch", Without("", {"launch_us": 0.0}), ""),
    ("tiles: padding, and those that a mask empties are skipped", Without(""), TILES),
    (
        "waves over the processors, split keys",
        Without("", {"combine_us": 0.0, "part_cycles": 0.0, "small_us": 0.0}),
        WAVES,
    ),
    (
        "exponentials, FP32, shared memory",
        Without("", {"fp32_per_score": 0.0, "overlap": 1.0}, {"exp_per_clock": FREE, "smem_bytes_per_clock": FREE}),
        "",
    ),
    (
        "prologue of a block, barriers of a tile, load rate",
        Without("", {"block_cycles": 0.0, "tile_cycles": 0.0, "load_bytes_per_clock": FREE}),
        "",
    ),
    (
        "cache write, work per token, transfers that stay exposed",
        Without("", {"write_bytes_per_clock": FREE, "token_cycles": 0.0, "exposed": 0.0}),
        "",
    ),
    ("L2", Without("", {"l2_kept": 0.0, "l2_gone": 1e-9, "l2_bytes_per_clock": FREE}), ""),
)
FINE = 1024.0


def estimate(case: Case, book: Book, cuts: tuple[Cut, ...] = (), without: Iterable[Without] = ()) -> Any:
    """The estimated times of a case by a model that lacks some parts, seconds."""
    k, _ = book.of(case.kernel, case.engine, case.phase)
    m = case.machine
    for part in without:
        k |= part.constants
        m = replace(m, **part.machine)
    if k["reference_hz"] == 0:
        k["reference_hz"] = m.clock_hz
    return estimate_with(replace(case, machine=m), k, cuts)


def stages() -> list[tuple[str, tuple[Without, ...], frozenset[str]]]:
    """(name, what is not yet in, which ways of cutting are not) from the roofline to the whole model."""
    out = []
    for i in range(len(STAGES) + 1):
        left = STAGES[i:]
        name = "roofline: the slower of matrix products and memory" if i == 0 else f"+ {STAGES[i - 1][0]}"
        out.append((name, tuple(w for _, w, _ in left), frozenset(c for _, _, c in left if c)))
    return out


def staged(cases: list[Case], book: Book, stage: int) -> list[tuple[Case, np.ndarray]]:
    """Cases estimated by the model up to a stage, its constants fitted to these cases."""
    _, without, coarse = stages()[stage]
    known = {id(c): tuple(cuts(c, coarse)) for c in cases}

    def model(case: Case, at: Book, _: tuple[Cut, ...] = ()) -> Any:
        return estimate(case, at, known[id(case)], without)

    found = fit(cases, book, estimate=model)
    return [(c, model(c, found)) for c in cases]


def cuts(case: Case, coarse: frozenset[str]) -> Iterable[Cut]:
    """How the kernel cuts the shapes up; without tiles as if it could cut them to the score, without waves to dust."""
    decodes = case.phase.endswith("decode")
    for c in cut(case.shape, case.machine, KERNELS[case.kernel], decodes):
        if TILES in coarse:
            c = _exact(case.shape, c, decodes)
        yield _dust(c) if WAVES in coarse else c


def pairs(s: Shape) -> Any:
    """Pairs of query and key that the mask leaves, of one head of one sequence.

    >>> pairs(Shape(1.0, 3.0, 5.0, 1.0, 1.0, 64.0, 64.0))
    12.0
    """
    if not s.causal:
        return s.seq * s.context
    first = s.context - s.seq + 1  # keys that the first query sees
    window = np.where(np.asarray(s.window) > 0, s.window, s.context)
    growing = np.clip(window - first, 0, s.seq)  # queries that see less than a window
    found = growing * first + growing * (growing - 1) / 2 + (s.seq - growing) * np.minimum(window, s.context)
    return found if np.ndim(found) else float(found)


def _exact(s: Shape, c: Cut, decodes: bool) -> Cut:
    group = s.heads / s.kv_heads if decodes else c.group
    seen = pairs(s) * group / (c.rows * c.keys) * (s.batch * s.heads / group) / c.grids
    tiles = s.seq * group / c.rows * (s.batch * s.heads / group) / c.grids
    return replace(
        c, head_dim=s.head_dim, v_head_dim=s.v_head_dim, query_tiles=tiles, visits=seen, most=seen / tiles,
        first=seen / tiles, blocks=c.grids * tiles * c.splits,
    )  # fmt: skip


def _dust(c: Cut) -> Cut:
    small = replace(
        c, rows=c.rows / FINE, keys=c.keys / FINE, query_tiles=c.query_tiles * FINE, splits=1.0 + 0 * c.blocks
    )
    return replace(
        small, visits=c.visits * FINE**2, most=c.most * FINE, first=c.first * FINE,
        blocks=c.grids * c.query_tiles * FINE,
    )  # fmt: skip
