"""Replay: equal to a plain loop request by request, to closed forms where they hold, and to its own conservation laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath.errors import InputError
from attnmath.plans import replay as module
from attnmath.plans.batching import RULES, Batching
from attnmath.plans.load import Load, tabulated
from attnmath.plans.replay import Run, grows, replay, run
from attnmath.plans.replicas import Replica
from attnmath.plans.workload import Requests

# -- the oracle: one step after the other, one sequence after the other; it knows nothing of merged steps, heaps or processes


def walk(requests, time_of, slots, budget, cache=math.inf, mixes=True, chunks=True, hit=0.0, speed=1, at_once=None):
    """(start, first token, end) of each (arrival, prompt, output) on one replica."""
    coming = list(enumerate(requests))
    now, queue, running = 0.0, [], []
    start, first, end = {}, {}, {}

    def arrive():
        i, (at, prompt, output) = coming.pop(0)
        steps = math.ceil((output - 1) / speed)
        queue.append({"i": i, "need": prompt, "hit": min(int(hit * prompt), prompt - 1), "got": 0, "left": steps})

    def size(s):
        return s["need"] + speed * s["got"]

    def ready(s):
        return s["done"] == s["need"]

    def prompts(left, admit):
        pieces = []
        for s in running:
            if not ready(s) and left > 0:
                pieces.append((s, min(left, s["need"] - s["done"])))
                left -= pieces[-1][1]
        while admit and queue and left > 0 and len(running) < slots:
            growth = speed * sum(ready(s) and not any(s is p for p, _ in pieces) for s in running)
            s = queue[0]
            if sum(map(size, running)) + s["need"] + growth > cache:
                break
            rest = s["need"] - s["hit"]
            if rest > left:
                if not chunks and pieces:
                    break
                rest = left if chunks else rest
            queue.pop(0)
            s["done"] = s["hit"]
            running.append(s)
            start.setdefault(s["i"], now)
            pieces.append((s, rest))
            left -= rest
        return pieces

    for _ in range(at_once or 0):
        if coming:
            arrive()
    while True:
        while at_once is None and coming and coming[0][1][0] <= now:
            arrive()
        if not queue and not running:
            if not coming:
                return [[d[i] for i in range(len(requests))] for d in (start, first, end)]
            now = coming[0][1][0]
            continue
        pieces = [] if mixes else prompts(budget, True)
        decoding = []
        if not pieces:
            evicted = False
            while sum(map(size, running)) + speed * sum(map(ready, running)) > cache:
                s, evicted = running.pop(), True
                if ready(s):
                    s["need"], s["left"] = int(size(s)) + 1, s["left"] - 1
                    s["got"] = 0
                queue.insert(0, s)
            decoding = [s for s in running if ready(s)]
            if mixes:
                pieces = prompts(budget - len(decoding), not evicted)
        tokens = sum(n for _, n in pieces)
        context = sum(size(s) + 1 for s in decoding) / len(decoding) if decoding else 0.0
        past = sum(s["done"] * n for s, n in pieces) / tokens if tokens else 0.0
        now += time_of(Load(len(decoding), context, tokens, past, max(len(pieces), 1)))
        over = []
        for s in decoding:
            s["got"], s["left"] = s["got"] + 1, s["left"] - 1
            over += [s] * (s["left"] <= 0)
        for s, n in pieces:
            s["done"] += n
            if ready(s):
                first.setdefault(s["i"], now)
                over += [s] * (s["left"] <= 0)
        for s in over:
            running.remove(s)
            end[s["i"]] = now
            if at_once is not None and coming:
                arrive()


def linear(load):
    """A step that depends on everything it may depend on, and that no merging gets wrong."""
    return (
        0.01
        + 3e-4 * load.decodes
        + 7e-6 * load.decodes * load.context
        + 5e-4 * load.prefill_tokens
        + 2e-5 * load.prefill_past
        + 1e-4 * load.prompts
    )


def drawn(seed, count=40, rate=20.0, prompt=60, output=30):
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, count))
    return list(
        zip(at.tolist(), rng.integers(1, prompt + 1, count).tolist(), rng.integers(1, output + 1, count).tolist())
    )


def block(requests):
    return [Requests(*map(list, zip(*requests)))]


def played(requests, batching, time_of=linear, **options):
    times, _ = run(block(requests), time_of, batching, **options)
    return [times.start_s.tolist(), times.first_s.tolist(), times.end_s.tolist()]


def walked(requests, b, time_of=linear, at_once=None):
    rule = RULES[b.rule]
    cache = math.inf if b.cache_tokens is None else b.cache_tokens
    return walk(
        requests, time_of, b.slots, b.budget, cache, rule.mixes, rule.chunks, b.hit_rate, b.tokens_per_step, at_once
    )


def agree(ours, theirs):
    return all(np.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(ours, theirs))


BATCHINGS = [
    Batching(slots, budget, cache, rule, hit, speed)
    for rule in RULES
    for slots, budget, cache, hit, speed in (
        (1, 1, None, 0.0, 1),
        (4, 16, None, 0.0, 1),
        (8, 32, 120, 0.0, 1),
        (8, 64, 95, 0.3, 1),
        (16, 512, None, 0.5, 2.5),
        (6, 24, 200, 0.0, 1.5),
    )
]


@pytest.mark.parametrize("merge", [1, 128])
@pytest.mark.parametrize("batching", BATCHINGS, ids=lambda b: f"{b.rule}-{b.slots}-{b.budget}-{b.cache_tokens}")
def test_every_request_is_as_a_plain_loop_has_it(batching, merge):
    for seed in range(6):
        requests = drawn(seed, rate=(2.0, 20.0, 200.0)[seed % 3])
        assert agree(played(requests, batching, merge=merge), walked(requests, batching))


@pytest.mark.parametrize("batching", BATCHINGS[1::4], ids=lambda b: f"{b.rule}-{b.slots}")
def test_a_closed_loop_is_as_a_plain_loop_has_it(batching):
    requests = drawn(5)
    assert agree(played(requests, batching, concurrency=7), walked(requests, batching, at_once=7))


@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=25),
    st.integers(1, 6),
    st.integers(6, 64),
    st.one_of(st.none(), st.integers(60, 150)),
    st.sampled_from(list(RULES)),
    st.sampled_from([1, 128]),
)
def test_whatever_is_drawn_is_as_a_plain_loop_has_it(drawn_, slots, budget, cache, rule, merge):
    """Times on a grid, so that arrivals meet the ends of steps."""
    requests = [(at / 8, p, o) for at, p, o in sorted(drawn_)]
    batching = Batching(slots, budget, cache, rule)
    grid = lambda load: (1 + load.decodes + load.prefill_tokens // 8) / 64
    assert agree(played(requests, batching, grid, merge=merge), walked(requests, batching, grid))


def test_replicas_in_turn_are_replicas_alone():
    requests, batching = drawn(3, 60), Batching(4, 32, 150)
    together = played(requests, batching, replicas=3, routing="round-robin")
    for r in range(3):
        alone = walked(requests[r::3], batching)
        assert agree([t[r::3] for t in together], alone)


def test_the_least_loaded_replica_gets_the_request():
    """Of replicas with as many the first; the last request finds one of them idle."""
    requests = [(0.0, 1, 100), (0.0, 1, 10), (0.0, 1, 10), (20.0, 1, 10)]
    start, _, end = played(requests, Batching(1, 1), lambda load: 1.0, replicas=2)
    assert (start, end) == ([0.0, 0.0, 100.0, 20.0], [100.0, 10.0, 110.0, 30.0])


# -- the oracle notices


def first_in_is_preempted(monkeypatch):
    def make_room(self):
        cache, found = self.batching.cache_tokens, False
        while cache is not None and self.held + self.decoding * self.growth > cache:
            s = self.order.pop(0)
            if s.running:
                found = True
                self._preempt(s)
        return found

    monkeypatch.setattr(Replica, "_make_room", make_room)


def arrivals_do_not_end_merged_steps(monkeypatch):
    monkeypatch.setattr(Replica, "open", property(lambda self: False))


def one_slot_too_many(monkeypatch):
    real = Replica._has_room

    def room(self, s):
        self.running -= 1
        try:
            return real(self, s)
        finally:
            self.running += 1

    monkeypatch.setattr(Replica, "_has_room", room)


def context_forgets_the_new_token(monkeypatch):
    real = Replica._load
    less = lambda load: Load(load.decodes, load.context - 1, load.prefill_tokens, load.prefill_past, load.prompts)
    monkeypatch.setattr(Replica, "_load", lambda self, *a: less(real(self, *a)))


def merged_steps_all_take_as_long_as_the_first(monkeypatch):
    monkeypatch.setattr(Run, "total", lambda self, k: self.first * k)


FAULTS = [
    first_in_is_preempted,
    arrivals_do_not_end_merged_steps,
    one_slot_too_many,
    context_forgets_the_new_token,
    merged_steps_all_take_as_long_as_the_first,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_is_noticed(fault, monkeypatch):
    cases = [(drawn(seed, rate=20.0), Batching(slots, 32, 120)) for seed in range(3) for slots in (3, 8)]
    assert all(agree(played(r, b), walked(r, b)) for r, b in cases)
    fault(monkeypatch)
    assert not all(agree(played(r, b), walked(r, b)) for r, b in cases)


# -- merged steps


def test_merged_steps_take_what_they_take_one_by_one():
    """A roofline's kink is no polynomial: what merging makes of it stays within a thousandth of a request's time."""
    kinked = lambda load: max(0.01, 2e-6 * load.decodes * load.context) + 1e-4 * load.prefill_tokens
    requests = [(at, p * 40, o * 20) for at, p, o in drawn(1, 60, rate=1.0)]
    one, many = (played(requests, Batching(16, 512), kinked, merge=m) for m in (1, 128))
    assert np.abs(np.array(one) - np.array(many)).max() < 1e-3 * (np.array(one[2]) - np.array(one[0])).mean()
    assert np.abs(np.array(one) - np.array(many)).max() > 0  # it is merged at all


@given(st.integers(1, 300), st.floats(1e-4, 1.0), st.floats(0, 1e-3), st.floats(0, 1e-6))
def test_a_quadratic_is_summed_exactly(steps, a, b, c):
    time_of = lambda load: a + b * load.context + c * load.context**2
    merged = Run(time_of, Load(3, 50.0, 0, 0.0), 1, steps)
    each = [time_of(Load(3, 50.0 + i, 0, 0.0)) for i in range(steps)]
    for k in {1, steps, (steps + 1) // 2}:
        assert math.isclose(merged.total(k), math.fsum(each[:k]), rel_tol=1e-9)
        assert merged.steps_by(math.fsum(each[:k]) - a / 2) == k


# -- a table instead of the function


@given(st.integers(0, 500), st.floats(0, 1e5), st.integers(0, 9000), st.floats(0, 1e5), st.integers(1, 9))
def test_a_table_is_the_function_where_it_is_linear_and_near_it_elsewhere(decodes, context, tokens, past, prompts):
    load = Load(decodes, context if decodes else 0.0, tokens, past if tokens else 0.0, prompts)
    assert math.isclose(tabulated(linear)(load), linear(load), rel_tol=1e-9)
    curved = lambda load: (
        0.01 + 1e-9 * load.tokens**2 + 1e-9 * load.context**1.5 + 1e-8 * load.tokens * load.prefill_past
    )
    assert math.isclose(tabulated(curved)(load), curved(load), rel_tol=0.005)


def test_a_replay_by_a_table_is_the_replay_with_fewer_calls():
    calls = []
    counted = lambda load: calls.append(load) or linear(load)
    requests = drawn(9, 2000, rate=12.0, prompt=1)
    exact = replay(block(requests), counted, Batching(8, 64))
    many = len(calls)
    calls.clear()
    found = replay(block(requests), tabulated(counted), Batching(8, 64))
    assert math.isclose(found.e2e_s.mean_s, exact.e2e_s.mean_s, rel_tol=1e-6)
    assert len(calls) < many / 2


# -- laws of its own


@pytest.mark.parametrize("options", [{}, {"replicas": 3}, {"replicas": 2, "concurrency": 11}], ids=str)
@pytest.mark.parametrize("batching", BATCHINGS[1:6:2], ids=lambda b: f"{b.slots}-{b.cache_tokens}")
def test_littles_law_holds_exactly(batching, options):
    """What is there in the mean over time is what comes in a second times how long it stays; the two are counted apart."""
    found = replay(block(drawn(7, 300, rate=30.0)), linear, batching, **options)
    assert math.isclose(found.in_flight, found.rate_per_s * found.e2e_s.mean_s, rel_tol=1e-9)
    if not found.preemptions:
        assert math.isclose(found.waiting, found.rate_per_s * found.queue_s.mean_s, rel_tol=1e-9, abs_tol=1e-12)


def test_tokens_are_conserved():
    """Every token is made once: the first by its prompt's last chunk, each other by a decode."""
    requests = drawn(2, 200)
    _, counters = run(block(requests), linear, Batching(8, 64))
    assert counters.decoded == sum(o - 1 for _, _, o in requests)
    assert counters.in_flight == counters.waiting == 0


