"""The time model against measured kernels where they are at hand, and its laws where they are not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, shared
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from attnmath.hardware import constants, get, timing
from attnmath.hardware.calibrate import Case, addresses, estimate, fit, run
from attnmath.hardware.constants import ENGINE, KERNEL, OF_PHASE, SHARED, Book, built_in
from attnmath.hardware.kernels import ENGINES, kernel_of
from attnmath.hardware.machine import Machine, machine
from attnmath.hardware.timing import Shape

pytest.importorskip("pandas", reason="the benchmark's tables need pandas")
sys.path.insert(0, str(ROOT / "benchmarks" / "latency"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation
import floors
import measures
import report

GPUS = ("a100-sxm-80g", "h100-sxm", "b200-sxm", "l40s")
RATES = ("clock_hz", "hbm_bytes_per_s", "flop_per_clock", "exp_per_clock", "fp32_lanes", "smem_bytes_per_clock")


@st.composite
def jobs(draw) -> tuple[str, str, str, Shape]:
    """(accelerator, engine, phase, shape) of a kernel that is modelled, in whole heads, tokens and sequences."""
    gpu, phase = draw(st.sampled_from(GPUS)), draw(st.sampled_from(("prefill", "decode", "encoder")))
    engine = draw(st.sampled_from([e for e in ENGINES if ENGINES[e][phase].get(get(gpu).architecture)]))
    kv_heads, group = draw(st.sampled_from((1, 2, 4, 8, 32))), draw(st.sampled_from((1, 2, 4, 8, 16)))
    width = float(draw(st.sampled_from((64, 128, 256))))
    tokens = draw(st.integers(1, 1 << 15))
    seq = 1 if phase == "decode" else tokens
    window = float(draw(st.sampled_from((0, 0, 512)))) * (phase != "encoder")
    return (gpu, engine, phase, Shape(
        float(draw(st.sampled_from((1, 2, 7, 64, 512)))), float(seq), float(tokens), float(kv_heads * group),
        float(kv_heads), width, width, window, phase != "encoder",
    ))  # fmt: skip


def time_s(gpu: str, engine: str, phase: str, shape: Shape, m: Machine | None = None, warm: bool = True) -> float:
    kernel = kernel_of(engine, phase, get(gpu).architecture)
    k, _ = built_in().of(kernel, engine, phase)
    return float(run(phase, engine, kernel, m or machine(get(gpu)), shape, k, warm).time_s)


# -- laws


@given(jobs(), st.booleans())
def test_no_estimate_is_below_the_bound(job, warm):
    """max(tensor, exp, bytes / bandwidth), the bytes of a warm replay less the L2; the model is not told of it."""
    gpu, engine, phase, s = job
    g, m = get(gpu), machine(get(gpu))
    scores = ablation.pairs(s) * s.batch * s.heads
    seen = min(s.context, s.window + s.seq - 1) if s.window else s.context
    moved = 2 * s.batch * (s.seq * s.heads * (s.head_dim + s.v_head_dim) + seen * s.kv_heads * s.cached)
    bound_s = max(
        2 * scores * (s.head_dim + s.v_head_dim) / g.tensor_rate("bf16"),
        scores / g.exp_rate,
        max(0.0, moved - warm * m.l2_bytes) / m.hbm_bytes_per_s,
    )
    assert time_s(*job, warm=warm) >= bound_s


@given(jobs(), st.sampled_from(("batch", "heads", "seq")))
def test_four_times_the_work_never_takes_less(job, what):
    """More sequences, heads (of queries and keys alike) or tokens: within a tenth, which waves may shift, and the step that
    joins split keys, which a kernel's own heuristic takes for few short sequences and spares for more of them.
    """
    gpu, engine, phase, s = job
    if what == "seq":
        more = replace(s, context=4 * s.context, seq=s.seq if phase == "decode" else 4 * s.seq)
    elif what == "heads":
        more = replace(s, heads=4 * s.heads, kv_heads=4 * s.kv_heads)
    else:
        more = replace(s, batch=4 * s.batch)
    kernel = kernel_of(engine, phase, get(gpu).architecture)
    k, _ = built_in().of(kernel, engine, phase)
    joined_s = timing.launch_share(machine(get(gpu)), k) * k["combine_us"] * 1e-6
    assert time_s(gpu, engine, phase, more) >= 0.9 * time_s(gpu, engine, phase, s) - joined_s


@given(jobs())
def test_a_cold_cache_is_never_faster(job):
    assert time_s(*job, warm=False) >= time_s(*job, warm=True)


@given(jobs(), st.sampled_from(("all", *RATES)))
def test_a_faster_accelerator_is_never_slower(job, rate):
    """Any one rate doubled, or all of them: what is cut does not change, so no wave does."""
    gpu, engine, phase, s = job
    m = machine(get(gpu))
    faster = replace(m, **{r: 2 * getattr(m, r) for r in (RATES if rate == "all" else (rate,))})
    assert time_s(gpu, engine, phase, s, faster) <= time_s(gpu, engine, phase, s, m) * (1 + 1e-9)
    if rate == "all":
        assert time_s(gpu, engine, phase, s, faster) < time_s(gpu, engine, phase, s, m)


# -- fitting


def planted(book: Book) -> list[Case]:
    """Times that the model itself gives with a book's constants, over a grid of shapes, as if they were measured."""
    grid = np.array(
        [
            (b, n, h, g, d)
            for b in (1, 4, 32, 256)
            for n in (64, 192, 512, 1536, 4096, 32768)
            for h, g in ((8, 8), (32, 8), (64, 4))
            for d in (64, 128, 256)
        ],
        float,
    )
    b, n, h, g, d = grid.T
    cases = []
    for phase, seq in (("prefill", np.minimum(n, 8192.0)), ("decode", np.ones(len(n)))):
        for gpu, engine in (("h100-sxm", "vllm"), ("h100-sxm", "sglang")):
            shape = Shape(b, seq, np.minimum(n, 8192.0) if phase == "prefill" else n, h, g, d, d)
            kernel = kernel_of(engine, phase, "hopper")
            case = Case(phase, gpu, engine, kernel, machine(get(gpu)), shape, np.ones(len(n)))
            cases.append(replace(case, measured_s=estimate(case, book)))
    return cases


