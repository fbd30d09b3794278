"""A plan's requests played one by one through its replicas: drawn from its workload, or read from a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.plans.latency import accuracy, gpu_of, laws_of, replica
from attnmath.plans.load import tabulated
from attnmath.plans.queueing import Shape
from attnmath.plans.reading import Plan
from attnmath.plans.replay import Replay, replay
from attnmath.plans.servers import servers
from attnmath.plans.steps import Steps
from attnmath.plans.workload import Arrivals, Lengths, Requests, draw

SCHEMA = "attnmath.plan-replay/1"
REQUESTS = 2000


class Played(Struct, frozen=True):
    """What came of it. `load`: where the requests came from; `met`: for each target that the plan states, whether the mean
    passes with the estimate's error on top; `error`: that error, of nine in ten published figures.
    """

    file: str
    model: str
    load: str
    seed: int | None
    replay: Replay
    met: dict[str, bool]
    error: dict[str, float]
    assumed: list[str]

    @property
    def passed(self) -> bool:
        """Whether every stated target is met, and the queue does not grow."""
        return all(self.met.values()) and not self.replay.growing

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-replay` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


def play(
    plan: Plan, requests: int = REQUESTS, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Played:
    """Play a plan's requests. The same seed draws the same ones. InputError for a plan that cannot be timed, and for a trace
    with anything wrong in it, by line.

    >>> from attnmath.plans.reading import parse
    >>> text = 'model = "llama-3.1-8b"\\n[gpu]\\nname = "h100-sxm"\\n[workload]\\nrate_per_s = 2'
    >>> found = play(parse(text, "plan.toml"), requests=50)
    >>> found.replay.requests, 0.005 < found.replay.tpot_s.mean_s < 0.02
    (50, True)
    """
    stages = servers(plan)
    s = stages[0]
    if plan["parallel.prefill"] is not None:
        raise InputError("parallel.prefill: two pools are not played yet; `attnmath plan check` has their means")
    blocks, count, shape, told, concurrency = _requests(plan, requests, seed, laws_of(s), progress)
    steps = Steps(s, gpu_of(s))
    step, batching, notes = replica(stages, shape, steps)
    found = replay(
        blocks,
        tabulated(step, 2),
        batching,
        replicas=s.rank.data,
        concurrency=concurrency,
        progress=None if progress is None else lambda done: progress(done, count),
    )
    error = {k: a.p90 for k, a in accuracy().items()}
    return Played(
        plan.path,
        s.model.name,
        told,
        None if plan["workload.trace"] is not None else seed,
        found,
        _met(plan, found, error),
        error,
        [*notes, *steps.assumed, *found.assumed],
    )


def _requests(
    plan: Plan,
    requests: int,
    seed: int,
    laws: tuple[Lengths, Lengths],
    progress: Callable[[int, int], None] | None,
) -> tuple[Iterable[Requests], int, Shape, str, int | None]:
    """(requests, how many, what they are like in the mean, what to say of them, how many are kept in flight)."""
    path = plan["workload.trace"]
    if path is not None:
        from attnmath.plans.traces import trace

        here = os.path.join(os.path.dirname(plan.path), path)
        read = trace(here if os.path.exists(here) else path, progress)
        told = f"{path}: {read.requests:,} requests of {read.kind} in {read.duration_s:,.0f} s, {read.rate_per_s:.3g} a second"
        return read.blocks(), read.requests, read.shape, told, None
    rate, shape = plan["workload.rate_per_s"], Shape.of(*laws)
    arrivals = None if rate is None else Arrivals(float(rate), float(plan["workload.burstiness"]))
    drawn = draw(*laws, arrivals, requests, seed)
    held = None if rate is not None else int(plan["workload.concurrency"])
    told = f"{requests:,} requests of {shape.prompt:,.0f} and {shape.output:,.0f} tokens in the mean, " + (
        f"{rate:g} a second at random times" if rate is not None else f"{held:,} in flight"
    )
    return drawn, requests, shape, told, held


def _met(plan: Plan, found: Replay, error: dict[str, float]) -> dict[str, bool]:
    out = {}
    for key, value in (
        ("ttft_s", found.ttft_s.mean_s),
        ("tpot_s", found.tpot_s.mean_s if found.tpot_s else 0.0),
    ):
        if (limit := plan[f"targets.{key}"]) is not None:
            out[key] = bool(value * (1 + error[key]) <= limit)
    if (limit := plan["targets.tokens_per_s"]) is not None:
        out["tokens_per_s"] = bool(found.output_tokens_per_s >= limit)
    return out
