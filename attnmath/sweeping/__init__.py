"""`sweep`: many shapes at once, a row each, from a table or a grid of options to CSV or Parquet.

The numbers are those of `cost`, read off the same pages with arrays instead of integers; memory is bounded by a block of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING

from attnmath.errors import InputError, together

if TYPE_CHECKING:
    from concurrent.futures import Future

    from pyarrow import RecordBatch

    from attnmath.sweeping.cells import Block, Problems
    from attnmath.sweeping.rows import Results
    from attnmath.sweeping.tables import Grid, Table

THREADS = 2


def sweep(
    table: Table | Grid,
    file: IO[bytes],
    format_: str,
    options: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Every row of a table with its numbers, written to a file as `csv` or `parquet`; the number of rows.

    `options`: what stands in for missing columns and empty cells, texts by column. `progress` is told how much of the
    table's `size` is done. InputError names every bad row's line and column; what was written until then is of no use.

    >>> import io
    >>> from attnmath.sweeping.tables import Grid
    >>> out = io.BytesIO()
    >>> sweep(Grid({"seq": ["1k", "8k"], "heads": ["32"], "kv_heads": ["8"]}), out, "csv")
    2
    >>> print(out.getvalue().decode().splitlines()[2])
    8k,32,8,556266160128,167772160,,,,,,,
    """
    from attnmath.sweeping.cells import Problems
    from attnmath.sweeping.tables import Beyond, Writer

    given = dict(options or {})
    texts_checked(given)
    for wide in (False, True):
        file.seek(0)
        file.truncate()
        writer, rows, problems = Writer(file, format_, table, wide), 0, Problems()
        try:
            for batch, block, results in _evaluated(table, given, problems):
                if results is not None:
                    writer.write(batch, results, block.sizes)
                rows += batch.num_rows
                progress(table.read)
        except Beyond:
            table.rewind()
            continue
        finally:
            writer.close()
        if problems.found:
            raise InputError(_told(problems, table))
        return rows
    raise AssertionError("a wide table holds any integer")


def texts_checked(options: Mapping[str, str]) -> None:
    """Refuse options that cannot stand in their columns, all of them at once.

    >>> texts_checked({"gpu": "h100-sxm", "seq": "8k"})
    """
    from attnmath.sweeping.columns import COLUMNS, NAMES, size, wrong

    errors = []
    for column, text in options.items():
        try:
            why = wrong(column, text) if column in NAMES else str(size(column, text)) and ""
        except InputError as error:
            why = str(error)
        errors += [f"--{column.replace('_', '-')}: {why}"] if why else []
    assert set(options) <= set(COLUMNS)
    if errors:
        raise InputError(together(errors))


def _evaluated(
    table: Table | Grid, options: Mapping[str, str], problems: Problems
) -> Iterator[tuple[RecordBatch, Block, Results | None]]:
    """The table's batches in order, each with its arrays and results; None once anything is wrong, and no more when enough is.

    Two threads work on a block each (arithmetic on arrays runs beside anything else) while a third one is read or written.
    """
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    from attnmath.sweeping.cells import Problems, block
    from attnmath.sweeping.rows import evaluate

    def work(batch: RecordBatch, first: int) -> tuple[RecordBatch, Block, Results, Problems]:
        own = Problems()
        rows = block(batch, first, table.known, options, own, table.wrong)
        return batch, rows, evaluate(rows, own), own

    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[tuple[RecordBatch, Block, Results, Problems]]] = deque()
        batches, first, more = table.blocks(), 0, True
        while more or waiting:
            while more and len(waiting) <= THREADS:
                batch = next(batches, None)
                if batch is None:
                    more = False
                    break
                waiting.append(pool.submit(work, batch, first))
                first += batch.num_rows
            if waiting:
                done, rows, results, own = waiting.popleft().result()
                problems.merge(own)
                yield done, rows, None if problems.found else results
                if problems.full:
                    break
        for future in waiting:
            future.cancel()


def _told(problems: Problems, table: Table | Grid) -> str:
    """What is wrong, by line and column, in the order of the lines."""
    from attnmath.sweeping.rows import in_columns

    found = sorted(problems.found.items(), key=lambda item: item[1][0])
    lines = table.line([row for _, (row, _) in found])
    out = []
    for (column, why), (row, more) in found:
        others = f" and {more:,} more like it" if more else ""
        text = (why if column else in_columns(why)).replace("\n  ", "; ")
        out.append(f"{lines[row]}{others}{f', column {table.known.get(column, column)}' if column else ''}: {text}")
    count = len(out)
    return together(
        out,
        f"{table.path or 'the grid'}: {count}{' or more' * problems.full} error{'s' * (count > 1)}, nothing is written",
    )
