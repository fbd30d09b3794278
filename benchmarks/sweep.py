"""How fast `sweep` is: rows a second, and the time as a ratio to reading and writing the same rows with pyarrow alone.

python benchmarks/sweep.py [--rows N] [--keep DIR]    a CSV of 100,000 rows and a Parquet file of 10,000,000, seeded
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

NAMES = {
    "variant": ["gqa", "gqa", "gqa", "mha", "mqa"],
    "phase": ["prefill", "decode"],
    "dtype": ["bf16"],
    "kv_dtype": ["bf16", "fp8"],
    "gpu": ["h100_sxm", "a100_sxm_80g", "b200_sxm", "l40s"],
    "engine": ["vllm", "sglang", "trtllm"],
}
BLOCK = 1_000_000


def shapes(rows: int, rng: np.random.Generator, kinds: bool = False) -> pa.Table:
    """Random shapes; with `kinds`, of every variant that takes them, on many accelerators."""
    names = {c: rng.integers(0, len(v), rows) for c, v in NAMES.items()}
    decodes = names["phase"] == 1
    group = 2 ** rng.integers(0, 5, rows)
    kv = 2 ** rng.integers(0, 5, rows)
    grouped = names["variant"] < 3
    columns = {
        c: pa.DictionaryArray.from_arrays(pa.array(k, pa.int32()), NAMES[c]).dictionary_decode()
        for c, k in names.items()
    }
    columns |= {
        "batch": np.where(decodes, rng.integers(1, 257, rows), rng.integers(1, 17, rows)),
        "seq": np.where(decodes, 1, rng.integers(1, 16385, rows)),
        "context": np.where(decodes, rng.integers(1, 131073, rows), 16384),
        "heads": np.where(grouped, group * kv, kv * 2),
        "kv_heads": pa.array(kv, mask=~grouped),
        "head_dim": rng.choice([64, 128], rows),
    }
    return pa.table(columns)


def write(path: Path, rows: int) -> None:
    """A table of shapes, as CSV or Parquet."""
    rng = np.random.default_rng(0)
    if path.suffix == ".csv":
        pa.csv.write_csv(shapes(rows, rng), path)
        return
    with pq.ParquetWriter(path, shapes(1, rng).schema, compression="zstd") as out:
        for _ in range(0, rows, BLOCK):
            out.write_table(shapes(min(BLOCK, rows), rng))


def plain(source: Path, target: Path) -> float:
    """Seconds to read and write the same with pyarrow alone."""
    began = time.perf_counter()
    if source.suffix == ".csv":
        pa.csv.write_csv(pa.csv.read_csv(source), target)
    else:
        file = pq.ParquetFile(source)
        with pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as out:
            for batch in file.iter_batches():
                out.write_batch(batch)
    return time.perf_counter() - began


def main() -> None:
    """Measure both and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000, help="of the Parquet file")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("csv", 100_000), ("parquet", given.rows)):
            source, target = Path(folder) / f"shapes.{name}", Path(folder) / f"out.{name}"
            write(source, rows)
            alone = plain(source, Path(folder) / f"plain.{name}")
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-m", "attnmath", "sweep", "--from", source, "-o", target], check=True)
            took = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"{name}: {rows:,} rows in {took:.2f} s, {rows / took:,.0f} rows/s, {took / alone:.1f} times reading and "
                f"writing alone ({alone:.2f} s); {busy:.2f} s of processors, {after.ru_maxrss / 2**10:,.0f} MiB at the most"
            )


if __name__ == "__main__":
    main()
