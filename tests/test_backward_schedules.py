"""Schedules of training: both passes against walked loops, against papers, and broken on purpose."""

from __future__ import annotations

import itertools
import json

import msgspec
import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st
from test_schedules import NESTS, TILES, grouped

import attnmath as am
from attnmath import variants
from attnmath.errors import InputError, NoClosedForm, NoSchedule
from attnmath.readings import memory
from attnmath.readings.count import core
from attnmath.readings.gradient import gradient
from attnmath.readings.schedules import BACKWARD, SCHEDULES, backward, named, on_chip_backward, parse
from attnmath.readings.traffic import Traffic
from attnmath.readings.training import Training
from attnmath.schemas import TrainingTileDocument
from attnmath.training_tiles import training_tiling
from attnmath.verifying.judge import number
from attnmath.verifying.laws import walked_backward

# -- tile by tile

BACK = [n for n in NESTS if "z=" not in n] + ["b g n/{1} r t/{0}"]


@pytest.mark.parametrize("nest", BACK)
@pytest.mark.parametrize("sides", TILES)
@pytest.mark.parametrize("mask", ["causal", "causal & window(5)", "full", "window(3) | first(2)"])
@pytest.mark.parametrize(("t", "past"), [(12, 0), (5, 7)])
def test_training_moves_what_its_loops_move(nest, sides, mask, t, past):
    found = list(walked_backward(grouped(mask, t=t, n=t + past), nest.format(*sides)))
    assert len(found) == 3
    for compared in found:
        assert compared.holds, compared


@pytest.mark.parametrize("uses", [["sink"], ["softcap"], ["dropout"], ["additive-mask"], ["rope", "norm"]])
@pytest.mark.parametrize("nest", BACK)
def test_modifiers_go_back_in_the_same_loops(nest, uses):
    for sides in TILES[:3]:
        for compared in walked_backward(grouped("causal", uses, t=12, n=12), nest.format(*sides)):
            assert compared.holds, compared


