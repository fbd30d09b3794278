"""`evaluate`: a variant on arrays. Sizes are read off the arrays' shapes, and whatever they suffice for is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from attnmath import modifiers as mods
from attnmath.errors import InputError, Unknown, together
from attnmath.language.letters import LETTERS, OPTIONS
from attnmath.language.masks import MaskExpr
from attnmath.language.modify import heads
from attnmath.language.syntax import Program, Ref, Shift, ops, refs
from attnmath.layers import PAIR, Layer, build, check_documents, check_maskable
from attnmath.readings.count import recursive
from attnmath.readings.evaluate import Named, run
from attnmath.readings.memory import TIMES, counts_tokens, grows, reach_back
from attnmath.readings.schedules import parse
from attnmath.readings.streams import blocks, start, stream
from attnmath.request import plain, size_error

Array = Any


class NotThere(InputError, KeyError):
    """A tensor that was not computed, or that no page of this name has."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class Evaluation(Mapping[str, Array]):
    """Every tensor that was given or computed, by name; `cache` is what the next call takes."""

    tensors: Mapping[str, Array]
    cache: Mapping[str, Array]
    missing: Mapping[str, tuple[str, ...]]  # tensors that were not computed, and the inputs that they lack

    def __getitem__(self, name: str) -> Array:
        if name in self.missing:
            raise NotThere(f"{name} was not computed: {', '.join(self.missing[name])} not given")
        if name not in self.tensors:
            raise NotThere(str(Unknown("tensor", str(name), [*self.tensors, *self.missing])))
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def evaluate(
    variant: str,
    tensors: Mapping[str, Array],
    *,
    mask: str | Array | None = None,
    modifiers: Iterable[str | mods.Use] = (),
    cache: Mapping[str, Array] | None = None,
    form: str | None = None,
    window: int | None = None,
    schedule: str | None = None,
    **options: Any,
) -> Evaluation:
    """Compute what the given tensors suffice for: from X and the weights, or from Q, K and V, or from anywhere between.

    `tensors`: arrays by the page's names, laid out as `variant(name).tensors` says (float64 or float32; a tensor that is
    given is not computed). `mask`: a mask's name, or booleans (True: the pair exists) of shape [t n], [b t n] or
    [b h t n], 1 where it repeats. `cache`: the `cache` of the call before; new tokens continue it. `options`: sizes that
    no shape tells, as for `cost` (`block_size=64`, `layer=3`), and `eps`, what norms add under their root. `schedule`: the
    keys go by in its blocks (`flash-2:n=64`); the values are the same, scores come block by block. A query that sees no key
    gives 0. Raises InputError for a shape or a name that does not fit, LanguageError for a page that does not.

    >>> import numpy as np
    >>> q, k, v = np.ones((1, 2, 1, 4)), np.ones((1, 2, 1, 4)), np.arange(8.0).reshape(1, 2, 1, 4)
    >>> evaluate("mha", {"Q": q, "K": k, "V": v})["O"][0, :, 0, 0]
    array([0., 2.])
    """
    p = prepared(variant, tensors, mask, modifiers, cache, form, window, schedule, options)
    out = run(p.program, p.sizes, p.arrays, {**p.past, **p.starts}, p.masks)
    return Evaluation(out, _grown(p.page, out, p.past, p.sizes), p.missing)


@dataclass(frozen=True)
class Prepared:
    """What was asked for, checked: the page, the program that computes what it can, and all that this runs on.

    `starts`: what a schedule's recurrences begin with; `missing`: what cannot be computed, and the inputs that it lacks.
    """

    page: Program
    program: Program
    sizes: Mapping[str, Any]
    arrays: Mapping[str, Array]
    past: Mapping[str, Array]
    masks: Mapping[tuple[str, str], Named]
    starts: Mapping[str, Array]
    missing: Mapping[str, tuple[str, ...]]


