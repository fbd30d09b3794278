"""One page of equations per variant, `NAME.attn`; a page joins by existing.

title:   Grouped-query attention
source:  Ainslie et al. 2023, arXiv:2305.13245, section 2.2
about:   what a reader should know first
extends: gqa                            optional: another variant, whose lines come first
where:   i = 128, series = 2            optional: the page's own defaults of letters, and sizes of words of its own

equations and masks                     common to all forms
form expanded:                          optional: the same function by other equations, indented under its name
    equations
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

from attnmath.errors import InputError, LanguageError, Unknown
from attnmath.files import read_text
from attnmath.language.letters import LETTERS, mentioned, needed
from attnmath.language.modify import apply, prune
from attnmath.language.order import in_order
from attnmath.language.parse import expression, program
from attnmath.language.syntax import MAX_DIGITS, Num, Op, Program, letters, ops

HERE = os.path.dirname(__file__)
SUFFIX = ".attn"
MAX_BYTES = 64_000
SIZE_OPS = ("+", "-", "*", "/", "neg", "floor", "min2", "max2")
FIELDS = ("title", "source", "about", "extends", "where")


class Variant(Struct, frozen=True):
    """A page: its forms (the first is the definition, the others compute the same) and where it comes from.

    `where`: its own defaults of letters, and the sizes of its own words, numbers or expressions over letters.
    """

    name: str
    title: str
    source: str
    about: str
    forms: Mapping[str, Program]
    where: Mapping[str, int | float | str] = {}

    def __repr__(self) -> str:
        return f"<Variant {self.name}: {', '.join(self.forms)}>"

    @property
    def program(self) -> Program:
        """The definition."""
        return next(iter(self.forms.values()))

    @property
    def options(self) -> tuple[str, ...]:
        """The options that set its sizes, in the registry's order.

        >>> get("mqa").options
        ('batch', 'seq', 'context', 'heads', 'head-dim', 'v-head-dim', 'd-model')
        """
        names = needed([n for p in self.forms.values() for n in (*p.names, *self._parents(p))], self.where)
        return tuple(option for n in names if (option := LETTERS[n].option))

    def _parents(self, page: Program) -> tuple[str, ...]:
        """The letters that the sizes of the page's own words are computed from."""
        own = (self.where[n] for n in page.names if n in self.where and n not in LETTERS)
        return tuple(n for text in own for n in mentioned(text) if n in LETTERS)

    @property
    def tensors(self) -> dict[str, tuple[str, ...]]:
        """Every tensor of the definition with its named dimensions.

        >>> get("mqa").tensors["K"]
        ('b', 'n', 'd')
        """
        return {n: tuple(map(str, index)) for n, index in self.program.tensors.items()}

    def equations(self, form: str | None = None) -> str:
        """The page as text, one equation a line.

        >>> print(get("mqa").equations().splitlines()[0])
        Q[b t h d] = X[b t m] * WQ[m h d]
        """
        return str(self.form(form))

    def form(self, name: str | None = None) -> Program:
        """One form by name; the definition if none is named."""
        if name is None:
            return self.program
        if name not in self.forms:
            if len(self.forms) == 1:
                raise InputError(f"{self.name} has one form only; --form {name!r} has no use here")
            raise Unknown("form", name, self.forms, f"forms of {self.name}")
        return self.forms[name]


@lru_cache
def names() -> tuple[str, ...]:
    """The variants that exist.

    >>> "gqa" in names()
    True
    """
    return tuple(sorted(f.removesuffix(SUFFIX) for f in os.listdir(HERE) if f.endswith(SUFFIX)))


def get(name: str) -> Variant:
    """A variant by its name, or by the path of a page of one's own (anything that ends in .attn).

    Raises InputError if there is none, LanguageError (file, line, what was expected) if the page does not read.

    >>> get("gqa").source
    'Ainslie et al. 2023, arXiv:2305.13245, section 2.2'
    """
    if not isinstance(name, str):
        raise InputError(f"a variant is named by a text, not {name!r:.40}")
    if name.endswith(SUFFIX):
        return read_page(os.path.basename(name).removesuffix(SUFFIX), name, name)
    return _built_in(name)


