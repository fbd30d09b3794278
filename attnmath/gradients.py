"""`gradient`: a variant's backward program on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from attnmath import modifiers as mods
from attnmath.errors import InputError, Unknown, together
from attnmath.evaluation import NotThere, Prepared, cached_axis, prepared
from attnmath.language.syntax import Equation, Program, Ref
from attnmath.readings.evaluate import run
from attnmath.readings.gradient import Gradient
from attnmath.readings.gradient import gradient as derived

Array = Any


@dataclass(frozen=True)
class Gradients(Mapping[str, Array]):
    """Gradients by the names of the tensors that they belong to; `cache`: of the rows that the cache brought.

    `tensors`: all that the backward program computed, under its own names (dS, D); `program`: that program.
    """

    of: Mapping[str, Array]
    cache: Mapping[str, Array]
    tensors: Mapping[str, Array]
    program: Program

    def __getitem__(self, name: str) -> Array:
        if name in self.of:
            return self.of[name]
        if name in self.tensors:
            return self.tensors[name]
        raise NotThere(str(Unknown("gradient", str(name), [*self.of, *self.tensors])))

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)


def gradient(
    variant: str,
    tensors: Mapping[str, Array],
    upstream: Mapping[str, Array],
    *,
    wrt: Iterable[str] | None = None,
    mask: str | Array | None = None,
    modifiers: Iterable[str | mods.Use] = (),
    cache: Mapping[str, Array] | None = None,
    form: str | None = None,
    window: int | None = None,
    schedule: str | None = None,
    recompute: str = "none",
    **options: Any,
) -> Gradients:
    """The gradient of the tensors named in `upstream`, each weighed by the array that it comes with, as one number.

    `upstream`: for one or several tensors that are computed ({"O": dO}), the gradient with respect to them, in their
    shape. `wrt`: the tensors, given or computed, whose gradients are wanted; without it, all that are given and that what
    is computed depends on, but for tables. `recompute`: none, selective or full, what the backward program computes again
    instead of reading it, which changes no value. The other arguments are those of `evaluate`, which runs first. What only
    chooses (a selection's places) is a constant. Raises InputError for a tensor that nothing flows to, LanguageError for
    an operation without an adjoint.

    >>> import numpy as np
    >>> q, k, v = np.ones((1, 2, 1, 4)), np.ones((1, 2, 1, 4)), np.arange(8.0).reshape(1, 2, 1, 4)
    >>> gradient("mha", {"Q": q, "K": k, "V": v}, {"O": np.ones((1, 2, 1, 4))})["V"][0, :, 0, 0]
    array([1.5, 0.5])
    """
    p = prepared(variant, tensors, mask, modifiers, cache, form, window, schedule, options)
    ends = _ends(p, upstream)
    if isinstance(wrt, str) or not (wrt is None or isinstance(wrt, Iterable)):
        raise InputError(f"wrt: a list of names is expected, not {wrt!r:.40}")
    asked = None if wrt is None else tuple(wrt)
    if asked == ():
        raise InputError("wrt: at least one name is expected; without it, all that are given")
    found = _derived(p, ends, asked, recompute)
    past = {**p.past, **p.starts}
    values = run(found.forward, p.sizes, p.arrays, past, p.masks)
    seeds = {found.seeds[n]: _fits(n, x, values[n]) for n, x in ends.items()}
    kept = {n: values[n] for n in found.backward.inputs if n in values}
    out = run(found.backward, {**p.sizes, **found.sizes}, {**kept, **seeds}, past, p.masks)
    made = {n: out[n] for n in (*seeds, *found.backward.defined)}
    of = {n: out[c] for n, c in found.cotangents.items()}
    return Gradients(of, {n: out[c] for n, c in found.past.items()}, made, found.backward)


def _ends(p: Prepared, upstream: Mapping[str, Array]) -> dict[str, Array]:
    if not isinstance(upstream, Mapping) or not upstream:
        raise InputError("upstream: a mapping of at least one name to an array is expected, like {'O': dO}")
    errors = []
    for name in upstream:
        if name in p.missing:
            errors.append(f"{name} was not computed: {', '.join(p.missing[name])} not given")
        elif name not in p.program.defined:
            errors.append(
                f"{name} is given" if name in p.arrays else str(Unknown("tensor", str(name), p.program.defined))
            )
    if errors:
        raise InputError(f"upstream: {together(errors)}")
    return dict(upstream)


def _fits(name: str, x: Array, value: Array) -> Array:
    x = np.asarray(x)
    if x.shape != value.shape:
        raise InputError(f"upstream: {name} has shape {value.shape}, its gradient {x.shape}")
    if x.dtype.kind != "f":
        raise InputError(f"upstream: {name} holds {x.dtype}; give float64 or float32")
    return x


def _derived(p: Prepared, ends: Iterable[str], wrt: tuple[str, ...] | None, recompute: str) -> Gradient:
    """The gradient of what is computed; what is given are its inputs, whatever the page says of how they come about."""
    given = (Equation(Ref(n, p.page.tensors[n]), ()) for n in p.arrays)
    program = replace(p.program, equations=(*given, *p.program.equations))
    rows = {n: x.shape[cached_axis(p.page, n)] for n, x in p.past.items()}
    return derived(program, ends, wrt or (), rows, recompute)
