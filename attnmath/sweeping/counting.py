"""What one kind of row costs, for all of its rows at once: the readings of `cost`, fed with arrays.

A kind is what makes a page: names, and which sizes are given. Sizes are float64, exact below 2^53; arrays of Python's integers
give what is larger. What has no formula for arrays is counted row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import Struct

from attnmath import layers
from attnmath.errors import AttnmathError, InputError, NoSchedule
from attnmath.hardware.estimates import kernel_shape
from attnmath.hardware.timing import Shape
from attnmath.keys import KEYS, UNTIMED, Reading, fitting
from attnmath.language.arith import Number
from attnmath.language.letters import OPTIONS
from attnmath.layers import Layer
from attnmath.readings.memory import bits as bits_of
from attnmath.readings.memory import blocks, caches_tokens, check_blocks, in_bytes
from attnmath.readings.schedules import backward, bound
from attnmath.readings.schedules import parse as schedule_of
from attnmath.request import TRAIN, by_letter, check_trainable, check_useful
from attnmath.sweeping.columns import ENCODER, uses

ONE_BY_ONE = ("i", "tap", "layer", "layers")  # letters that say how a page is walked: a number each, no array


class Kind(Struct, frozen=True):
    """What the rows of a group have in common; `given`: the options that have a value."""

    op: str
    variant: str
    with_: str | None
    phase: str
    form: str | None
    mask: str | None
    schedule: str | None
    dtype: str
    kv_dtype: str | None
    given: tuple[str, ...]

    @property
    def new(self) -> str:
        """The phase as `cost` knows it."""
        return "prefill" if self.phase == ENCODER else self.phase

    @property
    def train(self) -> bool:
        """Whether a backward pass follows."""
        return self.phase == TRAIN


class Counts(Struct, frozen=True):
    """Numbers or arrays: FLOPs of the core, compulsory bytes, and what bounds the time; the kernel's shape, or why it has none.

    None: there is no such number.
    """

    flops: Any
    hbm_bytes: Any
    matmul: Any
    exps: Any
    shape: Shape | None
    why: str = ""


@lru_cache(4096)
def layer_of(kind: Kind) -> Layer:
    """The layer that a kind of row is of; whatever `cost` refuses of its names is refused.

    >>> layer_of(Kind("attention", "gqa", None, "encoder", None, None, None, "bf16", None, ("seq", "heads")))
    <Layer gqa with nothing, full>
    """
    if kind.train:
        check_trainable(TRAIN, None, {"kv-dtype": kind.kv_dtype})
    mask = kind.mask if kind.mask is not None else "full" if kind.phase == ENCODER else None
    layer = layers.build(kind.variant, uses(kind.with_ or ""), mask, "window" in kind.given)
    check_useful(layer, dict.fromkeys(kind.given))
    layer.variant.form(kind.form)
    if kind.kv_dtype is not None and not any(map(caches_tokens, layer.forms.values())):
        raise InputError(
            f"--kv-dtype has no use for {kind.variant}: it caches no tokens, but a state, kept in float32 or as wide as --dtype"
        )
    return layer


@lru_cache(4096)
def walked(kind: Kind) -> tuple[str, ...]:
    """The given options that have to be one number in a group: what says how a page is walked, and what a mask of the
    table's own is made of, since which of a mask's pieces lie in others depends on it.

    >>> walked(Kind("attention", "nsa", None, "prefill", None, None, None, "bf16", None, ("seq", "heads", "block-size")))
    ('block-size',)
    """
    own = set(ONE_BY_ONE)
    mask = layer_of(kind).mask
    if kind.mask is not None and mask is not None:
        own |= set(mask.names) | ({"t", "n"} if mask.name in "&|" and "causal-top-left" in str(mask) else set())
    return tuple(o for o in kind.given if OPTIONS[o] in own)


def count(kind: Kind, given: Mapping[str, Number], form: str | None = None) -> list[tuple[Any, str | None, Counts]]:
    """(which rows, or None for all; the form they are in; what they cost), for each form that some row takes.

    `given`: options, as integers or as arrays. What no form fits is NaN.

    >>> kind = Kind("attention", "gqa", None, "prefill", None, None, None, "bf16", None, ("seq", "heads"))
    >>> ((_, _, found),) = count(kind, {"seq": np.array([1024.0, 8192.0]), "heads": np.array([32.0, 32.0])})
    >>> found.flops.tolist()
    [8699084800.0, 556266160128.0]
    """
    layer = layer_of(kind)
    kv_dtype = kind.kv_dtype or kind.dtype
    form = form or kind.form

    def reading(page_of: str | None, which: Any = None) -> Reading:
        some = {k: v[which] if which is not None and hasattr(v, "dtype") else v for k, v in given.items()}
        page = layer.form(page_of)
        walk = schedule_of(kind.schedule) if kind.schedule is not None else None
        if walk is not None:  # only of training do numbers here depend on it, but it has to fit
            bound(walk, page)
            if kind.train and walk.loops:
                backward(walk)
        sizes, _ = layer.sizes(by_letter(some, kind.new, layer.names), page=page)
        layers.check_documents(layer.mask, sizes)
        past: Any = sizes.get("past")
        if hasattr(past, "dtype") and not past.any():
            sizes["past"] = 0  # where nothing is past, other masks are simple
        return Reading(page, sizes, kind.dtype, kv_dtype, walk, train=kind.train)

    if form is not None or len(layer.forms) == 1:
        return [(None, form, _counts(reading(form)))]
    found, errors = fitting(layer, by_letter(given, kind.new, layer.names), kind.dtype, kv_dtype, kind.train)
    if errors and any(hasattr(v, "dtype") for v in given.values()):
        raise next(iter(errors.values()))  # of some rows: they are told apart
    names = list(found)
    best = _best([(stepwise, _fitting(r, r.flops.total)) for r, stepwise in found.values()])
    if not hasattr(best, "dtype"):
        return [(None, names[best], _counts(reading(names[best])))]
    out: list[tuple[Any, str | None, Counts]] = []
    for at, name in enumerate(names):
        which = np.flatnonzero(best == at)
        if len(which) == len(best):
            return [(None, name, _counts(reading(name)))]
        if len(which):
            out.append((which, name, _counts(reading(name, which))))
    return out


def _best(weights: list[tuple[Any, Any]]) -> Any:
    """Which form a kernel would take: the first of the least, row by row; NaN fits not."""
    if not any(hasattr(x, "dtype") for w in weights for x in w):
        return min(range(len(weights)), key=lambda at: weights[at])
    best: Any = 0
    least_steps: Any = 2
    least: Any = np.inf
    for at, (stepwise, total) in enumerate(weights):
        steps = np.where(total == total, stepwise, 3)
        better = (steps < least_steps) | ((steps == least_steps) & (total < least))
        best = np.where(better, at, best)
        least_steps, least = np.where(better, steps, least_steps), np.where(better, total, least)
    return best


def _fitting(r: Reading, number: Any) -> Any:
    """A number, NaN where some size of the page is."""
    misfit: Any = False
    for v in r.sizes.values():
        if getattr(v, "dtype", None) == np.float64:
            misfit = misfit | (v != v)
    return np.where(misfit, np.nan, number) if np.any(misfit) else number


def _counts(r: Reading) -> Counts:
    if blocks(r.kv_dtype):
        check_blocks(r.caches, r.kv_dtype)
    shape, why = _shape(r)
    try:
        moved, timed = KEYS["hbm_bytes.compulsory"].read(r), bool(r.core.equations)
    except NoSchedule as error:  # of a backward pass that no schedule walks
        moved, timed, why = None, False, str(error)
    sure = [s for s in r.steps if not s.at_most]  # the work that the data may spare is in no bound
    matmul: Number = 0
    for s in sure:
        matmul = matmul + s.flops.matmul
    exps = r.exps if len(sure) == len(r.steps) else 0
    return Counts(_fitting(r, r.flops.core), moved, matmul if timed else None, exps, shape, why)


def _shape(r: Reading) -> tuple[Shape | None, str]:
    """(the sizes that a kernel sees, why there are none)."""
    if r.train:
        return None, UNTIMED
    try:
        return kernel_shape(r), ""
    except InputError as error:
        return None, str(error)


def gemm(kind: Kind, given: Mapping[str, Number]) -> Counts:
    """A matrix product, m x k by k x n: 2mnk, each operand moved once.

    >>> kind = Kind("gemm", "gqa", None, "prefill", None, None, None, "bf16", None, ("m", "n", "k"))
    >>> gemm(kind, {"m": 2, "n": 3, "k": 4}).hbm_bytes
    52
    """
    m, n, k = (given[x] for x in ("m", "n", "k"))
    width = bits_of(kind.dtype)
    moved = in_bytes((m * k) * width) + in_bytes((k * n) * width) + in_bytes((m * n) * width)
    return Counts(2 * m * n * k, moved, 2 * m * n * k, 0, None)


def all_reduce(kind: Kind, given: Mapping[str, Number]) -> Counts:
    """A collective: no arithmetic that counts, and no bytes of the core's.

    >>> kind = Kind("all_reduce", "gqa", None, "prefill", None, None, None, "bf16", None, ("num-gpus", "message-bytes"))
    >>> all_reduce(kind, {"num-gpus": 8, "message-bytes": 4096}).flops
    0
    """
    return Counts(0 * given["message-bytes"], None, None, 0, None)


OTHERS = {"gemm": (("m", "n", "k"), gemm), "all_reduce": (("num-gpus", "message-bytes"), all_reduce)}


@lru_cache(65536)
def one(kind: Kind, sizes: tuple[int, ...]) -> tuple[str | None, Counts] | str:
    """(form, what it costs) of a single row, in integers, or what is wrong with it; `sizes` in the order of `kind.given`.

    >>> kind = Kind("attention", "gqa", None, "prefill", None, None, None, "bf16", None, ("seq", "heads", "kv-heads"))
    >>> one(kind, (8192, 32, 8))[1].flops, one(kind, (8192, 32, 5))[:40]
    (556266160128, '--heads 32, --kv-heads 5: 32 is not divi')
    """
    given = dict(zip(kind.given, sizes))
    try:
        if kind.op in OTHERS:
            return None, OTHERS[kind.op][1](kind, given)
        ((_, form, counts),) = count(kind, given)
        return form, counts
    except AttnmathError as error:
        return str(error)
