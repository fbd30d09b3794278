"""The ways a claim can be carried. Each is a rule that knows its level, its name, and what it rests on.

A check takes a claim and the page's definitions and returns the rules that showed it, or None. What it returns is "not shown",
never "false": to refute is the oracle's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise
from typing import Any

from msgspec import Struct
from sympy import (
    Add,
    Dummy,
    Eq,
    Float,
    Ge,
    Gt,
    Indexed,
    Integer,
    KroneckerDelta,
    Max,
    Min,
    Mul,
    Ne,
    Product,
    Sum,
    cancel,
    cos,
    div,
    exp,
    expand,
    expand_mul,
    expand_trig,
    factor,
    floor,
    fraction,
    simplify,
    sin,
    sympify,
    together,
)
from sympy.core.function import AppliedUndef

from attnmath.proving import oracle
from attnmath.proving.sums import Lemma, Normal, equal, factors, head, heads, inside, reached, taken, terms, unfold
from attnmath.proving.terms import AtMost, Claim, E, Index, Partial, at, fresh, spelled, total

Definitions = tuple[Claim, ...]
Found = set[str] | None


class Level(IntEnum):
    """How far a step is shown to hold; the words are what is printed."""

    CITED, TESTED, SIZES, ALL = range(4)

    @property
    def words(self) -> str:
        """The level as it is printed.

        >>> Level.ALL.words
        'proved for all sizes'
        """
        return ("cited", "tested numerically", "proved at sizes", "proved for all sizes")[self]


class Recurrence(Struct, frozen=True):
    """A tensor that is defined step by step: its entries at `start`, and those at t + 1 from those at t."""

    t: Any
    start: Claim
    step: Claim
    says: str = ""

    @property
    def tensor(self) -> Any:
        """The tensor that it defines."""
        return head(self.step.lhs)


class Check(Struct, frozen=True):
    """A rule that carries a claim. `using`: hypotheses of the page, or claims of earlier steps; the page holds them to that.

    `of`: the names whose definitions may be unfolded to compare both sides; all of them unless it is given.
    """

    level = Level.ALL
    words = ""
    using: tuple[Any, ...] = ()
    of: tuple[str, ...] | None = None
    why = ""  # why not for all sizes

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        raise NotImplementedError

    @property
    def lemmas(self) -> list[Lemma]:
        """What it rests on, as rewriting rules."""
        return [Lemma(c) for c in self.using]


class Algebra(Check, frozen=True):
    """Both sides have one normal form, given the definitions and the lemmas."""

    words = "index algebra"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        return equal(claim.lhs, claim.rhs, self.lemmas, definitions, self.of) if isinstance(claim, Eq) else None


class Induction(Check, frozen=True, kw_only=True):
    """For S[t, ..] = F(t): F at the start is the start, and F(t + 1) follows from F(t) by the recurrence.

    `rows`: definitions whose row at t alone may be unfolded (a triangular system's): a symbol stands for itself there.
    """

    words = "induction"
    recurrence: Recurrence
    rows: tuple[Claim, ...] = ()

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        t, start, step = self.recurrence.t, self.recurrence.start, self.recurrence.step
        name, places = head(claim.lhs), claim.lhs.args[1:]
        heads_fit = name == self.recurrence.tensor and places[:1] == (t,)
        if not isinstance(claim, Eq) or not heads_fit or places[1:] != step.lhs.args[2:]:
            return None
        whole = fresh(claim.rhs)
        if whole.has(name):
            return None
        others = tuple(d for d in definitions if head(d.lhs) != name)
        held = equal(whole.xreplace({t: start.lhs.args[1]}), start.rhs, self.lemmas, others)
        before = Eq(claim.lhs, whole, evaluate=False)
        following = unfold(step.rhs, [before])
        if following.has(name):
            return None
        led = equal(whole.xreplace({t: t + 1}), following, self.lemmas, (*others, *self.rows))
        return None if held is None or led is None else held | led


class Rows(Check, frozen=True):
    """For X[t, ..] = F(t), where X is given row by row from the rows above (a triangular system): strong induction.

    `using`: first the hypothesis X[t, ..] = G, in which X stands only at rows that a sum from 0 to t - 1 runs over; then others.
    If F holds of all those rows, G with F in their place is F(t). The first row has none above, so there is no start.
    """

    words = "strong induction, row after row"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        row, (t, *places) = self.using[0], claim.lhs.args[1:]
        name = head(row.lhs)
        free = bool(t.is_Symbol and t.is_nonnegative) and all(isinstance(p, Index) for p in places)
        if not isinstance(claim, Eq) or claim.lhs != row.lhs or claim.rhs.has(name) or not free:
            return None
        if not _above(fresh(row.rhs), name, t, frozenset()):
            return None
        any_row = Index("_row", t)
        held = Eq(claim.lhs.xreplace({t: any_row}), at(claim.rhs, {t: any_row}), evaluate=False)
        return equal(unfold(row.rhs, [held]), claim.rhs, self.lemmas, definitions, self.of)


def _above(e: Any, name: Any, t: Any, rows: frozenset[Any]) -> bool:
    """Whether a tensor stands only at rows that sums from 0 to t - 1 run over."""
    if isinstance(e, Indexed) and head(e) == name:
        return e.args[1] in rows
    if isinstance(e, (Sum, Product)):
        rows |= {v for v, lo, hi in e.limits if lo == 0 and expand(t - 1 - hi) == 0}
    return e != name and all(_above(a, name, t, rows) for a in e.args)


class Chain(Check, frozen=True):
    """The chain rule: L depends on an entry through some tensors alone, none of which depends on another of them, so that
    its derivative is the sum over their entries.

    `using`: the derivatives of L by those tensors (at any entry, from earlier steps), and, if they are known, those of these
    tensors by the entry; what is not known is taken from their definitions. Other lemmas serve to compare.
    """

    words = "chain rule, index algebra"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        if not isinstance(claim, Eq) or not isinstance(claim.lhs, Partial):
            return None
        whole, entry = claim.lhs.args
        outer = [c for c in self.using if isinstance(c.lhs, Partial) and c.lhs.args[0] == whole]
        inner = [c for c in self.using if isinstance(c.lhs, Partial) and c not in outer]
        through = {str(head(c.lhs.args[1])) for c in outer}
        past = str(head(entry)) in reached(whole, definitions, but=through)
        nested = any(through & reached(d.rhs, definitions) for d in definitions if str(head(d.lhs)) in through)
        if not outer or len(through) < len(outer) or past or nested:
            return None
        led = Add(*(self._through(c, entry, inner, definitions) for c in outer))
        known = [Lemma(c) for c in self.using if not isinstance(c.lhs, Partial)]
        return equal(led, claim.rhs, known, definitions, self.of)

    @staticmethod
    def _through(outer: Claim, entry: Any, inner: list[Claim], definitions: Definitions) -> Any:
        """The sum over all entries of one tensor: L's derivative by it times its own by the entry."""
        at_ = outer.lhs.args[1].args[1:]
        if not all(isinstance(p, Index) for p in at_) or len(set(at_)) < len(at_):
            raise ValueError("the chain rule needs the derivative at any entry")
        own = {p: Index(f"_c{n}", p.size) for n, p in enumerate(at_)}
        middle, slope = outer.lhs.args[1].xreplace(own), at(outer.rhs, own)
        step = taken(unfold(Partial(middle, entry), inner), definitions)
        return total(slope * step, *own.values())


class Waves(Check, frozen=True):
    """Index algebra after sines and cosines are written as exponentials, which decides trigonometric polynomials."""

    words = "index algebra on exponentials"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        both = [self._waves(x, definitions) for x in claim.args]
        return equal(both[0], both[1], self.lemmas) if isinstance(claim, Eq) else None

    @staticmethod
    def _waves(e: Any, definitions: Definitions) -> Any:
        for _ in definitions:
            e = unfold(e, definitions)
        return e.rewrite([sin, cos], exp)


class Bijection(Check, frozen=True, kw_only=True):
    """The sum over j of f(pi(j)) is the sum over j of f(j), for a permutation pi of [0, size).

    Of several sums at once, each by itself: the terms have j in no other place, and no other range depends on it.
    """

    words = "re-indexing by a permutation, index algebra"
    pi: Any
    size: Any

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        both = [self._reindexed(x, definitions) for x in claim.args]
        return equal(both[0], both[1], self.lemmas) if isinstance(claim, Eq) else None

    def _reindexed(self, e: Any, definitions: Definitions) -> Any:
        for _ in definitions:
            e = unfold(e, definitions)

        def one(s: Any) -> Any:
            for v, lo, hi in s.limits:
                hidden = s.function.xreplace({self.pi(v): Dummy("hole")})
                ends = [x for limit in s.limits for x in limit[1:]]
                if (lo, hi + 1) == (0, self.size) and not any(x.has(v) for x in (hidden, *ends)):
                    s = Sum(s.function.xreplace({self.pi(v): v}), *s.limits)
            return s

        return fresh(e).replace(lambda x: isinstance(x, Sum) and x.has(self.pi), one)


class Same(Check, frozen=True):
    """The definitions, unfolded, are one expression: commutativity and no more. The claim is immediate, and says so."""

    words = "immediate from the definitions"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        left, right = claim.args
        if left.has(Partial) != right.has(Partial) and not any(d.has(Partial) for d in definitions):
            return None  # unfolding neither makes a derivative nor takes one
        for _ in range(2 * len(definitions) + 1):
            if spelled(left) == spelled(right):
                return set()
            before = left, right
            names = heads(left) ^ heads(
                right
            )  # what only one side has is unfolded first, the page's last before others
            latest = [d for d in definitions if str(head(d.lhs)) in names][-1:]
            if not latest and _bare(left) != _bare(right):
                return None
            left, right = (unfold(x, latest or definitions) for x in before)
            if (left, right) == before:
                return None
        return None


def _bare(e: Any) -> Any:
    """An expression but for the places of its entries."""
    return spelled(e.replace(lambda x: isinstance(x, Indexed), lambda x: x.base.label))


class Scalars(Check, frozen=True):
    """An identity of ordinary functions of finitely many numbers: trigonometry, calculus, closed forms.

    `using`: equations whose left sides are symbols; each is replaced by its right side.
    """

    words = "algebra and calculus"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        if not isinstance(claim, Eq):
            return None
        gap = spelled_out(claim.lhs - claim.rhs, (*definitions, *self.using))
        tools = (lambda e: e, expand, lambda e: expand(expand_trig(expand(e))), cancel, factor, simplify)
        for tool in tools:
            gap = tool(gap)
            if gap == 0:
                return set()
        return None


def spelled_out(e: Any, definitions: Definitions) -> Any:
    """Scalar definitions put in, derivatives, limits and integrals taken.

    >>> from sympy import Derivative
    >>> from sympy.abc import x
    >>> spelled_out(Derivative(x**2, x), ())
    2*x
    """
    names = {d.lhs: d.rhs for d in definitions if d.lhs.is_Symbol}
    for _ in names:
        e = at(e, names)  # not subs, which takes a name under a derivative to be held fixed
    return e.doit()


class Signs(Check, frozen=True):
    """The left side is larger because every factor, or every term, of the difference has a known sign."""

    words = "the sign of each factor of the difference"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        if not isinstance(claim, (Gt, Ge)):
            return None
        gap = spelled_out(claim.lhs - claim.rhs, (*definitions, *self.using))
        for tool in (factor, expand, _over_one, cancel, lambda e: factor(simplify(e))):
            shown = tool(gap)
            if shown.is_positive or (isinstance(claim, Ge) and shown.is_nonnegative):
                return set()
        return None


def _over_one(e: Any) -> Any:
    """A fraction with whole numbers of at least 1 as 1 and some more, above and below the line expanded."""
    over, under = fraction(together(e.xreplace(_from_one(e))))
    return expand(over) / expand(under)


class Witness(Check, frozen=True, kw_only=True):
    """The sides are not equal, by one exact example."""

    words = "a counterexample, exactly"
    at: tuple[tuple[Any, Any], ...]

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        if not isinstance(claim, Ne):
            return None
        gap = simplify(spelled_out(claim.lhs - claim.rhs, definitions).subs(dict(self.at)))
        return set() if gap.is_zero is False else None


class Cases(Check, frozen=True, kw_only=True):
    """Sums whose terms change form at known places: cut there, each part loses its brackets, Min, Max and floor, and is summed.

    `at`: for each index that is cut, the places; they may name the indices of outer sums. A place that is known to lie before
    the range or after it is left out; one that is not known to lie in it, or whose order is not known, makes it no proof.
    What is known: a whole number in [a, b) is a + s and is b - 1 - s, for some s from 0 on; so is an Index in its own range.
    """

    words = "by cases, index algebra"
    at: tuple[tuple[Any, tuple[Any, ...]], ...] = ()

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        if not isinstance(claim, Eq):
            return None
        own = [(i, Integer(0), i.size) for i in claim.free_symbols if isinstance(i, Index)]
        try:
            left, right = (self._cut(taken(e, definitions), own, definitions) for e in claim.args)
        except Undecided:
            return None
        return equal(left, right, self.lemmas, definitions)

    def _cut(self, e: Any, known: list[Within], definitions: Definitions) -> Any:
        """The same with every sum in parts, and nothing in a part that changes form. Names unfold where no sum is around."""
        if not e.has(Sum):
            opened = unfold(e, definitions)
            return decided(e, known) if opened == e else self._cut(opened, known, definitions)
        if not isinstance(e, Sum):
            return e.func(*(self._cut(a, known, definitions) for a in e.args))
        *inner, (v, lo, hi) = e.limits
        lo, end = (self._cut(x, known, definitions) for x in (lo, hi + 1))
        body = Sum(e.function, *inner) if inner else e.function
        ends = [lo, end]
        for place in (sympify(c) for name, cs in self.at if name == v for c in cs):
            if self._outside(place, lo, end, known):
                continue
            n = next((n for n, b in enumerate(ends) if least(b - place, known)), 0)
            if n == 0 or not place.is_integer or not least(place - ends[n - 1], known):
                raise Undecided
            ends.insert(n, place)
        parts = [(self._cut(body, [*known, (v, a, b)], definitions), a, b) for a, b in pairwise(ends)]
        return Add(*(Sum(part, (v, a, b - 1)) if part.has(v) else part * (b - a) for part, a, b in parts))

    @staticmethod
    def _outside(place: Any, lo: Any, end: Any, known: list[Within]) -> bool:
        return least(lo - place, known) or least(place - end, known)


Within = tuple[Any, Any, Any]  # a whole number, and the half-open range that it is known to lie in


class Undecided(Exception):
    """What is known does not say which form a term has."""


def least(x: Any, known: list[Within]) -> bool:
    """Whether x is at least 0, from the ranges of what it is made of, the innermost last.

    >>> from attnmath.proving.terms import counts, sizes
    >>> i, n = counts("i"), sizes("n")
    >>> least(n - i - 1, [(i, 0, n)]), least(n - i - 2, [(i, 0, n)])
    (True, False)
    """
    return _least(expand_mul(x), tuple(known))


@lru_cache(4096)
def _least(x: Any, known: tuple[Within, ...]) -> bool:
    if _no_minus(x) or _no_minus(expand_mul(x.xreplace(_from_one(x)))):
        return True
    for k in range(len(known) - 1, -1, -1):
        v, lo, end = known[k]
        if x.has(v):
            more = _more(k)
            return any(_least(expand_mul(x.xreplace({v: place})), known[:k]) for place in (lo + more, end - 1 - more))
    return False


@lru_cache(256)
def _more(of: Any) -> Any:
    """A whole number from 0 on, the same one for the same name."""
    return Dummy("s", integer=True, nonnegative=True)


def _from_one(x: Any) -> dict[Any, Any]:
    """Whole numbers of at least 1 as 1 and some more."""
    return {n: 1 + _more(n) for n in x.free_symbols if n.is_integer and n.is_positive}


def _no_minus(x: Any) -> bool:
    """Whether every term of an expanded expression is at least 0."""
    return all(t.is_nonnegative for t in Add.make_args(x))


def decided(e: Any, known: list[Within]) -> Any:
    """The expression without brackets, Min, Max and floor: each as what it is in these ranges. Raises Undecided.

    >>> from attnmath.proving.terms import AtMost, counts, sizes
    >>> i, n = counts("i"), sizes("n")
    >>> decided(AtMost(i, n) + Max(i, n), [(i, 0, n)])
    n + 1
    """
    if not e.has(AtMost, Max, Min, floor, KroneckerDelta):
        return e
    args = [decided(a, known) for a in e.args]
    if isinstance(e, AtMost):
        return Integer(_at_most(args[0], args[1], known))
    if isinstance(e, KroneckerDelta):
        try:
            return Integer(_at_most(args[0], args[1], known) and _at_most(args[1], args[0], known))
        except Undecided:
            return _alone(args[0] - args[1], known)
    if isinstance(e, (Max, Min)):
        for a in args:
            if all(least((a - b) if isinstance(e, Max) else (b - a), known) for b in args):
                return a
        raise Undecided
    return _whole(args[0], known) if isinstance(e, floor) else e.func(*args)


def _at_most(x: Any, y: Any, known: list[Within]) -> bool:
    if least(y - x, known):
        return True
    if least(x - y - 1, known):
        return False
    raise Undecided


def _alone(gap: Any, known: list[Within]) -> Any:
    """The delta of a gap, with an index alone on one side where that can be."""
    gap = expand(gap)
    for v, _, _ in reversed(known):
        other = expand(v - gap * gap.coeff(v))
        if gap.coeff(v) in (1, -1) and not other.has(v):
            return KroneckerDelta(v, other)
    return KroneckerDelta(gap, 0)


def _whole(x: Any, known: list[Within]) -> Any:
    """floor(x): of q + r / m, with q whole and 0 <= r < m, q."""
    if x.is_integer:
        return x
    over, m = fraction(together(x))
    if not (m.is_Symbol and m.is_integer and m.is_positive and over.is_polynomial(m)):
        raise Undecided
    q, r = div(over, m, m)
    for down in (0, 1):
        if q.is_integer and least(r + down * m, known) and least(m - 1 - r - down * m, known):
            return q - down
    raise Undecided


# -- expectations -----------------------------------------------------------------------------------------------------


class Moments(Check, frozen=True, kw_only=True):
    """Independent entries of mean 0 and variance 1: the mean of a product is the sum over pairings of deltas.

    With `gaussian`, entries may occur up to any power (Isserlis 1918). Without, each tensor at most twice in a product, so
    that any law of that mean and variance serves.
    """

    words = "linearity of the expectation, pairings of independent entries"
    random: tuple[Any, ...]
    gaussian: bool = False

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        try:
            both = [self._taken(x, definitions) for x in claim.args]
        except ValueError:
            return None
        return equal(both[0], both[1], self.lemmas) if isinstance(claim, Eq) else None

    def _taken(self, e: Any, definitions: Definitions) -> Any:
        for _ in definitions:
            e = unfold(e, definitions)
        return e.replace(E, self._expected)

    def _expected(self, e: Any) -> Any:
        out = []
        for body, bound in terms(fresh(e)):
            fs = list(factors(body))
            noise = [f for f in fs if head(f) in self.random]
            rest = Mul(*fs) / Mul(*noise)
            if any(rest.has(r) for r in self.random):
                raise ValueError("not a polynomial in what is random")
            if not self.gaussian and any(sum(head(f) == r for f in noise) > 2 for r in self.random):
                raise ValueError("a fourth moment, which only a normal law fixes")
            paired = rest * _pairings(noise)
            out.append(_summed(paired, bound))
        return Add(*out)


def _pairings(xs: list[Any]) -> Any:
    if not xs:
        return Integer(1)
    x, *rest = xs
    return Add(
        *(
            Mul(*(KroneckerDelta(a, b) for a, b in zip(x.args[1:], y.args[1:]))) * _pairings(rest[:n] + rest[n + 1 :])
            for n, y in enumerate(rest)
            if head(y) == head(x)
        )
    )


class Gaussian(Check, frozen=True, kw_only=True):
    """E exp(sum over a of c_a w_a) = exp(sum over a of c_a^2 / 2), for independent standard normal w_a and c without w.

    That is the product over coordinates of the one-dimensional E exp(c w) = exp(c^2 / 2), which holds of complex c too, so
    that cosines and sines of what is linear in w are written as exponentials. `sizes`: the shape of w.
    """

    words = "the normal law's exponential moment, coordinate by coordinate"
    random: Any
    sizes: tuple[Any, ...]

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        try:
            both = [self._taken(x, definitions) for x in claim.args]
        except ValueError:
            return None
        return equal(both[0], both[1], self.lemmas, definitions, self.of) if isinstance(claim, Eq) else None

    def _taken(self, e: Any, definitions: Definitions) -> Any:
        random = [d for d in definitions if str(self.random) in reached(d.rhs, definitions)]
        for _ in random:
            e = unfold(e, random)
        return self._within(fresh(e), {})

    def _within(self, e: Any, around: dict[Any, Any]) -> Any:
        """Every expectation taken, with the ranges of the sums around it."""
        if isinstance(e, E):
            return self._expected(e.args[0], around)
        if isinstance(e, Sum):
            around = {**around, **{v: hi + 1 for v, lo, hi in e.limits if lo == 0}}
        return e.func(*(self._within(a, around) for a in e.args)) if e.has(E) else e

    def _expected(self, e: Any, around: dict[Any, Any]) -> Any:
        """The mean of a sum of products of exponentials, each of a form that is linear in w."""
        out = []
        for t in Add.make_args(expand(fresh(e).rewrite([sin, cos], exp), power_exp=False)):
            random = [f for f in factors(t) if f.has(self.random)]
            if not all(isinstance(f, exp) for f in random):
                raise ValueError("not an exponential of what is random")
            out.append(t / Mul(*random) * self._moment(Add(*(f.args[0] for f in random)), around))
        return Add(*out)

    def _moment(self, power: Any, around: dict[Any, Any]) -> Any:
        places = tuple(Index(f"_w{n}", size) for n, size in enumerate(self.sizes))
        still, slope = [], []
        for body, bound in terms(power):
            entries = [f for f in factors(body) if head(f) == self.random]
            rest = body / Mul(*entries)
            if len(entries) > 1 or rest.has(self.random):
                raise ValueError("not linear in what is random")
            if not entries:
                still.append(_summed(body, bound))
                continue
            at_ = entries[0].args[1:]
            if not all(inside(p, size, {**around, **dict(bound)}) for p, size in zip(at_, self.sizes, strict=True)):
                raise ValueError("an entry that may lie outside its tensor")
            met = Mul(*(KroneckerDelta(p, a) for p, a in zip(at_, places)))
            slope.append(_summed(rest * met, bound))
        power = Add(*still) + Sum(Add(*slope) ** 2, *((a, 0, a.size - 1) for a in places)) / 2
        return Mul(*map(_switched, Add.make_args(Normal()(power, around))))


def _switched(t: Any) -> Any:
    """exp(t), where a delta switches on and off: exp(delta y) = 1 + delta (exp(y) - 1), for delta is 0 or 1."""
    deltas = [f for f in factors(t) if isinstance(f, KroneckerDelta)]
    rest = t / Mul(*deltas)
    return exp(t) if len(deltas) != 1 or rest.has(KroneckerDelta) else 1 + deltas[0] * (exp(rest) - 1)


def _summed(body: Any, bound: Any) -> Any:
    return Sum(body, *((v, 0, u - 1) for v, u in bound)) if bound else body


# -- less than all sizes ----------------------------------------------------------------------------------------------


class AtSizes(Check, frozen=True, kw_only=True):
    """Exact symbolic equality at these shapes, every entry a symbol."""

    level = Level.SIZES
    sizes: tuple[tuple[tuple[Any, int], ...], ...]
    reason: str

    @property
    def words(self) -> str:  # type: ignore[override]
        """The shapes, and why not all."""
        shapes = "; ".join(", ".join(f"{k} = {v}" for k, v in s) or "this shape" for s in self.sizes)
        return f"exactly, every entry a symbol, at {shapes}; not for all sizes because {self.reason}"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        left, right = claim.args
        for _ in definitions:
            left, right = unfold(left, definitions), unfold(right, definitions)
        return set() if all(oracle.exact(left, right, dict(s)) for s in self.sizes) else None


class Tested(Check, frozen=True, kw_only=True):
    """Measured: the claim's functions by a program that computes what they mean, at these sizes, from each of these seeds.

    `measured`: by a function's name, from (seed, its arguments' values) to a number. `within`: the difference of the sides,
    as a part of the larger, that is let pass; the largest that was seen is among the rules. `setting`: what is said of it.
    """

    level = Level.TESTED
    measured: Mapping[str, Callable[..., float]]
    at: tuple[tuple[Any, int], ...]
    within: float
    reason: str
    seeds: tuple[int, ...] = (0, 1, 2)
    setting: str = ""

    @property
    def words(self) -> str:  # type: ignore[override]
        """Sizes, seeds and tolerance, and why it is not proved."""
        sizes = ", ".join(f"{k} = {v}" for k, v in self.at)
        told = f" ({self.setting})" if self.setting else ""
        seeds = ", ".join(map(str, self.seeds))
        return f"at {sizes}{told}, seeds {seeds}, within {self.within:.2g}; not for all sizes because {self.reason}"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        if not isinstance(claim, Eq):
            return None
        worst = 0.0
        for seed in self.seeds:
            left, right = (float(self._valued(x, seed)) for x in claim.args)
            worst = max(worst, abs(left - right) / max(abs(left), abs(right)))
        return {f"largest difference {worst:.1g}"} if worst <= self.within else None

    def _valued(self, e: Any, seed: int) -> Any:
        there = e.subs(self.at)
        asked = there.atoms(AppliedUndef)
        return there.xreplace(
            {f: Float(self.measured[f.func.__name__](seed, *map(int, f.args))) for f in asked}
        ).evalf()


class Cited(Check, frozen=True, kw_only=True):
    """A theorem that the page uses and does not prove; its numbers are looked at all the same."""

    level = Level.CITED
    source: str
    reason: str

    @property
    def words(self) -> str:  # type: ignore[override]
        """The source, and why it is not proved here."""
        return f"{self.source}; not proved here because {self.reason}"

    def __call__(self, claim: Claim, definitions: Definitions = ()) -> Found:
        return set()


algebra, scalars, signs, waves, same = Algebra(), Scalars(), Signs(), Waves(), Same()
