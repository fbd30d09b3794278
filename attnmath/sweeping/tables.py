"""Tables in and out, a block of rows at a time: CSV as text, Parquet as it is."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from attnmath.errors import InputError, printable, together
from attnmath.sweeping.cells import EXACT, unfit
from attnmath.sweeping.columns import ADDED, COLUMNS, SIZES, wrong, wrong_in_a_cell
from attnmath.sweeping.rows import BINDS, Results

ROWS = 2**17  # of a block
CELL = 2**24  # bytes: a CSV row has to fit into a block of text
ENDINGS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}
INT64 = 2**63
MAX_COLUMNS = 4096


class Beyond(Exception):
    """An integer that no column of Parquet's int64 holds."""


def format_of(path: str, option: str) -> str:
    """What a file's ending says that it is; InputError if it says nothing.

    >>> format_of("shapes.csv", "--from")
    'csv'
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise InputError(f"{option} {printable(path[:200])}: the ending says what it is: {', '.join(ENDINGS)}")
    return ENDINGS[ending]


class File:
    """A CSV or Parquet file: its columns' names, and its rows in blocks. `option`: what named it.

    `size` is how much there is to read, in rows or bytes; `read` how much of it has been.
    """

    block_bytes = 2**23  # of CSV; Arrow reads some thirty blocks ahead

    def __init__(self, path: str, option: str) -> None:
        self.path, self.format = path, format_of(path, option)
        if not os.path.isfile(path):
            raise InputError(
                f"{printable(path[:200])}: {'a directory, not a file' if os.path.isdir(path) else 'no such file'}"
            )
        try:
            self.size = os.path.getsize(path)
            self.file = pa.OSFile(path, "rb")
        except OSError as error:
            raise InputError(f"{printable(path)}: {error.strerror}") from None
        if not self.size:
            raise InputError(f"{printable(path)}: the file is empty")
        try:
            if self.format == "csv":
                self.names = self._header()
                self.schema = pa.schema([(n, pa.string()) for n in self.names])
            else:
                self.parquet = pa.parquet.ParquetFile(self.file)
                self.schema = self.parquet.schema_arrow.remove_metadata()
                self.names = list(self.schema.names)
                self.size = self.parquet.metadata.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(self._unreadable(error)) from None
        self.read = 0

    def _header(self) -> list[str]:
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(_short(file, self.path)):
                if row:
                    return row
        raise InputError(f"{printable(self.path)}: the file is empty")

    def _unusable(self) -> list[str]:
        """What is wrong with the columns' names, whatever they mean."""
        errors = []
        for n in (
            dict.fromkeys(x for x in self.names if self.names.count(x) > 1) if len(self.names) <= MAX_COLUMNS else ()
        ):
            errors.append(f"column {printable(n[:80])} stands twice")
        if len(self.names) == 1 and (other := [c for c in ";\t|" if c in self.names[0]]):
            errors.append(
                f"one column, {printable(self.names[0][:80])!r}: columns are separated by commas, not by {other[0]!r}"
            )
        if len(self.names) > MAX_COLUMNS:
            errors.append(f"{len(self.names):,} columns; at most {MAX_COLUMNS:,}")
        return errors

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """The rows, in order."""
        try:
            for batch in self._batches():
                self.read = self.file.tell() if self.format == "csv" else self.read + batch.num_rows
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise InputError(self._unreadable(error)) from None

    def rewind(self) -> None:
        """Start again at the first row."""
        self.read = 0
        self.file = pa.OSFile(self.path, "rb")
        if self.format == "parquet":
            self.parquet = pa.parquet.ParquetFile(self.file)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if self.format == "parquet":
            yield from self.parquet.iter_batches(ROWS)
            return
        kinds = dict.fromkeys(self.names, pa.string())
        reader = pa.csv.open_csv(
            self.file,
            pa.csv.ReadOptions(block_size=self.block_bytes),
            pa.csv.ParseOptions(newlines_in_values=True),
            pa.csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True),
        )
        for batch in reader:
            for at in range(0, batch.num_rows, ROWS):
                yield batch.slice(at, ROWS)

    def _unreadable(self, error: Exception) -> str:
        text = printable(str(error).split("\n")[0])[:300]
        what = "CSV" if self.format == "csv" else "Parquet"
        if "straddling" in text or "block size" in text:
            text = f"a row of more than {self.block_bytes:,} bytes"
        if "Empty CSV" in text:
            text = "the file is empty"
        return f"{printable(self.path)}: no readable {what}: {text}"

    def line(self, rows: Sequence[int]) -> dict[int, str]:
        """Where rows, counted from 0, stand: the line of a CSV file, its header being line 1; else the row, counted from 1."""
        if self.format == "parquet":
            return {r: f"row {r + 1:,}" for r in rows}
        wanted, row = set(rows), -1
        found: dict[int, str] = {}
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    row += 1
                if row - 1 in wanted:
                    found.setdefault(row - 1, f"line {reader.line_num:,}")
                if len(found) == len(wanted):
                    break
        return {r: found.get(r, f"row {r + 1:,}") for r in rows}


