"""How long an attention kernel takes: an estimate, from its tiles, the data sheet and a few named constants.

One thread block works through a query tile's tiles of keys. A pair of tiles costs the matrix unit its products and the other
units an exponential and some five instructions a score; the two overlap as well as the kernel lets them. Blocks fill the
processors in waves, each with a prologue. Queries and results are moved only partly behind the arithmetic; what a replay
leaves in the second-level cache is not moved again. Every line works on floats and on arrays alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.hardware.kernels import Kernel, Tile
from attnmath.hardware.machine import Machine
from attnmath.hardware.tiles import tile_count
from attnmath.language.arith import Number, ceil_div, floor_div, maximum, minimum, where

Constants = Mapping[str, float]
US = 1e-6
FILLED = (
    0.8  # of the processors: a grid at least so large is not split (flash-attention, csrc/flash_attn/flash_api.cpp)
)
MOST_SPLITS = 128  # the same place


class Shape(Struct, frozen=True):
    """One attention layer's sizes, floats or arrays; `window` 0 is none; bytes are per element.

    `latent`: keys and values are one tensor, of which `head_dim` numbers a token are cached.
    """

    batch: Any
    seq: Any
    context: Any
    heads: Any
    kv_heads: Any
    head_dim: Any
    v_head_dim: Any
    window: Any = 0.0
    causal: bool = True
    q_bytes: float = 2.0
    kv_bytes: float = 2.0
    latent: bool = False

    @property
    def cached(self) -> Number:
        """Numbers a token and head that keys and values take."""
        return self.head_dim if self.latent else self.head_dim + self.v_head_dim


class Times(Struct, frozen=True):
    """An estimate, in seconds: `kernel_s` and `launch_s` add up; the units are how long each is busy inside the kernel."""

    kernel_s: Any
    launch_s: Any
    tensor_s: Any
    exp_s: Any
    fp32_s: Any
    smem_s: Any
    l2_s: Any
    hbm_s: Any
    blocks: Any = 0.0
    splits: Any = 1.0
    waves: Any = 1.0
    rows: Any = 0.0
    keys: Any = 0.0
    tail_s: Any = 0.0  # of the last wave; 0 for one new token, whose turns are whole
    compute_s: Any = 0.0  # from the first block's start to the last one's end, if memory never binds

    @property
    def time_s(self) -> Number:
        """Kernel and launch."""
        return self.kernel_s + self.launch_s

    def or_faster(self, other: Times) -> Times:
        """Row by row, the one whose kernel takes less time."""
        faster = other.kernel_s < self.kernel_s
        return Times(*(where(faster, getattr(other, f), getattr(self, f)) for f in Times.__struct_fields__))

    @property
    def units(self) -> dict[str, Number]:
        """How long each unit is busy, seconds."""
        return {u: getattr(self, f"{u}_s") for u in UNITS}


UNITS = ("tensor", "exp", "fp32", "smem", "l2", "hbm")


class Block(Struct, frozen=True):
    """What one thread block takes: a tile of `rows` by `keys`; the rest as in `Cut`."""

    rows: Any
    keys: Any
    resident: Any = 1.0
    warp_rows: Any = 16.0
    paired: bool = False


class Cut(Struct, frozen=True):
    """How a kernel cuts a shape up; nothing here depends on a constant.

    `rows` by `keys`: a tile, of heads padded to `head_dim` and `v_head_dim`; `grids`: how many heads, or groups of heads,
    of how many sequences are cut alike; `query_tiles`, `visits`, `most`, `first`: of one of them, as in `TileCount`;
    `blocks`: thread blocks in all; `splits`: parts that the keys of one are cut into; `resident`: blocks that a
    processor holds at once; `paired`: two row tiles take turns; `warp_rows`: of a warp, where each reads keys by itself.
    """

    rows: Any
    keys: Any
    head_dim: Any
    v_head_dim: Any
    grids: Any
    query_tiles: Any
    visits: Any
    most: Any
    first: Any
    blocks: Any
    splits: Any
    resident: Any
    group: Any
    paired: bool = False
    warp_rows: Any = 16.0


def cut(s: Shape, m: Machine, kernel: Kernel, decodes: bool) -> tuple[Cut, ...]:
    """How the kernel cuts a shape up; two ways where it has tiles of twice the rows.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.kernels import KERNELS
    >>> from attnmath.hardware.machine import machine
    >>> shape = Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> (c,) = cut(shape, machine(get("h100-sxm")), KERNELS["flash-attention-3"], False)
    >>> c.rows, c.keys, c.blocks
    (128.0, 128.0, 2048.0)
    """
    if decodes:
        return (_cut_decode(s, m, kernel, _decode_block(s, m, kernel)),)
    pairs = (1, 2) if kernel.paired_rows else (1,)
    return tuple(_cut_prefill(s, m, kernel, _prefill_block(s, m, kernel, pair)) for pair in pairs)


def cut_into(s: Shape, m: Machine, kernel: Kernel, decodes: bool, block: Block) -> Cut:
    """How the kernel would cut a shape up if its tiles were these.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.kernels import KERNELS
    >>> from attnmath.hardware.machine import machine
    >>> shape = Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> c = cut_into(shape, machine(get("h100-sxm")), KERNELS["flash-attention-3"], False, Block(64.0, 256.0))
    >>> c.blocks, c.visits
    (4096.0, 8448.0)
    """
    return (_cut_decode if decodes else _cut_prefill)(s, m, kernel, block)


def _prefill_block(s: Shape, m: Machine, kernel: Kernel, pair: int) -> Block:
    rows, keys = tile_of(kernel, s, bool(s.causal))
    d = _padded(kernel, s.head_dim)
    return Block(
        rows * pair,
        keys,
        _resident(kernel, m, rows * pair, keys, d, s.q_bytes),
        where(rows >= 128, 32.0, 16.0),
        pair == 2,
    )


def _decode_block(s: Shape, m: Machine, kernel: Kernel) -> Block:
    rows, keys = tile_of(kernel, s, True)
    packed = _decode_groups(kernel, s)[0] * s.seq  # rows that share the keys
    rows = _first_that_holds(kernel.decode_rows, packed) if kernel.decode_rows else rows
    return Block(rows, keys, _resident(kernel, m, rows, keys, s.head_dim, s.kv_bytes))


def _cut_prefill(s: Shape, m: Machine, kernel: Kernel, block: Block) -> Cut:
    rows, keys, resident = block.rows, block.keys, block.resident
    d, dv = _padded(kernel, s.head_dim), _padded(kernel, s.v_head_dim)
    group, owners = (s.heads / s.kv_heads, s.kv_heads) if kernel.packed else (1.0, s.heads)
    tiles = tile_count(s.seq, s.context, group, rows, keys, bool(s.causal), s.window)
    grids = s.batch * owners
    blocks = grids * tiles.query_tiles
    splits = _prefill_splits(kernel, m, blocks, resident, tiles.most * keys)
    return Cut(
        rows, keys, d, dv, grids, tiles.query_tiles, tiles.visits, tiles.most, tiles.first, blocks * splits, splits,
        resident, group, block.paired, block.warp_rows,
    )  # fmt: skip


def _cut_decode(s: Shape, m: Machine, kernel: Kernel, block: Block) -> Cut:
    group, owners = _decode_groups(kernel, s)
    rows, keys, packed = block.rows, block.keys, group * s.seq
    query_tiles, most = ceil_div(packed, rows), ceil_div(_seen(s), keys)
    grids = s.batch * owners
    parts = maximum(floor_div(_seen(s), float(kernel.least_part)), 1.0) if kernel.least_part else most
    splits = _decode_splits(kernel, m, grids * query_tiles, minimum(most, parts), group)
    resident = where(group < kernel.light_groups, LIGHT, block.resident)
    return Cut(
        rows, keys, s.head_dim, s.v_head_dim, grids, query_tiles, query_tiles * most, most, most,
        grids * query_tiles * splits, splits, resident, group,
    )  # fmt: skip


def prefill(
    s: Shape,
    m: Machine,
    kernel: Kernel,
    k: Constants,
    warm: bool,
    writes: bool,
    rotates: bool,
    cuts: tuple[Cut, ...] = (),
) -> Times:
    """Many new tokens per sequence; `writes`: a pass stores them into the cache, `rotates`: and turns queries and keys.

    `warm`: what fits into the L2 is there from the last run.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.constants import built_in
    >>> from attnmath.hardware.kernels import KERNELS
    >>> from attnmath.hardware.machine import machine
    >>> k, _ = built_in().of("flash-attention-3", "vllm", "prefill")
    >>> shape = Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> t = prefill(shape, machine(get("h100-sxm")), KERNELS["flash-attention-3"], k, False, True, False)
    >>> t.blocks, 600e-6 < t.kernel_s < 1.2e-3
    (2048.0, True)
    """
    ways = [_prefill(s, m, kernel, k, warm, c) for c in cuts or cut(s, m, kernel, False)]
    best = ways[0]
    for other in ways[1:]:
        best = best.or_faster(other)
    return replace(best, kernel_s=best.kernel_s + _stored(s, m, k, warm, rotates)) if writes else best


def _prefill(s: Shape, m: Machine, kernel: Kernel, k: Constants, warm: bool, c: Cut) -> Times:
    unit = tile_work(s, m, kernel, k, c, False)
    combine = _combine_s(m, k, c.splits) * m.clock_hz
    cycles = unit.pair(overlapped(kernel, k, c)) + k["tile_cycles"]
    work = spread(c, m.processors, kernel.longest_first, cycles, k["block_cycles"], combine)
    compute_s = work.cycles / m.clock_hz
    outer, inner = _outer(s), _inner(s)
    hbm_s, l2_s = moved(outer + inner, outer + inner, m, k, k["hbm_efficiency"], warm)
    apart_s = maximum(*moved(outer, outer + inner, m, k, k["hbm_efficiency"], warm))
    kernel_s = maximum(compute_s, maximum(hbm_s, l2_s)) + k["exposed"] * minimum(compute_s, apart_s)
    times = Times(kernel_s, k["launch_us"] * US * launch_share(m, k), *unit.busy(c.grids * c.visits), l2_s, hbm_s)
    return replace(
        times,
        blocks=c.blocks,
        splits=c.splits,
        waves=work.waves,
        tail_s=work.tail / m.clock_hz,
        compute_s=compute_s,
        rows=c.rows,
        keys=c.keys,
    )


def overlapped(kernel: Kernel, k: Constants, c: Cut) -> Number:
    """The part of the shorter of matrix and scalar work that a prefill hides: none with nobody to take turns with.

    >>> from attnmath.hardware.kernels import KERNELS
    >>> c = Cut(128.0, 128.0, 128.0, 128.0, 1.0, 3.0, 6.0, 3.0, 1.0, 3.0, 1.0, 1.0, 1.0)
    >>> overlapped(KERNELS["flash-attention-4"], {"overlap": 0.5}, c)
    0.0
    """
    if kernel.paired_rows and not c.paired:
        return 0.0
    if kernel.resident > 1:
        return k["overlap"] * (c.resident > 1)
    return k["overlap"]


class Spread(Struct, frozen=True):
    """Blocks over processors, in cycles: `busy` if they shared the work evenly, `tail` what the last wave adds to it,
    `longest` the longest block, or as many of average length as share a processor; `waves` of blocks, not rounded.
    """

    busy: Any
    tail: Any
    longest: Any
    waves: Any

    @property
    def cycles(self) -> Number:
        """From the start of the first block to the end of the last."""
        return maximum(self.busy + self.tail, self.longest)


def spread(
    c: Cut, processors: Number, longest_first: bool, cycles: Number, prologue: Number, combine: Number = 0.0
) -> Spread:
    """How long blocks take on so many processors: `cycles` for each pair of tiles, and a `prologue` for each block.

    >>> c = Cut(128.0, 128.0, 128.0, 128.0, 1.0, 3.0, 6.0, 3.0, 1.0, 3.0, 1.0, 1.0, 1.0)
    >>> spread(c, 1.0, True, 100.0, 10.0).cycles
    630.0
    """
    unsplit = c.grids * c.query_tiles
    lone = prologue + ceil_div(c.most, c.splits) * cycles + combine
    sharing = minimum(ceil_div(unsplit, processors), c.resident)  # blocks on the fullest processor, of average length
    longest = maximum(lone, sharing * (prologue + c.visits / c.query_tiles / c.splits * cycles) + combine)
    mean = prologue + c.visits / c.query_tiles * cycles
    waves = unsplit / (processors * c.resident)
    left = (-floor_div(-waves, 1.0) - waves) * (waves > 1)
    tail = left * (prologue + c.first * cycles if longest_first else 0.5 * (mean + lone))
    busy = c.grids * (c.query_tiles * prologue + c.visits * cycles) / processors
    return Spread(busy, tail, longest, waves)


def _stored(s: Shape, m: Machine, k: Constants, warm: bool, rotates: bool) -> Number:
    """The pass that writes new keys and values into the cache, and turns queries and keys if the engine does it there."""
    stored = s.batch * s.seq * s.kv_heads * s.cached * (2.0 + s.kv_bytes)
    stored = stored + (s.batch * s.seq * s.heads * s.head_dim * 4.0 if rotates else 0.0)
    slow_s, near_s = moved(stored, _outer(s) + _inner(s) + stored, m, k, k["hbm_efficiency"], warm)
    issued_s = stored / (m.processors * k["write_bytes_per_clock"] * m.clock_hz)
    return maximum(maximum(slow_s, near_s), issued_s) + s.batch * s.seq * k["token_cycles"] / m.processors / m.clock_hz


def _outer(s: Shape) -> Number:
    """Bytes of queries in and results out, which are stored in 16 bits."""
    return s.batch * s.seq * s.heads * (s.head_dim + s.v_head_dim) * (s.q_bytes + 2.0) / 2


def _inner(s: Shape) -> Number:
    """Bytes of the keys and values that some query sees."""
    return s.batch * _seen(s) * s.kv_heads * s.cached * s.kv_bytes


def _seen(s: Shape) -> Number:
    """Keys that some query sees."""
    return where(s.window > 0, minimum(s.context, s.window + s.seq - 1), s.context)


def decode(s: Shape, m: Machine, kernel: Kernel, k: Constants, warm: bool, cuts: tuple[Cut, ...] = ()) -> Times:
    """One new token per sequence, or a few; keys are split over blocks where sequences and heads are few.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.constants import built_in
    >>> from attnmath.hardware.kernels import KERNELS
    >>> from attnmath.hardware.machine import machine
    >>> k, _ = built_in().of("flash-attention-3", "vllm", "decode")
    >>> shape = Shape(1.0, 1.0, 8192.0, 32.0, 8.0, 128.0, 128.0)
    >>> decode(shape, machine(get("h100-sxm")), KERNELS["flash-attention-3"], k, False).splits
    16.0
    """
    (c,) = cuts or cut(s, m, kernel, True)
    unit = tile_work(s, m, kernel, k, c, True)
    pair = unit.pair(k["overlap"]) + k["tile_cycles"]
    alone = c.keys * s.cached * s.kv_bytes / k["load_bytes_per_clock"]
    steps, slots = ceil_div(c.most, c.splits), m.processors * c.resident
    full = floor_div(c.blocks, slots)
    last = ceil_div(c.blocks - full * slots, m.processors)  # blocks to a processor in the last wave
    waves = full * (k["block_cycles"] + steps * maximum(alone, c.resident * pair))
    waves = waves + (last > 0) * (k["block_cycles"] + steps * maximum(alone, last * pair))
    compute_s = waves / m.clock_hz
    outer = 2.0 * s.batch * s.seq * s.heads * (s.head_dim + s.v_head_dim)
    streamed = _inner(s) + outer
    hbm_s, l2_s = moved(streamed, streamed, m, k, k["hbm_efficiency"], warm)
    apart_s = maximum(*moved(outer, streamed, m, k, k["hbm_efficiency"], warm))
    kernel_s = maximum(compute_s, maximum(hbm_s, l2_s)) + minimum(compute_s, apart_s)
    kernel_s = kernel_s + _combine_s(m, k, c.splits)
    if kernel.reorders:
        copied = (c.group > 1) & (s.kv_heads > 1)
        copy_s = maximum(*moved(4.0 * outer, streamed + outer, m, k, k["hbm_efficiency"], warm))
        kernel_s = kernel_s + copied * (copy_s + 4.0 * k["small_us"] * US * launch_share(m, k))
    kernel_s = kernel_s + s.batch * k["token_cycles"] / m.processors / m.clock_hz
    times = Times(kernel_s, k["launch_us"] * US * launch_share(m, k), *unit.busy(c.grids * c.visits), l2_s, hbm_s)
    return replace(
        times,
        blocks=c.blocks,
        splits=c.splits,
        waves=c.blocks / m.processors,
        rows=c.rows,
        keys=c.keys,
        compute_s=compute_s,
    )


LIGHT = 4.0  # blocks on a processor of a kernel without the matrix unit


class TileWork(Struct, frozen=True):
    """Cycles of one pair of tiles: of the matrix unit with what slows it, of the scalar units, and of each unit alone."""

    matrix: Any
    scalar: Any
    tensor: Any
    exp: Any
    fp32: Any
    smem: Any
    per_s: Any

    def pair(self, overlap: Number) -> Number:
        """Cycles that the pair takes, the shorter kind of work hidden so far."""
        return maximum(self.matrix, self.scalar) + (1 - overlap) * minimum(self.matrix, self.scalar)

    def busy(self, visits: Number) -> tuple[Number, Number, Number, Number]:
        """How long tensor, exp, fp32 and shared memory are busy with so many pairs, seconds."""
        return tuple(visits * c / self.per_s for c in (self.tensor, self.exp, self.fp32, self.smem))


def tile_work(s: Shape, m: Machine, kernel: Kernel, k: Constants, c: Cut, decodes: bool) -> TileWork:
    """What a pair of tiles costs each unit as a kernel runs it, in cycles.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.constants import built_in
    >>> from attnmath.hardware.kernels import KERNELS
    >>> from attnmath.hardware.machine import machine
    >>> m, kernel, shape = machine(get("h100-sxm")), KERNELS["ideal"], Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 64.0, 64.0)
    >>> k, _ = built_in().of("ideal", "ideal", "prefill")
    >>> w = tile_work(shape, m, kernel, k, cut(shape, m, kernel, False)[0], False)
    >>> w.exp, w.scalar == w.exp + w.fp32
    (1024.0, True)
    """
    at = tile_cycles(m, c, s.q_bytes, kernel.asynchronous)
    fed = at.tensor if decodes else maximum(at.tensor, at.smem)  # few rows wait for memory before they wait for this
    # a decode step leaves the matrix unit idle most of the time, so that it draws too little power to be slowed
    sustained = 1.0 if decodes else m.sustained
    matrix = fed / minimum(sustained * k["mma_efficiency"], 1.0)
    instructions = c.rows * c.keys * k["fp32_per_score"] / (2.0 if kernel.paired_math else 1.0)
    fp32 = instructions / m.fp32_lanes
    return TileWork(matrix, at.exp + fp32, at.tensor / m.sustained, at.exp, fp32, at.smem, m.processors * m.clock_hz)


class TileCycles(Struct, frozen=True):
    """Clock cycles of one pair of tiles on one processor, of each unit at its data sheet's rate."""

    tensor: Any
    smem: Any
    exp: Any


