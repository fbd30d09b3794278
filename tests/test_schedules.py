"""Schedules: tiles under masks, traffic against walked loops, streams against the page they rewrite (and tests/test_laws.py)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnmath as am
from attnmath import layers, variants
from attnmath.errors import InputError, NoClosedForm, NoSchedule
from attnmath.hardware.tiles import tile_count
from attnmath.keys import KEYS, Reading
from attnmath.language import tiles as tiling
from attnmath.language.masks import build_text
from attnmath.language.ops import OPS
from attnmath.language.parse import program
from attnmath.language.tiles import Grid, floor_sum
from attnmath.readings import streams
from attnmath.readings import traffic as moving
from attnmath.readings.count import count, total
from attnmath.readings.memory import Core
from attnmath.readings.schedules import SCHEDULES, bound, misfit, named, on_chip, parse, region
from attnmath.readings.traffic import Traffic
from attnmath.verifying.cases import Case
from attnmath.verifying.judge import number
from attnmath.verifying.laws import both_ways, walked_loops
from attnmath.verifying.loops import NARROW, LoopWalk, allowed, cut

# -- tiles: `attnmath/verifying/laws.py` counts them one by one


@pytest.mark.parametrize(
    "mask", ["full", "causal", "window(64)", "chunked(64)", "prefix(9)", "documents(70, 930)", "around(9)"]
)
@pytest.mark.parametrize("sides", [(128, 64), (64, 128), (16, 16), (48, 16)])
def test_what_a_sweep_asks_for_has_a_closed_form(mask, sides):
    if mask == "chunked(64)" and 64 % sides[1]:
        pytest.skip("tiles of keys that do not divide a chunk: refused")
    past = np.array([0.0, 999.0, 300.0])
    t = 1000.0 - past
    got = Grid(t, 1000.0 + 0 * t, past, *sides).tiles(build_text(mask))
    want = [Grid(int(x), 1000, int(p), *sides).tiles(build_text(mask)) for x, p in zip(t, past)]
    assert np.broadcast_to(got, 3).tolist() == want


def test_without_a_closed_form_arrays_are_refused_and_integers_counted():
    t = np.array([100.0])
    for mask in ("chunked(7)", "causal & dilated(50)"):
        with pytest.raises(NoClosedForm):
            Grid(t, t, 0 * t, 16, 16).tiles(build_text(mask))
        found = [any(map(any, x)) for x in cut(allowed(mask, 100, 100, 0), 16, 16)]
        assert Grid(100, 100, 0, 16, 16).tiles(build_text(mask)) == sum(found)


@given(
    st.integers(1, 999),
    st.integers(0, 999),
    st.integers(1, 8),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(0, 300),
)
def test_the_time_models_tiles_are_these(t, past, packed, rows, cols, window):
    """Two derivations of the same number, which share no code: that one knows causal masks and windows."""
    mask = build_text(f"window({window})" if window else "causal")
    visits = tile_count(float(t), float(t + past), float(packed), float(rows), float(cols), True, float(window)).visits
    assert Grid(t, t + past, past, rows, cols, packed).tiles(mask) == visits


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 90), st.integers(0, 90))
def test_a_sum_of_floors(n, m, a, b):
    want = sum((a * k + b) // m for k in range(n))
    assert floor_sum(n, m, a, b) == want == floor_sum(*(np.array([float(x)]) for x in (n, m, a, b))) + 0


def test_a_mask_without_a_pair_has_no_tile():
    grid, empty = Grid(8, 8, 0, 2, 2), build_text("before & around(2) & dilated(3)")
    assert (grid.tiles(empty), grid.full(empty)) == (0, 0)


# -- traffic, walked tile by tile

SIZES = {"b": 2, "t": 12, "n": 12, "g": 2, "r": 2, "d": 4, "e": 3, "past": 0}
READS, WRITES = {"Q": "btgrd", "K": "bngd", "V": "bnge"}, {"O": "btgre"}


def read(text, sizes=SIZES, mask="causal", cache=None):
    page = layers.build("gqa", (), mask).form()
    return Traffic(Core(page, sizes, "bf16", "bf16"), parse(text), cache_bytes=cache)


def walked(text, sizes, mask, lru=None):
    """Bytes of the loops, run."""
    return LoopWalk(text, sizes, mask, READS, WRITES, lru).total


def grouped(mask, uses=(), **sizes):
    """A case of grouped queries."""
    given = {"b": 2, "h": 4, "g": 2, "d": 4, "e": 3, "m": 2, **sizes}
    return Case(layers.build("gqa", uses, mask), "definition", given)


NESTS = [
    "b g r t/{} n/{}",
    "b g r n/{1} t/{0}",
    "b g r z=3 t/{} n/{}",
    "g b t/{} r n/{}",
    "r b g t/{} n/{}",
    "n/{1} b g t/{0} r",
]
TILES = [(4, 4), (2, 2), (4, 2), (2, 4), (12, 4), (5, 3), (4, 12)]


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("sides", TILES)
@pytest.mark.parametrize(
    "mask", ["causal", "causal & window(5)", "full", "prefix(4)", "window(3) | first(2)", "chunked(4)"]
)
@pytest.mark.parametrize(("t", "past"), [(12, 0), (5, 7), (1, 11)])
def test_traffic_is_what_the_loops_move(nest, sides, mask, t, past):
    case, text = grouped(mask, t=t, n=t + past), nest.format(*sides)
    (compared,) = walked_loops(case, text)
    assert compared.holds, compared
    found = Traffic(Core(case.page, case.sizes, "bf16", "bf16"), parse(text))
    assert found.total == sum(moved for _, moved in found.parts)


TRAFFIC_FAULTS = {
    "every tile is visited": lambda m: m.setattr(
        Grid, "moved", lambda s, mask, q, k, _m=Grid.moved: _m(s, build_text("full"), q, k)
    ),
    "the last tile is as large as the others": lambda m: m.setattr(tiling, "_nothing", lambda x: True),
    "a loop of one turn moves": lambda m: m.setattr(Traffic, "_moves", lambda self, loop: True),
    "results stay on the chip": lambda m: m.setattr(Traffic, "_adding", lambda self, name: []),
    "statistics are forgotten": lambda m: m.setattr(Traffic, "_statistics", lambda self, k: 0),
    "accumulators are narrow": lambda m: m.setattr(moving, "state_bits", lambda dtype: 16),
    "loops inside a tensor's own count": lambda m: m.setattr(
        Traffic, "_path", lambda self, index: (self.schedule.loops, 0)
    ),
    "staircases have one step too few": lambda m: m.setattr(
        tiling, "_falling", lambda x, step, _f=tiling._falling: _f(x - step, step)
    ),
    "the past is forgotten": lambda m: m.setattr("attnmath.readings.count.Space.past", lambda self, q: 0),
}


@pytest.mark.parametrize("fault", TRAFFIC_FAULTS)
def test_wrong_traffic_is_caught(fault, monkeypatch):
    def agree():
        cases = itertools.product(NESTS[:3], TILES, ["causal", "window(3)"], [(12, 0), (5, 7)])
        for nest, sides, mask, (t, past) in cases:
            if not all(c.holds for c in walked_loops(grouped(mask, t=t, n=t + past), nest.format(*sides))):
                return False
        return True

    assert agree()
    TRAFFIC_FAULTS[fault](monkeypatch)
    assert not agree()


@pytest.mark.parametrize("fault", ["holds everything", "holds nothing"])
def test_a_wrong_cache_is_caught(fault, monkeypatch):
    sizes = {**SIZES, "t": 32, "n": 32, "d": 8, "e": 8}
    found = {lru: walked("b g r t/4 n/4", sizes, "full", lru) for lru in (256, 4096)}
    agree = lambda: all(read("b g r t/4 n/4", sizes, "full", lru).total == want for lru, want in found.items())
    assert agree()
    monkeypatch.setattr(Traffic, "_touched", lambda self, at: 0 if fault == "holds everything" else 10**9)
    assert not agree()


@pytest.mark.parametrize("sides", [(4, 4), (4, 2), (2, 4)])
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_a_cache_that_holds_one_turn_saves_its_rereads(sides, mask):
    """The stated rule against a cache that forgets what was used longest ago, well above and well below what it needs."""
    sizes = {**SIZES, "t": 32, "n": 32, "d": 8, "e": 8}
    text = "b g r t/{} n/{}".format(*sides)
    one_turn = (2 * 32 * 8 + 2 * sides[0] * 8) * NARROW  # keys, values, a tile of queries and of results
    for lru in (one_turn + 32 * 8 * NARROW * 2, 10 * one_turn):
        assert read(text, sizes, mask, lru).total == walked(text, sizes, mask, lru)
    small = (2 * sides[0] + 2 * sides[1]) * 8 * NARROW
    if mask == "full":  # a causal walk turns round at its first tiles, which are still there
        assert read(text, sizes, mask, small).total == walked(text, sizes, mask, small) == read(text, sizes, mask).total
    assert (
        read(text, sizes, mask, 10**9).total
        == am.cost("gqa", batch=2, seq=32, heads=4, kv_heads=2, head_dim=8, mask=mask).hbm_bytes.compulsory
    )


def test_flash_attention_moves_what_its_paper_says():
    """Dao et al. 2022, algorithm 1 and theorem 2: K and V once, and for each of the N / Bc blocks of keys Q once, O twice and
    two statistics twice; with Bc = M / 4d and Br = min(Bc, d) that grows as N^2 d^2 / M.
    """
    n, d = 4096, 64
    found = {}
    for sram in (2**14, 2**15, 2**16):  # elements
        cols = -(-sram // (4 * d))
        rows = min(cols, d)
        c = am.cost("mha", seq=n, heads=1, head_dim=d, mask="full", dtype="fp32", schedule=f"b h n/{cols} t/{rows}")
        assert c.hbm_bytes.fused == 4 * (2 * n * d + n // cols * (3 * n * d + 4 * n))
        found[sram] = c.hbm_bytes.fused / (4 * n * n * d * d / sram)
        assert on_chip(named("flash-1"), rows, cols, d, d, "fp32").smem_bytes <= 4 * sram
    assert all(12 <= ratio <= 14 for ratio in found.values()), "a constant times N^2 d^2 / M"
    assert am.cost("mha", seq=n, heads=1, head_dim=d, mask="full", dtype="fp32").hbm_bytes.unfused > 4 * n * n


def test_queries_outer_beat_keys_outer_and_both_beat_unfused():
    c = {
        s: am.cost("gqa", seq=8192, heads=32, schedule=s).hbm_bytes.fused
        for s in ("unfused", "flash-1:n=128", "flash-2")
    }
    assert c["unfused"] > c["flash-1:n=128"] > c["flash-2"]


@pytest.mark.parametrize("name", sorted(variants.names()))
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_no_schedule_moves_less_than_it_must(name, schedule):
    """Every variant and schedule: at least each input and output once, or a reason why there is no number."""
    for form in variants.get(name).forms:
        window = {"window": 40} if name == "sliding-window" else {}
        try:
            c = am.cost(name, seq=192, heads=8, form=form, schedule=schedule, **window)
        except NoSchedule as error:
            assert len(str(error)) > 20
            continue
        assert c.hbm_bytes.fused >= c.hbm_bytes.compulsory
        assert c.memory_bytes.fused >= c.readings[0].core.fused
        assert c.intensity.fused == c.flops.matmul / c.hbm_bytes.fused
        assert c.inputs["schedule"].startswith(schedule)


def test_keys_that_are_values_as_well_are_loaded_once():
    """Multi-query attention with tied values is shared in two ways; a tile of queries that takes all loads each key once."""
    sizes = {"seq": 64, "heads": 2, "head_dim": 16, "mask": "full"}
    c = am.cost("mqa", modifiers=["tied"], schedule="b h t/64 n/64", **sizes)
    assert c.hbm_bytes.fused == c.hbm_bytes.compulsory == 2 * 64 * 16 * (2 * 2 + 1)
    assert am.cost("mqa", schedule="b h t/64 n/64", **sizes).hbm_bytes.fused == c.hbm_bytes.fused + 2 * 64 * 16


def test_a_recursion_reads_what_it_needs_once_for_each_head_that_needs_it():
    """Mamba-2's B and C serve all heads of a group: heads walked one by one read them once each; all else once."""
    for schedule, form in (("recurrent", "recurrent"), ("chunked", "chunked")):
        c = am.cost("mamba2", seq=256, heads=4, head_dim=16, form=form, schedule=schedule)
        shared = 2 * 256 * 16 * 2
        assert c.hbm_bytes.fused == c.hbm_bytes.compulsory + (4 - 1) * shared
    assert am.cost("lightning-attention", seq=256, heads=4, form="recurrent").hbm_bytes.fused == (
        am.cost("lightning-attention", seq=256, heads=4, form="recurrent").hbm_bytes.compulsory
    )


