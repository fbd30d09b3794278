"""A lower bound on time: no kernel beats the peak rates on the work and the bytes that it cannot avoid.

The roofline model of Williams, Waterman and Patterson 2009 (CACM 52(4), doi 10.1145/1498765.1498785), with a second
compute roof for exponentials, which run in units of their own.
"""

from __future__ import annotations

from msgspec import Struct

from attnmath.hardware import Gpu

USES = ("processors", "clock_hz", "max_clock_hz", "exp_per_clock", "hbm_bytes_per_s", "l2_bytes")  # beside a rate


class Bound(Struct, frozen=True):
    """The least time of each unit, in seconds; they can overlap, so the largest one bounds the whole.

    `exp_s` is None where the accelerator has no figure for exponentials.
    """

    tensor_s: float
    exp_s: float | None
    hbm_s: float

    @property
    def time_s(self) -> float:
        """The bound, in seconds."""
        return max(self.tensor_s, self.exp_s or 0.0, self.hbm_s)

    @property
    def binds(self) -> str:
        """Which unit it is: tensor, exp or hbm."""
        times = {"tensor": self.tensor_s, "exp": self.exp_s or 0.0, "hbm": self.hbm_s}
        return max(times, key=lambda unit: times[unit])


def bound(gpu: Gpu, dtype: str, matmul_flops: int, exps: int, hbm_bytes: int, l2_warm: bool = False) -> Bound:
    """The bound for a kernel that does `matmul_flops` and `exps` and moves `hbm_bytes`.

    `l2_warm`: what fits into the second-level cache is there from the last run, so only the rest is moved. Raises
    InputError if the accelerator has no rate for this dtype.

    >>> from attnmath.hardware import get
    >>> b = bound(get("h100-sxm"), "bf16", 549_822_922_752, 1_073_872_896, 167_772_160)
    >>> b.binds, round(b.time_s * 1e6)
    ('tensor', 556)
    """
    moved = max(0, hbm_bytes - int(gpu.figure("l2_bytes"))) if l2_warm else hbm_bytes
    rate = gpu.exp_rate
    return Bound(
        matmul_flops / gpu.tensor_rate(dtype), exps / rate if rate else None, moved / gpu.figure("hbm_bytes_per_s")
    )


def ridge(gpu: Gpu, dtype: str) -> float:
    """The arithmetic intensity, FLOP/byte, above which matrix products bind and not memory.

    >>> from attnmath.hardware import get
    >>> round(ridge(get("h100-sxm"), "bf16"))
    295
    """
    return gpu.tensor_rate(dtype) / gpu.figure("hbm_bytes_per_s")
