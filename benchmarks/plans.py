"""What plans predict beside what was published: a table of ratios, with their sources.

    python benchmarks/plans.py training        training plans: seconds, rates, bytes
    python benchmarks/plans.py training 22b    those whose name has this

The plans lie in benchmarks/plans/training, the figures in published-figures.toml there. Nothing is timed, and nothing was
fitted to any of these figures.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from attnmath.plans.checking import verdict
from attnmath.plans.reading import Plan, read
from attnmath.plans.training import request_of, trainers
from attnmath.plans.training_checks import TrainingResult
from attnmath.plans.training_steps import how_of
from attnmath.plans.training_time import layer_time

HERE = Path(__file__).resolve().parent / "plans"
GIB = 2**30


def _layer_ms(plan: Plan, direction: str) -> float:
    """Milliseconds of one layer in the middle of the first stage."""
    t = trainers(plan)[0]
    found = layer_time(t.layers[len(t.layers) // 2], request_of(plan), how_of(plan, t), t.model)
    return float(getattr(found, direction).time_s * 1e3)


def _tflops(plan: Plan, r: TrainingResult) -> float:
    """TFLOP/s a GPU by the formula of FlashAttention's table: 6 s N + 12 L h s^2 a sequence, N parameters."""
    t = trainers(plan)[0]
    from attnmath.models.counting import parameters

    tokens, seq = r.step.tokens, plan["training.seq"]
    layers, wide = len(t.model.sequence), t.model.config["n_embd"]
    flops = tokens * (6 * parameters(t.model).total + 12 * layers * wide * seq)
    return float(flops / (r.step.time_s or 0) / _gpus(plan) / 1e12)


def _gpus(plan: Plan) -> int:
    return int(plan["parallel.tensor"] * plan["parallel.pipeline"] * plan["parallel.data"])


def _bytes(*parts: str) -> Callable[[Plan, TrainingResult], float]:
    return lambda plan, r: sum(getattr(r.memory_bytes, n) for n in parts) / GIB


STATES = ("weights", "gradients", "optimizer", "master_weights")
KEPT = ("activations", "logits", "recomputed", "gathered")
FIGURES: dict[str, tuple[str, Callable[[Plan, TrainingResult], Any]]] = {  # what is published: unit, and the prediction
    "step_s": ("s", lambda plan, r: r.step.time_s),
    "layer_forward_ms": ("ms", lambda plan, r: _layer_ms(plan, "forward")),
    "layer_backward_ms": ("ms", lambda plan, r: _layer_ms(plan, "backward")),
    "tokens_per_s_gpu": ("tokens/s", lambda plan, r: r.step.tokens_per_s / _gpus(plan)),
    "tflops_6n_12lhs": ("TFLOP/s", _tflops),
    "states_gib": ("GiB", _bytes(*STATES, "gathered")),
    "activations_gib": ("GiB", _bytes("activations")),
    "allocated_gib": ("GiB", _bytes(*STATES, *KEPT)),  # what torch's allocator has: neither context nor NCCL
}


class Row:
    """One published figure and its prediction."""

    def __init__(self, given: dict[str, Any], folder: Path) -> None:
        plan = read(str(folder / given["plan"]))
        result = verdict(plan)
        assert isinstance(result, TrainingResult)
        self.plan, self.what, self.source = given["plan"].removesuffix(".toml"), given["what"], given["source"]
        self.unit, predict = FIGURES[self.what]
        self.published, self.predicted = float(given["value"]), float(predict(plan, result))
        self.ratio = self.predicted / self.published


def training(only: str = "") -> list[Row]:
    """Every published figure of training whose plan's name has a text in it."""
    folder = HERE / "training"
    given = tomllib.loads((folder / "published-figures.toml").read_text())["figure"]
    return [Row(x, folder) for x in given if only in x["plan"]]


def main() -> None:
    """The table, then the errors of each kind of figure."""
    args = sys.argv[1:]
    if not args or args[0] != "training":
        sys.exit(__doc__)
    rows = training(*args[1:2])
    wide = max((len(r.plan) for r in rows), default=0)
    print(f"{'plan':<{wide}}  {'figure':<18} {'published':>10} {'predicted':>10}  predicted / published, source")
    for r in rows:
        print(f"{r.plan:<{wide}}  {r.what:<18} {r.published:>10.4g} {r.predicted:>10.4g}  {r.ratio:6.3f}  {r.source}")
    print()
    for what in dict.fromkeys(r.what for r in rows):
        errors = sorted(abs(r.ratio - 1) for r in rows if r.what == what)
        print(f"{what:<18} {len(errors):>3} figures: |error| median {median(errors):.1%}, largest {errors[-1]:.1%}")


if __name__ == "__main__":
    main()
