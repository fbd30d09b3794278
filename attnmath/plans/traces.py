"""Traces: files of requests as servers recorded them, checked as a whole, then read a block at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from attnmath.errors import InputError, nearest, printable, together
from attnmath.plans.queueing import Shape
from attnmath.plans.workload import LONGEST, Requests
from attnmath.sweeping.cells import Problems
from attnmath.sweeping.tables import File

MOST_ROWS = 20_000_000  # more than the longest public trace has; a replay keeps 56 bytes of each
ROWS = 2**16  # of a block of JSON lines
LINE = 2**22  # bytes of one
LATEST = 1e12  # seconds


class Kind(Struct, frozen=True):
    """A kind of trace, known by its columns' names (case, spaces and hyphens do not matter): when a request came, in units of
    `unit_s` seconds or, if None, as dates; tokens of its prompt and of its output.
    """

    name: str
    arrival: str
    unit_s: float | None
    prompt: str
    output: str
    source: str

    @property
    def columns(self) -> tuple[str, str, str]:
        """Their names."""
        return self.arrival, self.prompt, self.output


KINDS = (
    Kind("plain", "arrival_s", 1.0, "prompt_tokens", "output_tokens", "seconds"),
    Kind("plain, milliseconds", "arrival_ms", 1e-3, "prompt_tokens", "output_tokens", "milliseconds"),
    Kind("plain, dates", "arrival", None, "prompt_tokens", "output_tokens", "ISO 8601 dates and times"),
    Kind(
        "Azure LLM inference",
        "timestamp",
        None,
        "contexttokens",
        "generatedtokens",
        "Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.md and 2024.md; Patel et al. 2024, arXiv:2311.18677",
    ),
    Kind(
        "BurstGPT",
        "timestamp",
        1.0,
        "request_tokens",
        "response_tokens",
        "HPMLL/BurstGPT, README.md: seconds from the first day's start; Wang et al. 2024, arXiv:2401.17644",
    ),
    Kind(
        "Mooncake",
        "timestamp",
        1e-3,
        "input_length",
        "output_length",
        "kvcache-ai/Mooncake, FAST25-release/README.md: milliseconds; Qin et al. 2024, arXiv:2407.00079",
    ),
)


class Trace(Struct, frozen=True):
    """A trace that was read once, and found whole.

    `first`: when it begins, in its own unit (nanoseconds for dates); `cv`: the deviation of the times between arrivals over
    their mean, 1 for Poisson's process.
    """

    path: str
    kind: str
    source: str
    requests: int
    duration_s: float
    rate_per_s: float
    cv: float
    shape: Shape
    first: float | int

    def blocks(self) -> Iterator[Requests]:
        """Its requests, in order, in seconds from the first."""
        yield from _Reader(self.path, Problems()).blocks(self.first)


def trace(path: str, progress: Callable[[int, int], None] | None = None) -> Trace:
    """A trace by its file: CSV, Parquet or JSON lines. `progress` is called with how much is read, of how much.

    All of it is read, a block at a time, before anything is done with it. InputError for columns that are not understood, and
    with the line of whatever is no number, negative, out of order, empty or without tokens; of each reason the first.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "trace.csv")
    >>> _ = file.write_text("arrival_s,prompt_tokens,output_tokens\\n10,100,5\\n10.5,200,7\\n12,300,9\\n")
    >>> found = trace(str(file))
    >>> found.kind, found.requests, found.duration_s, found.shape.prompt
    ('plain', 3, 2.0, 200.0)
    >>> [block.arrival_s.tolist() for block in found.blocks()]
    [[0.0, 0.5, 2.0]]
    """
    problems = Problems()
    reader = _Reader(path, problems)
    sums = _Sums()
    for block in reader.blocks(None):
        sums.add(block)
        if progress:
            progress(min(reader.file.read, reader.file.size), reader.file.size)
        if problems.full or sums.count > MOST_ROWS:
            break
    reader.refuse()
    if sums.count > MOST_ROWS:
        raise InputError(f"{printable(path)}: more than {MOST_ROWS:,} requests; cut the trace")
    if not sums.count:
        raise InputError(f"{printable(path)}: the file has no requests")
    return sums.trace(path, reader.kind, reader.first or 0)


class _Sums:
    """What a trace amounts to, block by block."""

    def __init__(self) -> None:
        self.count, self.last = 0, math.nan
        self.powers = np.zeros((3, 2))  # of times between arrivals, prompts, outputs

    def add(self, block: Requests) -> None:
        """Another block."""
        between = np.diff(block.arrival_s, prepend=self.last if self.count else block.arrival_s[:1])
        for row, values in zip(self.powers, (between, block.prompt_tokens, block.output_tokens)):
            row += np.sum(values, dtype=float), np.sum(np.square(values, dtype=float))
        self.count += len(block.arrival_s)
        self.last = float(block.arrival_s[-1]) if len(block.arrival_s) else self.last

    def trace(self, path: str, kind: Kind, first: float | int) -> Trace:
        """All of it."""
        gaps = max(self.count - 1, 1)
        between, prompt, output = (
            (total / n, max(squares * n / total**2 - 1, 0.0) if total else 0.0)
            for (total, squares), n in zip(self.powers.tolist(), (gaps, self.count, self.count))
        )
        rate = 1 / between[0] if between[0] else math.inf
        shape = Shape(prompt[0], output[0], prompt[1], output[1])
        duration = between[0] * gaps
        return Trace(path, kind.name, kind.source, self.count, duration, rate, math.sqrt(between[1]), shape, first)


class _Reader:
    """A file's blocks as requests; what is wrong goes to `problems`, and its rows come out as numbers that are none."""

    def __init__(self, path: str, problems: Problems) -> None:
        lines = os.path.splitext(path)[1].lower() in (".jsonl", ".ndjson")
        self.path, self.problems = path, problems
        self.file: _Lines | _Table = _Lines(path) if lines else _Table(path)
        self.kind, self.names = _kind(path, self.file.names)
        self.first: float | int | None = None
        self.dates, self.zone = self.kind.unit_s is None, None

    def blocks(self, first: float | int | None) -> Iterator[Requests]:
        """The rows, in order; times from `first` on, or from the first row's."""
        self.first, row, last = first, 0, -math.inf
        for batch in self.file.blocks():
            if not batch.num_rows:
                continue
            cells = [batch.column(batch.schema.get_field_index(n)) for n in self.names]
            arrival = self._times(cells[0], row)
            self._bad(
                self.names[0], row, np.diff(arrival, prepend=last) < 0, "comes before the one above it; sort the rows"
            )
            tokens = [self._tokens(n, c, row) for n, c in zip(self.names[1:], cells[1:])]
            row, last = row + batch.num_rows, float(arrival[-1])
            yield Requests(arrival, *tokens)

    def refuse(self) -> None:
        """Say all that was found, by line; nothing if nothing was."""
        found = sorted((at[0], at[1], c, why) for (c, why), at in self.problems.found.items())
        if not found:
            return
        lines = self.file.line(sorted({row for row, *_ in found}))
        errors = [f"{lines[r]}: {printable(c)}: {why}{f' (and {m:,} more)' if m else ''}" for r, m, c, why in found]
        raise InputError(together(errors, f"{printable(self.path)}:"))

    def _bad(self, column: str, row: int, where: Any, why: str) -> None:
        at = np.flatnonzero(where)
        if len(at):
            self.problems.add(row + int(at[0]), column, why, len(at) - 1)

    def _times(self, cells: Any, row: int) -> Any:
        """Seconds since the first row's, as float64; what is none is NaN."""
        if row == 0 and not self.dates:
            self.dates = pa.types.is_timestamp(cells.type) or self._is_date(cells)
        if not self.dates:
            values = self._numbers(self.names[0], cells, row)
            self._bad(self.names[0], row, values < 0, "a negative time")
            self._bad(self.names[0], row, values * (self.kind.unit_s or 1) > LATEST, "a time of more than 10^12 s")
            self.first = float(np.nan_to_num(values[0])) if self.first is None else self.first
            return (values - self.first) * (self.kind.unit_s or 1)
        return self._dates(cells, row)

    def _is_date(self, cells: Any) -> bool:
        text = cells[0].as_py()
        return isinstance(text, str) and len(text.split("-")) >= 3 and text.strip()[:4].isdigit()

    def _dates(self, cells: Any, row: int) -> Any:
        name = self.names[0]
        if not pa.types.is_timestamp(cells.type):
            if not pa.types.is_string(cells.type) and not pa.types.is_large_string(cells.type):
                self._bad(name, row, np.ones(len(cells), bool), f"{cells.type} is no date")
                return np.full(len(cells), np.nan)
            cells = pc.utf8_trim_whitespace(cells)
            zones = pc.struct_field(pc.extract_regex(cells, r"\d(?P<zone>Z|[+-]\d\d:?\d\d)?$"), "zone")
            zones = np.asarray(zones.fill_null("").to_numpy(zero_copy_only=False), dtype=str)
            self.zone = zones[0] if self.zone is None else self.zone
            self._bad(name, row, zones != self.zone, "another time zone than the first row's")
            cells = pc.replace_substring_regex(cells, r"(Z|[+-]\d\d:?\d\d)$", "")
        stamps = self._cast(
            name,
            cells,
            row,
            pa.timestamp("ns", cells.type.tz if pa.types.is_timestamp(cells.type) else None),
            "no date and time",
        )
        values = pc.cast(stamps, pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        self.first = int(values[0]) if self.first is None else self.first  # a difference of integers is exact
        return np.where(stamps.is_null().to_numpy(zero_copy_only=False), np.nan, (values - self.first) * 1e-9)

    def _tokens(self, name: str, cells: Any, row: int) -> Any:
        values = self._numbers(name, cells, row)
        self._bad(name, row, values < 0, "a negative number of tokens")
        self._bad(name, row, values == 0, "no tokens (a request that failed?)")
        self._bad(name, row, values % 1 > 0, "no whole number")
        self._bad(name, row, values > LONGEST, "more than 10^9 tokens")
        return np.nan_to_num(np.clip(values, 0, LONGEST)).astype(np.int64)

    def _numbers(self, name: str, cells: Any, row: int) -> Any:
        if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
            cells = pc.utf8_trim_whitespace(cells)
        found = self._cast(name, cells, row, pa.float64(), "no number")
        values = found.to_numpy(zero_copy_only=False)
        told = found.is_null().to_numpy(zero_copy_only=False)
        self._bad(name, row, ~np.isfinite(values) & ~told, "no number")
        return np.where(np.isfinite(values), values, np.nan)

    def _cast(self, name: str, cells: Any, row: int, kind: Any, why: str) -> Any:
        """Cells as another type; what cannot be is null, and noted."""
        self._bad(name, row, cells.is_null().to_numpy(zero_copy_only=False), "an empty cell")
        try:
            return pc.cast(cells, kind)
        except pa.ArrowException:
            pass
        values, bad = [], np.zeros(len(cells), bool)
        for i, cell in enumerate(cells):
            try:
                values.append(pc.cast(cell, kind).as_py() if cell.is_valid else None)
            except pa.ArrowException:
                values.append(None)
                bad[i] = True
        self._bad(name, row, bad, why)
        return pa.array(values, kind)


def _kind(path: str, names: Sequence[str]) -> tuple[Kind, list[str]]:
    """What a file's columns say that it is, and the three as it names them; InputError with what is missing."""
    own = {n.strip().lower().replace(" ", "_").replace("-", "_"): n for n in reversed(names)}
    for kind in KINDS:
        if own.keys() >= set(kind.columns):
            return kind, [own[c] for c in kind.columns]
    near = max(KINDS, key=lambda k: sum(c in own for c in k.columns))
    missing = [c for c in near.columns if c not in own]
    if len(missing) < 3:
        others = own.keys() - set(near.columns)
        hints = [nearest(c, others, "columns").partition(" The ")[0] for c in missing]
        shown = [f"{c} ({h})" if h.startswith("did") else c for c, h in zip(missing, hints)]
        errors = [
            f"column {c} is missing; a trace like this ({near.name}) has {', '.join(near.columns)}" for c in shown
        ]
    else:
        errors = ["its columns are of no trace that is known; one of these is:"]
        errors += [f"  {k.name}: {', '.join(k.columns)}" for k in KINDS]
    raise InputError(together(errors, f"{printable(path)}:"))


class _Table(File):
    """CSV or Parquet."""

    block_bytes = 2**20

    def __init__(self, path: str) -> None:
        super().__init__(path, "the trace")
        if errors := self._unusable():
            raise InputError(together(errors, f"{printable(path)}:"))


class _Lines:
    """JSON lines, an object each, with the interface of a File."""

    def __init__(self, path: str) -> None:
        self.path, self.read = path, 0
        try:
            self.size = os.path.getsize(path)
            with open(path, "rb") as file:
                head = file.readline(LINE)
        except OSError as error:
            raise InputError(f"{printable(path[:200])}: {error.strerror}") from None
        if not head.strip():
            raise InputError(f"{printable(path)}: the file is empty")
        self.names = list(self._object(head, 1))

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """The rows' three columns, as texts."""
        _, wanted = _kind(self.path, self.names)
        rows: list[tuple[Any, ...]] = []
        with open(self.path, "rb") as file:
            number = 0
            while line := file.readline(LINE):
                number += 1
                self.read += len(line)
                if line.strip():
                    found = self._object(line, number)
                    rows.append(tuple(_text(found.get(n)) for n in wanted))
                if len(rows) == ROWS:
                    yield self._batch(wanted, rows)
                    rows = []
        if rows:
            yield self._batch(wanted, rows)

    def _batch(self, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*rows)], names=list(names))

    def _object(self, line: bytes, number: int) -> Mapping[str, Any]:
        where = f"{printable(self.path)}, line {number:,}"
        if len(line) >= LINE:
            raise InputError(f"{where}: more than {LINE:,} bytes")
        try:
            found = _DECODER.decode(line)
        except (DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: no JSON object: {printable(str(error))[:200]}") from None
        return found

    def line(self, rows: Sequence[int]) -> dict[int, str]:
        """Where rows, counted from 0, stand: their lines."""
        wanted, row = set(rows), -1
        found: dict[int, str] = {}
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                row += bool(line.strip())
                if row in wanted:
                    found.setdefault(row, f"line {number:,}")
                if len(found) == len(wanted):
                    break
        return found


_DECODER = Decoder(dict[str, Any])


def _text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else repr(value)
