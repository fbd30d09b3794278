"""`sweep`: every row is what `cost` and the time model say of it alone; order, types, faults, and nothing half-written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import attnmath as am
from attnmath import hardware, variants
from attnmath.errors import AttnmathError, InputError
from attnmath.hardware import estimates
from attnmath.hardware.collectives import collective
from attnmath.hardware.constants import built_in
from attnmath.hardware.gemm import Product, gemm
from attnmath.hardware.kernels import KERNELS
from attnmath.hardware.machine import machine
from attnmath.request import PHASES, TRAIN
from attnmath.sweeping import counting, rows, sweep, tables
from attnmath.sweeping.columns import ADDED, COLUMNS
from attnmath.sweeping.tables import Grid, Table
from attnmath.verifying.cases import MODIFIERS, maskable

GPUS = ["h100-sxm", "a100_sxm_80g", "b200-sxm", "l40s", "mi300x", "t4", None]
MASKS = [
    "full",
    "causal-top-left",
    "prefix:512",
    "chunked:64",
    "causal & dilated(3)",
    "window:100 | first:4",
    "window(t)",
    "around:3",
]
EXACTLY = 2**53


def random_row(rng: random.Random) -> dict:
    """A row of a table over the registry: every variant, with what it has use for, some of it left out; not all are valid."""
    variant = rng.choice(variants.names())
    own = variants.get(variant).options
    sizes = {
        "batch": rng.choice([1, 3, 64]),
        "seq": rng.choice([1, 64, 100, 4096, 2**20]),
        "context": rng.choice([64, 4096, 2**21]),
        "heads": rng.choice([8, 12, 24, 32]),
        "kv_heads": rng.choice([1, 4, 8]),
        "head_dim": rng.choice([64, 80, 128]),
        "v_head_dim": rng.choice([64, 128]),
        "window": rng.choice([0, 1, 100, 4096]),
        "kv_rank": rng.choice([64, 512]),
        "rope_dim": rng.choice([32, 64]),
        "block_size": rng.choice([16, 64]),
        "top_k": rng.choice([4, 16]),
        "d_model": rng.choice([512, 4096]),
        "layer": rng.choice([0, 3, 31]),
        "conv_width": rng.choice([3, 4]),
    }
    often = {"batch": 0.7, "seq": 1, "heads": 1, "context": 0.3, "kv_heads": 0.7, "window": 0.3}
    row = {
        k: v
        for k, v in sizes.items()
        if rng.random() < often.get(k, 0.3) and (k.replace("_", "-") in own or k == "window")
    }
    if variant == "sliding-window":
        row.setdefault("window", 512)
    row |= {"variant": variant, "phase": rng.choice((*PHASES, TRAIN)), "gpu": rng.choice(GPUS)}
    if rng.random() < 0.3:
        row["with"] = " ".join(rng.choice(MODIFIERS.get(variant, ((),))))
    if rng.random() < 0.3 and maskable(variant):
        row["mask"] = rng.choice(MASKS)
    if rng.random() < 0.3:
        row["dtype"] = rng.choice(["bf16", "fp16", "fp8"])
    if rng.random() < 0.3:
        row["kv_dtype"] = rng.choice(["bf16", "fp8", "q8_0", "int4/48", "int4"])
    if rng.random() < 0.7 and row["gpu"]:
        row["engine"] = rng.choice(estimates.engines())
    if rng.random() < 0.3 and row["gpu"]:
        row["l2"] = "warm"
    if rng.random() < 0.2 and len(variants.get(variant).forms) > 1:
        row["form"] = rng.choice(list(variants.get(variant).forms))
    return {k: v for k, v in row.items() if v not in (None, "")}


def expected(row: dict) -> dict:
    """What `cost` says of one row, alone."""
    row = {k: v for k, v in row.items() if not (k == "window" and v == 0)}
    modifiers = row.pop("with", "").split()
    if row.get("phase") == TRAIN:  # `cost` refuses an engine there; a table names it for its other rows
        row = {k: v for k, v in row.items() if k != "engine"}
    c = am.cost(row.pop("variant", "gqa"), modifiers=modifiers, formulas=False, **row)
    made = c.estimate
    said = c.time_note if row.get("gpu") else c.refused.get("hbm_bytes.compulsory", "")
    return {
        "flops": c.flops.core,
        "hbm_bytes": c.hbm_bytes.compulsory,
        "time_bound_s": c.time_bound_s.fused,
        "time_s": c.time_s,
        "kernel_time_s": made.kernel_time_s if made else None,
        "launch_time_s": made.launch_time_s if made else None,
        "bound": c.bound,
        "engine_kernel": made.kernels[0] if made else None,
        "note": said.replace(":\n  ", ": ").replace("\n  ", "; ").replace(",", ";") or None,
    }


def judged(want: dict, got: dict) -> list[str]:
    """In which columns a row is not what it should be: integers and names exactly, seconds to 1e-12."""
    wrong = []
    for k, v in want.items():
        same = got[k] == v or (isinstance(v, float) and got[k] is not None and math.isclose(v, got[k], rel_tol=1e-12))
        wrong += [] if same else [f"{k}: {got[k]!r} instead of {v!r}"]
    return wrong


def table(records: list[dict]) -> pa.Table:
    names = dict.fromkeys(k for r in records for k in r)
    return pa.table({n: pa.array([r.get(n) for r in records]) for n in names})


def swept(records: list[dict], tmp_path: Path, **options: str) -> list[dict]:
    """The rows of a Parquet file, swept into another one."""
    pq.write_table(table(records), tmp_path / "in.parquet")
    with open(tmp_path / "out.parquet", "wb+") as file:
        sweep(Table(str(tmp_path / "in.parquet")), file, "parquet", options)
    return pq.read_table(tmp_path / "out.parquet").to_pylist()


def drawn(count: int, seed: int) -> tuple[list[dict], list[dict], list[tuple[dict, str]]]:
    """(rows that `cost` takes, what it says of them, rows that it refuses with why)."""
    rng = random.Random(seed)
    good, wants, bad = [], [], []
    for _ in range(count):
        row = random_row(rng)
        try:
            want = expected(row)
        except AttnmathError as error:
            bad.append((row, str(error)))
            continue
        good.append(row)
        wants.append(want)
    return good, wants, bad


def test_every_row_is_what_cost_says(tmp_path):
    good, wants, bad = drawn(int(os.environ.get("ATTNMATH_ROWS", "600")), 1)
    assert len(good) > 200
    assert len({r["variant"] for r in good}) == len(variants.names())
    got = swept(good, tmp_path)
    wrong = [(row, w) for row, want, g in zip(good, wants, got) if (w := judged(want, g))]
    assert not wrong, "\n".join(map(str, wrong[:5]))
    assert any(w["flops"] > EXACTLY for w in wants)
    assert {w["engine_kernel"] for w in wants} >= {None, "flash-attention-2", "flash-attention-3", "trtllm-gen"}
    for row, g in zip(good, got):
        assert {k: g[k] for k in row} == row, "the table's own columns are kept, in their order"
        assert (g["note"] is None) == (g["time_s"] is not None or "gpu" not in row) or not row.get("gpu")
    for row, why in bad[:40]:
        with pytest.raises(InputError) as refused:
            swept([row], tmp_path)
        assert rows.in_columns(why).split("\n")[0][:25] in str(refused.value)


def test_this_judge_notices_faults(tmp_path, monkeypatch):
    """Counts, order, forms and kernels, each broken on purpose."""
    good, wants, _ = drawn(150, 2)
    blocks = [{"variant": "moba", "seq": 4096, "heads": 8, "block_size": i} for i in (64, 128, 512)]
    good, wants = [*good, *blocks], [*wants, *map(expected, blocks)]

    def caught() -> bool:
        return any(judged(w, g) for w, g in zip(wants, swept(good, tmp_path)))

    assert not caught()
    for where, name, fault in (
        (counting, "_best", lambda weights: len(weights) - 1),
        (counting, "walked", lambda kind: ()),
        (rows, "groups", lambda keys, r: iter([r])),
        (rows, "_recount", lambda *a: None),
        (rows, "_rates", lambda parts: parts[0][1].rates),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(where, name, fault)
            try:
                noticed = caught()
            except Exception:
                noticed = True
            assert noticed, name


def test_integers_beyond_float64(tmp_path):
    """Exact above 2^53, above 2^63, and where only what lies on the way is large."""
    records = [
        {"variant": "gqa", "seq": 2**20 + 1, "heads": 128, "batch": 7},
        {"variant": "gqa", "seq": 2**26 + 1, "heads": 128, "batch": 7},
        {"variant": "gqa", "seq": 1, "context": 3 * 10**8 + 1, "heads": 8},
        {"variant": "mla", "seq": 10**6 + 7, "heads": 128},
        {"variant": "kda", "seq": 64 * 10**9, "heads": 128},
    ]
    wants = [expected(r) for r in records]
    assert wants[1]["flops"] > 2**63
    assert wants[2]["flops"] < EXACTLY
    assert [judged(w, g) for w, g in zip([wants[0], *wants[2:]], swept([records[0], *records[2:]], tmp_path))] == [
        []
    ] * 4
    wide = swept(records, tmp_path)
    assert wide[1]["flops"] == float(wants[1]["flops"]), "one beyond int64 makes the column float64"
    pa.csv.write_csv(table(records), tmp_path / "in.csv")
    out = io.BytesIO()
    sweep(Table(str(tmp_path / "in.csv")), out, "csv")
    read = list(csv.DictReader(io.StringIO(out.getvalue().decode())))
    assert [int(r["flops"]) for r in read] == [w["flops"] for w in wants]
    assert [int(r["hbm_bytes"]) for r in read] == [w["hbm_bytes"] for w in wants]


def test_sizes_beyond_float64(call):
    big = 2**53 + 1
    Path("a.csv").write_text(f"seq,context,heads,variant\n1,{big},8,gqa\n1,{10**25},8,gqa\n")
    code, out, err = call("sweep --from a.csv")
    assert code == 0, err
    got = [int(r["flops"]) for r in csv.DictReader(io.StringIO(out))]
    assert got == [am.cost("gqa", seq=1, context=n, heads=8).flops.core for n in (big, 10**25)]


# -- what the columns mean


def test_what_is_missing_takes_cost_s_default(call):
    Path("a.csv").write_text("seq,heads\n8192,32\n")
    code, out, _ = call("sweep --from a.csv")
    assert code == 0
    (row,) = csv.DictReader(io.StringIO(out))
    c = am.cost("gqa", seq=8192, heads=32)
    assert (row["flops"], row["hbm_bytes"]) == (str(c.flops.core), str(c.hbm_bytes.compulsory))
    assert row["time_bound_s"] == row["time_s"] == row["bound"] == ""
    assert list(row) == ["seq", "heads", *ADDED]


def test_an_option_stands_in_for_what_is_empty(call):
    Path("a.csv").write_text("seq,heads,gpu,phase\n8k,32,,\n8k,32,h100_sxm,decode\n")
    code, out, _ = call("sweep --from a.csv --gpu l40s --engine sglang --phase prefill --kv-heads 8 --l2 warm")
    assert code == 0
    got = list(csv.DictReader(io.StringIO(out)))
    for row, gpu, phase in zip(got, ("l40s", "h100-sxm"), ("prefill", "decode")):
        want = expected(
            {"seq": 8192, "heads": 32, "kv_heads": 8, "gpu": gpu, "phase": phase, "engine": "sglang", "l2": "warm"}
        )
        assert float(row["time_s"]) == pytest.approx(want["time_s"], rel=1e-12)
        assert row["engine_kernel"] == want["engine_kernel"]


def test_decode_is_one_new_token_against_seq(tmp_path):
    a, b = swept(
        [{"seq": 8192, "heads": 32, "phase": "decode"}, {"seq": 1, "context": 8192, "heads": 32, "phase": "decode"}],
        tmp_path,
    )
    assert a["flops"] == b["flops"] == am.cost("gqa", seq=8192, heads=32, phase="decode").flops.core


def test_latent_attention_as_its_kernels_see_it(tmp_path):
    base = {"op": "mla", "gpu": "h100-sxm", "engine": "sglang"}
    got = swept(
        [
            base
            | {
                "phase": "decode",
                "seq": 1,
                "context": 4096,
                "heads": 128,
                "kv_heads": 1,
                "head_dim": 576,
                "v_head_dim": 512,
            },
            base | {"phase": "prefill", "seq": 4096, "heads": 16, "kv_heads": 16, "head_dim": 192, "v_head_dim": 128},
            base | {"phase": "prefill", "seq": 4096, "heads": 1, "kv_heads": 1, "head_dim": 192, "v_head_dim": 128},
            base | {"phase": "prefill", "seq": 4096, "heads": 16, "kv_rank": 256},
            base | {"phase": "prefill", "seq": 4096, "heads": 1, "kv_heads": 1, "head_dim": 576, "v_head_dim": 512},
        ],
        tmp_path,
    )
    row = {"gpu": "h100-sxm", "engine": "sglang"}
    wants = [
        expected(
            row | {"variant": "mla", "form": "absorbed", "phase": "decode", "seq": 1, "context": 4096, "heads": 128}
        ),
        expected(row | {"seq": 4096, "heads": 16, "kv_heads": 16, "head_dim": 192, "v_head_dim": 128}),
        expected(row | {"seq": 4096, "heads": 1, "kv_heads": 1, "head_dim": 192, "v_head_dim": 128}),
        expected(row | {"variant": "mla", "seq": 4096, "heads": 16, "kv_rank": 256}),
        expected(row | {"variant": "mla", "form": "absorbed", "seq": 4096, "heads": 1}),
    ]
    assert [judged(w, g) for w, g in zip(wants, got)] == [[]] * 5
    assert got[0]["engine_kernel"] == "flash-attention-3-latent"


def test_training_is_counted_and_says_what_it_has_not(tmp_path):
    """Operations, bytes and a bound of both passes as in `cost`; no estimate, of a recursion no bytes, and why."""
    gpu = "h100-sxm"
    rows_ = [
        {"seq": 1024, "heads": 8, "variant": v, "phase": "train", "schedule": s, "gpu": g}
        for v, s in (("gqa", None), ("gqa", "unfused"), ("kda", None))
        for g in (gpu, None)
    ]
    for row, got in zip(rows_, swept(rows_, tmp_path)):
        schedule = {"schedule": row["schedule"]} if row["schedule"] else {}
        want = am.cost(row["variant"], seq=1024, heads=8, phase="train", gpu=row["gpu"], **schedule)
        assert got["flops"] == want.flops.core
        assert got["hbm_bytes"] == want.hbm_bytes.compulsory
        assert got["time_bound_s"] == want.time_bound_s.fused
        assert (got["time_s"], got["kernel_time_s"], got["launch_time_s"], got["engine_kernel"]) == (None,) * 4
        reason = want.time_note if row["gpu"] else want.refused.get("hbm_bytes.compulsory", "")
        assert (got["note"] or "").replace(";", ",") == reason.replace(";", ",")
    fused, _, unfused, *_ = swept(rows_, tmp_path)
    assert fused["flops"] > unfused["flops"], "a fused kernel makes its weights again"


def test_an_encoder_sees_everything(tmp_path):
    (got,) = swept(
        [
            {
                "phase": "encoder",
                "seq": 1024,
                "heads": 16,
                "kv_heads": 16,
                "head_dim": 72,
                "gpu": "b200-sxm",
                "engine": "trtllm",
            }
        ],
        tmp_path,
    )
    want = expected(
        {
            "mask": "full",
            "seq": 1024,
            "heads": 16,
            "kv_heads": 16,
            "head_dim": 72,
            "gpu": "b200-sxm",
            "engine": "trtllm",
        }
    )
    assert judged(want, got) == []
    assert got["engine_kernel"] == "fmha-v2-mma"


def test_matrix_products_and_collectives(tmp_path):
    """The time model's own functions, called for each row with plain numbers."""
    gpu = hardware.get("h100-sxm")
    products = [
        {"op": "gemm", "m": m, "n": n, "k": k, "gpu": "h100-sxm", "l2": l2}
        for m, n, k, l2 in ((4096, 8192, 1024, "cold"), (7, 64, 16, "warm"), (1, 65536, 8192, "cold"))
    ]
    collectives = [
        {"op": "all_reduce", "num_gpus": n, "message_bytes": b, "gpu": "h100-sxm"} for n, b in ((8, 2**28), (2, 8))
    ]
    rest = [
        {"op": "gemm", "m": 2**20, "n": 2**20, "k": 2**20 + 1},
        {"op": "all_reduce", "num_gpus": 8, "message_bytes": 2**20, "gpu": "mi300x"},
    ]
    got = swept([*products, *collectives, *rest], tmp_path)
    constants, _ = built_in().of("cublas-async", "", "gemm")
    for row, g in zip(products, got):
        m, n, k = (row[x] for x in ("m", "n", "k"))
        assert (g["flops"], g["hbm_bytes"]) == (2 * m * n * k, 2 * (m * k + k * n + m * n))
        moved = max(0, g["hbm_bytes"] - 50 * 2**20) if row["l2"] == "warm" else g["hbm_bytes"]
        least = max(g["flops"] / gpu.tensor_rate("bf16"), moved / gpu.figure("hbm_bytes_per_s"))
        alone = gemm(Product(float(m), float(n), float(k)), machine(gpu), constants, row["l2"] == "warm")
        assert g["time_bound_s"] == pytest.approx(least, rel=1e-12)
        assert g["time_s"] == pytest.approx(max(alone.time_s, least), rel=1e-12)
        assert g["kernel_time_s"] + g["launch_time_s"] == pytest.approx(g["time_s"], rel=1e-12)
        assert g["engine_kernel"] == "cublas-async"
    assert [g["bound"] for g in got[:3]] == ["tensor", "launch", "hbm"]
    constants, _ = built_in().of("nccl-nvlink-4", "", "collective")
    rate = gpu.figure("link_bytes_per_s")
    for row, g in zip(collectives, got[3:]):
        n, b = row["num_gpus"], row["message_bytes"]
        alone, launch = collective("all_reduce", "nccl-nvlink-4", float(n), float(b), rate, constants)
        assert (g["flops"], g["hbm_bytes"]) == (0, None)
        assert (g["time_s"], g["launch_time_s"]) == (pytest.approx(alone, rel=1e-12), pytest.approx(launch, rel=1e-12))
        assert g["time_bound_s"] == pytest.approx(b * min(2 * (n - 1) / n, 1 + 1 / n) / rate, rel=1e-12)
    assert [g["bound"] for g in got[3:5]] == ["link", "launch"]
    assert got[5]["flops"] == 2 * 2**40 * (2**20 + 1)
    assert got[6]["time_s"] is None
    assert "collectives over" in got[6]["note"]


