"""Tile search: the tiles that fit an accelerator for a shape, how long each would take, and what each would load.

Every tile is timed with the constants of the kernel that the engine runs, which were fitted to that kernel's own tiles: what
another tile would take is an extrapolation. Loads are counted with no cache behind them: keys and values once for each
visit of a tile.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.hardware.blocks import Need, Sizes, limits_of, need, rules_of
from attnmath.hardware.estimates import Job
from attnmath.hardware.kernels import IDEAL, KERNELS, Kernel
from attnmath.hardware.timing import Block, Cut, Shape, Times, cut, cut_into
from attnmath.language.arith import Number, ceil_div, floor_div, maximum, minimum, where

STEP, MOST = 16, 256  # of query rows and of keys that are tried
SHIPPED = {  # phase: kernel whose tile stands beside the best
    False: ("flash-attention-2-dense", "flash-attention-3"),
    True: ("flash-attention-2", "flash-attention-3"),
}


class Candidate(Struct, frozen=True):
    """A tile that fits, and what it comes to.

    `stages`: pairs of key and value tiles that fit beside as many resident blocks, at most as many as kernels use; `waves`: of
    blocks over all that processors hold at once; `wave_loss`: what rounding them up costs at the most; `tile_efficiency`:
    pairs that the mask leaves, of those in the tiles visited; `loaded_bytes`: moved with no cache; `time_s` with the
    launch, an estimate; `binds`: the unit that is busy longest.
    """

    rows: int
    keys: int
    stages: float
    threads: int
    smem_bytes: int
    registers: int
    weights_in: str
    resident: int
    blocks: int
    splits: int
    waves: float
    wave_loss: float
    tile_efficiency: float
    loaded_bytes: int
    kernel_time_s: float
    time_s: float
    binds: str


class Shipped(Struct, frozen=True):
    """A tile that a kernel ships, as it would do here; None, and why, where it does not fit.

    `time_ratio`, `loaded_ratio`: over the best of all tiles, by time and by loads; `place` among them by time, from 1.
    """

    kernel: str
    rows: int
    keys: int
    misfit: str | None
    candidate: Candidate | None
    place: int | None
    time_ratio: float | None
    loaded_ratio: float | None


class Search(Struct, frozen=True):
    """All tiles that fit, the fastest first; `tried` of them, `refused` by what they lack."""

    instruction: str
    kernel: str
    tried: int
    refused: dict[str, int]
    candidates: list[Candidate]
    best_by_time: Candidate
    best_by_loads: Candidate
    shipped: list[Shipped]
    assumed: list[str]


def search(job: Job) -> Search:
    """Every tile of multiples of 16 up to 256 by 256 that fits, timed as the engine's kernel would run it.

    Raises InputError where no rules are known for the accelerator, or nothing fits.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.estimates import job
    >>> found = search(job(Shape(1.0, 8192.0, 8192.0, 32.0, 8.0, 128.0, 128.0), get("h100-sxm")))
    >>> [(x.kernel, x.rows, x.keys, x.misfit) for x in found.shipped]
    [('flash-attention-3', 128, 128, None), ('flash-attention-2-dense', 128, 64, None)]
    """
    bench = _Bench(job)
    found: list[Candidate] = []
    refused: dict[str, int] = {}
    tried = 0
    for rows in bench.row_tiles():
        for keys in range(STEP, MOST + 1, STEP):
            tried += 1
            made = bench.candidate(rows, keys)
            if isinstance(made, Candidate):
                found.append(made)
            else:
                for why in made.misfits:
                    lacking = why.partition(":")[0]
                    refused[lacking] = refused.get(lacking, 0) + 1
    if not found:
        s = job.shape
        raise InputError(f"no tile fits {job.gpu.name} at head widths of {s.head_dim:g} and {s.v_head_dim:g}")
    found.sort(key=lambda c: (c.time_s, c.loaded_bytes, c.smem_bytes))
    least = min(found, key=lambda c: (c.loaded_bytes, c.time_s))
    own = [bench.shipped(name, found, least) for name in dict.fromkeys((job.kernel, *SHIPPED[job.decodes]))]
    return Search(
        instruction=bench.rules.instruction,
        kernel=job.kernel,
        tried=tried,
        refused=refused,
        candidates=found,
        best_by_time=found[0],
        best_by_loads=least,
        shipped=own,
        assumed=[
            f"every tile runs with the constants of {job.kernel}, fitted to its own tiles"
            if job.engine != IDEAL
            else "no tile has overheads",
            f"{bench.rules.other_registers} registers of a thread hold no tile",
        ],
    )


class _Bench:
    """One shape on one accelerator: what all its tiles have in common."""

    def __init__(self, job: Job) -> None:
        self.job, self.shape = job, job.shape
        self.kernel: Kernel = KERNELS[job.kernel]
        self.rules, self.limits = rules_of(job.gpu, self.kernel.asynchronous), limits_of(job.gpu)

    def row_tiles(self) -> list[int]:
        """Multiples of what the instruction takes; of fewer new tokens the kernels that swap operands take 16, 32, 64."""
        found = [r for r in range(STEP, MOST + 1, STEP) if r % self.rules.rows == 0]
        return list(self.kernel.decode_rows) if self.job.decodes and len(self.kernel.decode_rows) > 1 else found

    def need(self, rows: int, keys: int) -> tuple[float, Need]:
        """(stages, what a block needs): with the most stages that leave as many blocks resident as the fewest do."""
        kept: tuple[float, Need] | None = None
        for stages in self.rules.stages:
            made = need(self.rules, self.limits, sizes_of(self.shape, rows, keys, stages))
            if kept is None or (made.resident and self._held(made) == self._held(kept[1])):
                kept = (stages, made)
        assert kept is not None
        return kept

    def _held(self, n: Need) -> int:
        return min(n.resident, self.kernel.resident)

    def candidate(self, rows: int, keys: int) -> Candidate | Need:
        """The tile's figures; what it needs if it does not fit."""
        stages, n = self.need(rows, keys)
        if n.misfits:
            return n
        s, k = self.shape, self.kernel
        paired = k.paired_rows and rows > self.rules.rows
        block = Block(float(rows), float(keys), float(self._held(n)), float(n.warp_rows), paired)
        c = cut_into(s, self.job.rates, k, self.job.decodes, block)
        t = self.job.times(c)
        waves = waves_of(c, self.job.rates.processors)
        return Candidate(
            rows=rows,
            keys=keys,
            stages=stages,
            threads=n.threads,
            smem_bytes=n.smem_bytes,
            registers=n.registers,
            weights_in=n.weights_in,
            resident=int(c.resident),
            blocks=int(c.blocks),
            splits=int(c.splits),
            waves=waves,
            wave_loss=ceil(waves) / waves,
            tile_efficiency=efficiency(s, c),
            loaded_bytes=int(loaded_bytes(s, c, self.job.decodes)),
            kernel_time_s=t.kernel_s,
            time_s=t.time_s,
            binds=slowest(t),
        )

    def shipped(self, name: str, found: list[Candidate], least: Candidate) -> Shipped:
        """A kernel's own tile, the fastest if it has several, beside the best ones."""
        cuts = cut(self.shape, self.job.rates, KERNELS[name], self.job.decodes)
        tiles = [(int(c.rows), int(c.keys)) for c in cuts]
        fits = [c for c in (self.candidate(*t) for t in tiles) if isinstance(c, Candidate)]
        if not fits:
            return Shipped(name, *tiles[0], "; ".join(self.need(*tiles[0])[1].misfits), None, None, None, None)
        own = min(fits, key=lambda c: c.time_s)
        place = 1 + sum(c.time_s < own.time_s for c in found)
        ratios = own.time_s / found[0].time_s, own.loaded_bytes / least.loaded_bytes
        return Shipped(name, own.rows, own.keys, None, own, place, *ratios)


