"""How an engine makes up its steps: what it computes together, and what a replica has room for."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from attnmath.errors import InputError, Unknown, together


class Rule(Struct, frozen=True):
    """`mixes`: prompts are computed in one step with tokens of others; else they come first, and tokens wait for them.
    `chunks`: a prompt may be computed in pieces; else it is computed whole, alone if it is longer than the budget.
    """

    mixes: bool
    chunks: bool
    meaning: str
    engines: str
    source: str


RULES: Mapping[str, Rule] = {
    "mixed": Rule(
        True,
        True,
        "every sequence gets its token, and prompts what is left of the step's tokens",
        "vLLM V1; SGLang with --enable-mixed-chunk; TensorRT-LLM with chunked context",
        "Agrawal et al. 2023 (Sarathi), arXiv:2308.16369; vllm-project/vllm, vllm/v1/core/sched/scheduler.py",
    ),
    "prefill-first": Rule(
        False,
        True,
        "while prompts wait and fit, steps compute chunks of them, and tokens wait",
        "SGLang as it starts",
        "sgl-project/sglang, python/sglang/srt/managers/scheduler.py, get_next_batch_to_run",
    ),
    "whole-prompts-first": Rule(
        False,
        False,
        "while prompts wait and fit, steps compute whole ones, and tokens wait",
        "vLLM V0; TGI",
        "Yu et al. 2022 (Orca), OSDI; Kwon et al. 2023, arXiv:2309.06180, section 4.5",
    ),
}


class Batching(Struct, frozen=True):
    """What one replica has room for.

    `slots`: sequences at once (max_num_seqs); `budget`: tokens of one step (max_num_batched_tokens); `cache_tokens`: tokens
    that the cache holds, None if it holds everything; `rule`: a row of RULES; `hit_rate`: the share of each prompt that is
    found in the cache already; `tokens_per_step`: what a sequence gets of a step, more than 1 if drafted tokens are accepted.

    InputError names everything that is wrong.

    >>> Batching(256, 8192).rule
    'mixed'
    >>> Batching(0, 8192, rule="mix")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: 2 errors:
      0 slots; at least 1 is needed
      unknown rule 'mix': did you mean 'mixed'? The rules are mixed, prefill-first, whole-prompts-first
    """

    slots: int
    budget: int
    cache_tokens: int | None = None
    rule: str = "mixed"
    hit_rate: float = 0.0
    tokens_per_step: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        errors = []
        if self.slots < 1:
            errors.append(f"{self.slots} slots; at least 1 is needed")
        if self.budget < self.slots:
            errors.append(f"a step of {self.budget:,} tokens does not give each of {self.slots:,} sequences one")
        if self.cache_tokens is not None and self.cache_tokens < 1:
            errors.append(f"a cache of {self.cache_tokens:,} tokens; at least 1 is needed")
        if self.rule not in RULES:
            errors.append(str(Unknown("rule", self.rule, RULES)))
        if not 0 <= self.hit_rate < 1:
            errors.append(f"a hit rate of {self.hit_rate:g}; a share is expected, 0 <= x < 1")
        if not 1 <= self.tokens_per_step < 1e3:
            errors.append(f"{self.tokens_per_step:g} tokens a step and sequence; 1 or more are expected")
        if errors:
            raise InputError(together(errors))

    def decode_steps(self, output: int) -> int:
        """Steps after the one that completes the prompt, which makes the first token itself."""
        return -int(-(output - 1) // self.tokens_per_step)

    def cached(self, prompt: int) -> int:
        """Tokens of a prompt that are found in the cache; the last one is always computed."""
        return min(int(self.hit_rate * prompt), prompt - 1)

    def fits(self, prompt: int, output: int) -> bool:
        """Whether the cache holds such a request at its end."""
        most = prompt + self.decode_steps(output) * self.tokens_per_step
        return self.cache_tokens is None or most <= self.cache_tokens
