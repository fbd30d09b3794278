"""One registry of letters: what each means in every variant, the option that sets it, and what it is if nobody does.

Words (`pair`, `side`) are for what is local to a line; letters mean the same on every page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.language.arith import Number, number, where
from attnmath.language.syntax import letters as letters_of


class Letter(Struct, frozen=True):
    """`default`: a number, an expression over other letters, or a function of the sizes so far; None must be given.

    A letter without an option follows from the others. `value`: it is a number only, never an index.
    """

    meaning: str
    option: str | None = None
    default: int | float | str | Callable[[Mapping[str, Any]], Number] | None = None
    why: str = ""
    value: bool = False


def _kv_heads(sizes: Mapping[str, Any]) -> Number:
    h = getattr(sizes["h"], "value", sizes["h"])  # of a formula, what it is here
    if not isinstance(h, int) and not hasattr(h, "dtype"):
        return 8
    found: Number = 0 * h + 1
    for g in range(2, 9):
        found = where(h % g == 0, g, found)
    return found


LETTERS: dict[str, Letter] = {
    "b": Letter("sequences in the batch", "batch", 1),
    "t": Letter("new query tokens of each sequence", "seq"),
    "n": Letter("keys and values seen, the new tokens included", "context", "t"),
    "h": Letter("query heads", "heads"),
    "g": Letter("key/value heads", "kv-heads", _kv_heads, "8, or the largest divisor of the heads below it"),
    "r": Letter("query heads that share a key/value head", None, "h / g"),
    "d": Letter("width of a head's query and key", "head-dim", 128),
    "e": Letter("width of a head's value", "v-head-dim", "d"),
    "m": Letter("model width", "d-model", "h * d"),
    "l": Letter("width of the latent that keys and values share", "kv-rank", 512, "512, as in DeepSeek-V2 and V3"),
    "q": Letter("width of the queries' latent", "q-rank", 1536, "1536, as in DeepSeek-V2 and V3"),
    "p": Letter(
        "width of the part of a query and key that carries the position", "rope-dim", 64, "64, as in DeepSeek-V2 and V3"
    ),
    "x": Letter("width of the memory that keys and values are made from", "memory-dim", "m"),
    "s": Letter("memory tokens encoded in this step: all at first, none afterwards", None, "n - kept"),
    "w": Letter("sliding window: the query's own key and the w - 1 before it", "window"),
    "c": Letter("chunks of the new tokens", None, "t / i"),
    "i": Letter("tokens in a chunk or block", "block-size", 64),
    "j": Letter("another position in the same chunk", None, "i"),
    "u": Letter("an earlier position in the same chunk", None, "i"),
    "o": Letter("whole blocks of the keys seen", None, "floor(n / i)"),
    "f": Letter("blocks that become whole in this step", None, "o - done"),
    "k": Letter("keys, blocks or entries that a query selects", "top-k", 2048),
    "a": Letter("heads of the indexer", "index-heads", 64),
    "z": Letter("width of an indexer's head", "index-dim", 128),
    "n'": Letter("keys seen, where a page has a second mask on them", None, "n"),
    "n''": Letter("keys seen, where a page has a third mask on them", None, "n"),
    "o'": Letter("whole blocks, where a page has a second mask on them", None, "o"),
    "v": Letter("rank of a group's output projection", "o-rank", 1024),
    "group": Letter("groups of heads that share an output projection", "o-groups", 8),
    "tap": Letter("taps of the short convolution: the new token and those before it", "conv-width", 4),
    "layer": Letter("which layer this is, from 0", "layer", 0, value=True),
    "layers": Letter("layers of the model", "layers", 32, value=True),
    "done": Letter("blocks that were whole before the new tokens", None, "floor(past / i)", value=True),
    "past": Letter("tokens before the new ones", None, "n - t", value=True),
    "kept": Letter("memory tokens whose keys and values are in the cache", None, "0", value=True),
    "eps": Letter("what a norm adds under its root", None, 1e-6, value=True),
}
OPTIONS: dict[str, str] = {v.option: k for k, v in LETTERS.items() if v.option}


def needed(names: Iterable[str], given: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The registry's letters that these names stand on, directly or through a default, in the registry's order.

    `given`: values or a page's own defaults, in place of the registry's.

    >>> needed(["r"])
    ('h', 'g', 'r')
    """
    found = {n for n in names if n in LETTERS}
    todo = list(found)
    while todo:
        letter = todo.pop()
        for other in mentioned((given or {}).get(letter, LETTERS[letter].default)):
            if other not in found:
                found.add(other)
                todo.append(other)
    return tuple(n for n in LETTERS if n in found)


def mentioned(value: Any) -> tuple[str, ...]:
    """The letters that a size is computed from: those of an expression; none of a number.

    >>> mentioned("floor(n / i)"), mentioned(4)
    (('n', 'i'), ())
    """
    if callable(value):
        return ("h",)
    return _mentioned(value) if isinstance(value, str) else ()


@lru_cache(256)
def _mentioned(text: str) -> tuple[str, ...]:
    from attnmath.language.parse import expression
    from attnmath.language.syntax import sizes_in

    x = expression(text)
    return tuple(dict.fromkeys((*letters_of(x), *sizes_in(x))))


def resolve(
    names: Iterable[str],
    given: Mapping[str, Number],
    lift: Callable[[str, Number], Number] = lambda letter, value: value,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Number], dict[str, Number]]:
    """(sizes of every letter that the names stand on, those that were filled in from defaults).

    `defaults`: a page's own, in place of the registry's.

    A value of a letter with an option goes through `lift(letter, value)`: the place where a size becomes a symbol.
    Text is an expression over other letters and is computed from theirs, so that `h / g` stays one.

    >>> resolve(["r", "d"], {"h": 32, "g": 8})
    ({'h': 32, 'g': 8, 'r': 4, 'd': 128}, {'d': 128})
    """
    values = {**(defaults or {}), **given}
    want = needed(names, values)
    missing = [LETTERS[n].option for n in want if LETTERS[n].default is None and n not in values]
    if missing:
        raise InputError("missing: " + ", ".join(f"--{m} ({LETTERS[OPTIONS[m]].meaning})" for m in missing if m))
    sizes: dict[str, Number] = {}
    assumed: dict[str, Number] = {}

    def settle(n: str, above: tuple[str, ...] = ()) -> None:
        if n in sizes:
            return
        if n in above:
            raise InputError(
                f"{' is computed from '.join((*above[above.index(n) :], n))}: a size cannot depend on itself"
            )
        letter, value = LETTERS[n], values.get(n, LETTERS[n].default)
        for other in mentioned(value):
            settle(other, (*above, n))
        if isinstance(value, str):
            from attnmath.language.parse import expression

            try:
                sizes[n] = number(expression(value), sizes)
            except InputError as error:
                made_of = ", ".join(f"--{LETTERS[x].option} {sizes[x]}" for x in mentioned(value) if LETTERS[x].option)
                raise InputError(f"{made_of}: {error} ({n} = {value}: {letter.meaning})") from None
        else:
            plain = value(sizes) if callable(value) else value
            sizes[n] = lift(n, plain) if letter.option else plain
        if n not in given and letter.option:
            assumed[n] = sizes[n]

    for n in want:
        settle(n)
    return {n: sizes[n] for n in want}, {n: assumed[n] for n in want if n in assumed}
