"""Which (query, key) pairs exist. A mask is a union of pieces, and one closed form counts them all.

A piece is a box of query positions i and key positions j, a band lo <= j - i <= hi inside it, optionally only the pairs
that fall into the same chunk. The intersection of two pieces is a piece, so whatever `&` and `|` can say is counted by
inclusion and exclusion over

    pairs(box, j - i <= a) = T(i1-j0+a) - T(i0-j0+a) - T(i1-j1+a) + T(i0-j1+a),      T(x) = 1 + 2 + ... + x

for integers, arrays and symbols alike. The t new queries stand at positions past .. past+t-1, the keys at 0 .. n-1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Union

from msgspec import Struct
from msgspec.structs import astuple, replace

from attnmath.errors import LanguageError, Unknown
from attnmath.language.arith import Number, ceil_div, exact_div, floor_div, maximum, minimum, number
from attnmath.language.syntax import MAX_DIGITS, Expr, Num, Op

MAX_PIECES = 8  # that none of the others holds; a union is counted by all subsets of its pieces


class Piece(Struct, frozen=True):
    """A band in a box, cut into chunks or not; None is no bound."""

    lo: Number = None  # lo <= j - i <= hi
    hi: Number = None
    i0: Number = 0  # i0 <= i < i1
    i1: Number = None
    j0: Number = 0  # j0 <= j < j1
    j1: Number = None
    chunk: Number = None  # i // chunk == j // chunk

    def __and__(self, other: Piece) -> Piece:
        a, b = self.chunk, other.chunk
        if isinstance(a, int) and isinstance(b, int) and max(a, b) % min(a, b):
            raise LanguageError(f"chunks of {a} and of {b} have no closed form together: one must divide the other")
        return Piece(
            _meet(maximum, self.lo, other.lo),
            _meet(minimum, self.hi, other.hi),
            maximum(self.i0, other.i0),
            _meet(minimum, self.i1, other.i1),
            maximum(self.j0, other.j0),
            _meet(minimum, self.j1, other.j1),
            _meet(minimum, a, b),
        )

    @property
    def empty(self) -> bool:
        """Certain to hold no pair; only integers can be certain."""
        spans = ((self.lo, self.hi, 1), (self.i0, self.i1, 0), (self.j0, self.j1, 0))
        return any(isinstance(a, int) and isinstance(b, int) and b - a + closed <= 0 for a, b, closed in spans)

    def pairs(self, i0: Number, i1: Number, j0: Number, j1: Number) -> Number:
        """How many pairs the piece has in a box."""
        i0, i1 = maximum(i0, self.i0), _meet(minimum, i1, self.i1)
        j0, j1 = maximum(j0, self.j0), _meet(minimum, j1, self.j1)
        i1, j1 = maximum(i0, i1), maximum(j0, j1)
        if self.chunk is None:
            return self._box(i0, i1, j0, j1)
        return self._corner(i1, j1) - self._corner(i0, j1) - self._corner(i1, j0) + self._corner(i0, j0)

    def _corner(self, i1: Number, j1: Number) -> Number:
        """Pairs of one chunk with i < i1 and j < j1: whole chunks, and what is left of one."""
        c = self.chunk
        whole = floor_div(minimum(i1, j1), c)
        i, j = (minimum(maximum(x - whole * c, 0), c) for x in (i1, j1))
        return whole * self._box(0, c, 0, c) + self._box(0, i, 0, j)

    def _box(self, i0: Number, i1: Number, j0: Number, j1: Number) -> Number:
        if self.lo is None and self.hi is None:
            return (i1 - i0) * (j1 - j0)

        def below(a: Number) -> Number:  # pairs with j - i <= a
            return _triangle(i1 - j0 + a) - _triangle(i0 - j0 + a) - _triangle(i1 - j1 + a) + _triangle(i0 - j1 + a)

        top = (i1 - i0) * (j1 - j0) if self.hi is None else below(self.hi)
        if self.lo is None:
            return top
        return top - below((self.lo if self.hi is None else minimum(self.lo, self.hi + 1)) - 1)

    def allows(self, i: Any, j: Any) -> Any:
        """Whether the pair exists: integers, or arrays that broadcast."""
        ok = (i >= self.i0) & (j >= self.j0)
        tests: tuple[tuple[Number, Callable[[Any], Any]], ...] = (
            (self.lo, lambda b: j - i >= b),
            (self.hi, lambda b: j - i <= b),
            (self.i1, lambda b: i < b),
            (self.j1, lambda b: j < b),
            (self.chunk, lambda b: i // b == j // b),
        )
        for bound, holds in tests:
            if bound is not None:
                ok = ok & holds(bound)
        return ok

    def keys(self, first: Number, last: Number, n: Number) -> tuple[Number, Number]:
        """The keys (from, to) that queries first..last-1 see: one interval, since every key between is seen by one."""
        first, last = maximum(first, self.i0), _meet(minimum, last, self.i1)
        if isinstance(first, int) and isinstance(last, int) and last <= first:
            return 0, 0
        lo, hi = self.j0, _meet(minimum, n, self.j1)
        if self.lo is not None:
            lo = maximum(lo, first + self.lo)
        if self.hi is not None:
            hi = minimum(hi, last + self.hi)
        if self.lo is not None and self.hi is not None:  # a band of no width lets nobody see anything
            hi = minimum(hi, first + self.lo + (last - first) * maximum(self.hi - self.lo + 1, 0))
        if self.chunk is not None:
            if any(isinstance(b, int) and b * sign > 0 for b, sign in ((self.lo, 1), (self.hi, -1))):
                raise LanguageError("a chunk together with a band that leaves out the diagonal has no closed form")
            lo = maximum(lo, floor_div(first, self.chunk) * self.chunk)
            hi = minimum(hi, ceil_div(last, self.chunk) * self.chunk)
        return lo, hi


def _meet(f: Callable[[Number, Number], Number], a: Number, b: Number) -> Number:
    return b if a is None else a if b is None else f(a, b)


def _triangle(x: Number) -> Number:
    x = maximum(x, 0)
    return exact_div(x * (x + 1), 2)


class Mask(Struct, frozen=True):
    """A union of pieces."""

    pieces: tuple[Piece, ...]

    def __and__(self, other: Mask) -> Mask:
        return Mask(_kept([p & q for p in self.pieces for q in other.pieces]))

    def __or__(self, other: Mask) -> Mask:
        return Mask(_kept([*self.pieces, *other.pieces]))

    def _overlaps(self) -> Iterator[tuple[int, list[Piece]]]:
        """Every set of pieces that can have pairs in common, with its sign in inclusion and exclusion."""

        def grow(at: int, sign: int, chosen: list[Piece], common: Piece | None) -> Iterator[tuple[int, list[Piece]]]:
            for k in range(at, len(self.pieces)):
                both = self.pieces[k] if common is None else common & self.pieces[k]
                if not both.empty:
                    yield sign, [*chosen, self.pieces[k]]
                    yield from grow(k + 1, -sign, [*chosen, self.pieces[k]], both)

        return grow(0, 1, [], None)

    def pairs(self, t: Number, n: Number, past: Number = 0) -> Number:
        """How many pairs exist between t new queries and n keys.

        >>> build_text("causal").pairs(8192, 8192)
        33558528
        """
        total: Number = 0
        for sign, pieces in self._overlaps():
            common = pieces[0]
            for p in pieces[1:]:
                common = common & p
            total = total + sign * common.pairs(past, past + t, 0, n)
        return total

    def keys_seen(self, t: Number, n: Number, past: Number = 0) -> Number:
        """How many keys at least one of the t new queries sees: what a kernel has to load at the least.

        >>> build_text("window(4096)").keys_seen(1, 131072, 131071)
        4096
        """
        total: Number = 0
        spans = [p.keys(past, past + t, n) for p in self.pieces]
        for size in range(1, len(spans) + 1):
            for some in combinations(spans, size):
                lo, hi = some[0]
                for other_lo, other_hi in some[1:]:
                    lo, hi = maximum(lo, other_lo), minimum(hi, other_hi)
                total = total + (-1) ** (size + 1) * maximum(hi - lo, 0)
        return total

    def span(self, n: Number) -> Number:
        """How many keys the query at position n-1 sees, had each chunk begun as long ago as it can: what a cache has to hold.

        >>> build_text("window(4096)").span(131072), build_text("chunked(8192)").span(20000)
        (4096, 8192)
        """
        unchunked = [p if p.chunk is None else replace(p, chunk=None) & Piece(lo=1 - p.chunk) for p in self.pieces]
        return Mask(tuple(unchunked)).keys_seen(1, n, n - 1)

    def dense(self, i: Any, j: Any) -> Any:
        """Which pairs exist, for positions i and j that broadcast; booleans."""
        ok = (i < i) & (j < j)
        for p in self.pieces:
            ok = ok | p.allows(i, j)
        return ok


def _kept(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces without the empty ones and those that lie inside another."""
    found = [p for p in dict.fromkeys(pieces) if not p.empty]
    kept = [p for n, p in enumerate(found) if not any(_inside(p, q, n < k) for k, q in enumerate(found) if k != n)]
    if len(kept) > MAX_PIECES:
        raise LanguageError(f"a mask of {len(kept)} pieces, none inside another; at most {MAX_PIECES}")
    return tuple(kept)


