"""Arithmetic that works alike on int, NumPy array, Formula and SymPy expression: what goes in decides what comes out.

Imports none of them. Counting is written with these and `+ - *` only, so that one line of it serves integers of any
size, sweeps and symbols.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from attnmath.errors import InputError, LanguageError
from attnmath.language.syntax import Expr, Num, Op

Number = Any  # int | numpy.ndarray of float64 | Formula | sympy.Expr


def _kind(*xs: Number) -> tuple[str, Any]:
    for name, base in (("sympy", "Basic"), ("numpy", "ndarray")):
        module = sys.modules.get(name)
        if module and any(isinstance(x, getattr(module, base)) for x in xs):
            return name, module
    return "", None


def minimum(a: Number, b: Number) -> Number:
    """The smaller one, element by element on arrays; a Formula notes which regime it took.

    >>> minimum(3, 5)
    3
    """
    name, module = _kind(a, b)
    if name:
        return module.Min(a, b) if name == "sympy" else module.minimum(a, b)
    return a.minimum(b) if hasattr(a, "minimum") else b.minimum(a) if hasattr(b, "minimum") else min(a, b)


def maximum(a: Number, b: Number) -> Number:
    """The larger one.

    >>> maximum(3, 5)
    5
    """
    name, module = _kind(a, b)
    if name:
        return module.Max(a, b) if name == "sympy" else module.maximum(a, b)
    return a.maximum(b) if hasattr(a, "maximum") else b.maximum(a) if hasattr(b, "maximum") else max(a, b)


def floor_div(a: Number, b: Number) -> Number:
    """How many whole times b goes into a.

    >>> floor_div(7, 2)
    3
    """
    name, module = _kind(a, b)
    if isinstance(b, int) and b == 0:
        raise InputError(f"{a} is not divisible by 0")
    return module.floor(a / b) if name == "sympy" else a // b


def ceil_div(a: Number, b: Number) -> Number:
    """How many b it takes to cover a.

    >>> ceil_div(7, 2)
    4
    """
    return floor_div(a + b - 1, b)


def exact_div(a: Number, b: Number) -> Number:
    """a / b where b divides a. In an array of float64, what does not divide is NaN, and so is whatever is made of it.

    >>> exact_div(32, 8)
    4
    """
    if isinstance(a, int) and isinstance(b, int):
        if b == 0 or a % b:
            raise InputError(f"{a} is not divisible by {b}")
        return a // b
    name, module = _kind(a, b)
    if name != "numpy":
        return a / b
    q = a // b
    whole = q * b == a
    if whole.all():
        return q
    if q.dtype == object:
        raise InputError("an array of integers is not divisible by what it has to be divided by")
    return module.where(whole, q, module.nan)


def where(condition: Any, yes: Number, no: Number) -> Number:
    """`yes` where the condition holds, else `no`; element by element on arrays.

    >>> where(3 > 2, "a", "b")
    'a'
    """
    if _kind(condition, yes, no)[0] == "numpy":
        return sys.modules["numpy"].where(condition, yes, no)
    return yes if condition else no


def largest(named: Mapping[str, Number]) -> Any:
    """The name of the largest number, the first of equals; an array of names for arrays.

    >>> largest({"tensor": 2.0, "hbm": 3.0})
    'hbm'
    """
    name, module = _kind(*named.values())
    if name != "numpy":
        return max(named, key=lambda n: named[n])
    best, found = None, None
    for n, x in named.items():
        more = True if best is None else x > best
        found = module.where(more, n, "" if found is None else found)
        best = x if best is None else module.maximum(best, x)
    return found


def known(*xs: Number) -> bool:
    """Whether these are numbers or arrays of them, which can be compared; symbols cannot.

    >>> known(3, 5)
    True
    """
    return all(isinstance(x, int) or hasattr(x, "dtype") for x in xs)


def shown(x: Number) -> str:
    """A size in a message; of an array, that it is one.

    >>> shown(8192)
    '8,192'
    """
    return f"{x:,}" if isinstance(x, int) else "of an array"


def any_true(condition: Any) -> bool:
    """Whether it holds anywhere.

    >>> any_true(3 > 2)
    True
    """
    return bool(condition.any()) if hasattr(condition, "any") else bool(condition)


def prod(xs: Iterable[Number]) -> Number:
    """The product, 1 for none.

    >>> prod([2, 3, 5])
    30
    """
    out: Number = 1
    for x in xs:
        out = out * x
    return out


def number(x: Expr, sizes: Mapping[str, Number]) -> Number:
    """The value of an expression over sizes and options: `h / g`, `2 * d + 1`, `floor(n / i)`.

    Raises LanguageError for a name that `sizes` does not have.

    >>> from attnmath.language.parse import expression
    >>> number(expression("h / g + 1"), {"h": 32, "g": 8})
    5
    """
    if isinstance(x, Num):
        if not isinstance(x.value, str):
            return x.value
        if x.value in sizes:
            return sizes[x.value]
        raise LanguageError(
            f"{x.value!r} is neither a tensor (write {x.value}[...]) nor a size or option that is known here"
        )
    if isinstance(x, Op) and x.name == "floor":
        (inside,) = x.args
        if isinstance(inside, Op) and inside.name == "/":
            return floor_div(*(number(a, sizes) for a in inside.args))
        return number(inside, sizes)
    if isinstance(x, Op) and x.name in _ARITHMETIC:
        return _ARITHMETIC[x.name](*(number(a, sizes) for a in x.args))
    raise LanguageError(f"`{x}` is no expression over sizes")


_ARITHMETIC: dict[str, Any] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": exact_div,
    "neg": lambda a: -a,
    "min2": minimum,
    "max2": maximum,
}
