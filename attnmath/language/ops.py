"""The table of operations, one row each. A new operation is one new row.

`run` takes NumPy and arrays; `adjoint` is text in the language itself, one expression per argument, with a, b the
arguments, y the result, g the cotangent of y and o the indices it runs along; `cost` is FLOPs per element of the widest
argument (the convention that `cost --verbose` prints); `exps` says how many of them are transcendental. Products that
sum need no row: every term of an equation sums over the indices that its left does not name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct


class Row(Struct, frozen=True):
    """What is known of one operation; an index that it runs along stays ("keep"), goes ("drop") or is exchanged ("swap")."""

    latex: str
    run: Callable[..., Any]  # elementwise: (numpy, *arrays); along an index: (numpy, arrays, axis, weights)
    adjoint: tuple[str, ...] | None = None  # () = constant, piece by piece; None = no rule, which a gradient says
    cost: int = 1
    exps: int = 0
    along: str = ""  # "" elementwise | "keep" | "drop" | "swap": the first index it runs along becomes the second
    arity: tuple[int, int] = (1, 1)
    joins: int = 0  # FLOPs, and one of `exps`, for each row that a second argument joins
    why: str = ""  # where the cost comes from, if it is not one instruction

    def shape(self, letters: tuple[str, ...], over: tuple[str, ...]) -> tuple[str, ...]:
        """The indices of the result, of an argument with these."""
        if self.along == "swap":
            return (*(d for d in letters if d != over[0]), over[1])
        return letters if self.along == "keep" else tuple(d for d in letters if d not in over)


def _softmax(np: Any, xs: list[Any], axis: int, w: Any) -> Any:
    """Weighted softmax; a row with no key is 0; a second argument joins the denominator only."""
    x = np.where(w > 0, xs[0], -np.inf)
    top = x.max(axis, keepdims=True, initial=-np.inf)
    if len(xs) > 1:
        top = np.maximum(top, xs[1])
    top = np.where(np.isfinite(top), top, 0)
    e = np.where(w > 0, w * np.exp(x - top), 0)
    z = e.sum(axis, keepdims=True) + (np.exp(xs[1] - top) if len(xs) > 1 else 0)
    return e / np.where(z == 0, 1, z)


def _max(np: Any, xs: list[Any], axis: int, w: Any) -> Any:
    top = np.where(w > 0, xs[0], -np.inf).max(axis, initial=-np.inf)
    return np.where(np.broadcast_arrays(w > 0, xs[0])[0].any(axis), top, 0)  # of nothing 0; of what data exclude -inf


def _sum(np: Any, xs: list[Any], axis: int, w: Any) -> Any:
    return (xs[0] * w).sum(axis)


def _mean(np: Any, xs: list[Any], axis: int, w: Any) -> Any:
    return (xs[0] * w).sum(axis) / np.maximum(w.sum(axis), 1)


def _topk(np: Any, xs: list[Any], axis: int, w: Any, slots: int) -> Any:
    """Places of the largest, best first, ties to the earlier; -1 where there are fewer than slots."""
    x = np.where(w > 0, xs[0], -np.inf)
    order = np.argsort(-x, axis, kind="stable").take(range(min(slots, x.shape[axis])), axis)
    order = np.where(np.take_along_axis(x, order, axis) == -np.inf, -1, order)
    return np.concatenate([order, np.full_like(order, -1, shape=_lengthened(order.shape, axis, slots))], axis)


def _lengthened(shape: tuple[int, ...], axis: int, slots: int) -> tuple[int, ...]:
    return (*shape[:axis], slots - shape[axis], *shape[axis + 1 :])


def _sigmoid(np: Any, a: Any) -> Any:
    e = np.exp(-abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)


def _erf(np: Any, a: Any) -> Any:
    from math import erf

    return np.vectorize(erf, otypes=[float])(a)


_TWO = (2, 2)
_MORE, _LESS = "g * (lt(b, a) + eq(a, b) / 2)", "g * (lt(a, b) + eq(a, b) / 2)"
OPS: dict[str, Row] = {
    # arithmetic
    "+": Row("{0} + {1}", lambda np, a, b: a + b, ("g", "g"), arity=_TWO),
    "-": Row("{0} - {1}", lambda np, a, b: a - b, ("g", "-g"), arity=_TWO),
    "*": Row(r"{0}\,{1}", lambda np, a, b: a * b, ("g * b", "g * a"), arity=_TWO),
    "/": Row(r"\frac{{{0}}}{{{1}}}", lambda np, a, b: a / b, ("g / b", "-(g * a / b / b)"), arity=_TWO),
    "^": Row(
        "{{{0}}}^{{{1}}}", lambda np, a, b: np.power(a * 1.0, b), ("g * b * a^(b - 1)", "g * y * log(a)"), arity=_TWO
    ),
    "neg": Row("-{0}", lambda np, a: -a, ("-g",), cost=0, why="a sign is folded into the next operation"),
    # scalar functions
    "exp": Row(r"e^{{{0}}}", lambda np, a: np.exp(a), ("g * y",), exps=1),
    "log": Row(r"\log {0}", lambda np, a: np.log(a), ("g / a",), exps=1),
    "erf": Row(
        r"\operatorname{{erf}}\left({0}\right)",
        _erf,
        ("g * 2 / sqrt(pi) * exp(-(a * a))",),
        exps=1,
        why="one function call",
    ),
    "sqrt": Row(r"\sqrt{{{0}}}", lambda np, a: np.sqrt(a), ("g / (2 * y)",)),
    "cos": Row(r"\cos\left({0}\right)", lambda np, a: np.cos(a), ("g * cos(a + pi / 2)",), exps=1),
    "tanh": Row(r"\tanh {0}", lambda np, a: np.tanh(a), ("g * (1 - y * y)",), exps=1),
    "sigmoid": Row(r"\sigma\left({0}\right)", _sigmoid, ("g * y * (1 - y)",), exps=1),
    "silu": Row(
        r"\operatorname{{silu}}\left({0}\right)",
        lambda np, a: a * _sigmoid(np, a),
        ("g * sigmoid(a) * (1 + a * (1 - sigmoid(a)))",),
        cost=2,
        exps=1,
        why="x times its sigmoid",
    ),
    "gelu": Row(
        r"\operatorname{{gelu}}\left({0}\right)",
        lambda np, a: a * (1 + _erf(np, a / np.sqrt(2))) / 2,
        ("g * ((1 + erf(a / sqrt(2))) / 2 + a * exp(-(a * a) / 2) / sqrt(2 * pi))",),
        cost=5,
        exps=1,
        why="x (1 + erf(x / sqrt(2))) / 2",
    ),
    "softplus": Row(
        r"\operatorname{{softplus}}\left({0}\right)",
        lambda np, a: np.logaddexp(0, a),
        ("g * sigmoid(a)",),
        cost=3,
        exps=2,
        why="log(1 + exp(x)): exponential, add, logarithm",
    ),
    "upcast": Row(
        r"\operatorname{{fp32}}\left({0}\right)",
        lambda np, a: a,
        ("g",),
        cost=0,
        why="the same number in single precision; what is computed from it is, too, until it is cast down",
    ),
    "downcast": Row(
        r"\operatorname{{stored}}\left({0}\right)",
        lambda np, a: a,
        ("g",),
        cost=0,
        why="the same number in the dtype of the rest",
    ),
    "floor": Row(r"\left\lfloor {0} \right\rfloor", lambda np, a: np.floor(a), ()),
    "pow2": Row(r"2^{{\lfloor \log_2 {0} \rfloor}}", lambda np, a: 2.0 ** np.floor(np.log2(a)), ()),
    "relu": Row(r"\max(0, {0})", lambda np, a: np.maximum(a, 0), ("g * lt(0, y)",)),
    # what ties shares its gradient, as in PyTorch: exp(min(x, 0)) + max(x, 0) has the slope 1 at 0, too
    "max2": Row(r"\max({0}, {1})", lambda np, a, b: np.maximum(a, b), (_MORE, _LESS), arity=_TWO),
    "min2": Row(r"\min({0}, {1})", lambda np, a, b: np.minimum(a, b), (_LESS, _MORE), arity=_TWO),
    "lt": Row("[{0} < {1}]", lambda np, a, b: (a < b) * 1.0, (), arity=_TWO),
    "eq": Row("[{0} = {1}]", lambda np, a, b: (a == b) * 1.0, (), arity=_TWO),
    "only": Row(
        r"\log\left[{0} > 0\right]",
        lambda np, a: np.where(a > 0, 0.0, -np.inf),
        (),
        why="a compare; what it makes -inf needs no more work, so that counts of its pairs are upper bounds",
    ),
    # along an index (subscripted): pairs that do not exist take no part
    "sum": Row(r"\sum_{{{o}}} {0}", _sum, ("g",), along="drop"),
    "mean": Row(
        r"\operatorname{{mean}}_{{{o}}} {0}",
        _mean,
        ("g / sum_o(1 + 0 * a)",),
        along="drop",
        why="one addition fewer than elements, and a division",
    ),
    "max": Row(r"\max_{{{o}}} {0}", _max, ("g * eq(a, y) / sum_o(eq(a, y))",), along="drop"),
    "softmax": Row(
        r"\operatorname{{softmax}}_{{{o}}} {0}",
        _softmax,
        ("y * (g - sum_o(y * g))", "(sum_o(y) - 1) * sum_o(y * g)"),
        cost=5,
        exps=1,
        along="keep",
        arity=(1, 2),
        joins=4,
        why="per element: compare, subtract, exponential, add, divide; a sink takes part in the first four, once a row",
    ),
    "topk": Row(
        r"\operatorname{{top}}_{{{o}}} {0}",
        _topk,
        (),
        along="swap",
        why="a compare per candidate, which no selection can do without",
    ),
}
