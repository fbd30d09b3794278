"""What the symbols mean, by brute force: every sum walked, every entry a number of fifty digits.

It judges the normal form and the pages, so it shares no line with them: derivatives are differences, integrals are
quadratures, limits are sequences, expectations are means over every outcome.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import pi
from typing import Any

import sympy as sp
from mpmath import fp, mp, mpf
from sympy.core.function import AppliedUndef

from attnmath.proving.terms import AtMost, Claim, E, Index, Partial

Value = Any  # a whole number, or mpmath's
Place = tuple[str, tuple[int, ...]]

DIGITS = 50
CLOSE = mpf(10) ** -25
ROUGH = mpf(10) ** -7  # where a derivative, an integral or a limit was taken by numbers
PLAIN: dict[Any, Callable[..., Value]] = {
    sp.exp: lambda x: _context(x).exp(x),
    sp.log: lambda x: _context(x).log(x),
    sp.sin: lambda x: _context(x).sin(x),
    sp.cos: lambda x: _context(x).cos(x),
    sp.tanh: lambda x: _context(x).tanh(x),
    sp.cosh: lambda x: _context(x).cosh(x),
    sp.sinh: lambda x: _context(x).sinh(x),
    sp.Abs: abs,
    sp.Max: max,
    sp.Min: min,
    sp.floor: lambda x: int(mp.floor(x + CLOSE)),  # a whole quotient may come out a little less
    sp.ceiling: lambda x: int(mp.ceil(x)),
    sp.Add: lambda *xs: sum(xs),
    sp.KroneckerDelta: lambda a, b: int(a == b),
    AtMost: lambda a, b: int(a <= b),
}
SIGNS = {sp.Eq: "==", sp.Ne: "!=", sp.Gt: ">", sp.Ge: ">=", sp.Lt: "<", sp.Le: "<="}


def _context(x: Value) -> Any:
    """Where a number's functions are: floats have their own, which are a hundred times as fast."""
    return fp if type(x) is float else mp


class Outside(Exception):
    """A range ran backwards, or something was divided by zero: what was drawn is not in the statement's domain."""


class World:
    """One model of a statement: values for its symbols, and for every entry of its tensors when it is first looked at."""

    def __init__(
        self,
        values: Mapping[Any, Value],
        rng: random.Random,
        defined: Mapping[str, Callable[..., Value]] = {},
        laws: Mapping[str, str] = {},
        positive: frozenset[str] = frozenset(),
    ) -> None:
        self.values, self.rng, self.defined, self.laws, self.positive = dict(values), rng, defined, laws, positive
        self.order: dict[str, list[int]] = {}  # permutations
        self.drawn: dict[Place, Value] = {}  # entries that nothing defines
        self.forced: dict[Place, Value] = {}  # entries that an outcome, or a difference, puts in place of theirs
        self.touched: dict[Place, str] | None = None  # random entries that were looked at, while they are being found
        self.memo: dict[Place, Value] = {}
        self.rough = [False]
        self.number: Callable[[Any], Value] = mp.mpmathify

    def but(self, values: Mapping[Any, Value] = {}, forced: Mapping[Place, Value] = {}) -> World:
        """The same world with some values in the place of others; what is defined by them is computed anew."""
        other = World({**self.values, **values}, self.rng, self.defined, self.laws, self.positive)
        other.order, other.drawn, other.rough, other.number = self.order, self.drawn, self.rough, self.number
        other.forced, other.touched = {**self.forced, **forced}, self.touched
        return other

    def entry(self, name: str, idx: tuple[int, ...]) -> Value:
        """The entry of a tensor at these positions (a symbol has none): forced, defined, or drawn once."""
        if (name, idx) in self.forced:
            return self.forced[name, idx]
        if name in self.laws:
            if self.touched is None:
                raise NotImplementedError(f"{name} is random, and no expectation is taken")
            self.touched[name, idx] = self.laws[name]
            return self.number(1)
        if name in self.defined:
            if (name, idx) not in self.memo:
                self.memo[name, idx] = self.defined[name](self, *idx)
            return self.memo[name, idx]
        return self.drawn.setdefault((name, idx), self._drawn(name))

    def _drawn(self, name: str) -> Value:
        size = self.number(self.rng.uniform(0.2, 1.3))
        return size if name in self.positive or self.rng.random() < 0.5 else -size

    def __call__(self, e: Any, at: Mapping[Any, Value] | None = None) -> Value:
        """The value of an expression, with the positions of `at` beside the symbols of this world."""
        return _walk(sp.sympify(e), self, dict(at or {}))


