"""A block of rows, evaluated: rows are grouped by what makes their page, then by what makes their kernel.

A group's page is read once, for all of its rows; so is a kernel's time, over all accelerators and layers that run it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import Struct, structs

from attnmath import hardware
from attnmath.errors import AttnmathError, InputError, NoClosedForm
from attnmath.hardware import estimates
from attnmath.hardware.collectives import COLLECTIVES, IN_SWITCH, collective, links_of
from attnmath.hardware.constants import of_gpu
from attnmath.hardware.estimates import Job
from attnmath.hardware.gemm import Product
from attnmath.hardware.kernels import KERNELS, library_of
from attnmath.hardware.machine import Machine, machine
from attnmath.hardware.roofline import bound
from attnmath.hardware.timing import UNITS, Shape
from attnmath.language.letters import OPTIONS
from attnmath.readings.memory import bits
from attnmath.sweeping import counting
from attnmath.sweeping.cells import EXACT, Block, Names, Problems
from attnmath.sweeping.columns import DEFAULT_VARIANT
from attnmath.sweeping.counting import OTHERS, Counts, Kind

KIND = ("op", "variant", "with", "phase", "form", "mask", "schedule", "dtype", "kv_dtype")
DEFAULTS = {
    "op": "attention", "variant": None, "phase": "prefill", "dtype": "bf16", "l2": "cold", "engine": estimates.DEFAULT_ENGINE
}  # fmt: skip
NUMBERS = ("flops", "hbm_bytes", "time_bound_s", "time_s", "kernel_time_s", "launch_time_s")
BINDS = (*UNITS, "launch", "link")
WIDEST = 256  # of a head with keys and values of its own (flash-attention and its kin take no wider one)
WIDTHS = sorted({k.widest for k in KERNELS.values()})
SHAPE = ("batch", "seq", "context", "heads", "kv_heads", "head_dim", "v_head_dim", "window")


class Results(Struct, frozen=True):
    """The added columns of a block. Numbers are float64, NaN where there is none, and integers that it does not hold exactly
    in `exact`, by row; names are places in their lists, -1 where there is none.
    """

    numbers: dict[str, Any]
    exact: dict[str, dict[int, int]]
    bound: Any
    kernel: Any
    kernels: list[str]
    note: Any
    notes: list[str]


@lru_cache(256)
def _gpu(name: str) -> hardware.Gpu:
    return hardware.get(name)


class _Work:
    """What is known of a block's rows so far."""

    def __init__(self, block: Block, problems: Problems) -> None:
        self.block, self.problems = block, problems
        n = block.rows
        self.numbers = {k: np.full(n, np.nan) for k in (*NUMBERS, "matmul", "exps")}
        self.exact: dict[str, dict[int, int]] = {"flops": {}, "hbm_bytes": {}}
        self.shape = {k: np.zeros(n) for k in SHAPE}
        self.causal, self.latent = np.zeros(n, bool), np.zeros(n, bool)
        self.decodes, self.trains = np.zeros(n, bool), np.zeros(n, bool)
        self.kernels: list[str] = []
        self.notes: list[str] = []
        self.kernel, self.note = np.full(n, -1), np.full(n, -1)
        self.bound = np.full(n, -1)
        self.op = np.full(n, "attention", "U10")

    @property
    def timed(self) -> Any:
        """The rows that name an accelerator."""
        gpus = self.texts("gpu")
        return np.array([t is not None for t in gpus.texts])[gpus.codes]

    def texts(self, column: str) -> Names:
        found = self.block.names.get(column)
        default = DEFAULTS.get(column)
        if found is None:
            return Names(np.zeros(self.block.rows, np.int64), (default,))
        return Names(found.codes, tuple(default if t is None else t for t in found.texts))

    def say(self, rows: Any, why: str) -> None:
        why = why.replace(":\n  ", ": ").replace("\n  ", "; ").replace(",", ";")  # nothing that a CSV has to quote
        if why not in self.notes:
            self.notes.append(why)
        self.note[rows] = self.notes.index(why)

    def run_by(self, rows: Any, kernel: str) -> None:
        if kernel not in self.kernels:
            self.kernels.append(kernel)
        self.kernel[rows] = self.kernels.index(kernel)


