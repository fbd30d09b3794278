"""Training's passes over the core: forward, perhaps forward again, backward; each with its loops.

A pass is a kernel: its inputs and outputs lie in memory, and what the backward pass reads of the forward one does between
them. Unfused, all equations of both run one by one. A backward pass may have its row sums D made before it, in a pass over
rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnmath.errors import NoSchedule
from attnmath.language.arith import Number, maximum
from attnmath.language.syntax import Equation
from attnmath.readings.count import core, recursive
from attnmath.readings.gradient import Gradient
from attnmath.readings.memory import Core
from attnmath.readings.schedules import Schedule, backward, named
from attnmath.readings.traffic import Traffic

STATES = "the backward pass of a recursion reads its states: which of them are kept, no schedule here says yet"


class Training:
    """A core's forward and backward pass at given sizes. Raises NoSchedule for a recursion.

    >>> from attnmath import variants
    >>> from attnmath.readings.gradient import gradient
    >>> g = gradient(variants.get("mha").program, recompute="selective")
    >>> sizes = {"b": 1, "t": 512, "n": 512, "h": 1, "d": 64, "e": 64, "past": 0}
    >>> [(t.schedule.name, t.total) for t in Training(g, sizes, "bf16").walked(named("flash-2"))]
    [('flash-2', 460800), ('unfused', 133120), ('flash-2', 1189888)]
    """

    def __init__(self, found: Gradient, sizes: Mapping[str, Number], dtype: str) -> None:
        self.page, self.sizes, self.dtype = found.together, sizes, dtype
        if recursive(self.page):
            raise NoSchedule(STATES)
        new = found.renamed
        self.wide = {*found.statistics, *(new[n] for n in found.statistics if n in new)}
        made = {new[n] for n in found.backward.defined}
        rerun = {new[n] for n in found.rerun} if found.statistics else set()
        inside = core(self.page)
        self.forward = tuple(e for e in inside if e.out.name not in made)
        self.again = tuple(e for e in inside if e.out.name in rerun)
        self.backward = tuple(e for e in inside if e.out.name in made - rerun)

    def of(self, equations: tuple[Equation, ...] | None = None) -> Core:
        """The tensors of one pass; without one, of all, what is drawn at random among them."""
        return Core(self.page, self.sizes, self.dtype, self.dtype, equations, self.wide, drawn=equations is None)

    @property
    def whole(self) -> Core:
        """All passes as one sequence of equations, each on its own."""
        return self.of()

    @property
    def passes(self) -> tuple[Core, ...]:
        """The tensors of each pass."""
        return tuple(self.of(x) for x in (self.forward, self.again, self.backward) if x)

    def walked(self, schedule: Schedule, at: Mapping[str, int] | None = None) -> tuple[Traffic, ...]:
        """What the loops of each pass move; NoSchedule if one of them has none, or does not fit."""
        if not schedule.loops:
            return (Traffic(self.whole, schedule, at),)
        last = backward(schedule)
        first = tuple(e for e in self.backward if last.sums_first and e.out.name in self.wide)
        rest = tuple(e for e in self.backward if e not in first)
        todo = ((self.forward, schedule), (self.again, schedule), (first, named("unfused")), (rest, last))
        return tuple(Traffic(self.of(x), loops, at) for x, loops in todo if x)

    @property
    def compulsory(self) -> Number:
        """Each pass's inputs and outputs once."""
        total: Number = 0
        for one in self.passes:
            total = total + one.compulsory
        return total

    def memory(self, schedule: Schedule, at: Mapping[str, int] | None = None) -> Number:
        """Peak of live tensors under a schedule: what passes hand to each other, from the first to the last, and the most that
        one has in memory beside it.
        """
        walks = self.walked(schedule, at)
        names = dict.fromkeys(n for walk in walks for n in (*walk.core.inputs, *walk.core.outputs))
        extra: Number = 0
        for walk in walks:
            extra = maximum(extra, walk.extra_bytes)
        return self.whole.resident(names) + extra