def _walk(e: Any, world: World, at: dict[Any, Value]) -> Value:
    if e in at:
        return at[e]
    rule = next((RULES[k] for k in type(e).__mro__ if k in RULES), None)
    if rule is not None:
        return rule(e, world, at)
    if type(e) in PLAIN:
        return PLAIN[type(e)](*(_walk(a, world, at) for a in e.args))
    if e.is_Integer:
        return int(e)
    if e.is_number and not e.args:
        return world.number(e.p) / e.q if e.is_Rational else world.number(sp.N(e, DIGITS))
    if e.is_Symbol:
        return _symbol(e, world)
    raise NotImplementedError(f"the oracle does not know {type(e).__name__}")


def _symbol(e: Any, world: World) -> Value:
    named = e.name in world.defined or (e.name, ()) in world.forced
    return world.entry(e.name, ()) if named and e not in world.values else world.values[e]


def _ranged(e: Any, world: World, at: dict[Any, Value]) -> Iterator[Value]:
    *inner, (v, lo, hi) = e.limits
    body = e.func(e.function, *inner) if inner else e.function
    first, last = int(_walk(lo, world, at)), int(_walk(hi, world, at))
    if last < first - 1:
        raise Outside
    for k in range(first, last + 1):
        yield _walk(body, world, {**at, v: k})


def _product_of(values: Iterable[Value]) -> Value:
    out: Value = 1
    for x in values:
        out = out * x
    return out


def _power(e: Any, world: World, at: dict[Any, Value]) -> Value:
    base, power = (_walk(a, world, at) for a in e.args)
    if base == 0 and power < 0:
        raise Outside
    if isinstance(base, int) and isinstance(power, int) and power >= 0:
        return base**power
    found = _context(base * power).power(base, power)
    if isinstance(found, (mp.mpc, complex)):
        raise Outside
    return found


def _entry(e: Any, world: World, at: dict[Any, Value]) -> Value:
    name, places = (e.func.__name__, e.args) if isinstance(e, AppliedUndef) else (str(e.args[0]), e.args[1:])
    idx = tuple(int(_walk(a, world, at)) for a in places)
    if name in world.order:
        return world.order[name][idx[0]]
    return world.entry(name, idx)


def _partial(e: Any, world: World, at: dict[Any, Value]) -> Value:
    """A central difference: the entry is moved, and whatever is defined by it computed anew."""
    what, by = e.args
    idx = () if by.is_Symbol else tuple(int(_walk(a, world, at)) for a in by.args[1:])
    middle, step = _walk(by, world, at), mpf(10) ** -18

    def moved(to: Value) -> Value:
        if by in world.values:
            return _walk(what, world.but({by: to}), dict(at))
        return _walk(what, world.but(forced={(str(by.args[0] if idx else by), idx): to}), dict(at))

    world.rough[0] = True
    return (moved(middle + step) - moved(middle - step)) / (2 * step)


def _derivative(e: Any, world: World, at: dict[Any, Value]) -> Value:
    world.rough[0] = True
    what, (by, times) = e.args[0], e.args[1]
    there = mpf(_walk(by, world, at))
    return mp.diff(lambda x: _walk(what, world.but({by: x}), at), there, int(times))