def evaluate(block: Block, problems: Problems) -> Results:
    """The added columns of a block of rows; what is wrong with a row is added to the problems.

    >>> from attnmath.sweeping.cells import Sizes
    >>> sizes = {"seq": Sizes(np.array([1024.0, 8192.0]), {}), "heads": Sizes(np.array([32.0, 32.0]), {})}
    >>> evaluate(Block(0, 2, np.zeros(2, bool), {}, sizes), Problems()).numbers["hbm_bytes"].tolist()
    [20971520.0, 167772160.0]
    """
    work = _Work(block, problems)
    with np.errstate(all="ignore"):  # what does not divide is NaN, on purpose
        for kind, rows in _kinds(work):
            if problems.full:
                break
            _count(work, kind, rows)
        if not problems.found:
            _bounds(work)
            _times(work)
    numbers = {k: work.numbers[k] for k in NUMBERS}
    work.note[~(work.timed | (work.trains & np.isnan(numbers["hbm_bytes"])))] = -1
    return Results(numbers, work.exact, work.bound, work.kernel, work.kernels, work.note, work.notes)


def jobs(block: Block, problems: Problems) -> list[tuple[Any, Job]]:
    """Rows, and the kernel that runs them at their sizes, arrays; of attention on a named accelerator. What no kernel here
    runs is a problem.

    >>> import pyarrow as pa
    >>> from attnmath.sweeping.cells import block
    >>> batch = pa.RecordBatch.from_pydict({"seq": [1024, 8192], "heads": [32, 32], "gpu": ["h100-sxm", "h100-sxm"]})
    >>> [(rows, job)] = jobs(block(batch, 0, {n: n for n in batch.schema.names}, {}, Problems()), Problems())
    >>> job.kernel, job.shape.seq
    ('flash-attention-3', array([1024., 8192.]))
    """
    work = _Work(block, problems)
    with np.errstate(all="ignore"):
        for kind, rows in _kinds(work):
            _count(work, kind, rows)
    if problems.found:
        return []
    found = []
    for rows, job in _jobs(work):
        shape = structs.replace(job.shape, **{k: work.shape[k][rows] for k in SHAPE})
        found.append((rows, structs.replace(job, shape=shape)))
    for at, why in enumerate(work.notes):
        rows = np.flatnonzero(work.note == at)
        problems.add(block.first + int(rows[0]), "", why, len(rows) - 1)
    return found


def groups(keys: Sequence[Any], rows: Any) -> Iterator[Any]:
    """The rows that agree in every key, in their order; keys are non-negative whole numbers, an array each.

    >>> [r.tolist() for r in groups([np.array([1, 0, 1])], np.array([4, 5, 6]))]
    [[5], [4, 6]]
    """
    code, many = np.zeros(len(rows), np.int64), 1
    for k in keys:
        most = int(k.max(initial=0)) + 1
        if most == 1:
            continue
        if many * most >= 2**62:
            code = np.unique(code, return_inverse=True)[1]
            many = int(code.max()) + 1
        code, many = code * most + k, many * most
    if many == 1:
        if len(rows):
            yield rows
        return
    if many < 2**16:
        code = code.astype(np.uint16)  # sorted by counting
    order = np.argsort(code, kind="stable")
    ends = np.flatnonzero(np.diff(code[order])) + 1
    for part in np.split(order, ends):
        yield rows[part]


def _kinds(work: _Work) -> Iterator[tuple[Kind, Any]]:
    """The rows of each kind; those with a cell that cannot be read are left out."""
    block, every = work.block, np.flatnonzero(~work.block.bad)
    texts = {c: work.texts(c) for c in KIND}
    given = {o: ~np.isnan(block.sizes[c].values) for c in block.sizes for o in [c.replace("_", "-")]}
    keys = [k[every] for k in (*(texts[c].codes for c in KIND), *(g.astype(np.int64) for g in given.values()))]
    for rows in groups(keys, every):
        at = rows[0]
        names = {c: texts[c].texts[texts[c].codes[at]] for c in KIND}
        own = OTHERS[names["op"]][0] if names["op"] in OTHERS else OPTIONS
        kind = Kind(
            op=names["op"],
            variant=names["variant"] or ("mla" if names["op"] == "mla" else DEFAULT_VARIANT),
            with_=names["with"],
            phase=names["phase"],
            form=names["form"],
            mask=names["mask"],
            schedule=names["schedule"],
            dtype=names["dtype"],
            kv_dtype=names["kv_dtype"],
            given=tuple(o for o, g in given.items() if g[at] and o in own),
        )
        yield kind, rows