def sizes_of(s: Shape, rows: int, keys: int, stages: float) -> Sizes:
    """A shape's tile as a block holds it.

    >>> sizes_of(Shape(1.0, 1.0, 8192.0, 32.0, 8.0, 128.0, 128.0), 64, 128, 2).v_head_dim
    128
    """
    return Sizes(rows, keys, int(s.head_dim), int(s.v_head_dim), stages, s.q_bytes, s.kv_bytes, s.latent)


def slowest(t: Times) -> str:
    """The unit that is busy longest, or launch if launching takes longer than the kernel.

    >>> slowest(Times(2.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.9))
    'tensor'
    """
    return "launch" if t.launch_s > t.kernel_s else max(t.units, key=lambda u: t.units[u])


def waves_of(c: Cut, processors: Number) -> Number:
    """Blocks over all that the processors hold at once, not rounded.

    >>> waves_of(Cut(128.0, 128.0, 128.0, 128.0, 1.0, 3.0, 6.0, 3.0, 1.0, 99.0, 1.0, 2.0, 1.0), 132.0)
    0.375
    """
    return c.blocks / (processors * c.resident)


def pairs(s: Shape) -> Number:
    """Pairs of a query and a key that the mask leaves, of one head of one sequence.

    >>> pairs(Shape(1.0, 4.0, 6.0, 1.0, 1.0, 128.0, 128.0, window=4.0)), pairs(Shape(1.0, 4.0, 4.0, 1.0, 1.0, 64.0, 64.0))
    (15.0, 10.0)
    """
    if not s.causal:
        return s.seq * s.context
    past = s.context - s.seq
    reach = where(s.window > 0, s.window, s.context)
    whole = minimum(maximum(reach - past, 0.0), s.seq)  # tokens whose window goes back to the first key
    return whole * past + whole * (whole + 1) / 2 + (s.seq - whole) * reach


