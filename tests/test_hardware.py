"""Accelerators: every figure has a unit and a source, the figures agree with each other, and the bound is one."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
from conftest import shared
from msgspec.structs import replace

import attnmath as am
from attnmath.errors import InputError
from attnmath.hardware import FIGURES, GPUS, SHORT, Figure, Gpu, architectures, get, names
from attnmath.hardware.roofline import bound, ridge


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


def implausible(g: Gpu) -> list[str]:
    """What cannot be, by what every accelerator obeys; built-in tables and faults put into them are judged alike."""
    f = {k: v.value for k, v in g.figures.items()}
    rates = {k: v.value for k, v in g.tensor_flop_per_s.items()}
    half = rates.get("bf16") or rates.get("fp16")
    out = []

    def law(holds: bool, text: str) -> None:
        if not holds:
            out.append(text)

    clock = f.get("max_clock_hz", f.get("clock_hz", 0))
    law(clock >= f.get("clock_hz", 0), "the highest clock is not below the stated one")
    if g.vendor in ("NVIDIA", "AMD") and half and {"processors", "clock_hz"} <= set(f):
        per_clock = half / f["processors"] / f["clock_hz"]
        power = 2 ** round(math.log2(per_clock))
        law(abs(per_clock / power - 1) < 0.03, "16-bit rate = processors x clock x a power of two")
    if {"processors", "fp32_lanes"} <= set(f) and clock and "fp32" in rates:
        lanes = rates["fp32"] / (2 * f["processors"] * clock * f["fp32_lanes"])
        law(any(abs(lanes / n - 1) < 0.06 for n in (1, 0.5)), "fp32 rate = 2 x lanes x clock, or half where they pack")
    law(
        f.get("smem_block_bytes", 0) <= f.get("smem_bytes", math.inf), "a block has no more shared memory than there is"
    )
    law(f.get("fp32_lanes", 64) in (64, 128, 256), "lanes are 64, 128 or 256")
    law(f.get("exp_per_clock", 16) in (16, 32), "special-function units are 16 or 32")
    law(0.3 < f.get("sustained_tensor_fraction", 1) <= 1, "large matrix products reach 30 to 100 % of the peak")
    law(1 / 3 < f["hbm_bytes_per_s"] / f.get("hbm_bytes", f["hbm_bytes_per_s"]) < 80, "memory is read in 1/80 to 3 s")
    law(f.get("l2_bytes", 0) < f.get("hbm_bytes", math.inf) / 100, "a cache is small beside the memory")
    law(f.get("l2_bytes_per_s", math.inf) > f["hbm_bytes_per_s"], "a cache is faster than the memory")
    law(f.get("link_bytes_per_s", 0) < f["hbm_bytes_per_s"], "peers are farther than the memory")
    law(bool(g.link) == ("link_bytes_per_s" in f), "a link has a name and a rate")
    law(30 < f.get("power_w", 300) < 3000, "power is 30 to 3000 W")
    order = [rates[k] for k in ("fp32", "tf32", "bf16", "fp8", "fp4") if k in rates]
    law(order == sorted(order), "narrower types are no slower")
    law(rates.get("fp16", 0) <= (half or 0), "fp16 is no faster than bf16")
    return out


@pytest.mark.parametrize("name", names())
def test_figures_are_plausible_and_agree(name):
    assert implausible(get(name)) == []


@pytest.mark.parametrize(
    "figure, factor, law",
    [
        ("processors", 0.9, "power of two"),
        ("clock_hz", 1.05, "power of two"),
        ("fp32_lanes", 0.25, "fp32 rate"),
        ("smem_block_bytes", 2, "no more shared memory"),
        ("sustained_tensor_fraction", 0.3, "30 to 100 %"),
        ("hbm_bytes_per_s", 0.01, "peers are farther"),
        ("l2_bytes", 1000, "small beside"),
    ],
)
def test_a_wrong_figure_breaks_a_law(figure, factor, law):
    g = get("a100-sxm-80g")
    wrong = Figure(g.figure(figure) * factor, ("a slip",))
    assert any(law in text for text in implausible(replace(g, figures={**g.figures, figure: wrong})))


@pytest.mark.parametrize("name", names())
def test_one_source_is_enough_only_where_it_is_the_vendors(name):
    g = get(name)
    own = {"Google": "Google|TPU", "AWS": "AWS"}.get(g.vendor, g.vendor)
    for key, figure in {**g.figures, **g.tensor_flop_per_s}.items():
        if key not in FIGURES or not FIGURES[key].measured:
            assert len(figure.sources) > 1 or re.search(own, figure.sources[0]), f"{name}.{key}"


@pytest.mark.parametrize("name", [n for n in names() if get(n).vendor == "NVIDIA"])
def test_every_nvidia_gpu_says_what_a_processor_has(name):
    g = get(name)
    shared_figures = {k for k, v in FIGURES.items() if v.shared} - {"l2_partitions"}
    assert shared_figures <= set(g.figures)
    assert re.fullmatch(r"\d+\.\d", g.compute_capability)
    assert g.figure("registers") == 65536


def test_an_architecture_is_the_same_for_all_its_devices():
    h100, h200 = get("h100-sxm"), get("h200-sxm")
    for key in (k for k, v in FIGURES.items() if v.shared):
        assert h100.figures[key] == h200.figures[key]
    assert {get(n).architecture for n in names()} == set(architectures()), "no architecture without a device"
    assert get("b300-sxm").figure("exp_per_clock") == 2 * get("b200-sxm").figure("exp_per_clock")


@pytest.mark.parametrize("name, measured", [("gb200", 4943e9), ("gb300", 10024e9)])
def test_exponentials_measured_by_nvidia_stay_below_the_rate(name, measured):
    """NVIDIA's technical blog on softmax on Blackwell Ultra prints exp2 per second as a program reached them."""
    assert measured <= get(name).exp_rate < 1.05 * measured


