"""What rewrites of equations share: terms collected, indices moved and renamed, parts of axes told apart, names made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, count

from msgspec import Struct

from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Num,
    Op,
    Part,
    Pos,
    Program,
    Ref,
    Shift,
    letters,
    refs,
    settled,
    swap_refs,
    terms,
)

Indices = tuple[Index, ...]
Steps = tuple[tuple[int, str | int], ...]


class Names:
    """Names that are still free.

    >>> names = Names(["D"])
    >>> names.fresh("D", "DA"), names.fresh("D")
    ('DA', 'D2')
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def fresh(self, *wishes: str) -> str:
        """The first wish that is free, or the last one with a number; it is taken then."""
        name = next(n for n in chain(wishes, (f"{wishes[-1]}{k}" for k in count(2))) if n not in self.taken)
        self.taken.add(name)
        return name


# -- terms


class Term(Struct, frozen=True, dict=True):
    """A number times factors, over divisors."""

    value: float
    num: tuple[Expr, ...]
    den: tuple[Expr, ...] = ()

    @cached_property
    def letters(self) -> tuple[str, ...]:
        """The indices of its factors."""
        return letters_of((*self.num, *self.den))

    @property
    def reads(self) -> set[str]:
        """The tensors that it reads."""
        return {r.name for x in (*self.num, *self.den) for r in refs(x)}


def tidy(x: Expr, first: Iterable[str] = ()) -> list[Term]:
    """The terms of an expression: numbers multiplied out, what is on both sides of a fraction cancelled, and the tensors
    named in `first` in front.

    >>> from attnmath.language.parse import expression
    >>> str(total(tidy(expression("A[t] * cap * 2 * G[t] / cap - 0 * A[t]"), ["G"])))
    '2 * G[t] * A[t]'
    """
    front, out = set(first), []
    for sign, num, den in terms(x):
        value: float = sign
        up, down = [], list(den)
        for f in num:
            if isinstance(f, Num) and not isinstance(f.value, str):
                value *= f.value
            elif f in down:
                down.remove(f)
            else:
                up.append(f)
        up.sort(key=lambda f: not (isinstance(f, Ref) and f.name in front))
        if value:
            out.append(Term(value, tuple(up), tuple(down)))
    return out


def total(found: Iterable[Term]) -> Expr:
    """Terms joined into one expression, like ones collected, what is subtracted last.

    >>> from attnmath.language.parse import expression
    >>> str(total(tidy(expression("-A[t] + B[t] * C[t] + C[t] * B[t]"))))
    '2 * B[t] * C[t] - A[t]'
    """
    like: dict[tuple[tuple[str, ...], tuple[str, ...]], Term] = {}
    for t in found:
        key = tuple(sorted(map(str, t.num))), tuple(sorted(map(str, t.den)))
        first = like.get(key, Term(0, t.num, t.den))
        like[key] = Term(first.value + t.value, first.num, first.den)
    out: Expr | None = None
    for t in sorted((t for t in like.values() if t.value), key=lambda t: t.value < 0):
        number = () if abs(t.value) == 1 and t.num else (Num(abs(t.value)),)
        x = times((*number, *t.num))
        x = Op("/", (x, times(t.den))) if t.den else x
        minus = t.value < 0
        out = (Op("neg", (x,)) if minus else x) if out is None else Op("-" if minus else "+", (out, x))
    return Num(0) if out is None else out


def times(factors: Sequence[Expr]) -> Expr:
    """A product; of no factors, 1.

    >>> str(times([Num(2), Ref("A", ("t",))])), str(times([]))
    ('2 * A[t]', '1')
    """
    out, *rest = factors or (Num(1),)
    for f in rest:
        out = Op("*", (out, f))
    return out


def letters_of(xs: Iterable[Expr | Index]) -> tuple[str, ...]:
    """The indices that several expressions name, each once.

    >>> letters_of([Ref("A", ("t", "n")), Ref("B", ("n", "d"))])
    ('t', 'n', 'd')
    """
    return tuple(dict.fromkeys(d for x in xs for d in letters(x)))


# -- indices


def moved(x: Expr, old: str, new: str, by: Steps) -> Expr:
    """An expression with the index `old` read at `new`, so many steps on; positions stay what they were.

    >>> from attnmath.language.parse import expression
    >>> str(moved(expression("A[b t-1] * @t"), "t", "t", ((1, 1),)))
    'A[b t] * (@t + 1)'
    """

    def index(i: Index) -> Index:
        if i == old:
            return shifted(new, by)
        if isinstance(i, Shift) and i.base == old:
            return shifted(new, (*i.by, *by))
        return Group(tuple(map(index, i.parts))) if isinstance(i, Group) else i

    if isinstance(x, Pos) and x.dim == old:
        start: list[tuple[int, str | int]] = [(s, "past") for s, d in ((1, old), (-1, new)) if d == "t"]
        place: Expr = Pos(new)
        for sign, n in _cancelled((*by, *start)):
            place = Op("+" if sign > 0 else "-", (place, Num(n)))
        return place
    if isinstance(x, Op):
        return Op(x.name, tuple(moved(a, old, new, by) for a in x.args), x.over)
    return swap_refs(x, lambda r: Ref(r.name, tuple(map(index, r.index)))) if isinstance(x, Ref) else x