def prepared(
    variant: str,
    tensors: Mapping[str, Array],
    mask: str | Array | None,
    modifiers: Iterable[str | mods.Use],
    cache: Mapping[str, Array] | None,
    form: str | None,
    window: int | None,
    schedule: str | None,
    options: Mapping[str, Any],
) -> Prepared:
    """The arguments of `evaluate`, checked against each other; InputError names what does not fit.

    >>> import numpy as np
    >>> x = np.ones((1, 2, 1, 4))
    >>> prepared("mha", {"Q": x, "K": x}, None, (), None, None, None, None, {}).missing["O"]
    ('WV', 'X')
    """
    for what, given in (("tensors", tensors), ("cache", {} if cache is None else cache)):
        if not isinstance(given, Mapping) or not all(isinstance(n, str) for n in given):
            raise InputError(f"{what}: a mapping of names to arrays is expected")
    if modifiers is None or isinstance(modifiers, str):
        raise InputError(f"modifiers: a list of texts is expected, not {modifiers!r:.40}")
    layer = build(variant, modifiers, mask if isinstance(mask, str) else None, window is not None)
    page = layer.form(form)
    if mask is not None and not isinstance(mask, str):  # it says itself which pairs exist, whatever their positions
        check_maskable(layer.variant, "a mask array, --mask and --window")
        page = replace(page, sees={**page.sees, PAIR: MaskExpr("full")})
    arrays = {n: _checked(n, x, page) for n, x in tensors.items()}
    past = {n: _checked(n, x, page) for n, x in (cache or {}).items()}
    program, missing = computable(page, arrays)
    if not any(e.alts for e in program.equations):
        raise InputError(
            f"nothing can be computed from {', '.join(arrays) or 'nothing'}: {variant} needs {', '.join(page.inputs)}"
        )
    sizes = _sizes(layer, page, program, arrays, past, _options(window, options))
    check_documents(layer.mask if isinstance(mask, str) else None, sizes)
    _check_rows(page, past, sizes)
    _check_places(page, arrays, sizes)
    masks = {} if mask is None or isinstance(mask, str) else {PAIR: _mask_array(mask, page, sizes)}
    if masks and (window is not None or any(u.modifier.name == "window" for u in layer.uses)):
        raise InputError("a mask array stands for the whole mask; work the window into it, or name the mask instead")
    if schedule is not None:
        if masks:
            raise InputError("a mask array has no blocks of keys for a schedule; name the mask instead")
        walk = parse(schedule)
        program = stream(program, walk)
        sizes |= blocks(walk, sizes)
    starts = start(program, sizes) if schedule is not None else {}
    return Prepared(page, program, sizes, arrays, past, masks, starts, missing)


def computable(page: Program, have: Iterable[str]) -> tuple[Program, dict[str, tuple[str, ...]]]:
    """(the page without what is given and without what cannot be computed from it, what each of the latter lacks).

    >>> from attnmath import variants
    >>> page, lacking = computable(variants.get("mha").program, ["Q", "K", "V"])
    >>> list(page.defined), lacking["Y"]
    (['S', 'L', 'A', 'O'], ('WO',))
    """
    have = set(have)
    lacking: dict[str, tuple[str, ...]] = {n: (n,) for n in page.inputs if n not in have}
    pending = [e for e in page.equations if e.alts and e.out.name not in have]
    while True:  # what a recursion lacks shows only where it comes round again
        before = len(lacking)
        for e in pending:
            reads = sorted({r.name for a in e.alts for r in refs(a)})
            if lack := tuple(dict.fromkeys(x for n in reads for x in lacking.get(n, ()))):
                lacking[e.out.name] = lack
        if len(lacking) == before:
            break
    return replace(page, equations=tuple(e for e in pending if e.out.name not in lacking)), lacking


