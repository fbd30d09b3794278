"""One replica between two steps: who waits, who runs, what the next step computes. It knows steps, and no time."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, NamedTuple

from attnmath.plans.batching import RULES, Batching
from attnmath.plans.load import Load


class Sequence:
    """A request on a replica: `need` tokens stand before its next token, `hit` of them are in the cache when it starts, `done`
    are by now; `steps` give it a token each after that. Started again, it computes the tokens that it made, too.
    """

    __slots__ = ("base", "done", "entry", "hit", "index", "need", "running", "steps")

    def __init__(self, index: int, prompt: int, output: int, batching: Batching) -> None:
        self.index, self.need, self.hit = index, prompt, batching.cached(prompt)
        self.steps, self.done, self.running, self.base = batching.decode_steps(output), 0, False, 0.0
        self.entry: list[Any] = []


class Step(NamedTuple):
    """What a step computes. `most` steps alike may follow one another, the context growing, before anything else happens;
    `admitted`: requests that start with it.
    """

    load: Load
    most: int
    chunks: list[tuple[Sequence, int]]
    admitted: list[int]


class Replica:
    """Sequences that wait and run, under a Batching.

    Admission is first come, first served: a sequence starts if there is a slot, and room in the cache for all that it computes
    before its next token. Where the cache has no room for the next tokens, who was admitted last goes back to the head of
    the queue and is computed again (vllm-project/vllm, vllm/v1/core/sched/scheduler.py, with
    scheduler_reserve_full_isl). What ends, ends with its step.

    >>> r = Replica(Batching(slots=2, budget=8))
    >>> r.put(0, prompt=10, output=3)
    >>> for _ in range(4):
    ...     step = r.step()
    ...     print(step.load.prefill_tokens, step.load.decodes, step.most, r.advance(step, 1))
    8 0 1 ([], [])
    2 0 1 ([0], [])
    0 1 2 ([], [])
    0 1 1 ([], [0])
    >>> r.step() is None
    True
    """

    def __init__(self, batching: Batching) -> None:
        self.batching, self.rule = batching, RULES[batching.rule]
        self.growth = int(batching.tokens_per_step) if batching.tokens_per_step % 1 == 0 else batching.tokens_per_step
        self.waiting: deque[Sequence] = deque()
        self.prefilling: deque[Sequence] = deque()
        self.order: list[Sequence] = []  # as they were admitted; of those that ended, some still
        self.ends: list[list[Any]] = []  # a heap of (tick, serial, sequence), the sequence None if it was preempted
        self.running = self.decoding = self.tick = self.serial = self.preemptions = 0
        self.reserved = 0  # tokens of the cache for what is being prefilled
        self.base = 0.0  # cached tokens of all that decode, less growth x tick for each

    @property
    def held(self) -> float:
        """Tokens of the cache that are taken."""
        return self.reserved + self.base + self.decoding * self.growth * self.tick

    @property
    def present(self) -> int:
        """Requests that wait or run."""
        return len(self.waiting) + self.running

    @property
    def open(self) -> bool:
        """Whether a request that came now might start with the next step."""
        return not self.waiting and self.running < self.batching.slots

    def put(self, index: int, prompt: int, output: int) -> None:
        """A request arrives."""
        self.waiting.append(Sequence(index, prompt, output, self.batching))

    def step(self) -> Step | None:
        """The next step; None if there is nothing to do. Sequences are admitted, and preempted, here."""
        admitted: list[int] = []
        if not self.rule.mixes:
            chunks = self._chunks(self.batching.budget, True, admitted)
            if chunks:
                return Step(self._load(0, chunks), 1, chunks, admitted)
        preempted = self._make_room()
        chunks = []
        if self.rule.mixes:
            chunks = self._chunks(self.batching.budget - self.decoding, not preempted, admitted)
        if not chunks and not self.decoding:
            return None
        most = 1 if chunks else self._most()
        return Step(self._load(self.decoding, chunks), most, chunks, admitted)

    def advance(self, step: Step, count: int) -> tuple[list[int], list[int]]:
        """So many steps like this one were run: who has completed its prompt, and who has ended."""
        ended: list[int] = []
        if step.load.decodes:
            self.tick += count
            while self.ends and self.ends[0][0] <= self.tick:
                s = heapq.heappop(self.ends)[2]
                if s is not None:
                    self._leave(s)
                    ended.append(s.index)
        ready = []
        for s, tokens in step.chunks:
            s.done += tokens
            if s.done == s.need:
                self.prefilling.popleft()
                ready.append(s.index)
                self.reserved -= s.need
                self._decode(s)
                if not s.steps:
                    self._leave(s)
                    ended.append(s.index)
        return ready, ended

    def _load(self, decodes: int, chunks: list[tuple[Sequence, int]]) -> Load:
        context = self.base / decodes + self.growth * self.tick + 1 if decodes else 0.0
        if not chunks:
            return Load(decodes, context, 0, 0.0)
        tokens = sum([c for _, c in chunks])
        return Load(decodes, context, tokens, sum([s.done * c for s, c in chunks]) / tokens, len(chunks))

    def _most(self) -> int:
        """Steps until a sequence ends or the cache is full."""
        while self.ends[0][2] is None:
            heapq.heappop(self.ends)
        most = int(self.ends[0][0]) - self.tick
        if self.batching.cache_tokens is not None:
            most = min(most, int((self.batching.cache_tokens - self.held) // (self.decoding * self.growth)))
        return max(most, 1)

    def _chunks(self, left: int, admit: bool, admitted: list[int]) -> list[tuple[Sequence, int]]:
        """Pieces of prompts in so many tokens: of those that run, in their order, then of those that are admitted."""
        chunks: list[tuple[Sequence, int]] = []
        for s in self.prefilling:
            if not left:
                break
            tokens = min(s.need - s.done, left)
            chunks.append((s, tokens))
            left -= tokens
        while admit and left and self.waiting and self._has_room(self.waiting[0]):
            s = self.waiting[0]
            tokens = s.need - s.hit
            if tokens > left:
                if not self.rule.chunks and chunks:
                    break
                tokens = left if self.rule.chunks else tokens
            self._admit(s)
            admitted.append(s.index)
            chunks.append((s, tokens))
            left = max(left - tokens, 0)
        return chunks

    def _has_room(self, s: Sequence) -> bool:
        cache = self.batching.cache_tokens
        return self.running < self.batching.slots and (
            cache is None or self.held + s.need + self.decoding * self.growth <= cache
        )

    def _admit(self, s: Sequence) -> None:
        self.waiting.popleft()
        self.prefilling.append(s)
        s.running, s.done = True, s.hit
        self.running += 1
        self.reserved += s.need
        if len(self.order) > 2 * self.running + 64:
            self.order = [x for x in self.order if x.running]
        self.order.append(s)

    def _decode(self, s: Sequence) -> None:
        """A sequence has its prompt's keys and values, and its first token."""
        self.serial += 1
        s.base = s.need - self.growth * self.tick
        self.base += s.base
        self.decoding += 1
        s.entry = [self.tick + s.steps, self.serial, s]
        if s.steps:
            heapq.heappush(self.ends, s.entry)

    def _leave(self, s: Sequence) -> None:
        s.running = False
        self.running -= 1
        self.decoding -= 1
        self.base = self.base - s.base if self.decoding else 0.0

    def _make_room(self) -> bool:
        """Preempt until the next tokens fit: the last admitted first."""
        cache, found = self.batching.cache_tokens, False
        while cache is not None and self.held + self.decoding * self.growth > cache:
            s = self.order.pop()
            if s.running:
                found = True
                self._preempt(s)
        return found

    def _preempt(self, s: Sequence) -> None:
        self.preemptions += 1
        if self.prefilling and self.prefilling[-1] is s:
            self.prefilling.pop()
            self.reserved -= s.need
            self.running -= 1
        else:
            s.entry[2] = None
            s.steps = int(s.entry[0]) - self.tick - 1  # completing what is computed again makes a token, too
            self._leave(s)
            s.need = int(s.base + self.growth * self.tick) + 1
        s.running = False
        self.waiting.appendleft(s)