def _inside(p: Piece, q: Piece, first: bool) -> bool:
    """Whether p certainly lies in q; of equals, the second does. Only integers can be certain."""
    if not all(v is None or isinstance(v, int) for x in (p, q) for v in astuple(x)):
        return False
    if p.chunk and q.chunk and max(p.chunk, q.chunk) % min(p.chunk, q.chunk):
        return False
    return p & q == p and not (first and p == q)


class Named(Struct, frozen=True):
    """A row of the table of masks: its arguments, when the pair (i, j) exists, and its pieces."""

    args: tuple[str, ...]
    latex: str
    meaning: str
    pieces: Callable[..., tuple[Piece, ...]]


MASKS: dict[str, Named] = {
    "full": Named((), r"\text{true}", "every pair", lambda past: (Piece(),)),
    "causal": Named(
        (), r"j \le i", "a key not after the query; queries stand at the end of the keys", lambda past: (Piece(hi=0),)
    ),
    "causal_top_left": Named(
        (),
        r"j \le i - \mathrm{past}",
        "the first new query sees the first key (torch's is_causal)",
        lambda past: (Piece(hi=-past),),
    ),
    "before": Named((), r"j < i", "a key strictly before the query", lambda past: (Piece(hi=-1),)),
    "window": Named(
        ("w",),
        r"i - {0} < j \le i",
        "the query's own key and the w - 1 before it",
        lambda past, w: (Piece(lo=1 - w, hi=0),),
    ),
    "prefix": Named(
        ("k",),
        r"(j \le i \lor j < {0})",
        "causal, and everyone sees the first k keys",
        lambda past, k: (Piece(hi=0), Piece(j1=k)),
    ),
    "first": Named(("k",), r"j < {0}", "the first k keys", lambda past, k: (Piece(j1=k),)),
    "chunked": Named(
        ("c",),
        r"(j \le i \land \lfloor i / {0} \rfloor = \lfloor j / {0} \rfloor)",
        "causal inside chunks of c positions",
        lambda past, c: (Piece(hi=0, chunk=c),),
    ),
}


