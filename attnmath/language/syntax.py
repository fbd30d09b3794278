"""What an equation is: frozen values, and the few walks over them that every reading shares.

S[b g r t n] = Q[b t g r d] * K[b n g d]        each term sums over what the left does not name
L[b g r t n] = S[b g r t n] / sqrt(d)           a bare name is a size or an option
H[b t d e]   = a[b t] * H[b t-1 d e] + ...      a recurrence refers to itself; outside is zero, or the past
O[b (c i) d] = ...                              (c i): one axis read or written as two
F[b n|c d]   = k[b n d] | z[b c d]              n|c: one axis made of two parts
G[b t s d]   = K[b T[b t s] d]                  an index may be a tensor of indices
t sees n: causal & window(w)                    pairs outside do not exist: not computed, not counted
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Union

from msgspec import Struct, field
from msgspec.structs import replace

from attnmath.errors import LanguageError

if TYPE_CHECKING:
    from attnmath.language.masks import MaskExpr

MAX_DIGITS = 40  # of any size: far beyond any machine, and short enough that no product of sizes leaves the floats
OFFSETS = ("past", "kept", "done")  # shifts by these reach back into a cache


class Shift(Struct, frozen=True):
    """`t-1`, `t-k`, `n-past`: an index moved by numbers, by other indices, by the tokens already seen."""

    base: str
    by: tuple[tuple[int, str | int], ...]

    def __str__(self) -> str:
        return self.base + "".join(f"{'+' if sign > 0 else '-'}{x}" for sign, x in self.by)


class Group(Struct, frozen=True):
    """`(c i)`: the digits of one axis, the last one fastest."""

    parts: tuple[Index, ...]

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.parts))})"


class Cat(Struct, frozen=True):
    """`x|y`: the parts of one axis, side by side."""

    parts: tuple[Index, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.parts))


class Part(Struct, frozen=True):
    """The i-th part of a Cat, once it is settled which one is meant."""

    cat: Cat
    i: int

    def __str__(self) -> str:
        return f"{self.cat}.{self.i}"


class Ref(Struct, frozen=True):
    """A tensor read or written under indices; as an index itself, a gather."""

    name: str
    index: tuple[Index, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{' '.join(map(str, self.index))}]"


class Num(Struct, frozen=True):
    """0.5, or the name of a size or option: d, cap, pi."""

    value: int | float | str

    def __str__(self) -> str:
        return str(self.value)


class Pos(Struct, frozen=True):
    """`@t`: the position that an index stands for."""

    dim: str

    def __str__(self) -> str:
        return f"@{self.dim}"


class Op(Struct, frozen=True):
    """One row of the table of operations, applied; `over` names the indices it runs along."""

    name: str
    args: tuple[Expr, ...]
    over: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name in _BINDS and len(self.args) == 2:
            a, b = self.args
            return f"{_inside(a, self.name, False)} {self.name} {_inside(b, self.name, True)}"
        if self.name == "neg":
            return f"-{_inside(self.args[0], '*', True)}"
        return f"{'_'.join((self.name, *map(_subscript, self.over)))}({', '.join(map(str, self.args))})"


_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 3}


def _inside(x: Expr, around: str, right: bool) -> str:
    """`x` as an operand of `around`, in parentheses where they are needed."""
    if not isinstance(x, Op) or x.name not in (*_BINDS, "neg"):
        return str(x)
    mine, its = _BINDS.get(x.name, 2), _BINDS[around]
    needed = mine < its or (mine == its and (right or around == "^")) or (x.name == "neg" and right)
    return f"({x})" if needed else str(x)


def _subscript(index: str) -> str:
    return f"({index})" if "|" in index else index


Index = Union[str, Shift, Group, Cat, Part, Ref]
Expr = Union[Ref, Num, Pos, Op]
Node = Union[Index, Expr]


class Equation(Struct, frozen=True):
    """`out = expression`, one alternative per part where the left has parts; none declares an input."""

    out: Ref
    alts: tuple[Expr, ...]
    update: bool = False  # written with <- (modifiers only)

    @property
    def reads(self) -> tuple[Ref, ...]:
        """Every tensor that it reads, those at whose places it writes included."""
        return tuple(r for x in (*self.alts, *self.out.index) for r in refs(x))

    def __str__(self) -> str:
        if not self.alts:
            return str(self.out)
        return f"{self.out} {'<-' if self.update else '='} {' | '.join(map(str, self.alts))}"


class Program(Struct, frozen=True, dict=True):
    """A page: equations, and which pairs of indices exist.

    `dims`: the named dimensions of a tensor whose equation writes them as digits, like Q[.. (side pair)] for Q[.. d].
    """

    equations: tuple[Equation, ...]
    sees: Mapping[tuple[str, str], MaskExpr] = field(default_factory=dict)
    dims: Mapping[str, tuple[Index, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.equations), *(f"{q} sees {k}: {mask}" for (q, k), mask in self.sees.items())])

    def __repr__(self) -> str:
        return f"<Program of {', '.join(self.defined)}>"

    @cached_property
    def defined(self) -> dict[str, Equation]:
        """The tensors that an equation defines, in order."""
        return {e.out.name: e for e in self.equations if e.alts}

    @cached_property
    def inputs(self) -> dict[str, Ref]:
        """The tensors that no equation defines, each with the indices it was declared or first read with."""
        made, seen = self.defined, {e.out.name: e.out for e in self.equations if not e.alts}
        for e in self.equations:
            for r in e.reads:
                if r.name not in made:
                    seen.setdefault(r.name, r)
        return seen

    @cached_property
    def tensors(self) -> dict[str, tuple[Index, ...]]:
        """Every tensor's named dimensions."""
        given = {n: tuple(i.base if isinstance(i, Shift) else i for i in r.index) for n, r in self.inputs.items()}
        return given | {n: self.dims.get(n, e.out.index) for n, e in self.defined.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every size, option and index letter that the page mentions, in order."""
        found: dict[str, None] = {}
        for e in self.equations:
            for x in (e.out, *e.alts):
                found |= dict.fromkeys((*letters(x), *sizes_in(x)))
        for (q, k), mask in self.sees.items():
            found |= dict.fromkeys((*q.split(), *k.split(), *mask.names))
        return tuple(n for n in found if "|" not in n)

    @cached_property
    def output(self) -> str:
        """The tensor that the page is about: the last one that no other equation reads."""
        read = {r.name for e in self.equations for alt in e.alts for r in refs(alt) if r.name != e.out.name}
        return [*list(self.defined)[-1:], *(n for n in self.defined if n not in read)][-1]


@lru_cache(8192)
def letters(x: Node) -> tuple[str, ...]:
    """Every index that names an axis in an index, reference or expression, in order, once.

    >>> from attnmath.language.parse import expression
    >>> letters(expression("softmax_n L[b t n] * V[b n-past e]"))
    ('b', 't', 'n', 'e')
    """
    if isinstance(x, str):
        return () if x == "last" else (x,)
    if isinstance(x, Shift):
        return (x.base, *(n for _, n in x.by if isinstance(n, str) and n not in OFFSETS))
    if isinstance(x, Pos):
        return (x.dim,)
    if isinstance(x, Part):
        return letters(x.cat.parts[x.i])
    if isinstance(x, Num):
        return ()
    kids: tuple[Node, ...] = x.parts if isinstance(x, (Group, Cat)) else x.index if isinstance(x, Ref) else x.args
    if len(kids) == 1:
        found = letters(kids[0])
    else:
        found = tuple(dict.fromkeys([d for k in kids for d in letters(k)]))
    if isinstance(x, Op) and x.over:
        from attnmath.language.ops import OPS

        return OPS[x.name].shape(found, x.over)
    return found


def digits(d: str) -> tuple[str, ...]:
    """The letters of an index that is several read as one.

    >>> digits("n"), digits("n|(k i)"), digits("c i")
    (('n',), ('n', 'k', 'i'), ('c', 'i'))
    """
    return tuple(d.replace("|", " ").replace("(", "").replace(")", "").split())


@lru_cache(8192)
def refs(x: Node) -> tuple[Ref, ...]:
    """Every tensor read in an expression, gathers' own tensors included.

    >>> from attnmath.language.parse import expression
    >>> [r.name for r in refs(expression("A[t] * exp(B[T[t] n])"))]
    ['A', 'B', 'T']
    """
    if isinstance(x, Ref):
        return (x, *(r for i in x.index for r in refs(i)))
    kids = x.args if isinstance(x, Op) else x.parts if isinstance(x, (Group, Cat)) else ()
    return tuple([r for k in kids for r in refs(k)])


def ops(x: Expr) -> Iterator[Op]:
    """Every operation in an expression.

    >>> from attnmath.language.parse import expression
    >>> [o.name for o in ops(expression("2 * exp(A[t])"))]
    ['*', 'exp']
    """
    if isinstance(x, Op):
        yield x
        for a in x.args:
            yield from ops(a)


@lru_cache(8192)
def sizes_in(x: Node) -> tuple[str, ...]:
    """Every size or option that an expression or reference names without brackets.

    >>> from attnmath.language.parse import expression
    >>> sizes_in(expression("A[t] / sqrt(d + p)"))
    ('d', 'p')
    """
    if isinstance(x, Num):
        return (x.value,) if isinstance(x.value, str) and x.value != "pi" else ()
    if isinstance(x, Shift):
        return tuple(n for _, n in x.by if n in OFFSETS and isinstance(n, str))
    if isinstance(x, (str, Pos, Part)):
        return ()
    kids: tuple[Node, ...] = x.parts if isinstance(x, (Group, Cat)) else x.index if isinstance(x, Ref) else x.args
    return tuple(n for k in kids for n in sizes_in(k))


def swap_refs(x: Expr, f: Callable[[Ref], Expr]) -> Expr:
    """`x` with f applied to every tensor read, innermost first.

    >>> from attnmath.language.parse import expression
    >>> str(swap_refs(expression("2 * A[t]"), lambda r: Ref("B", r.index)))
    '2 * B[t]'
    """
    if isinstance(x, Op):
        return Op(x.name, tuple(swap_refs(a, f) for a in x.args), x.over)
    return f(Ref(x.name, tuple(_swap_index(i, f) for i in x.index))) if isinstance(x, Ref) else x


def _swap_index(i: Index, f: Callable[[Ref], Expr]) -> Index:
    if isinstance(i, Ref):
        new = swap_refs(i, f)
        assert isinstance(new, Ref), "an index is replaced by a reference"
        return new
    if isinstance(i, (Group, Cat)):
        return type(i)(tuple(_swap_index(k, f) for k in i.parts))
    return i


def terms(x: Expr) -> list[tuple[int, tuple[Expr, ...], tuple[Expr, ...]]]:
    """The signed additive terms of an expression, each as (sign, numerators, denominators).

    >>> from attnmath.language.parse import expression
    >>> [(s, len(num), len(den)) for s, num, den in terms(expression("Q[t] * K[n] / sqrt(d) - B[n]"))]
    [(1, 2, 1), (-1, 1, 0)]
    """
    if isinstance(x, Op) and x.name in ("+", "-"):
        second = terms(x.args[1])
        return terms(x.args[0]) + (second if x.name == "+" else [(-s, n, d) for s, n, d in second])
    if isinstance(x, Op) and x.name == "neg":
        return [(-s, n, d) for s, n, d in terms(x.args[0])]
    num: list[Expr] = []
    den: list[Expr] = []
    sign = _factors(x, num, den)
    return [(sign, tuple(num), tuple(den))]


def _factors(x: Expr, up: list[Expr], down: list[Expr]) -> int:
    if isinstance(x, Op) and x.name == "*":
        return _factors(x.args[0], up, down) * _factors(x.args[1], up, down)
    if isinstance(x, Op) and x.name == "/":
        return _factors(x.args[0], up, down) * _factors(x.args[1], down, up)
    if isinstance(x, Op) and x.name == "neg":
        return -_factors(x.args[0], up, down)
    up.append(x)
    return 1


def settled(e: Equation) -> list[tuple[tuple[Index, ...], Expr]]:
    """[(left indices, expression)]: one per part of the left, and every `n|c` on the right either an index of
    its own or, term by term, the part whose letters the rest of the term names.

    >>> from attnmath.language.parse import equation
    >>> [str(x) for _, x in settled(equation("S[t n|s] = Q[t n] | P[t s]"))]
    ['Q[t n]', 'P[t s]']
    """
    if not any(isinstance(i, Cat) for r in (e.out, *(r for a in e.alts for r in refs(a))) for i in r.index):
        return [(e.out.index, alt) for alt in e.alts]
    out = []
    for k, alt in enumerate(e.alts):
        left = tuple(Part(i, k) if isinstance(i, Cat) and len(e.alts) > 1 else i for i in e.out.index)
        fixed = {d for i in left if not isinstance(i, Cat) for d in letters(i)}
        out.append((tuple(_chosen(i, fixed | _bound(alt)) for i in left), _settle(alt, fixed)))
    return out


def _settle(x: Expr, fixed: set[str]) -> Expr:
    if isinstance(x, Op) and x.name in ("+", "-", "neg"):
        return Op(x.name, tuple(_settle(a, fixed) for a in x.args), x.over)
    bound = fixed | _bound(x)
    return swap_refs(x, lambda r: Ref(r.name, tuple(_chosen(i, bound) for i in r.index)))


def _bound(x: Expr) -> set[str]:
    """The letters that a term names outside of any `x|y`."""
    plain = {d for r in refs(x) for i in r.index if not isinstance(i, Cat) for d in letters(i)}
    return plain | {o for op in ops(x) for o in op.over}


def _chosen(i: Index, bound: set[str]) -> Index:
    if not isinstance(i, Cat):
        return i
    hit = [n for n, p in enumerate(i.parts) if set(letters(p)) & bound]
    return Part(i, hit[0]) if len(hit) == 1 else str(i)


def check(p: Program) -> Program:
    """Each tensor defined once, read with the rank it has, and nothing on a left that its right cannot supply.

    >>> from attnmath.language.parse import equation
    >>> check(Program((equation("A[t] = X[t]"),)))
    <Program of A>
    """
    from attnmath.language.ops import OPS

    made: dict[str, Equation] = {}
    for e in p.equations:
        if e.alts and e.out.name in made:
            raise LanguageError(
                f"{e.out.name} is defined twice: `{made[e.out.name]}` and `{e}`; give the second another name"
            )
        if e.alts:
            made[e.out.name] = e
    tensors = p.tensors
    for e in p.equations:
        for r in (r for a in e.alts for r in refs(a)):
            if len(r.index) != len(tensors[r.name]):
                raise LanguageError(
                    f"{r} in `{e}` has {len(r.index)} indices, but it is {Ref(r.name, tensors[r.name])}"
                )
        if len(e.alts) > 1 and [len(i.parts) for i in e.out.index if isinstance(i, Cat)] != [len(e.alts)]:
            raise LanguageError(
                f"`{e}` has {len(e.alts)} alternatives; its left needs one index with as many parts, like n|s"
            )
        for op in (op for a in e.alts for op in ops(a)):
            has = {p for a in op.args for d in letters(a) for p in digits(d)}
            along = op.over[:1] if OPS[op.name].along == "swap" else op.over
            if missing := [o for o in along if not set(digits(o)) <= has]:
                raise LanguageError(
                    f"`{op}` in `{e}` runs along {', '.join(missing)}, which its argument does not have"
                )
        for alt in e.alts:
            for _, num, den in terms(alt):
                inner = {d for f in num for d in letters(f)} - set(letters(e.out))
                if (
                    len(num) == 1
                    and not den
                    and isinstance(num[0], Op)
                    and inner
                    and not any("|" in str(i) for i in e.out.index)
                ):
                    raise LanguageError(
                        f"`{num[0]}` in `{e}` would be summed over {', '.join(sorted(inner))} as a whole: inside a "
                        "function nothing is summed; give the product a line of its own"
                    )
        if len(set(letters(e.out))) < sum(len(letters(i)) for i in e.out.index):
            raise LanguageError(f"`{e}` names an index twice on its left")
        if len(e.alts) == 1:
            _supplied(e)
    return p


def named_axes(p: Program) -> Program:
    """The page, knowing by which letter an axis goes that an equation writes as digits: O[b (c i) h] that is read as O[b t h].

    >>> from attnmath.language.parse import equation
    >>> named_axes(Program((equation("O[(c i)] = X[(c i)]"), equation("Y[t] = 2 * O[t]")))).tensors["O"]
    ('t',)
    """
    dims = dict(p.dims)
    reads = [r for e in p.equations for a in e.alts for r in refs(a)]
    for name, e in p.defined.items():
        if any(isinstance(i, Group) for i in e.out.index) and name not in dims:
            plain = [r.index for r in reads if r.name == name and all(isinstance(i, str) for i in r.index)]
            if plain:
                dims[name] = plain[0]
    return replace(p, dims=dims)


def _supplied(e: Equation) -> None:
    known = {*letters(e.alts[0]), *(o for op in ops(e.alts[0]) for o in op.over)}
    parted = {d for i in e.out.index if isinstance(i, Cat) for d in letters(i)}
    free = [d for d in letters(e.out) if d not in known | parted]
    if free:
        raise LanguageError(
            f"{', '.join(free)} only on the left of `{e}`: nothing on the right says what to put there "
            f"(write 0 * @{free[0]} + ... to repeat)"
        )
