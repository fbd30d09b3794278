"""Summation by cases: whatever it makes of a sum is that sum, and where it does not know, it says so."""

from __future__ import annotations

import random

import pytest
from sympy import KroneckerDelta, Max, Min, Sum, floor

from attnmath.proving import checks, oracle
from attnmath.proving.checks import Cases, Undecided, decided, least
from attnmath.proving.terms import AtMost, counts, eq, indices, sizes

n, m, w, g = sizes("n m w g")
i, j, p, u, x, y = counts("i j p u x y")
SEEDS = 300


SUMS = [  # terms that change form, the ends of i and of j, and places that make it decidable
    (AtMost(j, i) * AtMost(i - w + 1, j), w + u, w + u, ((w,), (i - w + 1, i + 1))),
    (AtMost(j, i) + AtMost(i + 1, j) * AtMost(j, w - 1) * j, w + u, w + u, ((w,), (w, i + 1))),
    (AtMost(i, j) * i, n, n, ((), (i,))),
    (AtMost(j, i - 1) + Max(i - 1, 0), n, n, ((1,), (i,))),
    (Min(i + 1, w) + Max(i, j), w + u, w + u, ((w,), (i,))),
    (KroneckerDelta(floor(i / m), floor(j / m)) * (j + 1), m, m + 1, ((), (m,))),
    (KroneckerDelta(AtMost(m, i), AtMost(m, j)), m + w, m + w, ((m,), (m,))),
    (floor((m * i + j) / m) + AtMost(j, m - 1) * j, n, m, ((), ())),
    (AtMost(m * (j + 1), i + 1), m, n, ((m - 1,), (1,))),
]


def bent(rng):
    """A sum over i and j whose terms change form, and places to cut it: the right ones, or nearly."""
    term, over, inner, at = rng.choice(SUMS)
    off = {s: s + rng.choice((-1, 1)) for s in (i, w, m) if rng.random() < 0.1}
    rows, columns = (list(places) for places in at)
    for places, more in ((rows, (w, w - 1, u, n, 1)), (columns, (i, i + 1, i - w + 1, w, m, 1))):
        if rng.random() < 0.4:
            places.insert(rng.randint(0, len(places)), rng.choice(more))
    bound = {i: i, j: j}
    term = term.xreplace({**bound, **off})
    return Sum(term, (j, 0, inner - 1), (i, 0, over - 1)), Cases(at=((i, tuple(rows)), (j, tuple(columns))))


def wrong_ones(seeds):
    """How many sums were cut, and those that became another sum."""
    cut, wrong = 0, []
    for seed in range(seeds):
        rng = random.Random(seed)
        e, check = bent(rng)
        try:
            found = check._cut(e, [], ())
        except Undecided:
            continue
        cut += 1
        try:
            if not oracle.agree(eq(e, found), trials=12, seed=seed, top=4):
                wrong.append((e, check.at))
        except RuntimeError:
            continue
    return cut, wrong


def test_sums_by_cases_are_the_sums():
    cut, wrong = wrong_ones(SEEDS)
    assert not wrong
    assert cut > SEEDS / 4


def test_a_place_that_is_not_used_does_not_change_the_sum(monkeypatch):
    monkeypatch.setattr(Cases, "_outside", staticmethod(lambda *_: True))
    assert not wrong_ones(100)[1], "without places fewer sums are decided, none wrongly"


@pytest.mark.parametrize(
    "broken",
    [
        lambda x, known: bool(x.xreplace({v: lo for v, lo, _ in known}).is_nonnegative),  # at the first place only
        lambda x, known: x.is_negative is not True,  # what is not known to be below
    ],
    ids=["first", "unknown"],
)
def test_a_wrong_idea_of_what_is_known_is_noticed(monkeypatch, broken):
    monkeypatch.setattr(checks, "least", broken)
    assert wrong_ones(60)[1]


def test_a_place_has_to_lie_in_the_range():
    sees = eq(Sum(AtMost(j, i), (j, 0, n - 1)), i + 1)
    assert Cases(at=((j, (i + 1,)),))(sees) is None, "the query may stand behind the keys"
    (row,) = indices("i", n)
    assert Cases(at=((j, (row + 1,)),))(eq(Sum(AtMost(j, row), (j, 0, n - 1)), row + 1)) is not None


def test_places_whose_order_is_not_known_are_no_proof():
    both = Sum(AtMost(j, w - 1) * AtMost(j, m - 1), (j, 0, w + m - 1))
    assert Cases(at=((j, (w, m)),))(eq(both, Min(w, m))) is None


def test_what_is_not_decided_is_not_guessed():
    for e in (AtMost(i, j), Max(i, j), floor(i / m), floor((i + 1) / m)):
        with pytest.raises(Undecided):
            decided(e, [(i, 0, m)] if e.has(floor) and e != floor(i / m) else [])
    assert decided(floor(i / m), [(i, 0, m)]) == 0
    assert decided(floor((m * x + i) / m), [(i, 0, m)]) == x
    assert decided(KroneckerDelta(i + 1, j + 1), [(j, 0, n)]) == KroneckerDelta(j, i)


def test_an_index_is_inside_its_range_and_a_size_is_at_least_one():
    assert least(n - 1, [])
    assert not least(n - 2, [])
    assert least(w - 1 - i, [(i, 0, w)])
    assert not least(w - 2 - i, [(i, 0, w)])
    assert least(n - j - 1, [(i, 0, n), (j, 0, i + 1)]), "through the index that it ends with"
