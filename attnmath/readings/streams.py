"""A schedule, run: the softmax's sums over keys become recurrences over blocks of keys, in the language itself.

    A = softmax_n L, O = A V    becomes, block of keys by block, for each query and head:

    TOP  = max(TOP before, the block's largest score that the query sees)
    FADE = exp(TOP before - TOP)                        how much what was summed so far shrinks
    A    = exp(L - TOP)
    SUM  = SUM before * FADE + A summed over the block
    RUN  = RUN before * FADE + A V summed over the block
    O    = RUN / SUM                                    after the last block; a sink joins the SUM once, here

(Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135, algorithm 1.) Parts of the keys at once run
this each, and are combined by how far their TOP lies below the largest. What has no softmax only sums. The result is a page
like any other: evaluated and counted by the same readings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from attnmath.errors import NoSchedule
from attnmath.language.arith import ceil_div
from attnmath.language.masks import both, named
from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Num,
    Op,
    Pos,
    Program,
    Ref,
    Shift,
    check,
    letters,
    refs,
    terms,
)
from attnmath.readings.schedules import PARTS, Schedule, bound, region

SPLIT, TILE, KEY = "split", "tile", "key"  # a key's digits: which part, which block of it, which place in the block
LOWEST = -1e300  # what the largest score is before there is any


def stream(page: Program, schedule: Schedule) -> Program:
    """The page with its keys in blocks, as the schedule has them; unfused, the page itself.

    Its keys n are read as (tile key), or (split tile key) where parts run at once; `blocks` has those sizes, `start` what
    the recurrences begin with. Raises NoSchedule for a core that does not stream.

    >>> from attnmath import variants
    >>> from attnmath.readings.schedules import named
    >>> list(stream(variants.get("mha").program, named("flash-2")).defined)[5:]
    ['S', 'L', 'SEEN', 'TOPA', 'FADEA', 'A', 'SUMA', 'RUNO', 'O', 'Y']
    """
    if not bound(schedule, page).loops:
        return page
    return _Stream(page, schedule).program()


def blocks(schedule: Schedule, sizes: Mapping[str, Any], key: str = "n") -> dict[str, int]:
    """The sizes that the streamed page has beside the page's own.

    >>> from attnmath.readings.schedules import parse
    >>> blocks(parse("split-kv:z=2,n=4"), {"n": 13})
    {'key': 4, 'tile': 2, 'split': 2}
    """
    n = int(sizes[key])
    wide = max(min(schedule.tile(key) or n, n), 1)
    parts = _parts(schedule)
    return {KEY: wide, TILE: ceil_div(ceil_div(n, wide), parts), SPLIT: parts}


def start(program: Program, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """What a streamed page reads before its first block: the lowest score there is; all else begins with nothing.

    >>> from attnmath import variants
    >>> from attnmath.readings.schedules import named
    >>> page = stream(variants.get("mha").program, named("flash-2"))
    >>> start(page, {"b": 1, "h": 2, "t": 3})["TOPA"].shape
    (1, 2, 3, 1)
    """
    import numpy as np

    found = {}
    for e in program.defined.values():
        if e.alts[0] == _top(e):
            shape = [1 if i == TILE else int(sizes[str(i)]) for i in e.out.index]
            found[e.out.name] = np.full(shape, LOWEST)
    return found


def _top(e: Equation) -> Expr | None:
    """The expression of an equation that is a running maximum, else None."""
    x = e.alts[0]
    before = isinstance(x, Op) and x.name == "max2" and isinstance(x.args[0], Ref) and x.args[0].name == e.out.name
    return x if before else None


def _parts(schedule: Schedule) -> int:
    """How many parts of the keys run at once; in turn, they are one after the other, like blocks."""
    return 1 if schedule.in_turn else schedule.tile(PARTS) or 1


class _Stream:
    """One page, rewritten."""

    def __init__(self, page: Program, schedule: Schedule) -> None:
        self.page, self.region = page, region(page)
        if self.region.key is None:
            raise NoSchedule("a recursion streams as it is: there are no sums over keys to rewrite")
        self.k = self.region.key
        self.split = (SPLIT,) if _parts(schedule) > 1 else ()
        self.digits = (*self.split, TILE, KEY)
        taken = {SPLIT, TILE, KEY} & set(page.names)
        if taken:
            raise NoSchedule(f"the page has a word {', '.join(sorted(taken))} of its own; a stream needs it")
        self.inside = {e.out.name for e in self.region.equations}
        self.over_keys: set[str] = set()  # linear in the softmax's numerators, so far
        self.seen = self.fresh("SEEN")
        self.rows: tuple[Index, ...] = ()
        self.names: dict[str, str] = {}
        self.sink: Expr | None = None

    def fresh(self, name: str) -> str:
        """A name that no tensor of the page has."""
        while name in self.page.tensors:
            name = f"X{name}"
        return name

    def program(self) -> Program:
        """The rewritten page."""
        made: list[Equation] = []
        for e in self.page.equations:
            if e.out.name not in self.inside:
                made.append(e)
            elif e is self.region.softmax:
                made += self.softmax(e)
            elif self.k in letters(e.out):
                self.linear(e)
                made.append(Equation(self.block(e.out), (self.blocked(e.alts[0]),)))
            else:
                self.linear(e)
                made += self.sum(e)
        mask = both(self.page.sees["t", self.k], named("first", (Num(self.k),)))  # the last block may be cut off
        sees = {pair: m for pair, m in self.page.sees.items() if pair != ("t", self.k)}
        dims = {n: self.block(Ref(n, i)).index if n in self.inside else i for n, i in self.page.dims.items()}
        sees[("t", " ".join(self.digits))] = mask
        return check(replace(self.page, equations=tuple(made), sees=sees, dims=dims))

    # -- the three kinds of equations

    def softmax(self, e: Equation) -> list[Equation]:
        """The running maximum, and numerators instead of probabilities."""
        x = e.alts[0]
        assert isinstance(x, Op)
        scores, name = self.blocked(x.args[0]), e.out.name
        self.sink = x.args[1] if len(x.args) > 1 else None
        self.rows = tuple(i for i in e.out.index if i != self.k)
        self.names = {n: self.fresh(f"{n}{name}") for n in ("TOP", "FADE", "SUM")}
        top, fade = self.so_far("TOP"), self.so_far("FADE")
        numerators = self.block(e.out)
        self.over_keys.add(name)
        seen = Ref(self.seen, ("t", *self.split, TILE))
        places: Expr = Num(1)
        for i in ("t", *self.digits):
            places = Op("+", (places, Op("*", (Num(0), Pos(i)))))
        largest = Op(
            "+", (Op("max", (scores,), (KEY,)), Op("only", (seen,)))
        )  # of a block that the query sees nothing of: none
        return [
            Equation(seen, (Op("sum", (places,), (KEY,)),)),
            Equation(top, (Op("max2", (_before(top), largest)),)),
            Equation(fade, (Op("exp", (Op("-", (_before(top), top)),)),)),
            Equation(numerators, (Op("exp", (Op("-", (scores, top)),)),)),
            self.running(self.so_far("SUM"), numerators),
        ]

    def sum(self, e: Equation) -> list[Equation]:
        """A sum over keys, block by block, and its end."""
        run = Ref(self.fresh(f"RUN{e.out.name}"), (*e.out.index, *self.split, TILE))
        out = [self.running(run, self.blocked(e.alts[0]))]
        if self.region.softmax is None:
            return [*out, Equation(e.out, (_last(run),))]  # of parts, the sum of all
        top, total = self.so_far("TOP"), self.so_far("SUM")
        if not self.split:
            return [*out, Equation(e.out, (Op("/", (_last(run), self.whole(_last(total), _last(top)))),))]
        best = Ref(self.fresh(f"BEST{e.out.name}"), self.rows)
        share = Ref(self.fresh(f"SHARE{e.out.name}"), (*self.rows, SPLIT))
        joined = Ref(self.fresh(f"ALL{e.out.name}"), e.out.index)
        weight = Ref(self.fresh(f"TOTAL{e.out.name}"), self.rows)
        return [
            *out,
            Equation(best, (Op("max", (_last(top),), (SPLIT,)),)),
            Equation(share, (Op("exp", (Op("-", (_last(top), best)),)),)),
            Equation(joined, (Op("*", (share, _last(run))),)),
            Equation(weight, (Op("*", (share, _last(total))),)),
            Equation(e.out, (Op("/", (joined, self.whole(weight, best))),)),
        ]

    def whole(self, total: Expr, top: Expr) -> Expr:
        """The denominator: a sink joins it; of a row that sees no key it is 1, so that the result is 0."""
        if self.sink is not None:
            return Op("+", (total, Op("exp", (Op("-", (self.sink, top)),))))
        return Op("+", (total, Op("eq", (total, Num(0)))))

    def linear(self, e: Equation) -> None:
        """Whatever reads the numerators has to be linear in them: they are divided at the end only."""
        for _, num, den in terms(e.alts[0]):
            read = [r.name for x in (*num, *den) for r in refs(x) if r.name in self.over_keys]
            plain = [x.name for x in num if isinstance(x, Ref) and x.name in self.over_keys]
            if not self.over_keys & {r.name for r in refs(e.alts[0])}:
                continue
            if len(read) != 1 or read != plain:
                raise NoSchedule(f"`{e}` is not linear in the softmax: it cannot be summed block by block")
            if self.k in letters(e.out):
                self.over_keys.add(e.out.name)

    # -- pieces

    def so_far(self, name: str) -> Ref:
        return Ref(self.names[name], (*self.rows, *self.split, TILE))

    def running(self, run: Ref, more: Expr) -> Equation:
        before: Expr = _before(run)
        if self.region.softmax is not None:
            before = Op("*", (before, self.so_far("FADE")))
        return Equation(run, (Op("+", (before, more)),))

    def block(self, r: Ref) -> Ref:
        """A tensor of the core, with its keys' digits as axes of their own."""
        return Ref(r.name, tuple(d for i in r.index for d in (self.digits if i == self.k else (i,))))

    def blocked(self, x: Expr) -> Expr:
        """An expression with its keys in digits."""
        if isinstance(x, Op):
            over = tuple(KEY if o == self.k else o for o in x.over)
            return Op(x.name, tuple(self.blocked(a) for a in x.args), over)
        if isinstance(x, Pos):
            return self.position() if x.dim == self.k else x
        if isinstance(x, Ref):
            if x.name in self.inside and self.k in self.page.tensors[x.name]:
                return self.block(x)
            return Ref(x.name, tuple(self.digit(i) for i in x.index))
        return x

    def digit(self, i: Index) -> Index:
        if isinstance(i, Ref):
            found = self.blocked(i)
            assert isinstance(found, Ref), "a reference stays one"
            return found
        if isinstance(i, (Group, Cat)):
            return type(i)(tuple(self.digit(p) for p in i.parts))
        return Group(self.digits) if i == self.k else i

    def position(self) -> Expr:
        """The place of a key in the context."""
        at: Expr = Pos(self.digits[0])
        for d in self.digits[1:]:
            at = Op("+", (Op("*", (at, Num(d))), Pos(d)))
        return at


def _at(r: Ref, f: Callable[[str], Index]) -> Ref:
    return Ref(r.name, tuple(f(TILE) if i == TILE else i for i in r.index))


def _before(r: Ref) -> Ref:
    return _at(r, lambda i: Shift(i, ((-1, 1),)))


def _last(r: Ref) -> Ref:
    return _at(r, lambda i: "last")
