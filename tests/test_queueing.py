"""Closed forms: against theory by hand, against replays where both apply, and what has to rise or fall does."""

from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnmath.errors import InputError
from attnmath.plans import queueing
from attnmath.plans.batching import RULES, Batching
from attnmath.plans.load import Load
from attnmath.plans.queueing import (
    Pool,
    Shape,
    births_and_deaths,
    disaggregated,
    little,
    saturation,
    service,
    slots,
    steady,
    utilisation,
    waiting_s,
)
from attnmath.plans.replay import replay
from attnmath.plans.shortcuts import (
    Speculation,
    break_even_acceptance,
    break_even_hit_rate,
    speculative,
)
from attnmath.plans.workload import Arrivals, draw, lengths


def step(load):
    """A step of a small model on a large GPU: weights, then each sequence and its cache, then prompts."""
    return 0.008 + 2e-5 * load.decodes + 1e-8 * load.decodes * load.context + 2e-5 * load.prefill_tokens


CONSTANT = (lengths(1000), lengths(200))
RANDOM = (lengths({"mean": 1000, "std": 800}), lengths({"mean": 200, "std": 150}))
LONG = (lengths({"mean": 6000, "std": 3000}), lengths({"mean": 50, "std": 40}))
LAWS = {"constant": CONSTANT, "random": RANDOM, "long prompts": LONG}


# -- M/D/1, M/G/1, M/M/c


@cache
def queue_of_one(rho, requests=200_000):
    """One slot, one token, steps of one second: a replay that is M/D/1."""
    blocks = draw(lengths(1), lengths(1), Arrivals(rho), requests, seed=1)
    return replay(blocks, lambda load: 1.0, Batching(1, 1))


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_a_replay_of_one_slot_and_one_token_is_m_d_1(rho):
    found = queue_of_one(rho)
    assert found.queue_s.mean_s == pytest.approx(waiting_s(rho, 1.0), rel=0.05)
    assert found.queue_s.mean_s == pytest.approx(rho / (2 * (1 - rho)), rel=0.05)
    assert found.utilisation == pytest.approx(utilisation(rho, 1.0), rel=0.02)
    closed = steady(Shape(1, 1), lambda load: 1.0, Batching(1, 1), rate_per_s=rho)
    assert closed.wait_s == pytest.approx(waiting_s(rho, 1.0), rel=1e-12)
    assert found.in_flight == pytest.approx(closed.in_flight, rel=0.05)


@pytest.mark.parametrize("fault", [lambda r, s: r * s * s / (1 - r * s), lambda r, s: r * s * s / 2])
def test_another_formula_is_noticed(fault):
    """M/M/1's wait, and one that forgets who waits already, are none of the replay's."""
    assert queue_of_one(0.8).queue_s.mean_s != pytest.approx(fault(0.8, 1.0), rel=0.05)


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_one_slot_and_prompts_of_all_lengths_are_m_g_1(rho):
    """A step takes as long as its prompt: the wait is Pollaczek's and Khinchine's, with the prompts' variation."""
    law = lengths({"mean": 1000, "std": 700, "max": 8000})
    time_of = lambda load: load.prefill_tokens / law.mean
    found = replay(draw(law, lengths(1), Arrivals(rho), 100_000, seed=2), time_of, Batching(1, 10_000))
    assert found.queue_s.mean_s == pytest.approx(waiting_s(rho, 1.0, law.scv), rel=0.05)
    closed = steady(Shape.of(law, lengths(1)), time_of, Batching(1, 10_000), rate_per_s=rho)
    assert closed.wait_s == pytest.approx(waiting_s(rho, 1.0, law.scv), rel=0.01)  # tokens are whole


