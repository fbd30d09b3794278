"""Measured times, and where variants stand under an accelerator's roofs, against numbers worked out here by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

import attnmath as am
from attnmath import rooflines, variants
from attnmath.cli.options import parse_time
from attnmath.errors import InputError
from attnmath.hardware import names
from attnmath.hardware.roofline import bound
from attnmath.measured import doubt, with_measured
from attnmath.reporting import figures

# One layer of 32 query heads, 8 key/value heads, head dimension 128, bf16; the H100's figures as NVIDIA prints them.
PEAK, BANDWIDTH, EXPS_PER_S = 989.4e12, 3.35e12, 132 * 16 * 1.98e9
PREFILL_FLOPS = 4 * 32 * 128 * (8192 * 8193 // 2)  # S and O, 2 FLOP each per pair, head and dimension
PREFILL_BYTES = 2 * 8192 * 128 * (2 * 32 + 2 * 8)  # Q and O of 32 heads, K and V of 8, 2 bytes each
DECODE_FLOPS = 4 * 32 * 128 * 8192
DECODE_BYTES = 2 * 128 * (2 * 32 + 2 * 8 * 8192)
GQA = "--seq 8192 --heads 32 --kv-heads 8 --head-dim 128 --gpu h100-sxm"


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


# -- the roofline

TABLE = f"roofline gqa {GQA} --phase prefill,decode"


def check_points(text: str) -> None:
    """The two points of TABLE, against the numbers of this file."""
    d = json.loads(text)
    prefill, decode = d["points"]
    assert (d["gpu"], d["dtype"], prefill["phase"], decode["phase"]) == ("h100-sxm", "bf16", "prefill", "decode")
    assert d["ridge"] == pytest.approx(PEAK / BANDWIDTH)
    assert prefill["intensity"] == pytest.approx(PREFILL_FLOPS / PREFILL_BYTES)
    assert prefill["attainable_flop_per_s"] == pytest.approx(PEAK)
    assert prefill["time_bound_s"] == pytest.approx(PREFILL_FLOPS / PEAK)
    assert (prefill["bound"], prefill["share_of_tensor_peak"]) == ("tensor", pytest.approx(1))
    assert decode["intensity"] == pytest.approx(DECODE_FLOPS / DECODE_BYTES)
    assert decode["attainable_flop_per_s"] == pytest.approx(DECODE_FLOPS / DECODE_BYTES * BANDWIDTH)
    assert decode["time_bound_s"] == pytest.approx(DECODE_BYTES / BANDWIDTH)
    assert (decode["bound"], decode["share_of_tensor_peak"]) == (
        "hbm",
        pytest.approx(DECODE_FLOPS / DECODE_BYTES * BANDWIDTH / PEAK),
    )
    roofs = {(r["unit"], r["name"]): r for r in d["roofs"]}
    assert roofs["hbm", "device memory"]["bytes_per_s"] == BANDWIDTH
    assert roofs["tensor", "bf16"]["flop_per_s"] == PEAK
    assert roofs["tensor", "fp8"]["flop_per_s"] == 1978.9e12
    assert [r["flop_per_s"] for r in d["roofs"] if r["unit"] == "exp"] == [pytest.approx(EXPS_PER_S * 4 * 128)]
    assert all(r["sources"] for r in d["roofs"])


def test_points_stand_where_they_should(call):
    code, out, _ = call(f"{TABLE} --json")
    assert code == 0
    check_points(out)


@pytest.mark.parametrize("fault", ["bytes", "rate", "warm"])
def test_a_fault_in_the_bound_is_noticed(fault, call, monkeypatch):
    def broken(gpu, dtype, flops, exps, moved, warm=False):
        found = {"bytes": (dtype, flops, exps, 2 * moved), "rate": ("fp8", flops, exps, moved)}
        return bound(gpu, *found.get(fault, (dtype, flops, exps, moved)), l2_warm=fault == "warm")

    monkeypatch.setattr(rooflines, "bound", broken)
    with pytest.raises(AssertionError):
        check_points(call(f"{TABLE} --json")[1])


def test_exponentials_are_a_roof_that_a_small_head_meets(call):
    """With head dim 64 an exponential comes with 256 FLOPs, and fp8 matrix units wait for it."""
    _, out, _ = call("roofline mha --seq 8k --heads 32 --head-dim 64 --dtype fp8 --gpu h100-sxm --json")
    (point,) = json.loads(out)["points"]
    assert point["flop_per_exp"] == 2 * (64 + 64)
    assert point["attainable_flop_per_s"] == pytest.approx(EXPS_PER_S * 256)
    assert point["bound"] == "exp"
    assert (
        "at 256 FLOP per exponential: mha" in call("roofline mha --seq 8k --heads 32 --head-dim 64 --gpu h100-sxm")[1]
    )


@pytest.mark.parametrize("gpu", ["h100-sxm", "b200-sxm", "mi300x"])
def test_every_variant_stands_on_its_lowest_roof(gpu, call):
    _, out, _ = call(f"roofline --seq 4k --heads 32 --phase prefill,decode --gpu {gpu} --json")
    d, g = json.loads(out), am.gpu(gpu)
    assert {p["variant"] for p in d["points"]} == set(variants.names()) - {"sliding-window"}
    for p in d["points"]:
        roofs = [g.tensor_rate("bf16"), p["intensity"] * g.figure("hbm_bytes_per_s")]
        if g.exp_rate and p["exps"]:
            roofs.append(g.exp_rate * p["flops_matmul"] / p["exps"])
        assert p["attainable_flop_per_s"] == pytest.approx(min(roofs), rel=1e-9), p["variant"]
        assert p["attainable_flop_per_s"] * p["time_bound_s"] == pytest.approx(p["flops_matmul"]), p["variant"]


def test_the_table(call):
    code, out, err = call(TABLE)
    assert code == 0
    rows = [re.split(r"  +", line) for line in out.splitlines()]
    assert ["gqa", "prefill", "8,192", "8,192", "3,277", "989 TFLOP/s", "100 %", "tensor", "556 us"] in rows
    assert ["gqa", "decode", "1", "8,192", "3.998", "13.4 TFLOP/s", "1.35 %", "hbm", "10 us"] in rows
    assert "binds below 295.3 FLOP/byte, the ridge" in out
    assert "bounds, no estimates" in out
    assert err == "assumed: batch 1, v-head-dim 128, d-model 4,096, dtype bf16, kv-dtype bf16\n"
    found = list(csv.DictReader(io.StringIO(call(f"{TABLE} --format csv")[1])))
    assert [float(r["attainable_flop_per_s"]) for r in found] == [
        pytest.approx(PEAK),
        pytest.approx(DECODE_FLOPS / DECODE_BYTES * BANDWIDTH),
    ]
    assert "| gqa | decode | 1 | 8,192 | 3.998 | 13.4 TFLOP/s |" in call(f"{TABLE} --format markdown")[1]


def test_lists_and_times_are_in_the_order_of_the_table(call):
    line = "roofline mha gqa --seq 1k,2k --heads 32 --gpu h100-sxm --phase decode,prefill --json"
    _, out, _ = call([*line.split(), "--measured", "1ms,2ms,3ms,4ms,5ms,6ms,7ms,8ms"])
    found = [
        (p["phase"], p["variant"], p["inputs"]["context"], p["measured"]["time_s"]) for p in json.loads(out)["points"]
    ]
    wanted = [(phase, v, n) for phase in ("decode", "prefill") for v in ("mha", "gqa") for n in (1024, 2048)]
    assert found == [(*w, pytest.approx(k / 1e3)) for k, w in enumerate(wanted, 1)]
    for p in json.loads(out)["points"]:
        assert p["measured_flop_per_s"] == pytest.approx(p["flops_matmul"] / p["measured"]["time_s"])
    assert call([*line.split(), "--measured", "1ms"])[0] == 2


def test_a_gpu_without_a_figure_has_the_other_roofs(call, tmp_path):
    code, out, _ = call("roofline gqa --seq 8k --heads 32 --gpu mi300x -o roofs.svg")
    assert code == 0
    said = "no exp roof: mi300x has no figure exp_per_clock (exponentials per clock and processor"
    assert said in out
    assert "No exp roof: mi300x has no figure exp_per_clock" in Path("roofs.svg").read_text()
    bare = '[bare]\nhbm_bytes_per_s = { value = 1e12, source = "my datasheet" }\n'
    (tmp_path / "bare.toml").write_text(bare + '[bare.tensor_flop_per_s]\nbf16 = { value = 1e14, source = "mine" }\n')
    code, out, _ = call("roofline gqa --seq 8k --heads 32 --gpu bare.toml -o bare.svg")
    assert code == 0
    assert "bare has no figure processors" in out
    assert "exp_per_clock" in out
    assert "clock_hz" in out
    assert "no fp32 roof: bare has no figure tensor_flop_per_s.fp32" in out
    assert os.path.exists("bare.svg")


@pytest.mark.parametrize("gpu", names())
def test_every_accelerator_has_a_roofline(gpu, call):
    dtype = next(d for d in ("bf16", "fp16", "fp32") if d in am.gpu(gpu).tensor_flop_per_s)
    line = f"roofline gqa --seq 8k --heads 32 --phase prefill,decode --gpu {gpu} --dtype {dtype} --json"
    code, out, _ = call(line)
    assert code == 0
    wider = 2 if dtype == "fp32" else 1
    assert [p["intensity"] for p in json.loads(out)["points"]] == [
        pytest.approx(PREFILL_FLOPS / PREFILL_BYTES / wider),
        pytest.approx(DECODE_FLOPS / DECODE_BYTES / wider),
    ]


def test_what_the_data_may_spare_is_marked(call):
    _, out, _ = call("roofline gqa --seq 8k --heads 32 --gpu h100-sxm --with packed --measured 2ms")
    row = next(line for line in out.splitlines() if line.startswith("gqa"))
    assert row.count("≤") == 4
    assert "≤: the data decide which pairs exist" in out


def test_a_form_counts_for_the_variants_that_have_it(call):
    _, out, _ = call("roofline mla gqa --form absorbed --seq 8k --heads 32 --gpu h100-sxm --json")
    assert [(p["variant"], p["form"]) for p in json.loads(out)["points"]] == [("mla", "absorbed"), ("gqa", None)]


# -- the picture

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def axis(root, letter: str) -> tuple[float, float]:
    """(pixel of 1, pixels per decade) of a logarithmic axis, from where its ticks and their words stand."""
    unit = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
    marks = []
    for tick in root.iter(f"{SVG}g"):
        if re.fullmatch(rf"{letter}tick_\d+", tick.get("id", "")) and (text := tick.find(f".//{SVG}text")) is not None:
            number, _, prefix = (text.text or "").replace(",", "").partition(" ")
            at = tick.find(f".//{SVG}use").get(letter)
            marks.append((math.log10(float(number) * unit.get(prefix, 1)), float(at)))
    (a, p), *_, (b, q) = sorted(marks)
    return p - a * (q - p) / (b - a), (q - p) / (b - a)


def drawn(text: str) -> set[tuple[float, float]]:
    """The markers of the picture, as (FLOP/byte, FLOP/s) read back from their pixels."""
    root = ElementTree.fromstring(text)
    (x0, dx), (y0, dy) = axis(root, "x"), axis(root, "y")
    axes = next(g for g in root.iter(f"{SVG}g") if g.get("id") == "axes_1")
    lines = [g for g in axes if g.get("id", "").startswith("line2d")]
    uses = [u for g in lines for u in g.iter(f"{SVG}use")]
    return {(10 ** ((float(u.get("x")) - x0) / dx), 10 ** ((float(u.get("y")) - y0) / dy)) for u in uses}


def check_picture(call) -> None:
    """The markers of TABLE with measured times, against the numbers of this file."""
    assert call(f"{TABLE} --measured 1.2ms,20us -o roofs.svg --force")[0] == 0
    found = list(drawn(Path("roofs.svg").read_text()))
    wanted = [
        (DECODE_FLOPS / DECODE_BYTES, DECODE_FLOPS / 20e-6),
        (DECODE_FLOPS / DECODE_BYTES, DECODE_FLOPS / DECODE_BYTES * BANDWIDTH),
        (PREFILL_FLOPS / PREFILL_BYTES, PREFILL_FLOPS / 1.2e-3),
        (PREFILL_FLOPS / PREFILL_BYTES, PEAK),
    ]
    found.sort(key=lambda point: (round(math.log10(point[0]), 2), point[1]))
    assert len(found) == 4
    for point, expected in zip(found, wanted):
        assert point == (pytest.approx(expected[0], rel=1e-3), pytest.approx(expected[1], rel=1e-3))


def test_the_picture_shows_the_numbers(call, monkeypatch):
    check_picture(call)
    monkeypatch.setattr(figures, "rounded", lambda x: float(f"{x:.1g}"))
    with pytest.raises(AssertionError):
        check_picture(call)


def test_the_picture_says_what_it_is(call):
    assert call(f"{TABLE} -o roofs.svg")[0] == 0
    root = ElementTree.fromstring(Path("roofs.svg").read_text())
    words = [t.text for t in root.iter(f"{SVG}text")] + [t.text for t in root.iter(f"{SVG}tspan")]
    assert root.find(f"{SVG}title").text == "Roofline of NVIDIA H100 SXM5 80 GB, bf16"
    for word in (
        "arithmetic intensity, FLOP/byte of compulsory traffic",
        "FLOP/s of matrix products",
        "989 TFLOP/s bf16, fp16",
        "2.14 PFLOP/s exp at 512: gqa",
        "memory 3.35 TB/s",
        "gqa prefill",
        "gqa decode",
    ):
        assert word in words, word
    assert not list(root.iter(f"{SVG}image"))
    hrefs = [e.get(LINK) for e in root.iter() if e.get(LINK)]
    assert all(h.startswith("#") for h in hrefs), "one file, nothing fetched"


def test_marks_differ_in_shape_and_colour():
    n = len(variants.names())
    looks = [(figures.PALETTE[k % len(figures.PALETTE)], figures.MARKERS[k % len(figures.MARKERS)]) for k in range(n)]
    assert len(set(looks)) == n
    shapes = min(n, len(figures.MARKERS))
    assert len({m for _, m in looks[:shapes]}) == shapes, "in grey the shape tells them apart"


def test_labels_keep_their_distance():
    wanted = [0.1, 0.11, 0.12, 0.5, 0.9, 0.905]
    found = figures.spread(wanted, 0.04)
    assert all(b - a >= 0.04 - 1e-9 for a, b in pairwise(found))
    assert found[3] == 0.5
    assert sum(found[:3]) == pytest.approx(sum(wanted[:3])), "moved as little as can be: up as much as down"
    assert figures.spread([], 0.1) == []


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_a_picture_is_the_same_to_the_byte(ending, tmp_path):
    """In two processes, with other hash seeds, and with settings of matplotlib that would change it."""
    found = []
    for seed, settings in (
        ("1", ""),
        ("2", "font.size: 30\nsvg.hashsalt: other\nsvg.fonttype: path\nsavefig.dpi: 30\n"),
    ):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "matplotlibrc").write_text(settings)
        line = f"roofline gqa mla --seq 1k,8k --heads 32 --gpu h100-sxm --phase prefill,decode -o roofs.{ending}"
        env = {**os.environ, "PYTHONHASHSEED": seed, "MATPLOTLIBRC": str(folder)}
        done = subprocess.run(
            [sys.executable, "-m", "attnmath", *line.split()], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.append((folder / f"roofs.{ending}").read_bytes())
    assert found[0] == found[1]
    assert found[0][:5] in (b"<?xml", b"\x89PNG\r", b"%PDF-")
    assert not re.search(rb"20[2-9]\d-\d\d-\d\d|D:20\d\d", found[0]), "no date"


def test_names_of_users_are_text_in_the_picture(call, tmp_path):
    name = "<b>&amp; $x^{ 加速器 \\frac " + "long " * 60
    (tmp_path / "odd.toml").write_text(
        f"[odd]\ntitle = '{name}'\nhbm_bytes_per_s = {{ value = 1e12, source = 'mine' }}\n"
        "[odd.tensor_flop_per_s]\nbf16 = { value = 1e14, source = 'mine' }\n"
    )
    code, _, err = call("roofline gqa --seq 8k --heads 32 --gpu odd.toml -o odd.svg")
    assert code == 0
    assert "Glyph" not in err
    root = ElementTree.fromstring(Path("odd.svg").read_text())
    assert any("<b>&amp; $x^{ 加速器 \\frac" in (t.text or "") for t in root.iter(f"{SVG}text"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("roofline gqa --seq 8k --heads 32", "give a --gpu; `attnmath gpus` lists them"),
        ("roofline gqa --seq 8k --heads 32 --gpu h100", "unknown GPU 'h100': did you mean 'h100-sxm'"),
        ("roofline gqaa --seq 8k --heads 32 --gpu h100-sxm", "did you mean 'gqa'"),
        (f"{TABLE},train --kv-dtype fp8", "of no use with --phase train"),
        (f"{TABLE},", "unknown phase ''"),
        (f"{TABLE} --dtype int4", "h100-sxm has no tensor_flop_per_s.int4"),
        (f"{TABLE} --form absorbed", "--form absorbed is a form of none of gqa"),
        (f"{TABLE} --kv-rank 8", "--kv-rank has no use for any of gqa"),
        (f"{TABLE} --measured 1ms", "1 time for 2 rows"),
        (f"{TABLE} --measured 1ms,-2ms", "'-2ms' is no time"),
        (f"{TABLE} --measured 1ms,2m", "'2m' needs a unit: s, ms, us or ns"),
        ("roofline --with rope --seq 8k --heads 32 --gpu h100-sxm", "name the variants that --with is to modify"),
        (f"{TABLE} -o roofs.gif", "the ending says which picture it is: .svg, .png, .pdf"),
        (f"{TABLE} -o roofs", "the ending says which picture it is"),
        (f"{TABLE} -o none/roofs.svg", "there is no directory none"),
        (
            "roofline --seq " + ",".join(["8"] * 1999) + " --heads 8 --phase decode --gpu h100-sxm",
            "points; at most 2,000",
        ),
    ],
)
def test_what_is_refused(line, message, call):
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert os.listdir(".") == []


def test_an_existing_picture_is_kept_unless_forced(call, monkeypatch):
    Path("roofs.svg").write_text("mine")
    code, out, err = call(f"{TABLE} -o roofs.svg")
    assert (code, out) == (2, "")
    assert "the file exists; --force overwrites it" in err

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        code, out, err = call(f"{TABLE} -o roofs.svg --force")
    assert (code, out) == (2, "")
    assert "-o roofs.svg: cannot write: No space left on device" in err
    assert Path("roofs.svg").read_text() == "mine"
    assert os.listdir(".") == ["roofs.svg"]
    assert call(f"{TABLE} -o roofs.svg --force")[0] == 0
    assert Path("roofs.svg").read_text().startswith("<?xml")
    os.mkdir("d.svg")
    assert "a directory, not a file" in call(f"{TABLE} -o d.svg --force")[2]


def test_a_library_that_does_not_load_is_said(tmp_path):
    line = [sys.executable, "-m", "attnmath", *TABLE.split(), "-o", "roofs.svg"]
    env = {**os.environ, "MPLBACKEND": "none-such"}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "matplotlib, which draws figures, cannot be loaded" in done.stderr
    assert os.listdir(tmp_path) == []