class Table(File):
    """A table of shapes. `known`: the place of each known column."""

    wrong = staticmethod(wrong_in_a_cell)

    def __init__(self, path: str) -> None:
        super().__init__(path, "--from")
        self.known = {n.strip().replace("-", "_"): n for n in self.names if n.strip().replace("-", "_") in COLUMNS}
        self._check()

    def _check(self) -> None:
        """Everything that is wrong with the columns, at once."""
        errors = self._unusable()
        if taken := [n for n in self.names if n in ADDED]:
            errors.append(f"{', '.join(taken)}: the sweep adds such a column; rename or drop the table's own")
        for column, n in self.known.items():
            twins = [x for x in self.names if x != n and x.strip().replace("-", "_") == column]
            errors += [f"columns {printable(n)} and {printable(x)} are one" for x in twins]
            if not twins and self.names.count(n) == 1 and (why := unfit(n, column, self.schema.field(n).type)):
                errors.append(why)
        if errors:
            raise InputError(together(errors, f"{printable(self.path)}:"))

    @property
    def doubtful(self) -> list[str]:
        """What to say of columns that are kept and not read, and look like one that is."""
        from difflib import get_close_matches

        unread = [n for n in self.names if n not in self.known.values()][:64]
        near = {n: get_close_matches(n.lower()[:80], COLUMNS, 1, 0.8) for n in unread}
        return [
            f"column {printable(n)} is kept and not read; {m[0]} would be"
            for n, m in near.items()
            if m and m[0] not in self.known
        ]


def _short(file: Any, path: str) -> Iterator[str]:
    """The first lines of a file, none of them huge."""
    for _ in range(1000):
        line = file.readline(CELL)
        if len(line) >= CELL:
            raise InputError(f"{printable(path)}: its first line has more than {CELL:,} characters")
        if not line:
            return
        yield line


