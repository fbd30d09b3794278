"""Schedules: in which order the core's index space is walked, and in which tiles. A schedule changes no value.

    "b heads t/128 n/64"        a block of queries stays, keys stream by: FlashAttention-2
    "b heads n/64 t/128"        a block of keys stays, queries stream by, and their results come and go: FlashAttention
    "b kv z=8 (t shared)/64 n"  keys in 8 parts, combined at the end; heads that share their keys packed into one tile
    ""                          every equation a loop of its own: unfused

From the outermost loop to the innermost: an index of the page and its tile (1 if none is written). What no loop names is
whole inside every tile. `heads` are all indices of heads, `kv` those that keys have, `shared` the others; z=8 cuts the keys
into eight parts. How bytes follow from this is in `traffic.py`, how values do in `streams.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, NoSchedule, Unknown, nearest, printable, together
from attnmath.language.arith import Number
from attnmath.language.syntax import Cat, Equation, Group, Index, Program, Ref, letters, ops, refs
from attnmath.readings.count import core, recursive, tables
from attnmath.readings.memory import BITS

MAX_TEXT = 200  # characters of a schedule
MAX_TILE = 2**40
HEADS = ("h", "g", "r")
WORDS = ("heads", "kv", "shared")
PARTS = "z"


class Loop(Struct, frozen=True):
    """One loop: the index it steps along (several: packed into one, the first slowest), by so many places; or z, in parts."""

    index: tuple[str, ...]
    tile: int = 1

    def __str__(self) -> str:
        name = f"({' '.join(self.index)})" if len(self.index) > 1 else self.index[0]
        if name == PARTS:
            return f"{name}={self.tile}"
        return name if self.tile == 1 else f"{name}/{self.tile}"


class Schedule(Struct, frozen=True):
    """Loops, outermost first, and what is known of them. `in_turn`: parts of the keys come one after the other, and results
    travel between them; otherwise all at once, combined at the end. `spills`: scores and results leave the chip at each tile;
    `in_place`: results that come and go do so as they are stored. Of a backward pass, `statistics`: the numbers that say
    what a row of weights was divided by; `sums_first`: the rows' sums D are made before it, and not at each visit.
    """

    name: str
    loops: tuple[Loop, ...]
    meaning: str = ""
    on_chip: str = ""
    source: str = ""
    in_turn: bool = False
    spills: bool = False
    in_place: bool = False
    statistics: int = 1
    sums_first: bool = False

    def __str__(self) -> str:
        return " ".join(map(str, self.loops))

    def tile(self, index: str) -> int | None:
        """The tile along an index, None if no loop steps along it.

        >>> named("flash-2").tile("n")
        64
        """
        return next((x.tile for x in self.loops if index in x.index), None)

    @property
    def label(self) -> str:
        """How it is printed: its name, and its loops."""
        return f"{self.name}: {self}" if self.loops and self.name else self.name or str(self)


def _loops(text: str) -> tuple[Loop, ...]:
    """The loops that a text writes; every error at once."""
    if len(text) > MAX_TEXT:
        raise InputError(f"a schedule of {len(text)} characters; at most {MAX_TEXT}")
    found: list[Loop] = []
    errors: list[str] = []
    rest = text.strip()
    while rest:
        m = re.match(r"(?:\(([a-z][a-z0-9' ]*)\)|([a-z][a-z0-9']*))(?:([/=])([0-9]+))?(?=\s|$)", rest)
        if m is None:
            word = rest.split()[0]
            errors.append(f"{printable(word)!r} is no loop; write an index and its tile: t/128, n/64, (t r)/64, z=8")
            rest = rest[len(word) :].strip()
            continue
        index, sign = tuple((m[1] or m[2]).split()), m[3]
        tile = int(m[4]) if m[4] and len(m[4]) < 14 else 1 if m[4] is None else MAX_TILE + 1
        if not 1 <= tile <= MAX_TILE:
            errors.append(f"{m[0]}: a tile is a whole number from 1 to 2^40")
        elif index == (PARTS,) and (sign != "=" or tile < 1):
            errors.append(f"{m[0]}: say in how many parts the keys are cut: z=8")
        elif index != (PARTS,) and sign == "=":
            errors.append(f"{m[0]}: only z has a number of parts; a tile is written {' '.join(index)}/{tile}")
        found.append(Loop(index, tile))
        rest = rest[m.end() :].strip()
    names = [i for x in found for i in x.index]
    errors += [f"{i} twice: each index has one loop" for i in dict.fromkeys(names) if names.count(i) > 1]
    if errors:
        raise InputError(together(errors, f"schedule {printable(text)!r}:" if len(errors) > 1 else ""))
    return tuple(found)


RABE = "Rabe and Staats 2021, arXiv:2112.05682, sections 2 and 4; chunks of figure 1"
DAO = "Dao et al. 2022, arXiv:2205.14135, algorithm 1"
DAO2 = "Dao 2023, arXiv:2307.08691, algorithm 1; tile: flash-attention 2, head width 128 on A100"
SHAH = "Shah et al. 2024, arXiv:2407.08608; tile: flash-attention 3, head width 128, causal"
SPLIT = "Dao, Haziza, Massa and Sizov 2023, Flash-Decoding; tile: flash-attention 2, head width 128"
PAGED = "Kwon et al. 2023, arXiv:2309.06180, section 4.3; vLLM's pages of 16 tokens, whose table is not counted"
RING = "Liu, Zaharia and Abbeel 2023, arXiv:2310.01889, algorithm 1; what crosses the links is not counted here"
ACCUMULATORS = "scores and results"
SCHEDULES: dict[str, Schedule] = {
    s.name: s
    for s in (
        Schedule(
            "unfused", (), "every equation on its own, its result in memory", "nothing", "the equations themselves"
        ),
        Schedule(
            "memory-efficient",
            _loops("b heads t/1024 n/4096"),
            "chunks of queries against chunks of keys, in separate operations: scores and running sums lie in memory",
            "nothing",
            RABE,
            spills=True,
        ),
        Schedule(
            "flash-1",
            _loops("b heads n/192 t/128"),
            "a block of keys stays, queries stream by, their results come and go (tile: 192 KB, head width 128, 16 bits)",
            "keys, values and scores of a tile",
            DAO,
        ),
        Schedule(
            "flash-1-in-place",
            _loops("b heads n/192 t/128"),
            "the same to the letter of its algorithm: what comes and goes is the result itself, as it is stored",
            "keys, values and scores of a tile",
            f"{DAO}, line 12, and theorem 1: beside inputs and result, memory holds two numbers a row",
            in_place=True,
        ),
        Schedule(
            "flash-2",
            _loops("b heads t/128 n/64"),
            "a block of queries stays and keys stream by",
            f"queries, {ACCUMULATORS}",
            DAO2,
        ),
        Schedule(
            "flash-2-packed",
            _loops("b kv (t shared)/64 n/128"),
            "the same with the heads that share their keys in one tile, as for one new token",
            f"queries, {ACCUMULATORS}",
            "flash-attention 2, mha_fwd: of one query, groups of heads are swapped into the queries; its decoding tile",
        ),
        Schedule(
            "flash-3",
            _loops("b heads t/128 n/128"),
            "the same loops with loads and products overlapped, in tiles of a Hopper's shared memory",
            f"queries, {ACCUMULATORS}",
            SHAH,
        ),
        Schedule(
            "split-kv",
            _loops("b kv z=8 (t shared)/64 n/128"),
            "keys in parts at once, for few queries; each part's results are written, read again and combined",
            f"queries, {ACCUMULATORS} of a part",
            SPLIT,
        ),
        Schedule(
            "paged",
            _loops("b heads t n/16"),
            "one query against keys that lie in pages",
            f"the query, {ACCUMULATORS}",
            PAGED,
        ),
        Schedule(
            "ring",
            _loops("b heads z=8 t/128 n/64"),
            "each of 8 devices has a block of keys, which goes round; results wait in memory between blocks",
            f"queries, {ACCUMULATORS} within a block",
            RING,
            in_turn=True,
        ),
        Schedule(
            "recurrent",
            _loops("b heads t"),
            "a recursion, token by token, its state on the chip",
            "the state",
            "the order of the recursion itself",
        ),
        Schedule(
            "chunked",
            _loops("b heads c"),
            "a recursion, chunk by chunk, its state on the chip",
            "the state and a chunk",
            "Yang et al. 2024, arXiv:2312.06635, section 4: the non-materialising algorithm",
        ),
    )
}


DAO_BACK = "Dao et al. 2022, arXiv:2205.14135, algorithm 4"
DAO2_BACK = "Dao 2023, arXiv:2307.08691, algorithm 2; tile: flash-attention 2, head width 128 on A100"
SHAH_BACK = "Shah et al. 2024, arXiv:2407.08608, appendix B.1; tile: flash-attention 3, head width 128, causal"
KEYS_STAY = "a block of keys stays with its gradients, queries stream by, and the queries' gradients come and go"
TILES_BACK = "keys, values, gradients of both, scores and their gradients of a tile"
BACKWARD: dict[str, Schedule] = {  # the backward pass beside a forward one of that name
    s.name: s
    for s in (
        SCHEDULES["unfused"],
        Schedule("flash-1", _loops("b heads n/192 t/128"), KEYS_STAY, TILES_BACK, DAO_BACK, statistics=2),
        Schedule(
            "flash-1-in-place",
            _loops("b heads n/192 t/128"),
            KEYS_STAY,
            TILES_BACK,
            DAO_BACK,
            in_place=True,
            statistics=2,
        ),
        Schedule("flash-2", _loops("b heads n/128 t/64"), KEYS_STAY, TILES_BACK, DAO2_BACK, sums_first=True),
        Schedule("flash-3", _loops("b heads n/128 t/64"), KEYS_STAY, TILES_BACK, SHAH_BACK, sums_first=True),
    )
}


def backward(schedule: Schedule) -> Schedule:
    """The schedule of the backward pass beside that of a forward one: the row of its name, with other tiles if it has others;
    of loops without a name, the same loops. NoSchedule if its authors have none.

    >>> str(backward(named("flash-2"))), str(backward(parse("flash-1:t=64,n=384"))), str(backward(parse("b h t/64 n/64")))
    ('b heads n/128 t/64', 'b heads n/384 t/64', 'b h t/64 n/64')
    """
    if not schedule.name:
        return replace(schedule, sums_first=True)
    if schedule.name not in BACKWARD:
        raise NoSchedule(f"{schedule.name} has no backward pass here; these have: {', '.join(BACKWARD)}")
    row = BACKWARD[schedule.name]
    if schedule.loops == SCHEDULES[schedule.name].loops:
        return row
    return replace(row, loops=tuple(replace(x, tile=schedule.tile(x.index[0]) or x.tile) for x in row.loops))


def named(name: str) -> Schedule:
    """A row of the table; Unknown, with the nearest names, if there is none.

    >>> str(named("flash-2"))
    'b heads t/128 n/64'
    """
    if name not in SCHEDULES:
        raise Unknown("schedule", name, SCHEDULES)
    return SCHEDULES[name]


def parse(text: str) -> Schedule:
    """A schedule from what a user writes: a name, a name with other tiles or parts (`flash-2:t=64,n=128`), or loops.

    Raises InputError, with every complaint, for a loop that does not parse, a tile of 0, an index twice, an unknown name.

    >>> str(parse("split-kv:z=16")), parse("b h t/64 n/64").tile("t")
    ('b kv z=16 (t shared)/64 n/128', 64)
    """
    name, colon, settings = text.strip().partition(":")
    if not name:
        return named("unfused")
    if name in SCHEDULES or colon or ("-" in name and " " not in name):
        return _tiled(named(name[:MAX_TEXT]), settings)
    if re.fullmatch(r"[a-z]{3,}[0-9]*", name) and name not in WORDS:
        raise Unknown("schedule", name, SCHEDULES)
    return Schedule("", _loops(text))


def _tiled(row: Schedule, settings: str) -> Schedule:
    """A row with other tiles: `t=64,n=128,z=16`."""
    if len(settings) > MAX_TEXT:
        raise InputError(f"a schedule of more than {MAX_TEXT} characters")
    own = [x.index[0] for x in row.loops if x.tile != 1 or x.index[0] in ("t", "n", PARTS)]
    found: dict[str, int] = {}
    errors = []
    for part in settings.split(",") if settings else ():
        key, equals, value = part.strip().partition("=")
        if key not in own:
            errors.append(f"{printable(key)!r} has no tile in {row.name}: {nearest(key, own, 'tiles')}")
        elif not equals or not re.fullmatch(r"[0-9]{1,13}", value) or not 1 <= int(value) <= MAX_TILE:
            errors.append(f"{printable(part)!r}: a tile is a whole number from 1 to 2^40, as in {key}=64")
        else:
            found[key] = int(value)
    if errors:
        raise InputError(together(errors))
    return replace(row, loops=tuple(replace(x, tile=found.get(x.index[0], x.tile)) for x in row.loops))


def usual(page: Program, new_tokens: int) -> Schedule:
    """The schedule that is assumed if nobody says: FlashAttention-2 where queries meet keys (of one new token a sequence:
    with its heads packed), the recursion's own order else.

    >>> from attnmath import variants
    >>> [usual(variants.get(name).program, new).name for name, new in (("gqa", 9), ("gqa", 1), ("mamba2", 9))]
    ['flash-2', 'flash-2-packed', 'recurrent']
    """
    inside = {i for e in core(page) for x in (e.out, *e.alts) for i in letters(x)}
    if any(q == "t" for q, _ in page.sees):
        return SCHEDULES["flash-2-packed" if isinstance(new_tokens, int) and new_tokens == 1 else "flash-2"]
    return SCHEDULES["chunked" if "c" in inside else "recurrent"]


class Region(Struct, frozen=True):
    """The core as a schedule sees it: its equations, the key's index (None: a recursion), and its one softmax, if any: the
    equation, or of a softmax in parts the one that makes a row's maximum.
    """

    equations: tuple[Equation, ...]
    key: str | None
    softmax: Equation | None

    @property
    def index(self) -> tuple[str, ...]:
        """Every index in it."""
        return tuple(dict.fromkeys(i for e in self.equations for x in (e.out, *e.alts) for i in letters(x)))


def region(page: Program, equations: tuple[Equation, ...] | None = None) -> Region:
    """The core of a page that loops can walk, or those of its equations that are one pass; NoSchedule, naming what is in the
    way, otherwise.

    >>> from attnmath import variants
    >>> region(variants.get("mla").program).key
    'n'
    """
    inside = core(page) if equations is None else equations
    if not inside:
        raise NoSchedule("no query meets a key here: there is nothing to walk")
    found = [r for e in inside for x in (e.out, *e.alts) for r in refs(x)]
    free = tables(page)
    if any(_chosen(i, free) for r in found for i in r.index):
        raise NoSchedule("the data choose which keys are read: which of them share a tile is not known")
    if any(_joined(i) for r in found for i in r.index):
        raise NoSchedule("keys of two kinds in one softmax: no schedule here walks both")
    keys = [k for q, k in page.sees if q == "t" and set(k.split()) <= {d for r in found for d in letters(r)}]
    soft = [e for e in inside if any(o.name in NORMALISES for a in e.alts for o in ops(a))]
    if len(keys) > 1 or (keys and " " in keys[0]):
        raise NoSchedule("queries meet keys under several masks: no schedule here walks them together")
    if len(soft) > 1:
        raise NoSchedule("two softmaxes into one result: one pass over the keys cannot normalise both")
    if keys and recursive(page):
        raise NoSchedule("a recursion beside pairs of queries and keys: no schedule here walks both")
    along = [o.over for e in soft for a in e.alts for o in ops(a) if o.name in NORMALISES]
    if soft and (not keys or along != [(keys[0],)]):
        raise NoSchedule("a softmax along another axis than the keys'")
    if keys and not soft and (late := _needs_all_keys(inside, keys[0])):
        raise NoSchedule(
            f"`{late}` takes all keys of a row before the first one is used: no single pass over them has it; with "
            "recomputation selective it is made beforehand, where that is the same"
        )
    if scattered := [e for e in inside if any(refs(i) for i in e.out.index)]:
        raise NoSchedule(f"`{scattered[0]}` is written where a table or the data say: no schedule here walks that")
    if any(o.name == "topk" for e in inside for a in e.alts for o in ops(a)):
        raise NoSchedule("a selection needs all scores at once: no schedule here streams it")
    return Region(inside, keys[0] if keys else None, soft[0] if soft else None)


NORMALISES = ("softmax", "max")  # what makes a row's largest score: once in a softmax


def _needs_all_keys(inside: Iterable[Equation], key: str) -> Equation | None:
    """The equation that sums along a row what is then read along that row."""
    sums = {
        e.out.name: e
        for e in inside
        if key not in letters(e.out) and any(key in o.over for a in e.alts for o in ops(a))
    }
    read = [r.name for e in inside if key in letters(e.out) for r in e.reads]
    return next((sums[n] for n in read if n in sums), None)


def _chosen(i: Index, free: frozenset[str]) -> bool:
    """Whether an index reads where data say; where a table of positions says is known beforehand."""
    parts = i.parts if isinstance(i, (Group, Cat)) else (i,)
    return any(isinstance(p, Ref) and p.name not in free for p in parts)


def _joined(i: Index) -> bool:
    return isinstance(i, Cat) or (isinstance(i, str) and "|" in i)


def bound(schedule: Schedule, page: Program, own: Region | None = None) -> Schedule:
    """The schedule in a page's own indices: `heads`, `kv` and `shared` filled in, each loop over something that the core, or
    the pass over it that is given, has.

    Raises Unknown, with the nearest indices, for a loop over none; NoSchedule if the core cannot be walked so.

    >>> from attnmath import variants
    >>> str(bound(named("split-kv"), variants.get("gqa").program))
    'b g z=8 (t r)/64 n/128'
    """
    if not schedule.loops:
        return schedule
    own = own or region(page)
    heads = [i for i in HEADS if i in own.index]
    keyed = {
        d
        for e in own.equations
        for a in e.alts
        for r in refs(a)
        if own.key in r.index and "t" not in r.index
        for d in letters(r)
    }
    words = {"heads": heads, "kv": [i for i in heads if i in keyed], "shared": [i for i in heads if i not in keyed]}
    made: list[Loop] = []
    for x in schedule.loops:
        index = tuple(i for part in x.index for i in words.get(part, [part]))
        made += [replace(x, index=index)] if len(x.index) > 1 else [replace(x, index=(i,)) for i in index]
    _fits(made, schedule, own, page)
    return replace(schedule, loops=tuple(made))


def _fits(loops: Iterable[Loop], schedule: Schedule, own: Region, page: Program) -> None:
    """Whether these loops can walk this core."""
    loops = list(loops)
    names = [i for x in loops for i in x.index]
    results = {d for e in own.equations for d in letters(e.out)}
    known = [i for i in own.index if i in results] + ([PARTS] if own.key and PARTS not in own.index else [])
    shown = schedule.name or str(schedule)
    if own.key is None and "n" in names:
        raise NoSchedule(f"schedule {shown}: a recursion has no loop over keys; `recurrent` and `chunked` walk it")
    errors = []
    for i in names:
        if i not in known:
            errors.append(
                f"schedule {shown}: no loop here steps along {i!r}: {nearest(i, [*known, *WORDS], 'indices')}"
            )
        elif names.count(i) > 1:
            errors.append(f"schedule {shown}: {i} twice: each index has one loop")
    for x in loops:
        if len(x.index) > 1 and (x.index[0] != "t" or any(i not in HEADS for i in x.index[1:])):
            errors.append(f"schedule {shown}: {x}: only heads are packed, behind t: (t r)/64")
    if own.key and own.key in names and PARTS in names and names.index(PARTS) > names.index(own.key):
        errors.append(f"schedule {shown}: parts of the keys lie outside their tiles: z before {own.key}")
    inward = [i for i in names if i in ("t", own.key)]
    if PARTS in names and inward[:1] == [own.key] and "t" in inward and not schedule.in_turn:
        errors.append(
            f"schedule {shown}: parts that are combined at the end stream keys inside the queries: t before {own.key}"
        )
    if own.key is None and any(e.out.name in recursive(page) for e in own.equations) and not {"t", "c"} & set(names):
        errors.append(f"schedule {shown}: a recursion is walked along t or c")
    if errors:
        raise NoSchedule(together(dict.fromkeys(errors)))


class OnChip(Struct, frozen=True):
    """What one thread block holds: tiles in shared memory, accumulators in registers; both in bytes."""

    smem_bytes: int
    accumulator_bytes: int


def on_chip(schedule: Schedule, rows: int, cols: int, d: int, dv: int, dtype: str = "bf16", stages: int = 1) -> OnChip:
    """Bytes that one thread block holds for a tile of `rows` queries and `cols` keys, d and dv wide.

    Shared memory: tiles of queries, keys and values in `dtype`; of what streams by, `stages` of them in flight. Registers:
    scores (rows x cols), results (rows x dv) and two statistics a row, in float32. FlashAttention-2's own figure (its
    kernel_traits: queries, and a tile of keys and of values) and FlashAttention-3's (2 stages) are these.

    >>> on_chip(named("flash-2"), 128, 64, 128, 128), on_chip(named("flash-3"), 128, 128, 128, 128, stages=2).smem_bytes
    (OnChip(smem_bytes=65536, accumulator_bytes=99328), 163840)
    """
    sizes = {"rows": rows, "cols": cols, "d": d, "dv": dv, "stages": stages}
    if wrong := [f"{k}: {v!r} is no size: at least 1" for k, v in sizes.items() if not isinstance(v, int) or v < 1]:
        raise InputError(together(wrong))
    if dtype not in BITS:
        raise Unknown("dtype", dtype, BITS)
    tiles, accumulators = held(schedule, rows, cols, d, dv, stages)
    return OnChip(-(-tiles * BITS[dtype] // 8), 4 * accumulators)


def on_chip_backward(rows: int, cols: int, d: int, dv: int, dtype: str = "bf16", stages: int = 2) -> OnChip:
    """The same of a backward pass that holds a block of keys: `stages` tiles of queries in flight.

    Shared memory: tiles of Q (each stage), dO, K and V, and of P and dS, which pass through it to the next products.
    Registers: S and dP, in whose place a tile of dQ is made after them, and dK and dV, in float32. FlashAttention-2's own
    figure (kSmemSize1colblock in its kernel_traits.h; 144 KB in its flash_bwd_launch_template.h, of these two tiles) is this.

    >>> [on_chip_backward(*tile).smem_bytes // 1024 for tile in ((64, 128, 128, 128), (128, 128, 64, 64))]
    [144, 144]
    """
    sizes = {"rows": rows, "cols": cols, "d": d, "dv": dv, "stages": stages}
    if wrong := [f"{k}: {v!r} is no size: at least 1" for k, v in sizes.items() if not isinstance(v, int) or v < 1]:
        raise InputError(together(wrong))
    if dtype not in BITS:
        raise Unknown("dtype", dtype, BITS)
    tiles = rows * (d * stages + dv) + cols * (d + dv) + 2 * rows * cols
    return OnChip(-(-tiles * BITS[dtype] // 8), 4 * (max(2 * rows * cols, rows * d) + cols * (d + dv)))


def held(
    schedule: Schedule, rows: Number, cols: Number, d: Number, dv: Number, stages: Number = 1
) -> tuple[Number, Number]:
    """How many elements `on_chip` counts: of tiles, and of accumulators; integers or symbols.

    >>> held(named("flash-2"), 128, 64, 128, 128)
    (32768, 24832)
    """
    order = [i for x in schedule.loops for i in x.index if i in ("t", "n")]
    queries, keys = rows * d, cols * (d + dv)
    tiles = queries * stages + keys if order[:1] == ["n"] else queries + keys * stages
    scores = 0 if schedule.spills else rows * cols
    return tiles, scores + rows * dv + 2 * rows


def misfit(need: OnChip, smem_bytes: int, register_bytes: int) -> str:
    """Why a thread block with these needs does not fit these limits; empty if it does.

    >>> misfit(on_chip(named("flash-3"), 128, 256, 128, 128, stages=2), 232448, 262144)
    'shared memory: 294,912 bytes of tiles, 232,448 there are'
    """
    why = []
    if need.smem_bytes > smem_bytes:
        why.append(f"shared memory: {need.smem_bytes:,} bytes of tiles, {smem_bytes:,} there are")
    if need.accumulator_bytes > register_bytes:
        why.append(f"registers: {need.accumulator_bytes:,} bytes of accumulators, {register_bytes:,} there are")
    return "; ".join(why)
