"""What a step of a server is asked for, and what answers how long it takes: where the time model meets queues."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Load(Struct, frozen=True):
    """One step of one replica: `decodes` sequences get a token each and see `context` tokens in the mean; `prefill_tokens` of
    `prompts` prompts are computed, with `prefill_past` tokens before them in the mean.
    """

    decodes: int = 0
    context: float = 0.0
    prefill_tokens: int = 0
    prefill_past: float = 0.0
    prompts: float = 1.0

    @property
    def tokens(self) -> int:
        """All tokens that the step computes."""
        return self.decodes + self.prefill_tokens


StepTime = Callable[[Load], float]  # seconds
