"""What has to be kept and moved, read off the equations: cache, state, peak of live tensors, traffic of the core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from attnmath.errors import Unknown
from attnmath.language.arith import Number, maximum, minimum, prod
from attnmath.language.syntax import OFFSETS, Equation, Index, Program, Ref, Shift, letters, refs
from attnmath.readings.count import Space, core, recursive

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


def bits(dtype: str) -> int:
    """Bits of one element as it is stored; Unknown if the name is none of `BITS`.

    >>> bits("bf16")
    16
    """
    if dtype not in BITS:
        raise Unknown("dtype", dtype, BITS)
    return BITS[dtype]


def in_bytes(total_bits: Number) -> Number:
    """Bits as bytes: whole ones, rounded up, for integers; arrays and formulas are divided.

    >>> in_bytes(12)
    2
    """
    return -(-total_bits // 8) if isinstance(total_bits, int) else total_bits / 8


TIMES = ("t", "n", "n'", "n''", "c", "o", "o'")  # the letters that count tokens, chunks or blocks as time goes by


class Cached(Struct, frozen=True):
    """A tensor that is read before the new tokens: numbers per cached token, and how many tokens are kept.

    `tokens` None is a state: `per_token` numbers in all, whatever the context.
    """

    tensor: str
    per_token: Number
    tokens: Number | None


def caches(program: Program, sizes: Mapping[str, Number]) -> tuple[Cached, ...]:
    """What has to be remembered between steps, found: whatever the page reads before the new tokens.

    A shift by `past` or `kept` reaches back over all of the context, as far as the mask lets the newest query see; a shift
    by a number is a state of so many steps.

    >>> from attnmath import variants
    >>> page = variants.get("mla").program
    >>> [(c.tensor, c.per_token, c.tokens) for c in caches(page, {"b": 1, "n": 4096, "l": 512, "p": 64, "past": 4095})]
    [('aKV', 512, 4096), ('kR', 64, 4096)]
    """
    space = Space(program, sizes)
    found: dict[str, Cached] = {}
    for r in (r for e in program.equations for a in e.alts for r in refs(a)):
        for at, i in enumerate(r.index):
            if not isinstance(i, Shift) or i.base not in TIMES:
                continue
            row = space.elements(tuple(x for k, x in enumerate(r.index) if k != at and x != "b"))
            if grows(i):
                found[r.name] = Cached(r.name, row, _tokens(space, i.base))
            elif rows := reach_back(i, sizes):
                old = found.get(r.name)
                more = maximum(old.per_token, row * rows) if old else row * rows
                found[r.name] = old if old and old.tokens is not None else Cached(r.name, more, None)
    return tuple(found.values())


def grows(i: Index) -> bool:
    """Whether an index reaches back over all earlier tokens.

    >>> from attnmath.language.parse import equation
    >>> [grows(i) for i in equation("K[n d] = k[n-past d]").alts[0].index]
    [True, False]
    """
    return isinstance(i, Shift) and any(step in OFFSETS and sign < 0 for sign, step in i.by)


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


def _tokens(space: Space, key: str) -> Number:
    """How many tokens have to be kept for later queries: as far as any mask on these keys lets the newest see."""
    spans = [m.span(space.sizes[key]) for (_, k), m in space.masks.items() if k == key]
    most: Number = spans[0] if spans else space.sizes[key]
    for s in spans[1:]:
        most = maximum(most, s)
    return most


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


class Core:
    """The fused region's tensors at given sizes and dtypes; every answer is in bytes."""

    def __init__(self, program: Program, sizes: Mapping[str, Number], dtype: str, kv_dtype: str) -> None:
        self.space, self.equations = Space(program, sizes), core(program)
        self.bits = {n: bits(kv_dtype if n in from_cache(program) else dtype) for n in program.tensors}
        self.index = program.tensors
        made = {e.out.name for e in self.equations}
        read = dict.fromkeys(
            r.name for e in self.equations for a in e.alts for r in refs(a) if "b" in self.index[r.name]
        )
        outside = {r.name for e in program.equations if e not in self.equations for a in e.alts for r in refs(a)}
        self.inputs = tuple(n for n in read if n not in made)
        self.outputs = tuple(n for n in made if n in outside or n == program.output)
        found = caches(program, sizes) if recursive(program) else ()
        self.states = tuple(c for c in found if c.tokens is None and c.tensor in made)
        self._known: dict[str, Number] = {}

    def bytes(self, names: Iterable[str]) -> Number:
        """The size of tensors: of what is indexed by keys, only the keys that some query sees."""
        total: Number = 0
        for n in names:
            if n not in self._known:
                elements, gathered = self._elements(self.index[n]), self._gathered(n)
                elements = elements if gathered is None else minimum(elements, gathered)
                self._known[n] = in_bytes(elements * self.bits[n])
            total = total + self._known[n]
        return total

    def _gathered(self, name: str) -> Number | None:
        """How many elements are read of a tensor that is only ever gathered from; None if it is read plainly."""
        reads = [r for e in self.equations for a in e.alts for r in refs(a) if r.name == name]
        if not reads or not all(any(isinstance(i, Ref) for i in r.index) for r in reads):
            return None
        total: Number = 0
        for r in reads:
            total = total + self.space.tuples(letters(r))
        return total

    def _elements(self, index: tuple[Index, ...]) -> Number:
        keys = [i for i in index if self._keys(i)]
        return prod([self.space.elements(tuple(i for i in index if i not in keys)), *map(self._seen, keys)])

    def _keys(self, i: Index) -> bool:
        return any(k == i for _, k in self.space.masks)

    def _seen(self, i: Index) -> Number:
        seen = [
            m.keys_seen(self.space.sizes[q], self.space.sizes[k], self.space.past(q))
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
        for c in self.states:
            state = in_bytes(c.per_token * self.space.sizes["b"] * self.bits[c.tensor])
            moved = moved + state + state * minimum(self.space.sizes["past"], 1)
        return moved

    @property
    def fused(self) -> Number:
        """Peak of live tensors if no intermediate leaves the chip: inputs and outputs."""
        return self.bytes((*self.inputs, *self.outputs))

    def step_bytes(self, e: Equation) -> Number:
        """What one equation moves on its own: every tensor it reads, and the one it writes, in full."""
        return self.bytes(
            dict.fromkeys(
                (
                    e.out.name,
                    *(r.name for a in e.alts for r in refs(a) if r.name in self.bits and "b" in self.index[r.name]),
                )
            )
        )

    @property
    def unfused(self) -> Number:
        """What the equations move one by one: every intermediate is written and read again."""
        total: Number = 0
        for e in self.equations:
            total = total + self.step_bytes(e)
        return total

    @property
    def peak(self) -> Number:
        """Peak of live tensors if the equations run one by one: a tensor lives until its last reader has run, the core's
        inputs and outputs to the end.
        """
        last = {r.name: now for now, e in enumerate(self.equations) for a in e.alts for r in refs(a)}
        last |= dict.fromkeys((*self.inputs, *self.outputs), len(self.equations))
        born = dict.fromkeys(self.inputs, 0) | {e.out.name: now for now, e in enumerate(self.equations)}
        live = (tuple(n for n in born if born[n] <= now <= last.get(n, now)) for now in range(len(self.equations)))
        best: Number = 0
        for names in dict.fromkeys(live):
            best = maximum(best, self.bytes(names))
        return best
