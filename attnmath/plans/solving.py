"""The largest plan that fits: the longest context, the most requests, the fewest GPUs; and what a single change would bring."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.models import Model
from attnmath.plans.checking import check, fits, spread_fits
from attnmath.plans.constraints import Check
from attnmath.plans.engines import ENGINES
from attnmath.plans.reading import Plan
from attnmath.plans.servers import CEILING, most, server

SCHEMA = "attnmath.plan-solve/1"
GOALS = {
    "max-context": "tokens",  # the longest requests at the plan's concurrency
    "max-concurrency": "requests",  # the most at once, as long as the plan's
    "min-gpus": "GPUs",  # the fewest for the plan's load
}
TENSOR, PIPELINE = 64, (1, 2, 4, 8)  # the tensor sizes up to here and the pipeline sizes that min-gpus tries
RUNNING_UP = ("bytes", "tokens", "requests")  # units of constraints that a larger plan comes closer to
STANDING = ("AM001", "AM005")  # those that more load does not change
EVEN = {"max-context": ", not even requests of one token", "max-concurrency": ", not even one request", "min-gpus": ""}


class Change(Struct, frozen=True):
    """A single change to the plan, and the answer with it; None: no limit."""

    change: str
    answer: int | None
    gain: float | None
    gpus: int


class Solution(Struct, frozen=True):
    """`answer` in tokens, requests or GPUs, None if there is no limit; `tried`: of which plans it is the largest; `binds`: what
    fails one step further; `runner_up`: the next constraint; `changes`: single changes, the most helpful first.
    """

    file: str
    goal: str
    unit: str
    answer: int | None
    tried: str
    values: dict[str, Any]
    binds: str
    why: str
    runner_up: str
    changes: list[Change]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-solve` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


class Found(Struct, frozen=True):
    """The answer, the plan that has it (None: nothing fits), and the plan one step further, which fails (None: none is)."""

    answer: int | None
    best: Plan | None
    beyond: Plan | None


def with_context(plan: Plan, tokens: int, crosses: bool = False) -> Plan:
    """The plan with requests of so many tokens, the output as it is; of a decoder beside an encoder, so many of output.

    >>> from attnmath.plans.reading import parse
    >>> with_context(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"), 1000)["workload.prompt_tokens"]
    744
    """
    if crosses:
        return plan.changed(workload__output_tokens=tokens, engine__max_model_len=None)
    output = min(plan["workload.output_tokens"], max(tokens - 1, 1))
    return plan.changed(
        workload__prompt_tokens=max(tokens - output, 1), workload__output_tokens=output, engine__max_model_len=None
    )


def with_concurrency(plan: Plan, requests: int) -> Plan:
    """The plan with so many requests in flight.

    >>> from attnmath.plans.reading import parse
    >>> with_concurrency(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"), 9)["workload.concurrency"]
    9
    """
    return plan.changed(workload__concurrency=requests)


def spread(plan: Plan, tensor: int, pipeline: int, data: int) -> Plan:
    """The plan on tensor x pipeline x data GPUs; experts over all ranks of a stage stay over all of them.

    >>> from attnmath.plans.reading import parse
    >>> spread(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"), 2, 1, 3)["gpu.count"]
    6
    """
    expert = plan["parallel.expert"]
    whole = expert > 1 and expert == plan["parallel.tensor"] * plan["parallel.data"]
    return plan.changed(
        parallel__tensor=tensor,
        parallel__pipeline=pipeline,
        parallel__data=data,
        parallel__expert=tensor * data if whole else expert,
        gpu__count=tensor * pipeline * data,
    )


def solve(plan: Plan, goal: str) -> Solution:
    """The largest plan that passes `check`, what binds it, and what a single change would bring.

    Raises InputError where nothing passes.

    >>> from attnmath.plans.reading import parse
    >>> s = solve(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"\\n[engine]\\nname = "ideal"', "p"), "max-concurrency")
    >>> s.answer, s.binds
    (51, 'AM003')
    """
    if plan.trains:
        from attnmath.plans.training_solving import solve_training

        return solve_training(plan, goal)
    if goal not in GOALS:
        from attnmath.plans.tradeoffs import GOALS as IN_TIME

        raise Unknown("goal", goal, (*GOALS, *IN_TIME))
    model = server(plan).model
    found = _find(plan, model, goal)
    if found.best is None:
        raise InputError(f"{plan.path}: nothing fits{EVEN[goal]}: {_nothing(plan, found, model)}")
    best = check(found.best, model)
    failed = [c for c in check(found.beyond, model).checks if not c.passed] if found.beyond else []
    where = f" with {ranks_of(found.beyond)}" if found.beyond and goal == "min-gpus" else ""
    return Solution(
        plan.path,
        goal,
        GOALS[goal],
        found.answer,
        _tried(plan, goal),
        {k: v for k, v in best.values.items() if plan.values.get(k) != v},
        failed[0].id if failed else "",
        f"{told(failed[0])}{where}" if failed else "nothing that is checked",
        runner_up(best.checks, {c.id for c in failed}.union(() if goal == "min-gpus" else STANDING)),
        _changes(plan, model, goal, found.answer),
    )


def _find(plan: Plan, model: Model, goal: str, below: int | None = None) -> Found:
    """The answer to a goal; of GPUs, fewer than `below` alone."""
    if goal == "min-gpus":
        return _fewest(plan, model, below)
    crosses = goal == "max-context" and server(plan, model).crosses

    def changed(n: int) -> Plan:
        return with_context(plan, n, crosses) if goal == "max-context" else with_concurrency(plan, n)

    answer = most(lambda n: fits(changed(n), model))
    if answer is None:
        return Found(None, changed(CEILING), None)
    return Found(answer, changed(answer) if answer else None, changed(answer + 1))


def _fewest(plan: Plan, model: Model, below: int | None) -> Found:
    """The fewest GPUs: for each tensor and pipeline size the fewest replicas; more of them never harm."""
    answer, best = below, None
    fails: list[tuple[int, Plan]] = []
    for tensor, pipeline in pairs(plan):
        each = tensor * pipeline

        def on(data: int, tensor: int = tensor, pipeline: int = pipeline) -> Plan:
            return spread(plan, tensor, pipeline, data)

        if answer is not None and each >= answer:
            break
        sizes = _replicas(plan, model, tensor, pipeline)
        sizes = sizes[: len(sizes) if answer is None else bisect_left(sizes, -(-answer // each))]
        if isinstance(sizes, range):
            at = bisect_left(sizes, True, key=lambda data: fits(on(data), model))
        else:  # experts over more ranks: fewer on each, more peers
            at = next((k for k, data in enumerate(sizes) if fits(on(data), model)), len(sizes))
        if at < len(sizes):
            answer, best = each * sizes[at], on(sizes[at])
        fails += [(each * data, on(data)) for data in sizes[max(at - 1, 0) : at]]
        fails += [(each * data, on(data)) for data in sizes[:1] if at]
    short = [(count, p) for count, p in fails if best is None or answer is None or count < answer]
    nearest = max(short, key=lambda x: x[0])[1] if short else None
    return Found(answer if best else None, best, nearest)


def pairs(plan: Plan) -> list[tuple[int, int]]:
    """Tensor and pipeline sizes to try, the fewest GPUs first.

    >>> from attnmath.plans.reading import parse
    >>> pairs(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"))[:4]
    [(1, 1), (2, 1), (1, 2), (3, 1)]
    """
    tensor, pipeline = {*range(1, TENSOR + 1), plan["parallel.tensor"]}, {*PIPELINE, plan["parallel.pipeline"]}
    return sorted(((t, p) for t in tensor for p in pipeline), key=lambda x: (x[0] * x[1], x[1]))


def _replicas(plan: Plan, model: Model, tensor: int, pipeline: int) -> Sequence[int]:
    """Numbers of replicas that divide what they have to, ascending, up to where more make no difference."""
    expert, requests = plan["parallel.expert"], plan["workload.concurrency"]
    if expert > 1 and expert == plan["parallel.tensor"] * plan["parallel.data"]:
        most_ranks = max((p.sizes["expert"] for p in model.pieces if "expert" in p.sizes), default=0)
        found = range(1, most_ranks // tensor + 1)
        return [d for d in found if spread_fits(spread(plan, tensor, pipeline, d), model)]
    step = max(1, expert // tensor)
    divides = not expert % tensor or not tensor % expert
    fine = divides and spread_fits(spread(plan, tensor, pipeline, step), model)
    return range(step, step * requests + 1, step) if fine else []


def _nothing(plan: Plan, found: Found, model: Model) -> str:
    """Why nothing fits: the first failure of the plan that comes closest."""
    failed = [c for c in check(found.beyond, model).checks if not c.passed] if found.beyond else []
    if not failed:
        failed = [c for c in check(plan, model).checks if not c.passed]
    return f"{failed[0].id}, {told(failed[0])}; {failed[0].fix}"


def _tried(plan: Plan, goal: str) -> str:
    if goal != "min-gpus":
        return f"{ranks_of(plan)}, as the plan says"
    sizes = ", ".join(map(str, sorted({*PIPELINE, plan["parallel.pipeline"]})))
    return f"every parallel.tensor up to {TENSOR} that divides, parallel.pipeline of {sizes}, any parallel.data"


def ranks_of(plan: Plan) -> str:
    """How a plan spreads its model, in words.

    >>> from attnmath.plans.reading import parse
    >>> ranks_of(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"))
    'tensor 1 x pipeline 1 x data 1'
    """
    return f"tensor {plan['parallel.tensor']} x pipeline {plan['parallel.pipeline']} x data {plan['parallel.data']}"


def told(c: Check) -> str:
    """A check's name, and how far it is from its limit.

    >>> told(Check("AM010", "pipeline stages have layers", True, 1, 12, "", 11, "", ""))
    'pipeline stages have layers: 1 of 12'
    """
    if isinstance(c.value, int) and isinstance(c.limit, int):
        return f"{c.name}: {c.value:,} of {c.limit:,} {c.unit}".strip()
    return f"{c.name}: {c.why}"


def runner_up(checks: list[Check], bound: set[str]) -> str:
    """The constraint that passes by least, of those that do not bind.

    >>> runner_up([Check("AM004", "all of it fits the GPU", True, 1, 12, "bytes", 11, "", "")], set())
    'AM004, all of it fits the GPU'
    """

    def slack(c: Check) -> float:
        return float(c.margin or 0) / float(c.limit) if isinstance(c.limit, (int, float)) else 1.0

    passing = sorted((c for c in checks if c.unit in RUNNING_UP and c.limit and c.id not in bound), key=slack)
    return f"{passing[0].id}, {passing[0].name}" if passing else ""


def _changes(plan: Plan, model: Model, goal: str, answer: int | None) -> list[Change]:
    """What each single change would bring, the most helpful first; those that bring nothing are left out."""
    if answer is None:
        return []
    out = []
    for words, changed in _single(plan, goal):
        try:
            found = _find(changed, model, goal, below=answer)
        except InputError:  # a change that the model does not allow
            continue
        if (best := found.best) is None:
            continue
        new = found.answer
        gain = None if new is None else answer / new if goal == "min-gpus" else new / answer
        if gain is None or gain > 1:
            count = best["parallel.tensor"] * best["parallel.pipeline"] * best["parallel.data"]
            out.append(Change(words, new, gain and round(gain, 3), count))
    return sorted(out, key=lambda c: (-(c.gain or float("inf")), c.gpus, c.change))


def _single(plan: Plan, goal: str) -> Iterator[tuple[str, Plan]]:
    """Single changes that planners make."""
    chunk, seqs = plan["engine.max_num_batched_tokens"], plan["engine.max_num_seqs"]
    values: list[tuple[str, Any]] = [
        ("dtype.kv", "fp8"),
        ("dtype.weights", "fp8"),
        ("dtype.weights", "int4/128"),
        ("engine.windows", "kept"),
        ("engine.max_num_batched_tokens", max(chunk // 2, 512)),
        ("engine.max_num_seqs", 2 * seqs),
    ]
    setting = ENGINES[plan["engine.name"]].setting
    if setting and plan[f"engine.{setting}"] < 0.95:
        values.append((f"engine.{setting}", round(min(plan[f"engine.{setting}"] + 0.05, 0.95), 4)))
    for key, value in values:
        if plan[key] != value:
            shown = f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else value
            yield f"{key} = {shown}", plan.changed(**{key.replace(".", "__"): value})
    if goal != "min-gpus":
        now = [plan[f"parallel.{k}"] for k in ("tensor", "pipeline", "data")]
        for k, name in enumerate(("tensor", "pipeline", "data")):
            then = [n * (2 if i == k else 1) for i, n in enumerate(now)]
            yield f"parallel.{name} = {then[k]}", spread(plan, *then)
