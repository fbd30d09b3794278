"""The least time that each measured operator can take, in closed form; `benchmarks/bounds.py` reads the equations for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ablation import pairs
from data import BYTES, GPUS, collective_of

from attnmath.hardware import Gpu, get
from attnmath.hardware.collectives import COLLECTIVES, IN_SWITCH, links_of
from attnmath.hardware.gemm import Product
from attnmath.hardware.timing import Shape

LATENT = 512  # values at least so wide, and narrower than keys, are part of the latent that is the key


def work(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(matmul FLOPs, exponentials, compulsory bytes) of attention rows of one mask."""
    n = {k: rows[k].to_numpy(float) for k in ("batch", "q_len", "kv_len", "num_q_heads", "num_kv_heads", "window")}
    d, dv = rows.head_dim.to_numpy(float), rows.v_head_dim.to_numpy(float)
    causal = bool((rows.phase != "encoder").all())
    shape = Shape(n["batch"], n["q_len"], n["kv_len"], n["num_q_heads"], n["num_kv_heads"], d, dv, n["window"], causal)
    scores = pairs(shape) * n["batch"] * n["num_q_heads"]
    cached = np.where((dv >= LATENT) & (d > dv), d, d + dv)
    seen = np.where(n["window"] > 0, np.minimum(n["kv_len"], n["window"] + n["q_len"] - 1), n["kv_len"])
    wide = rows.kv_dtype.astype(str).map(BYTES).to_numpy()
    moved = n["batch"] * (n["num_q_heads"] * n["q_len"] * (d + dv) * 2.0 + seen * n["num_kv_heads"] * cached * wide)
    return 2 * scores * (d + dv), scores, moved


def floor_s(rows: pd.DataFrame, gpu: Gpu) -> np.ndarray:
    """The bound of rows of one operator and phase on one accelerator, seconds; the L2 keeps what it can.

    A bound of a kernel that may compute in 8 bits is taken at that rate.
    """
    if str(rows.op.iloc[0]).startswith("nccl"):
        kind = COLLECTIVES[collective_of(str(rows.op.iloc[0]))]
        n, size = rows.num_gpus.to_numpy(float), rows.message_bytes.to_numpy(float)
        return kind.sent_bytes(n, size, links_of(gpu) in IN_SWITCH) / gpu.figure("link_bytes_per_s")
    if rows.op.iloc[0] == "gemm":
        product = Product(*(rows[x].to_numpy(float) for x in "mnk"))
        flops, exps, moved, eight = product.flops, 0.0, product.hbm_bytes, np.zeros(len(rows), bool)
    else:
        flops, exps, moved = work(rows)
        eight = ((rows.q_dtype.astype(str) == "fp8") | (rows.kv_dtype.astype(str) == "fp8")).to_numpy()
    fast = gpu.tensor_rate("fp8") if "fp8" in gpu.tensor_flop_per_s else gpu.tensor_rate("bf16")
    tensor_s = flops / np.where(eight, fast, gpu.tensor_rate("bf16"))
    missed = np.maximum(moved - gpu.figure("l2_bytes"), 0.0)
    return np.maximum(tensor_s, np.maximum(exps / (gpu.exp_rate or np.inf), missed / gpu.figure("hbm_bytes_per_s")))


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Measured time over the bound: by operator, phase and accelerator, how many, how many below, least and median."""
    found = []
    for (op, phase, gpu), rows in table.groupby(["op", "phase", "gpu"], observed=True):
        ratio = rows.latency_ms.to_numpy() / 1e3 / floor_s(rows, get(GPUS.get(gpu, gpu)))
        found.append((op, phase, GPUS.get(gpu, gpu), len(rows), int((ratio < 1).sum()), ratio.min(), np.median(ratio)))
    names = ["op", "phase", "gpu", "rows", "below", "least measured/bound", "median measured/bound"]
    return pd.DataFrame(found, columns=names)