def shifted(base: str, by: Steps) -> Index:
    """An index so many steps on; where the steps cancel, the plain index.

    >>> str(shifted("t", ((-1, 1), (1, 3)))), shifted("t", ((-1, "past"), (1, "past")))
    ('t+2', 't')
    """
    steps = _cancelled(by)
    return Shift(base, steps) if steps else base


def _cancelled(by: Steps) -> Steps:
    """Steps without those that go there and back."""
    names: dict[str, int] = {}
    number = 0
    for s, n in by:
        if isinstance(n, int):
            number += s * n
        else:
            names[n] = names.get(n, 0) + s
    rest = [(1 if k > 0 else -1, n) for n, k in names.items() for _ in range(abs(k))]
    return (*rest, *([(1 if number > 0 else -1, abs(number))] if number else []))


def renamed(x: Expr, names: Mapping[str, str]) -> Expr:
    """An expression with indices under other letters.

    >>> from attnmath.language.parse import expression
    >>> str(renamed(expression("sum_n(A[t-1 n] * B[(c n)]) * @t"), {"t": "i", "n": "j"}))
    'sum_j(A[i-1 j] * B[(c j)]) * @i'
    """

    def index(i: Index) -> Index:
        if isinstance(i, str):
            return names.get(i, i)
        if isinstance(i, Shift):
            by = tuple((s, names.get(n, n) if isinstance(n, str) else n) for s, n in i.by)
            return Shift(names.get(i.base, i.base), by)
        return type(i)(tuple(map(index, i.parts))) if isinstance(i, (Group, Cat)) else i

    if isinstance(x, Pos):
        return Pos(names.get(x.dim, x.dim))
    if isinstance(x, Op):
        return Op(x.name, tuple(renamed(a, names) for a in x.args), tuple(names.get(o, o) for o in x.over))
    return swap_refs(x, lambda r: Ref(r.name, tuple(map(index, r.index)))) if isinstance(x, Ref) else x


def flat(index: Iterable[Index]) -> list[Index]:
    """Indices with the digits of each axis side by side.

    >>> flat(("b", Group(("c", "i"))))
    ['b', 'c', 'i']
    """
    return [x for i in index for x in (flat(i.parts) if isinstance(i, Group) else [i])]


# -- parts of axes: a rewrite says which part it reads (a Part); a page leaves that to what the term names


def cats(page: Program) -> dict[str, Cat]:
    """Every axis of several parts on a page, by its text.

    >>> from attnmath.language.parse import program
    >>> list(cats(program("F[n|c d] = k[n d] | z[c d]")))
    ['n|c']
    """
    found = [i for e in page.equations for x in (e.out, *e.alts) for r in refs(x) for i in r.index]
    return {str(i): i for i in (*found, *(i for d in page.dims.values() for i in d)) if isinstance(i, Cat)}


def whole(i: Index, known: Mapping[str, Cat]) -> Index:
    """The axis that an index reads a part of, or all of under one name.

    >>> axis = Cat(("n", "c"))
    >>> str(whole(Part(axis, 1), {})), str(whole("n|c", {"n|c": axis})), whole("n", {})
    ('n|c', 'n|c', 'n')
    """
    return i.cat if isinstance(i, Part) else known.get(i, i) if isinstance(i, str) else i


def written(
    out: Ref, parts: Sequence[tuple[Indices, Expr]], known: Mapping[str, Cat], names: Names
) -> Iterator[Equation]:
    """(left indices, expression) per part of the left, as the equation that a page has; where a term does not say which part
    of an axis it reads, that part gets a name first.

    >>> axis = Cat(("n", "c"))
    >>> x = Ref("S", ("t", Part(axis, 1)))
    >>> print(*written(Ref("Q", ("t",)), [(("t",), x)], {}, Names(["S", "Q"])), sep="; ")
    Sc[t c] = S[t n|c]; Q[t] = Sc[t c]
    """
    slices: dict[Ref, Ref] = {}

    def as_read(r: Ref) -> Ref:
        r = slices.get(r, r)
        return Ref(r.name, tuple(whole(i, known) for i in r.index))

    def equation() -> Equation:
        return Equation(as_read(Ref(out.name, parts[0][0])), tuple(swap_refs(x, as_read) for _, x in parts))

    e = equation()
    if [list(map(str, refs(x))) for _, x in settled(e)] != [list(map(str, refs(x))) for _, x in parts]:
        for r in dict.fromkeys(r for _, x in parts for r in refs(x) if any(isinstance(i, Part) for i in r.index)):
            own = tuple(i.cat.parts[i.i] if isinstance(i, Part) else i for i in r.index)
            suffix = "".join(d for i in r.index if isinstance(i, Part) for d in letters(i))
            read = as_read(r)
            slices[r] = Ref(names.fresh(r.name + suffix), own)
            yield Equation(slices[r], (read,))
        e = equation()
    yield e
