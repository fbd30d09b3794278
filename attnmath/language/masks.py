"""Which (query, key) pairs exist. A mask is a union of pieces, and one closed form counts them all.

A piece is a box of query positions i and keys j, a band lo <= j - i <= hi inside it, optionally only every s-th
diagonal or only the pairs that fall into the same chunk. The intersection of two pieces is a piece, so whatever `&` and
`|` can say is counted by inclusion and exclusion over

    pairs(box, j - i <= a) = T(i1-j0+a) - T(i0-j0+a) - T(i1-j1+a) + T(i0-j1+a),      T(x) = x + (x-s) + (x-2s) + ...

for integers, arrays and symbols alike. The t new queries stand at positions past .. past+t-1, the keys at 0 .. n-1; keys
that each stand for a block of m tokens stand `pitch` = m apart, and s = m counts them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import gcd
from typing import Any, TypeVar, Union

from msgspec import Struct
from msgspec.structs import astuple, replace

from attnmath.errors import LanguageError, NoClosedForm, Unknown
from attnmath.language.arith import Number, ceil_div, exact_div, floor_div, maximum, minimum, number
from attnmath.language.syntax import MAX_DIGITS, Expr, Num, Op

MAX_PIECES = 256  # that none of the others holds
MAX_OVERLAPS = 4_096  # sets of pieces with pairs in common, which inclusion and exclusion walks
MAX_CLASSES = 10_000  # residues that the keys of strided pieces are told apart by
T = TypeVar("T")


class Piece(Struct, frozen=True):
    """A band in a box, strided or not, cut into chunks or not; None is no bound. Key j stands at pitch * j + shift."""

    lo: Number = None  # lo <= pitch * j + shift - i <= hi
    hi: Number = None
    i0: Number = 0  # i0 <= i < i1
    i1: Number = None
    j0: Number = 0  # j0 <= j < j1
    j1: Number = None
    chunk: Number = None  # i // chunk == j // chunk
    step: int = 1  # j - i == phase (mod step)
    phase: int = 0
    pitch: Number = 1
    shift: Number = 0

    def __and__(self, other: Piece) -> Piece:
        a, b = self.chunk, other.chunk
        if isinstance(a, int) and isinstance(b, int) and max(a, b) % min(a, b):
            raise LanguageError(f"chunks of {a} and of {b} have no closed form together: one must divide the other")
        pitch, shift = _keys_of(self, other)
        step, phase = _both_steps(self, other)
        return Piece(
            _meet(maximum, self.lo, other.lo),
            _meet(minimum, self.hi, other.hi),
            maximum(self.i0, other.i0),
            _meet(minimum, self.i1, other.i1),
            maximum(self.j0, other.j0),
            _meet(minimum, self.j1, other.j1) if step else 0,  # no diagonal is in both: nothing is
            _meet(minimum, a, b),
            step or 1,
            phase,
            pitch,
            shift,
        ).closed()

    def closed(self) -> Piece:
        """Itself; NoClosedForm if no formula here counts it."""
        strided = self.step != 1 or not _is_one(self.pitch)
        if self.chunk is not None and strided:
            raise NoClosedForm("chunks together with a stride have no closed form")
        if self.step != 1 and not _is_one(self.pitch):
            raise NoClosedForm("strides of keys and of diagonals have no closed form together")
        if self.lo is not None and not _is_one(self.pitch):
            raise NoClosedForm("a window over keys that stand for blocks has no closed form")
        return self

    @property
    def empty(self) -> bool:
        """Certain to hold no pair; only integers can be certain."""
        banded = self.step != 1 and isinstance(self.lo, int) and isinstance(self.hi, int)
        if banded and self.lo + (self.phase - self.lo) % self.step > self.hi:
            return True  # no diagonal of the stride is in the band
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
        if self.lo is None and self.hi is None and self.step == 1:
            return (i1 - i0) * (j1 - j0)
        unit = self.pitch if self.step == 1 else self.step
        at0, at1 = (self.pitch * j + self.shift for j in (j0, j1))

        def below(a: Number) -> Number:  # pairs with pitch * j + shift - i <= a
            a = self._aligned(a)
            return (
                _triangle(i1 - at0 + a, unit)
                - _triangle(i0 - at0 + a, unit)
                - _triangle(i1 - at1 + a, unit)
                + _triangle(i0 - at1 + a, unit)
            )

        if self.hi is None and self.step == 1:
            top = (i1 - i0) * (j1 - j0)
        else:
            top = below(j1 - i0 if self.hi is None else self.hi)
        if self.lo is None:
            return top
        return top - below((self.lo if self.hi is None else minimum(self.lo, self.hi + 1)) - 1)

    def _aligned(self, a: Number) -> Number:
        """The last diagonal not beyond a that the stride has; below(a) counts inclusively from there."""
        return a if self.step == 1 else self.phase + self.step * floor_div(a - self.phase, self.step)

    def allows(self, i: Any, j: Any) -> Any:
        """Whether the pair exists: integers, or arrays that broadcast."""
        at = self.pitch * j + self.shift
        ok = (i >= self.i0) & (j >= self.j0)
        tests: tuple[tuple[Number, Callable[[Any], Any]], ...] = (
            (self.lo, lambda b: at - i >= b),
            (self.hi, lambda b: at - i <= b),
            (self.i1, lambda b: i < b),
            (self.j1, lambda b: j < b),
            (self.chunk, lambda b: i // b == j // b),
            (self.step if self.step != 1 else None, lambda b: (j - i - self.phase) % b == 0),
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
        if self.i1 is not None or not (isinstance(self.i0, int) and self.i0 == 0):  # without a query, no key
            hi = lo + maximum(hi - lo, 0) * maximum(minimum(last - first, 1), 0)
        if not _is_one(self.pitch):
            if self.hi is not None:
                hi = minimum(hi, maximum(floor_div(last - 1 + self.hi - self.shift + self.pitch, self.pitch), 0))
            return lo, hi
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

    def keys_of_class(self, r: int, steps: int, first: int, last: int, n: int) -> tuple[int, int]:
        """The keys (from, to) = r (mod steps) that queries first..last-1 see; integers, no chunk."""
        first, last = max(first, self.i0), last if self.i1 is None else min(last, self.i1)
        lo, hi = self.j0, n if self.j1 is None else min(n, self.j1)
        own = (r - self.phase) % self.step  # the queries' residue
        first += (own - first) % self.step
        last -= (last - 1 - own) % self.step  # now last - 1 is the last query of that residue
        if last <= first:
            return 0, 0
        if self.lo is not None:
            lo = max(lo, first + self.lo + (self.phase - self.lo) % self.step)
        if self.hi is not None:
            hi = min(hi, last + self._aligned(self.hi))
        lo += (r - lo) % steps
        return lo, max(lo, hi)


def _is_one(x: Number) -> bool:
    return isinstance(x, int) and x == 1


def _keys_of(p: Piece, q: Piece) -> tuple[Number, Number]:
    """Where the keys of both stand; a piece without bands stands anywhere."""
    if (p.pitch, p.shift) == (q.pitch, q.shift):
        return p.pitch, p.shift
    if q.lo is None and q.hi is None and _is_one(q.pitch) and q.step == 1 and q.chunk is None:
        return p.pitch, p.shift
    if p.lo is None and p.hi is None and _is_one(p.pitch) and p.step == 1 and p.chunk is None:
        return q.pitch, q.shift
    raise NoClosedForm(
        "masks over tokens and over blocks have no meaning together: the one counts tokens, the other blocks"
    )


def _both_steps(p: Piece, q: Piece) -> tuple[int, int]:
    """(step, phase) of the diagonals in both; step 0 if there are none (Chinese remainders)."""
    if q.step == 1:
        return p.step, p.phase
    if p.step == 1:
        return q.step, q.phase
    common = gcd(p.step, q.step)
    if (p.phase - q.phase) % common:
        return 0, 0
    step = p.step * q.step // common
    phase = next(x for x in range(p.phase % p.step, step, p.step) if x % q.step == q.phase % q.step)
    return step, phase


def _meet(f: Callable[[Number, Number], Number], a: Number, b: Number) -> Number:
    return b if a is None else a if b is None else f(a, b)


def _triangle(x: Number, step: Number = 1) -> Number:
    """x + (x - step) + (x - 2 step) + ..., as long as it is positive."""
    x = maximum(x, 0)
    if _is_one(step):
        return exact_div(x * (x + 1), 2)
    if hasattr(step, "stairs"):
        x = step * 0 + x  # a symbol's step makes a formula of a number, too
    if hasattr(x, "stairs"):
        return x.stairs(step)
    rows = ceil_div(x, step)
    return rows * x - exact_div(step * rows * (rows - 1), 2)


def _overlapping(parts: Sequence[T], join: Callable[[T, T], T], empty: Callable[[T], bool]) -> Iterator[tuple[int, T]]:
    """What every set of parts that can overlap has in common, with its sign in inclusion and exclusion."""
    seen = 0

    def grow(at: int, sign: int, common: T | None) -> Iterator[tuple[int, T]]:
        nonlocal seen
        for k in range(at, len(parts)):
            both = parts[k] if common is None else join(common, parts[k])
            if not empty(both):
                seen += 1
                if seen > MAX_OVERLAPS:
                    raise LanguageError(f"a mask whose pieces overlap in more than {MAX_OVERLAPS:,} ways")
                yield sign, both
                yield from grow(k + 1, -sign, both)

    return grow(0, 1, None)


class Mask(Struct, frozen=True):
    """A union of pieces."""

    pieces: tuple[Piece, ...]

    def __and__(self, other: Mask) -> Mask:
        return Mask(_kept([p & q for p in self.pieces for q in other.pieces]))

    def __or__(self, other: Mask) -> Mask:
        return Mask(_kept([*self.pieces, *other.pieces]))

    def pairs(self, t: Number, n: Number, past: Number = 0) -> Number:
        """How many pairs exist between t new queries and n keys.

        >>> build_text("causal").pairs(8192, 8192)
        33558528
        """
        total: Number = 0
        for sign, common in _overlapping(self.pieces, Piece.__and__, lambda p: p.empty):
            total = total + sign * common.pairs(past, past + t, 0, n)
        return total

    def keys_seen(self, t: Number, n: Number, past: Number = 0) -> Number:
        """How many keys at least one of the t new queries sees: what a kernel has to load at the least.

        >>> build_text("window(4096)").keys_seen(1, 131072, 131071)
        4096
        """
        if any(p.step != 1 for p in self.pieces):
            return self._strided_keys(past, past + t, n)
        return _covered([(*p.keys(past, past + t, n), p.j0, p.j1) for p in self.pieces])

    def _strided_keys(self, first: Number, last: Number, n: Number) -> int:
        """Keys seen, residue by residue: those of one residue are an interval for each piece."""
        if not all(isinstance(x, int) for x in (first, last, n)) or any(p.chunk is not None for p in self.pieces):
            raise NoClosedForm("the keys that a dilated mask sees have no closed form here, only a count")
        steps, total = 1, 0
        for p in self.pieces:
            steps = steps * p.step // gcd(steps, p.step)
        if steps > MAX_CLASSES:
            raise LanguageError(f"strides that repeat after {steps:,} keys only; at most {MAX_CLASSES:,}")
        for r in range(min(steps, n)):
            spans = [p.keys_of_class(r, steps, first, last, n) for p in self.pieces]
            total += _covered([((lo - r) // steps, (hi - r - 1) // steps + 1, 0, None) for lo, hi in spans if hi > lo])
        return total

    def span(self, n: Number) -> Number:
        """How many keys the query at position n-1 and later ones see, had each chunk begun as long ago as it can: what a
        cache has to hold.

        >>> build_text("window(4096)").span(131072), build_text("chunked(8192)").span(20000)
        (4096, 8192)
        """
        plain = [replace(p, step=1, phase=0) for p in self.pieces]
        unchunked = [p if p.chunk is None else replace(p, chunk=None) & Piece(lo=1 - p.chunk) for p in plain]
        return Mask(tuple(unchunked)).keys_seen(1, n, n - 1)

    def dense(self, i: Any, j: Any) -> Any:
        """Which pairs exist, for positions i and j that broadcast; booleans."""
        ok = (i < i) & (j < j)
        for p in self.pieces:
            ok = ok | p.allows(i, j)
        return ok


Span = tuple[Number, Number, Number, Number]  # from, to; and between which integers or None it certainly lies


def _covered(spans: Sequence[Span]) -> Number:
    """How many places a union of intervals has."""
    if all(isinstance(x, int) for span in spans for x in span[:2]):
        count, end = 0, 0
        for lo, hi, _, _ in sorted(spans, key=lambda span: span[:2]):
            count, end = count + max(0, hi - max(lo, end)), max(end, hi)
        return count

    def join(a: Span, b: Span) -> Span:
        return maximum(a[0], b[0]), minimum(a[1], b[1]), maximum(a[2], b[2]), _meet(minimum, a[3], b[3])

    def empty(a: Span) -> bool:
        return any(isinstance(x, int) and isinstance(y, int) and y <= x for x, y in (a[:2], a[2:]))

    total: Number = 0
    for sign, (lo, hi, _, _) in _overlapping(_distinct(spans), join, empty):
        total = total + sign * maximum(hi - lo, 0)
    return total


def _distinct(parts: Iterable[T]) -> list[T]:
    """Without repetitions; of arrays, which have no hash, all: inclusion and exclusion counts a repetition once."""
    found = list(parts)
    try:
        return list(dict.fromkeys(found))
    except TypeError:
        return found


def _kept(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces without the empty ones and those that lie inside another."""
    found = [p for p in _distinct(pieces) if not p.empty]
    kept = [p for n, p in enumerate(found) if not any(_inside(p, q, n < k) for k, q in enumerate(found) if k != n)]
    if len(kept) > MAX_PIECES:
        raise LanguageError(f"a mask of {len(kept)} pieces, none inside another; at most {MAX_PIECES}")
    return tuple(kept)


