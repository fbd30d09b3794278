"""Workloads: laws have the moments that they say, what is drawn has them too, and files of traces are read or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath.errors import InputError
from attnmath.plans.workload import ROWS, Arrivals, draw, lengths

LENGTHS = [
    512,
    {"mean": 1024, "std": 300},
    {"mean": 1024, "std": 1500},
    {"mean": 1024, "std": 0},
    {"p50": 500, "p99": 4000},
    {"p10": 50, "p90": 900, "max": 1000},
    {"mean": 2000, "std": 4000, "max": 8192},
    {"uniform": [1, 2048]},
]


def all_of(*args, **options):
    blocks = list(draw(*args, **options))
    return [np.concatenate([getattr(b, f) for b in blocks]) for f in ("arrival_s", "prompt_tokens", "output_tokens")]


@pytest.mark.parametrize("law", LENGTHS, ids=str)
def test_what_is_drawn_has_the_moments_of_its_law(law):
    found = lengths(law)
    drawn = found.draw(np.random.default_rng(1), 400_000)
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(found.mean, rel=0.01)
    assert drawn.var() / drawn.mean() ** 2 == pytest.approx(found.scv, rel=0.08, abs=1e-6)


def test_two_quantiles_are_met():
    drawn = lengths({"p50": 500, "p99": 4000}).draw(np.random.default_rng(2), 400_000)
    assert np.quantile(drawn, [0.5, 0.99]) == pytest.approx([500, 4000], rel=0.02)
    assert lengths({"p10": 50, "p90": 900, "max": 1000}).draw(np.random.default_rng(2), 10_000).max() == 1000


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_arrivals_have_their_rate_and_their_variation(cv):
    times = Arrivals(4.0, cv).draw(np.random.default_rng(3), 400_000, 0.0)
    between = np.diff(times, prepend=0.0)
    assert (between >= 0).all()
    assert between.mean() == pytest.approx(0.25, rel=0.02)
    assert between.std() / between.mean() == pytest.approx(cv, rel=0.02, abs=1e-6)


def test_a_seed_draws_the_same_and_another_draws_others():
    law = lengths({"mean": 100, "std": 50})
    one, same, other = (all_of(law, law, Arrivals(1.0), 1000, seed=s) for s in (7, 7, 8))
    assert all((a == b).all() for a, b in zip(one, same))
    assert (one[0] != other[0]).any()


def test_blocks_follow_one_another():
    at, prompt, _ = all_of(lengths(5), lengths(6), Arrivals(10.0), ROWS + 10)
    assert len(at) == len(prompt) == ROWS + 10
    assert (np.diff(at) >= 0).all()
    assert (all_of(lengths(5), lengths(6), None, 3)[0] == 0).all()


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (0, "0 tokens: expected at least 1"),
        (True, "True: expected an integer"),
        (1.5, "1.5: expected an integer"),
        ("many", "'many': expected an integer"),
        ({}, "expected an integer"),
        ({"mean": 5}, "mean: expected an integer"),
        ({"mean": 5, "std": -1}, "std is -1; expected a number of tokens"),
        ({"mean": math.nan, "std": "x"}, "2 errors:\n  mean is nan.*\n  std is 'x'"),
        ({"p50": 100, "p99": 100}, "the higher quantile has to be the larger one"),
        ({"p50": 100, "p99": 200, "p90": 150}, "p50, p99, p90: expected"),
        ({"uniform": [5, 1]}, "5 to 1 tokens: expected"),
        ({"p1": 1, "p2": 10**8}, "spread too wide"),
        ({"uniform": 5}, "expected two whole numbers"),
        ({"uniform": [1, 5], "max": 3}, "uniform is .1, 5.; expected a number"),
        ({"p100": 5, "p50": 1}, "p100: .*The keys are"),
        ({"mean": 10**12, "std": 1}, "mean is 1000000000000; expected"),
    ],
)
def test_what_is_no_law_is_refused(law, said):
    with pytest.raises(InputError, match=said):
        lengths(law)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (math.nan, 1.0), (1.0, -0.1), (1.0, math.inf)])
def test_what_is_no_rate_is_refused(bad):
    with pytest.raises(InputError, match="expected"):
        Arrivals(*bad)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(st.sampled_from(["mean", "std", "p50", "p99", "max", "uniform", "x"]), x, max_size=3)
        ),
    )
)
def test_whatever_a_plan_says_is_a_law_or_refused(value):
    try:
        found = lengths(value)
    except InputError:
        return
    assert found.draw(np.random.default_rng(0), 10).min() >= 1
    assert found.mean > 0
