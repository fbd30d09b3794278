"""`attnmath sweep`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from attnmath.cli import output, progress
from attnmath.errors import InputError
from attnmath.language.letters import LETTERS

if TYPE_CHECKING:
    pass

F = TypeVar("F", bound=Callable[..., Any])
NAMES = {  # beside the sizes: what an option is called, and what it says
    "op": "attention, mla, gemm or all_reduce [attention].",
    "variant": "The attention variant [gqa].",
    "phase": "prefill, decode, train (forward and backward), or encoder: prefill under the mask full [prefill].",
    "form": "Which of the variant's equivalent sets of equations [the one that a kernel would take].",
    "mask": "One of `attnmath masks`; no list.",
    "schedule": "In which order and tiles the core is walked: checked, no number here depends on it; no list.",
    "dtype": "How activations are stored and multiplied [bf16].",
    "kv-dtype": "How the cache is stored [--dtype].",
    "gpu": "Accelerators, for a lower bound on time and an estimate.",
    "engine": "Whose kernels run it: vllm, sglang, trtllm, or ideal [vllm].",
    "l2": "cold, or warm: what fits into the L2 is there from the last run [cold].",
}
OTHERS = {
    "m": "Rows of a matrix product's result.",
    "n": "Columns of a matrix product's result.",
    "k": "What a matrix product sums over.",
    "num-gpus": "Accelerators of a collective.",
    "message-bytes": "A collective's buffer: 2097152, 2MiB.",
}
WHOLE = ("mask", "schedule")  # their own text may hold commas


def _options(f: F) -> F:
    """One option per column, each of which takes a list."""
    sizes = {str(r.option): f"{r.meaning[0].upper()}{r.meaning[1:]}." for r in LETTERS.values() if r.option} | OTHERS
    for name, text in reversed({**NAMES, **sizes}.items()):
        own = f"{name.replace('-', '_')}_" if name in ("m", "n", "k") else name.replace("-", "_")
        f = click.option(f"--{name}", own, metavar="A,B,..." if name not in WHOLE else name.upper(), help=text)(f)
    return click.option(
        "--with",
        "with_",
        metavar="NAME[:key=value,...]",
        multiple=True,
        help="A modifier; repeatable, applied in order.",
    )(f)


@click.command("sweep", short_help="Many shapes at once.")
@click.option("--from", "source", metavar="FILE", help="A table of shapes, .csv or .parquet: a row each.")
@click.option("-o", "--output", "path", metavar="FILE", help="Where to: .csv or .parquet, or - [-: CSV on stdout].")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@_options
def command(source: str | None, path: str | None, force: bool, with_: tuple[str, ...], **values: str | None) -> None:
    """Costs, bounds and estimated times of many shapes at once: of every row of a table, or of every combination of the
    options' lists.

    The table's columns have the options' names, with _ for -; they are kept, in order, and flops, hbm_bytes, time_bound_s,
    time_s, kernel_time_s, launch_time_s, bound, engine_kernel and note are added (`attnmath schema sweep`). Beside --from, an
    option stands in for a missing column and for empty cells. A bad row is named with its line and column, and nothing is
    written.

    \b
    attnmath sweep --from shapes.csv -o out.csv
    attnmath sweep --from shapes.parquet -o out.parquet --gpu h100-sxm --engine sglang
    attnmath sweep --seq 1k,8k,64k --heads 32 --kv-heads 8,32 --phase prefill,decode --gpu h100-sxm,b200-sxm
    """
    texts = {k.rstrip("_"): v for k, v in values.items() if v is not None}
    lists = {k: [v] if k in WHOLE else [p.strip() for p in v.split(",")] for k, v in texts.items()}
    lists |= {"with": [" ".join(with_)]} if with_ else {}
    if empty := [k for k, v in lists.items() if not all(v)]:
        raise InputError(f"--{empty[0].replace('_', '-')}: nothing stands between two commas")
    if source is None and not lists:
        raise InputError("give --from FILE, or options with lists: --seq 1k,8k --heads 32")
    if source is not None and (several := [k for k, v in lists.items() if len(v) > 1]):
        raise InputError(f"--{several[0].replace('_', '-')}: beside --from an option takes one value")
    to_stdout = path is None or path == "-"
    if not to_stdout:
        output.free(str(path), force)
    from attnmath.sweeping import sweep
    from attnmath.sweeping.tables import Grid, Table, format_of

    format_ = "csv" if to_stdout else format_of(str(path), "-o")
    table = Table(source) if source is not None else Grid(lists)
    for doubt in table.doubtful:
        click.echo(doubt, err=True)
    options = {k: v[0] for k, v in lists.items()} if source is not None else {}
    with _opened(None if to_stdout else path, force) as file, progress.bar("sweep") as moved:
        rows = sweep(table, file, format_, options, lambda done: moved(done, table.size))
    if not to_stdout:
        click.echo(f"wrote {path}: {rows:,} row{'s' * (rows != 1)}", err=True)


@contextmanager
def _opened(path: str | None, force: bool) -> Iterator[IO[bytes]]:
    """A file beside the one that is asked for; or one whose text goes to stdout in the end."""
    if path is not None:
        with output.replacing(path, force) as file:
            yield file
        return
    import tempfile

    with tempfile.TemporaryFile() as whole:
        yield whole
        whole.seek(0)
        while part := whole.read(2**20):
            click.echo(part, nl=False)