PLANTED = {
    "mma_efficiency": 0.7,
    "overlap": 0.6,
    "block_cycles": 3500.0,
    "tile_cycles": 150.0,
    "exposed": 0.4,
    "hbm_efficiency": 0.83,
    "combine_us": 2.5,
    "part_cycles": 150.0,
    "launch_us": 7.0,
    "write_bytes_per_clock": 6.0,
    "token_cycles": 300.0,
}


def test_the_fit_finds_constants_that_were_planted():
    """Times to 4 %; to a fifth the constants that show by themselves."""
    start = Book(built_in().shared, {}, {}, {}, {}, "")
    tables: dict[str, dict] = {"kernels": {}, "engines": {}}
    blank = planted(built_in())
    for kind, name, phase, constant in addresses(blank):
        tables[kind].setdefault(name, {}).setdefault(phase, {})[constant] = PLANTED[constant]
    true = replace(start, **tables)
    cases = planted(true)
    for phase in ("prefill", "decode"):
        own = [c for c in cases if c.phase == phase]
        found = fit(own, start, rounds=60)
        for c in own:
            assert np.abs(estimate(c, found) / c.measured_s - 1).max() < 0.04, phase
        shown = {"prefill": ("block_cycles", "launch_us"), "decode": ("hbm_efficiency", "launch_us", "block_cycles")}
        values = found.kernels["flash-attention-3"][phase] | found.engines["vllm"][phase]
        for name in shown[phase]:
            assert values[name] == pytest.approx(PLANTED[name], rel=0.2), (phase, name)


def test_wrong_times_are_noticed_by_the_fit():
    """The fault of the test above: times of another model do not fit."""
    c = planted(built_in())[2]
    twisted = replace(c, measured_s=c.measured_s * np.where(c.shape.heads > 8, 3.0, 1.0))
    found = fit([twisted], Book(built_in().shared, {}, {}, {}, {}, ""))
    assert np.abs(estimate(twisted, found) / twisted.measured_s - 1).max() > 0.1


