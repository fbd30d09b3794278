"""What one GPU of a plan holds: weights, cache, states and activations, read off the blocks' pages and their letters.

A tensor is shared by the axis that its ranks divide: heads, key/value heads, the feed-forward width, the vocabulary, experts;
what has none of these axes is held by every rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.models import Model, Piece
from attnmath.models.costs import bidirectional, choosing, index_bits_of, reading
from attnmath.models.counting import by_letter, chosen, layer_of, weights
from attnmath.models.quantization import PLAIN, Recipe, projections, recipe_of, stored_bits
from attnmath.models.schema import SOURCE, TEXT
from attnmath.readings.count import recursive
from attnmath.readings.memory import bits, in_bytes, state_bits

SPLIT = (
    "h",
    "g",
    "r",
    "group",
    "ffn",
    "vocab",
)  # the axes that tensor ranks share; the first of a tensor's that there is
HEADS = ("h", "g", "group")


class Rank(Struct, frozen=True):
    """How many ranks share what."""

    tensor: int
    pipeline: int
    data: int
    expert: int


class LayerCache(Struct, frozen=True):
    """What one attention layer keeps on one rank: `row` bytes for each `every` tokens, of at most `window` tokens (None: all),
    and `state` bytes for a sequence; `copies`: how many tensor ranks hold the same; `source`: tokens of an encoder instead.
    """

    row: int
    every: int
    window: int | None
    state: int
    copies: int
    count: int
    source: bool = False


def shards(index: tuple[str, ...], sizes: Mapping[str, Any], tensor: int) -> int:
    """Into how many parts the tensor ranks divide a tensor with these axes; a head that fewer than all have is held by several.

    >>> shards(("m", "h", "d"), {"h": 32}, 8), shards(("m", "g", "d"), {"g": 4}, 8), shards(("m",), {}, 8)
    (8, 4, 1)
    """
    axes = [i for i in index if i in SPLIT]
    if not axes:
        return 1
    heads = int(sizes[axes[0]])
    if "g" in axes and "r" in axes:
        heads = int(sizes["g"]) * int(sizes["r"])
    return min(tensor, heads) if axes[0] in HEADS else tensor


def stages(p: Piece, pipeline: int) -> int:
    """How many of a piece's copies the fullest stage holds.

    >>> stages(Piece("norm", "rms-norm", (), {"d-model": 8}, None, (), "tokens", 65), 2)
    33
    """
    return -(-p.count // pipeline) if p.count > 1 else p.count


def weight_bytes(model: Model, rank: Rank, dtype: str | None) -> dict[str, int]:
    """Bytes of the weights on the fullest rank, by part.

    >>> from attnmath.models import read
    >>> one, two = (sum(weight_bytes(read("llama-3.1-8b"), Rank(t, 1, 1, 1), "bf16").values()) for t in (1, 2))
    >>> one, round(one / two, 3)
    (16060522496, 2.0)
    """
    recipe = recipe_of(model, dtype)
    found: dict[str, int] = {}
    for p in model.pieces:
        for name, part, size in _tensors(p, rank, recipe):
            del name
            found[part] = found.get(part, 0) + size * stages(p, rank.pipeline)
    return found


def _tensors(p: Piece, rank: Rank, recipe: Recipe) -> list[tuple[str, str, int]]:
    """(tensor, part, bytes on one rank) of one copy of a piece."""
    layer = layer_of(p)
    page = layer.form()
    sizes, _ = layer.sizes(by_letter(p), page=page)
    some, narrow = chosen(page), projections(p) if p.part in recipe.formats else {}
    plain = PLAIN[recipe.plain]
    out: list[tuple[str, str, int]] = []
    for name, (whole, _) in weights(p).items():
        index = tuple(map(str, page.inputs[name].index))
        ways, share = shards(index, sizes, rank.tensor), whole
        if name in some and rank.expert > 1:
            experts = int(sizes[some[name][0]])
            share = whole // experts * -(-experts // rank.expert)
            ways = max(1, rank.tensor // rank.expert)
        part = "router" if p.part == "experts" and name not in some else p.part
        if name in narrow and part in recipe.formats:
            wide = sum(stored_bits(recipe.formats[part], *narrow[name])) * share // whole
        else:
            wide = share * plain
        out.append((name, part, -(-wide // (8 * ways))))
    return out


def layer_caches(model: Model, rank: Rank, dtype: str, kv_dtype: str) -> list[LayerCache]:
    """What each kind of attention layer keeps on one rank.

    >>> from attnmath.models import read
    >>> layer_caches(read("llama-3.1-8b"), Rank(2, 1, 1, 1), "bf16", "bf16")
    [LayerCache(row=2048, every=1, window=None, state=0, copies=1, count=32, source=False)]
    """
    out = []
    for p in model.pieces:
        if p.part == "attention" and p.over in (TEXT, SOURCE) and not (p.over == SOURCE or bidirectional(p)):
            out += _layer(p, rank, dtype, kv_dtype)
    return out


def _layer(p: Piece, rank: Rank, dtype: str, kv_dtype: str) -> list[LayerCache]:
    crosses = p.page == "cross"
    x = reading(p, {"b": 1, "t": 1, "n": FAR} | ({"kept": FAR} if crosses else {}), dtype, kv_dtype)
    only, states, count = choosing(x.page), recursive(x.page), stages(p, rank.pipeline)
    rows: dict[tuple[int, int | None], list[int]] = {}
    state = 0
    for c in x.caches:
        ways = shards(tuple(map(str, x.page.tensors[c.tensor])), x.sizes, rank.tensor)
        numbers = int(c.per_row)
        if c.rows is None:
            wide = state_bits(dtype) if c.tensor in states else bits(dtype)
            state += -(-int(in_bytes(numbers * wide)) // ways)
            continue
        wide = index_bits_of("fp8")(numbers) if c.tensor in only else numbers * bits(kv_dtype)
        every = int(c.every)
        window = int(c.rows) * every if c.capped else None
        kept = rows.setdefault((every, window), [0, 1])
        kept[0] += -(-int(in_bytes(wide)) // ways)
        kept[1] = max(kept[1], rank.tensor // ways)
    out = [LayerCache(row, every, window, 0, copies, count, crosses) for (every, window), (row, copies) in rows.items()]
    return [*out, LayerCache(0, 1, None, state, 1, count)] if state else out


FAR = 2**20  # a context beyond every window


def activation_bytes(model: Model, rank: Rank, tokens: int, dtype: str) -> int:
    """The peak of live activations of a chunk of so many tokens: an estimate.

    The widest feed-forward layer holds its two projections and their product, beside the hidden state and the residual; that
    is what vLLM's profile of Llama-3.1-8B shows, 2.1 GiB for 20,000 tokens and 3.0 for 29,000 (vllm-project/vllm#10517).

    >>> from attnmath.models import read
    >>> activation_bytes(read("llama-3.1-8b"), Rank(1, 1, 1, 1), 20_000, "bf16")
    2048000000
    """
    wide = max((_feed_forward(p, rank) for p in model.pieces if p.over == TEXT), default=0)
    hidden = max((p.sizes["d-model"] for p in model.pieces if p.over == TEXT and "d-model" in p.sizes), default=0)
    return int(tokens * (wide + 2 * hidden) * bits(dtype)) // 8


def _feed_forward(p: Piece, rank: Rank) -> int:
    """Numbers that a feed-forward layer holds for each token at its widest."""
    if "ffn" not in p.sizes:
        return 0
    inner = 3 if p.page.startswith(("gated", "experts")) and "relu2" not in p.page else 2
    times = p.sizes.get("active", 1)
    return -(-inner * p.sizes["ffn"] * times // rank.tensor)


def logits_bytes(model: Model, rank: Rank, rows: int) -> int:
    """Logits of so many sequences in single precision, and once more for their softmax, whole on every rank: an estimate.

    >>> from attnmath.models import read
    >>> logits_bytes(read("llama-3.1-8b"), Rank(1, 1, 1, 1), 256)
    262668288
    """
    vocab = next((p.sizes["vocab"] for p in model.pieces if p.page == "head"), 0)
    del rank
    return rows * vocab * 8
