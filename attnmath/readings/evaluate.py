"""Run the equations in NumPy: the slow, obvious reading that every other one is tested against.

One evaluator serves two uses: an index is free (all of it at once) or pinned to one value (a recursion, step by step).
Every step's result is checked against the indices that it is declared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attnmath.errors import InputError, LanguageError
from attnmath.language.arith import number
from attnmath.language.masks import Mask
from attnmath.language.ops import OPS
from attnmath.language.order import ordered
from attnmath.language.syntax import (
    Cat,
    Equation,
    Expr,
    Group,
    Index,
    Num,
    Op,
    Part,
    Pos,
    Program,
    Ref,
    Shift,
    letters,
    settled,
    terms,
)

Array = Any  # numpy.ndarray
Named = tuple[tuple[str, ...], Array]  # an array and the letters of its axes


def run(
    program: Program,
    sizes: Mapping[str, Any],
    tensors: Mapping[str, Array],
    past: Mapping[str, Array] | None = None,
    masks: Mapping[tuple[str, str], Named] | None = None,
) -> dict[str, Array]:
    """Every tensor by name.

    `sizes`: the length of each index and the value of each option; `tensors`: the inputs, shaped as the page declares
    them; `past`: tensors of earlier tokens, which an index below zero reads; `masks`: booleans in place of a named mask,
    with the letters of their axes. A query that sees no key gets 0. Raises InputError if a shape contradicts the page.

    >>> from attnmath.language.parse import program
    >>> run(program("Y[t] = A[t m] * B[m]"), {"t": 2, "m": 3}, {"A": np.ones((2, 3)), "B": np.ones(3)})["Y"]
    array([3., 3.])
    """
    machine = _Machine(program, sizes, tensors, past or {}, masks or {})
    for group, loop in ordered(program):
        if loop:
            machine.loop(group, *loop)
        else:
            machine.step(group[0])
    return machine.tensors


class _Machine:
    def __init__(
        self,
        program: Program,
        sizes: Mapping[str, Any],
        tensors: Mapping[str, Array],
        past: Mapping[str, Array],
        masks: Mapping[tuple[str, str], Named],
    ) -> None:
        self.program, self.sizes, self.tensors, self.past = program, sizes, dict(tensors), past
        self.pinned: dict[str, int] = {}
        self.given = masks
        self.masks: dict[tuple[str, str], Mask] = {k: m.build(sizes) for k, m in program.sees.items() if k not in masks}
        floats = [x.dtype for x in self.tensors.values() if x.dtype.kind == "f"]
        self.dtype = np.result_type(*floats) if floats else np.dtype(float)

    # -- lengths and positions

    def size(self, i: Index) -> int:
        if isinstance(i, (Group, Cat)):
            lengths = [self.size(p) for p in i.parts]
            return int(np.prod(lengths)) if isinstance(i, Group) else sum(lengths)
        if isinstance(i, Part):
            return self.size(i.cat.parts[i.i])
        if isinstance(i, Shift):
            return self.size(i.base)
        if isinstance(i, Ref):
            raise LanguageError(f"{i} as an index has no length of its own")
        return sum(int(np.prod([self.sizes[x] for x in d.strip("()").split()])) for d in i.split("|"))

    def span(self, d: str) -> Any:
        return self.pinned.get(d, np.arange(self.size(d)))

    def free(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(d for d in names if d not in self.pinned)

    def along(self, d: str, order: Sequence[str]) -> Any:
        """The values that index d takes, shaped to broadcast over `order`."""
        x = self.span(d)
        return x if d in self.pinned else np.reshape(x, [-1 if o == d else 1 for o in order])

    def offset(self, q: str) -> int:
        return int(self.sizes.get("past", 0)) if q == "t" else 0

    def place(self, i: Index, order: Sequence[str]) -> Any:
        """Which place of an axis an index names; below 0 or beyond the end: none."""
        if isinstance(i, str):
            return self.along(i, order)
        if isinstance(i, Shift):
            move = (
                s
                * (
                    x
                    if isinstance(x, int)
                    else self.sizes[x]
                    if x in self.sizes and x not in letters(i)
                    else self.along(x, order)
                )
                for s, x in i.by
            )
            return self.along(i.base, order) + sum(move)
        if isinstance(i, Part):
            return sum(self.size(p) for p in i.cat.parts[: i.i]) + self.place(i.cat.parts[i.i], order)
        if isinstance(i, Group):
            at: Any = 0
            inside: Any = True
            for k, p in enumerate(i.parts):
                where = self.place(p, order)
                inside = inside & (where >= 0)
                if k:  # the leading digit may be anything that the axis has
                    n = self.size(p)
                    inside, at = inside & (where < n), at * n + where
                else:
                    at = where
            return np.where(inside, at, -1)
        if isinstance(i, Ref):
            return _align(*self.node(i), order).astype(int)
        raise LanguageError(f"{i} cannot be read as a place")

    # -- tensors

    def read(self, r: Ref) -> Named:
        if r.name not in self.tensors:
            raise LanguageError(f"{r} is read before it is given or defined")
        x = self.tensors[r.name]
        names = [i for i in r.index if isinstance(i, str) and i != "last"]
        if len(set(names)) == len(r.index) and not any(d in self.pinned for d in names):
            want = tuple(self.size(i) for i in names)
            if x.shape != want:
                raise InputError(f"{r} has shape {x.shape}; its indices say {want}")
            return tuple(names), x
        order = self.free(letters(r))
        places, ok = [], np.ones((), bool)
        for axis, i in enumerate(r.index):
            where = x.shape[axis] - 1 if i == "last" else self.place(i, order)
            if isinstance(i, Shift) and r.name in self.past:
                old = self.past[r.name]
                if old.shape[:axis] + old.shape[axis + 1 :] != x.shape[:axis] + x.shape[axis + 1 :]:
                    raise InputError(f"the cache of {r.name} has shape {old.shape}, which does not continue {x.shape}")
                where, x = where + old.shape[axis], np.concatenate([old, x], axis)
            ok = ok & (where >= 0) & (where < x.shape[axis])
            places.append(np.clip(where, 0, max(0, x.shape[axis] - 1)))
        shape = [len(self.span(d)) for d in order]
        if not x.size:
            return order, np.zeros(shape, self.dtype)
        picked = x[tuple(np.broadcast_to(p, shape) for p in places)]
        return order, np.where(np.broadcast_to(ok, shape), picked, x.dtype.type(0))

    def weight(self, names: Sequence[str]) -> Named | None:
        """Which pairs among these indices exist, or None where no mask speaks."""
        found = [self.pairs(q, k) for q, k in self.program.sees if q in names and set(k.split()) <= set(names)]
        found += [part for d in names if "|" in d and (part := self.parted(d, names))]
        return _and(found) if found else None

    def parted(self, d: str, names: Sequence[str]) -> Named | None:
        """Existence along an axis of parts `n|(k i)`, each under the masks on its own letters; None if there are none."""
        parts = [tuple(p.strip("()").split()) for p in d.split("|")]
        under = [[(q, k) for q, k in self.program.sees if q in names and set(k.split()) <= set(p)] for p in parts]
        if not any(under):
            return None
        shared = tuple(
            dict.fromkeys(
                x for p, pairs in zip(parts, under) for pair in pairs for x in self.pairs(*pair)[0] if x not in p
            )
        )
        blocks = []
        for p, pairs in zip(parts, under):
            order = (*shared, *p)
            shape = [len(self.span(x)) for x in order]
            w = np.broadcast_to(_align(*_and([self.pairs(*x) for x in pairs]), order) if pairs else True, shape)
            blocks.append(w.reshape(*shape[: len(shared)], int(np.prod(shape[len(shared) :]))))
        return (*shared, d), np.concatenate(blocks, -1)

    def pairs(self, q: str, k: str) -> Named:
        """Existence of the pairs (q, k), where k may be several indices of one axis, `c i`."""
        if (q, k) in self.given:
            return self.given[q, k]
        ks = tuple(k.split())
        order = self.free((q, *ks))
        i = self.along(q, order) + self.offset(q)
        j = self.place(Group(ks), order) if len(ks) > 1 else self.along(k, order)
        return order, np.broadcast_to(self.masks[q, k].dense(i, j), [len(self.span(x)) for x in order])

    # -- expressions

    def node(self, x: Expr) -> Named:
        if isinstance(x, Num):
            return (), np.pi if x.value == "pi" else number(x, self.sizes)
        if isinstance(x, Pos):
            return self.free((x.dim,)), self.span(x.dim) + self.offset(x.dim)
        if isinstance(x, Ref):
            return self.read(x)
        args = [self.node(a) for a in x.args]
        order = tuple(dict.fromkeys(d for names, _ in args for d in names))
        row = OPS[x.name]
        with np.errstate(all="ignore"):
            if not row.along:
                y = row.run(np, *(_align(*a, order) for a in args))
                return order, y if order else float(y)  # a plain number takes the arrays' precision
            return self.reduced(x, args, order)

    def reduced(self, x: Op, args: list[Named], order: tuple[str, ...]) -> Named:
        row = OPS[x.name]
        if len(x.over) > 1 and row.along == "keep":
            raise LanguageError(f"`{x}` runs along {len(x.over)} indices at once, which is not built yet")
        w = self.weight(letters(x.args[0]))
        y: Array = None
        for d in x.over[:1] if row.along == "swap" else x.over:
            if d not in order:
                raise LanguageError(f"`{x}` runs along {d}, which `{x.args[0]}` does not have")
            axis, xs = order.index(d), [_align(*a, order) for a in args]
            weights = _align(*w, order) if w else np.ones((), bool)
            weights = np.broadcast_to(weights, np.broadcast_shapes(xs[0].shape, weights.shape))
            slots = (self.size(x.over[1]),) if row.along == "swap" else ()
            y = row.run(np, xs, axis, weights, *slots)
            order = order if row.along == "keep" else (*order[:axis], *x.over[1:][: len(slots)], *order[axis + 1 :])
            args, w = [(order, y)], None
        return order, y

    def value(self, x: Expr, left: tuple[str, ...]) -> Array:
        """Einstein's rule: every term sums over what the left does not name."""
        keep = self.free(left)
        total: Array = 0
        for sign, num, den in terms(x):
            total = total + sign * self.term(num, den, left, keep)
        return np.broadcast_to(total, [len(self.span(d)) for d in keep])

    def term(self, num: tuple[Expr, ...], den: tuple[Expr, ...], left: tuple[str, ...], keep: tuple[str, ...]) -> Array:
        found = tuple(dict.fromkeys([*(d for f in (*num, *den) for d in letters(f)), *left]))
        parts, w = [self.node(f) for f in num], self.weight(found)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts += [(o, _within(w, o, 1.0 / v)) for o, v in map(self.node, den)]
        scale = 1.0
        for o, v in parts:
            scale = scale if o else scale * float(v)
        parts = [p for p in parts if p[0]]
        if w is not None:  # what does not exist is 0
            parts = [
                (o, np.where(_align(*w, o), v, np.zeros((), v.dtype)) if set(w[0]) <= set(o) else v) for o, v in parts
            ]
            if not any(set(w[0]) <= set(o) for o, _ in parts):
                parts.append((w[0], w[1].astype(self.dtype)))
        if not parts:
            return scale
        ids = {d: n for n, d in enumerate(dict.fromkeys([*keep, *(d for o, _ in parts for d in o)]))}
        have = [d for d in keep if any(d in o for o, _ in parts)]
        operands: list[Any] = [z for o, v in parts for z in (v, [ids[d] for d in o])]
        y = np.einsum(*operands, [ids[d] for d in have], optimize=len(parts) > 1)
        return scale * _align(tuple(have), np.asarray(y), keep)

    # -- equations

    def step(self, e: Equation) -> None:
        parts = settled(e)
        plain = len(parts) == 1 and all(isinstance(i, str) and i != "last" for i in parts[0][0]) and not self.pinned
        want = self.shape(e.out.name, parts[0][0])
        if plain:
            y = np.array(self.value(parts[0][1], letters(Ref("", parts[0][0]))), self.dtype)
            if y.shape != want:
                raise LanguageError(f"`{e}` gave shape {y.shape}; its indices say {want}")
            self.tensors[e.out.name] = y
            return
        if e.out.name not in self.tensors or not self.pinned:
            self.tensors[e.out.name] = np.zeros(want, self.dtype)
        for index, x in parts:
            order = tuple(dict.fromkeys(d for i in index for d in letters(i)))
            self.write(e.out.name, index, self.value(x, order), self.free(order))

    def shape(self, name: str, index: tuple[Index, ...]) -> tuple[int, ...]:
        """The lengths of a tensor's axes: those of its named dimensions, where its equation writes them otherwise."""
        return tuple(self.size(i.cat if isinstance(i, Part) else i) for i in self.program.dims.get(name, index))

    def write(self, name: str, index: tuple[Index, ...], y: Array, order: tuple[str, ...]) -> None:
        """Reading's dual: places outside are dropped, places named twice add up."""
        out = self.tensors[name]
        places = [
            np.broadcast_to(n - 1 if i == "last" else self.place(i, order), y.shape) for i, n in zip(index, out.shape)
        ]
        ok = np.ones(y.shape, bool)
        for p, n in zip(places, out.shape):
            ok = ok & (p >= 0) & (p < n)
        np.add.at(out, tuple(p[ok] for p in places), y[ok])

    def loop(self, group: list[Equation], index: str, way: int) -> None:
        for e in group:
            self.tensors[e.out.name] = np.zeros(self.shape(e.out.name, e.out.index), self.dtype)
        for at in range(self.size(index))[::way]:
            self.pinned = {index: at}
            for e in group:
                self.step(e)
        self.pinned = {}


