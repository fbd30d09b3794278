"""A block of rows as arrays: names as codes, numbers as float64, and everything that is wrong with a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from attnmath.errors import MOST, InputError
from attnmath.sweeping.columns import NAMES, SIZES, size, wrong_in_a_cell

EXACT = 2**53  # below it float64 holds every integer


class Problems:
    """What is wrong: by column and reason, the first row that has it and how many more do."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[int]] = {}

    def add(self, row: int, column: str, why: str, more: int = 0) -> None:
        """A row, counted from 0, the column that is to blame or nothing, and how many more rows have the same."""
        at = self.found.setdefault((column, why), [row, -1])
        at[0], at[1] = min(at[0], row), at[1] + 1 + more

    def merge(self, other: Problems) -> None:
        """Those of another block, too."""
        for (column, why), (row, more) in other.found.items():
            self.add(row, column, why, more)

    @property
    def full(self) -> bool:
        """Enough is known to stop."""
        return len(self.found) >= MOST


class Names(Struct, frozen=True):
    """A column of names: each row's place among `texts`, of which the first is None, an empty cell."""

    codes: Any
    texts: tuple[str | None, ...]


class Sizes(Struct, frozen=True):
    """A column of numbers as float64, NaN for an empty cell; those that it does not hold exactly stand in `exact`, by row."""

    values: Any
    exact: dict[int, int]


class Block(Struct, frozen=True):
    """Some rows of a table, from row `first` on; `bad`: those with a cell that cannot be read."""

    first: int
    rows: int
    bad: Any
    names: Mapping[str, Names]
    sizes: Mapping[str, Sizes]


class _Bad(Struct, frozen=True):
    """Where bad cells of a block are noted."""

    first: int
    rows: Any
    problems: Problems
    wrong: Callable[[str, str], str]

    def add(self, rows: Any, column: str, why: str) -> None:
        self.rows[rows] = True
        self.problems.add(self.first + int(rows.min()), column, why, len(rows) - 1)


def block(
    batch: pa.RecordBatch,
    first: int,
    known: Mapping[str, str],
    options: Mapping[str, str],
    problems: Problems,
    wrong: Callable[[str, str], str] = wrong_in_a_cell,
) -> Block:
    """The known columns of a batch as arrays; an option stands in for what is empty.

    `known`: the table's own names of the known columns; `options`: texts, checked already; `wrong` says what is wrong with a
    name in a column.

    >>> batch = pa.RecordBatch.from_pydict({"seq": ["8k", None], "gpu": ["h100-sxm", ""]})
    >>> found = block(batch, 0, {"seq": "seq", "gpu": "gpu"}, {"heads": "32"}, Problems())
    >>> found.sizes["seq"].values.tolist(), found.names["gpu"].texts, found.sizes["heads"].values.tolist()
    ([8192.0, nan], (None, 'h100-sxm', None), [32.0, 32.0])
    """
    names: dict[str, Names] = {}
    sizes: dict[str, Sizes] = {}
    bad = _Bad(first, np.zeros(batch.num_rows, bool), problems, wrong)
    for column in {**known, **options}:
        cells = batch.column(batch.schema.get_field_index(known[column])) if column in known else None
        if column in NAMES:
            names[column] = _names(column, cells, batch.num_rows, options.get(column), bad)
        else:
            sizes[column] = _sizes(column, cells, batch.num_rows, options.get(column), bad)
    return Block(first, batch.num_rows, bad.rows, names, sizes)


def unfit(name: str, column: str, kind: pa.DataType) -> str:
    """Why a column of this type cannot be read as what it is called; empty if it can.

    >>> unfit("seq", "seq", pa.bool_())
    'column seq: bool holds no numbers'
    """
    inside = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(inside) or pa.types.is_large_string(inside) or pa.types.is_string_view(inside)
    number = pa.types.is_integer(inside) or pa.types.is_floating(inside) or pa.types.is_decimal(inside)
    if text or pa.types.is_null(inside) or (number and column in SIZES):
        return ""
    return f"column {name}: {kind} holds no {'numbers' if column in SIZES else 'names'}"