def _subs(e: Any, world: World, at: dict[Any, Value]) -> Value:
    what, names, places = e.args
    return _walk(what, world.but({n: _walk(p, world, at) for n, p in zip(names, places)}), at)


def _limit(e: Any, world: World, at: dict[Any, Value]) -> Value:
    """The value far out, or close by; seen to have settled."""
    world.rough[0] = True
    what, by, where = e.args[:3]
    if where in (sp.oo, -sp.oo):
        places = [mpf(10) ** k * (1 if where == sp.oo else -1) for k in (10, 12)]
    else:
        places = [_walk(where, world, at) + mpf(10) ** -k for k in (10, 12)]
    if by.is_integer:
        places = [int(x) for x in places]
    near, nearer = (_walk(what, world.but({by: x}), at) for x in places)
    if abs(near - nearer) > ROUGH * (1 + abs(nearer)):
        raise NotImplementedError("the oracle does not see this limit settle")
    return nearer


def _integral(e: Any, world: World, at: dict[Any, Value]) -> Value:
    world.rough[0] = True
    v, lo, hi = e.args[1]
    far = {sp.oo: mp.inf, -sp.oo: -mp.inf}
    ends = [far[x] if x in far else _walk(x, world, at) for x in (lo, hi)]
    parts = [ends[0], 0, ends[1]] if ends[0] < 0 < ends[1] else ends
    return mp.quad(lambda x: _walk(e.args[0], world.but({v: x}), at), parts)


def _piecewise(e: Any, world: World, at: dict[Any, Value]) -> Value:
    return next(_walk(value, world, at) for value, when in e.args if when in (True, sp.true) or holds(when, world, at))


# -- expectations -----------------------------------------------------------------------------------------------------

SIGN = [(mpf(-1), mpf(1) / 2), (mpf(1), mpf(1) / 2)]  # variance 1; its fourth moment is not the normal's


def _three() -> list[tuple[Value, Value]]:
    """The first five moments of the standard normal in three points."""
    return [(-mp.sqrt(3), mpf(1) / 6), (mpf(0), mpf(2) / 3), (mp.sqrt(3), mpf(1) / 6)]


def _normal() -> list[tuple[Value, Value]]:
    """The standard normal by Gauss and Hermite's rule, exact for polynomials of degree 51."""
    from numpy.polynomial.hermite_e import hermegauss

    places, weights = hermegauss(26)
    return [(float(x), float(w) / (2 * pi) ** 0.5) for x, w in zip(places, weights)]


LAWS: dict[str, Callable[[], list[tuple[Value, Value]]]] = {"sign": lambda: SIGN, "three": _three, "normal": _normal}


def _expectation(e: Any, world: World, at: dict[Any, Value]) -> Value:
    """The mean over every outcome of the random entries that the expression touches; independent factors one by one."""
    groups: list[tuple[dict[Place, str], list[Any]]] = []
    for f in sp.Mul.make_args(e.args[0]):
        names: dict[Place, str] = {}
        finding, held = world.but(), [f]
        finding.touched = names
        _walk(f, finding, at)
        for g in [g for g in groups if g[0].keys() & names.keys()]:
            groups.remove(g)
            names, held = {**g[0], **names}, g[1] + held
        groups.append((names, held))
    if world.touched is not None:
        for names, _ in groups:
            world.touched.update(names)
    return _product_of(_mean(sp.Mul(*held), names, world, at) for names, held in groups)


def _mean(e: Any, touched: Mapping[Place, str], world: World, at: dict[Any, Value]) -> Value:
    if "normal" in touched.values():
        world.rough[0] = True
    out = world.number(0)
    for outcome in itertools.product(*(LAWS[law]() for law in touched.values())):
        one = world.but(forced=dict(zip(touched, (x for x, _ in outcome))))
        out += _walk(e, one, at) * _product_of(w for _, w in outcome)
    return out