def test_arrays_of_sizes_are_read_at_once():
    """float64 arrays, as a sweep has them, against integers one by one."""
    page = variants.get("gqa").program
    lengths = [200, 1000, 8192]
    sizes = {**SIZES, "t": np.array(lengths, float), "n": np.array(lengths, float), "past": np.zeros(3)}
    for schedule in ("flash-2", "flash-1:n=96", "ring:z=2", "split-kv"):
        got = Traffic(Core(page, sizes, "bf16", "bf16"), parse(schedule)).total
        want = [Traffic(Core(page, {**SIZES, "t": x, "n": x}, "bf16", "bf16"), parse(schedule)).total for x in lengths]
        assert np.asarray(got).tolist() == want
    mixed = {**sizes, "t": np.array([1.0, 200.0, 300.0])}
    with pytest.raises(NoClosedForm, match="split it"):
        _ = Traffic(Core(page, mixed, "bf16", "bf16"), named("flash-1")).total


# -- formulas


@given(
    st.sampled_from(["causal", "full", "window(200)", "chunked(256)", "prefix(64)"]),
    st.sampled_from(
        [
            "flash-2",
            "flash-1",
            "flash-3",
            "paged",
            "ring",
            "memory-efficient",
            "split-kv",
            "flash-2-packed",
            "b h t/64 n/96",
        ]
    ),
    st.integers(1, 600),
    st.integers(0, 600),
)
def test_formulas_are_the_numbers_and_hold_where_their_regime_does(mask, schedule, t, past):
    c = am.cost("mqa", seq=t, context=t + past, heads=4, head_dim=8, mask=mask, schedule=schedule)
    for key in ("hbm_bytes.fused", "memory_bytes.fused"):
        if key not in c.formulas:
            assert c.regime[key][0].startswith("no formula")
            continue
        at = dict(c.readings[0].sizes)
        assert number(c.formulas[key], at) == c[key]
        conditions = [x for x in c.regime.get(key, []) if ">=" in x]
        assert all(number(x, at) for x in conditions)
        elsewhere = {**at, "t": t + 64, "n": t + past + 64}
        if all(number(x, elsewhere) for x in conditions):
            there = am.cost("mqa", seq=t + 64, context=t + past + 64, heads=4, head_dim=8, mask=mask, schedule=schedule)
            assert number(c.formulas[key], elsewhere) == there[key], (c.formulas[key], conditions)


