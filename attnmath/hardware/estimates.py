"""From a page of equations to an estimate of time: which kernel would run it, and how long that takes.

The kernel's sizes are read off the page: where a softmax runs over the keys, the scores before it say how wide keys are and how
many heads share them, the product after it how wide values are. What has another shape, no engine's kernel here runs, and
there is no estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.hardware import Gpu
from attnmath.hardware.calibrate import run
from attnmath.hardware.constants import Band, Book, built_in
from attnmath.hardware.kernels import ENGINES, IDEAL, KERNELS, kernel_of
from attnmath.hardware.machine import Machine, machine
from attnmath.hardware.timing import Cut, Shape, Times, cut
from attnmath.keys import Reading
from attnmath.language.arith import Number, largest, maximum, prod, where
from attnmath.language.masks import Piece
from attnmath.language.syntax import Equation, Op, Program, Ref, ops, refs
from attnmath.readings.count import learned
from attnmath.readings.memory import bits
from attnmath.results import ErrorBand, KernelTime

DEFAULT_ENGINE = "vllm"


class Estimate(Struct, frozen=True):
    """How long one attention core takes as an engine's kernel runs it, in seconds; an estimate, with its error band.

    `binds`: the unit that is busy longest, or launch if launching takes longer than all of them; `busy`: the part of the
    kernel's time that each unit works. `band` None: nobody measured it (`ideal`).
    """

    time_s: Any
    kernel_time_s: Any
    launch_time_s: Any
    engine: str
    kernel: str
    binds: Any
    busy: dict[str, Any]
    band: Band | None
    measured_here: bool
    assumed: tuple[str, ...]
    times: Times


def estimate(
    reading: Reading,
    gpu: Gpu,
    engine: str = DEFAULT_ENGINE,
    decodes: bool = False,
    warm: bool = False,
    bound_s: Number = 0.0,
    book: Book | None = None,
) -> Estimate:
    """The estimate for a page at given sizes; never below `bound_s`.

    Raises InputError, saying why, where no kernel that is modelled runs it or the accelerator lacks a figure.

    >>> from attnmath import cost
    >>> from attnmath.hardware import get
    >>> c = cost("gqa", seq=8192, heads=32, kv_heads=8)
    >>> e = estimate(c.readings[0], get("h100-sxm"))
    >>> e.kernel, e.binds, 500e-6 < e.time_s < 1e-3
    ('flash-attention-3', 'tensor', True)
    """
    book = book or built_in()
    found = job(kernel_shape(reading), gpu, engine, reading.dtype, decodes, warm, book)
    return of_job(replace(found, assumed=(*found.assumed, *_unfitted(found))), bound_s, book)


def _unfitted(found: Job) -> list[str]:
    """What the error band does not cover: it was found on 16-bit kernels without a window, on prompts without a past."""
    s: Shape = found.shape
    if found.engine == IDEAL or not isinstance(s.window, (int, float)):
        return []
    out = []
    if s.window > 0:
        out.append("windows were not fitted: estimates of them were off by 12 to 15 % in the median, by 50 % for some")
    if s.q_bytes < 2 or s.kv_bytes < 2:
        out.append(
            "8 bits and less were not fitted: estimates of 8 were off by 12 to 14 % in the median, by 55 % for some"
        )
    if not found.decodes and s.causal and s.context > s.seq:
        out.append("no prompt with a past was measured: how wrong estimates of them are is not known")
    return out


class Job(Struct, frozen=True):
    """A core as an engine would run it, or a matrix product: which kernel, at which rates and constants; `warm`: the L2 is."""

    shape: Any  # a Shape, or a Product
    gpu: Gpu
    engine: str
    phase: str
    kernel: str
    rates: Machine
    constants: Mapping[str, float]
    warm: bool = False
    assumed: tuple[str, ...] = ()

    def times(self, *cuts: Cut) -> Times:
        """How long it takes, cut up so, or as the kernel cuts it."""
        return run(self.phase, self.engine, self.kernel, self.rates, self.shape, self.constants, self.warm, cuts)

    def cut(self) -> Cut:
        """How the kernel cuts it up; of several ways the fastest."""
        return min(
            cut(self.shape, self.rates, KERNELS[self.kernel], self.decodes), key=lambda c: self.times(c).kernel_s
        )

    @property
    def decodes(self) -> bool:
        """Whether there are one or a few new tokens a sequence."""
        return self.phase.endswith("decode")


def job(
    shape: Shape,
    gpu: Gpu,
    engine: str = DEFAULT_ENGINE,
    dtype: str = "bf16",
    decodes: bool = False,
    warm: bool = False,
    book: Book | None = None,
) -> Job:
    """Which kernel an engine runs for a shape, and all that its time depends on; raises as `estimate` does.

    >>> from attnmath.hardware import get
    >>> found = job(Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0), get("b200-sxm"))
    >>> found.kernel, found.cut().rows
    ('trtllm-gen', 256.0)
    """
    book = book or built_in()
    phase = phase_of(shape, decodes)
    rates = machine(gpu, dtype)
    if engine == IDEAL:
        rates = replace(rates, sustained=1.0, assumed=())
    kernel = kernel_of(engine, phase, gpu.architecture, shape.kv_bytes, _widest(shape.head_dim))
    constants, assumed = book.of(kernel, engine, phase)
    if own_share := _synchronous(kernel, rates):
        assumed = (*assumed, own_share)
    return Job(shape, gpu, engine, phase, kernel, rates, constants, warm, (*rates.assumed, *assumed))


def _synchronous(kernel: str, rates: Machine) -> str:
    if KERNELS[kernel].asynchronous or rates.mma_sync == 1:
        return ""
    return f"mma.sync, which {kernel} is made of, reaches {rates.mma_sync:.0%} of the matrix unit's peak here"


def of_job(found: Job, bound_s: Number = 0.0, book: Book | None = None) -> Estimate:
    """The estimate for a kernel at its sizes, numbers or arrays of float64; never below `bound_s`.

    >>> from attnmath.hardware import get
    >>> of_job(job(Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0), get("h100-sxm"))).binds
    'tensor'
    """
    band = (book or built_in()).band(found.kernel, found.phase, found.gpu.name) if found.engine != IDEAL else None
    times = found.times()
    time_s = maximum(times.time_s, bound_s)
    kernel_s = time_s - times.launch_s
    return Estimate(
        time_s,
        kernel_s,
        times.launch_s,
        found.engine,
        found.kernel,
        where(times.launch_s > kernel_s, "launch", largest(times.units)),
        {u: v / kernel_s for u, v in times.units.items()},
        band,
        band is not None and found.gpu.name in band.gpus,
        found.assumed,
        times,
    )


def summed(parts: list[tuple[int, Estimate]]) -> tuple[float, ErrorBand | None, KernelTime]:
    """(time, error band, what it is made of) of several layers after each other: how often each, and its estimate.

    >>> from attnmath import cost
    >>> from attnmath.hardware import get
    >>> one = estimate(cost("gqa", seq=8192, heads=32).readings[0], get("h100-sxm"))
    >>> summed([(3, one)])[0] == 3 * one.time_s
    True
    """
    time_s = float(sum(n * e.time_s for n, e in parts))
    kernel_s, launch_s = (float(sum(n * getattr(e, f) for n, e in parts)) for f in ("kernel_time_s", "launch_time_s"))
    units = {u: float(sum(n * e.times.units[u] for n, e in parts)) for u in parts[0][1].times.units}
    most = max(units, key=lambda u: units[u])
    bands = [(e.band, e.measured_here) for _, e in parts if e.band]
    band = None
    if bands and len(bands) == len(parts):
        worst, here = max(bands, key=lambda b: b[0].p90)
        band = ErrorBand(worst.median, worst.p90, worst.kernels, here)
    made = KernelTime(
        parts[0][1].engine,
        list(dict.fromkeys(e.kernel for _, e in parts)),
        kernel_s,
        launch_s,
        "launch" if launch_s > kernel_s else most,
        {u: v / kernel_s if kernel_s else 0.0 for u, v in units.items()},
        list(dict.fromkeys(a for _, e in parts for a in e.assumed)),
    )
    return time_s, band, made


def phase_of(shape: Shape, decodes: bool) -> str:
    """The phase whose kernel runs it: that of latent attention, of an encoder, of prefill or of decoding.

    >>> phase_of(Shape(1.0, 64.0, 64.0, 16.0, 16.0, 192.0, 128.0), False)
    'mla_prefill'
    """
    latent = shape.latent or _widest(shape.head_dim) > _widest(shape.v_head_dim)
    if decodes:
        return "mla_decode" if shape.latent else "decode"
    return "encoder" if not shape.causal else "mla_prefill" if latent else "prefill"


def _widest(width: Any) -> int:
    return int(width.max()) if hasattr(width, "max") else int(width)


def kernel_shape(reading: Reading) -> Shape:
    """The sizes of the one softmax of keys that a page has; InputError, saying why, if it has none or another shape.

    >>> from attnmath import cost
    >>> s = kernel_shape(cost("mla", seq=4096, heads=128, phase="decode").readings[0])
    >>> s.heads, s.kv_heads, s.head_dim, s.v_head_dim, s.latent
    (128.0, 1.0, 576.0, 512.0, True)
    """
    page, sizes = reading.page, reading.sizes
    weights = [e for e in reading.core.equations if any(o.name == "softmax" and o.over == ("n",) for o in _ops(e))]
    pieces = [p for pair, mask in reading.core.space.masks.items() if pair == ("t", "n") for p in mask.pieces]
    if len(weights) != 1 or len(page.sees) != 1 or len(pieces) != 1 or any(s.at_most for s in reading.steps):
        raise InputError("its core is not one softmax over keys under one mask, which is what these kernels run")
    causal, window = _mask(pieces[0])
    (a,) = weights
    heads = [i for i in map(str, a.out.index) if i not in ("b", "t", "n")]
    if not {"b", "t", "n"} <= set(map(str, a.out.index)):
        raise InputError("its scores are not of every query and key")
    score, values = _meeting(page, a), _product(reading, a)
    wide = {i: sizes[i] for r in score for i in map(str, r.index) if i not in (*heads, "b", "t", "n")}
    keys = [r for r in score if "n" in map(str, r.index)]
    inner = [i for i in map(str, values.index) if i not in (*heads, "b", "n")]
    owners = {i for i in heads if i in map(str, (*keys[0].index, *values.index))}
    latent = values.name in {r.name for r in keys}
    return Shape(
        batch=_float(sizes["b"]),
        seq=_float(sizes["t"]),
        context=_float(sizes["n"]),
        heads=_float(prod(sizes[i] for i in heads)),
        kv_heads=_float(prod(sizes[i] for i in owners)),
        head_dim=_float(sum(wide.values())),
        v_head_dim=_float(prod(sizes[i] for i in inner)),
        window=_float(window),
        causal=causal,
        q_bytes=bits(reading.dtype) / 8,
        kv_bytes=bits(reading.kv_dtype) / 8,
        latent=latent,
    )


def _float(x: Number) -> Number:
    return float(x) if isinstance(x, int) else x


def _mask(p: Piece) -> tuple[bool, Number]:
    """(whether it is causal, its window or 0) of a mask of one piece."""
    boxed = p.i1 is not None or p.j1 is not None or not (isinstance(p.i0, int) and p.i0 == 0 and p.j0 == 0)
    if boxed or p.chunk is not None or p.step != 1 or not (isinstance(p.pitch, int) and p.pitch == 1):
        raise InputError("its mask is neither full nor causal nor a causal window, which is what is modelled")
    if p.hi is None and p.lo is None:
        return False, 0.0
    if not (isinstance(p.hi, int) and p.hi == 0):
        raise InputError("its mask is neither full nor causal nor a causal window, which is what is modelled")
    return True, 0.0 if p.lo is None else 1 - p.lo


def _ops(e: Equation) -> list[Op]:
    return [o for alt in e.alts for o in ops(alt)]


def _meeting(page: Program, a: Equation) -> list[Ref]:
    """The tensors whose product the scores are: back from the softmax to where a query meets a key."""
    name, seen = a.out.name, set()
    while name not in seen:
        seen.add(name)
        read = [r for alt in page.defined[name].alts for r in refs(alt) if not learned(r)]
        apart = [r for r in read if not {"t", "n"} <= set(map(str, r.index))]
        if any("n" in map(str, r.index) for r in apart):
            return apart
        scores = [r.name for r in read if {"t", "n"} <= set(map(str, r.index)) and r.name in page.defined]
        if not scores:
            break
        name = scores[0]
    raise InputError("its scores are no product of queries and keys")


def _product(reading: Reading, a: Equation) -> Ref:
    """The values: what the softmax's result is multiplied with."""
    for e in reading.core.equations:
        read = [r for alt in e.alts for r in refs(alt)]
        if a.out.name in [r.name for r in read] and "n" not in map(str, e.out.index):
            found = [r for r in read if r.name != a.out.name and "n" in map(str, r.index)]
            if len(found) == 1:
                return found[0]
    raise InputError("its result is no product with values")


def engines() -> tuple[str, ...]:
    """The names that --engine takes.

    >>> "vllm" in engines()
    True
    """
    return (*ENGINES, IDEAL)