def _checked(name: str, x: Array, page: Program) -> Array:
    if name not in page.tensors:
        raise Unknown("tensor", name, page.tensors)
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise InputError(f"{name} is no array: {error}") from None
    if (x.dtype.kind != "f" or x.dtype.itemsize not in (4, 8)) and not (
        x.dtype.kind in "iu" and name in _gathers(page)
    ):
        raise InputError(f"{name} holds {x.dtype}; give float64 or float32")
    if x.ndim != len(page.tensors[name]):
        raise InputError(f"{name} has {x.ndim} dimensions, shape {x.shape}; it is {Ref(name, page.tensors[name])}")
    return x


def _gathers(page: Program) -> set[str]:
    """The tensors of indices, under which others are read."""
    reads = (r for e in page.equations for a in e.alts for r in refs(a))
    return {x.name for r in reads for i in r.index for x in refs(i)}


def _check_places(page: Program, arrays: Mapping[str, Array], sizes: Mapping[str, Any]) -> None:
    """A tensor of indices that is handed in names a place wherever its slot exists."""
    for name in _gathers(page) & set(arrays):
        index = page.tensors[name]
        mask = page.sees.get(("t", str(index[-1])))
        exists = np.ones((sizes["t"], sizes[str(index[-1])]), bool)
        if mask:
            at = np.arange(sizes["t"])[:, None] + sizes.get("past", 0)
            exists = mask.build(sizes).dense(at, np.arange(exists.shape[1])[None])
        shape = [sizes[str(i)] if i in ("t", index[-1]) else 1 for i in index]
        exists = np.broadcast_to(exists.reshape(shape), arrays[name].shape)
        places = np.where(exists, arrays[name], -1 - np.arange(exists.shape[-1]))
        if (exists & ((places < 0) | (places != np.floor(places)))).any():
            raise InputError(
                f"{name}: a slot that exists ({mask or 'every one'}) names no place; give whole numbers from 0"
            )
        if (np.diff(np.sort(places, -1), axis=-1) == 0).any():
            raise InputError(f"{name} chooses a place twice for one query")
        _check_chosen(page, name, places, exists, sizes)


def _check_chosen(page: Program, name: str, places: Array, exists: Array, sizes: Mapping[str, Any]) -> None:
    """What is chosen is among what the query may choose from, as the page's own selection says."""
    chooses = next(
        (o for e in page.equations if e.out.name == name for a in e.alts for o in ops(a) if o.name == "topk"), None
    )
    if chooses is None:
        return
    among, axes = chooses.over[0], [str(i) for i in page.tensors[name]]
    at = np.arange(sizes["t"]).reshape([-1 if i == "t" else 1 for i in axes]) + sizes.get("past", 0)
    seen = page.sees.get(("t", among))
    allowed = (places < sizes[among]) & (seen.build(sizes).dense(at, places.astype(int)) if seen else True)
    if (exists & ~allowed).any():
        raise InputError(
            f"{name} chooses what its query cannot see: t sees {among}: {seen or 'full'}, of {sizes[among]}"
        )


def _check_rows(page: Program, past: Mapping[str, Array], sizes: Mapping[str, Any]) -> None:
    """A cache of blocks has all that were whole before."""
    for name, x in past.items():
        for r in _reads(page, name):
            for k, i in enumerate(r.index):
                if grows(i) and not counts_tokens(i) and x.shape[k] != sizes["done"]:
                    raise InputError(
                        f"the cache of {name} has {x.shape[k]} blocks; "
                        f"{sizes['past']} tokens make {sizes['done']} of {sizes['i']}"
                    )


