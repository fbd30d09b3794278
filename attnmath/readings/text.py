"""The equations in print: plain text, aligned, and LaTeX. Templates for operations stand in `ops`, for masks in `masks`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from attnmath.language.letters import LETTERS, needed
from attnmath.language.masks import MaskExpr
from attnmath.language.ops import OPS
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
    settled,
    terms,
)


def lines(program: Program) -> list[str]:
    """One line per equation, the equals signs below each other, then the masks.

    >>> from attnmath import variants
    >>> print("\\n".join(lines(variants.get("mqa").program)[:3]))
    Q[b t h d] = X[b t m] * WQ[m h d]
    k[b t d]   = X[b t m] * WK[m d]
    v[b t e]   = X[b t m] * WV[m e]
    """
    made = [e for e in program.equations if e.alts]
    width = max((len(str(e.out)) for e in made), default=0)
    out = [f"{str(e.out).ljust(width)} = {' | '.join(map(str, e.alts))}" for e in made]
    return out + [f"{q} sees {k}: {mask}" for (q, k), mask in program.sees.items()]


def legend(program: Program) -> list[tuple[str, str, str]]:
    """(letter, what it means, the option that sets it or what it follows from) for every letter on the page.

    >>> from attnmath import variants
    >>> legend(variants.get("mqa").program)[0]
    ('b', 'sequences in the batch', '--batch')
    """
    positions = ["past"] if any(q == "t" and mask.name != "full" for (q, _), mask in program.sees.items()) else []
    used = needed([*program.names, *positions])
    return [
        (n, LETTERS[n].meaning, f"--{LETTERS[n].option}" if LETTERS[n].option else f"= {LETTERS[n].default}")
        for n in used
    ]


# -- LaTeX


def latex_lines(program: Program) -> list[str]:
    """One formula per equation, then one per mask, without delimiters.

    >>> from attnmath import variants
    >>> len(latex_lines(variants.get("mqa").program))
    11
    """
    out = [latex(e) for e in program.equations if e.alts]
    return out + [latex_mask(q, k, mask) for (q, k), mask in program.sees.items()]


def latex(e: Equation) -> str:
    """An equation, the sums that its terms imply written out.

    >>> from attnmath.language.parse import equation
    >>> print(latex(equation("S[b h t n] = Q[b t h d] * K[b n h d]")))
    S_{b\\,h\\,t\\,n} = \\sum_{d} Q_{b\\,t\\,h\\,d}\\,K_{b\\,n\\,h\\,d}
    """
    parts = [_sums(x, {d for i in left for d in letters(i)}) for left, x in settled(e)]
    return f"{_ref(e.out)} = " + r" \;\big|\; ".join(parts)


def latex_mask(q: str, k: str, mask: MaskExpr) -> str:
    """When a pair exists.

    >>> from attnmath.language.parse import mask
    >>> print(latex_mask("t", "n", mask("full")))
    t \\text{ sees } n \\iff \\text{true}
    """
    seen = r"\, ".join(map(_index, k.split()))
    at = rf"p_{{{_index(q)}}}" if q == "t" else _index(q)
    rule = mask.latex(at, seen if " " not in k else f"({seen})")
    place = [rf"{at} = \mathrm{{past}} + {_index(q)}"] * (q == "t" and at in rule)
    return rf"{_index(q)} \text{{ sees }} {seen} \iff " + r",\quad ".join([rule, *place])


def _sums(x: Expr, left: Iterable[str]) -> str:
    out = ""
    for k, (sign, num, den) in enumerate(terms(x)):
        found = dict.fromkeys(d for f in (*num, *den) for d in letters(f))
        over = [d for d in found if d not in left]
        body = r"\,".join(_expr(f, True) for f in num) or "1"
        if den:
            body = rf"\frac{{{body}}}{{{' '.join(_expr(f, len(den) > 1) for f in den)}}}"
        out += ("-" if sign < 0 else "") if k == 0 else (" + " if sign > 0 else " - ")
        out += (rf"\sum_{{{','.join(map(_index, over))}}} " if over else "") + body
    return out


def printed(name: str) -> str:
    """A letter or word of the legend as the formulas print it.

    >>> printed("t"), printed("pair")
    ('t', '\\\\mathrm{pair}')
    """
    return _index(name)


def _index(i: Index) -> str:
    if isinstance(i, str):
        bare = i.rstrip("'")
        primes = "^{" + r"\prime" * (len(i) - len(bare)) + "}" if bare != i else ""
        return (bare if len(bare) == 1 else rf"\mathrm{{{bare}}}") + primes
    if isinstance(i, Shift):
        return _index(i.base) + "".join(
            ("+" if s > 0 else "-") + (str(x) if isinstance(x, int) else _index(x)) for s, x in i.by
        )
    if isinstance(i, Group):
        inside = r"\, ".join(map(_index, i.parts))
        return f"({inside})"
    if isinstance(i, Cat):
        return r"\mid ".join(map(_index, i.parts))
    return _index(i.cat.parts[i.i]) if isinstance(i, Part) else _ref(i)


def _ref(r: Ref) -> str:
    index = r"\,".join(map(_index, r.index))
    return _name(r.name) + (f"_{{{index}}}" if index else "")


GREEK = ("alpha", "beta", "gamma", "lambda")
WORDS = ("doc",)


def _name(name: str) -> str:
    """`WDKV` as W^{DKV}, `Q0` as Q^{(0)}, a word as a word; `dQ`, the cotangent of Q, with an upright d; `Qmean`, the mean
    inside Q's equation, as Q^{mean}.
    """
    letters_, digits = name.rstrip("0123456789"), name[len(name.rstrip("0123456789")) :]
    if name[0] == "d" and len(name) > 1 and letters_ not in WORDS:
        return r"\mathrm{d}" + _name(name[1:])
    inside: list[str] = []
    while word := next((w for w in _inside_words() if letters_.endswith(w) and letters_ != w), ""):
        letters_, inside = letters_.removesuffix(word), [word, *inside]
    symbol, raised = _symbol(letters_)
    found = [*([raised] if raised else []), *(rf"\mathrm{{{w}}}" for w in inside)]
    up = r"\,".join(found) + (f"({digits})" if digits else "")
    return symbol + (f"^{{{up}}}" if up else "")


def _symbol(letters_: str) -> tuple[str, str]:
    """(what stands on the line, what is raised) of a name without its number."""
    if letters_.lower() in GREEK:
        return rf"\{letters_.lower()}", ""
    if letters_ in WORDS or (len(letters_) > 2 and letters_.isupper() and letters_[0] not in "WB"):
        return rf"\mathrm{{{letters_}}}", ""
    return letters_[0], letters_[1:]


@lru_cache
def _inside_words() -> tuple[str, ...]:
    """What a rewrite appends to a tensor's name: the operation inside its equation that has a name of its own."""
    from attnmath.readings.gradient import ARITHMETIC

    words = {n for n in (*OPS, *ARITHMETIC.values(), "past", "parts") if n.isalnum() and len(n) > 2}
    return tuple(sorted(words, key=lambda w: (-len(w), w)))