@pytest.mark.parametrize("schedule", ["flash-2", "flash-1:n=128", "paged", "b g r t/64 n/128", "ring:z=4"])
@pytest.mark.parametrize(("seq", "context"), [(8192, 8192), (1, 8192), (300, 1000), (40, 40)])
def test_sympy_reads_the_same(schedule, seq, context):
    options = {"seq": seq, "context": context, "heads": 8, "kv_heads": 2, "head_dim": 16, "schedule": schedule}
    c = am.cost("gqa", **options)
    try:
        f = am.formula("gqa", "hbm_bytes.fused", **options)
    except NoClosedForm:
        assert "ring" in schedule
        return
    at = {str(x): c.readings[0].sizes.get(str(x), {"h": 8}.get(str(x))) for x in f.free_symbols}
    assert f.subs({x: at[str(x)] for x in f.free_symbols}) == c.hbm_bytes.fused


# -- streams: the same values, block of keys by block


def test_the_running_maximum_is_needed_and_scores_below_zero_are_no_trouble():
    """Scores of plus and minus a thousand, and first blocks that a query sees nothing of."""
    q = np.full((1, 6, 1, 4), 20.0)
    k, v = np.linspace(-30, 30, 24).reshape(1, 6, 1, 4), np.arange(24.0).reshape(1, 6, 1, 4)
    for keys in (k, -k, k - 60):
        for mask in ("causal", "window(2)", "full"):
            want = am.evaluate("mha", {"Q": q, "K": keys, "V": v}, mask=mask)["O"]
            got = am.evaluate("mha", {"Q": q, "K": keys, "V": v}, mask=mask, schedule="flash-2:n=2")["O"]
            assert np.abs(got - want).max() < 1e-10
            split = am.evaluate("mha", {"Q": q, "K": keys, "V": v}, mask=mask, schedule="split-kv:z=3,n=1")["O"]
            assert np.abs(split - want).max() < 1e-10


