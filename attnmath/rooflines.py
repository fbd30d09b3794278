"""`roofline`: where costs stand under an accelerator's roofs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.hardware import Gpu, get
from attnmath.hardware.roofline import Roof, absent, bound, ridge, roofs
from attnmath.results import Cost, Measured, document

SCHEMA = "attnmath.roofline/1"


class Point(Struct, frozen=True, rename={"with_": "with"}):
    """A core under the roofs: FLOP/byte, FLOP/s, seconds.

    `intensity` is over the compulsory traffic, None without matrix products; `attainable_flop_per_s` what the lowest roof
    over it allows, and `bound` which unit's that is; `at_most`: the data can make the work, and with it these, smaller.
    """

    variant: str
    form: str | None
    with_: list[str]
    phase: str
    inputs: dict[str, Any]
    assumed: dict[str, Any]
    flops_matmul: int
    exps: int
    hbm_bytes_compulsory: int
    intensity: float | None
    flop_per_exp: float | None
    attainable_flop_per_s: float | None
    share_of_tensor_peak: float | None
    bound: str | None
    time_bound_s: float | None
    at_most: bool
    measured: Measured
    measured_flop_per_s: float | None

    @property
    def name(self) -> str:
        """The variant, and its form if it has several."""
        return f"{self.variant} {self.form}" if self.form else self.variant


class Roofline(Struct, frozen=True):
    """The roofs of an accelerator for one dtype, and the points under them; `absent`: roofs without a figure, and why."""

    gpu: str
    title: str
    dtype: str
    l2: str
    ridge: float
    roofs: list[Roof]
    absent: dict[str, str]
    points: list[Point]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema roofline` describes it."""
        return {"schema": SCHEMA, **document(self)}

    @property
    def peak(self) -> float:
        """The matrix rate of the points' dtype, FLOP/s."""
        return next(r.at(0.0) for r in self.roofs if r.unit == "tensor" and r.name == self.dtype)


def roofline(costs: Sequence[Cost]) -> Roofline:
    """The roofs and where each cost stands, all at one accelerator and dtype; InputError without either.

    >>> from attnmath.costs import cost
    >>> found = roofline([cost("gqa", seq=8192, heads=32, phase=p, gpu="h100-sxm") for p in ("prefill", "decode")])
    >>> [(p.phase, p.bound, round(p.intensity, 1), f"{p.attainable_flop_per_s:.3g}") for p in found.points]
    [('prefill', 'tensor', 3277.2, '9.89e+14'), ('decode', 'hbm', 4.0, '1.34e+13')]
    """
    if not costs or len({(c.gpu, c.gpu_file, c.inputs["dtype"], c.l2) for c in costs}) > 1:
        raise InputError("a roofline is of one accelerator, one dtype and one --l2")
    first = costs[0]
    if first.gpu is None:
        raise InputError("a roofline is an accelerator's: give a --gpu; `attnmath gpus` lists them")
    gpu, dtype = get(first.gpu_file or first.gpu), first.inputs["dtype"]
    points = [_point(c, gpu) for c in costs]
    ratios = dict.fromkeys(p.flop_per_exp for p in points if p.flop_per_exp)
    return Roofline(
        gpu=gpu.name,
        title=gpu.title,
        dtype=dtype,
        l2=first.l2,
        ridge=ridge(gpu, dtype),
        roofs=list(roofs(gpu, (x for x in ratios if x))),
        absent=absent(gpu),
        points=points,
    )


def _point(c: Cost, gpu: Gpu) -> Point:
    dtype, flops, moved = c.inputs["dtype"], c.flops.matmul, int(c.hbm_bytes.compulsory or 0)
    least = bound(gpu, dtype, flops, c.exps, moved, c.l2 == "warm")
    placed = bool(flops and moved and least.time_s)
    rate = flops / least.time_s if placed else None
    return Point(
        variant=c.variant,
        form=c.form,
        with_=c.with_,
        phase=c.phase,
        inputs=c.inputs,
        assumed={k: v for k, v in c.assumed.items() if k != "engine"},
        flops_matmul=flops,
        exps=c.exps,
        hbm_bytes_compulsory=moved,
        intensity=flops / moved if placed else None,
        flop_per_exp=flops / c.exps if flops and c.exps else None,
        attainable_flop_per_s=rate,
        share_of_tensor_peak=rate / gpu.tensor_rate(dtype) if rate else None,
        bound=least.binds if placed else None,
        time_bound_s=c.time_bound_s.fused,
        at_most="flops.matmul" in c.upper_bounds,
        measured=c.measured,
        measured_flop_per_s=flops / c.measured.time_s if c.measured.time_s else None,
    )