def tile_cycles(m: Machine, c: Cut, element_bytes: float, asynchronous: bool) -> TileCycles:
    """What a pair of tiles costs the matrix unit, shared memory and the exponentials (FlashAttention-4's count).

    An asynchronous instruction takes `mma_rows` rows: it reads queries and keys, then values, from shared memory, and
    results and weights from elsewhere. Without it every warp reads all keys and values for its own rows.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> c = Cut(128.0, 128.0, 128.0, 128.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    >>> t = tile_cycles(machine(get("b200-sxm")), c, 2.0, True)
    >>> t.smem, t.exp
    (768.0, 1024.0)
    """
    width = c.head_dim + c.v_head_dim
    tensor = 2 * c.rows * c.keys * width / (m.flop_per_clock * (1.0 if asynchronous else m.mma_sync))
    if asynchronous:
        turns = ceil_div(c.rows, maximum(m.mma_rows, 1.0))
        read = (c.rows * c.head_dim + turns * c.keys * width) * (m.mma_rows > 0)
    else:
        read = c.rows / c.warp_rows * c.keys * width
    return TileCycles(tensor, read * element_bytes / m.smem_bytes_per_clock, c.rows * c.keys / m.exp_per_clock)


def tile_of(kernel: Kernel, s: Shape, causal: bool) -> tuple[Number, Number]:
    """The kernel's (rows, keys) for the head widths, each of which may be an array.

    >>> from attnmath.hardware.kernels import KERNELS
    >>> tile_of(KERNELS["flash-attention-3"], Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0), False)
    (128.0, 176.0)
    """
    table = kernel.tiles8 if kernel.tiles8 and s.q_bytes < 2 else kernel.tiles
    rows, keys = (_of(table[-1], causal)[i] + 0.0 * s.head_dim for i in (0, 1))
    for row in reversed(table[:-1]):
        fits = (s.head_dim <= row.head_dim) & (s.v_head_dim <= row.v_head_dim)
        r, c = _of(row, causal)
        rows, keys = where(fits, float(r), rows), where(fits, float(c), keys)
    return rows, keys


