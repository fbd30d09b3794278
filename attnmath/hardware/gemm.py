"""How long a matrix product takes: the best of a library's tiles and splits of the inner dimension. Floats and arrays alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.hardware.machine import Machine
from attnmath.hardware.timing import US, Times, launch_share, moved
from attnmath.language.arith import Number, ceil_div, maximum, minimum

TILES = ((256, 128), (128, 256), (128, 128), (192, 128), (128, 64), (64, 128), (64, 64))
SPLITS = (1, 2, 4, 8, 16)  # of the inner dimension
STEP = 64  # of the inner dimension that one turn of the loop takes


class Product(Struct, frozen=True):
    """`copies` of (m by k) times (k by n), floats or arrays; bytes are per element, of the second operand `weight_bytes` if it
    is stored otherwise.
    """

    m: Any
    n: Any
    k: Any
    bytes: float = 2.0
    weight_bytes: float | None = None
    copies: Any = 1.0

    @property
    def flops(self) -> Number:
        """Operations, 2 per multiply-add."""
        return 2 * self.m * self.n * self.k * self.copies

    @property
    def hbm_bytes(self) -> Number:
        """Both operands and the result once."""
        stored = self.bytes if self.weight_bytes is None else self.weight_bytes
        return ((self.m * self.k + self.m * self.n) * self.bytes + self.k * self.n * stored) * self.copies


def gemm(p: Product, m: Machine, k: Mapping[str, float], warm: bool) -> Times:
    """The estimate; `warm`: what fits into the L2 is there from the last run.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.constants import built_in
    >>> from attnmath.hardware.machine import machine
    >>> k, _ = built_in().of("cublas-async", "", "gemm")
    >>> t = gemm(Product(8192.0, 8192.0, 8192.0), machine(get("h100-sxm")), k, False)
    >>> 1.1e-3 < t.time_s < 2e-3
    True
    """
    best = None
    for rows, columns in TILES:
        for parts in SPLITS:
            found = _cut(p, m, k, rows, columns, parts)
            best = found if best is None else best.or_faster(found)
    assert best is not None
    hbm_s, l2_s = moved(p.hbm_bytes, p.hbm_bytes, m, k, k["hbm_efficiency"], warm)
    memory_s = maximum(hbm_s, l2_s)
    kernel_s = maximum(best.kernel_s, memory_s) + k["exposed"] * minimum(best.kernel_s, memory_s)
    return replace(best, kernel_s=kernel_s, launch_s=k["launch_us"] * US * launch_share(m, k), l2_s=l2_s, hbm_s=hbm_s)


def _cut(p: Product, m: Machine, k: Mapping[str, float], rows: int, columns: int, parts: int) -> Times:
    blocks = ceil_div(p.m, rows) * ceil_div(p.n, columns) * parts * p.copies
    turns = ceil_div(p.k, float(STEP * parts))
    tensor = 2.0 * rows * columns * STEP / m.flop_per_clock / m.sustained
    loads = (rows + columns) * STEP * p.bytes / k["stage_bytes_per_clock"]
    cycles = k["block_cycles"] + turns * (max(tensor / k["mma_efficiency"], loads) + k["tile_cycles"])
    kernel_s = ceil_div(blocks, m.processors) * cycles / m.clock_hz + (parts > 1) * k["combine_us"] * US
    busy = blocks * turns * tensor / m.processors / m.clock_hz
    zero = 0.0 * busy
    return Times(kernel_s, zero, busy, zero, zero, zero, zero, zero, blocks, parts + zero, blocks / m.processors)