# -- order, blocks, files


def test_order_is_kept_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", 7)
    rng = random.Random(3)
    records = [
        {
            "id": i,
            "seq": rng.randint(1, 9999),
            "heads": 8,
            "variant": rng.choice(["gqa", "mha", "mqa"]),
            "gpu": rng.choice(["h100-sxm", "l40s"]),
        }
        for i in range(100)
    ]
    got = swept(records, tmp_path)
    assert [g["id"] for g in got] == list(range(100))
    assert all(judged(expected({k: v for k, v in r.items() if k != "id"}), g) == [] for r, g in zip(records, got))


def test_the_table_is_kept(call):
    text = 'id,seq,note of mine,heads\n007,8k,"a, ""b""",32\n,1024.0,é,16\n'
    Path("a.csv").write_text(text)
    code, out, _ = call("sweep --from a.csv -o b.csv")
    assert (code, out) == (0, "")
    got = list(csv.DictReader(io.StringIO(Path("b.csv").read_text())))
    assert [(r["id"], r["seq"], r["note of mine"], r["heads"]) for r in got] == [
        ("007", "8k", 'a, "b"', "32"),
        ("", "1024.0", "é", "16"),
    ]
    assert call("sweep --from a.csv -o b.parquet")[0] == 0
    kept = pq.read_table("b.parquet")
    assert kept.schema.field("seq").type == pa.int64()
    assert kept.column("seq").to_pylist() == [8192, 1024]
    assert call("sweep --from b.parquet -o c.csv")[0] == 2, "the columns that are added stand there already"