def efficiency(s: Shape, c: Cut) -> Number:
    """Pairs that the mask leaves over pairs in the tiles that are visited; the rest is computed for nothing.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> s = Shape(1.0, 256.0, 256.0, 1.0, 1.0, 128.0, 128.0)
    >>> c = cut_into(s, machine(get("h100-sxm")), KERNELS["flash-attention-3"], False, Block(128.0, 128.0))
    >>> c.visits, round(efficiency(s, c), 3)
    (3.0, 0.669)
    """
    return s.batch * s.heads * pairs(s) / (c.grids * c.visits * c.rows * c.keys)


def loaded_bytes(s: Shape, c: Cut, decodes: bool = False) -> Number:
    """Bytes that blocks load and store with no cache: keys and values at each visit, queries and results once.

    The last tile of keys ends where the keys do. Where keys are split, each part's results and sums are written in fp32
    and read again.

    >>> from attnmath.hardware import get
    >>> from attnmath.hardware.machine import machine
    >>> s = Shape(1.0, 256.0, 256.0, 1.0, 1.0, 128.0, 128.0)
    >>> c = cut_into(s, machine(get("h100-sxm")), KERNELS["flash-attention-3"], False, Block(128.0, 128.0))
    >>> loaded_bytes(s, c) == 3 * 128 * 256 * 2 + 2 * 256 * 128 * 2
    True
    """
    streams = c.grids * (c.visits * c.keys - _beyond(s, c, decodes)) * s.cached * s.kv_bytes
    queries = s.batch * s.seq * s.heads * s.head_dim * s.q_bytes
    results = s.batch * s.seq * s.heads * s.v_head_dim
    return streams + queries + results * 2 + (c.splits > 1) * c.splits * 2 * 4 * (results + s.batch * s.seq * s.heads)


def _beyond(s: Shape, c: Cut, decodes: bool) -> Number:
    """Places behind the last key in all tiles that a group's query tiles visit: of those that reach the last tile."""
    if decodes or not s.causal:
        seen = minimum(s.context, where(decodes and s.window > 0, s.window + s.seq - 1, s.context))
        return c.query_tiles * (ceil_div(seen, c.keys) * c.keys - seen)
    past, tiles = s.context - s.seq, ceil_div(s.context, c.keys)
    short = floor_div(maximum((tiles - 1) * c.keys - past, 0.0) * c.group, c.rows)  # that end before it
    return (c.query_tiles - minimum(short, c.query_tiles - 1)) * (tiles * c.keys - s.context)