@pytest.mark.parametrize(
    "row, name", [("a100_sxm", "a100-sxm-80g"), ("h100_sxm", "h100-sxm"), ("l40s", "l40s"), ("b200_sxm", "b200-sxm")]
)
def test_what_matrix_products_sustain_is_the_median_of_the_measured_ones(row, name):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = pd.read_parquet(shared("measured", "dev.parquet"))
    table = table[(table.op == "gemm") & (table.gpu == row) & (table.q_dtype == "bf16")]
    flops = 2.0 * table.m * table.n * table.k
    reached = (flops / table.latency_ms * 1e3 / get(name).tensor_rate("bf16"))[flops > 5e11]
    figure = get(name).figures["sustained_tensor_fraction"]
    assert figure.value == round(float(reached.median()), 4)
    assert figure.note.startswith(f"{len(reached)} GEMMs")


MINE = """[mine]
title = "Mine"
hbm_bytes_per_s = { value = 1e12, source = "my datasheet" }
"""
RATES = """[mine.tensor_flop_per_s]
bf16 = { value = 1e14, source = "my datasheet" }
"""


def test_a_file_may_bring_its_own_architecture_or_name_a_built_in_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        MINE
        + 'architecture = "wide"\nregisters = { value = 7, source = "my own count" }\n'
        + RATES
        + '[architectures.wide]\ncompute_capability = "1.5"\n'
        + 'registers = { value = 5, source = "my datasheet" }\nfp32_lanes = { value = 256, source = "ds" }\n'
        + '[sources]\nds = "the datasheet of wide"\n'
    )
    g = get(str(path))
    assert (g.architecture, g.compute_capability) == ("wide", "1.5")
    assert g.figures["fp32_lanes"].sources == ("the datasheet of wide",)
    assert g.figure("registers") == 7, "the device's own figure comes first"
    path.write_text(MINE + 'architecture = "hopper"\n' + RATES)
    assert get(str(path)).figures["smem_bytes"] == get("h100-sxm").figures["smem_bytes"]


def test_everything_wrong_in_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        MINE
        + 'architecture = "hoper"\nlink = 3\nclock = 1\n'
        + 'sustained_tensor_fraction = { value = 1.2, source = "me myself" }\n'
        + 'processors = { value = 1.5, source = "me myself" }\n'
        + RATES
    )
    with pytest.raises(InputError) as e:
        get(str(path))
    for text in (
        "5 errors",
        "mine.architecture: unknown architecture 'hoper': did you mean 'hopper'",
        "mine.link must be text",
        "mine.clock: unknown figure",
        "mine.sustained_tensor_fraction: '1.2' is no fraction, above 0 and at most 1",
        "mine.processors: 1.5 is no whole number",
    ):
        assert text in str(e.value)


@pytest.mark.parametrize(
    "tail, text",
    [
        ("[architectures]\nwide = 3\n", "architectures holds tables, written [architectures.NAME]"),
        ("[architectures.wide]\nhbm_bytes = 3\n", "architectures.wide.hbm_bytes: unknown figure of an architecture"),
        ("[architectures.wide]\ncompute_capability = 9\n", "architectures.wide.compute_capability must be text"),
        ("[architectures.wide]\nregisters = { value = true, source = 'x y' }\n", "'True' is no number of at least 1"),
    ],
)
def test_an_architecture_with_an_error_is_refused(tmp_path, tail, text):
    path = tmp_path / "mine.toml"
    path.write_text(MINE + 'architecture = "wide"\n' + RATES + tail)
    with pytest.raises(InputError) as e:
        get(str(path))
    assert text in str(e.value)


@pytest.mark.parametrize("value", ["0", "-0.5", "1.01", "nan", "true"])
def test_a_share_is_above_zero_and_at_most_one(tmp_path, value):
    path = tmp_path / "mine.toml"
    path.write_text(MINE + f'sustained_tensor_fraction = {{ value = {value}, source = "me" }}\n' + RATES)
    with pytest.raises(InputError, match="is no fraction, above 0 and at most 1"):
        get(str(path))


def test_exponentials_of_an_h100_are_as_published():
    """FlashAttention-3, section 3.1: 3.9 TFLOPS of special functions."""
    h = get("h100-sxm")
    assert h.figure("processors") * h.figure("clock_hz") * h.figure("exp_per_clock") == pytest.approx(3.9e12, rel=0.01)
    assert h.exp_rate == 132 * 16 * 1_980_000_000, "the bound takes the highest clock"


def test_short_names_are_of_accelerators_that_there_are():
    assert set(SHORT.values()) <= set(names())
    assert not set(SHORT) & set(names())
    assert get("a100_sxm") == get("a100-sxm-80g")


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


def test_a_cache_of_unknown_size_may_hold_everything(capsys):
    g = get("b300-sxm")
    assert "l2_bytes" not in g.figures
    assert bound(g, "bf16", 0, 0, 10**12, l2_warm=True).hbm_s == 0
    c = am.cost("gqa", seq=8192, heads=32, phase="decode", gpu="b300-sxm", l2="warm")
    assert any("has no figure for its size" in a for a in c.estimate.assumed)
    assert "has no figure for its L2" in str(c)


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