@pytest.mark.parametrize("name", [*KERNEL, *ENGINE, *SHARED])
def test_constants_outside_physics_are_refused(name):
    tables = {
        **({"kernels": {"xqa": {"decode": {name: -1.0}}}} if name in KERNEL else {}),
        **({"engines": {"vllm": {"decode": {name: -1.0}}}} if name in ENGINE else {}),
        **({"shared": {name: -1.0}} if name in SHARED else {}),
    }
    with pytest.raises(constants.InputError, match=f"{name}: -1.0 is outside what physics allows"):
        constants.book(tables, "mine.toml")


def test_every_fitted_constant_is_inside_and_of_the_tables():
    for kind, meanings in (("kernels", KERNEL), ("engines", ENGINE)):
        for rows in getattr(built_in(), kind).values():
            for phase, values in rows.items():
                assert set(values) == set(OF_PHASE[phase][kind == "engines"])
                assert all(meanings[k].low <= v <= meanings[k].high for k, v in values.items())


# -- the benchmark


def test_every_constant_and_assumed_figure_has_its_ablation():
    assert {*KERNEL, *ENGINE, *SHARED} <= set(ablation.EACH)
    assert {f for e in ablation.EACH.values() for f in e.machine} <= set(Machine.__struct_fields__)
    stages = ablation.stages()
    assert len(stages) == len(ablation.STAGES) + 1
    assert not stages[-1][1] and not stages[-1][2], "the last stage is the whole model"
    assert {c for part in stages[0][1] for c in part.constants} <= {*KERNEL, *ENGINE, *SHARED}


def test_stages_end_at_the_model_and_start_at_a_roofline():
    (case,) = [c for c in planted(built_in()) if c.phase == "prefill" and c.engine == "vllm"]
    _, none, whole = ablation.stages()[-1]
    cuts = tuple(ablation.cuts(case, whole))
    assert np.allclose(ablation.estimate(case, built_in(), cuts, none), estimate(case, built_in()))
    _, all_, coarse = ablation.stages()[0]
    cuts = tuple(ablation.cuts(case, coarse))
    found = ablation.estimate(case, built_in(), cuts, all_)
    s, m = case.shape, case.machine
    scores = ablation.pairs(s) * s.batch * s.heads
    peak = m.processors * m.clock_hz * m.flop_per_clock
    both = s.head_dim + s.v_head_dim
    moved = 2 * s.batch * (s.seq * s.heads + s.context * s.kv_heads) * both
    stored = 4 * s.batch * s.seq * s.kv_heads * both
    roofline_s = np.maximum(2 * both * scores / peak, moved / m.hbm_bytes_per_s) + stored / m.hbm_bytes_per_s
    assert np.allclose(found, roofline_s, rtol=0.01)


@pytest.mark.parametrize(
    ("seq", "context", "window"), [(1, 1, 0), (7, 7, 0), (5, 9, 0), (9, 9, 4), (3, 9, 4), (9, 9, 20)]
)
def test_pairs_are_those_that_one_counts(seq, context, window):
    counted = sum(1 for t in range(seq) for n in range(context) if 0 <= t + context - seq - n < (window or context + 1))
    assert ablation.pairs(Shape(1.0, float(seq), float(context), 1.0, 1.0, 1.0, 1.0, float(window))) == counted


def test_the_report_shows_the_constants_there_are():
    text = (ROOT / "reports" / "time-model.md").read_text()
    assert report.constants(built_in()) in text, "run `python benchmarks/latency/run.py --write`"
    assert len((ROOT / "reports" / "time-model.svg").read_bytes()) < 300_000


def test_without_measurements_it_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/latency/run.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: no measurements at hand")


# -- measured kernels


