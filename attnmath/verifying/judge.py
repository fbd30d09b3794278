"""A second opinion on a page of equations, which shares no code with the package.

It reads the printed text with Python's own parser, computes one element at a time in plain floats, on demand and with no
order of evaluation, and tallies every operation that it really performs. Slow on purpose, obvious on purpose. Nothing is
handed to Python to run: each text is walked, and what is not understood is refused.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

Place = tuple[int, ...]
Cells = dict[Place, float]
Env = dict[str, int]  # letters that are bound
Node = Any  # of Python's syntax tree

PARTS = {  # what a formula's text may call
    "floor": math.floor,
    "stairs": lambda x, step: sum(range(int(x), 0, -int(step))),  # x + (x - step) + ..., the positive ones
}
ARITHMETIC: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: Fraction(a) / b,  # exact, as the counts are
    ast.Pow: operator.pow,
    ast.BitAnd: lambda a, b: bool(a) and bool(b),
    ast.BitOr: lambda a, b: bool(a) or bool(b),
    ast.Eq: operator.eq,
    ast.GtE: operator.ge,
    ast.USub: operator.neg,
}
MASKS = {  # when query position i sees key position j; p: tokens before the new ones
    "full": lambda i, j, p: True,
    "causal": lambda i, j, p: j <= i,
    "causal_top_left": lambda i, j, p: j <= i - p,
    "before": lambda i, j, p: j < i,
    "window": lambda i, j, p, w: i - w < j <= i,
    "prefix": lambda i, j, p, k: j <= i or j < k,
    "first": lambda i, j, p, k: j < k,
    "chunked": lambda i, j, p, c: j <= i and i // c == j // c,
    "around": lambda i, j, p, r: abs(i - j) <= r,
    "band": lambda i, j, p, before, after: i - before <= j <= i + after,
    "dilated": lambda i, j, p, s: (i - j) % s == 0,
    "documents": lambda i, j, p, *lengths: _document(i, lengths) == _document(j, lengths) is not None,
    "blocks": lambda i, j, p, m: all(token <= i for token in range(j * m, j * m + m)),
    "blocks_before": lambda i, j, p, m: j < i // m,
}


FLOATS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda a, b: float(a) ** b,
}
FUNCTIONS: dict[str, Any] = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "erf": math.erf,
    "log": math.log,
    "cos": math.cos,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "upcast": lambda x: x,
    "downcast": lambda x: x,
    "softplus": lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0),
    "floor": math.floor,
    "pow2": lambda x: max(2.0**k for k in range(40) if 2**k <= x),
    "only": lambda x: 0.0 if x > 0 else -math.inf,
    "max2": max,
    "min2": min,
    "lt": lambda x, y: float(x < y),
    "eq": lambda x, y: float(x == y),
}


def _document(i: int, lengths: tuple[int, ...]) -> int | None:
    """Which of the documents that are packed one after the other holds token i."""
    tokens = [k for k, n in enumerate(lengths) for _ in range(n)]
    return tokens[i] if i < len(tokens) else None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def number(text: str, names: Mapping[str, Any]) -> Any:
    """What a formula, or a condition such as `n >= w`, comes to where its letters have these values; exact.

    >>> number("b*t*(t + 1)/2", {"b": 1, "t": 4}), number("floor(t/3) >= 2", {"t": 5})
    (Fraction(10, 1), False)
    """
    return _walk(_parsed(text), names, PARTS)


def _walk(node: Node, names: Mapping[str, Any], calls: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.Name) and node.id in calls:
        return calls[node.id]()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls and not node.keywords:
        return calls[node.func.id](*(_walk(a, names, calls) for a in node.args))
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        return ARITHMETIC[type(node.op)](_walk(node.left, names, calls), _walk(node.right, names, calls))
    if isinstance(node, ast.UnaryOp) and type(node.op) in ARITHMETIC:
        return ARITHMETIC[type(node.op)](_walk(node.operand, names, calls))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in ARITHMETIC:
        left, right = node.left, node.comparators[0]
        return ARITHMETIC[type(node.ops[0])](_walk(left, names, calls), _walk(right, names, calls))
    raise ValueError(f"not understood: {ast.unparse(node)}")


def sees(text: str, i: int, j: int, sizes: Mapping[str, Any]) -> bool:
    """Whether the pair of query position i and key j exists, by reading the mask's text.

    >>> sees("causal & window(2)", 3, 2, {}), sees("causal & window(2)", 3, 1, {})
    (True, False)
    """
    p = sizes.get("past", 0)
    text = text.replace("causal-top-left", "causal_top_left").replace("blocks-before", "blocks_before")
    masks = {name: lambda *a, f=f: f(i, j, p, *a) for name, f in MASKS.items()}
    return bool(_walk(_parsed(text), {k: v for k, v in sizes.items() if k not in masks}, {**PARTS, **masks}))


def _python(text: str) -> str:
    """An expression of the language as a Python expression."""
    out, k = "", 0
    while k < len(text):
        if m := re.match(r"([A-Za-z][A-Za-z0-9']*)\[", text[k:]):
            end = _closing(text, k + m.end() - 1)
            out += f"R({m[1]!r}, {text[k + m.end() : end]!r})"
            k = end + 1
        elif m := re.match(r"([a-z0-9]+)_\(((?:[^()]|\([^()]*\))*)\)\(", text[k:]):
            out += f"F({m[1]!r}, {[m[2]]!r}, "
            k += m.end()
        elif m := re.match(r"([a-z0-9]+)((?:_[a-z0-9']+)+)\(", text[k:]):
            out += f"F({m[1]!r}, {m[2][1:].split('_')!r}, "
            k += m.end()
        elif m := re.match(
            r"(sqrt|exp|erf|log|cos|tanh|sigmoid|silu|gelu|upcast|downcast|softplus|floor|pow2|only|relu|max2|min2|lt|eq)\(",
            text[k:],
        ):
            out += f"F({m[1]!r}, [], "
            k += m.end()
        elif m := re.match(r"@([a-z][a-z0-9']*)", text[k:]):
            out += f"P({m[1]!r})"
            k += m.end()
        elif m := re.match(r"\d+\.?\d*(e-?\d+)?", text[k:]):
            out += m[0]
            k += m.end()
        elif m := re.match(r"[A-Za-z][A-Za-z0-9']*", text[k:]):
            out += f"N({m[0]!r})"
            k += m.end()
        else:
            out += "**" if text[k] == "^" else text[k]
            k += 1
    return out


def _closing(text: str, at: int) -> int:
    depth = 0
    for k in range(at, len(text)):
        depth += {"[": 1, "]": -1}.get(text[k], 0)
        if not depth:
            return k
    raise ValueError(text)


@lru_cache(65536)
def _items(text: str) -> list[str]:
    """Indices separated by blanks outside of brackets."""
    out, depth = [""], 0
    for c in text:
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(c, 0)
        if c == " " and not depth:
            out.append("")
        else:
            out[-1] += c
    return [x for x in out if x]


@lru_cache(65536)
def _split(text: str, at: str) -> list[str]:
    out, depth = [""], 0
    for c in text:
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(c, 0)
        if c == at and not depth:
            out.append("")
        else:
            out[-1] += c
    return [x.strip() for x in out]


@lru_cache(65536)
def _steps(index: str) -> list[str]:
    return re.findall(r"[a-z0-9']+|[+-]", index)


class Walk:
    """A page at given sizes and inputs (dictionaries of index tuple -> float); `past` likewise, with how many rows it has.

    `cost[tensor]` are the operations that computing it took, `exps[tensor]` the exponentials; `touched` are the inputs read,
    `recalled` what was read of the past.
    """

    def __init__(self, text: str, sizes: dict[str, Any], inputs: dict[str, Cells], past: dict[str, Any] | None = None):
        self.sizes, self.inputs, self.past = sizes, inputs, past or {}
        self.masks, self.made = {}, {}
        for line in text.splitlines():
            if " sees " in line:
                pair, mask = line.split(": ")
                self.masks[tuple(pair.split(" sees "))] = mask
            elif " = " in line:
                left, right = line.split(" = ", 1)
                name, index = left.split("[", 1)
                alts = [ast.parse(_python(a), mode="eval").body for a in _split(right, "|")]
                self.made[name] = (_items(index.rstrip()[:-1]), alts)
        self.free: set[str] = set()  # tables: made of positions, constants and other tables
        for name, (_, alts) in self.made.items():
            if all(set(_tensors(a)) <= self.free for a in alts):
                self.free.add(name)
        self.values: dict[tuple[str, Place], float | None] = {}
        self.cost, self.exps = Counter[str](), Counter[str]()
        self.touched: dict[str, set[Place]] = defaultdict(set)
        self.recalled: dict[str, set[Place]] = defaultdict(set)
        self.spared = Counter[str]()  # elements of a softmax that the data leave no row to be part of
        self.memo: dict[Any, Any] = {}
        self.current: list[str] = []
        self.length, self.names = cache(self._length), cache(self._names)
        self.letters, self.joined = cache(self._letters), cache(self._joined)

    # -- lengths and index arithmetic

    def _length(self, index: str) -> int:
        """How long an axis is, by its letters."""
        if len(_split(index, "|")) > 1:
            return sum(self.length(p) for p in _split(index, "|"))
        if index.startswith("("):
            return math.prod(self.length(p) for p in _items(index[1:-1]))
        return int(self.sizes[re.findall(r"^[a-z][a-z0-9']*", index)[0]])

    def places(self, index: list[str]) -> Iterator[Place]:
        """Every place of a tensor."""
        return itertools.product(*(range(self.length(i)) for i in index))

    def bind(self, index: list[str], place: Place) -> tuple[Env, int]:
        """The letters of a left side at one place, and which alternative writes there."""
        env: Env = {}
        part = 0
        for i, x in zip(index, place):
            if "|" in i:
                for k, p in enumerate(_split(i, "|")):
                    if x < self.length(p):
                        i, part = p, k
                        break
                    x -= self.length(p)
            if i.startswith("("):
                for digit in reversed(_items(i[1:-1])):
                    env[digit] = x % self.sizes[digit]
                    x //= self.sizes[digit]
            else:
                env[i] = x
        return env, part

    def at(self, index: str, env: Env) -> Any:
        """The place that an index names; None where it cannot be bound (a part that is not meant here)."""
        if len(_split(index, "|")) > 1:
            offset = 0
            for p in _split(index, "|"):
                if all(d in env for d in self.names(p)):
                    return offset + self.at(p, env)
                offset += self.length(p)
            return None
        if index.startswith("("):
            first, *rest = _items(index[1:-1])
            x = self.at(first, env)
            for digit in rest:
                d = self.at(digit, env)
                if x < 0 or not 0 <= d < self.length(digit):
                    return -1
                x = x * self.length(digit) + d
            return x
        if "[" in index:
            name, inner = index[:-1].split("[", 1)
            return int(self.element(name, tuple(self.at(i, env) for i in _items(inner))))
        base, *moves = _steps(index)
        x = env[base]
        for sign, by in zip(moves[::2], moves[1::2]):
            step = int(by) if by.isdigit() else env[by] if by in env else self.sizes[by]
            x += step if sign == "+" else -step
        return x

    def _names(self, index: str) -> list[str]:
        """The letters of an index that are bound or summed over."""
        found = re.findall(r"[a-z][a-z0-9']*(?![\[A-Za-z0-9'])", re.sub(r"[A-Za-z][A-Za-z0-9']*\[", " ", index))
        return [d for d in found if d in self.sizes and d not in ("past", "kept", "done")]

    # -- elements

    def element(self, name: str, place: tuple[Any, ...]) -> Any:
        """One element; outside of a tensor there is 0, or the past."""
        rows = self.past.get(name, (None, 0, {}))
        axis, n, old = rows
        if any(x is None for x in place):
            raise ValueError(f"{name}{place}")
        if axis is not None and place[axis] < 0:
            self.recalled[name].add((*place[:axis], place[axis] + n, *place[axis + 1 :]))
            return old.get((*place[:axis], place[axis] + n, *place[axis + 1 :]), 0.0)
        if any(x < 0 for x in place):
            return 0.0
        if name in self.inputs:
            self.touched[name].add(place)
            return self.inputs[name].get(place, 0.0)
        index, alts = self.made[name]
        if any(x >= self.length(i) for x, i in zip(place, index)):
            return 0.0
        if (name, place) not in self.values:
            self.values[name, place] = None
            self.current.append(name)
            env, part = self.bind(index, place)
            self.values[name, place] = self.sum_of_terms(alts[part if len(alts) > 1 else 0], env)
            self.current.pop()
        if self.values[name, place] is None:
            raise RecursionError(f"{name}{place} needs itself")
        return self.values[name, place]

    def exists(self, env: Env) -> bool:
        """Whether every mask allows what is bound."""
        for (q, k), mask in self.masks.items():
            ks = k.split()
            if q in env and all(x in env for x in ks):
                j = 0
                for x in ks:
                    j = j * self.sizes[x] + env[x]
                if not sees(mask, env[q] + (self.sizes.get("past", 0) if q == "t" else 0), j, self.sizes):
                    return False
        return True

    def tally(self, n: int = 1) -> None:
        """Operations of the tensor that is computed now."""
        self.cost[self.current[-1]] += n

    def sum_of_terms(self, node: Node, env: Env) -> Any:
        """Every term sums over what is not bound yet; a table of positions is free."""
        if not self.exists(env):
            self.sinks(node, env)
            return 0.0
        free = self.current[-1] in self.free
        before, exps = self.cost[self.current[-1]], self.exps[self.current[-1]]
        plain: list[Any] = []
        summing: list[Any] = []
        for sign, factors in _terms(node):
            over = [d for d in dict.fromkeys(d for _, f in factors for d in self.letters(f)) if d not in env]
            (summing if over else plain).append((sign, factors, over))
        total, started = 0.0, False
        for sign, factors, _ in plain:
            own = sorted((d, x) for d, x in env.items() if any(d in m for m in map(_named, factors)))
            key = (tuple(id(f) for _, f in factors), "term", tuple(own), self.current[-1])
            if key not in self.memo:  # a term with fewer letters than the left is computed once for each of its own
                self.memo[key] = self.product(factors, env)
            value = sign * self.memo[key]
            if started:
                self.tally()
            total, started = total + value, True
        for sign, factors, over in summing:
            for values in itertools.product(*(range(self.sizes[d]) for d in over)):
                inner = {**env, **dict(zip(over, values))}
                if self.exists(inner):
                    total += sign * self.product(factors, inner)
                    self.tally()
        if free:
            self.cost[self.current[-1]], self.exps[self.current[-1]] = before, exps
        return total

    def sinks(self, node: Node, env: Env) -> None:
        """A sink joins every row, one that sees no key as well."""
        n: Node
        for n in ast.walk(node):
            if _kind(n) == "F" and _text(n) == "softmax" and len(n.args) > 3:
                self.along(n, "softmax", ast.literal_eval(n.args[1]), env)

    def product(self, factors: list[Any], env: Env) -> Any:
        """One term's factors, multiplied or divided in turn."""
        value = None
        for up, f in factors:
            x = self.node(f, env)
            if value is None:
                value = x if up else 1 / x
            else:
                value = value * x if up else value / x
                self.tally()
        return value

    # -- expressions: each function once per tuple of its own letters

    def _letters(self, node: Node) -> list[str]:
        """The letters that an expression has when it is computed once for each of them."""
        if isinstance(node, ast.Call):
            kind = _kind(node)
            first = ast.literal_eval(node.args[0])
            if kind == "R":
                inner = " ".join(i for i in _items(_text(node, 1)) if len(_split(i, "|")) == 1)
                return self.names(inner)
            if kind == "P":
                return [first]
            if kind == "N":
                return []
            over = ast.literal_eval(node.args[1])
            found = [d for a in node.args[2:] for d in self.letters(a)]
            if first == "topk":
                return [*(d for d in found if d != over[0]), over[1]]
            return found if first == "softmax" else [d for d in found if d not in over]
        return [d for child in ast.iter_child_nodes(node) for d in self.letters(child)]

    def _joined(self, node: Node) -> list[str]:
        """The letters of axes of two parts (`n|(k i)`) that element-wise work reads."""
        if isinstance(node, ast.Call):
            if _kind(node) == "R":
                return [d for i in _items(_text(node, 1)) if len(_split(i, "|")) > 1 for d in self.names(i)]
            if _kind(node) != "F" or ast.literal_eval(node.args[1]):
                return []
        return [d for child in ast.iter_child_nodes(node) for d in self.joined(child)]

    def node(self, node: Node, env: Env) -> Any:
        """An expression's value; a function's once for each tuple of its own letters."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            return -self.node(node.operand, env)
        if _kind(node) == "N":
            name = ast.literal_eval(node.args[0])
            return math.pi if name == "pi" else self.sizes[name]
        if _kind(node) == "P":
            name = ast.literal_eval(node.args[0])
            return env[name] + (self.sizes.get("past", 0) if name == "t" else 0)
        if _kind(node) == "R":
            name, index = (ast.literal_eval(a) for a in node.args)
            return self.element(name, tuple(self.at(i, env) for i in _items(index)))
        parts = _text(node, 1) if _kind(node) and _text(node) == "softmax" else []
        own = {*self.letters(node), *self.joined(node), *(d for o in parts for d in re.findall(r"[a-z][a-z0-9']*", o))}
        key = (id(node), tuple(sorted((d, env[d]) for d in own if d in env)), self.current[-1])
        if key not in self.memo:
            cost, exps = self.cost[self.current[-1]], self.exps[self.current[-1]]
            self.memo[key] = self.function(node, env)
            if not _tensors(node):
                self.cost[self.current[-1]], self.exps[self.current[-1]] = cost, exps
        return self.memo[key]

    def function(self, node: Node, env: Env) -> Any:
        """An operation on elements."""
        if isinstance(node, ast.BinOp):
            a, b = self.node(node.left, env), self.node(node.right, env)
            self.tally()
            return FLOATS[type(node.op)](a, b)
        name, over = ast.literal_eval(node.args[0]), ast.literal_eval(node.args[1])
        if not over:
            args = [self.node(a, env) for a in node.args[2:]]
            self.tally({"softplus": 3, "silu": 2, "gelu": 5, "upcast": 0, "downcast": 0}.get(name, 1))
            self.exps[self.current[-1]] += {"softplus": 2}.get(
                name, name in ("exp", "erf", "log", "cos", "tanh", "sigmoid", "silu", "gelu")
            )
            return FUNCTIONS[name](*args)
        return self.along(node, name, over, env)

    def along(self, node: Node, name: str, over: list[str], env: Env) -> Any:
        """An operation along indices: of the rows that exist."""
        runs = over[:1] if name == "topk" else over
        digits = [d for o in runs for d in re.findall(r"[a-z][a-z0-9']*", o)]
        outer = {k: v for k, v in env.items() if k not in digits}
        rows = []
        for part in (
            _split(runs[0], "|") if len(runs) == 1 else [" ".join(runs)]
        ):  # n|(k i): first one part, then the other
            own = re.findall(r"[a-z][a-z0-9']*", part)
            for values in itertools.product(*(range(self.sizes[d]) for d in own)):
                inner = {**outer, **dict(zip(own, values))}
                if self.exists(inner):
                    rows.append(((*own, *values), self.node(node.args[2], inner)))
        if name == "softmax":
            here = [d for d in digits if d in env]
            return self.softmax(node, rows, (*here, *(env[d] for d in here)), outer)
        if name == "max":
            self.tally(len(rows))
            return max((x for _, x in rows), default=0.0)
        if name == "topk":
            return self.topk(node, rows, env[over[1]], {k: v for k, v in outer.items() if k != over[1]})
        self.tally(len(rows))  # mean: one addition fewer, and a division
        return sum(x for _, x in rows) / (len(rows) if name == "mean" else 1)

    def topk(self, node: Node, rows: list[Any], slot: int, outer: Env) -> Any:
        """The place of the slot-th best, -1 if there are fewer; every candidate is looked at once."""
        key = (id(node), "best", tuple(sorted((d, outer[d]) for d in set(self.letters(node)) if d in outer)))
        if key not in self.memo:
            self.memo[key] = sorted(rows, key=lambda row: (-row[1], row[0]))
            self.tally(len(rows))
        best = self.memo[key]
        return best[slot][0][-1] if slot < len(best) else -1

    def softmax(self, node: Node, rows: list[Any], place: tuple[Any, ...], outer: Env) -> Any:
        """One row at a time, its largest subtracted first."""
        key = (
            id(node),
            "row",
            tuple(sorted((d, outer[d]) for d in set(self.letters(node)) if d in outer)),
            self.current[-1],
        )
        if key not in self.memo:
            sink = -math.inf
            if len(node.args) > 3:  # joins the denominator only: compare, subtract, exponential, add
                sink = self.node(node.args[3], outer)
                self.tally(4)
                self.exps[self.current[-1]] += 1
            top = sink
            for _, x in rows:
                top = max(top, x)
                self.tally()
            if top == -math.inf:  # no key, or none that the data admit: those are spared four operations each
                self.spared[self.current[-1]] += len(rows)
                self.memo[key] = {}
                return 0.0
            powers, total = {}, math.exp(sink - top)
            for at, x in rows:
                powers[at] = math.exp(x - top)
                total += powers[at]
                self.tally(3)  # subtract, exponential, add
                self.exps[self.current[-1]] += 1
            self.memo[key] = {at: e / total for at, e in powers.items()}
            self.tally(len(rows))
        return self.memo[key].get(place, 0.0)

    def run(self, only: set[str] | None = None) -> dict[str, Cells]:
        """Every element of every tensor: name -> {place: value}."""
        out = {}
        for name, (index, _) in self.made.items():
            if name not in self.inputs and (only is None or name in only):
                out[name] = {place: self.element(name, place) for place in self.places(index)}
        return out


def _kind(node: Node) -> str:
    """R, P, N or F: a read, a position, a name or a function; nothing for what Python writes itself."""
    return str(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def _text(node: Node, k: int = 0) -> Any:
    """What the k-th argument of one of these says."""
    return ast.literal_eval(node.args[k])


@lru_cache(4096)
def _named(factor: tuple[bool, Node]) -> set[str]:
    """Every letter that a factor mentions in any way, parts included."""
    texts = [n.value for n in ast.walk(factor[1]) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {d for text in texts for d in re.findall(r"[a-z][a-z0-9']*", text)}


@lru_cache(4096)
def _tensors(node: Node) -> list[str]:
    """The tensors that an expression reads, gathers' own included."""
    calls = [n for n in ast.walk(node) if _kind(n) == "R"]
    inner = [m for c in calls for m in re.findall(r"([A-Za-z][A-Za-z0-9']*)\[", _text(c, 1))]
    return [*(_text(c) for c in calls), *inner]