def test_one_slot_and_tokens_are_m_g_1_too():
    """The same by births and deaths, where a request is a prompt and tokens."""
    law = lengths({"uniform": [2, 20]})
    shape = Shape.of(lengths(10), law)
    time_of = lambda load: 0.5 if load.prefill_tokens else 0.1
    found = replay(draw(lengths(10), law, Arrivals(0.5), 100_000, seed=3), time_of, Batching(1, 16))
    closed = steady(shape, time_of, Batching(1, 16), rate_per_s=0.5)
    assert closed.e2e_s == pytest.approx(found.e2e_s.mean_s, rel=0.05)
    each = 0.5 + 0.1 * (law.mean - 1)
    vary = 0.01 * law.scv * law.mean**2 / each**2
    assert found.queue_s.mean_s == pytest.approx(waiting_s(0.5, each, vary), rel=0.05)
    assert closed.wait_s == pytest.approx(waiting_s(0.5, each, vary), rel=0.05)


@given(st.floats(0.05, 0.99), st.integers(1, 40))
def test_births_and_deaths_of_one_time_are_erlangs(rho, servers):
    """Erlang's C and P(idle) by their sums, term by term."""
    a = rho * servers
    found = births_and_deaths(a, lambda k: 1.0, servers)
    terms = [a**k / math.factorial(k) for k in range(servers)]
    last = a**servers / math.factorial(servers) / (1 - rho)
    assert found.idle == pytest.approx(1 / (sum(terms) + last), rel=1e-9)
    assert found.running == pytest.approx(a, rel=1e-9)
    assert found.waiting == pytest.approx(last / (sum(terms) + last) * rho / (1 - rho), rel=1e-9)
    assert found.idle + found.open <= 1 + 1e-12
    assert 1 <= found.wave <= servers + 1e-9


def test_of_very_many_slots_a_poisson_number_is_under_way():
    found = births_and_deaths(5.0, lambda k: 1.0, 500)
    assert found.idle == pytest.approx(math.exp(-5))
    assert found.wave == pytest.approx(6.0)  # itself, and as many as there are without it
    assert found.waiting == pytest.approx(0.0, abs=1e-12)


def test_laws_by_hand():
    assert little(3.0, 2.0) == 6.0
    assert utilisation(3.0, 0.5, servers=3) == 0.5
    assert waiting_s(0.5, 1.0, 1.0) == pytest.approx(1.0)  # M/M/1: rho / (1 - rho)
    assert waiting_s(2.0, 1.0) == math.inf
    assert births_and_deaths(3.0, lambda k: 1.0, 3) is None


# -- a closed loop: the fluid


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("concurrency", [1, 4, 32, 200])
def test_a_closed_loop_is_as_a_replay_has_it(rule, law, concurrency):
    if law == "constant" and rule != "mixed" and concurrency > 4:
        pytest.skip("requests alike march in step there, and their prompts share steps: see the next test")
    prompt, output = LAWS[law]
    batching = Batching(64, 2048, None, rule)
    closed = steady(Shape.of(prompt, output), step, batching, concurrency=concurrency)
    found = replay(draw(prompt, output, None, 3000, seed=1), step, batching, concurrency=concurrency)
    assert closed.rate_per_s == pytest.approx(found.rate_per_s, rel=0.05)
    e2e = closed.ttft_s + closed.tpot_s * (closed.rate_per_s and Shape.of(prompt, output).output - 1)
    assert closed.rate_per_s == pytest.approx(concurrency / e2e, rel=1e-9)


def prompts_are_free(monkeypatch):
    real = queueing._between
    monkeypatch.setattr(queueing, "_between", lambda f, d, c, tokens, *rest: real(f, d, c, 0.0, *rest) if d else 1e-9)


def nobody_else_decodes(monkeypatch):
    real = queueing._between
    monkeypatch.setattr(queueing, "_between", lambda f, d, *rest: real(f, min(d, 1.0), *rest))


