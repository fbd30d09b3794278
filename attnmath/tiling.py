"""`tile`: how an engine's kernel cuts a core up on an accelerator, what limits it, how long it takes, and other tiles."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.hardware import get
from attnmath.hardware.blocks import limits_of, need, rules_of
from attnmath.hardware.constants import of_gpu
from attnmath.hardware.estimates import Job, job, kernel_shape
from attnmath.hardware.kernels import IDEAL, KERNELS, TITLES
from attnmath.hardware.search import Search, efficiency, loaded_bytes, pairs, search, sizes_of, waves_of
from attnmath.hardware.timing import Cut, Times, overlapped, tile_work
from attnmath.results import Cost, ErrorBand, document

SCHEMA = "attnmath.tile/1"


class Grid(Struct, frozen=True):
    """How the work is cut: tiles of `rows` by `keys`, of heads padded to `head_dim` and `v_head_dim`.

    `group`: query heads that share a tile; `query_tiles`, `visits`, `pairs`: of one group of heads of one sequence, tiles
    of queries, tiles of keys that they visit, and pairs that the mask leaves of one head; `tile_efficiency`: those pairs
    over all in the tiles; `splits`: parts of the keys; `resident`: blocks that a processor holds at once; `waves`: of
    blocks, not rounded; `wave_loss`: what rounding them up costs at the most; `loaded_bytes`: moved with no cache.
    """

    rows: int
    keys: int
    head_dim: int
    v_head_dim: int
    group: int
    groups: int
    query_tiles: int
    visits: int
    pairs: int
    tile_efficiency: float
    splits: int
    blocks: int
    processors: int
    resident: int
    waves: float
    wave_loss: float
    loaded_bytes: int
    compulsory_bytes: int


class Footprint(Struct, frozen=True):
    """What one block needs by the rules of its instruction, and what it may use: bytes, registers per thread.

    `misfits`: what a tile lacks by these rules though a kernel runs it: then the kernel does something else.
    """

    instruction: str
    stages: float
    threads: int
    smem_bytes: int
    smem_block_bytes: int
    registers: int
    register_limit: int
    tensor_memory_bytes: int
    weights_in: str
    misfits: list[str]


class Line(Struct, frozen=True):
    """One number's equation: its name, the equation, the same with numbers in it, and what it comes to."""

    name: str
    equation: str
    numbers: str
    value: float
    unit: str = ""


