"""Text to values. One line is one equation; a `sees` line says which pairs exist; # starts a comment.

program    = { equation | sees | declaration }
equation   = ref "=" expr { "|" expr }              one expression per part of the left's n|s
sees       = index "sees" index ":" mask            repeated lines intersect
declaration = ref                                   an input whose first use is not plain
ref        = Name "[" { index } "]"
index      = t | t-1 | c+y-1 | n-past | (c i) | n|s | T[b t s] | last
expr       = + - * / ^, prefix -, op x, op_n x, op_n(x, y), @t, names, numbers
mask       = name | name(expr, ...) | mask & mask | mask "|" mask | (mask)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from attnmath.errors import LanguageError, Unknown
from attnmath.language.masks import MASKS, MaskExpr, both, named
from attnmath.language.ops import OPS
from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Num,
    Op,
    Pos,
    Program,
    Ref,
    Shift,
    check,
    named_axes,
)

MAX_LINE, MAX_LINES, MAX_DEPTH, MAX_JOINED = 2_000, 500, 40, 60  # a page is a page: what is longer is no equation

_TOKEN = re.compile(
    r" *(?:(\d+\.?\d*(?:e[-+]?\d+)?)|([A-Za-z][A-Za-z0-9']*(?:_[a-z0-9']+|_\((?:[a-z0-9'| ]|\([a-z0-9' ]+\))+\))*|\.\.|<-)|(.))",
    re.ASCII,
)
UNITS = {"k": 2**10, "K": 2**10, "M": 2**20}  # of token counts
T = TypeVar("T")
_SYMBOLS = {"+": 1, "-": 1, "*": 2, "/": 2}


class _Line:
    """One line being read: its tokens, where they stand, and how deep the parentheses are."""

    def __init__(self, text: str, where: str = "") -> None:
        if len(text) > MAX_LINE:
            raise LanguageError(f"{where}a line of {len(text):,} characters; at most {MAX_LINE:,}")
        self.text, self.where, self.i, self.depth = text, where, 0, 0
        found = list(_TOKEN.finditer(text.rstrip()))
        self.tokens = [m[1] or m[2] or m[3] for m in found]
        self.starts = [m.end() - len(t) for m, t in zip(found, self.tokens)]

    def peek(self) -> str:
        return self.tokens[self.i] if self.i < len(self.tokens) else ""

    def next(self) -> str:
        self.i += 1
        return self.tokens[self.i - 1] if self.i <= len(self.tokens) else ""

    def fail(self, expected: str, back: int = 0) -> LanguageError:
        at = self.i - back
        found = repr(self.tokens[at]) if at < len(self.tokens) else "the end of the line"
        column = self.starts[at] if at < len(self.starts) else len(self.text.rstrip())
        return LanguageError(f"{self.where}expected {expected}, found {found}\n    {self.text}\n    {' ' * column}^")

    def want(self, token: str, why: str = "") -> None:
        if self.next() != token:
            raise self.fail(f"{token!r}{why}", 1)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise LanguageError(f"{self.where}nested more than {MAX_DEPTH} deep: {self.text[:60]} ...")

    def end(self) -> None:
        if self.peek():
            raise self.fail("the end of the line")

    # -- references and indices

    def ref(self, name: str) -> Ref:
        self.want("[")
        self.deeper()
        index: list[Index] = []
        while self.peek() != "]":
            if not self.peek():
                raise self.fail(f"']' closing {name}[")
            index.append(self.index())
        self.next()
        self.depth -= 1
        return Ref(name, tuple(index))

    def index(self) -> Index:
        parts = [self.index_part()]
        while self.peek() == "|":
            self.next()
            parts.append(self.index_part())
        return Cat(tuple(parts)) if len(parts) > 1 else parts[0]

    def index_part(self) -> Index:
        token = self.next()
        if token == "..":
            return token
        if token == "(":
            self.deeper()
            parts: list[Index] = []
            while self.peek() != ")":
                if not self.peek():
                    raise self.fail("')' closing a group of indices")
                parts.append(self.index())
            self.next()
            self.depth -= 1
            return Group(tuple(parts))
        if self.peek() == "[":
            return self.ref(token)
        if not token[:1].islower() or "_" in token:
            raise self.fail("an index (lower case), or ']'", 1)
        by: list[tuple[int, str | int]] = []
        while self.peek() in ("+", "-"):
            sign = 1 if self.next() == "+" else -1
            step = self.next()
            if not step.isascii() or not (step.isdigit() or step[:1].islower()):
                raise self.fail("a number or an index to move by", 1)
            by.append((sign, int(step) if step.isdigit() else step))
        return Shift(token, tuple(by)) if by else token

    # -- expressions

    def expr(self, level: int = 1) -> Expr:
        if level == 3:
            return self.power()
        x = self.expr(level + 1)
        joined = 0
        while _SYMBOLS.get(self.peek()) == level:
            x = Op(self.next(), (x, self.expr(level + 1)))
            joined += 1
            if joined > MAX_JOINED:
                raise LanguageError(
                    f"{self.where}more than {MAX_JOINED} terms or factors in a row: {self.text[:60]} ..."
                )
        return x

    def power(self) -> Expr:
        if self.peek() == "-":
            self.next()
            self.deeper()
            x: Expr = Op("neg", (self.power(),))
            self.depth -= 1
            return x
        x = self.base()
        if self.peek() == "^":
            self.next()
            self.deeper()
            x = Op("^", (x, self.power()))
            self.depth -= 1
        return x

    def base(self) -> Expr:
        token = self.next()
        if token == "(":
            self.deeper()
            x = self.expr()
            self.want(")")
            self.depth -= 1
            return x
        if token == "@":
            if not self.peek()[:1].islower():
                raise self.fail("the index whose position is meant")
            return Pos(self.next())
        if token[:1].isdigit() and token.isascii():
            return Num(float(token) if "." in token or "e" in token else int(token))
        if not token[:1].isalpha():
            raise self.fail("a tensor, a number or an operation", 1)
        name, *over = token.split("_")
        if name in OPS and (over or self.peek() != "["):
            return self.operation(name, tuple(o[1:-1] if o[0] == "(" else o for o in over))
        if self.peek() == "[":
            return self.ref(token)
        if self.peek() and self.peek() not in "+-*/^),|]&":
            raise LanguageError(f"{self.where}{Unknown('operation', name, filter(str.isalpha, OPS))}\n    {self.text}")
        return Num(token)

    def operation(self, name: str, over: tuple[str, ...]) -> Op:
        row = OPS[name]
        args = []
        self.deeper()
        if self.peek() == "(":
            self.next()
            args.append(self.expr())
            while self.peek() == ",":
                self.next()
                args.append(self.expr())
            self.want(")")
        else:
            args.append(self.base())
        self.depth -= 1
        low, high = row.arity
        if not low <= len(args) <= high:
            takes = str(low) if low == high else f"{low} to {high}"
            raise LanguageError(
                f"{self.where}{name} takes {takes} argument{'s' * (high > 1)}, not {len(args)}\n    {self.text}"
            )
        if over and not row.along:
            raise LanguageError(
                f"{self.where}{name} runs along no index: write {name}, without _{over[0]}\n    {self.text}"
            )
        wanted = 2 if row.along == "swap" else 1
        if row.along and len(over) < wanted:
            shown = f"{name}_n_k, naming the index it chooses from and the one of the chosen"
            shown = shown if wanted == 2 else f"{name}_n, naming the index that it runs along"
            raise LanguageError(f"{self.where}write {shown}\n    {self.text}")
        return Op(name, tuple(args), over)

    # -- masks

    def mask(self) -> MaskExpr:
        x = self.mask_and()
        while self.peek() == "|":
            self.next()
            x = MaskExpr("|", (x, self.mask_and()))
        return x

    def mask_and(self) -> MaskExpr:
        x = self.mask_one()
        while self.peek() == "&":
            self.next()
            x = both(x, self.mask_one())
        return x

    def mask_one(self) -> MaskExpr:
        token = self.next()
        if token == "(":
            self.deeper()
            x = self.mask()
            self.want(")")
            self.depth -= 1
            return x
        if not token[:1].isalpha():
            raise self.fail("the name of a mask", 1)
        sizes: list[Expr] = []
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                sizes.append(self.expr())
                if self.peek() != ")":
                    self.want(",", " or ')'")
            self.next()
        try:
            return named(token, tuple(sizes))
        except LanguageError as error:
            raise LanguageError(f"{self.where}{error}") from None


@lru_cache(4096)
def expression(text: str) -> Expr:
    """One expression.

    >>> str(expression("softmax_n(S[t n] / sqrt(d))"))
    'softmax_n(S[t n] / sqrt(d))'
    """
    return _whole(text, _Line.expr)


def mask(text: str) -> MaskExpr:
    """One mask, as a page, the command line (`prefix:512`, `causal-top-left`) or a caller writes it.

    >>> str(mask("causal & window(4096)")), str(mask("prefix:512"))
    ('causal & window(4096)', 'prefix(512)')
    """
    return _whole(_mask_text(text), _Line.mask, f"mask {text[:200]!r}: ")


def _mask_text(text: str) -> str:
    """A mask with its short forms written out: `prefix:8k` as prefix(8192), `causal-top-left` as one name."""
    plain = re.sub(r"([a-z]):(\w+(?:,\w+)*)", r"\1(\2)", text[: MAX_LINE + 1], flags=re.ASCII)
    plain = re.sub(r"\b(\d{1,40})([kKM])\b", lambda m: str(int(m[1]) * UNITS[m[2]]), plain)
    for name in MASKS:
        plain = re.sub(rf"\b{name.replace('_', '-')}\b(?!-)", name, plain)
    return plain


def _whole(text: str, read: Callable[[_Line], T], where: str = "") -> T:
    line = _Line(text, where)
    x = read(line)
    line.end()
    return x


@lru_cache(4096)  # modifiers say the same lines of many pages
def equation(text: str, where: str = "") -> Equation:
    """One equation, rewrite (`<-`) or declaration.

    >>> str(equation("S[t n] = Q[t d]*K[n d]"))
    'S[t n] = Q[t d] * K[n d]'
    """
    line = _Line(text, where)
    if not line.peek()[:1].isalpha():
        raise line.fail("a tensor, like Q[b t h d]")
    out = line.ref(line.next())
    if not line.peek():
        return Equation(out, ())
    update = line.peek() == "<-"
    if not update:
        line.want("=", " or '<-'")
    else:
        line.next()
    alts = [line.expr()]
    while line.peek() == "|":
        line.next()
        alts.append(line.expr())
    line.end()
    return Equation(out, tuple(alts), update)


def lines(text: str, where: str = "", first: int = 1) -> tuple[list[Equation], dict[tuple[str, str], MaskExpr]]:
    """The equations and masks of a text; every bad line is reported, not only the first.

    >>> equations, sees = lines("A[t] = X[t]\\nt sees n: causal")
    >>> len(equations), str(sees["t", "n"])
    (1, 'causal')
    """
    equations: list[Equation] = []
    sees: dict[tuple[str, str], MaskExpr] = {}
    errors: list[str] = []
    rows = text.split("\n")
    if len(rows) > MAX_LINES:
        raise LanguageError(f"{where}: {len(rows):,} lines; at most {MAX_LINES}")
    for at, raw in enumerate(rows, first):
        row = raw.split("#")[0].strip()
        if not row:
            continue
        here = f"{where}, line {at}: " if where else ""
        try:
            if m := re.match(r"([a-z]\S*) sees ([^:]+):\s*(.+)", row):
                line = _Line(_mask_text(m[3]), here)
                seen = line.mask()
                line.end()
                key = (m[1], m[2].strip())
                if key[0] == key[1]:
                    raise LanguageError(f"{here}{key[0]} sees itself; a mask is between two indices")
                sees[key] = both(sees[key], seen) if key in sees else seen
            else:
                equations.append(equation(row, here))
        except LanguageError as error:
            errors.append(str(error))
    if errors:
        raise LanguageError(
            "\n".join([*errors[:20], *([f"... and {len(errors) - 20} more"] if len(errors) > 20 else [])])
        )
    return equations, sees


def program(text: str, where: str = "") -> Program:
    """A page.

    >>> p = program("S[t n] = Q[t d] * K[n d]\\nt sees n: causal")
    >>> list(p.inputs), str(p.sees["t", "n"])
    (['Q', 'K'], 'causal')
    """
    equations, sees = lines(text, where)
    if rewrites := [str(e) for e in equations if e.update]:
        raise LanguageError(
            f"`{rewrites[0]}` rewrites a tensor, which only a modifier or a page that extends another can do"
        )
    return named_axes(check(Program(tuple(equations), sees)))
