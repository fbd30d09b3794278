"""Estimates of what was not fitted: an engine, an accelerator or a set of shapes at a time is left out."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from msgspec.structs import replace

from attnmath.hardware.calibrate import Case, estimate, fit, part
from attnmath.hardware.constants import Book

Estimated = tuple[Case, np.ndarray]
FOLDS = 3


def empty(book: Book) -> Book:
    """The shared constants alone."""
    return replace(book, kernels={}, engines={})


def by_engine(cases: Iterable[Case], book: Book) -> Iterator[Estimated]:
    """Each engine, fitted on the others; a kernel that only it runs has the median constants of its kin."""
    cases = list(cases)
    for engine in sorted({c.engine for c in cases}):
        rest = [c for c in cases if c.engine != engine]
        if rest:
            found = fit(rest, empty(book))
            yield from ((c, estimate(c, found)) for c in cases if c.engine == engine)


def by_gpu(cases: Iterable[Case], book: Book) -> Iterator[Estimated]:
    """Each accelerator, for the kernels that others run, too, fitted on those."""
    cases = list(cases)
    for kernel in sorted({c.kernel for c in cases}):
        gpus = sorted({c.gpu for c in cases if c.kernel == kernel})
        for gpu in gpus if len(gpus) > 1 else ():
            found = fit([c for c in cases if (c.kernel, c.gpu) != (kernel, gpu)], empty(book))
            yield from ((c, estimate(c, found)) for c in cases if (c.kernel, c.gpu) == (kernel, gpu))


def by_shape(cases: Iterable[Case], book: Book, folds: int = FOLDS) -> Iterator[Estimated]:
    """Each set of layers, fitted on the others; which set one is in is a hash of its heads and widths.

    Of a matrix product those of its weights, of a collective the size of the message.
    """
    cases = list(cases)
    sets = [_sets(c, folds) for c in cases]
    for k in range(folds):
        kept, left = ([part(c, (s == k) == out) for c, s in zip(cases, sets)] for out in (False, True))
        found = fit([c for c in kept if len(c.measured_s)], empty(book))
        yield from ((c, estimate(c, found)) for c in left if len(c.measured_s))


def _sets(c: Case, folds: int) -> np.ndarray:
    names = {"gemm": ("n", "k"), "collective": (2,)}.get(c.phase, ("heads", "kv_heads", "head_dim"))
    sizes = np.stack([_sizes(c.shape)[name] for name in names], 1)
    return np.array([zlib.crc32(repr(row.tolist()).encode()) % folds for row in sizes])


def _sizes(shape: Any) -> dict[Any, Any]:
    """A shape's sizes by name, or by place."""
    if isinstance(shape, tuple):
        return dict(enumerate(shape))
    return {f: getattr(shape, f) for f in shape.__struct_fields__}


def thinned(cases: Iterable[Case], most: int) -> list[Case]:
    """Cases of at most so many rows each, drawn with a fixed seed."""
    draw = np.random.default_rng(0)
    return [
        part(c, np.sort(draw.permutation(len(c.measured_s))[:most])) if len(c.measured_s) > most else c for c in cases
    ]
