"""Measured kernels as the time model's cases. The data are NVIDIA aiconfigurator's (Apache-2.0); they stay where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from attnmath.hardware import get
from attnmath.hardware.calibrate import Case
from attnmath.hardware.collectives import links_of
from attnmath.hardware.gemm import Product
from attnmath.hardware.kernels import kernel_of, library_of
from attnmath.hardware.machine import machine
from attnmath.hardware.timing import Shape

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "measured"
GPUS = {"a100_sxm": "a100-sxm-80g", "h100_sxm": "h100-sxm", "b200_sxm": "b200-sxm", "l40s": "l40s"}
PHASES = {
    ("attention", "prefill"): "prefill",
    ("attention", "decode"): "decode",
    ("encoder_attention", "encoder"): "encoder",
    ("mla", "prefill"): "mla_prefill",
    ("mla", "decode"): "mla_decode",
    ("gemm", "gemm"): "gemm",
    ("nccl_all_reduce", "comm"): "collective",
    ("nccl_all_gather", "comm"): "collective",
    ("nccl_reduce_scatter", "comm"): "collective",
    ("nccl_alltoall", "comm"): "collective",
}
BYTES = {"bf16": 2.0, "fp8": 1.0}


def table(folder: Path = FOLDER) -> pd.DataFrame:
    """Every measured row."""
    return pd.read_parquet(folder / "dev.parquet")


def cases(rows: pd.DataFrame) -> list[tuple[Case, np.ndarray]]:
    """(case, the ids of its rows) for every attention row whose kernel is modelled."""
    keys = ["op", "phase", "gpu", "engine", "q_dtype", "kv_dtype"]
    out = []
    rows = rows[~rows.kernel_source.astype(str).str.contains("triton")]
    for (op, phase, gpu, engine, q, kv), part in rows.groupby(keys, observed=True, dropna=False):
        if (op, phase) not in PHASES:
            continue
        if phase == "comm":
            out += _collective(collective_of(op), GPUS.get(gpu, gpu), part)
            continue
        if op == "gemm":
            out += _gemm(GPUS.get(gpu, gpu.replace("_", "-")), part)
            continue
        for odd, group in part.groupby((part.head_dim % 16 > 0) & (engine == "trtllm")):
            out += _case(
                PHASES[op, phase], GPUS.get(gpu, gpu.replace("_", "-")), engine, q, kv, 8 if odd else 16, group
            )
    return out


def _case(phase, gpu, engine, q, kv, width, part):
    g = get(gpu)
    kernel = kernel_of(engine, phase, g.architecture, BYTES[kv], width)
    n = {k: part[k].to_numpy(float) for k in ("batch", "q_len", "kv_len", "num_q_heads", "num_kv_heads", "window")}
    d, dv = part.head_dim.to_numpy(float), part.v_head_dim.to_numpy(float)
    shape = Shape(
        n["batch"],
        n["q_len"],
        n["kv_len"],
        n["num_q_heads"],
        n["num_kv_heads"],
        d,
        dv,
        n["window"],
        phase != "encoder",
        BYTES[q],
        BYTES[kv],
        bool((d > dv).all() and (dv >= 512).all()),
    )
    case = Case(phase, gpu, engine, kernel, machine(g, q), shape, part.latency_ms.to_numpy() / 1e3)
    return [(case, part.id.to_numpy())]


def _gemm(gpu, part):
    g = get(gpu)
    shape = Product(*(part[x].to_numpy(float) for x in "mnk"))
    return [_plain("gemm", gpu, library_of(g.architecture), machine(g), shape, part)]


def collective_of(op: str) -> str:
    """The name of a collective that the data name after NCCL's test.

    >>> collective_of("nccl_alltoall")
    'all_to_all'
    """
    return op.removeprefix("nccl_").replace("alltoall", "all_to_all")


def _collective(name, gpu, part):
    g = get(gpu)
    sizes = (part[x].to_numpy(float) for x in ("num_gpus", "message_bytes"))
    return [_plain("collective", gpu, links_of(g), machine(g), (name, *sizes, g.figure("link_bytes_per_s")), part)]


def _plain(phase, gpu, kernel, rates, shape, part):
    return Case(phase, gpu, "", kernel, rates, shape, part.latency_ms.to_numpy() / 1e3), part.id.to_numpy()