def _of(tile: Tile, causal: bool) -> tuple[int, int]:
    return tile.rows, tile.keys if causal or tile.full_keys is None else tile.full_keys


def _padded(kernel: Kernel, width: Number) -> Number:
    found = width
    for to in reversed(kernel.pads):
        found = where(width <= to, float(to), found)
    return found


def _resident(kernel: Kernel, m: Machine, rows: Number, keys: Number, d: Number, q_bytes: float) -> Number:
    """Blocks that a processor holds at once: as many as its shared memory lets, of those that the kernel wants."""
    if kernel.resident == 1:
        return 1.0
    fit = floor_div(m.smem_bytes, (rows + 2 * keys) * d * q_bytes)
    return minimum(maximum(fit, 1.0), float(kernel.resident))


def _prefill_splits(kernel: Kernel, m: Machine, blocks: Number, resident: Number, keys: Number) -> Number:
    """Into how many parts keys are cut where the grid does not fill the processors: parts of at least 512 keys."""
    if not kernel.split_prefill:
        return 1.0 + 0.0 * blocks
    room = m.processors * (1.0 if kernel.asynchronous else resident)
    parts = minimum(floor_div(room, blocks), maximum(keys / 512, 1.0))
    return where(blocks < FILLED * room, maximum(floor_div(parts, 1.0), 1.0), 1.0)


