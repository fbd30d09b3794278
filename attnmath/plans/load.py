"""What one step of a replica has to do, and the function that says how long it takes: all that latency under load needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct


class Load(Struct, frozen=True):
    """One step of one replica.

    `decodes` sequences get a token each, and see `context` tokens in the mean, the new one included. `prefill_tokens` prompt
    tokens are computed, of `prompts` sequences; `prefill_past` tokens in the mean (over those tokens) stand in the cache
    before the chunk that they belong to.
    """

    decodes: int = 0
    context: float = 0.0
    prefill_tokens: int = 0
    prefill_past: float = 0.0
    prompts: int = 1

    @property
    def tokens(self) -> int:
        """Tokens that go through the model in this step."""
        return self.decodes + self.prefill_tokens


StepTime = Callable[[Load], float]  # seconds
FINENESS = 8  # knots to each doubling
EXACT = 16  # whole numbers up to which each is a knot


def tabulated(step_time: StepTime, fineness: int = FINENESS) -> StepTime:
    """The same function by its values at knots, computed when they are met, and lines between them: for replays of many steps.

    Knots lie so many to each doubling of each number of a load; whole numbers up to 16 are all knots. Exact where the
    function is linear in each number between knots; its kinks and stairs are cut by lines.

    >>> calls = []
    >>> step = tabulated(lambda load: calls.append(load) or 0.001 * load.decodes + 1e-6 * load.context)
    >>> [round(step(Load(8, 1000.0 + i, 0, 0.0)), 9) for i in range(3)], len(calls)
    ([0.009, 0.009001, 0.009002], 2)
    """
    values: dict[tuple[int, float, int, float, int], float] = {}

    def at(decodes: float, context: float, tokens: float, past: float, prompts: int) -> float:
        key = (int(decodes), context, int(tokens), past, prompts)
        found = values.get(key)
        if found is None:
            found = values[key] = step_time(Load(*key))
        return found

    def step(load: Load) -> float:
        total = 0.0
        for d, d_share in _knots(load.decodes, fineness, True):
            for c, c_share in _knots(load.context, fineness, False):
                for t, t_share in _knots(load.prefill_tokens, fineness, True):
                    for p, p_share in _knots(load.prefill_past, fineness, False):
                        total += d_share * c_share * t_share * p_share * at(d, c, t, p, load.prompts)
        return total

    return step


@lru_cache(maxsize=2**16)
def _knots(value: float, fineness: int, whole: bool) -> tuple[tuple[float, float], ...]:
    """The knots on both sides, and the share of each."""
    if value < 1 or (whole and value <= EXACT):
        return _between(0.0, 1.0, value) if 0 < value < 1 else ((value, 1.0),)
    place = math.floor(math.log2(value) * fineness)
    low, high = 2 ** (place / fineness), 2 ** ((place + 1) / fineness)
    return _between(round(low), round(high), value) if whole else _between(low, high, value)


def _between(low: float, high: float, value: float) -> tuple[tuple[float, float], ...]:
    share = (value - low) / (high - low) if high > low else 0.0
    return ((low, 1 - share), (high, share)) if share else ((low, 1.0),)
