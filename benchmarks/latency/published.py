"""What papers print about FlashAttention, beside what the model says of the nearest kernel that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from attnmath.hardware import get
from attnmath.hardware.calibrate import run
from attnmath.hardware.constants import built_in
from attnmath.hardware.machine import machine
from attnmath.hardware.timing import Shape

FA1_TIMES = {128: 0.08e-3, 256: 0.09e-3, 512: 0.18e-3, 1024: 0.68e-3, 2048: 2.40e-3}  # arXiv:2205.14135v2, Table 18
FA1_BATCH, FA1_HEADS, FA1_DIM = 16, 8, 64


class Peak(Struct, frozen=True):
    """The highest forward rate that a paper prints, FLOP/s, and the shapes it measured: `tokens` in a batch, `hidden` wide."""

    title: str
    gpu: str
    kernel: str
    engine: str
    flop_per_s: float
    source: str
    tokens: int
    hidden: int = 2048
    widths: tuple[int, ...] = (64, 128)
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)


PEAKS = (
    Peak(
        "FlashAttention-2", "a100-sxm-80g", "flash-attention-2-dense", "vllm", 230e12,
        "Dao 2023, arXiv:2307.08691, abstract and section 4.1", 16384,
    ),
    Peak(
        "FlashAttention-3", "h100-sxm", "flash-attention-3", "vllm", 740e12,
        "Shah et al. 2024, arXiv:2407.08608, abstract", 16384, widths=(64, 128, 256),
    ),
    Peak(
        "FlashAttention-4", "b200-sxm", "flash-attention-4", "vllm", 1613e12,
        "arXiv:2603.05451, abstract", 32768, lengths=(1024, 2048, 4096, 8192, 16384, 32768),
    ),
)  # fmt: skip


def _encoder_s(gpu: str, kernel: str, engine: str, shape: Shape) -> float:
    k, _ = built_in().of(kernel, engine, "encoder")
    return float(run("encoder", engine, kernel, machine(get(gpu)), shape, k, True).time_s)


def times() -> Iterator[dict[str, Any]]:
    """FlashAttention 1's printed forward times and the model's of FlashAttention-2 on the same shapes, milliseconds.

    Not the same kernel: the first FlashAttention is not modelled; its successor's paper has it about twice as fast.
    """
    for n, printed_s in FA1_TIMES.items():
        s = Shape(
            float(FA1_BATCH), float(n), float(n), float(FA1_HEADS), float(FA1_HEADS), float(FA1_DIM), float(FA1_DIM),
            causal=False,
        )  # fmt: skip
        ours = _encoder_s("a100-sxm-40g", "flash-attention-2-dense", "vllm", s)
        yield {
            "keys": n,
            "printed, FlashAttention 1 (ms)": printed_s * 1e3,
            "estimate, FlashAttention-2 (ms)": ours * 1e3,
            "printed / estimate": printed_s / ours,
        }


def peaks() -> Iterator[dict[str, Any]]:
    """Printed peak rates and the highest rate that the model gives any of the paper's shapes, without a mask, TFLOP/s."""
    for p in PEAKS:
        rates = {}
        for d in p.widths:
            for n in p.lengths:
                h = p.hidden // d
                s = Shape(p.tokens / n, float(n), float(n), float(h), float(h), float(d), float(d), causal=False)
                rates[d, n] = 4 * p.tokens * n * p.hidden / _encoder_s(p.gpu, p.kernel, p.engine, s)
        (d, n), best = max(rates.items(), key=lambda item: item[1])
        yield {
            "kernel": p.title,
            "on": get(p.gpu).title,
            "printed (TFLOP/s)": p.flop_per_s / 1e12,
            "estimate (TFLOP/s)": best / 1e12,
            "estimate / printed": best / p.flop_per_s,
            "at": f"head width {d}, {n} tokens",
            "source": p.source,
        }
