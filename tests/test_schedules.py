"""Schedules: tiles under masks against booleans, traffic against walked loops, streams against the page they rewrite."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import arrays, maskable
from oracle import PARTS, sees

import attnmath as am
from attnmath import layers, variants
from attnmath.errors import InputError, LanguageError, NoClosedForm, NoSchedule
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
from attnmath.readings.evaluate import run
from attnmath.readings.memory import Core
from attnmath.readings.schedules import SCHEDULES, bound, misfit, named, on_chip, parse, region
from attnmath.readings.traffic import Traffic

# -- tiles, counted one by one

MASKS = [
    "full",
    "causal",
    "causal_top_left",
    "before",
    "window(2)",
    "window(7)",
    "prefix(3)",
    "first(4)",
    "chunked(2)",
    "chunked(6)",
    "window(2) | first(1)",
    "prefix(3) & window(2)",
    "chunked(4) & window(3)",
    "chunked(4) & window(9)",
    "chunked(2) | window(2) | first(2)",
    "around(1)",
    "band(5, 2)",
    "causal & dilated(2)",
    "causal & (window(2) | dilated(3))",
    "causal & documents(2, 3, 14)",
    "documents(1, 2) | window(2)",
    "blocks(3)",
    "blocks_before(4)",
]
sides = st.one_of(st.none(), st.integers(1, 9))


def allowed(mask, t, n, past, packed=1):
    """Which pairs exist, by the oracle's own masks."""
    rows = [past + i for i in range(t) for _ in range(packed)]
    return np.array([[sees(mask, i, j, {"past": past}) for j in range(n)] for i in rows])


def cut(pairs, rows, cols):
    """The tiles of a table of booleans."""
    t, n = pairs.shape
    return [
        pairs[x : x + (rows or t), y : y + (cols or n)] for x in range(0, t, rows or t) for y in range(0, n, cols or n)
    ]


def counted(mask, t, n, past, rows, cols, packed):
    """(the grid, the mask, its tiles)."""
    built = build_text(mask, past=past)
    return Grid(t, n, past, rows, cols, packed), built, cut(allowed(mask, t, n, past, packed), rows, cols)


def tiles_agree(mask, t, n, past, rows, cols, packed):
    grid, built, found = counted(mask, t, n, past, rows, cols, packed)
    some = [x for x in found if x.any()]
    inside = {
        (q, k): sum((x.shape[0] if q else 1) * (x.shape[1] if k else 1) for x in some) for q in (0, 1) for k in (0, 1)
    }
    return grid.tiles(built) == len(some) and all(grid.moved(built, *by) == want for by, want in inside.items())


@given(
    st.sampled_from(MASKS), st.integers(1, 20), st.integers(0, 12), st.integers(1, 20), sides, sides, st.integers(1, 3)
)
def test_tiles_are_those_with_a_pair(mask, t, past, n, rows, cols, packed):
    n = n if mask == "full" or "blocks" in mask else t + past
    assert tiles_agree(mask, t, n, past, rows, cols, packed)


@given(st.sampled_from(MASKS), st.integers(1, 20), st.integers(0, 12), sides, sides, st.integers(1, 3))
def test_full_tiles_are_those_without_a_hole(mask, t, past, rows, cols, packed):
    grid, built, found = counted(mask, t, t + past, past, rows, cols, packed)
    try:
        got = grid.full(built)
    except LanguageError:  # chunks, strides and blocks: refused by name
        assert any(x in mask for x in ("chunked", "dilated", "blocks"))
        return
    assert got == sum(x.all() for x in found)


@given(st.sampled_from(MASKS), st.integers(0, 12), st.integers(1, 9), st.integers(1, 9), st.integers(1, 2))
def test_tiles_of_arrays_are_those_of_integers(mask, past, rows, cols, packed):
    """float64 arrays, as a sweep counts: in closed form, or not at all."""
    lengths = [1, 3, 8, 17]
    t, before = np.array(lengths, float), np.full(4, float(past))
    try:
        got = Grid(t, t + before, before, rows, cols, packed).tiles(build_text(mask, past=before))
    except NoClosedForm:
        return
    want = [Grid(x, x + past, past, rows, cols, packed).tiles(build_text(mask, past=past)) for x in lengths]
    assert np.broadcast_to(got, 4).tolist() == want


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
        found = [x.any() for x in cut(allowed(mask, 100, 100, 0), 16, 16)]
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


# -- traffic, walked tile by tile

SIZES = {"b": 2, "t": 12, "n": 12, "g": 2, "r": 2, "d": 4, "e": 3, "past": 0}
TENSORS = {"Q": "btgrd", "K": "bngd", "V": "bnge", "O": "btgre"}
WIDE = 4  # bytes of an accumulator
NARROW = 2  # and of everything else