CEILINGS = {  # median and 90th percentile of |estimate / measured - 1|, %
    "prefill": {"a100-sxm-80g": (6, 20), "h100-sxm": (7, 19), "b200-sxm": (9, 22), "l40s": (8, 22)},
    "decode": {"a100-sxm-80g": (8, 20), "h100-sxm": (8, 26), "b200-sxm": (5, 18), "l40s": (7, 24)},
    "encoder": {"h100-sxm": (6, 17), "b200-sxm": (6, 14), "l40s": (9, 23)},
    "mla_prefill": {"h100-sxm": (8, 25), "b200-sxm": (5, 14)},
    "mla_decode": {"h100-sxm": (6, 19), "b200-sxm": (7, 33)},
}
SAMPLE = 6000


@pytest.fixture(scope="module")
def table():
    pytest.importorskip("pyarrow")
    return measures.data.table(shared("measured", "dev.parquet").parent)


def test_measured_kernels_are_within_the_ceilings(table):
    """Of a sample with a fixed seed, of every phase and accelerator."""
    core = table[(table.protocol == "core") & table.op.isin(["attention", "encoder_attention", "mla"])]
    rows = measures.estimated(core.sample(SAMPLE, random_state=1), built_in())
    found = measures.by(rows, "phase", "gpu")
    for phase, gpus in CEILINGS.items():
        for gpu, (median, p90) in gpus.items():
            own = found.loc[phase, gpu]
            assert own["median"] <= median, (phase, gpu)
            assert own["p90"] <= p90, (phase, gpu)
            assert own["rank"] > 0.95, (phase, gpu)


def test_without_a_part_the_model_is_worse(table):
    """The fault of the test above: a model without launches or without blocks misses the ceilings."""
    core = table[(table.protocol == "core") & (table.op == "attention")].sample(3000, random_state=1)
    cases = [c for c, _ in measures.data.cases(core)]

    def error(*without: str) -> float:
        parts = [ablation.EACH[w] for w in without]
        rows = measures.flat((c, ablation.estimate(c, built_in(), (), parts)) for c in cases)
        return float(measures.measured(rows)["median"])

    whole = error()
    for part in ("launch_us", "block_cycles", "mma_efficiency", "hbm_efficiency"):
        assert error(part) > 1.05 * whole, part


def test_no_measured_time_is_below_its_bound(table):
    found = floors.shares(table)
    assert found.below.sum() == 0
    assert found.rows.sum() == len(table)
    assert found.iloc[:, 5].min() < 1.2, "a bound that nothing comes near would say nothing"


def test_the_bounds_in_closed_form_are_those_of_the_pages(table):
    import bounds

    attention = table[table.op.isin(["attention", "encoder_attention"])]
    for _, rows in attention.groupby(["op", "phase"], observed=True):
        some = rows.sample(60, random_state=3)
        read = np.array([bounds.work(row) for row in some.itertuples()], float)
        assert (read == np.array(floors.work(some)).T).all()


def test_errors_are_those_of_the_script_that_comes_with_the_data(table, tmp_path):
    import json

    rows = measures.chosen(measures.estimated(table, built_in()), "core")
    path = tmp_path / "pred.csv"
    rows.assign(pred_ms=rows.estimated_s * 1e3)[["id", "pred_ms"]].to_csv(path, index=False)
    for op, phases in (("attention", ("prefill", "decode")), ("mla", ("mla_prefill", "mla_decode"))):
        script = [sys.executable, str(shared("measured", "score.py")), str(path), "--op", op, "--json"]
        scored = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
        ours = measures.over_gpus(rows)
        for row in scored["mean over GPUs"] if op == "attention" else ():
            assert ours.loc[row["phase"], "median"] == pytest.approx(row["median"], rel=1e-6)
            assert ours.loc[row["phase"], "p90"] == pytest.approx(row["p90"], rel=1e-6)
        names = {v: k for k, v in measures.data.GPUS.items()}
        engines = measures.by(rows, "phase", "gpu", "engine")
        for row in scored["by GPU and engine"] if op == "attention" else ():
            own = engines.loc[row["phase"], measures.data.GPUS[row["gpu"]], row["engine"]]
            for name in ("median", "p90", "bias"):
                assert own[name] == pytest.approx(row[name], rel=1e-6), name
            assert own["rank"] == pytest.approx(row["spearman"], rel=1e-6)
        assert names