def _decode_groups(kernel: Kernel, s: Shape) -> tuple[Number, Number]:
    """(query heads that share a tile, how many such groups)."""
    group = s.heads / s.kv_heads
    alone = group < 0
    if "window" in kernel.unpacked_decode:
        alone = alone | (s.window > 0)
    if "wide" in kernel.unpacked_decode:
        alone = alone | (group > 32)
    group = where(alone, 1.0, group)
    return group, s.heads / group


def _decode_splits(kernel: Kernel, m: Machine, heads: Number, most: Number, group: Number) -> Number:
    room = m.processors * kernel.slots
    parts = minimum(minimum(maximum(floor_div(room, heads), 1.0), most), float(MOST_SPLITS))
    parts = where(heads >= FILLED * room, 1.0, parts)
    whole = most <= kernel.unsplit_blocks
    if "mha" in kernel.unpacked_decode:
        whole = whole | (group == 1)
    return where(whole, 1.0, maximum(parts, 1.0))


def _first_that_holds(tiles: tuple[int, ...], rows: Number) -> Number:
    """The first of some row tiles, in ascending order, that holds so many rows; the last for more."""
    found = 0.0 * rows + tiles[-1]
    for tile in reversed(tiles[:-1]):
        found = where(rows <= tile, float(tile), found)
    return found


