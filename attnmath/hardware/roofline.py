"""A lower bound on time: no kernel beats the peak rates on the work and the bytes that it cannot avoid.

The roofline model of Williams, Waterman and Patterson 2009 (CACM 52(4), doi 10.1145/1498765.1498785), with a second
compute roof for exponentials, which run in units of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from attnmath.hardware import FIGURES, Gpu
from attnmath.language.arith import Number, largest, maximum

EXP_FIGURES = ("processors", "clock_hz", "max_clock_hz", "exp_per_clock")
USES = (*EXP_FIGURES, "hbm_bytes_per_s", "l2_bytes")  # beside a rate


class Bound(Struct, frozen=True):
    """The least time of each unit, in seconds, numbers or arrays; they can overlap, so the largest one bounds the whole.

    `exp_s` is None where the accelerator has no figure for exponentials.
    """

    tensor_s: Any
    exp_s: Any
    hbm_s: Any

    @property
    def time_s(self) -> Any:
        """The bound, in seconds."""
        return maximum(maximum(self.tensor_s, 0.0 if self.exp_s is None else self.exp_s), self.hbm_s)

    @property
    def binds(self) -> Any:
        """Which unit it is: tensor, exp or hbm."""
        exp_s = 0.0 if self.exp_s is None else self.exp_s
        return largest({"tensor": self.tensor_s, "exp": exp_s, "hbm": self.hbm_s})


def bound(gpu: Gpu, dtype: str, matmul_flops: Number, exps: Number, hbm_bytes: Number, l2_warm: bool = False) -> Bound:
    """The bound for a kernel that does `matmul_flops` and `exps` and moves `hbm_bytes`; numbers or arrays of float64.

    `l2_warm`: what fits into the second-level cache is there from the last run, so only the rest is moved; of a cache whose
    size nobody states, that may be nothing. Raises InputError if the accelerator has no rate for this dtype.

    >>> from attnmath.hardware import get
    >>> b = bound(get("h100-sxm"), "bf16", 549_822_922_752, 1_073_872_896, 167_772_160)
    >>> b.binds, round(b.time_s * 1e6)
    ('tensor', 556)
    """
    moved = hbm_bytes
    if l2_warm:
        moved = maximum(0, hbm_bytes - int(gpu.figure("l2_bytes"))) if "l2_bytes" in gpu.figures else 0 * hbm_bytes
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


class Roof(Struct, frozen=True):
    """What one unit of an accelerator allows the matrix products: a flat limit, or one that rises with the intensity.

    `unit`: tensor, exp or hbm; `name` says of what: a dtype, or how many FLOPs there are to an exponential
    (`flop_per_exp`). Of hbm `bytes_per_s` is given, of the others `flop_per_s`; the other one is None.
    """

    unit: str
    name: str
    flop_per_s: float | None
    bytes_per_s: float | None
    flop_per_exp: float | None
    sources: tuple[str, ...]

    def at(self, intensity: float) -> float:
        """The limit in FLOP/s at an arithmetic intensity in FLOP/byte.

        >>> from attnmath.hardware import get
        >>> memory = roofs(get("h100-sxm"))[0]
        >>> memory.unit, memory.at(100.0)
        ('hbm', 335000000000000.0)
        """
        return self.flop_per_s if self.flop_per_s is not None else (self.bytes_per_s or 0.0) * intensity


def roofs(gpu: Gpu, flop_per_exp: Iterable[float] = ()) -> tuple[Roof, ...]:
    """Every roof that the accelerator has figures for: memory, matrix units by dtype, and exponentials.

    The last are one for each of `flop_per_exp`: a core that does so many FLOPs of matrix products to an exponential (of
    softmax attention 2 (head dim + value head dim)) cannot do more than that many times the exponential rate.

    >>> from attnmath.hardware import get
    >>> [(r.name, f"{r.flop_per_s:.4g}") for r in roofs(get("a100-sxm-80g"), [256.0]) if r.unit == "exp"]
    [('256 FLOP per exponential', '6.237e+14')]
    """
    memory = gpu.figures["hbm_bytes_per_s"]
    found = [Roof("hbm", "device memory", None, float(memory.value), None, memory.sources)]
    found += [Roof("tensor", k, float(f.value), None, None, f.sources) for k, f in gpu.tensor_flop_per_s.items()]
    if rate := gpu.exp_rate:
        figures = [gpu.figures[n] for n in EXP_FIGURES if n in gpu.figures]
        sources = tuple(dict.fromkeys(s for f in figures for s in f.sources))
        lowest = {f"{x:.3g}": x for x in sorted(flop_per_exp, reverse=True)}  # of those that look alike
        found += [
            Roof("exp", f"{x:.4g} FLOP per exponential", rate * x, None, x, sources) for x in sorted(lowest.values())
        ]
    return tuple(found)


def absent(gpu: Gpu) -> dict[str, str]:
    """The roofs that cannot be drawn, by unit: which figures no source was found for.

    >>> from attnmath.hardware import get
    >>> absent(get("h100-sxm"))
    {}
    >>> list(absent(get("mi300x")))
    ['exp']
    """
    missing = [n for n in ("processors", "exp_per_clock") if n not in gpu.figures]
    if not {"clock_hz", "max_clock_hz"} & set(gpu.figures):
        missing.append("clock_hz")
    found = {"exp": missing} if missing else {}
    found |= {} if "fp32" in gpu.tensor_flop_per_s else {"fp32": ["tensor_flop_per_s.fp32"]}
    words = {n: FIGURES[n].meaning for n in missing} | {"tensor_flop_per_s.fp32": "FLOP/s in plain fp32"}
    return {
        unit: f"{gpu.name} has no figure " + ", ".join(f"{n} ({words[n]})" for n in names)
        for unit, names in found.items()
    }
