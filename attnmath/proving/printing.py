"""Claims as a reader meets them: plain text for a terminal, LaTeX for a page. What is printed is what was checked."""

from __future__ import annotations

from typing import Any

from sympy import Add, Derivative, Indexed, Integral, KroneckerDelta, Limit, Mul, Pow, Product, Sum, exp
from sympy.core.function import AppliedUndef
from sympy.printing.latex import LatexPrinter
from sympy.printing.str import StrPrinter

from attnmath.proving.terms import Claim, Index

SIGNS = {
    "==": ("=", "="),
    "!=": ("≠", r"\neq"),
    ">": (">", ">"),
    ">=": ("≥", r"\geq"),
    "<": ("<", "<"),
    "<=": ("≤", r"\leq"),
}
WIDE = 62  # glyphs of a formula that fit on a line of a page


def arranged(e: Any, order: tuple[str, ...] = ()) -> Any:
    """The same expression with its factors and terms in the order in which people write them.

    SymPy orders them for itself: here numbers come first, then symbols, tensors (in the `order` of their names, as the page
    introduces them), functions, parentheses and sums; and of terms those with a minus come last.

    >>> from sympy.abc import x, y
    >>> arranged(y - x).args
    (y, -x)
    """
    if isinstance(e, type) or not e.args or isinstance(e, (Indexed, KroneckerDelta, AppliedUndef)):
        return e
    if isinstance(e, (Sum, Product)):
        return e.func(arranged(e.function, order), *e.limits)
    args = [arranged(a, order) for a in e.args]
    if isinstance(e, Mul):
        return Mul(*sorted(args, key=lambda f: _factor_rank(f, order)), evaluate=False)
    if isinstance(e, Add):
        return Add(*sorted(args, key=_term_rank), evaluate=False)
    return e.func(*args)


def _factor_rank(f: Any, order: tuple[str, ...]) -> tuple[Any, ...]:
    base = f.as_base_exp()[0] if isinstance(f, Pow) else f
    kinds = [f.is_number, base.is_Symbol, isinstance(base, Indexed), isinstance(base, exp), base.is_Function]
    rank = kinds.index(True) if True in kinds else 8 if isinstance(base, (Sum, Product)) else 6
    name = str(base.base) if isinstance(base, Indexed) else str(base)
    return rank, f.is_number and not f.is_Rational, order.index(name) if name in order else len(order), str(f).lower()


def _term_rank(t: Any) -> tuple[Any, ...]:
    negative = t.could_extract_minus_sign()
    return negative, t.is_number, -_degree(t), str(t).lower()


def _degree(t: Any) -> int:
    """The total power of a monomial, for the highest first."""
    powers = [f.as_base_exp() for f in Mul.make_args(t)]
    return sum(int(n) for b, n in powers if n.is_Integer and b.is_Symbol)


# -- plain text -------------------------------------------------------------------------------------------------------


def _range(printer: Any, limit: Any, below: str, upto: str) -> str:
    """How a bound index runs: nothing but its name where it is the whole of its own dimension."""
    v, lo, hi = limit
    name = printer._print(v)
    if isinstance(v, Index) and lo == 0 and hi == v.size - 1:
        return str(name)
    end, hi, lo = arranged(hi + 1), arranged(hi), arranged(lo)
    if hi.is_Symbol or hi.is_number:
        return (
            f"{name}{upto}{printer._print(hi)}"
            if lo == 0
            else f"{printer._print(lo)}{upto}{name}{upto}{printer._print(hi)}"
        )
    return (
        f"{name}{below}{printer._print(end)}"
        if lo == 0
        else f"{printer._print(lo)}{upto}{name}{below}{printer._print(end)}"
    )


def _outermost_first(e: Any) -> list[Any]:
    """The ranges of a sum: as they were written, but an outer one first where an inner one runs up to it."""
    names = {limit[0] for limit in e.limits}
    nested = any(x.free_symbols & names for limit in e.limits for x in limit[1:])
    return list(reversed(e.limits)) if nested else list(e.limits)


