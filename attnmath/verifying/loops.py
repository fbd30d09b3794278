"""A second opinion on what loops move: they are run, tile by tile, and what each visit brings in is added up.

It shares no code with the package: a mask is what the judge says of each pair.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attnmath.verifying.judge import sees

WIDE = 4  # bytes of an accumulator
NARROW = 2  # and of everything else
Pairs = list[list[bool]]


def allowed(mask: str, t: int, n: int, past: int, packed: int = 1, sizes: Mapping[str, Any] | None = None) -> Pairs:
    """Which pairs exist, asked one by one: a row per query, `packed` rows for each if heads stand side by side.

    >>> allowed("causal", 2, 3, 1)
    [[True, True, False], [True, True, True]]
    """
    known = {**(sizes or {}), "past": past}
    return [[sees(mask, past + i, j, known) for j in range(n)] for i in range(t) for _ in range(packed)]


def cut(pairs: Pairs, rows: int | None, cols: int | None) -> list[Pairs]:
    """The tiles of a table of booleans; a side without a length is not cut.

    >>> cut([[True, True], [True, False]], 1, None)
    [[[True, True]], [[True, False]]]
    """
    t, n = len(pairs), len(pairs[0])
    rows, cols = rows or t, cols or n
    return [[row[y : y + cols] for row in pairs[x : x + rows]] for x in range(0, t, rows) for y in range(0, n, cols)]


class LoopWalk:
    """Loops such as `b g r t/4 n/4` around a core, run: tiles without an allowed pair are skipped, and the bytes that each
    visit loads or writes are added up (`moved` by tensor, `total`).

    One slot per tensor, which is emptied when a loop outside its own, or its own, moves on; or, with `lru` bytes, a cache
    that keeps the blocks used last. `reads` and `writes`: the letters of each tensor that is read and written; `wide`: those
    of four bytes; `statistics`: the numbers that go with each row of a result; `travel`: bytes of a result on its way.
    """

    def __init__(
        self,
        text: str,
        sizes: Mapping[str, int],
        mask: str,
        reads: Mapping[str, Sequence[str]],
        writes: Mapping[str, Sequence[str]],
        lru: int | None = None,
        wide: Collection[str] = (),
        statistics: int = 2,
        travel: int = WIDE,
    ) -> None:
        self.sizes, self.lru, self.reads, self.writes = sizes, lru, reads, writes
        self.wide, self.statistics, self.travel = wide, statistics, travel
        self.tensors = {**reads, **writes}
        self.cache: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        words = [w.replace("=", "/-") for w in text.split()]
        self.nest = [(w.split("/")[0], int(w.split("/")[1]) if "/" in w else 1) for w in words]
        self.names = [d for d, _ in self.nest]
        self.tile = dict(self.nest)
        pairs = allowed(mask, sizes["t"], sizes["n"], sizes["past"], 1, sizes)
        self.parts = -self.tile.get("z", -1)  # one part is no part: all of the keys
        blocks = -(-sizes["n"] // self.tile.get("n", sizes["n"]))
        share = -(-blocks // self.parts)
        self.moved = dict.fromkeys((*reads, "travel", "parts"), 0)
        held: dict[Any, tuple[Any, ...]] = {}
        for at in itertools.product(*(range(self.turns(d)) for d in self.names)):
            here = dict(zip(self.names, at))
            if "z" in here and here["n"] // share != here["z"]:
                continue
            q, k = self.span("t", here), self.span("n", here)
            if any(any(row[slice(*k)]) for row in pairs[slice(*q)]):
                for name in reads:
                    self.load(name, here, held)
                for name in writes:
                    self.accumulate(name, here, held)
        for index in writes.values():
            rows = math.prod(sizes[d] for d in index[:-1])
            if self.parts > 1 and blocks > 1:  # every part writes its results, the combination reads them
                self.moved["parts"] += 2 * self.parts * rows * (sizes[index[-1]] + 1) * WIDE
        self.total = sum(self.moved.values())
        self.total += sum(NARROW * math.prod(sizes[d] for d in index) for index in writes.values())

    def turns(self, d: str) -> int:
        """How often a loop turns."""
        return -self.tile[d] if d == "z" else -(-self.sizes[d] // self.tile[d])

    def span(self, d: str, here: Mapping[str, int]) -> tuple[int, int]:
        """Where along an index a visit begins and ends."""
        b = self.tile.get(d, self.sizes[d])
        return here.get(d, 0) * b, min((here.get(d, 0) + 1) * b, self.sizes[d])

    def elements(self, name: str, here: Mapping[str, int]) -> int:
        """Numbers in a tensor's block at a visit."""
        return math.prod(b - a for a, b in (self.span(d, here) for d in self.tensors[name]))

    def depth(self, name: str) -> int:
        """The innermost loop that moves a tensor's block; -1: none does."""
        own = [k for k, d in enumerate(self.names) if d in self.tensors[name] and self.turns(d) > 1]
        split = [k for k, d in enumerate(self.names) if d == "z" and self.parts > 1 and self.turns("n") > 1]
        return max([*own, *split], default=-1)

    def load(self, name: str, here: Mapping[str, int], held: dict[Any, tuple[Any, ...]]) -> None:
        """A block that is read, unless it is there."""
        size = self.elements(name, here) * (WIDE if name in self.wide else NARROW)
        if self.lru is not None:
            block = (name, *(here[d] for d in self.names if d in self.tensors[name]))
            self.moved[name] += 0 if self.touch(block, size, self.lru) else size
            return
        slot = tuple(here[d] for d in self.names[: self.depth(name) + 1])
        if held.get(name) != slot:
            held[name] = slot
            self.moved[name] += size

    def touch(self, block: tuple[Any, ...], size: int, room: int) -> bool:
        """Whether a block is in the cache; it is the newest afterwards, and the oldest make room."""
        hit = block in self.cache
        self.cache[block] = size
        self.cache.move_to_end(block)
        while sum(self.cache.values()) > room:
            self.cache.popitem(last=False)
        return hit

    def accumulate(self, name: str, here: Mapping[str, int], held: dict[Any, tuple[Any, ...]]) -> None:
        """Results that leave the chip between visits are read and written each time, as they are stored at the last."""
        index = self.writes[name]
        if self.lru is not None:
            block = (name, *(here[d] for d in self.names if d in index))
            self.touch(block, self.elements(name, here) * NARROW, self.lru)
            return
        outer = self.names[: self.depth(name) + 1]
        adding = [d for d in outer if d not in (*index, "z") and self.turns(d) > 1]
        slot = tuple(here[d] for d in outer)
        if not adding or self.parts > 1 or held.get(("sum", name)) == slot:
            return
        held["sum", name] = slot
        numbers = self.elements(name, here)
        rows = numbers // self.sizes[index[-1]]
        self.moved["travel"] += 2 * (numbers * self.travel + rows * self.statistics * WIDE)
        block = ("written", name, *(here[d] for d in outer if d in index))
        if block not in held:  # its last visit writes what is counted as the result
            held[block] = ()
            self.moved["travel"] -= numbers * self.travel
