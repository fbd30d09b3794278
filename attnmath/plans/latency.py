"""A server's plan in time: when tokens come, how many, at which load it stops keeping up, and what a million of them cost.

Steps are timed by `steps.py`, requests go through them as in `queueing.py`, or one by one as in `replay.py`. Everything is
said twice: a bound, which steps at the peak rates would reach and no server beats, and an estimate, with the error that
published figures found it to have (`accuracy.toml`, written by benchmarks/plans.py).
"""

from __future__ import annotations

import math
import os
import tomllib
from functools import lru_cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.hardware import Gpu
from attnmath.hardware import get as get_gpu
from attnmath.plans.batching import Batching
from attnmath.plans.load import Load, StepTime
from attnmath.plans.queueing import Pool, Shape, Steady, disaggregated, steady
from attnmath.plans.servers import Server, beside, most, needed, sequence_bytes
from attnmath.plans.shortcuts import Speculation, break_even_acceptance, speculative
from attnmath.plans.steps import Steps
from attnmath.plans.workload import Lengths, lengths

RULE_OF = {  # how an engine makes up its steps, a row of batching.RULES
    "vllm": "mixed",
    "sglang": "prefill-first",
    "trtllm": "mixed",
    "llama.cpp": "mixed",
    "ideal": "mixed",
}
ACCEPTANCE, DRAFT_SHARE = 0.7, 0.1  # of drafted tokens, and of a step, if the plan does not say
ACCURACY = os.path.join(os.path.dirname(__file__), "accuracy.toml")


class Accuracy(Struct, frozen=True):
    """How far estimates were from published figures: the median and the 90th percentile of |error|, of so many figures."""

    median: float
    p90: float
    figures: int


@lru_cache
def accuracy() -> dict[str, Accuracy]:
    """That of each number that is estimated.

    >>> sorted(accuracy())
    ['output_tokens_per_s', 'tpot_s', 'ttft_s']
    """
    with open(ACCURACY, "rb") as file:
        return {k: Accuracy(**v) for k, v in tomllib.load(file).items()}


class Range(Struct, frozen=True):
    """An estimate between what nothing beats (`bound`) and what nine in ten published figures were better than."""

    bound: float | None
    estimate: float | None
    pessimistic: float | None


class Latency(Struct, frozen=True):
    """Seconds of a request, in the mean. `wait_s`: before its first step; `step_s`: of one step, by what takes it; `limit`: what
    bounds that step.
    """

    ttft_s: Range
    tpot_s: Range | None
    e2e_s: Range
    wait_s: float | None
    step_s: dict[str, float]
    limit: str


class Throughput(Struct, frozen=True):
    """What the server makes under its load, over all replicas; `saturation_per_s`: the most requests a second, and
    `saturates_by` what limits it; `utilisation`: the rate's share of it.
    """

    output_tokens_per_s: Range
    output_tokens_per_s_per_gpu: float
    requests_per_s: float
    saturation_per_s: Range
    saturates_by: str
    utilisation: float
    in_flight: float | None
    usd_per_million_output_tokens: float | None
    joules_per_output_token: float | None


class Timed(Struct, frozen=True):
    """A plan's latency and throughput; `stable`: whether the server keeps up; `formula`: what was solved; `accuracy`: of the
    estimates.
    """

    stable: bool
    latency: Latency
    throughput: Throughput
    formula: str
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    accuracy: dict[str, Accuracy]


def gpu_of(s: Server) -> Gpu:
    """The accelerator that a plan names; InputError if it names none.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import server
    >>> gpu_of(server(parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"', "p"))).name
    'h100-sxm'
    """
    if s.plan["gpu.name"] is None:
        raise InputError("gpu.name is missing: a size of memory says nothing of time")
    return get_gpu(beside(s.plan, "gpu.name"))


def shape_of(s: Server) -> Shape:
    """What the plan's requests are like.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import server
    >>> shape_of(server(parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"', "p"))).prompt
    1024.0
    """
    return Shape.of(*laws_of(s))


def laws_of(s: Server) -> tuple[Lengths, Lengths]:
    """How long prompts and outputs are: by their laws, or all as long as has to fit.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import server
    >>> text = 'model = "gpt2"\\n[gpu]\\nname = "h100-sxm"\\n[workload]\\nprompt_law = { uniform = [1, 9] }'
    >>> [law.mean for law in laws_of(server(parse(text, "p")))]
    [5.0, 256.0]
    """
    plan = s.plan
    prompt, output = (plan[f"workload.{k}_law"] or int(plan[f"workload.{k}_tokens"]) for k in ("prompt", "output"))
    return lengths(prompt), lengths(output)