def test_numbers_however_they_are_stored(tmp_path):
    import decimal

    n = 8192
    want = am.cost("gqa", seq=n, heads=32).flops.core
    stored = [
        pa.array([n], pa.int16()),
        pa.array([n], pa.uint64()),
        pa.array([float(n)], pa.float32()),
        pa.array([decimal.Decimal(n)], pa.decimal128(12, 2)),
        pa.array(["8192"], pa.large_string()),
        pa.array(["8k"]),
        pa.array([n]).dictionary_encode(),
        pa.array(["8k"]).dictionary_encode(),
    ]
    for column in stored:
        pq.write_table(
            pa.table({"seq": column, "heads": [32], "variant": pa.array(["gqa"]).dictionary_encode()}),
            tmp_path / "a.parquet",
        )
        out = io.BytesIO()
        sweep(Table(str(tmp_path / "a.parquet")), out, "parquet")
        assert pq.read_table(out).column("flops").to_pylist() == [want], column.type


def test_a_grid_needs_no_file(call):
    code, out, _ = call("sweep --seq 1k,2k --batch 1,8 --heads 32 --variant gqa,mla --gpu h100-sxm,a100-sxm-80g")
    assert code == 0
    got = list(csv.DictReader(io.StringIO(out)))
    assert len(got) == 16
    assert [r["seq"] for r in got[:9]] == ["1k"] * 8 + ["2k"] or {r["seq"] for r in got} == {"1k", "2k"}
    assert len({(r["seq"], r["batch"], r["variant"], r["gpu"]) for r in got}) == 16
    for r in got:
        want = am.cost(r["variant"], seq=int(r["seq"][0]) * 1024, batch=int(r["batch"]), heads=32).flops.core
        assert int(r["flops"]) == want