def _count(work: _Work, kind: Kind, rows: Any) -> None:
    """The counts of one kind's rows."""
    try:
        if kind.op in OTHERS:
            if missing := [f"--{o}" for o in OTHERS[kind.op][0] if o not in kind.given]:
                raise InputError(f"missing: {', '.join(missing)}")
            parts: Iterable[Any] = [rows]
        elif kind.op == "mla" and "kv-heads" in kind.given:
            _kernel_shapes(work, kind, rows)
            return
        else:
            if kind.op == "mla" and kind.variant != "mla":
                raise InputError(f"op mla is of the variant mla, not {kind.variant}")
            keys = [np.unique(_values(work, o, rows), return_inverse=True)[1] for o in counting.walked(kind)]
            if (
                kind.mask is not None and "context" in kind.given
            ):  # whether anything is past decides what some masks are
                keys.append((_values(work, "context", rows) == _values(work, "seq", rows)).astype(np.int64))
            parts = groups(keys, rows)
    except AttnmathError as error:
        work.problems.add(work.block.first + int(rows[0]), "", str(error), len(rows) - 1)
        return
    for part in parts:
        _solve(work, kind, part, _arrays(work, kind, part))


def _values(work: _Work, option: str, rows: Any) -> Any:
    return work.block.sizes[option.replace("-", "_")].values[rows]


def _arrays(work: _Work, kind: Kind, rows: Any) -> dict[str, Any]:
    """The given options as arrays; of those that a page is walked by, the number that all rows have."""
    alone = counting.walked(kind) if kind.op not in OTHERS else ()
    found = {o: _values(work, o, rows) for o in kind.given}
    return {o: int(v[0]) if o in alone else v for o, v in found.items()}


def _kernel_shapes(work: _Work, kind: Kind, rows: Any) -> None:
    """Latent attention as its kernels see it: heads, heads of keys, and their widths.

    One head of keys for all, wider than its values, is the latent, and the values are a part of it: the absorbed form (one
    head of queries in prefill could be either: the latent is wider than any head). Else every head has its own.
    """
    if missing := [f"--{o}" for o in ("heads", "head-dim", "v-head-dim") if o not in kind.given]:
        why = f"missing: {', '.join(missing)}, beside --kv-heads"
        work.problems.add(work.block.first + int(rows[0]), "", why, len(rows) - 1)
        return
    heads, kv, d, e = (_values(work, o, rows) for o in ("heads", "kv-heads", "head-dim", "v-head-dim"))
    latent = (kv == 1) & (e < d) & ((heads > 1) | (d > WIDEST) | (kind.phase == "decode"))
    rest = tuple(o for o in kind.given if o not in ("kv-heads", "head-dim", "v-head-dim"))
    plain = structs.replace(kind, op="attention", variant=DEFAULT_VARIANT, form=None)
    absorbed = structs.replace(
        kind, op="attention", variant="mla", form="absorbed", given=(*rest, "kv-rank", "rope-dim")
    )
    for own, which in ((plain, ~latent), (absorbed, latent)):
        some = rows[which]
        if not len(some):
            continue
        try:
            counting.layer_of(own)
        except AttnmathError as error:
            work.problems.add(work.block.first + int(some[0]), "", str(error), len(some) - 1)
            continue
        arrays = {o: _values(work, o, some) for o in (plain.given if own is plain else rest)}
        if own is absorbed:
            arrays |= {"kv-rank": e[which], "rope-dim": (d - e)[which]}
        _solve(work, own, some, arrays)