def cache_tokens(stages: list[Server], shape: Shape) -> int | None:
    """Tokens that the cache of a replica holds: as many requests as fit at their mean length, times that; None: no limit.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import servers
    >>> stages = servers(parse('model = "llama-3.1-8b"\\n[gpu]\\nname = "h100-sxm"', "p"))
    >>> 3e5 < cache_tokens(stages, Shape(1000, 100)) < 5e5
    True
    """
    mean = max(int(shape.context(1.0) - 1), 1)
    held = most(lambda n: all(needed(x, n, mean) <= max(x.pool, 0) for x in stages), 2**24)
    if held is None:
        return None
    whole = int(shape.prompt + shape.output)
    return max(math.ceil(held * (shape.context(1.0) - 1)), whole if held else 0)


def timed(stages: list[Server], steps: Steps | None = None) -> Timed:
    """A plan's latency and throughput under its own load; `steps`: its steps, if they are at hand. InputError, saying why,
    where they cannot be known.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import servers
    >>> text = 'model = "llama-3.1-8b"\\n[gpu]\\nname = "h100-sxm"\\n[workload]\\nconcurrency = 32'
    >>> found = timed(servers(parse(text, "plan.toml")))
    >>> found.latency.tpot_s.bound < found.latency.tpot_s.estimate < found.latency.tpot_s.pessimistic
    True
    """
    s = stages[0]
    if s.crosses:
        raise InputError(f"{s.model.name} has an encoder beside its decoder, whose steps are not timed here")
    gpu, shape, plan = gpu_of(s), shape_of(s), s.plan
    steps = steps or Steps(s, gpu)
    step, batching, notes = replica(stages, shape, steps)
    rate = plan["workload.rate_per_s"]
    load: dict[str, Any] = {"rate_per_s": rate} if rate is not None else {"concurrency": plan["workload.concurrency"]}
    if plan["parallel.prefill"] is not None:
        return _pools(s, steps, step, shape, batching, load, notes)
    replicas = s.rank.data
    found = steady(shape, step, batching, **load, replicas=replicas)

    def fastest(load: Load) -> float:
        return steps.time(load).bound_s

    least = steady(shape, fastest, batching, **load, replicas=replicas)
    widest = steady(shape, fastest, replace(batching, cache_tokens=None), **load, replicas=replicas)
    alone = fastest(Load(0, 0.0, max(int(shape.prompt * (1 - batching.hit_rate)), 1), shape.prompt * batching.hit_rate))
    running = max(found.running or 0.0, 1.0)
    one = steps.time(Load(max(round(running), 1), shape.context(1.0)))
    return Timed(
        found.stable,
        Latency(
            _slower("ttft_s", alone, found.ttft_s),
            _slower("tpot_s", least.tpot_s, found.tpot_s) if found.tpot_s is not None else None,
            _slower("tpot_s", least.e2e_s, found.e2e_s),
            found.wait_s,
            dict(one.parts),
            one.bound,
        ),
        _throughput(s, gpu, shape, found, widest),
        found.formula,
        (*steps.assumed, *found.assumed),
        tuple(notes),
        accuracy(),
    )


def replica(stages: list[Server], shape: Shape, steps: Steps) -> tuple[StepTime, Batching, list[str]]:
    """(how long its steps take, drafts among them; what it has room for; what to say of it) of one replica of a plan.

    InputError where not one request fits its cache.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import servers
    >>> stages = servers(parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"\\n[engine]\\ndraft_tokens = 2', "p"))
    >>> _, batching, notes = replica(stages, shape_of(stages[0]), Steps(stages[0], gpu_of(stages[0])))
    >>> batching.slots, batching.tokens_per_step, notes[0][:23]
    (256, 2.19, '2 drafted tokens pay fr')
    """
    plan, held = stages[0].plan, cache_tokens(stages, shape)
    if held == 0:
        raise InputError("not one request fits into the cache: there is no time to speak of")
    step, notes, tokens_per_step = _drafted(steps, plan)
    slots = int(plan["engine.max_num_seqs"])
    batching = Batching(
        slots,
        max(int(plan["engine.max_num_batched_tokens"]), slots),
        held,
        RULE_OF[str(plan["engine.name"])],
        float(plan["workload.prefix_hit_rate"]),
        tokens_per_step,
    )
    return step, batching, notes


def _slower(name: str, bound: float | None, estimate: float | None) -> Range:
    if estimate is None:
        return Range(bound, None, None)
    bound = None if bound is None else min(bound, estimate)
    return Range(bound, estimate, estimate * (1 + accuracy()[name].p90))


def _fewer(bound: float, estimate: float) -> Range:
    return Range(max(bound, estimate), estimate, estimate / (1 + accuracy()["output_tokens_per_s"].p90))


