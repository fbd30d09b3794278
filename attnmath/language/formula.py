"""Symbols for `cost`'s own formulas: polynomials over the letters that also know their value.

A Formula is a sum of monomials with rational coefficients and whole exponents of either sign. It is computed at a point:
every letter has a value, so `max(n - w, 0)` is decided by the values, and the result carries the condition that decided
it. What comes out is the formula that holds at this point and wherever its conditions hold: its regime. SymPy is not
needed; that the two agree is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import gcd
from typing import Any

from msgspec import Struct, field

Atom = Any  # a letter, or ("floor", a, b), or ("stairs", a, b)
Monomial = tuple[tuple[Atom, int], ...]


def stairs(x: int, step: int) -> int:
    """x + (x - step) + (x - 2 step) + ..., the positive ones: how many queries see how many blocks.

    >>> stairs(7, 3)
    12
    """
    rows = -(-max(x, 0) // step)
    return rows * x - step * rows * (rows - 1) // 2


ATOMS = {"floor": lambda a, b: a // b, "stairs": stairs}


class Point(Struct, frozen=True):
    """Where formulas are computed: the letters' values, and what is known of them whatever the values."""

    values: dict[str, int] = field(default_factory=dict)
    at_least: Mapping[str, str] = field(default_factory=dict)  # {"n": "t"}: n >= t always

    def symbol(self, letter: str, value: int) -> Formula:
        """The letter as a formula.

        >>> at = Point()
        >>> t = at.symbol("t", 8192)
        >>> str(t * (t + 1)), (t * (t + 1)).value
        ('t*(t + 1)', 67117056)
        """
        self.values[letter] = value
        return Formula({((letter, 1),): (1, 1)}, self)


