"""The columns of a sweep: what may stand in a table of shapes, and what is added to it. A column is a row here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from msgspec import Struct

from attnmath import hardware, modifiers, variants
from attnmath.errors import AttnmathError, InputError, Unknown
from attnmath.hardware import estimates
from attnmath.language.letters import LETTERS
from attnmath.language.parse import UNITS, mask
from attnmath.language.syntax import MAX_DIGITS
from attnmath.readings.schedules import parse as schedule_of
from attnmath.request import PHASES, TRAIN, check

OPS = {
    "attention": "one attention layer, or what of one a kernel computes: a variant with its sizes",
    "mla": "latent attention: the variant mla; with kv_heads, a kernel's shape, absorbed where one head of keys serves all",
    "gemm": "a matrix product, m x k by k x n",
    "all_reduce": "the sum of a buffer of message_bytes over num_gpus",
}
ENCODER = "encoder"  # prefill in which every token sees every token
DEFAULT_VARIANT = "gqa"
FILES = (".toml", ".attn")  # what an option may name, and a cell may not


class Column(Struct, frozen=True):
    """A column that a table may hold; `check` refuses a text that cannot stand in it, None for a column of numbers.

    `least`: the least number. `unit`: 1024 for tokens (8k is 8192), 1000 for bytes (80GB), 0 for plain counts.
    """

    meaning: str
    default: str = ""
    check: Callable[[str], object] | None = None
    least: int = 1
    bytes: bool = False


def _one_of(kind: str, known: Iterable[str], plural: str = "") -> Callable[[str], None]:
    names = tuple(known)

    def check_(text: str) -> None:
        if text not in names:
            raise Unknown(kind, text, names, plural)

    return check_


def _phase(text: str) -> None:
    if text not in (*PHASES, TRAIN, ENCODER):
        raise Unknown("phase", text, (*PHASES, TRAIN, ENCODER))


@lru_cache(4096)
def uses(text: str) -> tuple[modifiers.Use, ...]:
    """The modifiers of a cell.

    >>> [str(u) for u in uses("rope softcap:cap=50")]
    ['rope', 'softcap:cap=50']
    """
    return tuple(map(modifiers.use, text.split()))


NAMES: dict[str, Column] = {
    "op": Column(", ".join(OPS), "attention", _one_of("op", OPS)),
    "variant": Column("the attention variant", DEFAULT_VARIANT, variants.get),
    "with": Column("modifiers in the order in which they apply, spaces between them", "none", uses),
    "phase": Column(
        f"{', '.join(PHASES)}, {TRAIN} (forward and backward), or {ENCODER}: prefill under the mask full",
        "prefill",
        _phase,
    ),
    "form": Column("which of the variant's equivalent sets of equations", "the one a kernel would take"),
    "mask": Column("which keys a query sees", "the variant's", mask),
    "schedule": Column(
        "loops that the core is walked by: in training they say what is computed again; else checked alone",
        "",
        schedule_of,
    ),
    "dtype": Column(
        "how activations are stored and multiplied", "bf16", lambda s: check({}, "prefill", s, None, "cold")
    ),
    "kv_dtype": Column("how the cache is stored", "dtype", lambda s: check({}, "prefill", None, s, "cold")),
    "gpu": Column("the accelerator; without one there is no time", "none", hardware.get),
    "engine": Column(
        "whose kernel runs it", estimates.DEFAULT_ENGINE, _one_of("engine", estimates.engines(), "engines")
    ),
    "l2": Column(
        "cold, or warm: what fits into the L2 is there", "cold", lambda s: check({}, "prefill", None, None, s, "")
    ),
}
OF_OTHERS: dict[str, Column] = {
    "m": Column("rows of a matrix product's result"),
    "n": Column("columns of a matrix product's result"),
    "k": Column("what a matrix product sums over"),
    "num_gpus": Column("accelerators of a collective"),
    "message_bytes": Column("a collective's buffer, bytes", bytes=True),
}
SIZES: dict[str, Column] = {
    str(row.option).replace("-", "_"): Column(
        row.meaning,
        row.why or ("" if callable(row.default) else str(row.default or "")),
        None,
        int(letter != "layer") and int(letter != "w"),
    )
    for letter, row in LETTERS.items()
    if row.option
} | OF_OTHERS
COLUMNS: dict[str, Column] = NAMES | SIZES


class Added(Struct, frozen=True):
    """A column that the sweep adds: its JSON type, unit and meaning; each may be empty."""

    type: str
    unit: str
    meaning: str


ADDED: dict[str, Added] = {
    "flops": Added(
        "integer", "FLOP", "of the core, over the pairs that the mask allows; 2mnk for a gemm, 0 for all_reduce"
    ),
    "hbm_bytes": Added("integer", "bytes", "the core's inputs and outputs once each: no kernel moves less"),
    "time_bound_s": Added("number", "s", "a lower bound: the slowest unit at its peak rate"),
    "time_s": Added("number", "s", "the time model's estimate: kernel and launch"),
    "kernel_time_s": Added("number", "s", "of the estimate, the kernel"),
    "launch_time_s": Added("number", "s", "of the estimate, the launch"),
    "bound": Added("string", "", "the unit that binds the estimate; the bound, where there is no estimate"),
    "engine_kernel": Added("string", "", "the kernel that is estimated"),
    "note": Added("string", "", "why there is no estimate; of training, why no bytes"),
}


@lru_cache(65536)
def wrong(column: str, text: str) -> str:
    """What is wrong with a text in a column; empty if nothing is.

    >>> wrong("variant", "gqaa").split("?")[0]
    "unknown variant 'gqaa': did you mean 'gqa' or 'mqa'"
    """
    row = NAMES[column]
    try:
        if row.check:
            row.check(text)
    except AttnmathError as error:
        return str(error).replace("\n ", ";")
    return ""


def wrong_in_a_cell(column: str, text: str) -> str:
    """The same for a table's cell, which names what is built in and no file.

    >>> wrong_in_a_cell("gpu", "mine.toml")
    'mine.toml: a table names what is built in; a file is given by --gpu'
    """
    if column in ("gpu", "variant") and any(ending in text.lower() for ending in FILES):
        return f"{text[:80]}: a table names what is built in; a file is given by --{column}"
    return wrong(column, text)


BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40
}  # fmt: skip


def size(column: str, text: str) -> int:
    """A number as a cell or an option writes it: 8192, 8k, 8192.0; of bytes 80GB, 80GiB. InputError for anything else.

    >>> size("seq", "8k"), size("heads", "32.0"), size("message_bytes", "2MiB")
    (8192, 32, 2097152)
    """
    row, plain = COLUMNS[column], text.strip()
    units = BYTES if row.bytes else UNITS
    unit = next((u for u in sorted(units, key=len, reverse=True) if plain.endswith(u)), "")
    digits = plain[: len(plain) - len(unit)].strip()
    whole, point, rest = digits.partition(".")
    negative = whole[:1] == "-"
    if not (whole[negative:].isascii() and whole[negative:].isdigit()) or (point and rest.strip("0")):
        raise InputError(
            f"{text[:40]!r} is no whole number; write {'2097152, 2MiB' if row.bytes else '8192, 8k'} or 1M"[:200]
        )
    if len(whole) > MAX_DIGITS:
        raise InputError(f"a number of more than {MAX_DIGITS} digits")
    value = int(whole) * units.get(unit, 1)
    if value < row.least:
        raise InputError(f"{text[:40]} is no size: at least {row.least}")
    return value