def _made(found: Steady, widest: Steady, shape: Shape, comes: float | None) -> Range:
    """Output tokens a second: what a server makes, or what comes, if it keeps up with that."""
    if comes is None or not found.stable:
        return _fewer(widest.output_tokens_per_s, found.output_tokens_per_s)
    at_worst = found.saturation_per_s / (1 + accuracy()["output_tokens_per_s"].p90)
    made = comes * shape.output
    return Range(made, made, min(comes, at_worst) * shape.output)


def _throughput(s: Server, gpu: Gpu, shape: Shape, found: Steady, widest: Steady) -> Throughput:
    gpus = s.rank.tensor * s.rank.pipeline * s.rank.data
    made = found.output_tokens_per_s
    price, power = s.plan["price.gpu_hour_usd"], s.plan["price.gpu_power_w"]
    watts = power or (gpu.figure("power_w") if "power_w" in gpu.figures else None)
    return Throughput(
        _made(found, widest, shape, s.plan["workload.rate_per_s"]),
        made / gpus,
        made / shape.output,
        _fewer(widest.saturation_per_s, found.saturation_per_s),
        found.limit,
        found.utilisation,
        found.in_flight,
        None if price is None or not made else price * gpus / 3600 / made * 1e6,
        None if watts is None or not made else float(watts) * gpus / made,
    )


def _drafted(steps: Steps, plan: Any) -> tuple[StepTime, list[str], float]:
    """(a step's time, what to say, tokens of a step and sequence), with drafts if the plan has them."""
    drafts, accepted = plan["engine.draft_tokens"], plan["engine.acceptance"]
    if drafts is None:
        return steps, [], 1.0
    speculation, share = (
        Speculation(float(accepted or ACCEPTANCE), int(drafts)),
        plan["engine.draft_share"] or DRAFT_SHARE,
    )

    def draft(load: Load) -> float:
        return share * steps(load)

    step = speculative(steps, draft, speculation)
    typical = Load(max(min(int(plan["workload.concurrency"]), int(plan["engine.max_num_seqs"])), 1), 1024.0)
    even = break_even_acceptance(step(typical), steps(typical), int(drafts))
    at = "nowhere" if even.at is None else f"from an acceptance of {even.at:.2f}"
    told = f"{drafts} drafted tokens pay {at} with {typical.decodes} sequences at once: {even.formula}"
    return step, [told], speculation.tokens_per_step


def _pools(
    s: Server, steps: Steps, step: StepTime, shape: Shape, b: Batching, load: dict[str, Any], notes: list[str]
) -> Timed:
    """The same of replicas that only compute prompts, and others that only make tokens."""
    first = int(s.plan["parallel.prefill"])
    rest = s.rank.data - first
    if "rate_per_s" not in load:
        raise InputError("parallel.prefill: two pools are timed at a workload.rate_per_s, not at a concurrency")
    moved = sequence_bytes(s, int(shape.prompt), paged=False)[0] * s.rank.tensor
    transfer_s = moved / float(s.plan["parallel.network_bytes_per_s"])
    rate = float(load["rate_per_s"])

    def fastest(load: Load) -> float:
        return steps.time(load).bound_s

    found, least = (
        disaggregated(shape, Pool(f, b, first), Pool(f, b, rest), transfer_s, rate) for f in (step, fastest)
    )
    running = max(found.decode.running or 0.0, 1.0)
    one = steps.time(Load(max(round(running), 1), shape.context(1.0)))
    both = replace(
        found.decode,
        stable=found.stable,
        rate_per_s=rate,
        saturation_per_s=found.saturation_per_s,
        utilisation=rate / found.saturation_per_s,
        in_flight=found.in_flight,
        output_tokens_per_s=min(rate, found.saturation_per_s) * shape.output,
        limit=found.limit,
    )
    widest = replace(
        both,
        saturation_per_s=least.saturation_per_s,
        output_tokens_per_s=min(rate, least.saturation_per_s) * shape.output,
    )
    notes = [*notes, f"the cache of a prompt, {moved:,} bytes, moves between the pools in {transfer_s:.3g} s"]
    return Timed(
        found.stable,
        Latency(
            _slower("ttft_s", least.prefill.ttft_s, found.ttft_s),
            _slower("tpot_s", least.tpot_s, found.tpot_s),
            _slower("tpot_s", least.e2e_s, found.e2e_s),
            found.prefill.wait_s,
            dict(one.parts),
            one.bound,
        ),
        _throughput(s, gpu_of(s), shape, both, widest),
        "two pools in series, each at the rate",
        tuple(steps.assumed),
        tuple(notes),
        accuracy(),
    )
