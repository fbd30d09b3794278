"""How many tiles a shape is cut into, in closed form: whole numbers in floats, or arrays of them.

Query tile i of r packed rows holds the rows r i .. r i + r - 1, `group` of which are one token, so that its last token stands
at past + ceil(r (i + 1) / group) - 1; it sees the keys up to there, and from its first token's window on. Sums over tiles
of rounded quotients are floor sums. `language/tiles.py` counts tiles under any mask; this is what kernels need of a causal one.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from attnmath.language.arith import Number, ceil_div, maximum, minimum, where
from attnmath.language.tiles import floor_sum


class TileCount(Struct, frozen=True):
    """Of one head: query tiles, tiles of keys that they visit in all, the most that one visits, and what the first visits.

    The first two are exact; `most` is, but under a window, where it is the window's width in tiles, rounded up.
    """

    query_tiles: Any
    visits: Any
    most: Any
    first: Any


def tile_count(
    seq: Number, context: Number, group: Number, rows: Number, keys: Number, causal: bool, window: Number = 0.0
) -> TileCount:
    """Tiles of `rows` by `keys` for `seq` new tokens that see `context` keys; `group` query heads share a tile.

    `window`: the newest so many keys that a query sees, 0 for all. Without `causal` every tile visits every key.

    >>> t = tile_count(4096.0, 4096.0, 1.0, 128.0, 128.0, True)
    >>> t.query_tiles, t.visits, t.most
    (32.0, 528.0, 32.0)
    """
    query_tiles = ceil_div(seq * group, rows)
    full = ceil_div(context, keys) + 0.0 * query_tiles
    if not causal:
        return TileCount(query_tiles, query_tiles * full, full, full)
    past, span = context - seq, group * keys
    upper = floor_sum(query_tiles - 1, span, rows, rows + past * group + span - 1) + full
    reach = where(window > 0, window, context + 1)
    oldest = past - reach + 1  # the oldest key of the first token, before 0 if it sees all
    skipped = minimum(maximum(ceil_div(-oldest * group, rows), 0.0), query_tiles)
    lower = floor_sum(query_tiles - skipped, span, rows, maximum(skipped * rows + oldest * group, 0.0))
    tokens = minimum(rows / group, seq)  # of one tile
    most = where(window > 0, minimum(full, ceil_div(reach + tokens - 1, keys)), full)
    return TileCount(query_tiles, upper - lower, most, minimum(ceil_div(tokens + past, keys), most))
