"""What lets a server do less, as stated rates: drafted tokens that are accepted, cached prompts; and when they pay."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, together
from attnmath.plans.batching import Batching
from attnmath.plans.load import Load, StepTime
from attnmath.plans.queueing import Shape, saturation

HALVINGS = 60
SPECULATION = (
    "(1 - a^(k + 1)) / (1 - a) tokens a step pay where they are more than time of a step with / time of a step without"
)
CACHING = "the least h at which the saturation rate, with (1 - h) x prompt tokens to compute, is the rate"


class Speculation(Struct, frozen=True):
    """So many tokens are drafted in each step, and each is accepted with a stated chance, whatever the others are.

    InputError for what is no chance or no number.

    >>> Speculation(accepted=0.8, drafted=4).tokens_per_step
    3.3616
    >>> Speculation(1.0, 3).tokens_per_step, Speculation(0.0, 3).tokens_per_step
    (4.0, 1.0)
    """

    accepted: float
    drafted: int

    def __post_init__(self) -> None:
        """Refuse what is no chance or no number."""
        errors = []
        if not 0 <= self.accepted <= 1:
            errors.append(f"an acceptance of {self.accepted:g}; expected a share, 0 <= x <= 1")
        if not 1 <= self.drafted <= 100:
            errors.append(f"{self.drafted} drafted tokens; expected 1 to 100")
        if errors:
            raise InputError(together(errors))

    @property
    def tokens_per_step(self) -> float:
        """Tokens of a step in the mean: (1 - a^(k+1)) / (1 - a), Leviathan et al. 2023, arXiv:2211.17192, equation 1.

        As the sum 1 + a + .. + a^k, which is the same and knows a = 1.
        """
        return math.fsum(self.accepted**i for i in range(self.drafted + 1))


def speculative(step_time: StepTime, draft_time: StepTime, speculation: Speculation) -> StepTime:
    """A step that drafts and verifies, from the step of the model and that of its draft model.

    Each sequence has k + 1 tokens verified: its own, and k more that are counted as k tokens of a prompt, with its context
    before them; the draft model takes k steps, and computes prompts, too. To be used with `Batching.tokens_per_step`.

    >>> step = speculative(lambda l: 0.01 + 1e-5 * l.tokens, lambda l: 0.001, Speculation(0.8, 4))
    >>> round(step(Load(10, 500.0, 0, 0.0)), 6)
    0.0145
    """
    k = speculation.drafted

    def step(load: Load) -> float:
        if not load.decodes:
            return step_time(load) + draft_time(load)
        extra = load.decodes * k
        tokens = load.prefill_tokens + extra
        past = (load.prefill_tokens * load.prefill_past + extra * load.context) / tokens
        prompts = load.decodes + (load.prompts if load.prefill_tokens else 0)
        verified = step_time(Load(load.decodes, load.context, tokens, past, prompts))
        drafts = (k - 1) * draft_time(Load(load.decodes, load.context, 0, 0.0)) if k > 1 else 0.0
        return verified + draft_time(load) + drafts

    return step


class BreakEven(Struct, frozen=True):
    """Where a shortcut begins to pay: `at`, None if nowhere; `formula`: what was solved."""

    at: float | None
    formula: str


def break_even_acceptance(with_s: float, without_s: float, drafted: int) -> BreakEven:
    """The least acceptance at which drafting so many tokens pays, from a step's time with it and without it.

    Tokens a step rise with the acceptance, from 1 to k + 1, so there is one such value, or none.

    >>> round(break_even_acceptance(0.015, 0.01, 4).at, 4), break_even_acceptance(0.06, 0.01, 4).at
    (0.3362, None)
    >>> round(Speculation(0.3362, 4).tokens_per_step, 3)
    1.5
    """
    if not (0 < with_s < math.inf and 0 < without_s < math.inf):
        raise InputError(f"steps of {with_s:g} s and {without_s:g} s; times of more than 0 are expected")
    cost = with_s / without_s
    if cost > drafted + 1:
        return BreakEven(None, SPECULATION)
    return BreakEven(_least(lambda a: Speculation(a, drafted).tokens_per_step >= cost), SPECULATION)


def break_even_hit_rate(shape: Shape, step_time: StepTime, batching: Batching, rate_per_s: float) -> BreakEven:
    """The least share of prompts that has to stand in the cache for one replica to carry this rate; None if no share does.

    >>> step = lambda load: 0.01 + 0.0001 * load.tokens
    >>> found = break_even_hit_rate(Shape(1000, 101), step, Batching(32, 2048), rate_per_s=10.0)
    >>> 0 < found.at < 1, break_even_hit_rate(Shape(1000, 101), step, Batching(32, 2048), rate_per_s=100.0).at
    (True, None)
    """

    def carries(share: float) -> bool:
        found = saturation(shape, step_time, replace(batching, hit_rate=share))
        return found.rate_per_s >= rate_per_s

    most = 1 - 1 / shape.prompt  # the last token is always computed
    if not carries(most):
        return BreakEven(None, CACHING)
    return BreakEven(_least(carries, most), CACHING)


def _least(holds: Callable[[float], bool], high: float = 1.0) -> float:
    """The least number at which something holds that holds from there on."""
    low = 0.0
    if holds(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