def _solve(work: _Work, kind: Kind, rows: Any, given: Mapping[str, Any]) -> None:
    """Counts of rows of one kind into the block; what cannot be counted together is halved, down to single rows."""
    if work.problems.full:
        return
    try:
        if kind.op in OTHERS:
            found: list[Any] = [(None, None, OTHERS[kind.op][1](kind, given))]
        else:
            found = counting.count(kind, given)
    except NoClosedForm:
        for place, row in enumerate(rows):
            _alone(work, kind, int(row), _at(given, place))
        return
    except AttnmathError:
        if len(rows) == 1:
            _alone(work, kind, int(rows[0]), _at(given, 0))
            return
        half = len(rows) // 2
        for part in (slice(None, half), slice(half, None)):
            _solve(work, kind, rows[part], {o: v[part] if hasattr(v, "dtype") else v for o, v in given.items()})
        return
    for which, form, counts in found:
        some = rows if which is None else rows[which]
        own = given if which is None else {o: v[which] if hasattr(v, "dtype") else v for o, v in given.items()}
        _put(work, kind, some, counts)
        flops = work.numbers["flops"][some]
        for misfit in np.flatnonzero(np.isnan(flops)):
            _alone(work, kind, int(some[misfit]), _at(own, int(misfit)))
        _recount(work, kind, form, some, own)


def _at(given: Mapping[str, Any], at: int) -> dict[str, Any]:
    return {o: v[at : at + 1] if hasattr(v, "dtype") else v for o, v in given.items()}