def test_every_accelerator_and_engine_has_an_estimate_or_says_why_not():
    gpus = [g for g in hardware.names() if "fp16" in hardware.get(g).tensor_flop_per_s]
    lists = {
        "gpu": gpus,
        "engine": estimates.engines(),
        "phase": ["prefill", "decode", "encoder"],
        "kv_dtype": ["fp16", "fp8"],
    }
    out = io.BytesIO()
    sweep(Grid(lists | {"op": ["mla", "attention"]}), out, "csv", {"seq": "1k", "heads": "32", "dtype": "fp16"})
    got = list(csv.DictReader(io.StringIO(out.getvalue().decode())))
    assert len(got) > 30 * 4 * 3 * 2 * 2
    for r in got:
        assert bool(r["time_s"]) != bool(r["note"]), r
        assert not r["time_s"] or float(r["time_s"]) >= float(r["time_bound_s"]) > 0
    assert {r["engine_kernel"] for r in got} >= set(KERNELS) - {"flash-attention-2-dense"} - {""}


def test_a_grid_may_name_files(call):
    Path("mine.toml").write_text(
        '[mine]\nhbm_bytes_per_s = { value = 1e12, source = "my datasheet" }\n'
        '[mine.tensor_flop_per_s]\nbf16 = { value = 1e14, source = "my datasheet" }\n'
    )
    code, out, _ = call("sweep --seq 8k --heads 32 --gpu mine.toml,h100-sxm")
    assert code == 0
    mine, other = csv.DictReader(io.StringIO(out))
    assert float(mine["time_bound_s"]) == am.cost("gqa", seq=8192, heads=32, gpu="mine.toml").time_bound_s.fused
    assert (mine["time_s"], mine["note"][:19]) == ("", "6 errors: mine has ")
    assert other["note"] == ""