def test_a_first_block_of_another_document_is_none_at_all():
    """Scores far below zero, in the second document, after a block of keys that all are in the first."""
    case = grouped("causal", ["packed"], b=1, t=6, n=6)
    inputs, past = case.arrays
    inputs = {**inputs, "doc": np.array([[1.0, 1, 1, 1, 2, 2]]), "WK": -inputs["WQ"][:, :, 0], "X": np.abs(inputs["X"])}
    got, want = both_ways(case, "flash-2:n=2", 1, {n: 40 * x if n != "doc" else x for n, x in inputs.items()}, past)
    assert np.abs(want).max() > 1
    assert np.abs(got - want).max() <= 1e-10 * np.abs(want).max()


STREAM_FAULTS = {
    "what was summed does not shrink": lambda m: m.setattr(
        streams._Stream,
        "running",
        lambda s, run_, more: streams.Equation(run_, (streams.Op("+", (streams._before(run_), more)),)),
    ),
    "a block that nobody sees counts as zeros": lambda m: m.setitem(OPS, "only", replaced("only", lambda np, a: 0 * a)),
    "the last block is whole": lambda m: m.setattr(streams, "both", lambda a, b: a),
    "a sink joins every block": lambda m: m.setattr(
        streams._Stream, "whole", lambda s, total, top: streams.Op("+", (total, total))
    ),
    "the first maximum is zero": lambda m: m.setattr(streams, "LOWEST", 0.0),
}