def _whole(work: _Work, given: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """The same options as Python's integers, those that float64 does not hold taken from where they stand exactly."""
    found = {}
    for o, v in given.items():
        column = work.block.sizes.get(o.replace("-", "_"))
        exact = column.exact if column is not None else {}
        found[o] = v if not hasattr(v, "dtype") else np.array(
            [exact.get(int(r)) or int(x) for r, x in zip(rows, v)] if exact else [int(x) for x in v], object
        )  # fmt: skip
    return found


def _alone(work: _Work, kind: Kind, row: int, given: Mapping[str, Any]) -> None:
    """One row, in integers: its counts, or what is wrong with it."""
    if work.problems.full:
        return
    whole = _whole(work, given, [row])
    sizes = tuple(int(whole[o][0]) if hasattr(whole[o], "dtype") else whole[o] for o in kind.given)
    found = counting.one(kind, sizes)
    if isinstance(found, str):
        work.problems.add(work.block.first + row, "", found)
        return
    _put(work, kind, np.array([row]), found[1])
    for key, value in (("flops", found[1].flops), ("hbm_bytes", found[1].hbm_bytes)):
        if value is not None and value >= EXACT:
            work.exact[key][row] = int(value)


def _recount(work: _Work, kind: Kind, form: str | None, rows: Any, given: Mapping[str, Any]) -> None:
    """Rows in which a number, or one on the way to it, may be beyond what float64 holds: again, in integers."""
    n = work.numbers
    tokens = sum(given[o] for o in ("seq", "context") if o in given)  # squared where a triangle of pairs is counted
    beyond = (n["flops"][rows] >= EXACT) | (n["hbm_bytes"][rows] * 64 >= EXACT) | (tokens * tokens >= EXACT / 4)
    for v in given.values():
        beyond |= v >= EXACT
    which = np.flatnonzero(beyond & ~np.isnan(n["flops"][rows]))
    if not len(which):
        return
    some = rows[which]
    whole = _whole(work, {o: v[which] if hasattr(v, "dtype") else v for o, v in given.items()}, some)
    if kind.op in OTHERS:
        counts = OTHERS[kind.op][1](kind, whole)
    else:
        ((_, _, counts),) = counting.count(kind, whole, form)
    _put(work, kind, some, counts)
    for key, values in (("flops", counts.flops), ("hbm_bytes", counts.hbm_bytes)):
        if values is not None:
            every = np.broadcast_to(np.asarray(values, object), some.shape)
            work.exact[key] |= {int(r): int(v) for r, v in zip(some, every) if v >= EXACT}


def _put(work: _Work, kind: Kind, rows: Any, c: Counts) -> None:
    for key, values in (("flops", c.flops), ("hbm_bytes", c.hbm_bytes), ("matmul", c.matmul), ("exps", c.exps)):
        if values is not None:
            work.numbers[key][rows] = _floats(values)
    work.decodes[rows], work.trains[rows] = kind.phase == "decode", kind.train
    if kind.op in OTHERS:
        work.op[rows] = kind.op
        return
    if c.shape is None:
        work.say(rows, c.why)
        return
    for key in SHAPE:
        work.shape[key][rows] = _floats(getattr(c.shape, key))
    work.causal[rows], work.latent[rows] = c.shape.causal, c.shape.latent


def _floats(x: Any) -> Any:
    return np.asarray(x, np.float64) if hasattr(x, "dtype") else float(x)


def _bounds(work: _Work) -> None:
    """The lower bounds, and the units that set them."""
    engine = work.block.names.get("engine")
    if engine is not None:
        idle = np.flatnonzero(~work.timed & np.array([t is not None for t in engine.texts])[engine.codes])
        if len(idle):
            work.problems.add(work.block.first + int(idle[0]), "engine", "it has a use only with a gpu", len(idle) - 1)
    texts = {c: work.texts(c) for c in ("gpu", "dtype", "l2")}
    n = work.numbers
    for rows in groups([t.codes for t in texts.values()], np.arange(work.block.rows)):
        gpu, dtype, l2 = (t.texts[t.codes[rows[0]]] for t in texts.values())
        if gpu is None:
            if l2 == "warm":
                work.problems.add(
                    work.block.first + int(rows[0]), "l2", "warm has a use only with a gpu", len(rows) - 1
                )
            continue
        rows = rows[~np.isnan(n["matmul"][rows])]
        if not len(rows):
            continue
        try:
            found = bound(
                _gpu(gpu), dtype or "", n["matmul"][rows], n["exps"][rows], n["hbm_bytes"][rows], l2 == "warm"
            )
        except InputError as error:
            work.problems.add(work.block.first + int(rows[0]), "gpu", str(error), len(rows) - 1)
            continue
        n["time_bound_s"][rows] = found.time_s
        work.bound[rows] = _codes(found.binds)


def _codes(names: Any) -> Any:
    """Names of units as places in BINDS."""
    out = np.zeros(len(names), np.int64)
    for at, name in enumerate(BINDS):
        out[names == name] = at
    return out


def _times(work: _Work) -> None:
    """The estimates, where a kernel is modelled; else why not."""
    same: dict[Any, list[tuple[Any, Job]]] = {}
    for rows, job in _jobs(work):
        how = structs.astuple(job.shape)[len(SHAPE) :]
        constants = tuple(job.constants.values())
        same.setdefault((job.engine, job.phase, job.kernel, job.warm, how, constants), []).append((rows, job))
    for parts in same.values():
        rows, first = np.concatenate([r for r, _ in parts]), parts[0][1]
        sizes = {k: work.shape[k][rows] for k in SHAPE}
        _estimated(work, rows, structs.replace(first, shape=structs.replace(first.shape, **sizes), rates=_rates(parts)))
    for (gpu, dtype, l2), rows in _on_gpus(work, "gemm", "dtype", "l2"):
        sizes = {k: work.block.sizes[k].values[rows] for k in ("m", "n", "k")}
        try:
            job = _product(gpu, dtype)
        except InputError as error:
            work.say(rows, str(error))
            continue
        product = Product(**sizes, bytes=float(bits(dtype)) / 8)
        _estimated(work, rows, structs.replace(job, shape=product, warm=l2 == "warm"))
    for (gpu,), rows in _on_gpus(work, "all_reduce"):
        _collective(work, gpu, rows)


def _estimated(work: _Work, rows: Any, job: Job) -> None:
    found = estimates.of_job(job, work.numbers["time_bound_s"][rows])
    for key in ("time_s", "kernel_time_s", "launch_time_s"):
        work.numbers[key][rows] = getattr(found, key)
    work.bound[rows] = _codes(found.binds)
    work.run_by(rows, job.kernel)


def _on_gpus(work: _Work, op: str, *columns: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The rows of an op that name an accelerator, by it and by other columns."""
    texts = [work.texts(c) for c in ("gpu", *columns)]
    some = np.flatnonzero((work.op == op) & work.timed)
    for rows in groups([t.codes[some] for t in texts], some):
        yield tuple(str(t.texts[t.codes[rows[0]]]) for t in texts), rows


def _jobs(work: _Work) -> Iterator[tuple[Any, Job]]:
    """The rows that a kernel runs alike on one accelerator, and the kernel, for the first of them."""
    texts = {c: work.texts(c) for c in ("gpu", "dtype", "kv_dtype", "engine", "l2")}
    d, e = work.shape["head_dim"], work.shape["v_head_dim"]
    flags = [work.decodes, work.causal, work.latent, d > e, d % 16 > 0]
    flags.append(np.searchsorted(WIDTHS, d))
    some = np.flatnonzero((work.op == "attention") & (work.note < 0) & work.timed)
    keys = [t.codes[some] for t in texts.values()] + [f[some].astype(np.int64) for f in flags]
    for rows in groups(keys, some):
        at = rows[0]
        name, dtype, kv_dtype, engine, l2 = (t.texts[t.codes[at]] for t in texts.values())
        how = (bool(work.causal[at]), bits(dtype) / 8, bits(kv_dtype or dtype) / 8, bool(work.latent[at]))
        widths = (float(d[at]), float(e[at]))
        try:
            yield rows, _job(name, dtype, engine, bool(work.decodes[at]), l2 == "warm", widths, *how)
        except InputError as error:
            work.say(rows, str(error))


@lru_cache(4096)
def _job(
    gpu: str,
    dtype: str,
    engine: str,
    decodes: bool,
    warm: bool,
    widths: tuple[float, float],
    causal: bool,
    q_bytes: float,
    kv_bytes: float,
    latent: bool,
) -> Job:
    shape = Shape(1.0, 1.0, 1.0, 1.0, 1.0, *widths, 0.0, causal, q_bytes, kv_bytes, latent)
    return estimates.job(shape, _gpu(gpu), engine, dtype, decodes, warm, of_gpu(gpu))


@lru_cache(256)
def _product(gpu: str, dtype: str) -> Job:
    """A matrix product's kernel, its sizes to be filled in."""
    kernel = library_of(_gpu(gpu).architecture)
    constants, assumed = of_gpu(gpu).of(kernel, "", "gemm")
    return Job(
        Product(0.0, 0.0, 0.0), _gpu(gpu), "", "gemm", kernel, machine(_gpu(gpu), dtype), constants, False, assumed
    )


def _collective(work: _Work, gpu: str, rows: Any) -> None:
    """Bounds and estimates of collectives: the links' rate, and the faster of the library's protocols."""
    num_gpus, message = (work.block.sizes[c].values[rows] for c in ("num_gpus", "message_bytes"))
    try:
        links, rate = links_of(_gpu(gpu)), float(_gpu(gpu).figure("link_bytes_per_s"))
        constants, _ = of_gpu(gpu).of(links, "", "collective")
    except InputError as error:
        work.say(rows, str(error))
        return
    time_s, launch_s = collective("all_reduce", links, num_gpus, message, rate, constants)
    sent = COLLECTIVES["all_reduce"].sent_bytes(num_gpus, message, links in IN_SWITCH)
    n = work.numbers
    n["time_bound_s"][rows] = sent / rate
    n["time_s"][rows] = np.maximum(time_s, sent / rate)
    n["launch_time_s"][rows] = launch_s
    n["kernel_time_s"][rows] = n["time_s"][rows] - launch_s
    work.bound[rows] = np.where(launch_s > n["kernel_time_s"][rows], BINDS.index("launch"), BINDS.index("link"))
    work.run_by(rows, links)


def _rates(parts: Sequence[tuple[Any, Job]]) -> Machine:
    """One accelerator's rates, or an array of each rate where rows run on several."""
    if len({structs.astuple(job.rates)[:-1] for _, job in parts}) == 1:
        return parts[0][1].rates
    fields = [f for f in Machine.__struct_fields__ if f != "assumed"]
    arrays: dict[str, Any] = {
        f: np.concatenate([np.full(len(r), getattr(j.rates, f)) for r, j in parts]) for f in fields
    }
    return Machine(**arrays)


def in_columns(message: str) -> str:
    """A message of the command line in a table's terms: --kv-heads is the column kv_heads.

    >>> in_columns("--kv-heads 5: 32 is not divisible by 5")
    'kv_heads 5: 32 is not divisible by 5'
    """
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda m: m[1].replace("-", "_"), message)
