"""Options that verbs share, the same spelling everywhere; made from the registry of letters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attnmath.errors import InputError, together
from attnmath.language.letters import LETTERS
from attnmath.language.parse import UNITS
from attnmath.language.syntax import MAX_DIGITS

if TYPE_CHECKING:
    from attnmath.results import Cost

F = TypeVar("F", bound=Callable[..., Any])

LISTS = ("batch", "seq", "context")
MAX_ROWS = 2_000


def parse_size(text: str) -> int:
    """`8192`, `8k` = 8192, `1M` = 1048576.

    >>> parse_size("128k")
    131072
    """
    digits, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "")
    sign = digits[:1] == "-"
    if not digits[sign:].isascii() or not digits[sign:].isdigit():
        raise InputError(f"{text[:40]!r} is no whole number; write 8192, 8k or 1M")
    if len(digits) > MAX_DIGITS:
        raise InputError(f"a number of more than {MAX_DIGITS} digits")
    return int(digits) * UNITS.get(unit, 1)


SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_time(text: str) -> float:
    """`1.2ms` in seconds; the units are s, ms, us and ns.

    >>> parse_time("1.2ms")
    0.0012
    """
    found = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,2})?) ?([a-zµ]*)", text.strip()[:60])
    if not found:
        raise InputError(f"--measured: {text[:40]!r} is no time; write 1.2ms, 350us or 0.4s")
    number, unit = found.groups()
    if unit not in SECONDS:
        raise InputError(f"--measured: {text[:40]!r} needs a unit: s, ms, us or ns, as in 1.2ms")
    if not float(number):
        raise InputError(f"--measured: {text[:40]!r} is no time that anything takes")
    return float(f"{float(number) * SECONDS[unit]:.15g}")


def measured_option(f: F) -> F:
    """A measured time, for each row."""
    return click.option(
        "--measured",
        metavar="TIME",
        help="The core's time as you measured it, 1.2ms: its share of the bound, MFU, bytes/s. A list: one per row.",
    )(f)


def with_times(costs: list[Cost], measured: str | None) -> list[Cost]:
    """The costs with the measured times, one for each; a note on stderr of each that beats its bound."""
    if measured is None:
        return costs
    from attnmath.measured import doubt, with_measured

    if costs and costs[0].gpu is None:
        raise InputError("--measured has a use only with a --gpu: the time is compared with its bound")
    texts = measured.split(",")
    if len(texts) != len(costs):
        raise InputError(
            f"--measured: {len(texts)} time{'s' * (len(texts) > 1)} for {len(costs)} row{'s' * (len(costs) > 1)}; "
            "give one per row, in their order, joined by commas"
        )
    found = [with_measured(c, parse_time(t)) for c, t in zip(costs, texts)]
    for text, c in zip(texts, found):
        if why := doubt(c):
            click.echo(f"--measured {text.strip()}: {why}", err=True)
    return found


def sizes_from(values: Mapping[str, str | None]) -> list[dict[str, int]]:
    """Sizes as typed, `1k,8k` being a list of rows: one mapping of option to size per row; all bad ones at once."""
    lists: dict[str, list[int]] = {}
    errors: list[str] = []
    for name, text in values.items():
        if text is None:
            continue
        option = name.replace("_", "-")
        parts = text.split(",") if option in LISTS else [text]
        try:
            lists[option] = [parse_size(p.strip()) for p in parts]
        except InputError as error:
            errors.append(f"--{option}: {error}")
    if errors:
        raise InputError(together(errors))
    rows = 1
    for v in lists.values():
        rows *= len(v)
    if rows > MAX_ROWS:
        raise InputError(f"{rows:,} rows from these lists; at most {MAX_ROWS:,}")
    return [dict(zip(lists, row)) for row in product(*lists.values())]


def size_options(f: F) -> F:
    """One option per size of the registry."""
    for letter, row in reversed(LETTERS.items()):
        if row.option:
            default = row.why or (row.default if not callable(row.default) else "")
            shown = f"{row.meaning}{f' [{_words(default)}]' if default else ''}."
            f = click.option(f"--{row.option}", metavar=letter.upper(), help=shown[0].upper() + shown[1:])(f)
    return f


def _words(default: Any) -> str:
    """A default as a reader of the help writes it: the letters by their options."""
    if not isinstance(default, str) or len(default) > 6:
        return str(default)
    return " ".join(
        f"--{LETTERS[x].option}" if x in LETTERS and LETTERS[x].option else x.replace("*", "x") for x in default.split()
    )


def layer_options(f: F) -> F:
    """Modifiers and mask."""
    f = click.option(
        "--mask",
        metavar="MASK",
        help="One of `attnmath masks`, or several with & and |: 'first:4 | window:4k'.",
    )(f)
    return click.option(
        "--with",
        "with_",
        metavar="NAME[:key=value,...]",
        multiple=True,
        help="A modifier; repeatable, applied in order.",
    )(f)


def schedule_option(f: F) -> F:
    """In which order and tiles the core is walked."""
    return click.option(
        "--schedule",
        metavar="NAME|LOOPS",
        help="How the core is walked: flash-1, flash-2:t=64,n=64, split-kv:z=16, paged, ring, memory-efficient, unfused, "
        "or loops like 'b heads t/64 n/64' [flash-2].",
    )(f)


def recompute_option(f: F) -> F:
    """What the backward pass computes again."""
    return click.option(
        "--recompute",
        metavar="none|selective|full",
        help="With --phase train: what the backward pass computes again: none, all of queries by keys, or everything "
        "[selective, as fused kernels do; none with --schedule unfused].",
    )(f)


def dtype_options(f: F) -> F:
    """How elements are stored, and on what they are computed."""
    f = click.option(
        "--l2",
        type=click.Choice(["cold", "warm"]),
        default="cold",
        help="warm: what fits into the L2 is there from the last run.",
    )(f)
    f = click.option(
        "--engine", metavar="vllm|sglang|trtllm|ideal", help="Whose kernels the estimate of time is of [vllm]."
    )(f)
    f = click.option(
        "--gpu", metavar="NAME|FILE.toml", help="An accelerator, for a lower bound on time and an estimate."
    )(f)
    f = click.option(
        "--kv-dtype",
        metavar="DTYPE",
        help="How the cache is stored: a dtype, q8_0, mxfp4, nvfp4, int4/64 (scales counted) [--dtype].",
    )(f)
    f = click.option("--dtype", metavar="DTYPE", help="How activations are stored and multiplied [bf16].")(f)
    return click.option(
        "--phase",
        metavar="prefill|decode|train",
        default="prefill",
        help="decode: one new token against a context of --seq; with --context, --seq new ones against that. "
        "train (cost, compare, roofline, tile): forward and backward.",
    )(f)


def format_option(*more: str) -> Callable[[F], F]:
    """`--format`, and `--json` for short."""

    def add(f: F) -> F:
        f = click.option("--json", "as_json", is_flag=True, help="Short for --format json.")(f)
        return click.option(
            "--format", "format_", type=click.Choice(["text", "json", *more]), default="text", help="How to print it."
        )(f)

    return add


def chosen(format_: str, as_json: bool) -> str:
    """The format that was asked for."""
    return "json" if as_json else format_


def taken(values: Mapping[str, Any]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """A verb's parameters, split into sizes and the rest."""
    own = {str(row.option).replace("-", "_") for row in LETTERS.values() if row.option}
    return {k: v for k, v in values.items() if k in own}, {k: v for k, v in values.items() if k not in own}


def each_row(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Keyword arguments for `cost`, one set per row."""
    sizes, rest = taken(values)
    rest["modifiers"] = rest.pop("with_", ())
    for row in sizes_from(sizes):
        yield {**{k.replace("-", "_"): v for k, v in row.items()}, **rest}