def _terms(node: Node, sign: int = 1) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        return _terms(node.left, sign) + _terms(node.right, sign if isinstance(node.op, ast.Add) else -sign)
    if isinstance(node, ast.UnaryOp):
        return _terms(node.operand, -sign)
    return [(sign, _factors(node, True))]


def _factors(node: Node, up: bool) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _factors(node.left, up) + _factors(node.right, up)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _factors(node.left, up) + _factors(node.right, not up)
    return [(up, node)]


# -- what a line of a page is, and what lines move and hold


def category(equation: str) -> str:
    """What the work of an equation counts as, by its factors: a term with a weight that sums is a projection; where queries
    t meet keys n, two activations that sum are the matrix product, and the rest is element-wise. Nothing where a product that
    sums has more factors than two tensors: its work is of several kinds.

    >>> category("S[b h t n] = Q[b t h d] * K[b n h d]"), category("Q[b t h d] = X[b t m] * WQ[m h d]")
    ('matmul', 'projections')
    """
    left, right = equation.split(" = ")
    made = set(re.findall(r"[a-z]'?", left.partition("[")[2]))
    right = re.sub(r"(?<=\[)[A-Z]+\[([^][]*)\]", r"\1", right)  # WREL[BUCKET[t n] h] is one read, by t, n and h
    weights = [set(w.split()) for w in re.findall(r"\bW\w*\[([^]]*)\]", right)]
    tensors = re.findall(r"([A-Za-z]\w*'*)\[([^]]*)\]", right)
    indices = [left.partition("[")[2], *(index for _, index in tensors)]
    pairs = {"t", "n"} <= set(re.findall(r"\b[a-z]\b", " ".join(indices)))
    if re.search(r"\* \d|\d \*|\] /", right) and any(set(index.split()) - made for _, index in tensors):
        return ""
    if any(w - made for w in weights):
        return "projections"
    if pairs and len(tensors) > 1 and any(set(index.split()) - made for _, index in tensors):
        return "matmul"
    return "softmax" if pairs else "other"


