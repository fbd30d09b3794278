"""What plans predict beside what was published: a table of ratios, with their sources.

    python benchmarks/plans.py training          training plans: seconds, rates, bytes
    python benchmarks/plans.py serving           servers: tokens a second, seconds a token, seconds to the first
    python benchmarks/plans.py training 22b      those whose name has this
    python benchmarks/plans.py serving --write   and how far they are off, into attnmath/plans/accuracy.toml

The plans lie in benchmarks/plans/training and serving, the figures in published-figures.toml there. Nothing is timed. No
figure of training was fitted to; of servers, the few constants of attnmath/plans/steps.py were chosen with those in sight
that say `fitted`, which count for nothing in what is written.
"""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from attnmath.models.counting import parameters
from attnmath.plans.checking import verdict
from attnmath.plans.latency import ACCURACY, timed
from attnmath.plans.reading import Plan, read
from attnmath.plans.servers import servers
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


@cache
def predicted(file: Path) -> tuple[Plan, TrainingResult]:
    """A plan of training, and what is said of it."""
    plan = read(str(file))
    result = verdict(plan)
    assert isinstance(result, TrainingResult)
    return plan, result


class Row:
    """One published figure and its prediction."""

    def __init__(self, given: dict[str, Any], folder: Path) -> None:
        plan, result = predicted(folder / given["plan"])
        self.plan, self.what, self.source = given["plan"].removesuffix(".toml"), given["what"], given["source"]
        self.unit, predict = FIGURES[self.what]
        self.published, self.predicted = float(given["value"]), float(predict(plan, result))
        self.ratio = self.predicted / self.published


def training(only: str = "") -> list[Row]:
    """Every published figure of training whose plan's name has a text in it."""
    folder = HERE / "training"
    given = tomllib.loads((folder / "published-figures.toml").read_text())["figure"]
    return [Row(x, folder) for x in given if only in x["plan"]]


LOADS = {  # of a figure, and the plan's keys
    "prompt": "workload__prompt_tokens",
    "output": "workload__output_tokens",
    "concurrency": "workload__concurrency",
    "rate": "workload__rate_per_s",
}


class Served:
    """One published figure of a server, its prediction, and the bound that nothing beats."""

    def __init__(self, given: dict[str, Any], folder: Path) -> None:
        plan = read(str(folder / f"{given['plan']}.toml"))
        load = {LOADS[k]: v for k, v in given.items() if k in LOADS}
        found = timed(servers(plan.changed(**load)))
        self.plan, self.what, self.source = given["plan"], given["what"], given["source"]
        self.fitted, self.published = given.get("fitted", False), float(given["published"])
        place = found.throughput if self.what == "output_tokens_per_s" else found.latency
        told = getattr(place, self.what)
        self.predicted, self.bound = float(told.estimate), float(told.bound)
        self.ratio = self.predicted / self.published
        shown = {k: given[k] for k in LOADS if k in given}
        self.load = " ".join(f"{k} {v}" for k, v in shown.items())

    @property
    def beaten(self) -> bool:
        """Whether the figure is better than what should be impossible."""
        more = self.what == "output_tokens_per_s"
        return self.published > self.bound if more else self.published < self.bound

    @property
    def off(self) -> float:
        """|error|: by which factor the estimate is too good or too bad, less one."""
        return max(self.ratio, 1 / self.ratio) - 1


def serving(only: str = "") -> list[Served]:
    """Every published figure of servers whose plan's name has a text in it."""
    folder = HERE / "serving"
    given = tomllib.loads((folder / "published-figures.toml").read_text())["figure"]
    return [Served(x, folder) for x in given if only in x["plan"]]


def served(rows: list[Served], write: bool) -> None:
    """The table, the errors of what was fitted and of what was not; where asked for, the latter into the package."""
    wide = max((len(r.plan) for r in rows), default=0)
    print(
        f"{'plan':<{wide}}  {'figure':<19} {'published':>10} {'estimate':>10} {'ratio':>6} {'bound':>10}  load; source"
    )
    for r in rows:
        mark = "*" if r.fitted else " "
        told = f"{r.published:>10.4g} {r.predicted:>10.4g} {r.ratio:>6.3f} {r.bound:>10.4g}"
        print(f"{r.plan:<{wide}} {mark}{r.what:<19} {told}{'!' if r.beaten else ' '} {r.load}; {r.source}")
    print("\n* fitted; ! beats its bound\n")
    text = (
        "# Written by `python benchmarks/plans.py serving --write`: how far estimates were from figures not fitted.\n"
    )
    for what in ("output_tokens_per_s", "tpot_s", "ttft_s"):
        for fitted in (True, False):
            errors = sorted(r.off for r in rows if r.what == what and r.fitted == fitted)
            if not errors:
                continue
            high = errors[min(math.ceil(0.9 * len(errors)), len(errors)) - 1]
            named = "fitted" if fitted else "not fitted"
            print(
                f"{what:<20} {named:<11} {len(errors):>3} figures: |error| median {median(errors):.1%}, 90 % {high:.1%}"
            )
            if not fitted:
                text += f"[{what}]\nmedian = {median(errors):.3f}\np90 = {high:.3f}\nfigures = {len(errors)}\n\n"
    if write:
        Path(ACCURACY).write_text(text.rstrip() + "\n")


def main() -> None:
    """The table, then the errors of each kind of figure."""
    args = [a for a in sys.argv[1:] if a != "--write"]
    if not args or args[0] not in ("training", "serving"):
        sys.exit(__doc__)
    if args[0] == "serving":
        served(serving(*args[1:2]), "--write" in sys.argv)
        return
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
