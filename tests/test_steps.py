"""How long a step takes: what a step does is what the pages count, and no estimate beats its bound."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath.hardware import get
from attnmath.models import presets, read
from attnmath.models.caching import reading
from attnmath.models.quantization import recipe_of
from attnmath.plans import work
from attnmath.plans.curves import Curve, Surface
from attnmath.plans.load import Load
from attnmath.plans.ranks import Rank
from attnmath.plans.reading import parse
from attnmath.plans.servers import server
from attnmath.plans.steps import PARTS, Steps


@lru_cache(64)
def steps(model="llama-3.1-8b", gpu="h100-sxm", tensor=1, more=""):
    text = f'model = "{model}"\n[gpu]\nname = "{gpu}"\ncount = {tensor}\n[parallel]\ntensor = {tensor}\n{more}'
    return Steps(server(parse(text, "plan.toml")), get(gpu))


def products(m, name, new):
    """(block, FLOPs of its matrices, FLOPs that its page counts) of one token."""
    for p in m.pieces:
        if p.over == "tokens" and p.part != "embedding":
            x = reading(p, {"b": 1, "t": 1, "n": new})
            found = work.matrices(x, p, recipe_of(m, "bf16"), Rank(1))
            yield p.page, sum(2 * a.n * a.k * a.copies * a.rows * a.active for a in found), x.flops.projections


@pytest.mark.parametrize("name", presets.names())
def test_matrices_are_what_the_pages_count(name):
    m = read(name)
    for page, found, counted in products(m, name, 4096):
        assert found == counted, page


def test_a_matrix_that_is_missed_is_noticed(monkeypatch):
    monkeypatch.setattr(work, "learned", lambda f: f.name.startswith("WG"))
    assert any(found != counted for _, found, counted in products(read("llama-3.1-8b"), "", 4096))


@pytest.mark.parametrize("tensor", [2, 4, 8])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "gpt2-medium", "deepseek-v2-lite"])
def test_ranks_share_the_matrices(name, tensor):
    """What has an axis that ranks divide is shared; what has none, every rank has."""
    m = read(name)
    for p in m.pieces:
        if p.over == "tokens" and p.part != "embedding":
            x = reading(p, {"b": 1, "t": 1, "n": 4096})
            one, some = (work.matrices(x, p, recipe_of(m, "bf16"), Rank(n)) for n in (1, tensor))
            for a, b in zip(one, some):
                ratio = a.n * a.k * a.copies / (b.n * b.k * b.copies)
                assert ratio in (1, tensor)
                assert ratio == tensor or a.tensor in ("WR", "WDKV", "WDQ", "WKR"), a


loads = st.builds(
    Load,
    decodes=st.integers(0, 256),
    context=st.floats(1, 8192),
    prefill_tokens=st.integers(0, 4096),
    prefill_past=st.floats(0, 4096),
)


@given(load=loads, model=st.sampled_from(["llama-3.1-8b", "mixtral-8x7b"]), tensor=st.sampled_from([1, 2]))
def test_no_estimate_beats_its_bound(load, model, tensor):
    found = steps(model, tensor=tensor).time(load)
    assert found.time_s >= found.bound_s >= 0
    assert set(found.parts) <= set(PARTS)
    assert min(found.parts.values(), default=0) >= 0
    assert (found.time_s > 0) == (load.tokens > 0)


@given(load=loads, more=st.sampled_from(["decodes", "context", "prefill_tokens"]))
def test_more_work_takes_no_less(load, more):
    from msgspec.structs import replace

    s = steps()
    larger = replace(load, **{more: getattr(load, more) * 2 + 8})
    assert s.time(larger).bound_s >= s.time(load).bound_s * (1 - 1e-9)
    assert s(larger) >= s(load) * (1 - 1e-9)


def test_what_falls_is_levelled():
    """A kernel that fills its tiles better may be faster with more work; what is planned with is not."""
    assert Curve(lambda n: 100 - n)(9.0) == 99
    assert Surface(lambda n, m: n - m)(4.0, 9.0) == 3.0


def test_curves_are_exact_on_their_grid_and_straight_between():
    calls = []
    curve = Curve(lambda n: calls.append(n) or n * n)
    assert curve(16.0) == 256.0
    assert 16.0 * 16.0 < curve(17.0) < 18.0 * 18.0
    before = len(calls)
    curve(17.0)
    assert len(calls) == before
    assert Surface(lambda x, y: x * y)(8.0, 4.0) == 32.0


def test_narrow_weights_are_read_faster():
    plain, narrow = (steps(more=f'[dtype]\nweights = "{w}"').time(Load(1, 100.0)) for w in ("bf16", "int4/128"))
    assert narrow.parts["products"] < plain.parts["products"] / 2
    assert narrow.bound_s < plain.bound_s / 2


def test_experts_are_read_as_tokens_choose_them():
    """Of 8 experts with 2 for each token, one token reads 2, and many, spread evenly, read all; a bound trusts no spread."""
    s = steps("mixtral-8x7b", tensor=2)
    one, many = (s.time(Load(n, 1.0)).parts["experts"] for n in (1, 512))
    assert 2.5 < many / one < 5
    few, more = (s.bounds(Load(n, 1.0))["hbm"] for n in (1, 512))
    assert few <= more < 1.1 * few


def test_a_bound_lets_the_caches_keep_what_they_can():
    """A model that fits a last-level cache may be read without the memory."""
    s = steps("gpt2")
    assert s.kept_bytes == get("h100-sxm").figure("l2_bytes")
    moved = s.bounds(Load(1, 1.0))["hbm"] * s.hbm_bytes_per_s + s.kept_bytes
    assert moved == pytest.approx(4 * (124_439_808 - 1024 * 768), rel=0.02)  # in float32, as its config says


def test_skewed_experts_take_longer():
    even, skewed = (
        steps("mixtral-8x7b", tensor=2, more=x).time(Load(64, 100.0)).parts for x in ("", "imbalance = 1.5")
    )
    assert skewed["experts"] == pytest.approx(1.5 * even["experts"])
    assert skewed["products"] == even["products"]