def test_a_byte_order_mark_and_quoted_lines(call):
    Path("a.csv").write_bytes(b'\xef\xbb\xbfseq,heads,"my\nnote"\r\n8,8,"a\nb"\r\n\r\n16,8,c\r\n')
    code, out, _ = call(["sweep", "--from", "a.csv"])
    assert code == 0
    got = list(csv.DictReader(io.StringIO(out)))
    assert [(r["seq"], r["my\nnote"]) for r in got] == [("8", "a\nb"), ("16", "c")]
    Path("a.csv").write_bytes(b'seq,heads,"my\nnote"\n8,8,"a\nb"\n8,x,c\n')
    assert "line 5, column heads: 'x' is no whole number" in call("sweep --from a.csv")[2]


def test_a_table_of_no_rows_has_none_either(call):
    Path("a.csv").write_text("seq,heads\n")
    code, out, _ = call("sweep --from a.csv")
    assert (code, out.splitlines()) == (0, [",".join(["seq", "heads", *ADDED])])


# -- what is refused

BAD = [
    ("seq,heads,kv_heads\n8k,32,8\n8k,32,5\n", ["line 3: heads 32, kv_heads 5: 32 is not divisible by 5"]),
    ("seq,heads\n8k,32\n\n8k,0\n", ["line 4, column heads: 0 is no size: at least 1"]),
    (
        "seq,heads\n-1,32\n1.5,32\nnan,32\n1e400,8\n",
        ["line 2, column seq: -1 is no size", "line 3", "line 4", "line 5"],
    ),
    ("seq,context,heads\n8,4,32\n", ["line 2: context 4 is less than seq 8"]),
    (
        "seq,heads,variant\n8,8,gqaa\n8,8,mla\n8,8,gqaa\n",
        ["line 2 and 1 more like it, column variant: unknown variant 'gqaa': did you mean 'gqa'"],
    ),
    ("seq,heads,gpu\n8,8,h100_smx\n", ["line 2, column gpu: unknown GPU 'h100_smx': did you mean 'h100-sxm'"]),
    ("seq,heads,gpu\n8,8,a100-sx\n", ["did you mean 'a100-sxm-"]),
    ("seq,heads,gpu\n8,8,../mine.toml#x\n", ["a table names what is built in; a file is given by --gpu"]),
    ("seq,heads,variant\n8,8,/etc/x.attn\n", ["a table names what is built in; a file is given by --variant"]),
    ("seq,heads,engine\n8,8,vlm\n", ["column engine: unknown engine 'vlm': did you mean 'vllm'"]),
    ("seq,heads,mask\n8,8,causl\n", ["column mask: ", "did you mean 'causal'"]),
    ("seq,heads,phase\n8,8,trian\n", ["column phase: unknown phase 'trian': did you mean 'train'"]),
    ("seq,heads,phase,kv_dtype\n8,8,train,fp8\n", ["line 2: kv_dtype: of no use with phase train"]),
    ("seq,heads,phase,schedule\n8,8,train,split-kv\n", ["line 2", "split-kv has no backward pass here"]),
    ("seq,heads,schedule\n8,8,nhij\n", ["column schedule: ", "nhij"]),
    ("seq,heads,kv_heads,variant\n8,8,8,mha\n", ["line 2: kv_heads has no use for mha"]),
    ("seq,heads,engine\n8,8,vllm\n", ["line 2, column engine: it has a use only with a gpu"]),
    ("seq,heads,l2\n8,8,warm\n", ["line 2, column l2: warm has a use only with a gpu"]),
    ("seq,heads,gpu,dtype\n8,8,v100-sxm-32g,bf16\n", ["v100-sxm-32g has no tensor_flop_per_s.bf16"]),
    ("heads\n8\n", ["line 2: missing: seq (new query tokens"]),
    ("op,m,n\ngemm,8,8\n", ["line 2: missing: k"]),
    ("seq,seq,heads\n8,8,8\n", ["column seq stands twice"]),
    ("kv-heads,kv_heads,seq\n8,8,8\n", ["are one"]),
    ("seq,heads,flops\n8,8,8\n", ["flops: the sweep adds such a column"]),
    ("seq,heads\n8,8,8\n", ["no readable CSV"]),
    ("seq;heads\n8;8\n", ["columns are separated by commas, not by ';'"]),
    ("seq,heads\n8,8\xff\n".encode("latin-1"), ["no readable CSV: 'utf-8' codec"]),
    ("seq,heads,with\n8,8,rope\n8,8,rope:layout=x\n", ["line 3: rope:layout=x: unknown layout", "half, interleaved"]),
    (
        "seq,heads,schedule,variant\n8,8,flash-2,mamba2\n",
        ["no schedule here walks both"],
    ),
    ("seq,heads,context,mask\n8,8,8,documents:3+4\n", ["line 2"]),
    ("seq,heads,kv_dtype,head_dim\n8,1,q8_0,100\n", ["line 2: kv_dtype q8_0 stores blocks of 32 numbers"]),
    (
        "seq,heads,with,window,variant\n8,8,window:w=4,8,gqa\n",
        ["line 2: window 8 and a modifier's w = 4 contradict each other"],
    ),
    ("", ["the file is empty"]),
    ("\n\n", ["the file is empty"]),
    ("seq,heads,x\n8,8," + "a" * 2**24 + "\n", ["no readable CSV"]),
    ("seq,heads,variant,head_dim,v_head_dim,kv_heads,op\n8,8,,64,64,,mlaa\n", ["column op: unknown op 'mlaa'"]),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[b[1][0][:40] for b in BAD])