def _and(found: Sequence[Named]) -> Named:
    """Booleans that must all hold."""
    order = tuple(dict.fromkeys(d for o, _ in found for d in o))
    out = np.ones((), bool)
    for o, w in found:
        out = out & _align(o, w, order)
    return order, out


def _within(w: Named | None, order: tuple[str, ...], x: Array) -> Array:
    """A reciprocal by some letters of a mask, 0 where it belongs to no pair that exists: of nothing it may be infinite."""
    if w is None or not 0 < len(set(w[0]) & set(order)) < len(w[0]):
        return x
    rest = tuple(axis for axis, d in enumerate(w[0]) if d not in order)
    some = _align(tuple(d for d in w[0] if d in order), w[1].any(rest), order)
    return np.where(some, x, np.zeros((), x.dtype))


def _align(order: tuple[str, ...], x: Any, want: Sequence[str]) -> Array:
    """Transpose and pad x[order] so that it broadcasts over `want`."""
    x = np.asarray(x) if order else x
    if not order:
        return x if not isinstance(x, np.ndarray) or x.ndim == 0 else x.reshape(())
    have = [d for d in want if d in order]
    x = np.transpose(x, [order.index(d) for d in have])
    return x.reshape([x.shape[have.index(d)] if d in have else 1 for d in want])