class MaskExpr(Struct, frozen=True):
    """A mask as it is written: a name with sizes, or `&` or `|` of two."""

    name: str
    args: tuple[Union[MaskExpr, Expr], ...] = ()

    def __str__(self) -> str:
        if self.name in ("&", "|"):
            shown = (
                f"({a})" if isinstance(a, MaskExpr) and a.name == "|" and self.name == "&" else str(a)
                for a in self.args
            )
            return f" {self.name} ".join(shown)
        name = self.name.replace("_", "-")
        return f"{name}({', '.join(map(str, self.args))})" if self.args else name

    @property
    def names(self) -> tuple[str, ...]:
        """The sizes that the mask mentions."""
        return tuple(dict.fromkeys(n for a in self.args for n in _names(a)))

    def build(self, sizes: Mapping[str, Number]) -> Mask:
        """The mask itself, its sizes filled in."""
        if self.name in ("&", "|"):
            a, b = (x.build(sizes) for x in self.args if isinstance(x, MaskExpr))
            return a & b if self.name == "&" else a | b
        values = [number(a, sizes) for a in self.args if not isinstance(a, MaskExpr)]
        for v in values:
            if isinstance(v, (int, float)):
                _length(v, str(self))
        return Mask(MASKS[self.name].pieces(sizes.get("past", 0), *values))

    def latex(self) -> str:
        """When the query at position i sees the key at position j."""
        if self.name in ("&", "|"):
            return (
                r" \land ".join(a.latex() for a in self.args if isinstance(a, MaskExpr))
                if self.name == "&"
                else (r"\left(" + r" \lor ".join(a.latex() for a in self.args if isinstance(a, MaskExpr)) + r"\right)")
            )
        filled = MASKS[self.name].latex
        for k, a in enumerate(self.args):
            filled = filled.replace(f"{{{k}}}", str(a))
        return filled


def _names(x: MaskExpr | Expr) -> tuple[str, ...]:
    if isinstance(x, Num):
        return (x.value,) if isinstance(x.value, str) else ()
    return tuple(n for a in x.args for n in _names(a)) if isinstance(x, (MaskExpr, Op)) else ()


def named(name: str, args: tuple[Expr, ...]) -> MaskExpr:
    """A mask by its name; LanguageError if there is none or it takes other arguments.

    >>> str(named("causal", ()))
    'causal'
    """
    if name not in MASKS:
        raise LanguageError(str(Unknown("mask", name, MASKS)))
    want = MASKS[name].args
    if len(want) != len(args):
        usage = f"{name}({', '.join(want)})" if want else name
        raise LanguageError(f"mask {name} takes {len(want)} size{'s' * (len(want) != 1)}: write {usage}")
    literal = (Num(_length(a.value, name)) if isinstance(a, Num) and not isinstance(a.value, str) else a for a in args)
    return MaskExpr(name, tuple(literal))


def _length(v: int | float, mask: str) -> int:
    """A mask's size as an integer; InputError if it is none."""
    if not 1 <= v < 10**MAX_DIGITS or v != int(v):
        shown = v if abs(v) < 10**MAX_DIGITS else f"a number of more than {MAX_DIGITS} digits"
        raise LanguageError(f"mask {mask}: {shown} is no length; it takes a whole number of at least 1")
    return int(v)


def both(a: MaskExpr, b: MaskExpr) -> MaskExpr:
    """The intersection, `full` and repetitions left out.

    >>> str(both(named("full", ()), named("causal", ())))
    'causal'
    """
    if a.name == "full" or a == b:
        return b
    return a if b.name == "full" else MaskExpr("&", (a, b))


def build_text(text: str, **sizes: Number) -> Mask:
    """A mask from its text, with its sizes: `build_text("causal & window(w)", w=4)`.

    >>> build_text("causal & window(w)", w=2).pairs(4, 4)
    7
    """
    from attnmath.language.parse import mask

    return mask(text).build(sizes)
