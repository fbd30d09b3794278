"""Formulas of `cost` as text that Python reads: in LaTeX, and evaluated exactly."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from fractions import Fraction
from math import floor
from typing import Any

from attnmath.errors import LanguageError
from attnmath.language.arith import Number
from attnmath.language.formula import stairs
from attnmath.readings.text import printed


def typeset(text: str) -> str:
    """A formula or a condition of `cost` as LaTeX; empty if it is a sentence.

    >>> print(typeset("2*b*h*t**2*(t + 1)/2/i"))
    \\frac{2\\,b\\,h\\,t^{2}\\,\\left(t + 1\\right)}{2\\,i}
    >>> typeset("rounded up to whole bytes")
    ''
    """
    try:
        return _latex(ast.parse(text, mode="eval").body)
    except (SyntaxError, LanguageError):
        return ""


def _latex(x: ast.expr, tight: bool = False) -> str:
    """`tight`: it is a factor, so that a sum needs parentheses."""
    if isinstance(x, ast.Constant) and isinstance(x.value, int):
        return str(x.value)
    if isinstance(x, ast.Name):
        return printed(x.id)
    if isinstance(x, ast.Compare) and len(x.ops) == 1 and type(x.ops[0]) in _RELATIONS:
        return rf"{_latex(x.left)} {_RELATIONS[type(x.ops[0])]} {_latex(x.comparators[0])}"
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        return f"-{_latex(x.operand, True)}"
    if isinstance(x, ast.Call) and isinstance(x.func, ast.Name):
        args = r",\, ".join(map(_latex, x.args))
        if x.func.id == "floor":
            inside = x.args[0]
            if isinstance(inside, ast.BinOp) and isinstance(inside.op, ast.Div):  # in one line, not as a fraction
                args = f"{_latex(inside.left, True)} / {_latex(inside.right, True)}"
            return rf"\lfloor {args} \rfloor"
        return rf"\mathrm{{{x.func.id}}}({args})"
    if not isinstance(x, ast.BinOp):
        raise LanguageError("no formula")
    if isinstance(x.op, ast.Div):
        over: list[str] = []
        top: ast.expr = x
        while isinstance(top, ast.BinOp) and isinstance(top.op, ast.Div):
            over.insert(0, _latex(top.right, isinstance(top.left, ast.BinOp) and isinstance(top.left.op, ast.Div)))
            top = top.left
        under = r"\,".join(over)
        return rf"\frac{{{_latex(top)}}}{{{under}}}"
    if isinstance(x.op, ast.Pow):
        return f"{_latex(x.left, True)}^{{{_latex(x.right)}}}"
    if isinstance(x.op, ast.Mult):
        return rf"{_latex(x.left, True)}\,{_latex(x.right, True)}"
    if not isinstance(x.op, (ast.Add, ast.Sub)):
        raise LanguageError("no formula")
    out = f"{_latex(x.left)} {'+' if isinstance(x.op, ast.Add) else '-'} {_latex(x.right, isinstance(x.op, ast.Sub))}"
    return rf"\left({out}\right)" if tight else out


_RELATIONS = {ast.GtE: r"\ge", ast.LtE: r"\le", ast.Gt: ">", ast.Lt: "<", ast.Eq: "="}


def value(text: str, sizes: Mapping[str, Number]) -> Fraction | bool:
    """A formula's or a condition's value, computed from its printed text, exactly; LanguageError if it is none.

    >>> value("b*t*(t + 1)/2", {"b": 1, "t": 4}), value("t >= 5", {"t": 4})
    (Fraction(10, 1), False)
    """
    try:
        found: Fraction | bool = _value(ast.parse(text, mode="eval").body, sizes)
    except SyntaxError:
        raise LanguageError(f"{text[:80]!r} is no formula") from None
    return found


def _value(x: ast.expr, sizes: Mapping[str, Number]) -> Any:
    if isinstance(x, ast.Constant) and isinstance(x.value, int):
        return Fraction(x.value)
    if isinstance(x, ast.Name) and x.id in sizes:
        return Fraction(sizes[x.id])
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        return -_value(x.operand, sizes)
    if isinstance(x, ast.BinOp) and type(x.op) in _ARITHMETIC:
        return _ARITHMETIC[type(x.op)](_value(x.left, sizes), _value(x.right, sizes))
    if isinstance(x, ast.Compare) and len(x.ops) == 1 and type(x.ops[0]) in _COMPARED:
        return _COMPARED[type(x.ops[0])](_value(x.left, sizes), _value(x.comparators[0], sizes))
    if isinstance(x, ast.Call) and isinstance(x.func, ast.Name):
        args = [_value(a, sizes) for a in x.args]
        if x.func.id == "floor" and len(args) == 1:
            return Fraction(floor(args[0]))
        if x.func.id == "stairs" and len(args) == 2:
            return Fraction(stairs(int(args[0]), int(args[1])))
    raise LanguageError(f"{ast.unparse(x)[:80]!r} is no formula over sizes")


_ARITHMETIC: dict[type, Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a ** int(b),
}
_COMPARED: dict[type, Any] = {
    ast.GtE: lambda a, b: a >= b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.Lt: lambda a, b: a < b,
    ast.Eq: lambda a, b: a == b,
}