class Formula:
    """A polynomial; immutable. `value` is an int wherever the count it stands for is one; `gaps` are >= 0 in its regime."""

    __slots__ = ("gaps", "point", "terms")

    def __init__(self, terms: Mapping[Monomial, tuple[int, int]], point: Point, gaps: tuple[Formula, ...] = ()) -> None:
        self.terms = {m: c for m, c in terms.items() if c[0]}
        self.point, self.gaps = point, gaps

    @property
    def value(self) -> int:
        """What the formula is at its point."""
        values, num, den = self.point.values, 0, 1
        for monomial, (a, b) in self.terms.items():
            for atom, power in monomial:
                v = values[atom] if isinstance(atom, str) else ATOMS[atom[0]](atom[1].value, atom[2].value)
                a, b = (a * v**power, b) if power > 0 else (a, b * v**-power)
            num, den = num * b + a * den, den * b
        return num // den if num % den == 0 else num / den  # type: ignore[return-value]

    def _lift(self, other: Any) -> Formula:
        if isinstance(other, Formula):
            return other
        return Formula({(): (other.numerator, other.denominator)}, self.point)

    def __add__(self, other: Any) -> Formula:
        if isinstance(other, int) and not other:
            return self
        out = dict(self.terms)
        for m, (c, d) in self._lift(other).terms.items():
            a, b = out.get(m, (0, 1))
            out[m] = _reduced(a * d + c * b, b * d)
        return Formula(out, self.point, self._both(other))

    __radd__ = __add__

    def _both(self, other: Any) -> tuple[Formula, ...]:
        more = getattr(other, "gaps", ())
        return tuple(dict.fromkeys(self.gaps + more)) if self.gaps and more else self.gaps or more

    def __neg__(self) -> Formula:
        return Formula({m: (-a, b) for m, (a, b) in self.terms.items()}, self.point, self.gaps)

    def __sub__(self, other: Any) -> Formula:
        return self + -self._lift(other)

    def __rsub__(self, other: Any) -> Formula:
        return self._lift(other) + -self

    def __mul__(self, other: Any) -> Formula:
        if isinstance(other, int):
            return Formula({m: _reduced(a * other, b) for m, (a, b) in self.terms.items()}, self.point, self.gaps)
        out: dict[Monomial, tuple[int, int]] = {}
        factors = list(self._lift(other).terms.items())
        for m, (a, b) in self.terms.items():
            for n, (c, d) in factors:
                mn = _merged(m, n)
                x, y = out.get(mn, (0, 1))
                out[mn] = _reduced(x * b * d + a * c * y, y * b * d)
        return Formula(out, self.point, self._both(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Formula:
        divisor = self._lift(other)
        if len(divisor.terms) != 1:
            raise ValueError(f"{self} / ({divisor}) is no sum of monomials")
        ((monomial, (a, b)),) = divisor.terms.items()
        return self * Formula({tuple((x, -p) for x, p in monomial): (b, a)}, self.point)

    def __floordiv__(self, other: Any) -> Formula:
        divisor = self._lift(other)
        if divisor.terms == {(): (1, 1)} or not self.terms:
            return self
        return self._atom("floor", divisor)

    def covered(self, step: Any) -> Formula:
        """How many `step` it takes to cover self: a quotient where step divides it at this point, which joins the regime.

        Of a formula as the step only a share of self will do; ValueError for any other.

        >>> at = Point()
        >>> tiles = at.symbol("n", 128).covered(64)
        >>> str(tiles), tiles.conditions
        ('n/64', ('64*floor(n/64) >= n',))
        """
        if isinstance(step, Formula):
            quotient = self / step
            if not quotient.terms.keys() <= {()}:
                raise ValueError(f"{self} in steps of {step} is no polynomial")
            whole = -(-self.value // step.value)
            return Formula({(): (whole, 1)}, self.point, self._both(step))
        if self.terms.keys() <= {()}:
            return self._lift(-(-self.value // step))
        if self.value % step:
            up: Formula = (self + (step - 1)) // step
            return up
        return Formula((self / step).terms, self.point, tuple(dict.fromkeys((*self.gaps, *self._divided(step)))))

    def _divided(self, step: int) -> tuple[Formula, ...]:
        """The condition that `step` divides self, without what it divides anyhow: step * floor(rest / step) - rest >= 0."""
        whole = reduce(lambda x, y: x * y // gcd(x, y), (b for _, b in self.terms.values()))
        step, scaled = step * whole, self * whole
        rest = {m: c for m, c in scaled.terms.items() if c[0] % step or any(p < 0 for _, p in m)}
        if all(a < 0 for a, _ in rest.values()):
            rest = {m: (-a, b) for m, (a, b) in rest.items()}
        bare = Formula(rest, self.point)
        return ((bare // step) * step - bare,) if rest else ()

    @property
    def _divisor(self) -> tuple[Formula, int] | None:
        """(x, step) of a condition step * floor(x / step) - x >= 0: that step divides x."""
        for m, (a, _) in self.terms.items():
            if len(m) == 1 and m[0][0][0] == "floor" and m[0][0][2].terms.keys() == {()} and m[0][0][2].value == a:
                return m[0][0][1], a
        return None

    def stairs(self, step: Any) -> Formula:
        """self + (self - step) + (self - 2 step) + ..., the positive ones, as one thing."""
        return self._atom("stairs", self._lift(step)) if self.terms else self

    def _atom(self, name: str, other: Formula) -> Formula:
        bare = (name, Formula(self.terms, self.point), Formula(other.terms, self.point))
        return Formula({((bare, 1),): (1, 1)}, self.point, self._both(other))

    def maximum(self, other: Any) -> Formula:
        """The larger of the two at this point; unless it always is, the condition joins the regime."""
        other = self._lift(other)
        big, small = (self, other) if self.value >= other.value else (other, self)
        return self._decided(other, big, small, big)

    def minimum(self, other: Any) -> Formula:
        """The smaller of the two at this point."""
        other = self._lift(other)
        small, big = (self, other) if self.value <= other.value else (other, self)
        return self._decided(other, big, small, small)

    def _decided(self, other: Formula, big: Formula, small: Formula, chosen: Formula) -> Formula:
        gap, gaps = Formula((big - small).terms, self.point), self._both(other)
        if not _never_negative(gap):
            gaps = tuple(dict.fromkeys((*gaps, gap)))
        return Formula(chosen.terms, self.point, gaps)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The regime in words, without what follows from the rest of it.

        >>> at = Point()
        >>> n, w = at.symbol("n", 9), at.symbol("w", 4)
        >>> str(n.minimum(w)), n.minimum(w).conditions
        ('w', ('n >= w',))
        """
        kept = list(self.gaps)
        for g in self.gaps:
            others = [x for x in kept if x is not g]
            if any(_never_negative(g - x) or _divides(x, g) for x in others):
                kept = others
        return tuple(map(_condition, kept))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Formula, int)) and self.terms == self._lift(other).terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __str__(self) -> str:
        return render(self)

    __repr__ = __str__


def _divides(x: Formula, g: Formula) -> bool:
    """Whether x says that a multiple divides what g says a number divides."""
    strong, weak = x._divisor, g._divisor
    return bool(strong and weak and strong[0] == weak[0] and strong[1] % weak[1] == 0)


def _reduced(a: int, b: int) -> tuple[int, int]:
    if b == 1:
        return a, b
    k = gcd(a, b) * (1 if b > 0 else -1)
    return a // k, b // k


def _merged(m: Monomial, n: Monomial) -> Monomial:
    if not (m and n):
        return m or n
    powers = dict(m)
    for atom, p in n:
        powers[atom] = powers.get(atom, 0) + p
    return _monomial(powers)


def _monomial(powers: Mapping[Atom, int]) -> Monomial:
    return tuple(sorted([(x, p) for x, p in powers.items() if p], key=_by_name))


def _by_name(item: tuple[Atom, int]) -> str:
    return str(item[0])


def _never_negative(f: Formula) -> bool:
    """Whether f >= 0 wherever every letter is at least 1 (and n at least t): shift each by its bound, look at the signs."""
    if all(a >= 0 for a, _ in f.terms.values()) and all(_positive(x) for m in f.terms for x, _ in m):
        return True
    if any(not isinstance(x, str) or p < 0 for m in f.terms for x, p in m):
        return False
    at = Point({})
    shifted: dict[str, Formula] = {}

    def shift(x: str) -> Formula:
        if x not in shifted:
            bound = f.point.at_least.get(x)
            shifted[x] = at.symbol(x, 1) + (shift(bound) if bound in f.point.values and bound else 1)
        return shifted[x]

    total = Formula({}, at)
    for m, (a, b) in f.terms.items():
        term = Formula({(): (a, b)}, at)
        for x, p in m:
            for _ in range(p):
                term = term * shift(x)
        total = total + term
    return all(a >= 0 for a, _ in total.terms.values())


def _positive(x: Atom) -> bool:
    """A letter, or a quotient of what is never negative, rounded down."""
    return isinstance(x, str) or x[0] == "stairs" or (_never_negative(x[1]) and _never_negative(x[2]))


def _condition(gap: Formula) -> str:
    """`gap >= 0`, without a common factor that is certainly positive, and what is subtracted on the other side."""
    common, rest = _content(gap)
    ((monomial, (a, _)),) = common.terms.items()
    gap = rest if a > 0 and all(isinstance(x, str) for x, _ in monomial) else gap
    left = Formula({m: c for m, c in gap.terms.items() if c[0] > 0}, gap.point)
    right = Formula({m: (-a, b) for m, (a, b) in gap.terms.items() if a < 0}, gap.point)
    return f"{left} >= {right}"


# -- printing

_TOKENS = "tnws"  # letters that count tokens: factored apart from the widths
_ORDER = "bhgrtnswdelqpxm"
_ONE = {(): (1, 1)}


def render(f: Formula, numbers: bool = False) -> str:
    """The formula as text that Python and SymPy read: the common factor, then widths times tokens where it splits so.

    `numbers` puts the values of the point in the place of the letters.

    >>> at = Point({})
    >>> t, d, e = at.symbol("t", 4), at.symbol("d", 2), at.symbol("e", 3)
    >>> render((d + e) * t * (t + 1)), render((d + e) * t * (t + 1), numbers=True)
    ('t*(d + e)*(t + 1)', '4*(2 + 3)*(4 + 1)')
    """
    if not f.terms:
        return "0"
    common, rest = _content(f)
    factors = [x for x in _split(rest) if x.terms != _ONE]
    if len(factors) == 1 and common.terms == _ONE:
        return _sum(factors[0], numbers)
    ((monomial, (a, b)),) = common.terms.items()
    return _product(monomial, a, b, [f"({_sum(x, numbers)})" for x in factors], f, numbers)


def _content(f: Formula) -> tuple[Formula, Formula]:
    """f as a monomial times a polynomial with whole, coprime coefficients."""
    num = reduce(gcd, (a for a, _ in f.terms.values()))
    den = reduce(lambda x, y: x * y // gcd(x, y), (b for _, b in f.terms.values()))
    num *= -1 if all(a < 0 for a, _ in f.terms.values()) else 1
    powers = [dict(m) for m in f.terms]
    shared = {x: min(p.get(x, 0) for p in powers) for x in {x for p in powers for x in p}}
    common = Formula({_monomial(shared): _reduced(num, den)}, f.point)
    return common, f / common


def _split(f: Formula) -> list[Formula]:
    """f as [widths, tokens] if it is such a product (its coefficients then have rank one), else f alone."""
    rows: dict[Monomial, dict[Monomial, tuple[int, int]]] = {}
    for m, c in f.terms.items():
        tokens = tuple(a for a in m if not isinstance(a[0], str) or a[0] in _TOKENS)
        rows.setdefault(tokens, {})[tuple(a for a in m if a not in tokens)] = c
    first = next(iter(rows.values()))
    lead = next(iter(first))
    if len(rows) > 1 and len(first) > 1 and all(lead in row for row in rows.values()):
        widths = _content(Formula(first, f.point))[1]
        tokens_ = _content(Formula({tokens: row[lead] for tokens, row in rows.items()}, f.point))[1]
        if (widths * tokens_).terms == f.terms:
            return [widths, tokens_]
    return [f]


def _sum(f: Formula, numbers: bool) -> str:
    def rank(item: tuple[Monomial, tuple[int, int]]) -> tuple[bool, int, str]:
        return item[1][0] < 0, -sum(p for _, p in item[0]), str(item[0])

    out = ""
    for m, (a, b) in sorted(f.terms.items(), key=rank):
        out += (" - " if out else "-") if a < 0 else (" + " if out else "")
        out += _product(m, abs(a), b, [], f, numbers)
    return out


def _product(monomial: Monomial, a: int, b: int, more: list[str], f: Formula, numbers: bool) -> str:
    def shown(x: Atom, p: int) -> str:
        if isinstance(x, str):
            name = str(f.point.values[x]) if numbers else x
        else:
            a, b = render(x[1], numbers), render(x[2], numbers)
            name = f"floor({_bracketed(a)}/{_bracketed(b)})" if x[0] == "floor" else f"{x[0]}({a}, {b})"
        return name if p == 1 else f"{name}**{p}"

    ranked = sorted(monomial, key=lambda item: _ORDER.find(item[0]) if isinstance(item[0], str) else 99)
    up = [shown(x, p) for x, p in ranked if p > 0] + more
    down = [str(b)] * (b != 1) + [shown(x, -p) for x, p in ranked if p < 0]
    sign, a = ("-", -a) if a < 0 else ("", a)
    return sign + "/".join(["*".join(([str(a)] if a != 1 or not up else []) + up), *down])


def _bracketed(text: str) -> str:
    return text if text.isalnum() else f"({text})"