def _inside(p: Piece, q: Piece, first: bool) -> bool:
    """Whether p certainly lies in q; of equals, the second does. Only integers can be certain."""
    if not all(v is None or isinstance(v, int) for x in (p, q) for v in astuple(x)):
        return False
    if p.i0 < q.i0 or p.j0 < q.j0:
        return False
    if p.chunk and q.chunk and max(p.chunk, q.chunk) % min(p.chunk, q.chunk):
        return False
    if (p.pitch, p.shift) != (q.pitch, q.shift) or (p.step > 1 and q.chunk) or (p.chunk and q.step > 1):
        return False
    return p & q == p and not (first and p == q)


class Named(Struct, frozen=True):
    """A row of the table of masks: its arguments, when the pair (i, j) exists, and its pieces."""

    args: tuple[str, ...]  # ("k..",): any number of them
    latex: str
    meaning: str
    pieces: Callable[..., tuple[Piece, ...]]
    least: int = 1  # of each argument
    over: str = "tokens"  # what a key is: a token, or a block of them


def _documents(past: Number, *lengths: Number) -> tuple[Piece, ...]:
    ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
    return tuple(Piece(i0=end - n, i1=end, j0=end - n, j1=end) for n, end in zip(lengths, ends))


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
    "around": Named(
        ("r",), r"|i - j| \le {0}", "at most r keys away, on either side", lambda past, r: (Piece(lo=-r, hi=r),), 0
    ),
    "band": Named(
        ("l", "r"),
        r"i - {0} \le j \le i + {1}",
        "the query's own key, l before it and r after it (flash-attention's window_size)",
        lambda past, l, r: (Piece(lo=-l, hi=r),),
        0,
    ),
    "dilated": Named(
        ("s",), r"{0} \mid i - j", "every s-th key, counted from the query's own", lambda past, s: (Piece(step=s),)
    ),
    "documents": Named(
        ("k..",),
        r"\mathrm{doc}_{{0}}(i) = \mathrm{doc}_{{0}}(j)",
        "keys of the query's own document; documents of these lengths, packed one after the other",
        _documents,
    ),
    "blocks": Named(
        ("m",),
        r"{0}\,(j + 1) \le i + 1",
        "key j stands for block j of m tokens: blocks whose last token is not after the query",
        lambda past, m: (Piece(hi=0, pitch=m, shift=m - 1),),
        over="blocks",
    ),
    "blocks_before": Named(
        ("m",),
        r"{0}\,(j + 1) \le i",
        "key j stands for block j of m tokens: blocks before the one that the query is in",
        lambda past, m: (Piece(hi=-1, pitch=m, shift=m - 1),),
        over="blocks",
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
                _length(v, str(self), MASKS[self.name].least)
        return Mask(MASKS[self.name].pieces(sizes.get("past", 0), *values))

    def latex(self, query: str = "i", key: str = "j") -> str:
        """When the query at position i sees the key at position j, or as they are called here."""
        if self.name in ("&", "|"):
            return (
                r" \land ".join(a.latex(query, key) for a in self.args if isinstance(a, MaskExpr))
                if self.name == "&"
                else (
                    r"\left("
                    + r" \lor ".join(a.latex(query, key) for a in self.args if isinstance(a, MaskExpr))
                    + r"\right)"
                )
            )
        names, own = {"i": query, "j": key}, list(map(str, self.args))
        filled = re.sub(r"(?<![A-Za-z\\])[ij](?![A-Za-z])", lambda m: names[m[0]], MASKS[self.name].latex)
        if self.many:
            own = [", ".join(own)]
        for k, a in enumerate(own):
            filled = filled.replace(f"{{{k}}}", a)
        return filled

    def tokens(self, sizes: Mapping[str, Number]) -> Number:
        """How many tokens documents of these lengths make together."""
        return sum(number(a, sizes) for a in self.args if not isinstance(a, MaskExpr))

    @property
    def many(self) -> bool:
        """Whether it takes any number of sizes."""
        return self.name in MASKS and MASKS[self.name].args == ("k..",)

    @property
    def over_blocks(self) -> bool:
        """Whether its keys stand for blocks of tokens."""
        parts = [a for a in self.args if isinstance(a, MaskExpr)]
        return any(a.over_blocks for a in parts) or (self.name in MASKS and MASKS[self.name].over == "blocks")


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
        raise LanguageError(str(Unknown("mask", name.replace("_", "-"), [k.replace("_", "-") for k in MASKS])))
    want = MASKS[name].args
    if want == ("k..",):
        if not args:
            raise LanguageError(f"mask {name} takes one length per document: write {name}(512, 1024)")
    elif len(want) != len(args):
        usage = f"{name}({', '.join(want)})" if want else name
        raise LanguageError(f"mask {name} takes {len(want)} size{'s' * (len(want) != 1)}: write {usage}")
    least = MASKS[name].least
    literal = (
        Num(_length(a.value, name, least)) if isinstance(a, Num) and not isinstance(a.value, str) else a for a in args
    )
    return MaskExpr(name, tuple(literal))


def _length(v: int | float, mask: str, least: int) -> int:
    """A mask's size as an integer; LanguageError if it is none."""
    if not least <= v < 10**MAX_DIGITS or v != int(v):
        shown = v if abs(v) < 10**MAX_DIGITS else f"a number of more than {MAX_DIGITS} digits"
        raise LanguageError(f"mask {mask}: {shown} is no length; it takes a whole number of at least {least}")
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