class Plain(StrPrinter):
    """Text in the manner of the language of equations: Σ_a Q[i a] * K[j a]."""

    printmethod = "_plain"

    def _print_Indexed(self, e: Any) -> str:
        return f"{e.base.label}[{' '.join(self._print(arranged(a)).replace(' ', '') for a in e.indices)}]"

    def _print_IndexedBase(self, e: Any) -> str:
        return str(e.label)

    def _print_Sum(self, e: Any) -> str:
        return self._big("Σ", e)

    def _print_Product(self, e: Any) -> str:
        return self._big("Π", e)

    def _big(self, sign: str, e: Any) -> str:
        over = ",".join(_range(self, limit, "<", "≤") for limit in _outermost_first(e))
        plain = over.replace("_", "").isalnum()
        return f"{sign}_{over if plain else '{' + over + '}'}({self._print(e.function)})"

    def _print_Partial(self, e: Any) -> str:
        what = self._print(e.args[0])
        return f"∂{what if e.args[0].is_Symbol or isinstance(e.args[0], Indexed) else f'({what})'}/∂{self._print(e.args[1])}"

    def _print_Derivative(self, e: Any) -> str:
        v, n = e.args[1]
        power = f"^{n}" if n != 1 else ""
        return f"d{power}/d{self._print(v)}{power} ({self._print(e.args[0])})"

    def _print_Limit(self, e: Any) -> str:
        return f"lim_{{{self._print(e.args[1])} -> {self._print(e.args[2])}}} ({self._print(e.args[0])})"

    def _print_Subs(self, e: Any) -> str:
        where = ", ".join(f"{self._print(v)} = {self._print(p)}" for v, p in zip(e.args[1], e.args[2]))
        return f"({self._print(e.args[0])} at {where})"

    def _print_Integral(self, e: Any) -> str:
        v, lo, hi = e.args[1]
        return f"∫({self._print(e.args[0])}) d{self._print(v)} from {self._print(lo)} to {self._print(hi)}"

    def _print_KroneckerDelta(self, e: Any) -> str:
        return f"δ({', '.join(self._print(a) for a in e.args)})"

    def _print_AtMost(self, e: Any) -> str:
        return f"[{self._print(e.args[0])} ≤ {self._print(e.args[1])}]"

    def _print_E(self, e: Any) -> str:
        return f"E[{self._print(e.args[0])}]"

    def _print_Pow(self, e: Any, rational: bool = False) -> str:
        return str(super()._print_Pow(e, rational=rational)).replace("**", "^")

    def _print_Infinity(self, e: Any) -> str:
        return "∞"

    def _print_Pi(self, e: Any) -> str:
        return "π"


def plain(e: Any, order: tuple[str, ...] = ()) -> str:
    """An expression or a claim as one line of text.

    >>> from attnmath.proving.terms import eq, indices, sizes, tensors, total
    >>> Q, K, S = tensors("Q K S")
    >>> i, a = indices("i a", sizes("n"))
    >>> plain(eq(S[i, i], total(Q[i, a] * K[i, a], a)), ("Q", "K"))
    'S[i i] = Σ_a(Q[i a]*K[i a])'
    """
    if hasattr(e, "rel_op"):
        return " ".join((plain(e.lhs, order), SIGNS[e.rel_op][0], plain(e.rhs, order)))
    return str(Plain({"order": "none"}).doprint(arranged(e, order)))


# -- LaTeX ------------------------------------------------------------------------------------------------------------


class Tex(LatexPrinter):
    """A textbook's page: sums over whole dimensions name their index alone."""

    def _print_Subs(self, e: Any) -> str:
        what, names, places = e.args
        body = rf"\left({self._print(what)}\right)" if isinstance(what, Add) else self._print(what)
        where = r" \\ ".join(f"{self._print(v)} = {self._print(p)}" for v, p in zip(names, places))
        return rf"\left. {body} \right|_{{\substack{{{where}}}}}"

    def _print_Indexed(self, e: Any) -> str:
        places = [self._print(arranged(a)) for a in e.indices]
        short = all((a.is_Symbol and len(a.name) == 1) or a.is_number for a in e.indices)
        base = self._print(e.base.label)
        return f"{{{base}}}_{{{('' if short else ', ').join(places)}}}"

    def _big(self, sign: str, e: Any) -> str:
        over = ", ".join(_range(self, limit, " < ", r" \leq ") for limit in _outermost_first(e))
        body = self._print(e.function)
        return rf"{sign}_{{{over}}} " + (rf"\left({body}\right)" if isinstance(e.function, Add) else body)

    def _print_Sum(self, e: Any) -> str:
        return self._big(r"\sum", e)

    def _print_Product(self, e: Any) -> str:
        return self._big(r"\prod", e)

    def _print_KroneckerDelta(self, e: Any, exp: Any = None) -> str:
        out = rf"\delta_{{{', '.join(self._print(a) for a in e.args)}}}"
        return out if exp is None else f"{{{out}}}^{{{exp}}}"


