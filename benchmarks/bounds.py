"""Are the bounds bounds? Every measured kernel against the lower bound for its shape, from specification figures alone.

    python benchmarks/bounds.py [FOLDER]       FOLDER holds dev.parquet, by default ../shared/measured

The data are NVIDIA aiconfigurator's measurements (Apache-2.0); they stay where they are. Needs pandas and pyarrow. A measured
time below its bound would mean that a figure or a byte is wrong; the median of measured / bound says how far real kernels
stay away from it. The replays that were measured keep their operands in the L2, so the bound is taken warm.
"""

from __future__ import annotations

import sys
from pathlib import Path

from attnmath import layers
from attnmath.hardware import get
from attnmath.hardware.roofline import bound
from attnmath.keys import Reading

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "shared" / "measured"
LAYERS = {
    (full, w): layers.build("gqa", [], "full" if full else "causal", w) for full in (False, True) for w in (False, True)
}
GPUS = {"a100_sxm": "a100-sxm-80g", "h100_sxm": "h100-sxm", "b200_sxm": "b200-sxm", "l40s": "l40s"}


def work(row) -> tuple[int, int, int]:
    """(matmul FLOPs, exponentials, compulsory bytes) of one measured row, read off the equations."""
    layer = LAYERS[row.phase == "encoder", row.window > 0]
    given = {"b": row.batch, "t": row.q_len, "n": row.kv_len, "h": row.num_q_heads, "g": row.num_kv_heads}
    given |= {"d": row.head_dim, "e": row.v_head_dim, "w": row.window or 1}
    sizes, _ = layer.sizes({k: int(v) for k, v in given.items()})
    r = Reading(layer.form(), sizes, "bf16", str(row.kv_dtype))
    return r.flops.matmul, r.exps, r.core.compulsory


def main() -> None:
    if not (FOLDER / "dev.parquet").exists():
        print(f"skipped: no measurements at hand ({FOLDER / 'dev.parquet'})")
        return
    import pandas as pd

    table = pd.read_parquet(FOLDER / "dev.parquet")
    rows = table[table.op.isin(["attention", "encoder_attention"]) & (table.q_dtype == "bf16")]
    found = []
    for row in rows.itertuples():
        gpu = get(GPUS.get(str(row.gpu), str(row.gpu)))
        warm = "l2_bytes" in gpu.figures
        b = bound(gpu, "bf16", *work(row), l2_warm=warm)
        found.append(
            (
                row.gpu,
                row.phase,
                row.window > 0,
                row.kv_dtype,
                b.binds,
                row.latency_ms / 1e3 / b.time_s if b.time_s else float("inf"),
            )
        )
    out = pd.DataFrame(found, columns=["gpu", "phase", "windowed", "kv", "binds", "ratio"])
    print(out.groupby(["gpu", "phase", "binds"]).ratio.describe(percentiles=[0.5]).round(2).to_string())
    low = out[out.ratio < 1]
    print(f"\n{len(out)} kernels; below their bound: {len(low)}; median measured / bound {out.ratio.median():.2f}")
    if len(low):
        print(low.sort_values("ratio").head(20).to_string())


if __name__ == "__main__":
    main()
