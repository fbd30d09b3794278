"""`gpus calibrate`: planted constants come back, the file it writes is an accelerator's, and bad tables are refused by line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import attnmath as am
from attnmath.hardware import get
from attnmath.hardware.calibrate import run
from attnmath.hardware.constants import built_in
from attnmath.hardware.machine import machine
from attnmath.hardware.timing import Shape
from attnmath.schemas import json_schema

PLANTED = {"mma_efficiency": 0.6, "block_cycles": 6000.0, "tile_cycles": 300.0, "overlap": 0.9, "exposed": 0.2}
COLUMNS = ("batch", "seq", "heads", "kv_heads", "head_dim")


def timings(path, rows=240, seed=0, unit=1e6, column="latency_us"):
    """A table of times that a kernel with the planted constants would take."""
    rng = np.random.default_rng(seed)
    sizes = {
        "batch": rng.choice([1, 2, 8, 32], rows),
        "seq": rng.choice([128, 512, 1000, 2048, 8192], rows),
        "heads": rng.choice([16, 32], rows),
        "kv_heads": rng.choice([1, 4, 16], rows),
        "head_dim": rng.choice([64, 128, 256], rows),
    }
    n = {k: v.astype(float) for k, v in sizes.items()}
    shape = Shape(n["batch"], n["seq"], n["seq"], n["heads"], n["kv_heads"], n["head_dim"], n["head_dim"])
    k, _ = built_in().of("flash-attention-3", "vllm", "prefill")
    times = run("prefill", "vllm", "flash-attention-3", machine(get("h100-sxm")), shape, {**k, **PLANTED}, True).time_s
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*COLUMNS, column])
        out.writerows(zip(*(sizes[c] for c in COLUMNS), (times * unit).round(12)))


def test_planted_constants_come_back(call):
    timings("a.csv")
    code, out, _ = call("gpus calibrate a.csv --gpu h100-sxm --l2 warm -o mine.toml --json")
    assert code == 0
    document = json.loads(out)
    jsonschema.validate(document, json_schema("gpus-calibrate"))
    (kernel,) = document["kernels"]
    assert kernel["rows"] == 240
    assert kernel["after"][0] < 0.01 < kernel["before"][0]
    assert kernel["left_out"][1] < 0.05
    found = document["constants"][0]["values"]
    assert found["mma_efficiency"] == pytest.approx(PLANTED["mma_efficiency"], rel=0.1)
    assert found["block_cycles"] == pytest.approx(PLANTED["block_cycles"], rel=0.25)


def test_the_file_is_an_accelerator_with_its_constants(call):
    timings("a.csv")
    assert call("gpus calibrate a.csv --gpu h100-sxm --l2 warm --name mine -o mine.toml")[0] == 0
    mine, plain = get("mine.toml"), get("h100-sxm")
    assert (mine.name, mine.figures, mine.tensor_flop_per_s) == ("mine", plain.figures, plain.tensor_flop_per_s)
    with open("a.csv") as file:
        row = next(csv.DictReader(file))
    sizes = {k: int(row[k]) for k in COLUMNS}
    c = am.cost("gqa", gpu="mine.toml", l2="warm", **sizes)
    assert c.time_s == pytest.approx(float(row["latency_us"]) * 1e-6, rel=0.05)
    assert c.time_error_band.here
    assert c.time_error_band.kernels == 240
    decode = am.cost("gqa", gpu="mine.toml", phase="decode", seq=1024, heads=16)
    assert decode.time_s == am.cost("gqa", gpu="h100-sxm", phase="decode", seq=1024, heads=16).time_s


@pytest.mark.parametrize(("column", "unit"), [("latency_ms", 1e3), ("measured_s", 1.0)])
def test_units(call, column, unit):
    timings("a.csv", unit=1e6)
    timings("b.csv", unit=unit * 1e6 / 1e6, column=column)
    a, b = (json.loads(call(f"gpus calibrate {n}.csv --gpu h100-sxm --l2 warm --json")[1]) for n in "ab")
    assert a["kernels"][0]["before"] == pytest.approx(b["kernels"][0]["before"], abs=2e-3)


def test_without_a_file_nothing_is_written(call):
    timings("a.csv", rows=24)
    code, out, _ = call("gpus calibrate a.csv --gpu h100-sxm --l2 warm")
    assert code == 0
    assert "flash-attention-3" in out
    assert sorted(p.name for p in Path().iterdir()) == ["a.csv"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("seq,heads,latency_us\n64,8,-1\n64,8,x\n", "--gpu h100-sxm", ["line 2, column latency_us", "-1", "1 more"]),
        ("seq,heads\n64,8\n", "--gpu h100-sxm", ["no column of measured times", "latency_us"]),
        ("seq,heads,latency_us,latency_ms\n64,8,1,1\n", "--gpu h100-sxm", ["several columns"]),
        ("seq,heads,latency_us\n64,8,1\n", "", ["--gpu"]),
        ("seq,heads,latency_us\n64,8,1\n", "--gpu h100-sxm", ["1 rows; at least 12"]),
        ("seq,heads,latency_us\n64,8,1\n", "--gpu h100", ["unknown GPU 'h100'"]),
        ("seq,heads,latency_us\n64,8,1\n", "--gpu h100-sxm --engine vlm", ["did you mean 'vllm'"]),
        ("seq,heads,latency_us,variant\n64,8,1,nsa\n", "--gpu h100-sxm", ["line 2", "not one softmax over keys"]),
        ("seq,heads,latency_us,gpu\n64,8,1,h100-sxm\n64,8,1,l40s\n", "", ["one accelerator"]),
        ("seq,heads,latency_us\n64,x,1\n", "--gpu h100-sxm", ["line 2, column heads"]),
        ("seq,heads,latency_us\n64,8,1\n", "--gpu mi300x", ["mi300x"]),
        ("", "--gpu h100-sxm", ["empty"]),
        ("seq,heads,latency_us\n", "--gpu h100-sxm", ["no rows"]),
    ],
)
def test_bad_tables_are_refused(call, text, options, said):
    Path("a.csv").write_text(text)
    code, out, err = call(f"gpus calibrate a.csv {options} -o mine.toml")
    assert (code, out) == (2, "")
    for part in said:
        assert part in err
    assert not Path("mine.toml").exists()


def test_a_file_is_not_overwritten_unasked(call):
    timings("a.csv", rows=24)
    Path("mine.toml").write_text("x = 1\n")
    code, _, err = call("gpus calibrate a.csv --gpu h100-sxm -o mine.toml")
    assert code == 2
    assert "--force" in err
    assert Path("mine.toml").read_text() == "x = 1\n"
    assert call("gpus calibrate a.csv --gpu h100-sxm -o mine.toml --force")[0] == 0


def test_gpus_still_lists_and_shows(call):
    assert "h100-sxm" in call("gpus")[1]
    assert "989,400,000,000,000" in call("gpus h100-sxm")[1]
    assert json.loads(call("gpus h100-sxm --json")[1])["gpus"][0]["name"] == "h100-sxm"
    assert "calibrate" in call("gpus --help")[1]
