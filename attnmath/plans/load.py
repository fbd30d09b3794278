"""What one step of a replica has to do, and the function that says how long it takes: all that latency under load needs."""

from __future__ import annotations

from collections.abc import Callable

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