@pytest.mark.parametrize("fault", [prompts_are_free, nobody_else_decodes], ids=lambda f: f.__name__)
def test_a_fault_in_the_fluid_is_noticed(fault, monkeypatch):
    found = replay(draw(*RANDOM, None, 3000, seed=1), step, Batching(64, 2048), concurrency=32).rate_per_s
    rate = lambda: steady(Shape.of(*RANDOM), step, Batching(64, 2048), concurrency=32).rate_per_s
    assert rate() == pytest.approx(found, rel=0.05)
    fault(monkeypatch)
    assert rate() != pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("rule", ["prefill-first", "whole-prompts-first"])
def test_requests_that_march_in_step_do_better_than_the_fluid(rule):
    """What the fluid does not know: alike, and started at once, requests end at once, and their prompts fill whole steps."""
    batching = Batching(64, 2048, None, rule)
    closed = steady(Shape.of(*CONSTANT), step, batching, concurrency=200)
    found = replay(draw(*CONSTANT, None, 6000), step, batching, concurrency=200)
    assert 1.0 < found.rate_per_s / closed.rate_per_s < 1.1


def test_one_request_at_a_time_is_exact():
    closed = steady(Shape(1000, 200), step, Batching(64, 512), concurrency=1)
    found = replay(draw(*CONSTANT, None, 5), step, Batching(64, 512), concurrency=1)
    assert closed.rate_per_s == pytest.approx(found.rate_per_s, rel=1e-9)
    assert closed.ttft_s == pytest.approx(found.ttft_s.mean_s, rel=1e-9)
    assert closed.tpot_s == pytest.approx(found.tpot_s.mean_s, rel=1e-9)


