"""Ties: the names of a page are what a variant computes, entry by entry; so what is proved is what is computed."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf
from msgspec import Struct
from sympy import Indexed, Lambda, sympify

from attnmath.errors import AttnmathError, Unknown
from attnmath.proving import oracle
from attnmath.proving.sums import head, heads
from attnmath.proving.terms import Index

if TYPE_CHECKING:
    from attnmath.proving.page import Derivation

CLOSE = 1e-9  # a variant computes in float64


class Tie(Struct, frozen=True):
    """`shows`: entries of the page by the variant's reference, `{"O[t e]": O[i, u]}`: the letters stand for the indices in
    their order; a letter that is not named has one place; a `Lambda` says the entry by an expression. `reads`: likewise what
    both start from: the variant's random numbers for entries, the page's for expressions. `sizes`: the lengths of the
    letters in the page's symbols, where indices do not say them. `numbers`: what the page's other symbols, or entries, are.
    `cache`: what the variant finds in its cache, as the page computes it. `options`: of `attnmath.evaluate`. `upstream`:
    the gradients that are given, by the tensor whose they are, as `reads` has them; `shows` may then name what the variant's
    backward pass computes from them (`{"dV[n e]": ...}`), and names nothing that it does not.
    """

    says: str
    variant: str
    reads: Mapping[str, Any]
    shows: Mapping[str, Any]
    sizes: Mapping[str, Any] = {}
    numbers: Mapping[Any, Any] = {}
    cache: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    upstream: Mapping[str, Any] = {}

    @property
    def heads(self) -> set[str]:
        """The names of the page that it ties."""
        tied = (*self.reads.values(), *self.upstream.values(), *self.shows.values(), *self.cache.values())
        return set().union(*(heads(x.expr) if isinstance(x, Lambda) else {str(head(x))} for x in tied))

    def run(self, page: Derivation, trials: int = 2, seed: int = 0) -> Tied:
        """Evaluate the variant and the page on the same random numbers; the largest difference of any entry."""
        rng, error, seen = random.Random(seed), 0.0, 0
        with mp.workdps(30):
            for _ in range(trials):
                worst, entries = self._trial(page, rng)
                error, seen = max(error, worst), seen + entries
        return Tied(self, error, seen, trials, seed)

    def _trial(self, page: Derivation, rng: random.Random) -> tuple[float, int]:
        import numpy as np

        from attnmath import evaluate

        axes, computed, world = self._axes(), self._axes(computed=True), self._world(page, rng)
        sizes = self._sizes(page, world)
        draw = np.random.default_rng(rng.randrange(2**32))

        def handed(entries: Mapping[str, Any], axes: Mapping[str, list[str]]) -> dict[str, Any]:
            """What the variant is handed, which is the page's or becomes it."""
            arrays: dict[str, Any] = {}
            for text, e in entries.items():
                name, letters = _parsed(text)
                if isinstance(e, Lambda):
                    arrays |= [_filled(name, letters, axes, e, world)]
                    continue
                arrays[name] = draw.uniform(-1, 1, [sizes.get(a, 1) for a in axes[name]])
                world.defined = {**world.defined, str(head(e)): _reader(arrays[name], axes[name], letters)}
            return arrays

        arrays, given = handed(self.reads, axes), handed(self.upstream, computed)
        options: dict[str, Any] = {
            k: int(world(v)) if hasattr(v, "free_symbols") else v for k, v in self.options.items()
        }
        if self.cache:
            options["cache"] = dict(_filled(*_parsed(text), axes, e, world) for text, e in self.cache.items())
        out: dict[str, Any] = dict(evaluate(self.variant, arrays, **options))
        if self.upstream:
            from attnmath import gradient

            found = gradient(self.variant, arrays, given, **options)
            out |= found.tensors
            computed |= {name: [str(a) for a in index] for name, index in found.program.tensors.items()}
        worst, seen = 0.0, 0
        for text, e in self.shows.items():
            name, letters = _parsed(text)
            if name not in out:
                raise AttnmathError(f"{page.name}: {self.variant}: {Unknown('tensor', name, out)}")
            read = _reader(out[name], computed[name], letters)
            for idx in itertools.product(*(range(sizes[x]) for x in letters)):
                worst = max(worst, abs(float(_value(e, idx, world) - read(world, *idx))))
                seen += 1
        return worst, seen

    def _axes(self, computed: bool = False) -> dict[str, list[str]]:
        """The letters of every tensor of the layer; of what is computed, as the schedule has them."""
        from attnmath import layers
        from attnmath.readings.schedules import parse
        from attnmath.readings.streams import stream

        o = self.options
        mask = o["mask"] if isinstance(o.get("mask"), str) else None
        page = layers.build(self.variant, o.get("modifiers", ()), mask, "window" in o).form(o.get("form"))
        if computed and "schedule" in o:
            page = stream(page, parse(o["schedule"]))
        return {name: [str(a) for a in index] for name, index in page.tensors.items()}

    def _world(self, page: Derivation, rng: random.Random) -> oracle.World:
        """Numbers for the page's symbols, what it defines, and `numbers`."""
        from attnmath.proving.page import models, unfolding
        from attnmath.proving.terms import eq

        defined = models(page, [g.claim for g in page.given]) | {
            str(head(k)): unfolding(eq(k, v)) for k, v in self.numbers.items() if k.args
        }
        values = {k: v for k, v in self.numbers.items() if k.is_Symbol}
        tied = [x.expr if isinstance(x, Lambda) else x for x in (*self.shows.values(), *self.cache.values())]
        also = [x for c in page.definitions for x in c.args]
        also += [x for r in page.recurrences for c in (r.start, r.step) for x in c.args]
        named = oracle.free(
            [
                *tied,
                *self.reads.values(),
                *self.upstream.values(),
                *also,
                *map(sympify, [*self.sizes.values(), *self.numbers.values()]),
            ]
        )
        drawn = oracle.drawn(
            [s for s in named if s not in values and not isinstance(s, Index) and str(s) not in defined], rng
        )
        world = oracle.World(drawn, rng, defined)
        for symbol, value in values.items():
            world.values[symbol] = world(value)
        return world

    def _sizes(self, page: Derivation, world: oracle.World) -> dict[str, int]:
        """The letters' lengths, as the ranges of the page's indices say them."""
        sizes = {letter: int(world(x)) for letter, x in self.sizes.items()}
        for text, e in (*self.reads.items(), *self.upstream.items(), *self.shows.items()):
            for letter, place in zip(_parsed(text)[1], _places(e), strict=True):
                if isinstance(place, Index) and letter not in self.sizes:
                    length = int(world(place.size))
                    if sizes.setdefault(letter, length) != length:
                        raise AttnmathError(f"{page.name}: the letter {letter} of {self.variant} has two lengths")
        return sizes


