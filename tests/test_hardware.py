"""Accelerators: every figure has a unit and a source, the figures agree with each other, and the bound is one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from conftest import shared

import attnmath as am
from attnmath.errors import InputError
from attnmath.hardware import FIGURES, GPUS, Gpu, architectures, get, names
from attnmath.hardware.roofline import bound, ridge

MMA_FLOP_PER_CLOCK = {  # dense 16-bit FLOP per clock and SM; NVIDIA's architecture whitepapers, FlashAttention-4 for Blackwell
    "a100-sxm-80g": 2048,
    "h100-sxm": 4096,
    "h200-sxm": 4096,
    "b200-sxm": 8192,
    "l40s": 1024,
    "rtx-4090": 512,
}


@pytest.mark.parametrize("name", names())
def test_every_figure_has_a_source(name):
    g = get(name)
    for figure in (*g.figures.values(), *g.tensor_flop_per_s.values()):
        assert figure.value > 0
        assert figure.sources
        assert all(len(s) > 8 for s in figure.sources), "a source in words, or a key of [sources]"
    assert {"hbm_bytes_per_s"} <= set(g.figures) <= set(FIGURES)
    assert g.tensor_flop_per_s


def test_reading_one_table_reads_what_the_whole_file_says(tmp_path):
    whole = tmp_path / "whole.toml"
    whole.write_text(Path(GPUS).read_text())
    tables = tomllib.loads(whole.read_text())
    assert set(names()) == set(tables) - {"sources", "architectures"}
    assert set(architectures()) == set(tables["architectures"])
    for name in names():
        assert get(f"{whole}#{name}") == get(name)


def test_every_source_is_used():
    tables = tomllib.loads(Path(GPUS).read_text())
    cited = {
        s for n in names() for f in (*get(n).figures.values(), *get(n).tensor_flop_per_s.values()) for s in f.sources
    }
    assert set(tables["sources"].values()) <= cited


@pytest.mark.parametrize("name", MMA_FLOP_PER_CLOCK)
def test_peaks_agree_with_processors_and_clock(name):
    g = get(name)
    by_clock = g.figure("processors") * g.figure("clock_hz") * MMA_FLOP_PER_CLOCK[name]
    assert g.tensor_rate("bf16") == pytest.approx(by_clock, rel=0.013)


def test_exponentials_of_an_h100_are_as_published():
    """FlashAttention-3, section 3.1: 3.9 TFLOPS of special functions."""
    h = get("h100-sxm")
    assert h.figure("processors") * h.figure("clock_hz") * h.figure("exp_per_clock") == pytest.approx(3.9e12, rel=0.01)
    assert h.exp_rate == 132 * 16 * 1_980_000_000, "the bound takes the highest clock"


def test_units_of_memory_are_bytes():
    assert get("h100-sxm").figure("hbm_bytes") == 80 * 10**9


def test_the_bound_is_the_slowest_unit():
    g = Gpu("x", "x", "", {}, {})
    h = get("h100-sxm")
    b = bound(h, "bf16", 989_400_000_000_000, 0, 0)
    assert (b.tensor_s, b.binds, b.time_s) == (1.0, "tensor", 1.0)
    b = bound(h, "bf16", 0, 0, 3_350_000_000_000)
    assert (b.hbm_s, b.binds) == (1.0, "hbm")
    b = bound(h, "bf16", 0, int(h.exp_rate), 0)
    assert (round(b.exp_s, 9), b.binds) == (1.0, "exp")
    assert ridge(h, "bf16") == 989_400_000_000_000 / 3_350_000_000_000
    with pytest.raises(InputError, match="x has no figure hbm_bytes_per_s"):
        g.figure("hbm_bytes_per_s")


def test_a_warm_cache_lowers_the_bytes_and_never_below_zero():
    h = get("h100-sxm")
    assert bound(h, "bf16", 0, 0, 52_428_800, l2_warm=True).hbm_s == 0
    assert bound(h, "bf16", 0, 0, 52_428_800 + 3350, l2_warm=True).hbm_s == pytest.approx(1e-9)
    cold, warm = (am.cost("gqa", seq=8192, heads=32, phase="decode", gpu="h100-sxm", l2=x) for x in ("cold", "warm"))
    assert warm.time_bound_s.fused < cold.time_bound_s.fused
    assert warm.l2 == "warm"


def test_no_figure_for_exponentials_means_no_term_for_them():
    b = bound(get("mi300x"), "bf16", 1, 10**30, 1)
    assert b.exp_s is None
    assert b.binds in ("tensor", "hbm")


def test_unfused_is_never_faster_than_fused():
    for seq in (1, 128, 8192):
        c = am.cost("gqa", seq=seq, context=8192, heads=32, gpu="a100-sxm-80g")
        assert c.time_bound_s.unfused >= c.time_bound_s.fused


def test_a_gpu_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[mine]\ntitle = "Mine"\nhbm_bytes_per_s = { value = 1e12, source = "my datasheet" }\n[mine.tensor_flop_per_s]\nbf16 = { value = 1e14, source = "my datasheet" }\n'
    )
    c = am.cost("gqa", seq=8192, heads=32, gpu=str(path))
    assert c.gpu == "mine"
    assert c.time_bound_s.fused == pytest.approx(549_822_922_752 / 1e14)


def test_measured_kernels_are_never_faster_than_their_bound():
    """Somebody else's measurements (NVIDIA aiconfigurator); a sample here, all 96,078 in benchmarks/bounds.py."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    import sys

    sys.path.insert(0, "benchmarks")
    import bounds

    table = pd.read_parquet(shared("measured", "dev.parquet"))
    rows = table[table.op.isin(["attention", "encoder_attention"]) & (table.q_dtype == "bf16")].sample(
        2000, random_state=1
    )
    ratios = [
        row.latency_ms / 1e3 / bound(get(bounds.GPUS[str(row.gpu)]), "bf16", *bounds.work(row), l2_warm=True).time_s
        for row in rows.itertuples()
        if bounds.work(row)[0]
    ]
    assert min(ratios) > 1
    assert min(ratios) < 1.5, "a bound that nothing comes near would say nothing"
