"""What one GPU of a plan holds: weights, caches, states and activations, read off the blocks' pages and their letters.

A tensor is shared by the axis that its ranks divide: heads, key/value heads, the feed-forward width, the vocabulary, experts;
what has none of these axes is held by every rank. Pipeline stages take consecutive layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from attnmath.models import Model, Piece
from attnmath.models.caching import kept
from attnmath.models.counting import chosen, layer_of, shards
from attnmath.models.quantization import Recipe, Stored, recipe_of, stored
from attnmath.models.schema import TEXT
from attnmath.readings.memory import bits


class Rank(Struct, frozen=True):
    """How many ranks share what; `expert` of the tensor x data ranks share the routed experts."""

    tensor: int
    pipeline: int = 1
    data: int = 1
    expert: int = 1


class Row(Struct, frozen=True):
    """What attention layers keep on one rank: `bytes` for each `every` tokens, of at most `window` tokens (None: all), in
    `count` layers; `copies`: how many tensor ranks hold the same; `source`: tokens of an encoder instead.
    """

    bytes: int
    every: int
    window: int | None
    copies: int
    count: int
    source: bool = False


class Held(Struct, frozen=True):
    """What one rank of a stage holds: weights by part, rows of caches, and bytes of state of each sequence by layer."""

    weights: Mapping[str, int]
    rows: tuple[Row, ...]
    states: tuple[int, ...]

    @property
    def weight_bytes(self) -> int:
        """All weights of the rank."""
        return sum(self.weights.values())


def stages(layers: int, pipeline: int) -> list[int]:
    """How many layers each stage has, as vLLM spreads them: what does not divide goes to the last stages but one.

    >>> stages(61, 2), stages(30, 4)
    ([31, 30], [7, 8, 8, 7])
    """
    each, more = divmod(layers, pipeline)
    sizes = [each] * pipeline
    for k in range(more):
        sizes[-(2 + k) % pipeline] += 1
    return sizes


def cut(model: Model, pipeline: int) -> list[tuple[Piece, ...]]:
    """The blocks of each stage: the embedding with the first, the head with the last, a tied head's weights with both.

    >>> from attnmath.models import read
    >>> [sum(p.count for p in s if p.page == "gqa") for s in cut(read("llama-3.1-8b"), 3)]
    [11, 11, 10]
    """
    out, at = [], 0
    for size in stages(len(model.sequence), pipeline):
        out.append([p for layer in model.sequence[at : at + size] for p in layer])
        at += size
    tied = [p for p in out[-1] if p.page == "head" and p.shares]
    if pipeline > 1 and tied:
        out[-1] += [p for p in out[0] if p.part == "embedding" and p.sizes.get("vocab") == tied[0].sizes["vocab"]]
    return [tuple(stage) for stage in out]


@lru_cache(256)
def held(model: Model, rank: Rank, weight_dtype: str | None, dtype: str, kv_dtype: str) -> tuple[Held, ...]:
    """What a rank of each stage holds.

    >>> from attnmath.models import read
    >>> one, two = (held(read("llama-3.1-8b"), Rank(t), "bf16", "bf16", "bf16")[0] for t in (1, 2))
    >>> one.weight_bytes, round(one.weight_bytes / two.weight_bytes, 3), two.rows
    (16060522496, 2.0, (Row(bytes=2048, every=1, window=None, copies=1, count=32, source=False),))
    """
    recipe = recipe_of(model, weight_dtype)
    found: dict[tuple[Any, ...], Held] = {}
    out = []
    for pieces in cut(model, rank.pipeline):
        counted = _counted(pieces)
        key = tuple((k, n) for k, (_, n) in counted.items())
        if key not in found:  # many stages are alike
            found[key] = _stage(list(counted.values()), rank, recipe, dtype, kv_dtype)
        out.append(found[key])
    return tuple(out)


def _counted(pieces: Iterable[Piece]) -> dict[tuple[Any, ...], tuple[Piece, int]]:
    """Equal blocks together, and how many there are."""
    count: dict[tuple[Any, ...], tuple[Piece, int]] = {}
    for p in pieces:
        key = (p.part, p.page, p.uses, tuple(p.sizes.items()), p.mask, p.shares, p.over)
        count[key] = p, count.get(key, (p, 0))[1] + p.count
    return count


def _stage(pieces: list[tuple[Piece, int]], rank: Rank, recipe: Recipe, dtype: str, kv_dtype: str) -> Held:
    weights: dict[str, int] = {}
    rows: list[Row] = []
    states: list[int] = []
    for p, n in pieces:
        for part, size in _weights(p, rank, recipe):
            weights[part] = weights.get(part, 0) + n * size
        found, state = _kept(p, rank, dtype, kv_dtype, n)
        rows += found
        states += [state] * n if state else []
    return Held(weights, tuple(rows), tuple(states))


class Shard(Struct, frozen=True):
    """A learned tensor's share of one rank: how many `numbers`, and `bytes` as they are stored; `ways`: into how many parts
    tensor ranks cut it; `copies`: how many data ranks hold the same part, which ZeRO shares among them.
    """

    tensor: Stored
    numbers: int
    bytes: int
    ways: int
    copies: int


def sharded(p: Piece, rank: Rank, recipe: Recipe) -> list[Shard]:
    """The share of each tensor of one copy of a piece.

    >>> from attnmath.models import read
    >>> head = read("llama-3.1-8b").sequence[-1][-1]
    >>> [(s.numbers, s.bytes, s.copies) for s in sharded(head, Rank(4, data=2), recipe_of(read("llama-3.1-8b"), None))]
    [(131334144, 262668288, 2)]
    """
    some = chosen(layer_of(p).form())
    out = []
    for t in stored(p, recipe):
        bits, numbers, ways = t.bits + t.scale_bits, t.numbers, shards(t.axes, t.lengths, rank.tensor)
        copies = rank.data
        if t.name in some and rank.expert > 1:
            experts = t.lengths[some[t.name][0]]
            bits, numbers = (x // experts * -(-experts // rank.expert) for x in (bits, numbers))
            ways = max(1, rank.tensor // rank.expert) if "ffn" in t.axes else 1
            copies = max(1, rank.tensor * rank.data // (rank.expert * ways))
        out.append(Shard(t, -(-numbers // ways), -(-bits // (8 * ways)), ways, copies))
    return out


def _weights(p: Piece, rank: Rank, recipe: Recipe) -> list[tuple[str, int]]:
    """(part, bytes on one rank) of each tensor of one copy of a piece."""
    return [(s.tensor.part, s.bytes) for s in sharded(p, rank, recipe)]


def _kept(p: Piece, rank: Rank, dtype: str, kv_dtype: str, count: int) -> tuple[list[Row], int]:
    """(rows of its caches, bytes of its state) of an attention layer on one rank."""
    found: dict[tuple[int, int | None, bool], tuple[int, int]] = {}
    state = 0
    for k in kept(p, dtype, kv_dtype):
        ways = shards(k.axes, k.lengths, rank.tensor)
        size = -(-k.bits // (8 * ways))
        if k.state:
            state += size
            continue
        key = k.every, k.window, k.source
        before, copies = found.get(key, (0, 1))
        found[key] = before + size, max(copies, rank.tensor // ways)
    rows = [
        Row(size, every, window, copies, count, source) for (every, window, source), (size, copies) in found.items()
    ]
    return rows, state


def activation_bytes(model: Model, rank: Rank, tokens: int, dtype: str) -> int:
    """The peak of live activations of a chunk of so many tokens: an estimate.

    The widest feed-forward layer holds its projections and their product, beside the hidden state and the residual; that
    is what vLLM's profile of Llama-3.1-8B shows, 2.1 GiB for 20,000 tokens and 3.0 for 29,000 (vllm-project/vllm#10517).

    >>> from attnmath.models import read
    >>> activation_bytes(read("llama-3.1-8b"), Rank(1), 20_000, "bf16")
    2048000000
    """
    text = [p for p in model.pieces if p.over == TEXT]
    wide = max((_feed_forward(p, rank) for p in text), default=0)
    hidden = max((p.sizes["d-model"] for p in text if "d-model" in p.sizes), default=0)
    return int(tokens * (wide + 2 * hidden) * bits(dtype)) // 8


def _feed_forward(p: Piece, rank: Rank) -> int:
    """Numbers that a feed-forward layer makes for each token, as wide as its hidden axis, on one rank."""
    if "ffn" not in p.sizes:
        return 0
    page = layer_of(p).form()
    hidden = sum("ffn" in map(str, e.out.index) for e in page.equations if e.alts)
    return -(-hidden * p.sizes["ffn"] * p.sizes.get("active", 1) // rank.tensor)


def logits_bytes(model: Model, rows: int) -> int:
    """Logits of so many sequences in single precision, and once more for their softmax, whole on every rank: an estimate.

    >>> from attnmath.models import read
    >>> logits_bytes(read("llama-3.1-8b"), 256)
    262668288
    """
    return rows * 8 * next((p.sizes["vocab"] for p in model.pieces if p.page == "head"), 0)