def latex(e: Any, order: tuple[str, ...] = ()) -> str:
    """An expression as LaTeX, for math mode.

    >>> from attnmath.proving.terms import indices, sizes, tensors, total
    >>> x, = tensors("x")
    >>> i, = indices("i", sizes("n"))
    >>> latex(total(x[i] ** 2, i))
    '\\\\sum_{i} {x}_{i}^{2}'
    """
    return str(Tex({"order": "none"}).doprint(arranged(e, order)))


def latex_lines(claim: Claim, order: tuple[str, ...] = ()) -> list[str]:
    """A claim as the lines of an `aligned`, each with its `&`: one if it fits, else broken at the sign and at its terms.

    >>> from attnmath.proving.terms import eq
    >>> from sympy.abc import x, y
    >>> latex_lines(eq(x, y))
    ['x &= y']
    """
    sign = SIGNS[claim.rel_op][1]
    if _width(claim.lhs) + _width(claim.rhs) + 3 <= WIDE:
        return [f"{latex(claim.lhs, order)} &{sign} {latex(claim.rhs, order)}"]
    first, *rest = _broken(claim.lhs, order)
    lines = [f"& {first}", *(rf"&\qquad {x}" for x in rest)]
    first, *rest = _broken(claim.rhs, order)
    return [*lines, rf"&\quad {sign} {first}", *(rf"&\qquad {x}" for x in rest)]


def _broken(e: Any, order: tuple[str, ...]) -> list[str]:
    """A side in lines, broken before the terms of a sum."""
    if _width(e) <= WIDE or not isinstance(e, Add):
        return [latex(e, order)]
    lines: list[list[Any]] = []
    for t in arranged(e, order).args:
        if lines and sum(map(_width, lines[-1])) + _width(t) + 3 * len(lines[-1]) <= WIDE:
            lines[-1].append(t)
        else:
            lines.append([t])
    out = [latex(Add(*line, evaluate=False), order) for line in lines]
    return [out[0], *(x if x.startswith("-") else f"+ {x}" for x in out[1:])]


def _width(e: Any) -> int:
    """About how many glyphs wide an expression is: fractions are as wide as their wider part, indices are small."""
    if isinstance(e, Indexed):
        return 1 + (sum(len(str(a)) for a in e.indices) + 1) // 2
    if e.is_Symbol or e.is_number or not e.args:
        return max(1, len(str(e)) * 2 // 3)
    if isinstance(e, (Sum, Product)):
        return 2 + _width(e.function) + 2 * isinstance(e.function, Add)
    if isinstance(e, Mul):
        above, below = e.as_numer_denom() if not e.has(Sum) else _fraction(e)
        return max(_joined(above, 1), _joined(below, 1) if below != 1 else 0)
    if isinstance(e, Add):
        return _joined(e, 3)
    if isinstance(e, Pow):
        return _width(e.base) + 2
    if isinstance(e, (Derivative, Limit, Integral)):
        return 5 + _width(e.args[0])
    return 3 + sum(_width(a) for a in e.args)


def _fraction(e: Any) -> tuple[Any, Any]:
    below = [f for f in e.args if isinstance(f, Pow) and f.exp.could_extract_minus_sign()]
    return Mul(*(f for f in e.args if f not in below)), Mul(*(1 / f for f in below))


def _joined(e: Any, gap: int) -> int:
    parts = e.args if isinstance(e, (Mul, Add)) else (e,)
    extra = sum(2 for p in parts if isinstance(e, Mul) and isinstance(p, Add))
    return sum(_width(p) for p in parts) + gap * (len(parts) - 1) + extra