def _expr(x: Expr, tight: bool = False) -> str:
    if isinstance(x, Num):
        return r"\pi" if x.value == "pi" else _value(x.value)
    if isinstance(x, Pos):
        return r"(\mathrm{past} + t)" if x.dim == "t" else _index(x.dim)
    if isinstance(x, Ref):
        return _ref(x)
    binds = x.name in ("*", "^", "neg")
    args = [_expr(a, binds or (x.name == "-" and n == 1)) for n, a in enumerate(x.args)]
    if x.name == "softmax" and len(args) > 1:
        args = [rf"\left({args[0]};\, {args[1]}\right)"]
    elif OPS[x.name].along and isinstance(x.args[0], Op):
        args = [rf"\left({args[0]}\right)"]
    out = OPS[x.name].latex.format(*args, o=",".join(map(_index, x.over)))
    return rf"\left({out}\right)" if tight and x.name in ("+", "-", "neg") else out


def _value(v: int | float | str) -> str:
    if isinstance(v, str):
        return (
            v if len(v) == 1 else rf"N_{{\mathrm{{{v}}}}}" if v.islower() and v not in LETTERS else rf"\mathrm{{{v}}}"
        )
    digits, _, power = str(v).partition("e")
    if not power:
        return digits
    return (rf"{digits} \cdot " if digits != "1" else "") + f"10^{{{int(power)}}}"