def test_the_same_again_is_the_same():
    first, again = (replay(block(drawn(4)), linear, Batching(8, 32, 120), replicas=2) for _ in range(2))
    assert first == again


def test_a_replay_that_does_nothing_but_one_request():
    found = replay(block([(5.0, 10, 4)]), lambda load: 0.5, Batching(1, 10))
    assert (found.duration_s, found.ttft_s.p99_s, found.tpot_s.p50_s, found.utilisation) == (2.0, 0.5, 0.5, 1.0)
    assert found.longest_queue == 1
    assert not found.growing


def test_requests_without_further_tokens_have_no_time_per_token():
    assert replay(block([(0.0, 10, 1)]), lambda load: 0.5, Batching(1, 10)).tpot_s is None


# -- monotonicity


SMALL = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=25)


@given(SMALL, st.floats(0.1, 1.0), st.integers(0, 24))
def test_of_one_after_another_no_request_is_hurt(drawn_, faster, left_out):
    """With one slot, by Lindley's recursion: faster steps, fewer requests or shorter prompts end no request later."""
    requests, b = [(at / 10, p, o) for at, p, o in sorted(drawn_)], Batching(1, 16)
    ends = played(requests, b)[2]
    late = lambda new, old: any(n > o + 1e-9 for n, o in zip(new, old))
    assert not late(played(requests, b, lambda load: faster * linear(load))[2], ends)
    assert not late(played([(at, (p + 1) // 2, o) for at, p, o in requests], b)[2], ends)
    if len(requests) > left_out and len(requests) > 1:
        rest = [i for i in range(len(requests)) if i != left_out]
        assert not late(played([requests[i] for i in rest], b)[2], [ends[i] for i in rest])


@given(SMALL, st.floats(0.1, 1.0), st.sampled_from(list(RULES)), st.integers(1, 8))
def test_of_what_is_there_at_once_faster_steps_scale_all(drawn_, faster, rule, slots):
    requests, b = [(0.0, p, o) for _, p, o in drawn_], Batching(slots, 16, None, rule)
    scaled = np.array(played(requests, b, lambda load: faster * linear(load)))
    assert np.allclose(scaled, faster * np.array(played(requests, b)), rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_in_the_mean_of_many_nobody_is_hurt(rule, seed):
    """Batches are no queue of one: a single request may miss a step that it caught before. The mean of many is not hurt."""
    mean = lambda requests, b, f=linear: replay(block(requests), f, b).e2e_s.mean_s
    requests, b = drawn(seed, 800, rate=12.0), Batching(8, 64, None, rule)
    now = mean(requests, b)
    assert mean(requests, b, lambda load: 0.9 * linear(load)) < now
    assert mean([(at, max(p // 2, 1), o) for at, p, o in requests], b) < now
    assert mean(requests[::2], b) < now


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_more_slots_bring_the_first_token_sooner(rule, seed):
    """Not the last one: where prompts come first, more slots let more of them interrupt who is under way."""
    first = lambda slots: (
        replay(block(drawn(seed, 800, rate=12.0)), linear, Batching(slots, 64, None, rule)).ttft_s.mean_s
    )
    assert first(4) >= first(8) >= first(16)


# -- a queue that grows


def test_a_queue_that_grows_is_told_from_one_that_does_not():
    rng = np.random.default_rng(0)
    at = np.cumsum(rng.exponential(1.0, 4000))
    ones = np.ones(4000, int)
    for busy, growing in ((0.5, False), (0.8, False), (1.1, True), (1.5, True)):
        assert replay([Requests(at, ones, ones)], lambda load: busy, Batching(1, 1)).growing is growing
    assert not grows([100] * 1000)
    assert not grows([5] * 20)


# -- what is refused


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([(1.0, 5, 5), (0.5, 5, 5)], "request 2 comes at 0.5 s, after one at 1 s"),
        ([(math.nan, 5, 5)], "request 1 comes at nan s"),
        ([(0.0, 0, 5)], "request 1 has 0 prompt and 5 output tokens"),
        ([], "no requests"),
    ],
)
def test_bad_requests_are_refused(requests, said):
    blocks = block(requests) if requests else []
    with pytest.raises(InputError, match=said):
        replay(blocks, linear, Batching(4, 16))


def test_requests_that_no_cache_holds_are_left_out_and_counted():
    requests = [(0.0, 10, 5), (0.1, 500, 5), (0.2, 10, 5)]
    found = replay(block(requests), linear, Batching(4, 16, 100))
    assert (found.requests, found.refused) == (2, 1)
    with pytest.raises(InputError, match="1 do not fit into the cache"):
        replay(block(requests[1:2]), linear, Batching(4, 16, 100))


@pytest.mark.parametrize("time_s", [0.0, -1.0, math.nan, math.inf])
def test_a_step_that_takes_no_time_is_refused(time_s):
    with pytest.raises(InputError, match="a time of more than 0 is expected"):
        replay(block(drawn(0)), lambda load: time_s, Batching(4, 16))


@pytest.mark.parametrize("options", [{"replicas": 0}, {"concurrency": 0}, {"merge": 0}, {"routing": "least-load"}])
def test_bad_options_are_refused(options):
    with pytest.raises(InputError, match=r"at least 1|least-loaded"):
        replay(block(drawn(0)), linear, Batching(4, 16), **options)


def test_progress_is_told():
    told = []
    replay(block(drawn(0, 3000, rate=500.0)), linear, Batching(64, 512), progress=told.append)
    assert told == [1024, 2048]
    assert module.MERGED > 1