class Walked:
    """The loops, run: tiles without an allowed pair are skipped, and what each visit brings in is added up.

    One slot per tensor, which is emptied when a loop outside its own, or its own, moves on; or, with `lru` bytes, a cache
    that keeps the blocks used last.
    """

    def __init__(self, text, sizes, mask, lru=None):
        self.sizes, self.lru, self.cache, self.used = sizes, lru, OrderedDict(), 0
        words = [w.replace("=", "/-") for w in text.split()]
        self.nest = [(w.split("/")[0], int(w.split("/")[1]) if "/" in w else 1) for w in words]
        self.names = [d for d, _ in self.nest]
        pairs, keys = allowed(mask, sizes["t"], sizes["n"], sizes["past"]), dict(self.nest).get("n", sizes["n"])
        parts = -dict(self.nest).get("z", -1)
        blocks = -(-sizes["n"] // keys)
        self.share = -(-blocks // parts)
        self.moved = dict.fromkeys(("Q", "K", "V", "travel", "parts"), 0)
        held: dict[str, tuple] = {}
        for at in itertools.product(*(range(self.turns(d, b)) for d, b in self.nest)):
            here = dict(zip(self.names, at))
            if "z" in here and here["n"] // self.share != here["z"]:
                continue
            q, k = self.span("t", here), self.span("n", here)
            if pairs[q[0] : q[1], k[0] : k[1]].any():
                for name in ("Q", "K", "V"):
                    self.load(name, here, held)
                self.accumulate(here, held)
        every = sizes["b"] * sizes["t"] * sizes["g"] * sizes["r"]
        if "z" in self.names and blocks > 1:  # every part writes its results, the combination reads them
            self.moved["parts"] = 2 * parts * every * (sizes["e"] + 1) * WIDE
        self.total = sum(self.moved.values()) + every * sizes["e"] * NARROW

    def turns(self, d, b):
        return -b if d == "z" else -(-self.sizes[d] // b)

    def span(self, d, here):
        b = dict(self.nest).get(d, self.sizes[d])
        return here.get(d, 0) * b, min((here.get(d, 0) + 1) * b, self.sizes[d])

    def elements(self, name, here):
        lengths = [b - a for a, b in (self.span(d, here) for d in TENSORS[name])]
        return int(np.prod(lengths))

    def depth(self, name):
        own = [k for k, (d, b) in enumerate(self.nest) if d in TENSORS[name] and self.turns(d, b) > 1]
        split = [k for k, d in enumerate(self.names) if d == "z" and self.turns("n", dict(self.nest)["n"]) > 1]
        return max([*own, *split], default=-1)

    def load(self, name, here, held):
        size = self.elements(name, here) * NARROW
        if self.lru is not None:
            block = (name, *(here[d] for d in self.names if d in TENSORS[name]))
            self.moved[name] += 0 if self.touch(block, size) else size
            return
        slot = tuple(here[d] for d in self.names[: self.depth(name) + 1])
        if held.get(name) != slot:
            held[name] = slot
            self.moved[name] += size

    def touch(self, block, size):
        """Whether a block is in the cache; it is the newest afterwards, and the oldest make room."""
        hit = block in self.cache
        self.cache[block] = size
        self.cache.move_to_end(block)
        while sum(self.cache.values()) > self.lru:
            self.cache.popitem(last=False)
        return hit

    def accumulate(self, here, held):
        """Results that leave the chip between visits are read and written each time, as they are stored at the last."""
        if self.lru is not None:
            self.touch(("O", *(here[d] for d in self.names if d in "btgr")), self.elements("O", here) * NARROW)
            return
        outer = self.names[: self.depth("O") + 1]
        if "n" in outer and "z" not in self.names and self.turns("n", dict(self.nest)["n"]) > 1:
            rows = self.elements("O", here) // self.sizes["e"]
            self.moved["travel"] += 2 * rows * (self.sizes["e"] + 2) * WIDE
            block = ("written", *(here[d] for d in outer if d != "n"))
            if block not in held:  # its last visit writes what is counted as the result
                held[block] = ()
                self.moved["travel"] -= rows * self.sizes["e"] * WIDE


def read(text, sizes=SIZES, mask="causal", cache=None):
    page = layers.build("gqa", (), mask).form()
    return Traffic(Core(page, sizes, "bf16", "bf16"), parse(text), cache_bytes=cache)


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
    sizes = {**SIZES, "t": t, "past": past}
    text = nest.format(*sides)
    found = read(text, sizes, mask)
    assert found.total == Walked(text, sizes, mask).total
    assert found.total == sum(moved for _, moved in found.parts)


TRAFFIC_FAULTS = {
    "every tile is visited": lambda m: m.setattr(
        Grid, "moved", lambda s, mask, q, k, _m=Grid.moved: _m(s, build_text("full"), q, k)
    ),
    "the last tile is as large as the others": lambda m: m.setattr(tiling, "_nothing", lambda x: True),
    "a loop of one turn moves": lambda m: m.setattr(Traffic, "_moves", lambda self, loop: True),
    "results stay on the chip": lambda m: m.setattr(Traffic, "_by_keys", lambda self, name: []),
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
            sizes, text = {**SIZES, "t": t, "past": past}, nest.format(*sides)
            if read(text, sizes, mask).total != Walked(text, sizes, mask).total:
                return False
        return True

    assert agree()
    TRAFFIC_FAULTS[fault](monkeypatch)
    assert not agree()


@pytest.mark.parametrize("fault", ["holds everything", "holds nothing"])
def test_a_wrong_cache_is_caught(fault, monkeypatch):
    sizes = {**SIZES, "t": 32, "n": 32, "d": 8, "e": 8}
    found = {lru: Walked("b g r t/4 n/4", sizes, "full", lru).total for lru in (256, 4096)}
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
        assert read(text, sizes, mask, lru).total == Walked(text, sizes, mask, lru).total
    small = (2 * sides[0] + 2 * sides[1]) * 8 * NARROW
    if mask == "full":  # a causal walk turns round at its first tiles, which are still there
        assert (
            read(text, sizes, mask, small).total
            == Walked(text, sizes, mask, small).total
            == read(text, sizes, mask).total
        )
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
        assert eval(c.formulas[key], PARTS, at) == c[key]
        conditions = [x for x in c.regime.get(key, []) if ">=" in x]
        assert all(eval(x, PARTS, at) for x in conditions)
        elsewhere = {**at, "t": t + 64, "n": t + past + 64}
        if all(eval(x, PARTS, elsewhere) for x in conditions):
            there = am.cost("mqa", seq=t + 64, context=t + past + 64, heads=4, head_dim=8, mask=mask, schedule=schedule)
            assert eval(c.formulas[key], PARTS, elsewhere) == there[key], (c.formulas[key], conditions)


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

STREAMED = {
    "gqa": [[], ["sink", "rope"], ["dropout:rate=0.5", "sink:logit=0"], ["softcap:cap=5", "gate"]],
    "mha": [["alibi"], ["t5-bias:side=decoder,buckets=4,far=5"], ["score-bias:axes=t+n"]],
}
BLOCKS = [
    "flash-1:n=4",
    "flash-2:n=3",
    "flash-3",
    "memory-efficient:n=5",
    "paged:n=2",
    "ring:z=3,n=2",
    "split-kv:z=2,n=2",
]
BLOCKS += ["split-kv:z=5,n=2", "flash-2-packed:n=1", "unfused"]
MASKED = [
    "causal",
    "full",
    "before",
    "window(2)",
    "prefix:3",
    "chunked:2",
    "documents(2, 1) | first(1)",
    "causal & dilated(2)",
]


def streamable():
    """Every form of every variant whose core streams, with the modifiers worth trying."""
    for name in variants.names():
        for form, page in variants.get(name).forms.items():
            try:
                if region(page).key is not None:
                    yield from ((name, form, uses) for uses in STREAMED.get(name, [[]]))
            except NoSchedule:
                continue


def both_ways(name, form, uses, mask, schedule, t, n, louder=8):
    """The page's result and its stream's, on inputs loud enough to need the running maximum."""
    page = layers.build(name, uses, mask).form(form)
    given_ = {"b": 2, "t": t, "n": n, "h": 4, "g": 2, "d": 4, "e": 4, "m": 4, "l": 3, "q": 3, "p": 4, "x": 3, "w": 3}
    given_ |= {"v": 2, "group": 2, "kept": 0}
    layer = layers.build(name, uses, mask)
    sizes, _ = layer.sizes({k: v for k, v in given_.items() if k in layer.names or k in ("h", "g")}, page=page)
    inputs, past = arrays(page, sizes)
    inputs = {k: louder * x for k, x in inputs.items()}
    past = {k: louder * x for k, (_, x) in past.items()}
    walk = parse(schedule)
    rewritten = streams.stream(page, walk)
    more = streams.blocks(walk, sizes)
    got = run(rewritten, {**sizes, **more}, inputs, {**past, **streams.start(rewritten, {**sizes, **more})})
    return run(page, sizes, inputs, past)[page.output], got[page.output]


@pytest.mark.parametrize(("name", "form", "uses"), list(streamable()))
@pytest.mark.parametrize("schedule", BLOCKS)
def test_every_schedule_computes_the_same(name, form, uses, schedule):
    masks = MASKED if maskable(name) else [None]
    for mask, (t, n) in itertools.product(masks, [(7, 7), (1, 7), (3, 8)]):
        want, got = both_ways(name, form, uses, mask, schedule, t, n)
        assert np.isfinite(want).all()
        assert np.abs(got - want).max() <= 1e-10 * max(1, np.abs(want).max()), (mask, t, n)


def test_all_that_streams_is_tried():
    assert {name for name, *_ in streamable()} >= {
        "gqa",
        "mha",
        "mqa",
        "mla",
        "cross",
        "sliding-window",
        "shared-window",
    }
    assert ("mla", "absorbed", []) in list(streamable())
    assert ("linear-attention", "quadratic", []) in list(streamable())


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
            ("gqa", None, ["sink"], "full", 3, 7),
            ("gqa", None, [], "window(2)", 7, 7),
            ("gqa", None, [], "full", 3, 8),
        ]
        for (name, form, uses, mask, t, n), louder in itertools.product(cases, (1, 40)):
            want, got = both_ways(name, form, uses, mask, "flash-2:n=3", t, n, louder)
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
