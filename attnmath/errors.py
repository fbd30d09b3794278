"""One root of all errors. A message names the culprit, says what was expected, and shows the way out."""

from __future__ import annotations

from collections.abc import Iterable


class AttnmathError(Exception):
    """Anything that attnmath refuses; `str()` of it is a complete message for a person."""


class LanguageError(AttnmathError):
    """An equation, mask or modifier that does not parse or does not fit together."""


class NoClosedForm(LanguageError):
    """A count that this mask has for numbers at the most, not for symbols."""


class InputError(AttnmathError):
    """A size, name, option, array or file that was given and cannot be used."""


class NoSchedule(InputError):
    """A core that no loops over queries and keys walk, or not these."""


class Unknown(InputError):
    """A name that is not in its registry; says which names are near."""

    def __init__(self, kind: str, name: str, known: Iterable[str], plural: str = "") -> None:
        super().__init__(
            f"unknown {kind} {name[:80]!r}: {nearest(name, known, plural or kind.removesuffix('s') + 's')}"
        )


def nearest(name: str, known: Iterable[str], plural: str) -> str:
    """What to try instead of a name that does not exist.

    >>> nearest("gqaa", ["gqa", "mla"], "variants")
    "did you mean 'gqa'? The variants are gqa, mla"
    """
    from difflib import get_close_matches

    names = sorted(known)
    shown = ", ".join(names) or "none"
    folded = {n.lower(): n for n in reversed(names)}
    wanted = name[:80].lower()
    longer = [n for n in folded if len(wanted) > 1 and n.startswith(wanted)]
    near = [folded[n] for n in [*longer, *get_close_matches(wanted, folded, 2, 0.5)]][:2]
    near = list(dict.fromkeys(near))
    if not near:
        return f"the {plural} are {shown}"
    return f"did you mean {' or '.join(map(repr, near))}? The {plural} are {shown}"


def printable(text: str) -> str:
    """A name from outside on one line, without what a terminal or a log would act on.

    >>> printable("a\\n::error::b\\x1b[31m")
    'a\\\\n::error::b\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


MOST = 50  # complaints that are shown


def together(errors: Iterable[str], heading: str = "") -> str:
    """Several complaints as one message, a line each; of very many the first.

    >>> print(together(["a is 0", "b is missing"]))
    2 errors:
      a is 0
      b is missing
    """
    lines = list(errors)
    if len(lines) == 1 and not heading:
        return lines[0]
    heading = heading or f"{len(lines)} errors:"
    if len(lines) > MOST:
        lines = [*lines[:MOST], f"and {len(lines) - MOST:,} more"]
    return "\n  ".join([heading, *lines])