def moved(
    size: Number, footprint: Number, m: Machine, k: Constants, efficiency: float, warm: bool
) -> tuple[Number, Number]:
    """Seconds at the memory's rate for what the L2 does not hold from the last run, and at the L2's rate for all.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.constants import built_in
    >>> from attnmath.hardware.machine import machine
    >>> slow_s, near_s = moved(3.35e9, 3.35e9, machine(get("h100-sxm")), built_in().shared, 1.0, True)
    >>> slow_s, near_s < slow_s
    (0.001, True)
    """
    missed = 1.0
    if warm:
        share = footprint * m.l2_partitions / m.l2_bytes  # each half keeps its own copy of what its processors read
        missed = minimum(maximum((share - k["l2_kept"]) / (k["l2_gone"] - k["l2_kept"]), 0.0), 1.0)
    hbm_s = size / (m.hbm_bytes_per_s * efficiency) * missed
    return hbm_s, size / (m.processors * k["l2_bytes_per_clock"] * m.clock_hz)


def _combine_s(m: Machine, k: Constants, splits: Number) -> Number:
    """Joining the parts of split keys: a launch or a barrier, and a loop that reads one part after the other."""
    return (splits > 1) * (k["combine_us"] * US * launch_share(m, k) + splits * k["part_cycles"] / m.clock_hz)


def launch_share(m: Machine, k: Constants) -> float:
    """Half of a launch is the same everywhere, half is cycles of the accelerator, stated at `reference_hz`.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> launch_share(machine(get("h100-sxm")), {"reference_hz": 1.98e9})
    1.0
    """
    return 0.5 + 0.5 * k["reference_hz"] / m.clock_hz
