"""How many tiles of (queries x keys) a mask leaves something in, by a closed form, and how many it leaves whole.

A tile is `rows` queries by `cols` keys; tiles start at the first new query and at key 0, and the last ones may be cut off.
A band in a box, seen through tiles, is a staircase: tile row x meets the tile columns

    ceil((rows x + l) / cols)  to  ceil((rows x + u) / cols),        l and u from the band's two edges,

and the intersection of two such staircases is one. So a union of pieces is counted by inclusion and exclusion over

    stairs(z) = ceil((z - rows) / cols) + ceil((z - 2 rows) / cols) + ...,        the positive ones,

four of them for each corner of the box. Where one side of the tile divides the other, that is a quadratic; otherwise a sum
of floors by Euclid's algorithm. `packed` query heads that share their keys make rows of one tile: row t * packed + head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import NoClosedForm
from attnmath.language.arith import Number, ceil_div, exact_div, floor_div, maximum, minimum
from attnmath.language.masks import Mask, Piece, _covered, _is_one, _meet, _overlapping

MAX_ROWS = 2**16  # rows of tiles that are walked one by one where there is no closed form


class Grid(Struct, frozen=True):
    """t queries after `past` earlier tokens, n keys, in tiles; a side that is None is not cut: one tile holds all of it.

    >>> from attnmath.language.masks import build_text
    >>> grid = Grid(8192, 8192, rows=128, cols=64)
    >>> grid.tiles(build_text("causal")), grid.tiles(build_text("full")), grid.full(build_text("causal"))
    (4160, 8192, 4032)
    """

    t: Number
    n: Number
    past: Number = 0
    rows: Number | None = None
    cols: Number | None = None
    packed: int = 1

    @property
    def down(self) -> Number:
        """Rows of tiles."""
        return 1 if self.rows is None else covering(self.t * self.packed, self.rows)

    @property
    def across(self) -> Number:
        """Columns of tiles."""
        return 1 if self.cols is None else covering(self.n, self.cols)

    def tiles(self, mask: Mask) -> Number:
        """How many tiles have at least one pair that the mask allows. NoClosedForm, by name, where no formula counts them:
        integers are then counted row by row of tiles, arrays and symbols not.

        >>> from attnmath.language.masks import build_text
        >>> Grid(1, 131072, 131071, 16, 64).tiles(build_text("window(4096)"))
        64
        """
        return self._count(mask, 0, self.down, 0, self.across)

    def full(self, mask: Mask) -> Number:
        """How many tiles have every pair allowed: those that no piece of the mask's complement reaches."""
        holes = [_complement(p) for p in mask.pieces]
        if not holes:  # no pair is allowed
            return 0
        left = holes[0]
        for more in holes[1:]:
            left = left & more
        return self.down * self.across - self.tiles(left)

    def moved(self, mask: Mask, queries: bool, keys: bool) -> Number:
        """What is in those tiles together: their rows, if `queries`, times their columns, if `keys`; the last ones as far
        as they go. With both, all pairs of the tiles, allowed or not; with neither, the tiles.

        >>> from attnmath.language.masks import build_text
        >>> Grid(100, 100, rows=64, cols=64).moved(build_text("causal"), False, True)
        164
        """
        down, across = self.down, self.across
        high = 1 if not queries else self.t * self.packed if self.rows is None else self.rows
        wide = 1 if not keys else self.n if self.cols is None else self.cols
        over = [down * high - self.t * self.packed if queries else 0, across * wide - self.n if keys else 0]
        total = high * wide * self._count(mask, 0, down, 0, across)
        if not _nothing(over[0]):
            total = total - over[0] * wide * self._count(mask, down - 1, down, 0, across)
        if not _nothing(over[1]):
            total = total - over[1] * high * self._count(mask, 0, down, across - 1, across)
        if not _nothing(over[0]) and not _nothing(over[1]):
            total = total + over[0] * over[1] * self._count(mask, down - 1, down, across - 1, across)
        return total

    # -- counting within a box of tiles

    def _count(self, mask: Mask, x0: Number, x1: Number, y0: Number, y1: Number) -> Number:
        try:
            return self._closed([self._unstrided(p) for p in mask.pieces], x0, x1, y0, y1)
        except NoClosedForm:
            if not all(isinstance(x, int) for x in (self.t, self.n, self.past, self.rows or 1, self.cols or 1)):
                raise
            return self._row_by_row(mask.pieces, x0, x1, y0, y1)

    def _closed(self, pieces: list[Piece], x0: Number, x1: Number, y0: Number, y1: Number) -> Number:
        if self.rows is None or self.cols is None:
            return self._shadow(pieces, x0, x1, y0, y1)
        if any(p.chunk is not None for p in pieces):
            return self._chunks(pieces, x0, x1, y0, y1)
        total: Number = 0
        for sign, common in _overlapping([self._coarse(p) for p in pieces], _Stairs.__and__, lambda s: s.empty):
            total = total + sign * common.tiles(x0, x1, y0, y1)
        return total

    def _unstrided(self, p: Piece) -> Piece:
        """Without its stride, where every tile is so large that some diagonal of the stride crosses it."""
        if p.step == 1:
            return p
        least = _least(self.t * self.packed, self.rows, self.down) // self.packed
        crossing = maximum(least, 1) + _least(self.n, self.cols, self.across) - 1
        symbolic = hasattr(crossing, "covered")
        if (p.i0, p.i1, p.j0, p.j1) != (0, None, 0, None) or symbolic or not _always(crossing >= p.step):
            raise NoClosedForm(f"every {p.step}-th key in tiles this small: which of them hold one has no closed form")
        lo = None if p.lo is None else p.lo + (p.phase - p.lo) % p.step
        return replace(p, lo=lo, hi=None if p.hi is None else p._aligned(p.hi), step=1, phase=0)

    def _tight(self, p: Piece) -> tuple[Number, Number, Number, Number, Number]:
        """The piece's box (queries from the first new one on), no larger than its band leaves it; and 1, or 0 if it is empty."""
        i0, i1 = maximum(p.i0 - self.past, 0), _meet(minimum, self.t, None if p.i1 is None else p.i1 - self.past)
        j0, j1 = p.j0, _meet(minimum, self.n, p.j1)
        lo, hi = self._edges(p)
        box = [i0, i1, j0, j1]
        if hi is not None:
            box[0] = maximum(i0, p.pitch * j0 - hi)
            box[3] = minimum(j1, covering(i1 + hi, p.pitch))
        if lo is not None:
            box[1] = minimum(i1, j1 - lo)
            box[2] = maximum(j0, i0 + lo)
        some = _one_if(minimum(box[1] - box[0], box[3] - box[2]))
        if lo is not None and hi is not None:
            some = some * _one_if(hi - lo + 1)
        return (box[0], box[1], box[2], box[3], some)

    def _edges(self, p: Piece) -> tuple[Number, Number]:
        """lo and hi for queries counted from the first new one, and keys from where their block begins."""
        return tuple(None if x is None else x + self.past - p.shift for x in (p.lo, p.hi))  # type: ignore[return-value]

    def _coarse(self, p: Piece) -> _Stairs:
        i0, i1, j0, j1, some = self._tight(p)
        lo, hi = self._edges(p)
        wide = self.packed * p.pitch * self.cols
        x0, y0 = _floor(i0 * self.packed, self.rows), _floor(j0, self.cols)
        return _Stairs(
            self.rows,
            wide,
            x0,
            x0 + some * (covering(i1 * self.packed, self.rows) - x0),
            y0,
            y0 + some * (covering(j1, self.cols) - y0),
            None if lo is None else self.packed * lo - wide + 1,
            None if hi is None else self.packed * hi + self.rows,
        )

    def _shadow(self, pieces: list[Piece], x0: Number, x1: Number, y0: Number, y1: Number) -> Number:
        """Where one side is not cut, each piece leaves an interval of tiles."""
        spans = []
        for p in pieces:
            i0, i1, j0, j1, some = self._tight(p)
            if p.chunk is not None:
                if self.cols is None and (p.j1 is not None or not _nothing(p.j0)):
                    raise NoClosedForm("chunks of some keys only have no closed form in tiles")
                j0, j1 = p.keys(self.past, self.past + self.t, self.n)
            one, other, tile, first, last = (
                (j0, j1, self.cols, y0, y1)
                if self.rows is None
                else (i0 * self.packed, i1 * self.packed, self.rows, x0, x1)
            )
            start = 0 if tile is None else _floor(one, tile)
            end = 1 if tile is None else covering(other, tile)
            start = maximum(start, first)
            spans.append((start, start + some * maximum(minimum(end, last) - start, 0), 0, None))
        return _covered(spans)

    def _chunks(self, pieces: list[Piece], x0: Number, x1: Number, y0: Number, y1: Number) -> Number:
        """Causal inside chunks that tiles of keys divide: a row of tiles begins where its first query's chunk does."""
        (p, *more) = pieces
        c = p.chunk
        whole = isinstance(c, int) and isinstance(self.cols, int) and c % self.cols == 0
        reaches = p.lo is None or (isinstance(p.lo, int) and isinstance(c, int) and 1 - p.lo >= c)
        if more or not whole or not reaches or not (isinstance(p.hi, int) and p.hi == 0) or p.j1 is not None:
            raise NoClosedForm("chunks that tiles of keys do not divide, or that are joined with others, in tiles")
        if p.i1 is not None or not (_nothing(p.i0) and _nothing(p.j0)):
            raise NoClosedForm("chunks of some queries only have no closed form in tiles")
        below = self._coarse(replace(p, lo=None, chunk=None)).tiles(x0, x1, y0, y1)
        if not _nothing(y0):  # the last column, which no row begins after
            return below
        before, unit = self.packed * self.past, self.packed * c
        skipped = floor_sum(x1, unit, self.rows, before) - floor_sum(x0, unit, self.rows, before)
        return below - c // self.cols * skipped

    def _row_by_row(self, pieces: tuple[Piece, ...], x0: int, x1: int, y0: int, y1: int) -> int:
        strided = any(p.step != 1 for p in pieces)
        if (x1 - x0) * (y1 - y0 if strided else 1) > MAX_ROWS:
            raise NoClosedForm(f"a mask without a closed form in tiles, and more than {MAX_ROWS:,} of them to look at")
        cols, total = self.cols or max(self.n, 1), 0
        for x in range(x0, x1):
            first = 0 if self.rows is None else x * self.rows // self.packed
            last = self.t if self.rows is None else min(-(-(x + 1) * self.rows // self.packed), self.t)
            queries = self.past + first, self.past + last
            tiles = []
            for p in pieces:
                a, b = p.keys(*queries, self.n) if p.step == 1 else (0, 0)
                tiles.append((max(a // cols, y0), min(-(-b // cols), y1) if b > a else 0, 0, None))
                for y in range(y0, y1) if p.step != 1 else ():
                    if _crosses(p, *queries, y * cols, min((y + 1) * cols, self.n)):
                        tiles.append((y, y + 1, 0, None))
            total += _covered([s for s in tiles if s[1] > s[0]])
        return total


class _Stairs(Struct, frozen=True):
    """Tile row x meets the columns from ceil((rows x + l) / cols) to ceil((rows x + u) / cols), within a box of tiles."""

    rows: Number
    cols: Number
    x0: Number
    x1: Number
    y0: Number
    y1: Number
    l: Number = None
    u: Number = None

    def __and__(self, other: _Stairs) -> _Stairs:
        if self.cols is not other.cols and self.cols != other.cols:
            raise NoClosedForm("masks over tokens and over blocks have no closed form together in tiles")
        return _Stairs(
            self.rows,
            self.cols,
            maximum(self.x0, other.x0),
            minimum(self.x1, other.x1),
            maximum(self.y0, other.y0),
            minimum(self.y1, other.y1),
            _meet(maximum, self.l, other.l),
            _meet(minimum, self.u, other.u),
        )

    @property
    def empty(self) -> bool:
        """Certain to hold no tile; only integers can be certain."""
        spans = ((self.x0, self.x1), (self.y0, self.y1), (self.l, self.u))
        return any(isinstance(a, int) and isinstance(b, int) and b <= a for a, b in spans)

    def tiles(self, x0: Number, x1: Number, y0: Number, y1: Number) -> Number:
        """How many tiles of a box it meets."""
        x0, y0 = maximum(self.x0, x0), maximum(self.y0, y0)
        x1, y1 = maximum(minimum(self.x1, x1), x0), maximum(minimum(self.y1, y1), y0)

        def beyond(edge: Number, y: Number) -> Number:  # tile columns from y on, before the edge, over all rows
            z = edge - y * self.cols
            return self._sum(x1 * self.rows + z) - self._sum(x0 * self.rows + z)

        upper = self.u if self.u is None or self.l is None else maximum(self.u, self.l)
        top = (x1 - x0) * (y1 - y0) if upper is None else beyond(upper, y0) - beyond(upper, y1)
        return top if self.l is None else top - (beyond(self.l, y0) - beyond(self.l, y1))

    def _sum(self, z: Number) -> Number:
        """ceil((z - rows) / cols) + ceil((z - 2 rows) / cols) + ..., the positive ones."""
        rows, cols = self.rows, self.cols
        if isinstance(rows, int) and isinstance(cols, int):
            if rows % cols == 0:
                return _falling(covering(z, cols) - rows // cols, rows // cols)
            if cols % rows == 0:
                return _falling(covering(z, rows) - 1, cols // rows)
        steps = maximum(covering(z, rows) - 1, 0)
        return floor_sum(steps, cols, rows, maximum(z - steps * rows + cols - 1, 0))


def _crosses(p: Piece, i0: int, i1: int, j0: int, j1: int) -> bool:
    """Whether a diagonal of a strided piece crosses a box."""
    i0, i1 = max(i0, p.i0), i1 if p.i1 is None else min(i1, p.i1)
    j0, j1 = max(j0, p.j0), j1 if p.j1 is None else min(j1, p.j1)
    least = j0 - i1 + 1 if p.lo is None else max(p.lo, j0 - i1 + 1)
    most = j1 - 1 - i0 if p.hi is None else min(p.hi, j1 - 1 - i0)
    return i1 > i0 and j1 > j0 and least + (p.phase - least) % p.step <= most


def covering(a: Number, b: Number) -> Number:
    """How many b it takes to cover a; a Formula that b divides where it stands is divided, and says so in its regime.

    >>> covering(130, 64)
    3
    """
    if _is_one(b):
        return a
    if hasattr(b, "covered"):
        a = b * 0 + a
    if not hasattr(a, "covered"):
        return ceil_div(a, b)
    try:
        return a.covered(b)
    except ValueError as error:
        raise NoClosedForm(f"tiles as wide as a share of the keys: {error}") from None


def _floor(a: Number, b: Number) -> Number:
    """How many whole b go into a."""
    return -covering(-a, b) if hasattr(a, "covered") or hasattr(b, "covered") else floor_div(a, b)


def _falling(x: Number, step: int) -> Number:
    """x + (x - step) + (x - 2 step) + ..., as long as it is positive."""
    x = maximum(x, 0)
    rows = covering(x, step)
    return rows * x - exact_div(step * rows * (rows - 1), 2)


def floor_sum(n: Number, m: Number, a: Number, b: Number) -> Number:
    """floor(b / m) + floor((a + b) / m) + ... + floor((a (n - 1) + b) / m), by Euclid's algorithm; none negative.

    Integers or float64 arrays; of symbols it is none (NoClosedForm).

    >>> floor_sum(4, 3, 2, 1)
    4
    """
    for x in (n, m, a, b):
        if hasattr(x, "free_symbols") or hasattr(x, "covered"):
            raise NoClosedForm("tiles of which neither side divides the other: their number is a sum, and no formula")
    total: Number = 0
    while _some(n > 0):
        m = maximum(m, 1)
        total = total + n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        top = a * n + b
        n, b, m, a = top // m, top % m, a, m
    return total


def _one_if(x: Number) -> Number:
    """1 where x is positive, else 0; of a Formula, the value says which, and the condition joins the regime."""
    if hasattr(x, "covered"):
        return 1 + x.maximum(1) * 0 if x.value > 0 else x.minimum(0) * 0
    return minimum(maximum(x, 0), 1)


def _some(found: Any) -> bool:
    return bool(found.any()) if hasattr(found, "any") else bool(found)


def _always(found: Any) -> bool:
    """Whether a comparison is certain: of numbers it is, of an array if it holds everywhere, of symbols never."""
    if hasattr(found, "all"):
        return bool(found.all())
    return found is True


def _nothing(x: Number) -> bool:
    return (isinstance(x, int) and x == 0) or (hasattr(x, "covered") and not x.terms)


def _least(length: Number, tile: Number | None, count: Number) -> Number:
    """The smallest tile along one axis: the last one."""
    return length if tile is None else length - (count - 1) * tile


def _complement(p: Piece) -> Mask:
    """The pairs that a piece does not have."""
    if p.chunk is not None or p.step != 1:
        raise NoClosedForm("which tiles a mask of chunks or strides leaves whole has no closed form")
    parts: Iterable[Piece | None] = (
        None if p.hi is None else Piece(lo=p.hi + 1, pitch=p.pitch, shift=p.shift).closed(),
        None if p.lo is None else Piece(hi=p.lo - 1, pitch=p.pitch, shift=p.shift),
        None if _nothing(p.i0) else Piece(i1=p.i0),
        None if p.i1 is None else Piece(i0=p.i1),
        None if _nothing(p.j0) else Piece(j1=p.j0),
        None if p.j1 is None else Piece(j0=p.j1),
    )
    return Mask(tuple(x for x in parts if x is not None))