RULES: dict[Any, Callable[[Any, World, dict[Any, Value]], Value]] = {
    sp.Sum: lambda e, world, at: sum(_ranged(e, world, at)),
    sp.Product: lambda e, world, at: _product_of(_ranged(e, world, at)),
    sp.Mul: lambda e, world, at: _product_of(_walk(a, world, at) for a in e.args),
    sp.Pow: _power,
    sp.Indexed: _entry,
    AppliedUndef: _entry,
    Partial: _partial,
    sp.Derivative: _derivative,
    sp.Subs: _subs,
    sp.Limit: _limit,
    sp.Integral: _integral,
    sp.Piecewise: _piecewise,
    E: _expectation,
}


# -- judging ----------------------------------------------------------------------------------------------------------


def holds(claim: Claim, world: World, at: Mapping[Any, Value] | None = None) -> bool:
    """Whether a claim is true in a world, to the digits that it can be known to.

    >>> from attnmath.proving.terms import eq, sizes
    >>> n = sizes("n")
    >>> holds(eq(n**2, 9), World({n: 3}, random.Random(0)))
    True
    """
    left, right = (world(a, at) for a in claim.args)
    gap, scale = left - right, 1 + abs(left) + abs(right)
    same = abs(gap) <= (ROUGH if world.rough[0] else CLOSE) * scale
    kind = SIGNS[next(k for k in SIGNS if isinstance(claim, k))]
    return {
        "==": same,
        "!=": not same,
        ">": gap > 0 and not same,
        ">=": gap > 0 or same,
        "<": gap < 0 and not same,
        "<=": gap < 0 or same,
    }[kind]


def free(exprs: Iterable[Any]) -> list[Any]:
    """The symbols that a statement leaves open, sizes of its indices among them.

    >>> from attnmath.proving.terms import indices, sizes, tensors
    >>> x, = tensors("x")
    >>> i, = indices("i", sizes("n"))
    >>> free([x[i]])
    [i, n]
    """
    found: set[Any] = set()
    for e in exprs:
        tensors = {x.args[0].args[0] for x in e.atoms(sp.Indexed)}
        names = e.free_symbols - {s for s in e.free_symbols if isinstance(s, (sp.IndexedBase, sp.Indexed))}
        found |= {s for s in names if s not in tensors} | {t for s in e.atoms(Index) for t in s.size.free_symbols}
    return sorted(found, key=str)


def drawn(names: Iterable[Any], rng: random.Random, when: Iterable[Any] = (), top: int = 3) -> dict[Any, Value]:
    """Values for symbols: sizes from 2 on (at 1 a softmax is constant, and wrong gradients pass), indices inside their ranges.

    >>> from attnmath.proving.terms import sizes
    >>> sorted(drawn([sizes("n")], random.Random(0)).values())[0] >= 2
    True
    """
    names = list(names)
    plain = [s for s in names if not isinstance(s, Index)]
    for _ in range(2000):
        at: dict[Any, Value] = {}
        for s in plain:
            if s.is_integer:
                at[s] = rng.randint(2 if s.is_positive else 0, top)
            else:
                size = mpf(rng.randint(1, 9)) / rng.randint(4, 9)
                at[s] = size if s.is_nonnegative or rng.random() < 0.5 else -size
        world = World(at, rng)
        ends = {s: int(world(s.size)) for s in names if isinstance(s, Index)}
        if all(end > 0 for end in ends.values()) and all(holds(c, world) for c in when):
            return {**at, **{s: rng.randrange(end) for s, end in ends.items()}}
    raise RuntimeError("no sizes satisfy the conditions")