FAULTS = {
    "gradients stay on the chip": lambda m: m.setattr(Traffic, "_adding", lambda self, name: []),
    "a gradient is summed up over keys alone": lambda m: m.setattr(
        Traffic, "_along", lambda self, loop, name: not set(loop.index) & {self.key}
    ),
    "heads are no turns": lambda m: m.setattr(
        Traffic,
        "_turned",
        lambda s, index, path, _t=Traffic._turned: _t(s, (*index, "r") if "t" not in index else index, path),
    ),
    "a row's numbers are narrow": lambda m: m.setattr(memory, "state_bits", lambda dtype: 16),
    "the rows' sums cost nothing": lambda m: m.setattr(memory.Core, "step_bytes", lambda self, step: 0),
    "nothing is kept of a row": lambda m: m.setattr(
        Traffic, "_results", lambda s, n, _r=Traffic._results: [] if n == "LSE" else _r(s, n)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_training_traffic_is_caught(fault, monkeypatch):
    def agree():
        for nest, sides, mask in itertools.product(BACK[:3], TILES[:4], ["causal", "window(3)"]):
            if not all(c.holds for c in walked_backward(grouped(mask, t=12, n=12), nest.format(*sides))):
                return False
        return True

    assert agree()
    FAULTS[fault](monkeypatch)
    assert not agree()


# -- papers

GPT2 = {"modifiers": ["scale:value=1", "additive-mask", "dropout"], "mask": "full", "dtype": "fp16", "phase": "train"}
GPT2 |= {"seq": 1024, "batch": 64, "heads": 16, "head_dim": 64}
PUBLISHED = {
    "standard": 40.3,
    "flash": 4.4,
}  # GB, Dao et al. 2022, arXiv:2205.14135v2, figure 2: GPT-2 medium on an A100
PASSES = {  # over one matrix of weights, by equation; half a pass is the mask of the dropout, a byte an element
    "S": 1,  # written; the scale is the product's own factor
    "L": 2,  # the mask is added
    "A0": 2,  # softmax
    "A": 2.5,  # dropout, which writes its mask
    "O": 1,  # A is read
    "dA": 1,  # written
    "dA0": 2.5,  # dropout, which reads its mask
    "D; dL": 3,  # softmax: A0 and dA0 are read, dL is written
    "dV": 1,
    "dK": 1,
    "dQ": 1,
}


def test_standard_attention_moves_what_flash_attentions_paper_measured():
    c = am.cost("mha", schedule="unfused", **GPT2)
    matrix, small = 2 * 64 * 16 * 1024**2, 2 * 64 * 16 * 1024 * 64
    found = {
        "; ".join(e.out.name for e in s.equations): c.readings[0].core.step_bytes(s) for s in c.readings[0].core.steps
    }
    products = [n for n, passes in PASSES.items() if passes == 1]
    assert found == {n: passes * matrix + 2 * small * (n in products) for n, passes in PASSES.items()}
    assert sum(PASSES.values()) == 18
    assert c.hbm_bytes.unfused == sum(found.values()) == c.hbm_bytes.fused
    assert c.hbm_bytes.unfused / 1e9 == pytest.approx(PUBLISHED["standard"], rel=0.01)


def test_flash_attention_moves_what_its_paper_measured():
    """192 KB of 16-bit numbers: M = 96 Ki, Bc = ceil(M / 4d) = 384, Br = min(Bc, d) = 64. Its algorithms keep results in place;
    with sums in float32, as its code has them, it is a quarter more than was measured.
    """
    cols = -(-192 * 1024 // 2 // (4 * 64))
    tiles = f"t={min(cols, 64)},n={cols}"
    c = am.cost("mha", schedule=f"flash-1-in-place:{tiles}", **GPT2)
    n, d, turns = 64 * 16 * 1024, 64, 3
    forward = 2 * d * n * (2 + turns + 2 * turns) + 2 * 2 * 4 * n * turns
    back = 2 * d * n * (4 + 3 * turns + 2 * turns) + 2 * 4 * n * turns
    assert c.hbm_bytes.fused == forward + back
    assert c.hbm_bytes.fused / 1e9 == pytest.approx(PUBLISHED["flash"], rel=0.1)
    wide = am.cost("mha", schedule=f"flash-1:{tiles}", **GPT2)
    assert wide.hbm_bytes.fused - c.hbm_bytes.fused == 2 * (2 * turns - 1) * 2 * d * n
    assert 1.2 < wide.hbm_bytes.fused / 1e9 / PUBLISHED["flash"] < 1.25


def test_the_published_figures_are_these():
    found = json.loads(shared("truth", "published.json").read_text())["fa1_fig2"]
    assert {k: found[k]["hbm_gb"] for k in PUBLISHED} == PUBLISHED


def test_flash_attention_2_goes_back_as_its_algorithm_says():
    """Dao 2023, algorithm 2: D first; then for each block of keys K, V once, all of Q, dO, L and D, dQ read and written, and dK,
    dV written once.
    """
    n, d, cols = 2048, 64, 128
    c = am.cost("mha", seq=n, heads=1, head_dim=d, mask="full", phase="train", schedule="flash-2")
    first, sums, back = c.readings[0].walks
    turns = n // cols
    assert first.total == 2 * n * d * 2 + 2 * n * d * 2 * (n // 128) + 4 * n
    assert sums.total == 2 * 2 * n * d + 4 * n
    assert back.total == 2 * n * d * (4 + 2 * turns) + 2 * 4 * n * turns + 4 * n * d * (2 * turns - 1) + 2 * n * d
    assert c.hbm_bytes.fused == first.total + sums.total + back.total
    assert c.inputs["backward_schedule"] == "flash-2: b h n/128 t/64"
    assert c.flops.matmul == 7 * 2 * n * n * d


def test_forward_again():
    """Full recomputation under a fused schedule is a second forward pass, which makes O and LSE, before the same backward one."""
    sizes = {"seq": 256, "heads": 4, "phase": "train"}
    full, less = (am.cost("gqa", recompute=how, **sizes) for how in ("full", "selective"))
    first, again, *rest = full.readings[0].walks
    kept = less.readings[0].walks
    assert [w.total for w in rest] == [w.total for w in kept[1:]]
    assert again.total == kept[0].total
    assert first.total == am.cost("gqa", seq=256, heads=4).hbm_bytes.fused
    assert full.flops.matmul == less.flops.matmul * 9 // 7


# -- what holds of all


@pytest.mark.parametrize("how", ["none", "selective", "full"])
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("name", sorted(variants.names()))
def test_no_schedule_of_training_moves_less_than_it_must(name, schedule, how):
    for form in variants.get(name).forms:
        window = {"window": 40} if name == "sliding-window" else {}
        sizes = {"seq": 192, "heads": 8, "form": form, "phase": "train", "recompute": how, **window}
        try:
            c = am.cost(name, schedule=schedule, formulas=False, **sizes)
        except NoSchedule as error:
            assert len(str(error)) > 20
            continue
        if c.hbm_bytes.fused is None:
            assert c.refused["hbm_bytes.fused"]
            continue
        assert (
            c.hbm_bytes.fused
            >= c.hbm_bytes.compulsory
            > am.cost(name, seq=192, heads=8, form=form, **window).hbm_bytes.compulsory
        )
        assert c.hbm_bytes.unfused >= c.hbm_bytes.compulsory
        assert c.memory_bytes.fused > 0
        assert c.inputs["schedule"].startswith(schedule)


@pytest.mark.parametrize("name", ["mha", "gqa", "mqa", "mla"])
def test_every_step_is_in_one_pass(name):
    for how in ("none", "selective", "full", "selective+full"):
        for page in variants.get(name).forms.values():
            g = gradient(page, recompute=how)
            t = Training(g, {}, "bf16")
            assert sorted(map(str, (*t.forward, *t.again, *t.backward))) == sorted(map(str, core(g.together)))
            assert bool(t.again) == (how == "selective+full")


def test_row_by_row_operations_are_one():
    """A softmax in parts, and its gradient, move what one operation does: a row is at hand until it is done."""
    c = am.cost("mha", seq=64, heads=1, phase="train", schedule="unfused", recompute="selective", mask="full")
    inside = c.readings[0].core
    groups = ["; ".join(e.out.name for e in s.equations) for s in inside.steps]
    assert groups[:4] == ["S", "L", "TOPA; EXPA; SUMA; A; LSE", "O"]
    softmax = inside.steps[2]
    assert (softmax.reads, set(softmax.makes)) == (("L",), {"A", "LSE"})
    assert inside.step_bytes(softmax) == 2 * 2 * 64 * 64 + 4 * 64


@given(
    st.sampled_from(["causal", "full", "window(200)", "prefix(64)"]),
    st.sampled_from(["flash-2", "flash-1", "flash-1-in-place", "flash-3", "unfused", "b h t/64 n/96", "b h n/96 t/64"]),
    st.integers(1, 600),
)
def test_formulas_of_training_are_the_numbers_and_hold_where_their_regime_does(mask, schedule, t):
    options = {"heads": 4, "head_dim": 8, "mask": mask, "schedule": schedule, "phase": "train"}
    c = am.cost("mqa", seq=t, **options)
    for key in (
        "hbm_bytes.compulsory",
        "hbm_bytes.fused",
        "hbm_bytes.unfused",
        "memory_bytes.fused",
        "memory_bytes.unfused",
    ):
        if key not in c.formulas:
            assert c.regime[key][0].startswith("no formula")
            continue
        at = dict(c.readings[0].sizes)
        assert number(c.formulas[key], at) == c[key], key
        conditions = [x for x in c.regime.get(key, []) if ">=" in x]
        assert all(number(x, at) for x in conditions)
        elsewhere = {**at, "t": t + 64, "n": t + 64}
        if all(number(x, elsewhere) for x in conditions):
            assert number(c.formulas[key], elsewhere) == am.cost("mqa", seq=t + 64, **options)[key], (key, conditions)


@pytest.mark.parametrize("key", ["hbm_bytes.compulsory", "hbm_bytes.fused", "hbm_bytes.unfused"])
def test_sympy_reads_the_same(key):
    options = {"seq": 1024, "heads": 8, "kv_heads": 2, "head_dim": 16, "phase": "train"}
    c = am.cost("gqa", **options)
    try:
        f = am.formula("gqa", key, **options)
    except NoClosedForm:
        pytest.fail("there is one")
    at = {str(x): c.readings[0].sizes[str(x)] for x in f.free_symbols}
    assert f.subs({x: at[str(x)] for x in f.free_symbols}) == c[key]


def test_memory_is_what_passes_hand_on():
    """Q, K, V, O, dO, dQ, dK and dV; LSE and D; and, of whichever pass has more, results or dQ in float32, maxima and sums."""
    sizes = {"seq": 1024, "heads": 4, "head_dim": 16, "phase": "train"}
    schedules = ("flash-1", "flash-1-in-place", "flash-2", "unfused", "b h n/128 t/128")
    m = {s: am.cost("mha", schedule=s, **sizes).memory_bytes for s in schedules}
    tensor, row = 2 * 1024 * 4 * 16, 4 * 1024 * 4
    assert m["flash-1"].fused == 8 * tensor + row + 2 * tensor + 2 * row, "its D is made at each visit"
    assert m["flash-1-in-place"].fused == 8 * tensor + row + 2 * row
    assert m["flash-2"].fused == 8 * tensor + 2 * row + 2 * tensor
    assert m["b h n/128 t/128"].fused == 8 * tensor + 2 * row + 2 * tensor + 2 * row
    assert m["unfused"].fused == m["unfused"].unfused > m["flash-1"].fused


def test_a_bound_on_time_and_no_estimate():
    c = am.cost("gqa", seq=8192, heads=32, phase="train", gpu="h100-sxm")
    assert c.time_bound_s.fused == pytest.approx(c.flops.matmul / 989.4e12, rel=1e-3)
    assert c.time_bound_s.unfused > c.time_bound_s.fused
    assert c.time_s is None
    assert "backward kernels have no model" in c.time_note
    states = am.cost("kda", seq=64, heads=8, phase="train", gpu="h100-sxm")
    assert states.time_bound_s.fused is None
    assert "states" in states.time_note


# -- what users write


def test_each_backward_row_belongs_to_a_forward_one_and_says_what_it_is():
    for name, row in BACKWARD.items():
        assert name == row.name
        assert name in SCHEDULES
        assert row.meaning and row.on_chip and row.source
    assert backward(named("flash-2")) is BACKWARD["flash-2"]
    assert str(backward(parse("flash-2:n=256"))) == "b heads n/256 t/128", "tiles that are given are given for both"
    for name in set(SCHEDULES) - set(BACKWARD):
        with pytest.raises(NoSchedule, match=f"{name} has no backward pass here; these have: unfused, flash-1"):
            backward(named(name))


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("kda", {"schedule": "recurrent", "form": "recurrent"}, "reads its states"),
        ("gqa", {"schedule": "split-kv"}, "split-kv has no backward pass here"),
        ("gqa", {"schedule": "flash-2", "recompute": "none"}, "weights that no pass over the keys has before its end"),
        ("differential", {"schedule": "flash-2"}, "two softmaxes"),
        ("mha", {"schedule": "flash-2", "modifiers": ["t5-bias"]}, "is written where a table or the data say"),
    ],
)
def test_what_has_no_schedule_says_why(name, more, why):
    with pytest.raises(InputError, match=why):
        am.cost(name, seq=64, heads=8, phase="train", **more)


def test_on_the_command_line(call):
    code, out, err = call("cost --variant gqa --seq 1k --heads 8 --phase train --gpu h100-sxm")
    assert code == 0
    assert "core traffic, fused" in out
    assert "no estimate: backward kernels have no model here" in out
    code, out, _ = call("cost --variant gqa --seq 1k --heads 8 --phase train --json")
    found = json.loads(out)
    assert found["inputs"]["recompute"] == found["assumed"]["recompute"] == "selective"
    assert found["hbm_bytes"]["fused"] > found["hbm_bytes"]["compulsory"]
    code, out, _ = call("cost --variant gqa --seq 1k --heads 8 --phase train --explain hbm_bytes.fused")
    made_of = [line.split() for line in out.partition("made of")[2].splitlines() if line.strip()]
    total = am.cost("gqa", seq=1024, heads=8, phase="train").hbm_bytes.fused
    assert sum(int(x[0].replace(",", "")) for x in made_of) == total
    code, out, _ = call("cost --variant gqa --seq 1k --heads 8 --phase train --explain flops.recomputed")
    assert "S'[b g r t n] = Q[b t g r d] * K[b n g d]" in out
    code, out, _ = call("roofline gqa --seq 1k --heads 8 --gpu h100-sxm --phase prefill,train")
    assert code == 0
    assert "train" in out


# -- tiles


def test_a_backward_block_holds_what_flash_attention_2_asks_for():
    """kSmemSize1colblock of its kernel_traits.h; its launch template takes these tiles where a block has 144 KB."""
    assert [on_chip_backward(*x).smem_bytes for x in ((64, 128, 128, 128), (128, 128, 64, 64))] == [144 * 1024] * 2
    assert on_chip_backward(64, 64, 128, 128, stages=1).smem_bytes == 2 * (4 * 64 * 128 + 2 * 64 * 64)
    assert on_chip_backward(64, 128, 128, 128).accumulator_bytes == 4 * (2 * 64 * 128 + 2 * 128 * 128)
    with pytest.raises(InputError, match="rows: 0 is no size"):
        on_chip_backward(0, 64, 128, 128)


def test_tiles_of_both_passes():
    """144 KB fit an A100 and not an A10, as the launch template has it; what each tile moves is what its loops move."""
    small, large = (
        training_tiling(am.cost("gqa", seq=4096, heads=32, phase="train", gpu=g)) for g in ("a10", "a100-sxm-80g")
    )
    (of_small,), (of_large,) = ([x for x in t.backward if x.usual] for t in (small, large))
    assert (of_large.rows, of_large.keys, of_large.misfit) == (64, 128, "")
    assert "shared memory: 147,456 bytes" in of_small.misfit
    first, *_, last = am.cost("gqa", seq=4096, heads=32, phase="train").readings[0].walks
    for tiles, walk in ((large.forward, first), (large.backward, last)):
        assert [x.hbm_bytes for x in tiles if x.usual] == [walk.total]
        assert [bool(x.misfit) for x in tiles] == sorted(bool(x.misfit) for x in tiles)
    assert (
        large.time_bound_s == am.cost("gqa", seq=4096, heads=32, phase="train", gpu="a100-sxm-80g").time_bound_s.fused
    )


def test_tiles_on_the_command_line(call):
    line = "tile gqa --seq 4k --heads 32 --gpu a100-sxm-80g --phase train"
    code, out, _ = call(line)
    assert code == 0
    assert ["backward", "64", "x", "128", "144", "KiB"] in [line.split()[:6] for line in out.splitlines()]
    assert "no time is estimated" in out
    found = json.loads(call(f"{line} --json")[1])
    assert found["schema"] == "attnmath.tile-training/1"
    msgspec.convert(found, TrainingTileDocument)
    assert len(json.loads(call(f"{line.replace('4k', '1k,4k')} --json")[1])["rows"]) == 2
    assert call(f"{line} --format csv")[1].count("backward") >= 25
    assert call(f"{line} --format markdown")[1].startswith("| pass |")
    for more, why in (
        (f"{line} --schedule unfused", "no block holds a tile"),
        (f"{line} --schedule split-kv", "split-kv has no backward pass here"),
        ("tile kda --seq 1k --heads 8 --gpu h100-sxm --phase train", "reads its states"),
        ("tile gqa --seq 1k --heads 8 --gpu h100-sxm --schedule flash-2", "only with --phase train"),
    ):
        code, out, err = call(more)
        assert (code, out) == (2, "")
        assert why in err