def _names(column: str, cells: Any, rows: int, default: str | None, bad: _Bad) -> Names:
    if cells is None:
        return Names(np.zeros(rows, np.int64) + 1, (None, default))
    if not pa.types.is_dictionary(cells.type):
        cells = (cells.cast(pa.string()) if not pa.types.is_string(cells.type) else cells).dictionary_encode()
    texts = [None if t is None else str(t).strip() for t in cells.dictionary.to_pylist()]
    codes = pc.fill_null(cells.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    shown: list[str | None] = [None, *(t or None for t in texts)]
    filled = tuple(default if t is None else t for t in shown)
    for at, text in enumerate(shown):
        if text is not None and (why := bad.wrong(column, text)):
            where = np.flatnonzero(codes == at)
            if len(where):
                bad.add(where, column, why)
        if bad.problems.full:
            break
    return Names(codes, filled)


def _sizes(column: str, cells: Any, rows: int, default: str | None, bad: _Bad) -> Sizes:
    fill = np.nan if default is None else float(size(column, default))
    exact: dict[int, int] = {}
    if cells is None:
        values = np.full(rows, fill)
        return Sizes(values, dict.fromkeys(range(rows), size(column, default)) if default and fill >= EXACT else exact)
    given = _numbers(cells)
    if given is None:
        return _parsed(column, cells, default, bad)
    empty = cells.is_null().to_numpy(zero_copy_only=False) if cells.null_count else None
    values = np.where(empty, fill, given) if empty is not None else given
    if column == "window":
        values = np.where(values == 0, np.nan, values)
    least = SIZES[column].least
    with np.errstate(invalid="ignore"):
        fine = (values >= least) & (values < EXACT) & (np.floor(values) == values)
    if empty is not None:
        fine |= empty
    if column == "window":
        fine |= given == 0
    for at in np.flatnonzero(~fine):
        row = int(at)
        _one(column, cells[row].as_py(), row, values, exact, bad)
        if bad.problems.full:
            break
    if default is not None and fill >= EXACT and empty is not None:
        exact |= dict.fromkeys(map(int, np.flatnonzero(empty)), size(column, default))
    return Sizes(values, exact)


def _numbers(cells: Any) -> Any:
    """Numbers as float64, whatever they are stored as; None if they are texts that are not all plain integers."""
    kind = cells.type
    try:
        if pa.types.is_dictionary(kind):
            cells, kind = cells.dictionary_decode(), kind.value_type
        if pa.types.is_null(kind):
            return np.full(len(cells), np.nan)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            cells = pc.cast(cells, pa.int64())
        if pa.types.is_decimal(kind) or kind == pa.float16():
            cells = pc.cast(cells, pa.float64())
        return pc.fill_null(cells, 0).to_numpy(zero_copy_only=False).astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _parsed(column: str, cells: Any, default: str | None, bad: _Bad) -> Sizes:
    """Texts with units, whole numbers with a point, and such as are none: each text is read once."""
    found = cells.cast(pa.string()).dictionary_encode()
    codes = pc.fill_null(found.indices, -1).to_numpy(zero_copy_only=False)
    texts = found.dictionary.to_pylist()
    values = np.full(len(codes), np.nan if default is None else float(size(column, default)))
    exact: dict[int, int] = {}
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(texts) + 1))
    for code, text in enumerate(texts):
        rows = order[ends[code] : ends[code + 1]]
        if not text.strip() or not len(rows):
            continue
        try:
            number = size(column, text)
        except InputError as error:
            bad.add(rows, column, str(error))
            if bad.problems.full:
                break
            continue
        values[rows] = np.nan if column == "window" and not number else _float(number)
        exact |= dict.fromkeys(map(int, rows), number) if number >= EXACT else {}
    return Sizes(values, exact)


def _one(column: str, cell: Any, row: int, values: Any, exact: dict[int, int], bad: _Bad) -> None:
    """A number that is not simply a whole one below 2^53: an exact larger one, or a problem."""
    try:
        text = cell if isinstance(cell, str) else f"{cell:f}" if cell == cell else "NaN"
        exact[row] = size(column, text)
        values[row] = _float(exact[row])
    except InputError as error:
        bad.add(np.array([row]), column, str(error))


def _float(x: int) -> float:
    return float(x) if x < 10**300 else 1e300