def _sizes(
    layer: Layer,
    page: Program,
    program: Program,
    arrays: Mapping[str, Array],
    past: Mapping[str, Array],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Every letter's size, given or read off the shapes; contradictions are named."""
    found: dict[str, tuple[int, str]] = {}
    errors: list[str] = []
    for name, x in arrays.items():
        for i, length in zip(page.tensors[name], x.shape):
            if not isinstance(i, str):
                continue
            if length == 0 and i not in ("t", "s", "n"):
                errors.append(f"{i} is 0 in {name}{x.shape}")
            old, who = found.setdefault(i, (length, name))
            if old != length:
                errors.append(f"{i} is {old} in {who}{arrays[who].shape} but {length} in {name}{x.shape}")
    if errors:
        raise InputError(together(errors))
    given: dict[str, Any] = {i: length for i, (length, _) in found.items()}
    before = _past_tokens(page, past, {*arrays, *program.defined})
    new = "s" if any("kept" in p.names for p in layer.forms.values()) else "t"
    offset = {"s": "kept", "t": "past"}[new]
    if new == "s":
        given.setdefault("s", 0 if before else given.get("n", 0))
    if "n" not in given and new in given:
        given["n"] = given[new] + before
    given[offset] = before if past else max(0, given.get("n", 0) - given.get(new, 0))
    if past and not before and "n" in options:
        before = options["n"] - given.get(new, 0)
        given |= {"n": options["n"], offset: before}
    if past and not before and _positions(page):
        raise InputError(
            "this page reads positions, and a cache of states does not say how many tokens came before: give context=N, "
            "the new ones included"
        )
    if past and given.get("n") != given.get(new, 0) + before:
        raise InputError(
            f"a cache of {before} tokens and {given.get(new, 0)} new ones make {given.get(new, 0) + before}, not {given.get('n')}"
        )
    if unused := [i for i in options if i not in layer.letters([page]) and i not in ("eps", "h", "n")]:
        names_ = ", ".join(f"--{LETTERS[i].option}" for i in unused)
        raise InputError(f"{names_} has no use for {layer.variant.name}")
    if "h" in options and {"g", "r"} <= set(given) and given["g"] * given["r"] != options["h"]:
        raise InputError(f"--heads {options['h']}, but the shapes say {given['g'] * given['r']}")
    for i, length in options.items():
        if given.get(i, length) != length:
            raise InputError(
                f"--{LETTERS[i].option} {length}, but {found[i][1]} says {given[i]}"
                if i in found
                else f"{i} is {given[i]}, not {length}"
            )
        given[i] = length
    local = {n: v for n, v in given.items() if n not in LETTERS}
    known = {n: v for n, v in given.items() if n in LETTERS}
    sizes, _ = layer.sizes(known, page=program)
    return {offset: given[offset], **sizes, **{n: v for n, v in local.items() if n not in sizes}}


def _options(window: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes by letter, from options by name; `eps` is what norms add under their root."""
    named = {k.replace("_", "-"): plain(v) for k, v in options.items()} | (
        {} if window is None else {"window": plain(window)}
    )
    if len(named) < len(options) + (window is not None):
        raise InputError("an option is given twice")
    eps = named.pop("eps", None)
    if eps is not None and (isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1):
        raise InputError(f"eps: {eps!r:.40} is no number from 0 to 1")
    errors = [f"--{k}: {why}" for k, v in named.items() if (why := size_error(v, 0 if k == "layer" else 1))]
    errors += [str(Unknown("option", k, OPTIONS)) for k in named if k not in OPTIONS]
    if errors:
        raise InputError(together(errors))
    return {OPTIONS[k]: v for k, v in named.items()} | ({} if eps is None else {"eps": eps})


def _positions(page: Program) -> bool:
    """Whether it matters how many tokens came before: a mask compares positions, or an equation reads them."""
    masked = any(q == "t" and mask.name != "full" for (q, _), mask in page.sees.items())
    return masked or any(f"@{t}" in str(e) for e in page.equations for t in ("t", "n"))


def _past_tokens(page: Program, past: Mapping[str, Array], computed: Iterable[str]) -> int:
    lengths = {}
    states = recursive(page)
    for name, x in past.items():
        lengths[name] = x.shape[cached_axis(page, name)]
    needed = [n for n in page.tensors if any(grows(i) for r in _reads(page, n) for i in r.index)]
    needed += [n for n in page.tensors if n not in needed and n in states and any(_steps_back(page, n))]
    if empty := [n for n in states if n in lengths and not lengths[n]]:
        raise InputError(f"the cached state of {', '.join(empty)} has no row")
    if past and (absent := [n for n in needed if n not in past and n in computed]):
        raise InputError(
            f"the cache lacks {', '.join(absent)}: the page reads {', '.join(needed)} before the new tokens"
        )
    of_tokens = [n for n in needed if any(counts_tokens(i) for r in _reads(page, n) for i in r.index)]
    tokens = {n: k for n, k in lengths.items() if n in of_tokens}
    if len(set(tokens.values())) > 1:
        raise InputError(f"the cached tensors differ in their number of tokens: {tokens}")
    return next(iter(tokens.values()), 0)


def cached_axis(page: Program, name: str) -> int:
    """The axis along which a tensor is read before the new tokens; InputError if there is none.

    >>> from attnmath import variants
    >>> cached_axis(variants.get("mha").program, "k")
    1
    """
    for r in _reads(page, name):
        for k, i in enumerate(r.index):
            if isinstance(i, Shift) and i.base in TIMES:
                return k
    raise InputError(f"nothing reads {name} before the new tokens, so a cache of it has no use")


def _steps_back(page: Program, name: str) -> Iterator[bool]:
    """Whether each read of a tensor reaches back by a number of steps in time."""
    for r in _reads(page, name):
        for i in r.index:
            yield isinstance(i, Shift) and i.base in TIMES and not grows(i)


def _reads(page: Program, name: str) -> list[Ref]:
    return [r for e in page.equations for a in e.alts for r in refs(a) if r.name == name]


def _grown(
    page: Program, out: Mapping[str, Array], past: Mapping[str, Array], sizes: Mapping[str, Any]
) -> dict[str, Array]:
    """The cache after this step: of what is read before the new tokens, as many of the last rows as are read."""
    kept: dict[str, Array] = {}
    for name in page.tensors:
        reads = [(axis, i) for r in _reads(page, name) for axis, i in enumerate(r.index) if isinstance(i, Shift)]
        reads = [(axis, i) for axis, i in reads if i.base in TIMES]
        if not reads or name not in out:
            continue
        axis = reads[0][0]
        rows = np.concatenate([past[name], out[name]], axis) if name in past else out[name]
        if not any(grows(i) for _, i in reads):
            back = max(int(reach_back(i, sizes)) for _, i in reads)
            rows = np.take(rows, range(max(0, rows.shape[axis] - back), rows.shape[axis]), axis)
        kept[name] = rows
    return kept


def _mask_array(mask: Array, page: Program, sizes: Mapping[str, Any]) -> Named:
    """Booleans with the letters of their axes; an axis of length 1 repeats."""
    try:
        x = np.asarray(mask)
    except ValueError as error:
        raise InputError(f"the mask is no array: {error}") from None
    if x.dtype != bool:
        raise InputError(f"a mask array holds booleans (True: the pair exists), not {x.dtype}")
    own = tuple(heads(page).split())
    letters = {2: ("t", "n"), 3: ("b", "t", "n"), 4: ("b", *own, "t", "n")}.get(x.ndim)
    if letters is None:
        raise InputError(f"a mask array has the dimensions [t n], [b t n] or [b h t n], not shape {x.shape}")
    if x.ndim == 4:
        lengths = [sizes[d] for d in own] if x.shape[1] != 1 else [1] * len(own)
        if int(np.prod(lengths)) != x.shape[1]:
            raise InputError(f"the mask has {x.shape[1]} heads; there are {int(np.prod(lengths))}")
        x = x.reshape(x.shape[0], *lengths, *x.shape[2:])
    for axis in reversed(range(x.ndim)):
        if x.shape[axis] == 1 and sizes[letters[axis]] != 1:
            x, letters = x.take(0, axis), letters[:axis] + letters[axis + 1 :]
    want = tuple(int(sizes[d]) for d in letters)
    if x.shape != want:
        raise InputError(f"the mask has shape {np.shape(mask)}; {' '.join(letters)} are {want}")
    return letters, x