def replaced(name, f):
    row = OPS[name]
    return type(row)(**{n: f if n == "run" else getattr(row, n) for n in row.__struct_fields__})


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_wrong_stream_is_caught(fault, monkeypatch):
    def agree():
        cases = [
            grouped("full", ["sink"], t=3, n=7),
            grouped("window(2)", t=7, n=7),
            grouped("full", t=3, n=8),
        ]
        for case, louder in itertools.product(cases, (8, 320)):
            got, want = both_ways(case, "flash-2:n=3", louder, *case.arrays)
            if not np.abs(got - want).max() <= 1e-10 * np.abs(want).max():
                return False
        return True

    assert agree()
    STREAM_FAULTS[fault](monkeypatch)
    assert not agree()


def test_streaming_costs_a_little_more_and_says_so():
    """Counted by the same counter: the shrinking, one more exponential for each query, head and block."""
    page = variants.get("gqa").program
    sizes = layers.build("gqa").sizes({"t": 4096, "h": 32, "g": 8})[0]
    more = streams.blocks(named("flash-2"), sizes)
    plain, streamed = count(page, sizes), count(streams.stream(page, named("flash-2")), {**sizes, **more})
    assert total(plain).matmul == total(streamed).matmul
    assert 0 < total(streamed).total / total(plain).total - 1 < 0.02
    assert sum(s.exps for s in streamed) == sum(s.exps for s in plain) + 32 * 4096 * (4096 // 64)


def test_what_is_not_linear_in_the_softmax_does_not_stream():
    text = "S[b h t n] = Q[b t h d] * K[b n h d]\nA[b h t n] = softmax_n(S[b h t n])\n"
    for last in ("O[b t h e] = A[b h t n] * A[b h t n] * V[b n h e]", "O[b t h e] = exp(A[b h t n]) * V[b n h e]"):
        with pytest.raises(NoSchedule, match="not linear in the softmax"):
            streams.stream(program(f"{text}{last}\nt sees n: causal"), named("flash-2"))


def test_what_does_not_stream_says_why():
    for name, form, why in [
        ("dsa", None, "data choose"),
        ("hca", None, "two kinds"),
        ("kda", "recurrent", "recursion"),
    ]:
        with pytest.raises(NoSchedule, match=why):
            streams.stream(layers.build(name).form(form), named("flash-2") if form is None else named("recurrent"))
    with pytest.raises(InputError, match="mask array"):
        one = np.ones((1, 2, 1, 4))
        am.evaluate("mha", {"Q": one, "K": one, "V": one}, mask=np.ones((2, 2), bool), schedule="flash-2")


# -- what users write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flash2", "did you mean 'flash-"),
        ("flash-4", "did you mean"),
        ("b h t/0 n/64", "a tile is a whole number from 1"),
        ("b h t/64 t/32", "t twice"),
        ("b h t/64 n/6x", "'n/6x' is no loop"),
        ("b h t/64 z n/64", "in how many parts"),
        ("b h t=8 n/64", "only z has a number of parts"),
        ("flash-2:t=0", "'t=0': a tile is"),
        ("flash-2:q=3", "'q' has no tile in flash-2"),
        ("b h t/99999999999999999999 n/64", "a tile is"),
        ("b " * 200, "characters; at most"),
        ("\x1b[31m", "is no loop"),
    ],
)
def test_schedules_that_do_not_parse(text, message):
    with pytest.raises(InputError) as error:
        parse(text)
    assert message in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b g h t/64 n/64", "no loop here steps along 'h'"),
        ("b heads g t/64 n/64", "g twice"),
        ("b heads d t/64 n/64", "no loop here steps along 'd'"),
        ("b heads n/64 z=4 t/64", "z before n"),
        ("b heads z=4 n/64 t/64", "t before n"),
        ("b heads (t d)/64 n/64", "only heads are packed"),
        ("chunked", "steps along 'c'"),
    ],
)
def test_loops_that_do_not_fit_the_page(text, message):
    with pytest.raises(InputError) as error:
        am.cost("gqa", seq=128, heads=4, schedule=text)
    assert message in str(error.value)


