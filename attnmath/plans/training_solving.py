"""The largest training plan that fits: the largest micro-batch, the longest sequences, the fewest GPUs; and what single changes
bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from attnmath.errors import InputError, Unknown
from attnmath.models import Model
from attnmath.plans.checking import spread_fits
from attnmath.plans.reading import Plan
from attnmath.plans.recipes import LOSSES
from attnmath.plans.servers import most
from attnmath.plans.solving import (
    Change,
    Found,
    Solution,
    pairs,
    ranks_of,
    runner_up,
    spread,
    told,
)
from attnmath.plans.training import trainers
from attnmath.plans.training_checks import check_training, fits_training

GOALS = {
    "max-batch": "sequences",  # of a micro-batch
    "max-context": "tokens",  # of a sequence, at the plan's micro-batch
    "min-gpus": "GPUs",  # at the plan's micro-batch and sequences
}
KEYS = {"max-batch": "training__micro_batch", "max-context": "training__seq"}
REPLICAS = 4096  # the most data ranks that min-gpus tries


def solve_training(plan: Plan, goal: str) -> Solution:
    """The largest training plan that passes `check`, what binds it, and what a single change would bring.

    Raises InputError where nothing passes.

    >>> from attnmath.plans.reading import parse
    >>> text = 'model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[training]\\nseq = 1024\\nrecompute = "full"'
    >>> s = solve_training(parse(text, "p"), "max-batch")
    >>> s.unit, s.binds, s.answer > 4
    ('sequences', 'AM004', True)
    """
    if goal not in GOALS:
        raise Unknown("goal", goal, GOALS)
    model = trainers(plan)[0].model
    found = _find(plan, model, goal)
    if found.best is None:
        failed = [c for c in check_training(found.beyond or plan, model).checks if not c.passed]
        why = f": {failed[0].id}, {told(failed[0])}; {failed[0].fix}" if failed else ""
        raise InputError(f"{plan.path}: nothing fits{why}")
    best = check_training(found.best, model)
    failed = [c for c in check_training(found.beyond, model).checks if not c.passed] if found.beyond else []
    tried = "every parallel.tensor and pipeline that divides, any parallel.data" if goal == "min-gpus" else ""
    return Solution(
        plan.path,
        goal,
        GOALS[goal],
        found.answer,
        tried or f"{ranks_of(plan)}, as the plan says",
        {k: v for k, v in best.values.items() if plan.values.get(k) != v},
        failed[0].id if failed else "",
        told(failed[0]) if failed else "nothing that is checked",
        runner_up(best.checks, {c.id for c in failed}),
        _changes(plan, model, goal, found.answer),
    )


def _find(plan: Plan, model: Model, goal: str, below: int | None = None) -> Found:
    if goal == "min-gpus":
        return _fewest(plan, model, below)

    def changed(n: int) -> Plan:
        return plan.changed(**{KEYS[goal]: n})

    ceiling = model.positions if goal == "max-context" and model.positions else 10**6
    answer = most(lambda n: fits_training(changed(n), model), ceiling)
    if answer is None:
        return Found(ceiling, changed(ceiling), changed(ceiling + 1))
    return Found(answer, changed(answer) if answer else None, changed(answer + 1))


def _fewest(plan: Plan, model: Model, below: int | None) -> Found:
    """The fewest GPUs: for each tensor and pipeline size the fewest data ranks, more of which never harm."""
    answer, best, fails = below, None, None
    for tensor, pipeline in pairs(plan):
        if answer is not None and tensor * pipeline >= answer:
            break
        if pipeline > len(model.sequence) or not spread_fits(spread(plan, tensor, pipeline, 1), model):
            continue
        on = partial(spread, plan, tensor, pipeline)
        if not fits_training(on(REPLICAS), model):
            fails = fails or on(1)
            continue
        low, high = 0, REPLICAS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits_training(on(middle), model) else (middle, high)
        if answer is None or tensor * pipeline * high < answer:
            answer, best, fails = tensor * pipeline * high, on(high), on(low) if low else fails
    return Found(answer if best else None, best, fails)


def _changes(plan: Plan, model: Model, goal: str, answer: int | None) -> list[Change]:
    """What each single change would bring, the most helpful first; those that bring nothing are left out."""
    out = []
    for words, changed in _single(plan, goal):
        try:
            found = _find(changed, model, goal, below=answer)
        except InputError:  # a change that the model does not allow
            continue
        if found.best is None or found.answer is None or answer is None:
            continue
        gain = answer / found.answer if goal == "min-gpus" else found.answer / answer
        if gain > 1:
            best = found.best
            count = best["parallel.tensor"] * best["parallel.pipeline"] * best["parallel.data"]
            out.append(Change(words, found.answer, round(gain, 3), count))
    return sorted(out, key=lambda c: (-(c.gain or 0.0), c.gpus, c.change))


def _single(plan: Plan, goal: str) -> Iterator[tuple[str, Plan]]:
    """Single changes that planners make."""
    values: list[tuple[str, Any]] = [
        ("training.recompute", "full"),
        ("training.optimizer", "adam8bit"),
        *(("training.loss", loss) for loss in LOSSES if loss in ("chunked", "fused")),
    ]
    if plan["parallel.data"] > 1 or goal == "min-gpus":
        values += [("training.zero_stage", stage) for stage in range(plan["training.zero_stage"] + 1, 4)]
    if plan["parallel.tensor"] > 1:
        values.append(("training.sequence_parallel", True))
    for key, value in values:
        if plan[key] != value:
            shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
            yield f"{key} = {shown}", plan.changed(**{key.replace(".", "__"): value})
    if goal != "min-gpus":
        now = [plan[f"parallel.{k}"] for k in ("tensor", "pipeline", "data")]
        for k, name in enumerate(("tensor", "pipeline", "data")):
            then = [n * (2 if i == k else 1) for i, n in enumerate(now)]
            yield f"parallel.{name} = {then[k]}", spread(plan, *then)