# -- an open one


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("law", ["constant", "random"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_under_a_rate_a_server_is_as_a_replay_has_it(rule, law, share):
    prompt, output = LAWS[law]
    shape, batching = Shape.of(prompt, output), Batching(64, 2048, None, rule)
    rate = share * saturation(shape, step, batching).rate_per_s
    closed = steady(shape, step, batching, rate_per_s=rate)
    found = replay(draw(prompt, output, Arrivals(rate), 8_000, seed=4), step, batching)
    assert closed.utilisation == pytest.approx(share)
    assert closed.tpot_s == pytest.approx(found.tpot_s.mean_s, rel=0.05)
    assert closed.in_flight == pytest.approx(found.in_flight, rel=0.05)
    assert closed.ttft_s == pytest.approx(found.ttft_s.mean_s, rel=0.15)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_long_prompts_and_few_tokens_are_the_hard_case(rule, share):
    """Prompts of several steps, whose owners then meet those that came behind: within a third, and labelled as approximate."""
    shape, batching = Shape.of(*LONG), Batching(64, 2048, None, rule)
    rate = share * saturation(shape, step, batching).rate_per_s
    closed = steady(shape, step, batching, rate_per_s=rate)
    found = replay(draw(*LONG, Arrivals(rate), 8_000, seed=4), step, batching)
    assert closed.ttft_s == pytest.approx(found.ttft_s.mean_s, rel=0.15)
    assert closed.in_flight == pytest.approx(found.in_flight, rel=0.33)
    assert closed.assumed


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("prompt", [200, 1000, 4000])
def test_a_pool_of_prompts_is_as_a_replay_has_it(prompt, share):
    time_of = lambda load: 0.01 + 1e-4 * load.tokens
    shape, batching = Shape(prompt, 1), Batching(32, 2048)
    rate = share * saturation(shape, time_of, batching).rate_per_s
    closed = steady(shape, time_of, batching, rate_per_s=rate)
    found = replay(draw(lengths(prompt), lengths(1), Arrivals(rate), 20_000, seed=5), time_of, batching)
    assert closed.ttft_s == pytest.approx(found.ttft_s.mean_s, rel=0.2)


def test_above_saturation_there_is_no_steady_state():
    shape, batching = Shape(1000, 200), Batching(64, 2048)
    most = saturation(shape, step, batching).rate_per_s
    found = steady(shape, step, batching, rate_per_s=1.01 * most)
    assert not found.stable
    assert found.ttft_s is found.tpot_s is found.in_flight is None
    assert found.utilisation == pytest.approx(1.01)
    assert steady(shape, step, batching, rate_per_s=0.99 * most).stable
    blocks = lambda share: draw(*CONSTANT, Arrivals(share * most), 6_000, seed=6)
    assert replay(blocks(1.15), step, batching).growing
    assert not replay(blocks(0.7), step, batching).growing


def test_replicas_share_the_load():
    shape, batching = Shape(1000, 200), Batching(64, 2048)
    one, four = (steady(shape, step, batching, rate_per_s=5.0 * n, replicas=n) for n in (1, 4))
    assert four.ttft_s == pytest.approx(one.ttft_s)
    assert four.in_flight == pytest.approx(4 * one.in_flight)
    assert four.saturation_per_s == pytest.approx(4 * one.saturation_per_s)
    loop = steady(shape, step, batching, concurrency=2, replicas=8)
    assert loop.rate_per_s == pytest.approx(2 * steady(shape, step, batching, concurrency=1).rate_per_s)


def test_what_limits_is_named():
    assert slots(Shape(1000, 201), Batching(64, 2048, 11_000)) == (10, "cache")
    assert steady(Shape(1000, 201), step, Batching(64, 2048, 11_000), rate_per_s=1.0).limit == "cache"
    assert steady(Shape(1000, 201), step, Batching(64, 2048), rate_per_s=1.0).limit == "slots"
    assert steady(Shape(8000, 11), step, Batching(64, 1024), rate_per_s=1.0).limit == "budget"


# -- two pools


def test_two_pools_are_two_servers_and_a_transfer():
    shape = Shape(2000, 101)
    found = disaggregated(shape, Pool(step, Batching(8, 2048)), Pool(step, Batching(64, 2048), 2), 0.05, 4.0)
    assert found.e2e_s == pytest.approx(found.prefill.e2e_s + 0.05 + found.decode.e2e_s)
    assert found.in_flight == pytest.approx(4.0 * found.e2e_s)
    assert found.saturation_per_s == min(found.prefill.saturation_per_s, found.decode.saturation_per_s)
    alone = replay(draw(lengths(2000), lengths(1), Arrivals(4.0), 20_000), step, Batching(8, 2048))
    assert found.ttft_s == pytest.approx(alone.ttft_s.mean_s, rel=0.1)
    assert (
        found.decode.tpot_s < steady(shape, step, Batching(64, 2048), rate_per_s=2.0).tpot_s
    )  # no prompts in its steps


def test_a_pool_that_cannot_is_the_limit():
    slow, fast = Pool(lambda load: 10 * step(load), Batching(8, 2048)), Pool(step, Batching(64, 2048))
    found = disaggregated(Shape(2000, 101), slow, fast, 0.0, 4.0)
    assert (found.stable, found.limit, found.ttft_s, found.tpot_s) == (False, "prefill", None, None)
    assert disaggregated(Shape(10, 1001), fast, slow, 0.0, 4.0).limit == "decode"


# -- what never hurts


SHAPES = st.builds(Shape, st.floats(1, 5000), st.floats(1, 500), st.floats(0, 2), st.floats(0, 2))
BATCHINGS = st.builds(Batching, st.integers(1, 64), st.integers(64, 4096), st.none(), st.sampled_from(list(RULES)))


@given(SHAPES, BATCHINGS, st.floats(0.05, 0.95), st.floats(0.1, 0.99))
def test_faster_steps_never_hurt(shape, batching, share, faster):
    rate = share * saturation(shape, step, batching).rate_per_s
    slow, fast = (steady(shape, f, batching, rate_per_s=rate) for f in (step, lambda load: faster * step(load)))
    assert fast.stable
    assert fast.ttft_s <= slow.ttft_s * (1 + 1e-9)
    assert fast.e2e_s <= slow.e2e_s * (1 + 1e-9)
    assert fast.in_flight <= slow.in_flight * (1 + 1e-9)
    assert fast.saturation_per_s >= slow.saturation_per_s


@given(SHAPES, BATCHINGS, st.floats(0.05, 0.9), st.floats(0.3, 0.99))
def test_fewer_requests_never_hurt(shape, batching, share, fewer):
    rate = share * saturation(shape, step, batching).rate_per_s
    many, few = (steady(shape, step, batching, rate_per_s=r) for r in (rate, fewer * rate))
    assert few.e2e_s <= many.e2e_s * 1.001
    assert few.in_flight <= many.in_flight * 1.001


@given(st.floats(2, 4000), st.floats(1, 400), st.integers(1, 64), st.sampled_from(list(RULES)), st.floats(0.2, 0.9))
def test_shorter_prompts_never_hurt_the_saturation(prompt, output, most, rule, shorter):
    batching = Batching(most, 2048, None, rule)
    full = lambda p: saturation(Shape(p, output), step, batching).rate_per_s
    assert full(max(prompt * shorter, 1.0)) >= full(prompt) * 0.999


@given(SHAPES, BATCHINGS, st.integers(1, 30))
def test_more_slots_never_hurt_the_saturation(shape, batching, more):
    from msgspec.structs import replace

    if batching.slots + more > batching.budget // 2:
        return
    wider = replace(batching, slots=batching.slots + more)
    few, many = (saturation(shape, step, b).rate_per_s for b in (batching, wider))
    assert many >= few * 0.98


@given(SHAPES, BATCHINGS, st.floats(0.01, 1.5))
def test_littles_law_holds_in_every_answer(shape, batching, share):
    rate = share * saturation(shape, step, batching).rate_per_s
    found = steady(shape, step, batching, rate_per_s=rate)
    assert found.stable == (share < 1) or share == pytest.approx(1, rel=1e-6)
    if found.stable:
        assert found.in_flight == pytest.approx(rate * found.e2e_s)
        assert found.e2e_s == pytest.approx(found.ttft_s + (found.tpot_s or 0) * (shape.output - 1))
        assert found.wait_s >= 0
        assert found.running <= batching.slots + 1e-9


# -- drafts and cached prompts


@pytest.mark.parametrize(("accepted", "drafted"), [(0.0, 1), (0.5, 3), (0.8, 5), (1.0, 4)])
def test_tokens_a_step_are_as_a_drawn_draft_has_them(accepted, drafted):
    """Draft, and stop at the first that is refused, one token of the model's own behind: Leviathan et al.'s equation 1."""
    import random

    rng, made = random.Random(1), 0
    for _ in range(40_000):
        made += 1
        for _ in range(drafted):
            if rng.random() >= accepted:
                break
            made += 1
    speculation = Speculation(accepted, drafted)
    assert made / 40_000 == pytest.approx(speculation.tokens_per_step, rel=0.02)
    if accepted < 1:
        formula = (1 - accepted ** (drafted + 1)) / (1 - accepted)
        assert speculation.tokens_per_step == pytest.approx(formula, rel=1e-12)


def test_the_break_even_acceptance_breaks_even():
    """At it, drafting gains nothing; a little above, it does, in a replay too."""
    draft = lambda load: 0.05 * step(load)
    load = Load(1, 100.0, 0, 0.0)
    cost = speculative(step, draft, Speculation(0.5, 4))(load)
    at = break_even_acceptance(cost, step(load), 4).at
    assert Speculation(at, 4).tokens_per_step == pytest.approx(cost / step(load))

    def time_of(accepted):
        drafted = Speculation(accepted, 4)
        b = Batching(1, 4096, tokens_per_step=drafted.tokens_per_step)
        found = replay(draw(lengths(1), lengths(20_001), None, 1), speculative(step, draft, drafted), b, concurrency=1)
        return found.tpot_s.mean_s

    plain = replay(draw(lengths(1), lengths(20_001), None, 1), step, Batching(1, 4096), concurrency=1).tpot_s.mean_s
    assert time_of(at + 0.05) < plain < time_of(at - 0.05)
    assert break_even_acceptance(0.5, 1.0, 4).at == 0.0
    assert break_even_acceptance(6.0, 1.0, 4).at is None


def test_drafted_steps_cost_what_they_verify():
    seen = []
    model = lambda load: (seen.append(load), 1.0)[1]
    verified = speculative(model, lambda load: 0.1, Speculation(0.5, 3))
    assert verified(Load(10, 200.0, 100, 50.0, 2)) == pytest.approx(1.3)
    (load,) = seen
    assert (load.decodes, load.prefill_tokens, load.tokens, load.prompts) == (10, 130, 140, 12)
    assert load.prefill_past == pytest.approx((100 * 50 + 30 * 200) / 130)


def test_the_break_even_hit_rate_carries_the_rate():
    shape, batching = Shape(2000, 101), Batching(32, 2048)
    bare = saturation(shape, step, batching).rate_per_s
    at = break_even_hit_rate(shape, step, batching, 1.2 * bare).at
    from msgspec.structs import replace

    with_it = saturation(shape, step, replace(batching, hit_rate=at)).rate_per_s
    assert with_it == pytest.approx(1.2 * bare, rel=0.01)
    assert break_even_hit_rate(shape, step, batching, 0.9 * bare).at == 0.0
    assert break_even_hit_rate(shape, step, batching, 100 * bare).at is None


def test_cached_prompts_are_not_computed():
    prompt, output = lengths(1000), lengths(50)
    b = Batching(32, 2048, hit_rate=0.75)
    found = replay(draw(prompt, output, None, 500), step, b, concurrency=16)
    less = replay(draw(lengths(250), output, None, 500), step, Batching(32, 2048), concurrency=16)
    assert found.ttft_s.mean_s == pytest.approx(less.ttft_s.mean_s, rel=0.02)
    assert steady(Shape(1000, 50), step, b, concurrency=16).rate_per_s == pytest.approx(found.rate_per_s, rel=0.05)


# -- what is refused


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: steady(Shape(10, 10), step, Batching(1, 16)), "one of rate_per_s and concurrency"),
        (lambda: steady(Shape(10, 10), step, Batching(1, 16), rate_per_s=1, concurrency=1), "one of rate_per_s"),
        (lambda: steady(Shape(10, 10), step, Batching(1, 16), rate_per_s=-1, replicas=0), "2 errors"),
        (lambda: Shape(0, math.nan), "2 errors"),
        (lambda: steady(Shape(100, 10), step, Batching(1, 16, 50), rate_per_s=1), "does not fit into a cache of 50"),
        (lambda: Speculation(1.5, 0), "2 errors"),
        (lambda: break_even_acceptance(0.0, 1.0, 3), "more than 0"),
        (
            lambda: disaggregated(Shape(10, 1), Pool(step, Batching(1, 1)), Pool(step, Batching(1, 1)), 0, 1),
            "nothing to decode",
        ),
        (
            lambda: disaggregated(Shape(10, 5), Pool(step, Batching(1, 1)), Pool(step, Batching(1, 1)), -1, 1),
            "expected times",
        ),
    ],
)
def test_what_is_no_load_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_service_is_what_it_says():
    s = service(Shape(100, 11), step, Batching(8, 64), 1)
    first = sum(step(Load(0, 0.0, n, 0.0)) for n in (64, 36))
    rest = sum(step(Load(1, 101.0 + i, 0, 0.0)) for i in range(10))
    assert s.first_s == pytest.approx(first)
    assert s.time_s == pytest.approx(first + rest)
    assert queueing.ASSUMED