def agree(
    claim: Claim,
    *,
    when: Iterable[Any] = (),
    also: Iterable[Any] = (),
    trials: int = 4,
    seed: int = 0,
    defined: Mapping[str, Callable[..., Value]] = {},
    laws: Mapping[str, str] = {},
    top: int = 3,
) -> bool:
    """Whether a claim is true in `trials` worlds drawn at random: sizes, positions, entries; of `ne`, in one of them.

    `when`: side conditions. `also`: further expressions whose symbols need values (definitions). `defined`: tensors that
    are computed. `laws`: random tensors and their laws. Raises NotImplementedError for what it cannot evaluate.

    >>> from attnmath.proving.terms import eq, indices, sizes, tensors, total
    >>> x, = tensors("x")
    >>> i, j = indices("i j", sizes("n"))
    >>> agree(eq(total(x[i], i) ** 2, total(x[i] * x[j], i, j))), agree(eq(total(x[i], i) ** 2, total(x[i] ** 2, i)))
    (True, False)
    """
    rng, done = random.Random(seed), 0
    when, exprs = tuple(when), [*claim.args, *also]
    names = [s for s in free([*exprs, *when]) if str(s) not in defined]
    positive = frozenset(str(x.base) for e in exprs for x in e.atoms(sp.Indexed) if x.base.is_positive)
    pis = {x.func.__name__: x.args[0] for e in exprs for x in e.atoms(AppliedUndef) if x.func.__name__ not in defined}
    coarse = "normal" in laws.values() and not any(e.has(Partial, sp.Derivative, sp.Limit) for e in exprs)
    with mp.workdps(DIGITS):
        for _ in range(60 * trials):
            if done == trials:
                return not isinstance(claim, sp.Ne)
            values = drawn(names, rng, when, top)
            world = World(values, rng, defined, laws, positive)
            if coarse:
                world.number, world.values = (
                    float,
                    {k: v if isinstance(v, int) else float(v) for k, v in values.items()},
                )
            world.order = {name: _shuffled(world, place, rng) for name, place in pis.items()}
            try:
                if holds(claim, world) == isinstance(claim, sp.Ne):
                    return isinstance(claim, sp.Ne)
            except (Outside, ZeroDivisionError, OverflowError):
                continue
            done += 1
    if done < trials:
        raise RuntimeError("too few admissible worlds")
    return True


def _shuffled(world: World, place: Any, rng: random.Random) -> list[int]:
    """A permutation of the dimension that a position lies in, for a function from positions to positions."""
    end = 8 if not isinstance(place, Index) else int(world(place.size))
    out = list(range(end))
    rng.shuffle(out)
    return out


def exact(lhs: Any, rhs: Any, at: Mapping[Any, int]) -> bool:
    """Exact equality at one shape, every entry a symbol.

    >>> from attnmath.proving.terms import indices, sizes, tensors, total
    >>> n = sizes("n")
    >>> x, = tensors("x")
    >>> i, j = indices("i j", n)
    >>> exact(total(x[i], i) ** 2, total(x[i] * x[j], i, j), {n: 2})
    True
    """
    open_ = [s for s in (lhs - rhs).free_symbols if isinstance(s, Index) and s not in at]
    ends = [range(int(s.size.subs(at))) for s in open_]
    for places in itertools.product(*ends):
        gap = _written(sp.sympify(lhs) - rhs, {**at, **dict(zip(open_, places))})
        if sp.expand(gap) != 0 and sp.cancel(gap) != 0:
            return False
    return True


def _written(e: Any, at: Mapping[Any, Any]) -> Any:
    """An expression with its sums written out and its entries as symbols."""
    if isinstance(e, (sp.Sum, sp.Product)):
        *inner, (v, lo, hi) = e.limits
        body = e.func(e.function, *inner) if inner else e.function
        ends = range(int(_written(lo, at)), int(_written(hi, at)) + 1)
        parts = [_written(body, {**at, v: sp.Integer(k)}) for k in ends]
        return sp.Add(*parts) if isinstance(e, sp.Sum) else sp.Mul(*parts)
    if isinstance(e, sp.Indexed):
        return sp.Symbol(f"{e.base}{[_written(a, at) for a in e.args[1:]]}", real=True)
    if e in at:
        return sp.sympify(at[e])
    return e.func(*(_written(a, at) for a in e.args)) if e.args else e
