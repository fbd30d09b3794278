"""What has to be kept and moved, read off the equations: cache, state, peak of live tensors, traffic of the core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from attnmath.errors import InputError, Unknown
from attnmath.language.arith import Number, any_true, ceil_div, known, maximum, minimum, prod
from attnmath.language.masks import Mask
from attnmath.language.syntax import OFFSETS, Equation, Group, Index, Program, Ref, Shift, digits, letters, ops, refs
from attnmath.readings.count import Space, core, learned, recursive

BITS: dict[str, int] = {
    "fp64": 64,
    "fp32": 32,
    "tf32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "fp4": 4,
    "int4": 4,
}


class Blocks(Struct, frozen=True):
    """How a quantised cache stores numbers: so many bits each, and a scale for each block of them."""

    bits: int
    block: int
    scale_bits: int
    source: str = ""


GGML = "ggml-org/llama.cpp, ggml/src/ggml-common.h"
MX = "OCP Microscaling Formats (MX) Specification v1.0, 2023: blocks of 32, scales E8M0"
BLOCKS: dict[str, Blocks] = {
    "q8_0": Blocks(8, 32, 16, GGML),
    "q4_0": Blocks(4, 32, 16, GGML),
    "mxfp8": Blocks(8, 32, 8, MX),
    "mxfp6": Blocks(6, 32, 8, MX),
    "mxfp4": Blocks(4, 32, 8, MX),
    "nvfp4": Blocks(
        4, 16, 8, "NVIDIA 2025, arXiv:2509.25149: blocks of 16, scales E4M3; one FP32 scale per tensor beside them"
    ),
}


def blocks(dtype: str) -> Blocks | None:
    """The blocks of a quantised format, by name or as `int4/64`: four bits each and a 16-bit scale per 64; None for others.

    >>> blocks("q8_0").scale_bits, blocks("int4/64").block, blocks("bf16")
    (16, 64, None)
    """
    if dtype in BLOCKS:
        return BLOCKS[dtype]
    element, slash, group = dtype.partition("/")
    if not slash or element not in BITS or not (group.isascii() and group.isdigit() and 0 < int(group[:9]) < 2**20):
        return None
    return Blocks(BITS[element], int(group), 16)


def bits(dtype: str) -> Number:
    """Bits of one element as it is stored, its share of a block's scale included; Unknown if there is no such dtype.

    >>> bits("bf16"), bits("q8_0")
    (16, Fraction(17, 2))
    """
    if found := blocks(dtype):
        from fractions import Fraction

        return found.bits + Fraction(found.scale_bits, found.block)
    if dtype not in BITS:
        raise Unknown("dtype", dtype, BITS)
    return BITS[dtype]


def state_bits(dtype: str) -> Number:
    """Bits of a number in the state of a recursion: single precision at the least, as engines keep it.

    >>> state_bits("bf16"), state_bits("fp64")
    (32, 64)
    """
    return max(32, bits(dtype))


def check_blocks(cached: Iterable[Cached], dtype: str) -> None:
    """Refuse a format whose blocks do not divide the rows that are cached (numbers only).

    >>> check_blocks([Cached("k", 100, 1)], "q8_0")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: --kv-dtype q8_0 stores blocks of 32 numbers; a row of k has 100
    """
    found = blocks(dtype)
    for c in cached if found else ():
        if found and c.rows is not None and known(c.per_row) and any_true(c.per_row % found.block > 0):
            raise InputError(
                f"--kv-dtype {dtype} stores blocks of {found.block} numbers; a row of {c.tensor} has {c.per_row}"
            )


def in_bytes(total_bits: Number, shares: Number = 1) -> Number:
    """Bits as bytes, or one of so many equal shares: whole ones, rounded up, for integers and arrays; else divided.

    >>> in_bytes(12), in_bytes(64, 4)
    (2, 2)
    """
    if hasattr(total_bits, "dtype"):
        return ceil_div(total_bits, 8 * shares)
    if isinstance(shares, int) and (isinstance(total_bits, int) or hasattr(total_bits, "numerator")):
        return -(-total_bits // (8 * shares))  # a fraction, too
    return total_bits / (8 * shares)


DRAWN = "KEEP"  # random zeros and ones: a kernel draws them where it needs them
TIMES = ("t", "n", "n'", "n''", "c", "o", "o'")  # the letters that count tokens, chunks or blocks as time goes by


class Cached(Struct, frozen=True):
    """A tensor that is read before the new tokens: numbers per row, and how many rows are kept, one for each token or for
    each block of `every` tokens.

    `rows` None is a state: `per_row` numbers in all, whatever the context.
    """

    tensor: str
    per_row: Number
    rows: Number | None
    every: Number = 1
    capped: bool = False  # a mask forgets: beyond its reach the cache grows no more


def caches(program: Program, sizes: Mapping[str, Number]) -> tuple[Cached, ...]:
    """What has to be remembered between steps, found: whatever the page reads before the new tokens.

    A shift by `past` or `kept` reaches back over all of the context, as far as the mask lets the newest query see; a shift
    by a number is a state of so many steps.

    >>> from attnmath import variants
    >>> page = variants.get("mla").program
    >>> [(c.tensor, c.per_row, c.rows) for c in caches(page, {"b": 1, "n": 4096, "l": 512, "p": 64, "past": 4095})]
    [('aKV', 512, 4096), ('kR', 64, 4096)]
    """
    space = Space(program, sizes)
    found: dict[str, Cached] = {}
    for e, r in ((x, r) for x in program.equations for a in x.alts for r in refs(a)):
        for at, i in enumerate(r.index):
            if not isinstance(i, Shift) or i.base not in TIMES:
                continue
            row = space.elements(tuple(x for k, x in enumerate(r.index) if k != at and x != "b"))
            if grows(i):
                every = 1 if counts_tokens(i) else sizes["i"]
                kept = _rows(space, i.base, e)
                found[r.name] = Cached(r.name, row, kept, every, _capped(space, i.base, e))
            elif rows := reach_back(i, sizes):
                old = found.get(r.name)
                more = maximum(old.per_row, row * rows) if old else row * rows
                found[r.name] = old if old and old.rows is not None else Cached(r.name, more, None)
    return tuple(found.values())


def grows(i: Index) -> bool:
    """Whether an index reaches back over all earlier tokens.

    >>> from attnmath.language.parse import equation
    >>> [grows(i) for i in equation("K[n d] = k[n-past d]").alts[0].index]
    [True, False]
    """
    return isinstance(i, Shift) and any(step in OFFSETS and sign < 0 for sign, step in i.by)


def caches_tokens(program: Program) -> bool:
    """Whether anything is cached that grows with the context.

    >>> from attnmath import variants
    >>> [caches_tokens(variants.get(name).program) for name in ("gqa", "kda")]
    [True, False]
    """
    return any(grows(i) for e in program.equations for a in e.alts for r in refs(a) for i in r.index)


def counts_tokens(i: Index) -> bool:
    """Whether an index reaches back over all earlier tokens, and not over blocks of them.

    >>> from attnmath.language.parse import equation
    >>> counts_tokens(equation("M[o d] = x[o-done d]").alts[0].index[0])
    False
    """
    return grows(i) and isinstance(i, Shift) and all(step != "done" for _, step in i.by)


def reach_back(i: Shift, sizes: Mapping[str, Number]) -> Number:
    """How many earlier rows an index like `t-1`, `t-2` or `t-k` reads at the most; none if it only reads ahead.

    >>> reach_back(Shift("t", ((-1, "k"),)), {"k": 4})
    3
    """
    back: Number = 0
    for sign, x in i.by:
        back = back - sign * x if isinstance(x, int) else back + (sizes[x] - 1 if sign < 0 else 0)
    return maximum(back, 0)


def _forgetting(space: Space, key: str, e: Equation) -> list[Mask]:
    """The masks that say how far back these keys are read; none where some of all may be chosen."""
    at = next((k for k, i in enumerate(e.out.index) if i == key), None)
    reads = [r for x in space.program.equations for a in x.alts for r in refs(a) if r.name == e.out.name]
    read = [r.index[at] for r in reads] if at is not None else []
    letters_ = {key, *(i for i in read if isinstance(i, str))}
    of_blocks = any(m.over_blocks for (_, k), m in space.program.sees.items() if k in letters_)
    if of_blocks or any(_chosen(i) for i in read):
        return []
    return [m for (_, k), m in space.masks.items() if k in letters_]


def _rows(space: Space, key: str, e: Equation) -> Number:
    """How many rows have to be kept for later queries: as far as any mask on these keys lets the newest see."""
    spans = [m.span(space.sizes[key]) for m in _forgetting(space, key, e)]
    most: Number = spans[0] if spans else space.sizes[key]
    for s in spans[1:]:
        most = maximum(most, s)
    return most


def _capped(space: Space, key: str, e: Equation) -> bool:
    """Whether however long a context leaves a bounded number of rows to keep."""
    masks = _forgetting(space, key, e)
    ends = [p.lo is not None or p.chunk is not None or p.j1 is not None for m in masks for p in m.pieces]
    return bool(masks) and all(ends)


def _chosen(i: Index) -> bool:
    """Whether an index names any of the rows there are: a gather, or all blocks, not only those that become whole now."""
    parts = i.parts if isinstance(i, Group) else (i,)
    return any(isinstance(p, Ref) for p in parts) or (isinstance(i, Group) and parts[0] in ("o", "o'"))


def from_cache(program: Program) -> frozenset[str]:
    """The tensors that are the cache as the step sees it: old and new rows of one tensor, and nothing else; or another
    layer's, handed in.

    >>> from attnmath import variants
    >>> sorted(from_cache(variants.get("mla").program))
    ['C', 'KR']
    """

    def whole(e: Equation) -> bool:
        x = e.alts[0]
        if not isinstance(x, Ref):
            return False
        return any(map(grows, x.index)) or (x.name in program.inputs and x.index == e.out.index and "n" in x.index)

    return frozenset(e.out.name for e in program.equations if len(e.alts) == 1 and whole(e))


class Run(Struct, frozen=True):
    """Equations that run as one operation, the tensors that it reads and those that it leaves."""

    equations: tuple[Equation, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.equations))


def _renames(e: Equation) -> str | None:
    """The tensor that an equation only gives another name, its indices in whatever order."""
    x = e.alts[0] if len(e.alts) == 1 else None
    plain = isinstance(x, Ref) and all(isinstance(i, str) and i != "last" for i in x.index)
    return (
        x.name if isinstance(x, Ref) and plain and sorted(map(str, e.out.index)) == sorted(map(str, x.index)) else None
    )


def _rows_together(equations: list[Equation], keys: set[str]) -> Iterator[list[Equation]]:
    """The equations in groups: what reads along a row a number of that same row, with what makes the number."""
    made = {e.out.name: e for e in equations}
    leader = {n: n for n in made}

    def find(n: str) -> str:
        while leader[n] != n:
            n = leader[n]
        return n

    def along(e: Equation) -> bool:
        return any(set(digits(d)) & set(k.split()) for d in letters(e.out) for k in keys)

    def sums(e: Equation) -> bool:
        over = {d for a in e.alts for o in ops(a) for x in o.over for d in digits(x)}
        return any(set(k.split()) <= over for k in keys) and not along(e)

    numbers = {n for n, e in made.items() if sums(e)}
    for n, e in made.items():
        for r in {r.name for r in e.reads} & numbers:
            leader[find(n)] = find(r)
        if n in numbers:  # what it sums up, if that reads a row's number itself
            for r in (r.name for r in e.reads if r.name in made and {x.name for x in made[r.name].reads} & numbers):
                leader[find(n)] = find(r)
    groups: dict[str, list[Equation]] = {}
    for e in equations:
        groups.setdefault(find(e.out.name), []).append(e)
    yield from sorted(groups.values(), key=lambda g: equations.index(g[-1]))


class Core:
    """The fused region's tensors at given sizes and dtypes; every answer is in bytes.

    `equations`: a part of the region, as one of several passes over it; `wide`: tensors kept in single precision at the
    least; `drawn`: what is drawn at random lies in memory, a byte each, for another pass to read.
    """

    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, Number],
        dtype: str,
        kv_dtype: str,
        equations: tuple[Equation, ...] | None = None,
        wide: Iterable[str] = (),
        drawn: bool = False,
    ) -> None:
        self.space, self.dtype, self.drawn, self.wide = Space(program, sizes), dtype, drawn, frozenset(wide)
        self.equations = core(program) if equations is None else equations
        self.bits = {n: bits(kv_dtype if n in from_cache(program) else dtype) for n in program.tensors}
        self.bits |= {n: state_bits(dtype) for n in self.wide}
        self.bits |= {n: 8 for n in program.tensors if n.startswith(DRAWN)}
        self.index = program.tensors
        made = {e.out.name for e in self.equations}
        read = dict.fromkeys(r.name for e in self.equations for a in e.alts for r in refs(a) if self._moves(r.name))
        outside = {r.name for e in program.equations if e.out.name not in made for r in e.reads}
        self.inputs = tuple(n for n in read if n not in made)
        self.outputs = tuple(n for n in made if n in outside or n not in read)
        found = caches(program, sizes) if recursive(program) else ()
        self.states = tuple(c for c in found if c.rows is None and c.tensor in made)
        self.bits |= {n: state_bits(dtype) for n in recursive(program)}
        self._known: dict[str, Number] = {}

    def _moves(self, name: str) -> bool:
        """Whether a tensor comes from memory: data, and a bias that is handed in; neither weights nor tables, nor what is
        drawn on the chip.
        """
        given = self.space.program.inputs.get(name)
        if "b" in self.index[name]:
            return self.drawn or not name.startswith(DRAWN)
        return given is not None and not learned(given) and {"t", "n"} <= set(map(str, given.index))

    def bytes(self, names: Iterable[str]) -> Number:
        """The size of tensors: of what is indexed by keys, only the keys that some query sees."""
        total: Number = 0
        for n in names:
            if n not in self._known:
                self._known[n] = in_bytes(self._moved(n) * self.bits[n].numerator, self.bits[n].denominator)
            total = total + self._known[n]
        return total

    def _moved(self, name: str) -> Number:
        """How many elements of a tensor the core has to touch: of an input, what its neediest read takes, of which keys are
        chosen as many as one query chooses, since all may choose the same; of anything else, all that exist.

        Where a query reads its own block and chooses among the blocks before, what the first new query chooses comes on top:
        it lies before every new query's own block, and the later ones may choose it, too, and each other's own blocks.
        """
        reads = [r for e in self.equations for a in e.alts for r in refs(a) if r.name == name]
        if name not in self.inputs:
            return self._elements(self.index[name])
        most: Number = 0
        for r in reads:
            pairs = any({q, k} <= set(r.index) for q, k in self.space.masks)
            taken = self.space.tuples(letters(r)) if pairs else prod(self._places(i) for i in r.index)
            most = maximum(most, taken)
        for own, chosen in ((a, b) for a in reads for b in reads if self._apart(a, b)):
            taken = prod(map(self._places, own.index)) + prod(self._places(i, first=True) for i in chosen.index)
            most = maximum(most, taken)
        return most

    def _apart(self, own: Ref, chosen: Ref) -> bool:
        """Whether one read takes the query's own chunk and the other blocks before it, chosen."""
        masks = {k: m for (q, k), m in self.space.masks.items() if q == "t"}
        slots = [
            i.index[-1] for j in chosen.index for i in (j.parts if isinstance(j, Group) else (j,)) if isinstance(i, Ref)
        ]
        chunks = [p.chunk for i in own.index if str(i) in masks for p in masks[str(i)].pieces]
        before = [p for s in slots if str(s) in masks for p in masks[str(s)].pieces]
        return (
            bool(chunks and before)
            and not any(_chosen(i) for i in own.index)
            and all(p.hi == -1 and any(c is not None and c == p.pitch for c in chunks) for p in before)
        )

    def _places(self, i: Index, first: bool = False) -> Number:
        """How many places of an axis a read takes; of what is chosen, only the `first` new query's, if so asked."""
        if isinstance(i, Group):
            return prod(self._places(x, first) for x in i.parts)
        if isinstance(i, Ref):
            slot = i.index[-1]
            return self._seen(slot, first) if self._keys(slot) else self.space.elements((slot,))
        return self._seen(i) if self._keys(i) else self.space.elements((i,))

    def _elements(self, index: tuple[Index, ...]) -> Number:
        keys = [i for i in index if self._keys(i)]
        return prod([self.space.elements(tuple(i for i in index if i not in keys)), *map(self._seen, keys)])

    def _keys(self, i: Index) -> bool:
        return any(k == i for _, k in self.space.masks)

    def _seen(self, i: Index, first: bool = False) -> Number:
        seen = [
            m.keys_seen(1 if first else self.space.sizes[q], self.space.sizes[k], self.space.past(q))
            for (q, k), m in self.space.masks.items()
            if k == i
        ]
        most = seen[0]
        for s in seen[1:]:
            most = maximum(most, s)
        return most

    @property
    def compulsory(self) -> Number:
        """Every input and every output once, and a state once out, and once in unless it is the first: no kernel moves less."""
        moved = self.bytes(self.inputs) + self.bytes(self.outputs)
        for _, part, _ in self.state_parts:
            moved = moved + part
        return moved

    @property
    def state_parts(self) -> list[tuple[Cached, Number, bool]]:
        """(state, what it moves, whether there is an earlier one to read) of every recursion."""
        known = minimum(self.space.sizes["past"], 1) if self.states else 0
        out = []
        for c in self.states:
            state = in_bytes(c.per_row * self.space.sizes["b"] * self.bits[c.tensor])
            out.append((c, state + state * known, any_true(known)))
        return out

    @property
    def fused(self) -> Number:
        """Peak of live tensors if no intermediate leaves the chip: inputs and outputs."""
        return self.resident((*self.inputs, *self.outputs))

    def resident(self, names: Iterable[str]) -> Number:
        """What tensors take while they are at hand: of what is chosen from, all that could be chosen."""
        total: Number = 0
        for n in names:
            reads = [r for e in self.equations for a in e.alts for r in refs(a) if r.name == n]
            whole = n in self.inputs and any(_chosen(i) for r in reads for i in r.index)
            elements = self.space.elements(self.index[n]) if whole else self._elements(self.index[n])
            total = total + in_bytes(elements * self.bits[n])
        return total

    @cached_property
    def steps(self) -> tuple[Run, ...]:
        """The equations as they run one by one. A tensor under another name is the same tensor. What needs the sum or the
        maximum of a row before it goes along that row again is one operation, as a softmax is.
        """
        same: dict[str, str] = {}
        for e in self.equations:
            if (old := _renames(e)) and e.out.name not in self.outputs:
                same[e.out.name] = same.get(old, old)
        own = [e for e in self.equations if e.out.name not in same]
        found = []
        for group in _rows_together(own, {k for _, k in self.space.masks}):
            inside = {e.out.name for e in group}
            later = {r.name for e in own if e not in group for r in e.reads} | set(self.outputs)
            read = dict.fromkeys(same.get(r.name, r.name) for e in group for r in e.reads if self._moves(r.name))
            later |= {same.get(n, n) for n in later}
            made = tuple(n for n in inside if n in later or len(group) == 1)
            found.append(Run(tuple(group), tuple(n for n in read if n not in inside), made))
        return tuple(found)

    def step_bytes(self, step: Run) -> Number:
        """What one operation moves on its own: every tensor it reads, and what it writes, in full."""
        return self.bytes((*step.reads, *step.makes))

    @property
    def unfused(self) -> Number:
        """What the equations move one by one: every intermediate is written and read again."""
        total: Number = 0
        for step in self.steps:
            total = total + self.step_bytes(step)
        return total

    @property
    def peak(self) -> Number:
        """Peak of live tensors if the equations run one by one: a tensor lives until its last reader has run, the core's
        inputs and outputs to the end.
        """
        last = {n: now for now, step in enumerate(self.steps) for n in step.reads}
        last |= dict.fromkeys((*self.inputs, *self.outputs), len(self.steps))
        born = dict.fromkeys(self.inputs, 0) | {n: now for now, step in enumerate(self.steps) for n in step.makes}
        live = (tuple(n for n in born if born[n] <= now <= last.get(n, now)) for now in range(len(self.steps)))
        best: Number = 0
        for names in dict.fromkeys(live):
            best = maximum(best, self.resident(names))
        return best
