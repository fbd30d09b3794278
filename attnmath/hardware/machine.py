"""What the time model needs of an accelerator: rates per processor and clock, taken from its data sheet."""

from __future__ import annotations

from msgspec import Struct

from attnmath.errors import InputError, together
from attnmath.hardware import Gpu

NEEDED = (
    "processors",
    "hbm_bytes_per_s",
    "exp_per_clock",
    "fp32_lanes",
    "smem_bytes",
    "smem_bytes_per_clock",
)
SUSTAINED = {
    "ampere": 0.91,
    "ada": 0.64,
    "hopper": 0.79,
    "blackwell": 0.71,
    "blackwell-ultra": 0.71,
}  # its measured kin
ELSEWHERE = 0.75  # the median of those
# Of the peak, reached by mma.sync, an assumption that estimates print: on Hopper 0.62 (what arXiv:2402.13499 is quoted for);
# on Blackwell what TensorRT-LLM's encoder of width 72 took on a B200 (NVIDIA aiconfigurator, commit 095f58a51).
MMA_SYNC = {"hopper": 0.62, "blackwell": 0.22, "blackwell-ultra": 0.22}
MMA_ROWS = {"hopper": 64.0, "blackwell": 128.0, "blackwell-ultra": 128.0}  # of wgmma and tcgen05.mma (PTX ISA)


class Machine(Struct, frozen=True):
    """Rates of one processor per clock, and of the whole; clocks are the highest stated, peaks the data sheet's."""

    processors: float
    clock_hz: float
    flop_per_clock: float  # dense matrix FLOP per clock and processor at the peak rate, for the dtype it was made for
    sustained: float  # part of the peak that large GEMMs sustain
    exp_per_clock: float
    fp32_lanes: float
    smem_bytes: float
    smem_bytes_per_clock: float
    hbm_bytes_per_s: float
    l2_bytes: float
    l2_partitions: float
    mma_sync: float = 1.0  # part of the peak that the synchronous instruction reaches
    mma_rows: float = 0.0  # of an instruction that reads shared memory by itself; 0: there is none
    assumed: tuple[str, ...] = ()


def machine(gpu: Gpu, dtype: str = "bf16") -> Machine:
    """The rates of an accelerator; InputError naming every figure that is absent.

    >>> from attnmath.hardware import get
    >>> round(machine(get("a100-sxm-80g")).flop_per_clock)
    2049
    """
    absent = [n for n in NEEDED if n not in gpu.figures]
    clock = gpu.figures.get("max_clock_hz") or gpu.figures.get("clock_hz")
    absent += [] if clock else ["clock_hz"]
    if absent:
        raise InputError(together([f"{gpu.name} has no figure {n}: no source was found for it" for n in absent]))
    assert clock is not None
    sustained, assumed = _sustained(gpu)
    l2_bytes, told = _l2(gpu)
    assumed += told
    return Machine(
        processors=float(gpu.figure("processors")),
        clock_hz=float(clock.value),
        flop_per_clock=gpu.tensor_rate(dtype) / gpu.figure("processors") / clock.value,
        sustained=sustained,
        exp_per_clock=float(gpu.figure("exp_per_clock")),
        fp32_lanes=float(gpu.figure("fp32_lanes")),
        smem_bytes=float(gpu.figure("smem_bytes")),
        smem_bytes_per_clock=float(gpu.figure("smem_bytes_per_clock")),
        hbm_bytes_per_s=float(gpu.figure("hbm_bytes_per_s")),
        l2_bytes=l2_bytes,
        l2_partitions=float(gpu.figure("l2_partitions")) if "l2_partitions" in gpu.figures else 1.0,
        mma_sync=MMA_SYNC.get(gpu.architecture, 1.0),
        mma_rows=MMA_ROWS.get(gpu.architecture, 0.0),
        assumed=assumed,
    )


L2_OF_KIN = {"hopper": 52_428_800.0, "blackwell-ultra": 132_120_576.0}  # H100's and B200's


def _l2(gpu: Gpu) -> tuple[float, tuple[str, ...]]:
    if "l2_bytes" in gpu.figures:
        return float(gpu.figure("l2_bytes")), ()
    if gpu.architecture in L2_OF_KIN:
        size = L2_OF_KIN[gpu.architecture]
        return size, (f"an L2 of {size / 2**20:.0f} MiB, as its kin's: {gpu.name} has no figure for its size",)
    return 1.0, (f"the L2 keeps nothing from the last run: {gpu.name} has no figure for its size",)


def _sustained(gpu: Gpu) -> tuple[float, tuple[str, ...]]:
    if "sustained_tensor_fraction" in gpu.figures:
        return float(gpu.figure("sustained_tensor_fraction")), ()
    share = SUSTAINED.get(gpu.architecture, ELSEWHERE)
    return share, (f"large matrix products sustain {share:.0%} of the peak, as on its kin: {gpu.name} has no figure",)