def test_a_bad_row_is_named_and_nothing_is_written(text, said, call):
    Path("a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    for target in ("out.csv", "out.parquet"):
        code, out, err = call(f"sweep --from a.csv -o {target}")
        assert (code, out) == (2, "")
        for words in said:
            assert words in err
        assert "internal" not in err
        assert os.listdir() == ["a.csv"], "nothing is left behind"
    assert call("sweep --from a.csv")[:2] == (2, "")


def test_all_bad_rows_at_once_up_to_fifty(call):
    Path("a.csv").write_text("seq,heads,kv_heads\n" + "".join(f"8,{n},{n + 1}\n" for n in range(2, 300)))
    code, _, err = call("sweep --from a.csv")
    assert code == 2
    assert "50 or more errors" in err
    assert "line 2: heads 2, kv_heads 3: 2 is not divisible by 3" in err


@pytest.mark.parametrize(
    "line",
    [
        "sweep",
        "sweep --from nothing.csv",
        "sweep --from a.txt",
        "sweep --from . -o b.csv",
        "sweep --from a.csv -o b.txt",
        "sweep --from a.csv -o a.csv",
        "sweep --from a.csv --seq 1k,2k",
        "sweep --from a.csv --variant gqaa",
        "sweep --from a.csv --heads 0",
        "sweep --seq 1k,,2k --heads 8",
        "sweep --from junk.parquet",
        "sweep --from nested.parquet",
        "sweep --from typed.parquet",
        "sweep --seq 1,2,3,4,5,6,7,8,9,10 --batch 1,2,3,4,5,6,7,8,9,10 --heads 1,2,3,4,5,6,7,8,9,10 --context "
        + ",".join(map(str, range(1, 10_102))),
    ],
)
def test_what_cannot_be_read_or_written_is_refused(line, call):
    Path("a.csv").write_text("seq,heads\n8,8\n")
    Path("junk.parquet").write_bytes(b"PAR1junkPAR1")
    pq.write_table(pa.table({"seq": [[1, 2]], "heads": [8]}), "nested.parquet")
    pq.write_table(pa.table({"seq": [True], "heads": [8]}), "typed.parquet")
    before = sorted(os.listdir())
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert err.startswith("attnmath: ")
    assert "internal" not in err
    assert sorted(os.listdir()) == before


def test_a_column_that_looks_like_another_is_said(call):
    Path("a.csv").write_text("seq,heads,head_dims,colour\n8,8,64,red\n")
    code, _, err = call("sweep --from a.csv")
    assert code == 0
    assert "column head_dims is kept and not read; head_dim would be" in err
    assert "colour" not in err


def test_an_existing_file_is_kept_unless_forced(call):
    Path("a.csv").write_text("seq,heads\n8,8\n")
    Path("b.csv").write_text("mine")
    assert call("sweep --from a.csv -o b.csv")[0] == 2
    assert Path("b.csv").read_text() == "mine"
    assert call("sweep --from a.csv -o b.csv --force")[0] == 0
    assert "flops" in Path("b.csv").read_text()


def test_a_bar_only_on_a_terminal(call, monkeypatch):
    from attnmath.cli import progress as verb

    monkeypatch.setattr(verb, "WAIT_S", -1.0)
    _, out, err = call("sweep --seq 1k --heads 8")
    assert "%" not in out + err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, out, err = call("sweep --seq 1k --heads 8")
    assert "sweep" in err
    assert "%" not in out


# -- the columns are documented, and the command knows them


def test_every_column_is_an_option_and_stands_in_the_schema(call):
    _, text, _ = call("sweep --help")
    for c in COLUMNS:
        if c != "schedule":
            assert f"--{c.replace('_', '-')} " in text
    _, text, _ = call("schema sweep")
    row = json.loads(text)["$defs"]["SweepRow"]["properties"]
    assert set(ADDED) | set(COLUMNS) == set(row)
    for c, added in ADDED.items():
        assert added.meaning in row[c]["description"]


def test_memory_is_bounded_by_the_block(tmp_path):
    """A long table takes hardly more memory than a short one."""
    peaks = []
    for count in (600_000, 2_400_000):
        rng = np.random.default_rng(0)
        pq.write_table(
            pa.table({"seq": rng.integers(1, 9999, count), "heads": np.full(count, 8)}), tmp_path / "a.parquet"
        )
        code = (
            "import resource, sys; from attnmath.cli import run\n"
            f"assert run(['sweep', '--from', {str(tmp_path / 'a.parquet')!r}, '-o', {str(tmp_path / 'b.parquet')!r}, '--force']) == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        peaks.append(
            int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        )
    assert peaks[1] < 1.25 * peaks[0]
