"""One file per modifier; it joins by existing.

A modifier's file has a docstring (its first line is the title), a SOURCE, and one function

    def lines(page: Program, **options) -> tuple[str, dict[str, int | float | str]]

that returns its lines in the language and the sizes that they bring along: a number, or an expression over letters. The
function's keyword parameters are the modifier's options; their defaults tell the type.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from itertools import count
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, LanguageError, Unknown
from attnmath.language.modify import apply
from attnmath.language.parse import lines as read_lines
from attnmath.language.syntax import Op, Program, Ref, digits, refs

Sizes = dict[str, int | float | str]
HEADS = ("h", "g", "r")  # the letters that count heads
TOKENS = ("n", "n'", "n''")  # those that count keys that are tokens


class Modifier(Struct, frozen=True):
    """A rewrite of a few lines, with its options and where it comes from."""

    name: str
    title: str
    about: str
    source: str
    lines: Callable[..., tuple[str, Sizes]]

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults.

        >>> get("window").options
        {'w': 4096}
        """
        return defaults(self.lines)

    def read(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Options as typed on a command line, turned into values of their defaults' types."""
        out: dict[str, Any] = {}
        for key, text in given.items():
            if key not in self.options:
                raise Unknown(f"option of {self.name}", key, self.options, f"options of {self.name}")
            kind = type(self.options[key])
            if kind is str:
                out[key] = text.replace("+", " ") if key in ("on", "axes") else text
                continue
            try:
                out[key] = kind(text) if len(text) < 40 else None
            except ValueError:
                out[key] = None
            if (
                out[key] is None
                or not 0 <= out[key] < float("inf")
                or not text.isascii()
                or "_" in text
                or text != text.strip()
            ):
                raise InputError(
                    f"{self.name}:{key}={text[:40]} is no {'whole number' if kind is int else 'number'} of at least 0"
                )
        return out


def defaults(lines: Callable[..., Any]) -> dict[str, Any]:
    """A function's parameters after its first, with their defaults; `inspect` says the same, and takes longer to load.

    >>> defaults(get("window").lines)
    {'w': 4096}
    """
    return dict(zip(lines.__code__.co_varnames[1 : lines.__code__.co_argcount], lines.__defaults__ or ()))


@lru_cache
def names() -> tuple[str, ...]:
    """The modifiers that exist.

    >>> "rope" in names()
    True
    """
    files = os.listdir(os.path.dirname(__file__))
    return tuple(sorted(f.removesuffix(".py").replace("_", "-") for f in files if f.endswith(".py") and f[0] != "_"))


@lru_cache
def get(name: str) -> Modifier:
    """A modifier by its name; Unknown, with the nearest names, if there is none.

    >>> get("rope").title
    'Rotary position embedding'
    """
    if name not in names():
        raise Unknown("modifier", name, names())
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    title, _, about = (module.__doc__ or name).partition("\n")
    return Modifier(name, title.strip().rstrip("."), " ".join(about.split()), module.SOURCE, module.lines)


class Use(Struct, frozen=True):
    """A modifier with the options it is used with; prints as it is written after --with."""

    modifier: Modifier
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        shown = ",".join(f"{k}={str(v).removesuffix('.0').replace(' ', '+')}" for k, v in self.options)
        return f"{self.modifier.name}:{shown}" if shown else self.modifier.name

    def apply(self, page: Program, brought: Iterable[str] = ()) -> tuple[Program, Sizes]:
        """The page with the modifier's lines worked in, and the sizes they bring; `brought`: the tensors that earlier
        modifiers brought, which a second use must neither define anew nor read as its own.
        """
        try:
            text, sizes = self.modifier.lines(page, **dict(self.options))
            changes = read_lines(text)[0]
            defined = {e.out.name for e in changes if not e.update}
            read = {r.name for e in changes for a in e.alts for r in refs(a)} & set(page.inputs)
            if twice := sorted(set(brought) & (defined | read)):
                raise LanguageError(f"{', '.join(twice)} is there from an earlier modifier, and cannot serve two")
            return apply(page, text), sizes
        except LanguageError as error:
            raise LanguageError(f"modifier {self}: {error}") from None


def use(text: str) -> Use:
    """`rope`, `rope:layout=interleaved,base=500000`, `norm:on=Q+k`.

    >>> str(use("rope:layout=interleaved"))
    'rope:layout=interleaved'
    """
    name, colon, rest = text.partition(":")
    if colon and not rest.strip(","):
        raise InputError(f"--with {text[:80]}: no option follows the colon; write {name}, or {name}:key=value")
    given: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--with {text[:80]}: {item!r} is no option; write {name}:key=value,key=value")
        if key in given:
            raise InputError(f"--with {text[:80]}: {key} is given twice")
        given[key] = value
    modifier = get(name)
    return Use(modifier, tuple(modifier.read(given).items()))


class Softmax(Struct, frozen=True):
    """A softmax over keys: the weights it gives, the scores it takes, the operation with its index, whether it has a sink."""

    weights: Ref
    scores: Ref
    operation: str
    sink: bool

    @property
    def key(self) -> str:
        """What it runs along: the keys, as `n` or in parts, `n|k`."""
        over = self.operation.partition("_")[2]
        return over[1:-1] if over[0] == "(" else over

    @property
    def over_tokens(self) -> bool:
        """Whether each key is a token at its own place, and neither a block nor a slot."""
        return self.key in TOKENS

    @property
    def heads(self) -> tuple[str, ...]:
        """The indices of its scores that count heads.

        >>> from attnmath import variants
        >>> softmaxes(variants.get("gqa").program)[0].heads
        ('g', 'r')
        """
        return tuple(str(i) for i in self.scores.index if i in HEADS)


def softmaxes(page: Program) -> list[Softmax]:
    """Every softmax in which a query weighs keys; LanguageError if the page has none.

    >>> from attnmath import variants
    >>> [(str(s.weights), str(s.scores), s.key) for s in softmaxes(variants.get("mha").program)]
    [('A[b h t n]', 'L[b h t n]', 'n')]
    """
    found = []
    keys = {d for q, k in page.sees if q == "t" for d in k.split()}
    for e in page.equations:
        for x in e.alts[:1]:
            while isinstance(x, Op) and x.name in ("*", "/"):  # a softmax that something was done to
                x = x.args[0]
            if (
                isinstance(x, Op)
                and x.name == "softmax"
                and isinstance(x.args[0], Ref)
                and keys & set(digits(x.over[0]))
            ):
                over = f"({x.over[0]})" if "|" in x.over[0] else x.over[0]
                found.append(Softmax(e.out, x.args[0], f"softmax_{over}", len(x.args) > 1))
    if not found:
        raise LanguageError("it changes a softmax over keys; this page has none")
    return found


def renamed(page: Program, text: str, sizes: Sizes, tables: tuple[str, ...]) -> tuple[str, Sizes]:
    """A modifier's lines and sizes with its own tables and words numbered, if the page has such from an earlier use.

    >>> from attnmath import variants
    >>> renamed(use("rope").apply(variants.get("mqa").program)[0], "ROT[t pair] = 1", {"pair": 4}, ("ROT",))
    ('ROT2[t pair2] = 1', {'pair2': 4})
    """

    def taken(n: int) -> bool:
        return any(f"{table}{'' if n == 1 else n}" in page.tensors for table in tables)

    use_ = next(n for n in count(1) if not taken(n))
    if use_ == 1:
        return text, sizes
    own = "|".join((*tables, *(k for k in sizes if k.isalnum())))

    def number(x: str) -> str:
        return re.sub(rf"\b({own})\b", rf"\g<1>{use_}", x)

    return number(text), {number(k): number(v) if isinstance(v, str) else v for k, v in sizes.items()}


def targets(page: Program, on: str) -> list[tuple[str, str]]:
    """The tensors that an option `on` names, each with its innermost index; LanguageError unless they are projections: each
    named once, defined here, and neither scores nor anything else that is indexed by keys.

    >>> from attnmath import variants
    >>> targets(variants.get("mha").program, "Q k")
    [('Q', 'd'), ('k', 'd')]
    """
    found = on.split()
    if not found or len(set(found)) < len(found):
        raise LanguageError(f"on={'+'.join(found)[:80]} names {'a tensor twice' if found else 'no tensor'}")
    out = []
    for n in found:
        if n not in page.defined:
            raise LanguageError(f"{Unknown('tensor', n, page.defined)}; say which with on=")
        index = page.tensors[n]
        if "n" in index or not isinstance(index[-1], str):
            raise LanguageError(
                f"{n}[{' '.join(map(str, index))}] is no projection of new tokens, which is what this modifies"
            )
        out.append((n, index[-1]))
    return out