def header(name: str) -> dict[str, str]:
    """A built-in page's title, source and what else stands above its equations, which are not read.

    >>> header("gqa")["title"]
    'Grouped-query attention'
    """
    if name not in names():
        raise Unknown("variant", name, names())
    text = read_text(os.path.join(HERE, name + SUFFIX), MAX_BYTES, "a variant is one page")
    return _header(text.partition("\n\n")[0], name + SUFFIX)


@lru_cache
def _built_in(name: str) -> Variant:
    if name not in names():
        raise Unknown("variant", name, names())
    return read_page(name, os.path.join(HERE, name + SUFFIX), name + SUFFIX)


def read_page(name: str, path: str, where: str, above: tuple[str, ...] = ()) -> Variant:
    """A page from its file; `where`: what errors call it; `above`: the pages that extend it.

    >>> read_page("gqa", os.path.join(HERE, "gqa.attn"), "gqa.attn").title
    'Grouped-query attention'
    """
    text = read_text(path, MAX_BYTES, "a variant is one page")
    head, _, body = text.partition("\n\n")
    fields = _header(head, where)
    base = _base(fields["extends"], where, (*above, path)) if "extends" in fields else None
    try:
        forms = _forms(body, where, len(head.split("\n")) + 2, base)
        own = {**(base.where if base else {}), **_where(fields.get("where", ""))}
        for p in forms.values():
            _checked(p, own)
        on_lines = needed([n for p in forms.values() for n in p.names], own)
        dead = [n for n in own if n not in on_lines and not any(n in p.names for p in forms.values())]
        if dead := [n for n in dead if not any(n in mentioned(v) for v in own.values())]:
            raise LanguageError(f"where: {', '.join(dead)} is on no line of the page")
    except LanguageError as error:
        message = str(error)
        raise LanguageError(message if where in message else f"{where}: {message}") from None
    return Variant(name, fields["title"], fields["source"], fields.get("about", ""), forms, own)


