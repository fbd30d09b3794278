"""Bytes that a schedule's loops move between memory and chip, read off the loops and the mask.

One law, with no cache behind the loops: a tensor's block is loaded once per turn of all loops down to the innermost moving
loop that indexes it (a loop of one turn does not move; nothing stays from one part of the keys to the next). Where queries
and keys are both among those loops, their turns are the tiles that the mask leaves something in; a side that is not among
them is one tile. Results whose own loop lies inside the keys' loop leave the chip: they are read and written, in float32,
with a row's maximum and sum, at each visit, and the last visit writes them as they are stored. Parts of the keys at once
write results and one statistic (log-sum-exp) a row each, which are read again and combined.

With a cache of some bytes (an estimate): a loop that does not index a tensor has it loaded again only if all that one turn
of that loop touches is more than the cache holds; of several such loops side by side, one turn of the innermost. (Least
recently used goes first, tiles come round in the same order, and one turn follows the other.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from attnmath.errors import NoClosedForm, NoSchedule
from attnmath.language.arith import Number, maximum, minimum, prod
from attnmath.language.masks import Mask, Piece
from attnmath.language.syntax import letters, refs
from attnmath.language.tiles import Grid, covering
from attnmath.readings.memory import Core, in_bytes, state_bits
from attnmath.readings.schedules import PARTS, Loop, Schedule, bound, region

Part = tuple[str, Number]  # what is moved, and its bytes


class Traffic:
    """What a schedule moves of a core, by tensor. Integers, float64 arrays or symbols, as the core's sizes are.

    `at`: plain sizes that say which loops move, where the core's are SymPy's; `cache_bytes`: of a last-level cache, for an
    estimate of what reaches memory. Raises NoSchedule if the loops do not fit the page, NoClosedForm for a mask whose tiles
    no formula counts.

    >>> from attnmath import variants
    >>> from attnmath.readings.schedules import named
    >>> page = variants.get("gqa").program
    >>> sizes = {"b": 1, "t": 8192, "n": 8192, "g": 8, "r": 4, "d": 128, "e": 128, "past": 0}
    >>> Traffic(Core(page, sizes, "bf16", "bf16"), named("flash-2")).total
    4496293888
    """

    def __init__(
        self,
        core: Core,
        schedule: Schedule,
        at: Mapping[str, int] | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.core, self.cache_bytes, self._at = core, cache_bytes, at or {}
        page = core.space.program
        self.region = region(page, core.equations) if schedule.loops else None
        self.schedule = bound(schedule, page, self.region)
        self.key = self.region.key if self.region else None
        self.sizes = core.space.sizes
        pairs = [n for n in core.outputs if self.region and self.region.softmax and self._scores_like(n)]
        if pairs:
            raise NoSchedule(
                f"the backward pass reads {', '.join(pairs)}, weights that no pass over the keys has before its end; with "
                "recomputation selective it makes them again"
            )
        self.wide = state_bits(core.dtype)

    def _scores_like(self, name: str) -> bool:
        return {"t", self.key} <= set(self._index(name))

    @property
    def total(self) -> Number:
        """All bytes."""
        total: Number = 0
        for _, moved in self.parts:
            total = total + moved
        return total

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Each tensor's bytes, by what becomes of it."""
        if not self.schedule.loops:
            return tuple((str(step), self.core.step_bytes(step)) for step in self.core.steps)
        found: list[Part] = [
            (f"{n}, read", self._bytes(self._loaded(n), n) * (self.schedule.statistics if n in self.core.wide else 1))
            for n in self.core.inputs
        ]
        if self.schedule.spills:
            found += self._scores()
        for n in self.core.outputs:
            found += self._results(n)
        found += [(f"{c.tensor}, the state", moved) for c, moved, _ in self.core.state_parts]
        return tuple(found)

    @property
    def extra_bytes(self) -> Number:
        """What lies in memory beside inputs and outputs while the loops run: results that come and go, those of parts of the
        keys, scores of a chunk.
        """
        held: Number = 0
        if not self.schedule.loops:
            return held
        for n in self.core.outputs:
            held = held + self._around(n)[1]
            if self._apart(n):
                held = held + in_bytes((self._parts(n) + self._parts_of_keys * self._rows(1)) * self.wide)
            elif self._travels(n):
                beside = 0 if self.schedule.in_place else self._whole(n)
                held = held + in_bytes((beside + self._rows(2)) * self.wide)
        if self.schedule.spills:
            outer = prod(self.sizes[i] for i in self._scored if i not in self._names)
            tile = prod(minimum(x.tile, self._length(x)) for x in self.schedule.loops if x.index[0] in self._scored)
            most = 2 if len(self._spilled) > 1 else 1  # one is read while the next is written
            held = held + most * in_bytes(outer * tile * self.core.bits[self._spilled[0]])
        return held

    # -- loops

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(i for x in self.schedule.loops for i in x.index)

    def _length(self, loop: Loop) -> Number:
        """How far a loop goes: z over the tiles of keys."""
        if loop.index == (PARTS,) and self.key:
            return covering(self.sizes[self.key], self.schedule.tile(self.key) or 1)
        return prod(self.sizes[i] for i in loop.index)

    def _moves(self, loop: Loop) -> bool:
        """Whether a loop has more than one turn; of a Formula, the value decides."""
        if loop.index == (PARTS,):
            return loop.tile > 1 and self._more(self._length(loop), 1)
        return self._more(self._length(loop), loop.tile)

    def _more(self, length: Number, tile: int) -> bool:
        if hasattr(length, "free_symbols"):
            if not {str(x) for x in length.free_symbols} <= set(self._at):
                return True
            length = int(length.subs({x: self._at[str(x)] for x in length.free_symbols}))
        if hasattr(length, "all"):
            some: Any = length > tile
            if some.any() != some.all():
                raise NoClosedForm("an array of sizes of which some fill one tile and others several: split it")
            return bool(some.all())
        value: Any = getattr(length, "value", length)
        return bool(value > tile)

    def _noted(self, loop: Loop) -> Number:
        """Nothing, but for a Formula the condition that the loop moves, or does not, joins the regime."""
        length = self._length(loop)
        if not hasattr(length, "covered"):
            return 0
        one = 1 if loop.index == (PARTS,) else loop.tile
        return maximum(length, one + 1) - length if self._moves(loop) else minimum(length, one) - length

    def _steps(self, loop: Loop, index: Iterable[str]) -> bool:
        """Whether a loop indexes a tensor; z does if the keys do."""
        return bool(set(loop.index) & set(index)) or (loop.index == (PARTS,) and bool(set(index) & {self.key}))

    def _path(self, index: tuple[str, ...]) -> tuple[tuple[Loop, ...], Number]:
        """The loops that have a tensor loaded again, and what decided which."""
        noted: Number = 0
        loops = self.schedule.loops
        deep = 0
        for k, loop in reversed(list(enumerate(loops))):
            if not self._steps(loop, index) and loop.index != (PARTS,):  # no part of the keys keeps what another had
                continue
            if all(self._steps(x, index) for x in loops[:k]):  # each of these turns brings another block
                deep = k + 1
                break
            noted = noted + self._noted(loop)
            if self._moves(loop):
                deep = k + 1
                break
        return self._missed(loops[:deep], index), noted

    # -- tiles

    @cached_property
    def _mask(self) -> Mask:
        return self.core.space.masks.get(("t", self.key or ""), Mask((Piece(),)))

    @cached_property
    def _parts_of_keys(self) -> Number:
        return next((x.tile for x in self.schedule.loops if x.index == (PARTS,)), 1)

    def _grid(self, path: tuple[Loop, ...]) -> tuple[Grid, tuple[str, ...], Number]:
        """The tiles that a path makes of queries and keys, what is packed in their rows, and what decided it."""
        rows = cols = None
        packed: tuple[str, ...] = ()
        noted: Number = 0
        for loop in path:
            if not {"t", PARTS, self.key} & set(loop.index):
                continue
            if not self._moves(loop):
                noted = noted + self._noted(loop)
                continue
            if loop.index[0] == "t":
                rows, packed = loop.tile, loop.index[1:]
            elif loop.index == (PARTS,):
                cols = covering(self._length(loop), loop.tile) * (self.schedule.tile(self.key or "") or 1)
            else:
                cols = loop.tile
        shared = prod(self.sizes[i] for i in packed)
        if isinstance(shared, int) and rows is not None and rows % shared == 0:  # whole tokens in each tile
            return self._cut(rows // shared, cols, 1), (), noted
        return self._cut(rows, cols, shared), packed, noted

    def _cut(self, rows: Number | None, cols: Number | None, packed: Number) -> Grid:
        return Grid(self.sizes["t"], self.sizes[self.key or "t"], self.core.space.past("t"), rows, cols, packed)

    def _turned(self, index: tuple[str, ...], path: tuple[Loop, ...]) -> Number:
        """How many elements of a tensor with these indices a path loads: its tiles, times what else is in and around them."""
        around = prod(
            covering(self.sizes[i], x.tile)
            for x in path
            for i in x.index
            if i not in ("t", self.key, PARTS, *index) and len(x.index) == 1
        )
        if self.key is None:
            return around * prod(self.sizes[i] for i in index)
        grid, packed, noted = self._grid(path)
        if packed and "t" in index and not set(packed) <= set(index):
            raise NoClosedForm(
                "heads packed with queries in tiles of no whole token have no closed form for this tensor"
            )
        inside = prod(self.sizes[i] for i in index if i not in ("t", self.key, *packed))
        return around * inside * grid.moved(self._mask, "t" in index, self.key in index) + noted

    # -- tensors

    def _index(self, name: str) -> tuple[str, ...]:
        """The letters that a tensor is read or written under in the core: where queries meet keys, those of one read (keys
        that are values as well are read under two widths); in a recursion all, a chunk's places being its tokens.
        """
        found = [x for e in self.core.equations for a in (e.out, *e.alts) for x in refs(a) if x.name == name]
        found = found if self.key is None else found[:1]
        return tuple(dict.fromkeys(d for r in found for d in letters(r) if d in self.sizes))

    def _elements(self, name: str) -> Number:
        return self.core.space.elements(self.core.index[name])

    def _loaded(self, name: str) -> Number:
        index = self._index(name)
        path, noted = self._path(index)
        if self.key is None:  # read as tokens, or as places of a chunk, once or twice: its size is its own
            around = self._turned((), tuple(x for x in path if not self._steps(x, index)))
            return around * self._elements(name) + noted
        return self._turned(index, path) + noted

    def _bytes(self, elements: Number, name: str) -> Number:
        return in_bytes(elements * self.core.bits[name])

    # -- results

    def _whole(self, name: str) -> Number:
        """The numbers of a result."""
        return prod(self.sizes[i] for i in self._index(name))

    def _parts(self, name: str) -> Number:
        """The numbers of a result, of each part of the keys."""
        return self._parts_of_keys * self._whole(name)

    @cached_property
    def _heads(self) -> tuple[str, ...]:
        """The indices of a row of scores, beside the query's."""
        if self.region is None or self.key is None:
            return ()
        if self.region.softmax:
            return tuple(i for i in letters(self.region.softmax.out) if i not in ("t", self.key))
        scores = next(e.out for e in self.region.equations if {"t", self.key} <= set(letters(e.out)))
        return tuple(i for i in letters(scores) if i not in ("t", self.key))

    def _statistics(self, how_many: int) -> int:
        """Maximum and sum of each row, or their logarithm; of no softmax, none."""
        return how_many if self.region and self.region.softmax else 0

    def _rows(self, how_many: int) -> Number:
        """The numbers of rows' statistics."""
        return prod(self.sizes[i] for i in self._heads) * self.sizes["t"] * self._statistics(how_many)

    def _around(self, name: str) -> tuple[tuple[Loop, ...], Number]:
        """The path of a result; all loops where results leave the chip at each tile."""
        path, noted = (self.schedule.loops, 0) if self.schedule.spills else self._path(self._index(name))
        for x in path:
            if not self._along(x, name):
                noted = noted + self._noted(x)
        return path, noted

    def _adding(self, name: str) -> list[Loop]:
        """The loops between whose turns a result leaves the chip: those that go round it without stepping along it. What is
        kept of a softmax's rows goes with its results.
        """
        if self._kept(name):
            return []
        path, _ = self._around(name)
        return [x for x in path if self.key and not self._along(x, name) and self._moves(x)]

    def _kept(self, name: str) -> bool:
        return bool(self.region and self.region.softmax) and name in self.core.wide

    def _along(self, loop: Loop, name: str) -> bool:
        return self._steps(loop, self._index(name))

    def _apart(self, name: str) -> bool:
        """Whether parts of the keys make results at once."""
        return not self.schedule.in_turn and any(x.index == (PARTS,) for x in self._adding(name))

    def _travels(self, name: str) -> bool:
        return bool(self._adding(name)) and not self._apart(name)

    def _results(self, name: str) -> list[Part]:
        path, noted = self._around(name)
        once = in_bytes(self._elements(name) * self.core.bits[name])
        if self._kept(name):  # visits have read and written it anyway
            return [] if any(map(self._travels, self.core.outputs)) else [(f"{name}, written", once)]
        if self.key is None or not self._adding(name):
            return [(f"{name}, written", once + (noted if self.key else 0))]
        if self._apart(name):
            part = in_bytes((self._parts(name) + self._parts_of_keys * self._rows(1)) * self.wide)
            return [
                (f"{name}, parts of it, written", part + noted),
                (f"{name}, parts of it, read and combined", part),
                (f"{name}, written", once),
            ]
        visits, first, kept = self._visits(name, path)
        wide = self.core.bits[name] if self.schedule.in_place else self.wide
        return [
            (f"{name}, read at each visit", in_bytes(visits * wide + kept * self.wide) + noted),
            (
                f"{name}, written at each visit but the last",
                in_bytes((visits - first) * wide + kept * self.wide),
            ),
            (f"{name}, written", once),
        ]

    def _visits(self, name: str, path: tuple[Loop, ...]) -> tuple[Number, Number, Number]:
        """(the numbers of a result at all visits of the loops, at the first ones, a row's maximum and sum at all)."""
        index = self._index(name)
        first = self._turned(index, tuple(x for x in path if self._along(x, name)))
        rows = self._turned(("t", *self._heads), path) if self._statistics(2) else 0
        return self._turned(index, path), first, self._statistics(2) * rows

    @cached_property
    def _spilled(self) -> tuple[str, ...]:
        made = [e.out for e in self.core.equations if e.out.name not in self.core.outputs]
        return tuple(r.name for r in made if {"t", self.key} <= set(letters(r)))

    @cached_property
    def _scored(self) -> tuple[str, ...]:
        return self._index(self._spilled[0]) if self._spilled else ()

    def _scores(self) -> list[Part]:
        """What is made tile by tile and not kept on the chip: written once, and read by each equation that needs it."""
        found = []
        for n in self._spilled:
            readers = sum(any(r.name == n for a in e.alts for r in refs(a)) for e in self.core.equations)
            moved = self._bytes(self._turned(self._index(n), self.schedule.loops), n)
            found.append((f"{n}, written and read", (1 + readers) * moved))
        return found

    # -- a cache behind the loops

    def _missed(self, loops: tuple[Loop, ...], index: tuple[str, ...]) -> tuple[Loop, ...]:
        """The loops whose turns reach memory: those that index a tensor, and of the others those between whose turns the
        cache forgets it. Of neighbours among the others the innermost decides: it comes round soonest.
        """
        if self.cache_bytes is None:
            return loops
        kept: list[Loop] = []
        decides: int | None = None
        for k, loop in reversed(list(enumerate(loops))):
            indexes = self._steps(loop, index)
            decides = None if indexes else k if decides is None else decides
            if decides is None or self._more(self._touched(decides), self.cache_bytes):
                kept.append(loop)
        return tuple(reversed(kept))

    def _touched(self, at: int) -> Number:
        """Bytes that one turn of the loop touches: of what loops here and outside index, a tile; of anything else, all."""
        tiles = {i: x.tile for x in self.schedule.loops[: at + 1] for i in x.index if len(x.index) == 1 and i != PARTS}
        packed = next((x for x in self.schedule.loops[: at + 1] if len(x.index) > 1), None)
        if packed is not None:
            shared = prod(self.sizes[i] for i in packed.index[1:])
            tiles["t"] = maximum(packed.tile // shared, 1)
        if any(x.index == (PARTS,) for x in self.schedule.loops[: at + 1]) and self.key and self.key not in tiles:
            z = next(x for x in self.schedule.loops if x.index == (PARTS,))
            tiles[self.key] = covering(self._length(z), z.tile) * (self.schedule.tile(self.key) or 1)
        size = {i: minimum(tiles.get(i, v), v) for i, v in self.sizes.items() if i in self._letters}
        if self.key and "t" in tiles and self.key not in tiles:
            size[self.key] = minimum(size[self.key], self._mask.span(self.sizes[self.key]) + size["t"] - 1)
        total: Number = 0
        for n in (*self.core.inputs, *self.core.outputs):
            total = total + self._bytes(prod(size[i] for i in self._index(n)), n)
        return total

    @cached_property
    def _letters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(i for n in (*self.core.inputs, *self.core.outputs) for i in self._index(n)))