class Tied(Struct, frozen=True):
    """What a tie found: the largest difference, over how many entries."""

    tie: Tie
    error: float
    entries: int
    trials: int
    seed: int

    @property
    def holds(self) -> bool:
        """Whether the page is what is computed."""
        return self.entries > 0 and self.error < CLOSE


def _parsed(text: str) -> tuple[str, list[str]]:
    """A reference of the language in its simplest form, as (name, letters).

    >>> _parsed("O[t e]")
    ('O', ['t', 'e'])
    """
    m = re.fullmatch(r"(\w+)\[([\w ]*)\]", text)
    if m is None:
        raise AttnmathError(f"{text!r}: a reference such as O[t e] is expected")
    return m[1], m[2].split()


def _places(e: Any) -> tuple[Any, ...]:
    if isinstance(e, Lambda):
        return tuple(e.variables)
    return tuple(e.args[1:]) if isinstance(e, Indexed) else tuple(e.args)


def _value(e: Any, idx: tuple[int, ...], world: oracle.World) -> Any:
    """The page's value at these positions."""
    bind = {_variable(p): k for p, k in zip(_places(e), idx)}
    return world(e.expr if isinstance(e, Lambda) else e, bind)


def _filled(
    name: str, letters: list[str], axes: Mapping[str, list[str]], e: Any, world: oracle.World
) -> tuple[str, Any]:
    """(name, an array of the page's values): what the variant is handed."""
    import numpy as np

    lengths = {letter: int(world(p.size)) for letter, p in zip(letters, _places(e), strict=True)}
    out = np.zeros([lengths.get(a, 1) for a in axes[name]])
    for place in np.ndindex(out.shape):
        at = dict(zip(axes[name], place))
        out[place] = float(_value(e, tuple(at[x] for x in letters), world))
    return name, out


def _variable(place: Any) -> Any:
    """The one symbol that a place depends on: t of t + 1."""
    (symbol,) = place.free_symbols
    return symbol


def _reader(array: Any, axes: list[str], letters: list[str]) -> Any:
    """An entry of an array by the letters that vary; every other axis has one place."""

    def read(world: Any, *idx: int) -> Any:
        at = dict(zip(letters, idx))
        return mpf(float(array[tuple(at.get(a, 0) for a in axes)]))

    return read