def _where(text: str) -> dict[str, int | float | str]:
    """`i = 4, slot = 2 * i` as sizes by name: whole numbers as numbers, anything else as an expression over letters."""
    found: dict[str, int | float | str] = {}
    for item in filter(None, map(str.strip, re.split(r",(?![^()]*\))", text))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name.replace("'", "").isalnum() or not name[0].islower() or name in found:
            raise LanguageError(f"where: {item[:60]!r} is no size; write name = value, name = value, each name once")
        number = value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS
        found[name] = int(value) if number else str(expression(value))
        before = [n for n in found if n != name]
        if unknown := [n for n in mentioned(found[name]) if n not in LETTERS and n not in before]:
            raise LanguageError(f"where: {name} = {value[:60]}: {nearest_letter(unknown)}")
        _check_default(name, found[name])
        reached, todo = set[str](), list(mentioned(found[name]))
        while todo:
            n = todo.pop()
            if n == name:
                raise LanguageError(f"where: {name} = {value[:60]}: a size cannot depend on itself")
            if n not in reached:
                reached.add(n)
                todo += mentioned(found.get(n, 0))
    return found


def _header(head: str, where: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    expected = f"expected one of {', '.join(f + ':' for f in FIELDS)} and a blank line"
    for at, row in enumerate(head.split("\n"), 1):
        key, colon, value = row.partition(":")
        if (
            key.strip() in fields
            or key.strip() not in FIELDS
            or not colon
            or not value.strip()
            or not value.isprintable()
        ):
            raise LanguageError(f"{where}, line {at}: {expected}, each once with its text, found {row[:60]!r}")
        fields[key.strip()] = value.strip()
    missing = [f for f in FIELDS[:2] if f not in fields]
    if missing:
        raise LanguageError(f"{where}: a page starts with {' and '.join(f + ':' for f in missing)}")
    return fields


FIXED = ("b", "t", "n", "h")  # what a user asks for, not what a page is


def _check_default(name: str, value: int | float | str) -> None:
    """Refuse a default that is no size, or of a letter that follows from others or belongs to the user."""
    letter, parsed = LETTERS.get(name), expression(str(value))
    if any(op.name == "/" and op.args[1] == Num(0) for op in ops(parsed)):
        raise LanguageError(f"where: {name} = {value}: it is not divisible by 0")
    number = parsed.value if isinstance(parsed, Num) and not isinstance(parsed.value, str) else None
    if letter and name != "eps" and (letter.option is None or name in FIXED):
        raise LanguageError(f"where: {name} ({letter.meaning}) is not a page's to set")
    if name == "eps":
        if number is None or not 0 <= number < 1:
            raise LanguageError(f"where: eps = {value}: a number from 0 to 1")
    elif (isinstance(parsed, Op) and parsed.name == "neg") or (
        number is not None and (number != int(number) or number < (0 if name == "layer" else 1))
    ):
        raise LanguageError(f"where: {name} = {value}: a size is a whole number of at least 1")
    elif wrong := [op.name for op in ops(parsed) if op.name not in SIZE_OPS]:
        raise LanguageError(f"where: {name} = {value}: sizes are made with {', '.join(SIZE_OPS)}, not {wrong[0]}")


def _checked(p: Program, own: Mapping[str, object]) -> None:
    """What a page needs beyond its equations' own sense: letters of the registry or words of its own, and something to
    compute for tokens.
    """
    if not p.defined:
        raise LanguageError("the page has no equation")
    if unknown := [n for n in p.names if n not in LETTERS and n not in own]:
        raise LanguageError(nearest_letter(unknown))
    values = {n for n, row in LETTERS.items() if row.value}
    indices = {d for e in p.equations for x in (e.out, *e.alts) for d in letters(x)}
    if wrong := sorted(indices & values):
        raise LanguageError(f"{', '.join(wrong)} is a value, not an index")
    if {"t", "n"} <= indices and not any("t" in pair for pair in p.sees):
        raise LanguageError(
            "queries t meet keys n, but no line says which pairs exist: write `t sees n: causal`, or full"
        )
    read = prune(p, (p.output,)).defined
    if dead := [n for n in p.defined if n not in read]:
        raise LanguageError(f"nothing reads {', '.join(dead)}, and {p.output} is what the page computes")
    if missing := [n for n in ("b", "t") if n not in p.names]:
        raise LanguageError(
            f"a page computes something for b sequences of t new tokens; here {' and '.join(missing)} is not mentioned"
        )


def nearest_letter(unknown: list[str]) -> str:
    """What to say of names that no page may use.

    >>> nearest_letter(["zz"]).split(";")[0]
    "'zz': neither a letter of the registry nor a tensor (write NAME[...])"
    """
    known = ", ".join(f"{n} ({row.meaning})" for n, row in LETTERS.items())
    what = "neither a letter of the registry nor a tensor (write NAME[...])"
    return f"{', '.join(map(repr, unknown))}: {what}; the letters are {known}"


def _base(name: str, where: str, above: tuple[str, ...]) -> Variant:
    """The variant that a page extends; a page of one's own may stand beside it."""
    if not name.endswith(SUFFIX):
        return _built_in(name)
    path = os.path.join(os.path.dirname(above[-1]), name)
    if len(above) > 16:
        raise LanguageError(f"{where}: a chain of more than 16 pages that extend each other")
    if path in above:
        raise LanguageError(f"{where}: {name} extends itself: {' -> '.join(map(os.path.basename, (*above, path)))}")
    return read_page(os.path.basename(name).removesuffix(SUFFIX), path, path, above)


def _forms(body: str, where: str, first: int, base: Variant | None) -> dict[str, Program]:
    """The page's forms: the lines at the margin belong to all, the indented ones to the form above them."""
    shared: list[str] = []
    own: dict[str, list[str]] = {}
    current: list[str] | None = None
    for at, row in enumerate(body.split("\n")):
        if row.startswith("form ") and row.rstrip().endswith(":"):
            if not row.strip()[5:-1].strip() or row.strip()[5:-1].strip() in own:
                raise LanguageError(f"{where}, line {first + at}: each form has a name of its own: {row[:60]!r}")
            current = own.setdefault(row.strip()[5:-1].strip(), [""] * at)
            shared.append("")
            continue
        indented = row[:1] == " " and current is not None
        current = current if indented or not row.strip() else None
        shared.append("" if indented else row)
        for lines in own.values():
            lines.append(row if indented and lines is current else "")
    if base:
        if own:
            raise LanguageError(f"{where}: a page that extends another takes its forms")
        return {k: apply(p, "\n".join(shared), where) for k, p in base.forms.items()}
    texts = {k: "\n".join(a or b for a, b in zip(shared, rows)) for k, rows in own.items()} or {
        "definition": "\n".join(shared)
    }
    return {k: in_order(program("\n" * (first - 1) + text, where)) for k, text in texts.items()}
