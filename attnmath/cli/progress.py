"""A progress bar on stderr, on a terminal only and for what takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

WAIT_S = 1.0  # before a bar is worth showing


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """What to call with how much is done, of how much."""
    began, shown = time.monotonic(), None

    def progress(done: int, of: int) -> None:
        nonlocal shown
        if shown is None and sys.stderr.isatty() and time.monotonic() - began > WAIT_S:
            shown = click.progressbar(length=of, label=label, file=sys.stderr)
            shown.__enter__()
        if shown is not None:
            shown.update(done - shown.pos)

    try:
        yield progress
    finally:
        if shown is not None:
            shown.__exit__(None, None, None)
