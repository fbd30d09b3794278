"""`-o FILE`: the whole file or none, and none that is there already unless it is said so."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import IO

from attnmath.errors import InputError

ENDINGS = {".svg": "svg", ".png": "png", ".pdf": "pdf"}


def figure(path: str) -> str:
    """Which format of a figure the ending of a file says."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise InputError(f"-o {path}: the ending says which picture it is: {', '.join(ENDINGS)}")
    return ENDINGS[ending]


def free(path: str, force: bool) -> None:
    """Refuse what cannot or should not be written, before any work is done."""
    if os.path.isdir(path):
        raise InputError(f"-o {path}: a directory, not a file")
    if os.path.lexists(path) and not force:
        raise InputError(f"-o {path}: the file exists; --force overwrites it")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise InputError(f"-o {path}: there is no directory {os.path.dirname(path)}")


def write(path: str, data: str | bytes, force: bool) -> None:
    """Written beside it under another name, then put in its place."""
    with replacing(path, force) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: str, force: bool) -> Iterator[IO[bytes]]:
    """An open file under another name beside it, which takes its place when the block ends well, and else is gone."""
    target = os.path.realpath(path)
    beside = os.path.join(os.path.dirname(target), f".attnmath-{os.getpid()}.tmp")
    try:
        with open(beside, "xb") as file:
            yield file
        free(path, force)
        if os.path.exists(target):
            shutil.copymode(target, beside)
        os.replace(beside, target)
    except (OSError, ValueError) as error:
        raise InputError(f"-o {path}: cannot write: {getattr(error, 'strerror', None) or error}") from None
    finally:  # after the replacement there is nothing left under that name
        with contextlib.suppress(OSError):
            os.unlink(beside)
