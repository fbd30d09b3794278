"""The largest plan that fits: the longest context, the most requests, the fewest GPUs; and what a single change would bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.plans.checking import Check, PlanResult, check, most
from attnmath.plans.reading import Plan

SCHEMA = "attnmath.plan-solve/1"
GOALS = {
    "max-context": "the longest requests at the plan's concurrency",
    "max-concurrency": "the most requests at once, as long as the plan's",
    "min-gpus": "the fewest GPUs for the plan's load",
}
RUNNING_UP = ("bytes", "tokens", "requests")  # units of constraints that a larger plan comes closer to
LATER = ("max-throughput", "min-cost")


class Change(Struct, frozen=True):
    """A single change to the plan, and the answer with it."""

    change: str
    answer: int
    gain: float
    gpus: int


class Solution(Struct, frozen=True):
    """`answer` in tokens, requests or GPUs; `binds`: what fails one step further; `runner_up`: the next constraint; `changes`:
    single changes, the most helpful first.
    """

    file: str
    goal: str
    unit: str
    answer: int
    values: dict[str, Any]
    binds: str
    why: str
    runner_up: str
    changes: list[Change]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-solve` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


def with_context(plan: Plan, tokens: int) -> Plan:
    """The plan with requests of so many tokens, the output as it is.

    >>> from attnmath.plans.reading import parse
    >>> with_context(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"), 1000)["workload.prompt_tokens"]
    744
    """
    output = min(plan["workload.output_tokens"], max(tokens - 1, 1))
    new = plan.changed(workload__prompt_tokens=max(tokens - output, 1), workload__output_tokens=output)
    return new.changed(engine__max_model_len=None) if plan["engine.max_model_len"] else new


def with_concurrency(plan: Plan, requests: int) -> Plan:
    """The plan with so many requests in flight.

    >>> from attnmath.plans.reading import parse
    >>> with_concurrency(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"), 9)["workload.concurrency"]
    9
    """
    return plan.changed(workload__concurrency=requests)


def with_gpus(plan: Plan, count: int) -> list[Plan]:
    """The plan on so many GPUs, in every way in which tensor ranks and replicas share them; pipelines as they are.

    >>> from attnmath.plans.reading import parse
    >>> [p["parallel.tensor"] for p in with_gpus(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "p"), 4)]
    [1, 2, 4]
    """
    pipeline = plan["parallel.pipeline"]
    if count % pipeline:
        return []
    ways = [(t, count // pipeline // t) for t in (1, 2, 4, 8, 16, 32, 64) if (count // pipeline) % t == 0]
    expert = plan["parallel.expert"]
    return [
        plan.changed(
            parallel__tensor=t, parallel__data=d, gpu__count=count, parallel__expert=t * d if expert > 1 else 1
        )
        for t, d in ways
    ]


def solve(plan: Plan, goal: str) -> Solution:
    """The largest plan that passes `check`, what binds it, and what a single change would bring.

    Raises InputError where nothing passes.

    >>> from attnmath.plans.reading import parse
    >>> s = solve(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"\\n[engine]\\nname = "ideal"', "p"), "max-concurrency")
    >>> s.answer, s.binds
    (51, 'AM003')
    """
    if goal in LATER:
        raise InputError(f"--for {goal} needs the time model, which is not built yet; there are {', '.join(GOALS)}")
    if goal not in GOALS:
        raise Unknown("goal", goal, GOALS)
    answer, best = _best(plan, goal)
    if best is None:
        first = next(c for c in check(_smallest(plan, goal)).checks if not c.passed)
        raise InputError(
            f"{plan.path}: nothing fits: {first.id}, {first.name}: {first.value} of {first.limit} {first.unit}; {first.fix}"
        )
    beyond = _beyond(plan, goal, answer)
    failed = [c for c in beyond.checks if not c.passed] if beyond else []
    unit = {"max-context": "tokens", "max-concurrency": "requests", "min-gpus": "GPUs"}[goal]
    bound = {c.id for c in failed}
    passing = sorted((c for c in best.checks if c.unit in RUNNING_UP and c.limit and c.id not in bound), key=_slack)
    return Solution(
        plan.path,
        goal,
        unit,
        answer,
        {k: v for k, v in best.values.items() if plan.values.get(k) != v},
        failed[0].id if failed else "",
        _told(failed[0]) if failed else "nothing that is checked",
        f"{passing[0].id}, {passing[0].name}" if passing else "",
        _changes(plan, goal, answer),
    )


def _slack(c: Check) -> float:
    """The share of its limit that a constraint leaves."""
    return float(c.margin or 0) / float(c.limit) if isinstance(c.limit, (int, float)) else 1.0


def _told(c: Check) -> str:
    if isinstance(c.value, int) and isinstance(c.limit, int):
        return f"{c.name}: {c.value:,} of {c.limit:,} {c.unit}"
    return f"{c.name}: {c.why}"


def _smallest(plan: Plan, goal: str) -> Plan:
    return (
        {"max-context": with_context, "max-concurrency": with_concurrency}[goal](plan, 1)
        if goal != "min-gpus"
        else plan
    )


def _best(plan: Plan, goal: str) -> tuple[int, PlanResult | None]:
    """(the answer, the check of the plan with it); None if nothing passes."""
    if goal == "min-gpus":
        for count in (*range(1, 17), 24, 32, 48, 64, 96, 128, 192, 256, 384, 512):
            for candidate in with_gpus(plan, count):
                result = check(candidate)
                if result.passed:
                    return count, result
        return 0, None
    changed: Callable[[Plan, int], Plan] = with_context if goal == "max-context" else with_concurrency
    answer = most(lambda n: check(changed(plan, n)).passed, 2**40)
    return answer, check(changed(plan, answer)) if answer else None


def _beyond(plan: Plan, goal: str, answer: int) -> PlanResult | None:
    """The check of the next plan, which fails."""
    if goal == "min-gpus":
        smaller = [check(p) for n in range(answer - 1, 0, -1) for p in with_gpus(plan, n)]
        return min(smaller, key=lambda r: sum(not c.passed for c in r.checks)) if smaller else None
    changed: Callable[[Plan, int], Plan] = with_context if goal == "max-context" else with_concurrency
    return check(changed(plan, answer + 1))


def _changes(plan: Plan, goal: str, answer: int) -> list[Change]:
    """What each single change would bring, the most helpful first; those that bring nothing are left out."""
    count = plan["parallel.tensor"] * plan["parallel.pipeline"] * plan["parallel.data"]
    found = []
    for words, changed, gpus in _single(plan, count):
        try:
            new, result = _best(changed, goal)
        except InputError:
            continue
        if result is None:
            continue
        gain = answer / new if goal == "min-gpus" else new / answer
        if gain > 1:
            found.append(Change(words, new, round(gain, 3), new if goal == "min-gpus" else gpus))
    return sorted(found, key=lambda c: (-c.gain, c.gpus, c.change))


def _single(plan: Plan, count: int) -> list[tuple[str, Plan, int]]:
    """Single changes that planners make."""
    out: list[tuple[str, Plan, int]] = []
    for key, value in (
        ("dtype.kv", "fp8"),
        ("dtype.weights", "fp8"),
        ("dtype.weights", "int4"),
        ("engine.windows", "kept"),
    ):
        if plan[key] != value:
            out.append((f'{key} = "{value}"', plan.changed(**{key.replace(".", "__"): value}), count))
    tensor, data = plan["parallel.tensor"], plan["parallel.data"]
    out.append(
        (f"parallel.tensor = {2 * tensor}", plan.changed(parallel__tensor=2 * tensor, gpu__count=None), 2 * count)
    )
    out.append((f"parallel.data = {2 * data}", plan.changed(parallel__data=2 * data, gpu__count=None), 2 * count))
    chunk, seqs = plan["engine.max_num_batched_tokens"], plan["engine.max_num_seqs"]
    if chunk > 1024:
        out.append(
            (
                f"engine.max_num_batched_tokens = {chunk // 2}",
                plan.changed(engine__max_num_batched_tokens=chunk // 2),
                count,
            )
        )
    out.append((f"engine.max_num_seqs = {2 * seqs}", plan.changed(engine__max_num_seqs=2 * seqs), count))
    from attnmath.plans.engines import ENGINES

    setting = ENGINES[plan["engine.name"]].setting
    if setting and plan[f"engine.{setting}"] < 0.95:
        more = round(min(plan[f"engine.{setting}"] + 0.05, 0.95), 4)
        out.append((f"engine.{setting} = {more:g}", plan.changed(**{f"engine__{setting}": more}), count))
    return out
