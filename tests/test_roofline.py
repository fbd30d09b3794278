"""Measured times, and where variants stand under an accelerator's roofs, against numbers worked out here by hand."""

from __future__ import annotations

import csv
import io
import json

import pytest

import attnmath as am
from attnmath.cli import run
from attnmath.cli.options import parse_time
from attnmath.errors import InputError
from attnmath.measured import doubt, with_measured

# One layer of 32 query heads, 8 key/value heads, head dimension 128, bf16; the H100's figures as NVIDIA prints them.
PEAK, BANDWIDTH, EXPS_PER_S = 989.4e12, 3.35e12, 132 * 16 * 1.98e9
PREFILL_FLOPS = 4 * 32 * 128 * (8192 * 8193 // 2)  # S and O, 2 FLOP each per pair, head and dimension
PREFILL_BYTES = 2 * 8192 * 128 * (2 * 32 + 2 * 8)  # Q and O of 32 heads, K and V of 8, 2 bytes each
DECODE_FLOPS = 4 * 32 * 128 * 8192
DECODE_BYTES = 2 * 128 * (2 * 32 + 2 * 8 * 8192)
GQA = "--seq 8192 --heads 32 --kv-heads 8 --head-dim 128 --gpu h100-sxm"


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """(exit code, stdout, stderr) of a command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def go(text: str | list[str]):
        code = run(text.split() if isinstance(text, str) else text)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go


# -- a measured time


def test_a_measured_time_against_the_bound(call):
    code, out, err = call(f"cost --variant gqa {GQA} --measured 1.2ms --json")
    assert code == 0
    m = json.loads(out)["measured"]
    assert m == {
        "time_s": 0.0012,
        "share_of_bound": pytest.approx(PREFILL_FLOPS / PEAK / 0.0012),
        "mfu": pytest.approx(PREFILL_FLOPS / 0.0012 / PEAK),
        "hbm_bytes_per_s": pytest.approx(PREFILL_BYTES / 0.0012),
    }
    assert "%" not in err


def test_the_share_of_the_bound_is_not_mfu_where_memory_binds():
    m = with_measured(am.cost("gqa", seq=8192, heads=32, phase="decode", gpu="h100-sxm"), 20e-6).measured
    assert m.share_of_bound == pytest.approx(DECODE_BYTES / BANDWIDTH / 20e-6)
    assert m.mfu == pytest.approx(DECODE_FLOPS / PEAK / 20e-6)
    assert m.share_of_bound > 10 * m.mfu


def test_nothing_measured_is_null(call):
    assert set(json.loads(call(f"cost --variant gqa {GQA} --json")[1])["measured"].values()) == {None}


def test_measured_in_text_rows_and_tables(call):
    _, out, _ = call(f"cost --variant gqa {GQA} --measured 1.2ms")
    lines = [line.split("  ") for line in out.splitlines()]
    shown = {w[0].strip(): w for w in ([x for x in line if x] for line in lines) if w}
    assert shown["measured"][1].strip() == "1.2 ms"
    assert [shown[k][1].strip() for k in ("MFU", "memory")] == ["46.3 %", "140 GB/s"]
    rows = f"cost --variant gqa {GQA.replace('8192', '8k,16k')} --phase decode --measured 20us,80us"
    _, out, _ = call(rows)
    assert "20 us" in out
    assert "80 us" in out
    found = list(csv.DictReader(io.StringIO(call(f"{rows} --format csv")[1])))
    assert [float(r["measured.time_s"]) for r in found] == [20e-6, 80e-6]
    assert float(found[0]["measured.hbm_bytes_per_s"]) == pytest.approx(DECODE_BYTES / 20e-6)
    assert "| measured.mfu | 0.463095 |" in call(f"cost --variant gqa {GQA} --measured 1.2ms --format markdown")[1]


def test_faster_than_the_bound_is_said(call):
    code, out, err = call(f"cost --variant gqa {GQA} --phase decode --measured 5us --json")
    assert code == 0
    assert json.loads(out)["measured"]["share_of_bound"] > 1
    assert "--measured 5us: 200.4 % of the bound (hbm on h100-sxm)" in err
    assert "caches that were warm (--l2 warm)" in err
    cost = am.cost("gqa", seq=8192, heads=32, gpu="h100-sxm")
    bound = cost.time_bound_s.fused
    assert doubt(with_measured(cost, bound)) == doubt(with_measured(cost, bound * 1.01)) == doubt(cost) == ""
    assert "sizes, mask or dtype" in doubt(with_measured(cost, bound * 0.99))
    warm = am.cost("gqa", seq=65536, heads=32, phase="decode", gpu="h100-sxm", l2="warm")
    assert "--l2" not in doubt(with_measured(warm, 1e-6))


def test_a_model_is_measured_over_its_layers(call, tmp_path):
    config = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    config |= {"num_hidden_layers": 32, "vocab_size": 100, "intermediate_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, out, _ = call("cost --model config.json --seq 8192 --gpu h100-sxm --measured 40ms --json")
    m = json.loads(out)["measured"]
    assert m["mfu"] == pytest.approx(32 * PREFILL_FLOPS / PEAK / 0.040)
    assert m["hbm_bytes_per_s"] == pytest.approx(32 * PREFILL_BYTES / 0.040)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("share_of_bound", PREFILL_FLOPS / PEAK / 0.0012),
        ("mfu", PREFILL_FLOPS / PEAK / 0.0012),
        ("hbm_bytes_per_s", PREFILL_BYTES / 0.0012),
        ("time_s", 0.0012),
    ],
)
def test_measured_keys_are_explained(key, value, call):
    _, out, _ = call(f"cost --variant gqa {GQA} --measured 1.2ms --explain measured.{key} --json")
    e = json.loads(out)
    assert e["value"] == pytest.approx(value)
    first, *rest = e["substitution"].split(" / ")
    for divisor in rest:
        first = float(first) / float(divisor)
    assert float(first or 0.0012) == pytest.approx(value)
    shown = call(f"cost --variant gqa {GQA} --explain measured.{key}")[1]
    assert "null: give --measured" in shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.2ms", 0.0012), ("350us", 350e-6), ("350µs", 350e-6), ("7 ns", 7e-9), ("2s", 2.0), ("1e3us", 1e-3)],
)
def test_times_are_read(text, seconds):
    assert parse_time(text) == pytest.approx(seconds, rel=1e-12)


BAD_TIMES = [
    ("-1ms", "'-1ms' is no time; write 1.2ms, 350us or 0.4s"),
    ("1.2", "'1.2' needs a unit: s, ms, us or ns"),
    ("1.2min", "'1.2min' needs a unit: s, ms, us or ns"),
    ("0ms", "no time that anything takes"),
    ("0.0e99s", "no time that anything takes"),
    ("", "'' is no time"),
    ("nan s", "is no time"),
    ("inf", "is no time"),
    ("1e999s", "is no time"),
    ("٣ms", "is no time"),
    ("9" * 5000 + "s", "is no time"),
    ("1ms,2ms", "2 times for 1 row; give one per row, in their order"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TIMES, ids=[t[:12] for t, _ in BAD_TIMES])
def test_bad_times_are_refused(text, message, call):
    code, out, err = call(["cost", "--variant", "gqa", *GQA.split(), "--measured", text])
    assert (code, out) == (2, "")
    assert message in err
    assert len(err) < 400


def test_a_time_needs_a_gpu_and_one_row_each(call):
    code, _, err = call("cost --variant gqa --seq 8k --heads 32 --measured 1ms")
    assert code == 2
    assert "--measured has a use only with a --gpu" in err
    code, _, err = call("cost --variant gqa --seq 1k,2k,4k --heads 32 --gpu h100-sxm --measured 1ms")
    assert code == 2
    assert "1 time for 3 rows; give one per row" in err


@pytest.mark.parametrize("time_s", [0, -1.0, float("nan"), float("inf"), True, "1ms"])
def test_a_time_in_python_is_a_number_above_0(time_s):
    with pytest.raises(InputError, match="a number of seconds above 0"):
        with_measured(am.cost("gqa", seq=8, heads=4, gpu="h100-sxm"), time_s)
    with pytest.raises(InputError, match="has a use only with a --gpu"):
        with_measured(am.cost("gqa", seq=8, heads=4), 1.0)