def test_loops_and_rows_say_what_they_are():
    for row in SCHEDULES.values():
        assert row.meaning and row.on_chip and row.source
        assert parse(row.name) is row or parse(row.name) == row
        assert row.name == "unfused" or parse(str(row)).loops == row.loops
    assert str(bound(named("flash-2"), variants.get("mla").program)) == "b h t/128 n/64"
    assert region(variants.get("gqa").program).softmax.out.name == "A"


# -- on the chip


def test_on_chip_bytes_are_those_that_kernels_ask_for():
    """FlashAttention-2 (kernel_traits.h: a tile of queries, one of keys and one of values) and 3 (tile_size.h: at head width
    128, 128 x 176 in two stages fits a Hopper's 227 KB, 128 x 256 does not).
    """
    assert on_chip(named("flash-2"), 128, 64, 128, 128).smem_bytes == 64 * 1024
    hopper = 227 * 1024
    assert not misfit(on_chip(named("flash-3"), 128, 176, 128, 128, stages=2), hopper, 256 * 1024)
    assert "shared memory" in misfit(on_chip(named("flash-3"), 128, 256, 128, 128, stages=2), hopper, 256 * 1024)
    assert "registers" in misfit(on_chip(named("flash-2"), 256, 256, 128, 128), hopper, 256 * 1024)
    assert on_chip(named("flash-1"), 64, 128, 64, 64).smem_bytes == (64 * 64 + 128 * 128) * 2
    with pytest.raises(InputError, match="rows: 0 is no size"):
        on_chip(named("flash-2"), 0, 64, 128, 128)


def test_memory_is_what_the_schedule_puts_there():
    sizes = {"seq": 1024, "heads": 4, "kv_heads": 2, "head_dim": 16}
    m = {s: am.cost("gqa", schedule=s, **sizes).memory_bytes.fused for s in SCHEDULES if s not in ("chunked",)}
    rows = 1024 * 4
    assert m["flash-2"] == m["flash-3"] == m["paged"] == 2 * (2 * 1024 * 4 * 16 + 2 * 1024 * 2 * 16)
    assert m["flash-1"] - m["flash-2"] == rows * (16 + 2) * 4
    assert m["ring"] - m["flash-2"] == rows * (16 + 2) * 4
    assert m["split-kv"] - m["flash-2"] == 8 * rows * (16 + 1) * 4
    assert m["memory-efficient:"[:-1]] > m["flash-1"]
    assert m["unfused"] == am.cost("gqa", **sizes).memory_bytes.unfused


def test_every_key_still_reads_what_it_read():
    """A schedule moves only the two keys that say so."""
    one, other = (
        Reading(variants.get("gqa").program, {**SIZES, "m": 16, "h": 4}, "bf16", "bf16", parse(s))
        for s in ("flash-2", "flash-1:n=4,t=4")
    )
    differ = {k for k, row in KEYS.items() if row.read(one) != row.read(other)}
    assert differ == {"hbm_bytes.fused", "memory_bytes.fused"}