def unfused(
    text: str, sizes: dict[str, Any], given: Mapping[str, list[str]], width: int, cached: int
) -> tuple[int, int]:
    """(bytes moved, peak of live bytes) if the equations of the core run one by one, read off a page's text.

    `given`: the indices of what is handed in; `width`: bytes of an element, `cached`: of one that a line takes from before
    the new tokens as it is. Of the keys, those that at least one query sees are there: every pair is asked for.

    >>> page = "S[b t n] = Q[b t d] * K[b n d]\\nt sees n: causal"
    >>> unfused(page, {"b": 1, "t": 2, "n": 2, "d": 3}, {"Q": ["b", "t", "d"], "K": ["b", "n", "d"]}, 2, 2)
    (32, 32)
    """
    walk = Walk(text, sizes, {})
    mask, past = walk.masks["t", "n"], sizes.get("past", 0)
    keys = sum(any(sees(mask, past + i, j, sizes) for i in range(sizes["t"])) for j in range(sizes["n"]))
    seen = Walk(text, {**sizes, "n": keys}, {})
    shapes = {n: index for n, (index, _) in walk.made.items()} | dict(given)
    lines = [line.split(" = ", 1) for line in text.splitlines() if " = " in line]
    old = {left.split("[")[0] for left, right in lines if _as_it_is(left, right, given)}
    bytes_ = {
        n: (cached if n in old else width) * math.prod(seen.length(i) for i in index)
        for n, index in shapes.items()
        if "b" in index and n != "KEEP"  # what is drawn at random where it is needed is not moved
    }
    core = [
        (left.split("[")[0], {n: None for n in re.findall(r"([A-Za-z]\w*)\[", right) if n in bytes_})
        for left, right in lines
        if {"t", "n"} <= set(re.findall(r"\b[tn]\b", left + right))
        and "[b " in left
        and not re.search(r"-(past|kept)\b", right)
    ]
    texts = {left.split("[")[0]: (left, right) for left, right in lines}
    same = {out: next(iter(read)) for out, read in core if _another_name(*texts[out])}
    core = [(out, {same.get(n, n): None for n in read}) for out, read in core if out not in same]
    moved = sum(bytes_[n] for out, read in core for n in {out: None, **read})
    made = {out for out, _ in core}
    peak, inputs = 0, {n for _, read in core for n in read if n not in made}
    for now, (out, _) in enumerate(core):
        later = {n for _, read in core[now:] for n in read}
        alive = {out, *inputs} | {n for n in later if n in {o for o, _ in core[:now]}}
        peak = max(peak, sum(bytes_[n] for n in alive))
    return moved, peak


def _another_name(left: str, right: str) -> bool:
    """Whether a line says the same numbers again."""
    read = re.fullmatch(r"[A-Za-z]\w*\[([^][]*)\]", right)
    return read is not None and sorted(read[1].split()) == sorted(left.partition("[")[2].rstrip("]").split())


def _as_it_is(left: str, right: str, given: Mapping[str, list[str]]) -> bool:
    """Whether a line only puts old rows before new ones, or takes another layer's keys."""
    read = re.fullmatch(r"([A-Za-z]\w*)\[([^][]*)\]", right)
    whole = read and read[1] in given and "n" in read[2].split() and left.partition("[")[2] == f"{read[2]}]"
    return bool(read and (re.search(r"-(past|kept)\b", read[2]) or whole))