class Grid:
    """Every combination of lists of values, the last option's changing fastest, as a table without a file."""

    MOST = 10**7
    wrong = staticmethod(wrong)  # an option may name a file

    def __init__(self, lists: Mapping[str, Sequence[str]]) -> None:
        self.lists, self.path, self.format = lists, "", "grid"
        self.size = 1
        for values in lists.values():
            self.size *= len(values)
        if self.size > self.MOST:
            raise InputError(f"{self.size:,} rows from these lists; at most {self.MOST:,}")
        self.known = {c: c for c in lists}
        self.schema = pa.schema([(c, pa.string()) for c in lists])
        self.names, self.read, self.doubtful = list(lists), 0, list[str]()

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """The rows, in order."""
        for first in range(0, self.size, ROWS):
            row = np.arange(first, min(first + ROWS, self.size))
            arrays, every = [], self.size
            for values in self.lists.values():
                every //= len(values)
                arrays.append(pa.array(values, pa.string()).take(pa.array(row // every % len(values))))
            self.read += len(row)
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def rewind(self) -> None:
        """Start again at the first row."""
        self.read = 0

    def line(self, rows: Sequence[int]) -> dict[int, str]:
        """Rows, counted from 1."""
        return {r: f"row {r + 1:,}" for r in rows}


class Writer:
    """Blocks and their results into an open file, as CSV or Parquet. `wide`: integers are too large for a column of int64."""

    def __init__(self, file: IO[bytes], format_: str, table: Table | Grid, wide: bool) -> None:
        self.file, self.format, self.table, self.wide = file, format_, table, wide
        self.typed = format_ == "parquet" and table.format != "parquet"
        fields = [f if not self.typed or f.name not in self._sizes else f.with_type(pa.int64()) for f in table.schema]
        for name, row in ADDED.items():
            kind = {"integer": pa.float64() if wide else pa.int64(), "number": pa.float64(), "string": pa.string()}[
                row.type
            ]
            fields.append(pa.field(name, pa.string() if row.type == "integer" and format_ == "csv" and wide else kind))
        self.schema = pa.schema(fields)
        if format_ == "csv":
            if nested := [f.name for f in table.schema if pa.types.is_nested(f.type)]:
                raise InputError(f"column {', '.join(nested)}: CSV holds no nested values; write Parquet")
            text = _Text()
            csv.writer(text, lineterminator="\n").writerow(self.schema.names)
            file.write(text.line.encode())
        else:
            repeats = [f.name for f in self.schema if f.name not in ADDED or f.type == pa.string()]
            self.parquet = pa.parquet.ParquetWriter(file, self.schema, use_dictionary=repeats)

    @property
    def _sizes(self) -> set[str]:
        return {n for c, n in self.table.known.items() if c in SIZES}

    def write(self, batch: pa.RecordBatch, results: Results, sizes: Mapping[str, Any]) -> None:
        """A block: the table's own columns, then the added ones; `sizes`: its numbers as they were read."""
        own = list(batch.columns)
        if self.typed:
            for column, name in self.table.known.items():
                if column in SIZES:
                    at = batch.schema.get_field_index(name)
                    own[at] = _integers(sizes[column].values, sizes[column].exact, False, own[at].is_null())
        added = [self._added(name, results) for name in ADDED]
        block = pa.RecordBatch.from_arrays([*own, *added], schema=self.schema)
        if self.format == "parquet":
            self.parquet.write_batch(block)
        else:
            self.file.write(_csv(block))

    def _added(self, name: str, r: Results) -> Any:
        if name in r.exact:
            return _integers(r.numbers[name], r.exact[name], self.wide and self.format == "csv", None, self.wide)
        if name in r.numbers:
            values = r.numbers[name]
            return pa.array(values, mask=np.isnan(values))
        codes, texts = {
            "bound": (r.bound, BINDS),
            "engine_kernel": (r.kernel, r.kernels),
            "note": (r.note, r.notes),
        }[name]
        return pa.array(texts, pa.string()).take(pa.array(codes, mask=codes < 0))

    def close(self) -> None:
        """Finish the file."""
        if self.format == "parquet":
            self.parquet.close()


class _Text:
    line = ""

    def write(self, text: str) -> None:
        self.line += text


def _integers(values: Any, exact: Mapping[int, int], as_text: bool, empty: Any = None, wide: bool = False) -> Any:
    """float64 as integers, the exact ones in their places; Beyond if int64 does not hold one."""
    missing = np.isnan(values)
    if wide and not as_text:
        return pa.array(values, mask=missing)
    if not wide and any(v >= INT64 for v in exact.values()):
        raise Beyond
    plain = np.where(missing | (values >= EXACT), 0, values).astype(np.int64)
    if as_text:
        texts = plain.astype(object)
        for row, v in exact.items():
            texts[row] = v
        return pa.array([None if m else str(t) for m, t in zip(missing, texts)], pa.string())
    for row, v in exact.items():
        plain[row] = v
    return pa.array(plain, mask=missing)


def _csv(block: pa.RecordBatch) -> Any:
    """A block as CSV without its header; quoted where a text needs it."""
    for quoting in ("none", "needed"):
        out = pa.BufferOutputStream()
        try:
            pa.csv.write_csv(block, out, pa.csv.WriteOptions(include_header=False, quoting_style=quoting))
            return out.getvalue()
        except pa.ArrowInvalid:
            if quoting == "needed":
                raise
    return b""