class Tiling(Struct, frozen=True, rename={"with_": "with"}):
    """A core on an accelerator as an engine's kernel runs it; times in seconds, estimates but for `time_bound_s`.

    `busy`: the part of the kernel's time that each unit works; `binds`: the one that works longest, or launch; `tail_s`: what
    the last wave adds. `footprint`, `search` None: why
    stands in `absent`.
    """

    gpu: str
    title: str
    variant: str
    form: str | None
    with_: list[str]
    phase: str
    inputs: dict[str, Any]
    assumed: dict[str, Any]
    engine: str
    kernel: str
    kernel_title: str
    source: str
    grid: Grid
    footprint: Footprint | None
    unit_s: dict[str, float]
    busy: dict[str, float]
    binds: str
    tail_s: float
    kernel_time_s: float
    launch_time_s: float
    time_s: float
    time_error_band: ErrorBand | None
    time_bound_s: float | None
    time_bound_by: str | None
    estimated_with: list[str]
    trace: list[Line]
    search: Search | None
    absent: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema tile` describes it."""
        return {"schema": SCHEMA, **document(self)}


def tiling(c: Cost) -> Tiling:
    """How an engine's kernel runs a core, both as its cost names them.

    Raises InputError, saying why, without an accelerator, for a core that no modelled kernel runs, and where a figure of the
    accelerator is absent.

    >>> from attnmath.costs import cost
    >>> t = tiling(cost("gqa", seq=8192, heads=32, kv_heads=8, gpu="h100-sxm"))
    >>> t.kernel, (t.grid.rows, t.grid.keys), t.grid.blocks, t.binds, round(t.grid.tile_efficiency, 3)
    ('flash-attention-3', (128, 128), 2048, 'tensor', 0.985)
    """
    if c.gpu is None:
        raise InputError("tiles are an accelerator's: give a --gpu; `attnmath gpus` lists them")
    if c.model is not None:
        raise InputError("a tiling is of one layer: name a variant")
    if c.estimate is None or c.time_s is None:
        raise InputError(c.time_note)
    reading, gpu, engine = c.readings[0], get(c.gpu_file or c.gpu), c.estimate.engine
    decodes, warm = c.phase == "decode", c.l2 == "warm"
    work = job(kernel_shape(reading), gpu, engine, reading.dtype, decodes, warm, of_gpu(c.gpu_file))
    own, times = work.cut(), work.times()
    grid = _grid(work, own, int(c.hbm_bytes.compulsory or 0))
    kernel = KERNELS[work.kernel]
    tiles, why, needed = None, None, None
    try:
        needed = _footprint(work, own)
        tiles = search(work)
    except InputError as error:
        why = str(error)
    return Tiling(
        gpu=gpu.name,
        title=gpu.title,
        variant=c.variant,
        form=c.form,
        with_=c.with_,
        phase=c.phase,
        inputs=c.inputs,
        assumed=c.assumed,
        engine=engine,
        kernel=work.kernel,
        kernel_title=kernel.title,
        source=kernel.source,
        grid=grid,
        footprint=needed,
        unit_s=times.units,
        busy=c.estimate.busy,
        binds=c.estimate.binds,
        tail_s=times.tail_s,
        kernel_time_s=c.estimate.kernel_time_s,
        launch_time_s=c.estimate.launch_time_s,
        time_s=c.time_s,
        time_error_band=c.time_error_band,
        time_bound_s=c.time_bound_s.fused,
        time_bound_by=c.time_bound_by,
        estimated_with=c.estimate.assumed,
        trace=list(_trace(work, own, grid, needed, times)),
        search=tiles,
        absent=why,
    )


def _grid(work: Job, own: Cut, compulsory: int) -> Grid:
    s = work.shape
    waves = waves_of(own, work.rates.processors)
    return Grid(
        rows=int(own.rows),
        keys=int(own.keys),
        head_dim=int(own.head_dim),
        v_head_dim=int(own.v_head_dim),
        group=int(own.group),
        groups=int(own.grids),
        query_tiles=int(own.query_tiles),
        visits=int(own.visits),
        pairs=int(pairs(s)),
        tile_efficiency=efficiency(s, own),
        splits=int(own.splits),
        blocks=int(own.blocks),
        processors=int(work.rates.processors),
        resident=int(own.resident),
        waves=waves,
        wave_loss=ceil(waves) / waves,
        loaded_bytes=int(loaded_bytes(s, own, work.decodes)),
        compulsory_bytes=compulsory,
    )


def _footprint(work: Job, own: Cut) -> Footprint:
    """Of the kernel's own tile, with the stages that kernels take, or with the fewest if these do not fit."""
    rules, limits = rules_of(work.gpu, KERNELS[work.kernel].asynchronous), limits_of(work.gpu)
    ways = [
        (stages, need(rules, limits, sizes_of(work.shape, int(own.rows), int(own.keys), stages)))
        for stages in dict.fromkeys((rules.usual_stages, rules.stages[0]))
    ]
    stages, n = next((way for way in ways if not way[1].misfits), ways[-1])
    return Footprint(
        rules.instruction,
        stages,
        n.threads,
        n.smem_bytes,
        limits.smem_block_bytes,
        n.registers,
        n.register_limit,
        n.tensor_memory_bytes,
        n.weights_in,
        list(n.misfits),
    )


def _trace(work: Job, own: Cut, g: Grid, n: Footprint | None, t: Times) -> Iterator[Line]:
    """The equations behind the numbers, in the order in which they follow."""
    s = work.shape
    yield Line(
        "query tiles", "ceil(group * new tokens / rows)", f"ceil({g.group} * {int(s.seq)} / {g.rows})", g.query_tiles
    )
    yield _visits(work, g)
    yield Line(
        "tile efficiency",
        "batch * heads * pairs / (groups * visits * rows * keys)",
        f"{int(s.batch)} * {int(s.heads)} * {g.pairs} / ({g.groups} * {g.visits} * {g.rows} * {g.keys})",
        g.tile_efficiency,
    )
    yield Line("blocks", "groups * query tiles * splits", f"{g.groups} * {g.query_tiles} * {g.splits}", g.blocks)
    yield Line("waves", "blocks / (processors * resident)", f"{g.blocks} / ({g.processors} * {g.resident})", g.waves)
    width = int(s.cached)
    streams = f"{g.groups} * {g.visits} * {g.keys} * {width} * {s.kv_bytes:g}"
    rest = g.loaded_bytes - int(own.grids * own.visits * own.keys * width * s.kv_bytes)
    parts = " + parts of splits" * (g.splits > 1)
    yield Line(
        "loaded",
        f"groups * visits * keys * cached width * bytes + queries and results{parts} - places behind the last key",
        f"{streams} + {rest}",
        g.loaded_bytes,
        "bytes",
    )
    if n:
        yield Line(
            "shared memory",
            "rows * d * bytes + stages * keys * cached width * bytes"
            + " + rows * keys * bytes" * (n.weights_in == "shared memory"),
            f"{g.rows} * {int(s.head_dim)} * {s.q_bytes:g} + {n.stages:g} * {g.keys} * {int(s.cached)} * {s.kv_bytes:g}"
            + f" + {g.rows} * {g.keys} * {s.q_bytes:g}" * (n.weights_in == "shared memory"),
            n.smem_bytes,
            "bytes",
        )
    yield from _units(work, own, g, t)


def _visits(work: Job, g: Grid) -> Line:
    """Tiles of keys that the query tiles of a group visit."""
    s = work.shape
    seq, context, past, window = int(s.seq), int(s.context), int(s.context - s.seq), int(s.window)
    if work.decodes or not s.causal:
        sliding = work.decodes and window > 0
        seen = "min(context, window + new tokens - 1)" if sliding else "context"
        shown = f"min({context}, {window} + {seq} - 1)" if sliding else f"{context}"
        numbers = f"{g.query_tiles} * ceil({shown} / {g.keys})"
        return Line("visits", f"query tiles * ceil({seen} / keys)", numbers, g.visits)
    words = "sum over query tiles i of ceil(min(past + ceil(rows * (i + 1) / group), context) / keys)"
    numbers = f"ceil(min({past} + ceil({g.rows} * (i + 1) / {g.group}), {context}) / {g.keys})"
    if window:
        words += " - floor(max(past + floor(rows * i / group) - window + 1, 0) / keys)"
        numbers += f" - floor(max({past} + floor({g.rows} * i / {g.group}) - {window} + 1, 0) / {g.keys})"
    return Line("visits", words, f"sum of {numbers} for i = 0 .. {g.query_tiles - 1}", g.visits)


def _units(work: Job, own: Cut, g: Grid, t: Times) -> Iterator[Line]:
    """How long each unit works, and what the last wave adds."""
    m, k, kernel = work.rates, work.constants, KERNELS[work.kernel]
    flop = m.flop_per_clock * (1.0 if kernel.asynchronous else m.mma_sync) * m.sustained
    at = f"({g.processors} * {m.clock_hz:.6g})"
    tiles = f"{g.groups} * {g.visits}"
    scores = f"{tiles} * {g.rows} * {g.keys}"
    unit = tile_work(work.shape, m, kernel, k, own, work.decodes)
    read, instructions = unit.smem * m.smem_bytes_per_clock, unit.fp32 * m.fp32_lanes / (own.rows * own.keys)
    yield Line(
        "tensor",
        "visited scores * 2 * (d + dv) / (FLOP per clock, sustained) / (processors * clock)",
        f"{scores} * 2 * {g.head_dim + g.v_head_dim} / {flop:.6g} / {at}",
        t.tensor_s,
        "s",
    )
    yield Line(
        "exp",
        "visited scores / exponentials per clock / (processors * clock)",
        f"{scores} / {m.exp_per_clock:g} / {at}",
        t.exp_s,
        "s",
    )
    yield Line(
        "fp32",
        "visited scores * instructions of a score / lanes / (processors * clock)",
        f"{scores} * {instructions:.6g} / {m.fp32_lanes:g} / {at}",
        t.fp32_s,
        "s",
    )
    yield Line(
        "smem",
        "visited tiles * bytes that matrix instructions read / bytes per clock / (processors * clock)",
        f"{tiles} * {read:.6g} / {m.smem_bytes_per_clock:g} / {at}",
        t.smem_s,
        "s",
    )
    hbm, l2 = m.hbm_bytes_per_s * k["hbm_efficiency"], k["l2_bytes_per_clock"]
    warm = " that the L2 does not hold" * work.warm
    yield Line(
        "hbm", f"bytes{warm} / bandwidth that is reached", f"{t.hbm_s * hbm:.6g} / {hbm:.6g}", t.hbm_s, "s"
    )  # fmt: skip
    moved = t.l2_s * g.processors * l2 * m.clock_hz
    yield Line("l2", "bytes / bytes per clock / (processors * clock)", f"{moved:.6g} / {l2:.6g} / {at}", t.l2_s, "s")
    yield from _kernel_time(work, own, t)


def _kernel_time(work: Job, own: Cut, t: Times) -> Iterator[Line]:
    """How the units' times make the kernel's."""
    k, kernel = work.constants, KERNELS[work.kernel]
    unit = tile_work(work.shape, work.rates, kernel, k, own, work.decodes)
    matrix, scalar = unit.matrix, unit.scalar
    overlap = k["overlap"] if work.decodes else overlapped(kernel, k, own)
    yield Line(
        "pair of tiles",
        "max(matrix, scalar) + (1 - overlap) * min(matrix, scalar), "
        f"matrix = {'tensor' if work.decodes else 'max(tensor, smem)'} at the rate that is reached, scalar = exp + fp32",
        f"max({matrix:.6g}, {scalar:.6g}) + (1 - {overlap:.6g}) * min({matrix:.6g}, {scalar:.6g})",
        unit.pair(overlap),
        "cycles",
    )
    if work.decodes:
        compute = "waves * (prologue + tiles of a part * max(their load, pairs of those that share a processor))"
        rest = "what queries and results alone take, joining parts, tokens"
    else:
        compute = (
            "max(even share of blocks + last wave, longest block), block = prologue + visits * (pair + bookkeeping)"
        )
        rest = "exposed * what queries and results alone take, the pass that writes the cache"
    yield Line("compute", compute, f"{t.compute_s:.6g}", t.compute_s, "s")
    most = max(t.compute_s, t.hbm_s, t.l2_s)
    yield Line(
        "kernel time",
        f"max(compute, hbm, l2) + what nothing hides: {rest}",
        f"max({t.compute_s:.6g}, {t.hbm_s:.6g}, {t.l2_s:.6g}) + {t.kernel_s - most:.6g}",
        t.kernel_s,
        "s",
    )


def engine_title(engine: str) -> str:
    """An engine as its makers write it.

    >>> engine_title("vllm"), engine_title("ideal")
    ('vLLM', 'an ideal kernel')
    """
    return "an ideal kernel" if engine == IDEAL else TITLES[engine]
