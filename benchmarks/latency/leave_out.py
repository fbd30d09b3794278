"""Estimates of what was not fitted: an engine, an accelerator or a set of shapes at a time is left out."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

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
    """Each engine, fitted on the others; a kernel that only it runs has the median constants of the other kernels."""
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
    """Each set of head counts and widths, fitted on the others; which set a layer is in is a hash of its heads."""
    cases = list(cases)
    sets = [_sets(c, folds) for c in cases]
    for k in range(folds):
        kept, left = ([part(c, (s == k) == out) for c, s in zip(cases, sets)] for out in (False, True))
        found = fit([c for c in kept if len(c.measured_s)], empty(book))
        yield from ((c, estimate(c, found)) for c in left if len(c.measured_s))


def _sets(c: Case, folds: int) -> np.ndarray:
    heads = np.stack([c.shape.heads, c.shape.kv_heads, c.shape.head_dim], 1)
    return np.array([zlib.crc32(repr(row.tolist()).encode()) % folds for row in heads])


def thinned(cases: Iterable[Case], most: int) -> list[Case]:
    """Cases of at most so many rows each, drawn with a fixed seed."""
    draw = np.random.default_rng(0)
    return [
        part(c, np.sort(draw.permutation(len(c.measured_s))[:most])) if len(c.measured_s) > most else c for c in cases
    ]
