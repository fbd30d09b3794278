"""What a number of GPUs can do: latency against throughput, the most tokens a second under the targets, the cheapest of them.

Every way to spread the model over tensor ranks and replicas is tried, with the load doubling from one request to what the
engine runs at once; pipeline stages and expert ranks stay as the plan has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.models import Model
from attnmath.plans.checking import fits
from attnmath.plans.latency import Timed, gpu_of, timed
from attnmath.plans.reading import Plan
from attnmath.plans.servers import servers
from attnmath.plans.solving import TENSOR, spread
from attnmath.plans.steps import Steps
from attnmath.plans.targets import target_checks

SCHEMA = "attnmath.plan-tradeoffs/1"
GOALS = {
    "max-throughput": "output tokens a second on the plan's GPUs, under its targets",
    "min-cost": "cost of a token, on any number of GPUs up to 64, under its targets",
}
COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Point(Struct, frozen=True):
    """One way to run the model under one load: estimates, and whether targets pass on their pessimistic end."""

    tensor: int
    data: int
    gpus: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    output_tokens_per_s_per_gpu: float
    gpu_s_per_million_tokens: float
    usd_per_million_output_tokens: float | None
    meets: bool


class Tradeoffs(Struct, frozen=True):
    """The best point for a goal (None: none meets the targets), and those of which none is better in both latency of a token and
    tokens of a GPU; `tried`: how many points there were.
    """

    file: str
    goal: str
    meaning: str
    best: Point | None
    front: list[Point]
    tried: int
    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-tradeoffs` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


def tradeoffs(plan: Plan, goal: str) -> Tradeoffs:
    """The best point, and the front. InputError where the plan cannot be timed, or nothing fits the GPUs.

    >>> from attnmath.plans.reading import parse
    >>> plan = parse('model = "llama-3.1-8b"\\n[gpu]\\nname = "h100-sxm"\\n[targets]\\ntpot_s = 0.02', "plan.toml")
    >>> found = tradeoffs(plan, "max-throughput")
    >>> found.best.concurrency > 16, found.best.tpot_s < 0.02
    (True, True)
    """
    if goal not in GOALS:
        raise Unknown("goal", goal, GOALS)
    if plan["workload.rate_per_s"] is not None or plan["workload.trace"] is not None:
        raise InputError(
            f"{plan.path}: --for {goal} looks for the load itself: leave workload.rate_per_s and trace out"
        )
    model = servers(plan)[0].model
    own = plan["gpu.count"] or plan["parallel.tensor"] * plan["parallel.pipeline"] * plan["parallel.data"]
    counts = (own,) if goal == "max-throughput" else COUNTS
    found = [p for n in counts for p in _points(plan, model, n)]
    if not found:
        raise InputError(f"{plan.path}: nothing fits {' or '.join(map(str, counts))} GPUs")
    good = [p for p in found if p.meets]
    best = None
    if good and goal == "max-throughput":
        best = max(good, key=lambda p: p.output_tokens_per_s)
    elif good:
        best = min(good, key=lambda p: (p.gpu_s_per_million_tokens, p.gpus))
    changed = {} if best is None else {"parallel.tensor": best.tensor, "parallel.data": best.data}
    changed |= {} if best is None else {"gpu.count": best.gpus, "workload.concurrency": best.concurrency}
    return Tradeoffs(plan.path, goal, GOALS[goal], best, front(found), len(found), changed)


def front(points: list[Point]) -> list[Point]:
    """The points that no other beats in both tokens a second of a GPU and time of a token, the quickest first.

    >>> a, b, c = (Point(1, 1, 1, n, 0.1, t, 1.0, x, 1.0, None, True) for n, t, x in ((1, 1, 5), (2, 2, 9), (3, 3, 8)))
    >>> [p.concurrency for p in front([a, b, c])]
    [1, 2]
    """
    out: list[Point] = []
    for p in sorted(points, key=lambda p: (p.tpot_s, -p.output_tokens_per_s_per_gpu)):
        if not out or p.output_tokens_per_s_per_gpu > out[-1].output_tokens_per_s_per_gpu:
            out.append(p)
    return out


def _points(plan: Plan, model: Model, gpus: int) -> Iterator[Point]:
    """Every way to run it on so many GPUs that fits."""
    pipeline = plan["parallel.pipeline"]
    for tensor in (n for n in (2**k for k in range(TENSOR.bit_length())) if n <= TENSOR):
        if gpus % (tensor * pipeline):
            continue
        data = gpus // (tensor * pipeline)
        laid = spread(plan, tensor, pipeline, data)
        steps: Steps | None = None
        load = data
        while load <= data * plan["engine.max_num_seqs"]:
            at = laid.changed(workload__concurrency=load)
            if not fits(at, model, in_time=False):
                break
            stages = servers(at, model)
            steps = steps or Steps(stages[0], gpu_of(stages[0]))
            yield _point(at, timed(stages, steps), gpus)
            load *= 2


def _point(plan: Plan, t: Timed, gpus: int) -> Point:
    made = float(t.throughput.output_tokens_per_s.estimate or 0.0)
    each = gpus / made * 1e6 if made else 0.0
    price = plan["price.gpu_hour_usd"]
    return Point(
        plan["parallel.tensor"],
        plan["parallel.data"],
        gpus,
        plan["workload.concurrency"],
        float(t.latency.ttft_s.estimate or 0.0),
        float((t.latency.tpot_s.estimate if t.latency.tpot_s else 0.0) or 0.0),
        made,
        made / gpus,
        each,
        None if price is None else each / 3600 * price,
        all(c.passed for c in target_checks(plan, t)),
    )
