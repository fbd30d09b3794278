"""Ties: the names of a page are what a variant computes, entry by entry; so what is proved is what is computed."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mpmath import mp, mpf
from msgspec import Struct
from sympy import Indexed

from attnmath.errors import AttnmathError
from attnmath.proving import oracle
from attnmath.proving.sums import head
from attnmath.proving.terms import Index

if TYPE_CHECKING:
    from attnmath.proving.page import Derivation

CLOSE = 1e-9  # a variant computes in float64


class Tie(Struct, frozen=True):
    """`shows`: entries of the page by the variant's reference, `{"O[t e]": O[i, u]}`: the letters stand for the indices in
    their order; a letter that is not named has one place. `reads`: likewise what both start from; `past`: the state that
    they start from, whose recursion has one place. `sizes`: the lengths of
    the letters in the page's symbols, where indices do not say them. `numbers`: what the page's other symbols are.
    `options`: of `attnmath.evaluate`.
    """

    says: str
    variant: str
    reads: Mapping[str, Any]
    shows: Mapping[str, Any]
    sizes: Mapping[str, Any] = {}
    numbers: Mapping[Any, Any] = {}
    options: Mapping[str, Any] = {}
    past: Mapping[str, Any] = {}

    @property
    def heads(self) -> set[str]:
        """The names of the page that it ties."""
        return {str(head(x)) for x in (*self.reads.values(), *self.past.values(), *self.shows.values())}

    def axes(self, computed: bool) -> dict[str, list[str]]:
        """The letters of each tensor's axes, in the form that the options name; of what is computed, as the schedule has them."""
        from attnmath import variants
        from attnmath.readings.schedules import parse
        from attnmath.readings.streams import stream

        page = variants.get(self.variant).form(self.options.get("form"))
        if computed and "schedule" in self.options:
            page = stream(page, parse(self.options["schedule"]))
        return {name: [str(a) for a in index] for name, index in page.tensors.items()}

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
        from attnmath.proving.page import models

        parts = [(*_parsed(text), e) for text, e in (*self.reads.items(), *self.past.items(), *self.shows.items())]
        names = {s for _, _, e in parts for s in oracle.free([e])} | {
            s for x in self.sizes.values() for s in oracle.free([x])
        }
        also = [x for c in page.definitions for x in c.args]
        also += [x for r in page.recurrences for c in (r.start, r.step) for x in c.args]
        names |= set(oracle.free(also)) - set(self.numbers)
        defined = models(page, [g.claim for g in page.given])
        drawn = oracle.drawn([s for s in names if not isinstance(s, Index) and str(s) not in defined], rng)
        world = oracle.World(drawn, rng, defined)
        for symbol, value in self.numbers.items():
            world.values[symbol] = world(value)
        sizes = {letter: int(world(x)) for letter, x in self.sizes.items()}
        for _, letters, e in parts:
            for letter, place in zip(letters, _places(e), strict=True):
                if isinstance(place, Index) and letter not in self.sizes:
                    length = int(world(place.size))
                    if sizes.setdefault(letter, length) != length:
                        raise AttnmathError(f"{page.name}: the letter {letter} of {self.variant} has two lengths")
        given, computed = self.axes(computed=False), self.axes(computed=True)
        arrays: dict[str, Any] = {}
        past: dict[str, Any] = {}
        draw = np.random.default_rng(rng.randrange(2**32))
        for text, e in (*self.reads.items(), *self.past.items()):
            name, letters = _parsed(text)
            known = {x: sizes[x] for x in letters} if text in self.past else sizes
            array = draw.uniform(-1, 1, [known.get(a, 1) for a in given[name]])
            (past if text in self.past else arrays)[name] = array
            world.defined = {**world.defined, str(head(e)): _reader(array, given[name], letters)}
        options: dict[str, Any] = {
            k: int(world(v)) if hasattr(v, "free_symbols") else v for k, v in self.options.items()
        }
        out = evaluate(self.variant, arrays, cache=past, **options)
        worst, seen = 0.0, 0
        for text, e in self.shows.items():
            name, letters = _parsed(text)
            read = _reader(out[name], computed[name], letters)
            for idx in itertools.product(*(range(sizes[x]) for x in letters)):
                bind = {_variable(p): k for p, k in zip(_places(e), idx)}
                worst = max(worst, abs(float(world(e, bind) - read(world, *idx))))
                seen += 1
        return worst, seen


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
    return tuple(e.args[1:]) if isinstance(e, Indexed) else tuple(e.args)


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
