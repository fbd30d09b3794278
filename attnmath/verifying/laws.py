"""The table of laws: what has to hold of every page, block and mask there is.

A law takes a case and randomness of its own, and yields what it compared: each `Compared` holds or does not. What a law has
nothing to say about (a page with one form, where forms should agree) yields nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import numpy as np
from msgspec import Struct

from attnmath import derivations, evaluation
from attnmath.errors import InputError, LanguageError, NoClosedForm, NoSchedule
from attnmath.keys import KEYS, Reading
from attnmath.language.formula import Point
from attnmath.language.letters import LETTERS
from attnmath.language.masks import build_text
from attnmath.language.modify import heads
from attnmath.language.parse import program
from attnmath.language.syntax import Program
from attnmath.language.tiles import Grid
from attnmath.readings import evaluate as evaluating
from attnmath.readings import streams
from attnmath.readings.count import Flops, count, parameters, total
from attnmath.readings.gradient import gradient
from attnmath.readings.memory import Core, caches
from attnmath.readings.schedules import SCHEDULES, parse, region
from attnmath.readings.text import latex_lines, lines
from attnmath.readings.traffic import Traffic
from attnmath.readings.training import Training
from attnmath.verifying import judge
from attnmath.verifying.cases import Array, Case, Graded, MaskCase, PageCase, arrays, graded, sliced, walked
from attnmath.verifying.cases import table as judged
from attnmath.verifying.loops import LoopWalk, allowed, cut
from attnmath.verifying.pushing import Pushing

NUMERIC = 1e-10  # of float64, for values of about 1; relative for larger ones


class Compared(Struct, frozen=True):
    """One comparison: of what, whether it holds, the largest error where it is one of floats, and both sides where not."""

    what: str
    holds: bool
    error: float | None = None
    got: str = ""
    want: str = ""


def same(what: str, got: Any, want: Any) -> Compared:
    """Two numbers, exactly.

    >>> same("FLOPs", 3, 4)
    Compared(what='FLOPs', holds=False, error=None, got='3', want='4')
    """
    holds = bool(got == want)
    return Compared(what, holds, None, "" if holds else str(got), "" if holds else str(want))


def near(what: str, got: Array, want: Array, tolerance: float = NUMERIC) -> Compared:
    """Two arrays, up to rounding; the error is relative where the largest value is above 1.

    >>> near("Y", np.ones(3), np.ones(3) + 1e-13).holds, near("Y", np.ones(3), np.zeros(3)).error
    (True, 1.0)
    """
    got, want = np.asarray(got, float), np.asarray(want, float)
    if got.shape != want.shape:
        return Compared(what, False, None, f"shape {got.shape}", f"shape {want.shape}")
    equal = (got == want) | (np.isnan(got) & np.isnan(want))
    finite = np.abs(want[np.isfinite(want)])
    with np.errstate(invalid="ignore"):
        off = np.where(equal, 0.0, np.abs(got - want)) / max(1.0, float(finite.max(initial=0.0)))
    off = np.where(np.isfinite(off), off, np.inf)
    error = float(off.max(initial=0.0))
    if error <= tolerance:
        return Compared(what, True, error)
    at = np.unravel_index(int(off.argmax()), off.shape)
    place = f" at [{' '.join(map(str, at))}]"
    return Compared(what, False, error if np.isfinite(error) else None, f"{got[at]!r:.40}{place}", f"{want[at]!r:.40}")


class Law(Struct, frozen=True):
    """What has to hold, in a sentence; `check` compares; `of`: the kinds of cases it is about; `every`: of how many cases
    one is tried, where trying takes long.
    """

    says: str
    check: Callable[[Any, Random], Iterator[Compared]]
    of: tuple[str, ...] = ("variant", "modifier")
    every: int = 1


# -- against the judge


def values(case: Case, rng: Random) -> Iterator[Compared]:
    """Every tensor, element by element.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in values(draw("variant", "gqa", 1), Random(1)))
    True
    """
    _, out, want = case.walked
    for name, cells in want.items():
        yield near(str(case.page.defined[name]), out[name], np.array(list(cells.values())).reshape(out[name].shape))


def counts(case: Case, rng: Random) -> Iterator[Compared]:
    """FLOPs and exponentials of each equation and in all, and what is learned.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in counts(draw("variant", "gqa", 1), Random(1)))
    True
    """
    walk, _, _ = case.walked
    steps, spared = count(case.page, case.sizes), walk.spared
    for step in steps:  # a row that the data leave nothing of is spared four operations and one exponential an element
        yield same(f"FLOPs of {step.equation}", step.flops.total, walk.cost[step.name] + 4 * spared[step.name])
        yield same(f"exponentials of {step.equation}", step.exps, walk.exps[step.name] + spared[step.name])
        yield same(f"{step.equation} is counted from above", step.at_most or not spared[step.name], True)
    yield same("FLOPs in all", total(steps).total, sum(walk.cost.values()) + 4 * sum(spared.values()))
    learned = sum(x.size for n, x in case.arrays[0].items() if n[0] in "WB")
    yield same("parameters", parameters(case.page, case.sizes), learned)


def categories(case: Case, rng: Random) -> Iterator[Compared]:
    """Where an equation's FLOPs belong, read off its factors; pages of one softmax over keys.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in categories(draw("variant", "gqa", 1), Random(1)))
    True
    """
    if not plain(case.page):
        return
    for step in count(case.page, case.sizes):
        if kind := judge.category(str(step.equation)):
            want = Flops(**{kind: step.flops.total})
            yield same(f"FLOPs by category of {step.equation}", step.flops, want)


def plain(page: Program) -> bool:
    """Whether a page is one softmax over keys under one mask: nothing chosen, no recursion, no blocks.

    >>> from attnmath import variants
    >>> [plain(variants.get(n).program) for n in ("gqa", "mla", "nsa", "kda")]
    [True, True, False, False]
    """
    try:
        return region(page).softmax is not None and list(page.sees) == [("t", "n")]
    except NoSchedule:
        return False


def compulsory(case: Case, rng: Random) -> Iterator[Compared]:
    """Bytes of inputs and outputs of the core: the elements that the judge reads, and all that it writes.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in compulsory(draw("variant", "gqa", 1), Random(1)))
    True
    """
    if not plain(case.page):
        return
    inside = Core(case.page, case.sizes, "bf16", "bf16")
    walk, out, _ = walked(case.page, case.sizes, case.seed, set(inside.outputs), inside.inputs)
    keys = {n: len(walk.touched[n]) for n in inside.inputs if "n" in case.page.tensors[n]}
    for n, touched in keys.items():
        yield same(f"bytes of {n} that are read", inside.bytes([n]), 2 * touched)
    rest = sum(2 * out[n].size for n in (*inside.inputs, *inside.outputs) if n not in keys)
    yield same("compulsory bytes", inside.compulsory, rest + 2 * sum(keys.values()))


def unfused(case: Case, rng: Random) -> Iterator[Compared]:
    """What the core's equations move and hold one by one, read off the page's text; not where pairs are handed in.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in unfused(draw("variant", "gqa", 1), Random(1)))
    True
    """
    if not plain(case.page) or any({"t", "n"} <= set(case.page.tensors[n]) for n in case.page.inputs):
        return
    inside = Core(case.page, case.sizes, "bf16", "fp8")
    given = {n: [str(i) for i in r.index] for n, r in case.page.inputs.items()}
    moved, peak = judge.unfused(str(case.page), case.sizes, given, 2, 1)
    yield same("bytes moved, unfused", inside.unfused, moved)
    yield same("peak of live bytes, unfused", inside.peak, peak)


def remembered(case: Case, rng: Random) -> Iterator[Compared]:
    """One new token: what the judge reads of the past is what is counted as cache and as state.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in remembered(draw("variant", "sliding-window", 1), Random(1)))
    True
    """
    n = case.sizes.get("n", 0)
    if "past" not in case.layer.names or "kept" in case.layer.names or n < 2:
        return
    try:
        step = case.at(t=1, n=n)
    except InputError:  # a chunk of several tokens is no step
        return
    walk, _, _ = walked(step.page, step.sizes, step.seed, {step.page.output})
    found = caches(step.page, step.sizes)
    yield same("what is remembered", sorted(walk.recalled), sorted(c.tensor for c in found if walk.recalled[c.tensor]))
    for c in found:
        read, kept = len(walk.recalled[c.tensor]), step.sizes["b"] * c.per_row
        if c.rows is None:
            yield same(f"numbers in the state of {c.tensor}", kept, read)
        elif plain(step.page) and not re.search("chunked|dilated|documents|top-left", str(step.layer.mask)):
            rows = c.rows - judge.sees(
                str(step.layer.mask), n - 1, n - 1, step.sizes
            )  # the newest row is the new token's
            yield same(f"numbers of {c.tensor} that are read of the cache", kept * rows, read)
        else:
            what = f"of the {kept * c.rows} numbers of {c.tensor} that are cached, {read} are read"
            yield Compared(what, read <= kept * c.rows)


# -- one reading against another


def formulas(case: Case, rng: Random) -> Iterator[Compared]:
    """Each number's formula, as it is printed, read by the judge: the number itself, under conditions that hold there; and
    at other sizes again, where its conditions hold there too.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in formulas(draw("variant", "gqa", 1), Random(1)))
    True
    """
    layer, sizes = case.layer, case.sizes
    dtype, kv_dtype = rng.choice(("bf16", "fp8", "fp32")), rng.choice(("bf16", "fp8", "int4"))
    symbols = _symbols(case)
    integers = Reading(case.page, sizes, dtype, kv_dtype)
    lettered = Reading(case.page, symbols, dtype, kv_dtype)
    more = {"t": sizes.get("t", 1) + rng.randint(0, 4)} | (
        {"n": sizes["n"] + rng.randint(4, 8)} if "n" in sizes else {}
    )
    try:
        there = Reading(case.page, layer.sizes(_given(case, more))[0], dtype, kv_dtype)
        _ = there.flops
    except InputError:  # a chunk does not divide these sizes
        there = None
    for key, row in KEYS.items():
        want = row.read(integers)
        if want is None:
            continue
        try:
            formula = row.read(lettered)
        except NoClosedForm:  # which keys a dilated mask sees, which tiles chunks leave: a count, and no formula
            fused = key.endswith(".fused") and re.search("chunked|documents", str(layer.mask))
            yield Compared(f"{key} has a formula", bool(fused) or "dilated" in str(layer.mask))
            continue
        yield _rounded(f"{key} = {formula}", judge.number(str(formula), _plain(sizes)), want, key, kv_dtype)
        conditions = getattr(formula, "conditions", ())
        for text in conditions:
            yield Compared(f"{key}: {text}", bool(judge.number(text, _plain(sizes))))
        if there is not None and all(judge.number(text, _plain(there.sizes)) for text in conditions):
            got = judge.number(str(formula), _plain(there.sizes))
            at = ", ".join(f"{k} = {v}" for k, v in more.items())
            yield _rounded(f"{key} = {formula} at {at}", got, row.read(there), key, kv_dtype)


def _symbols(case: Case) -> Mapping[str, Any]:
    """The case's sizes as symbols that know their values; a context that is not given is the new tokens."""
    at = Point({}, {"n": "t"} if "past" in case.layer.names else {})
    return case.layer.sizes(_given(case), at.symbol)[0]


def _given(case: Case, more: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What an option sets, but for what a modifier brings along."""
    known = {**case.sizes, **(more or {})}
    options = {k: v for k, v in known.items() if k in LETTERS and LETTERS[k].option and k not in case.layer.local}
    return options | ({"kept": "n"} if known.get("kept") else {})


def _plain(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {k: getattr(v, "value", v) for k, v in sizes.items()}


def _rounded(what: str, got: Any, want: Any, key: str, kv_dtype: str) -> Compared:
    """Equal; but four-bit numbers, and blocks shared among tokens, are rounded up to whole bytes tensor by tensor."""
    loose = kv_dtype == "int4" or key.startswith("kv_cache_bytes_per_token")
    return Compared(what, True) if loose and 0 <= want - got < 8 else same(what, got, want)


def numbers(case: Case, rng: Random) -> Iterator[Compared]:
    """float64 arrays of sizes, as a sweep counts with them, against integers one by one.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in numbers(draw("variant", "gqa", 1), Random(1)))
    True
    """
    many = {"b": [1, 2, 7], "m": [3, 8, 1]}
    if "past" in case.layer.names and "c" not in case.page.names and rng.random() < 0.7:
        extra = case.sizes["n"] - case.sizes["t"]
        many |= {"t": [1, 4, 6], "n": [1 + extra, 4 + extra, 6 + extra], "past": [extra] * 3}
    many = {k: v for k, v in many.items() if k in case.sizes and k not in case.layer.local}
    swept = {**case.sizes, **{k: np.array(v, float) for k, v in many.items()}}
    rows = [{**case.sizes, **{k: v[i] for k, v in many.items()}} for i in range(3)]
    if any(k in case.page.names for k in ("o", "f", "done")):  # these follow from how many tokens there are
        swept, rows = (
            swept | {k: case.sizes[k] for k in ("t", "n", "past") if k in case.sizes},
            [{**row, **{k: case.sizes[k] for k in ("t", "n", "past") if k in case.sizes}} for row in rows],
        )
    array = Reading(case.page, swept, "bf16", "bf16")
    single = [Reading(case.page, row, "bf16", "bf16") for row in rows]
    for key, row in KEYS.items():
        try:
            got = row.read(array)
        except NoClosedForm:
            continue
        want = [row.read(one) for one in single]
        if got is not None:
            shown = np.broadcast_to(np.asarray(got, float), 3).tolist()
            yield same(f"{key} of arrays", shown, want)


def symbols(case: Case, rng: Random) -> Iterator[Compared]:
    """One key's SymPy expression, its letters' values put in, against the number.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in symbols(draw("variant", "mqa", 1), Random(1)))
    True
    """
    import sympy as sp

    key = rng.choice(
        sorted(k for k, row in KEYS.items() if row.read(Reading(case.page, case.sizes, "bf16", "bf16")) is not None)
    )
    names = {k: sp.Symbol(k, integer=True, positive=True) for k in LETTERS}
    lifted, _ = case.layer.sizes(_given(case), lambda letter, value: names[letter])
    try:
        found = KEYS[key].read(Reading(case.page, lifted, "bf16", "bf16", at=case.sizes))
    except NoClosedForm:
        return
    values_ = {names[k]: v for k, v in case.sizes.items() if k in names}
    got = sp.sympify(found).subs(values_)
    want = KEYS[key].read(Reading(case.page, case.sizes, "bf16", "bf16"))
    yield _rounded(f"{key} = {found}", got, want, key, "bf16")


def forms(case: Case, rng: Random) -> Iterator[Compared]:
    """Every form of a page on the same inputs.

    >>> from attnmath.verifying.cases import draw
    >>> [c.holds for c in forms(draw("variant", "mla", 1), Random(1))]
    [True]
    """
    pages = case.layer.forms
    inputs: dict[str, Array] = {}
    past: dict[str, tuple[int, Array]] = {}
    olds = []
    for page in pages.values():
        more, old = arrays(page, case.sizes, case.seed)
        inputs, past = more | inputs, old | past
        olds.append(set(old))
    # a state and the keys that it sums up are two caches of one past: random ones would not agree
    handed = {n: x for n, (_, x) in past.items()} if all(names == olds[0] for names in olds) else {}
    out = {
        name: evaluating.run(p, case.sizes, {n: x for n, x in inputs.items() if n in p.inputs}, handed)[p.output]
        for name, p in pages.items()
    }
    first = next(iter(pages))
    for name in pages:
        if name != first:
            yield near(f"{pages[name].output} in the form {name} and in the form {first}", out[name], out[first])


def decoding(case: Case, rng: Random) -> Iterator[Compared]:
    """Eight tokens at once, and in steps that hand the cache on; under masks that look back alone.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in decoding(draw("variant", "mqa", 1), Random(1)))
    True
    """
    joined = any(
        not isinstance(i, str) for n in case.page.inputs for i in case.page.tensors[n]
    )  # no step has its share
    if "kept" in case.layer.names or joined or not _looks_back(case):
        return
    name, chunked = case.layer.variant.name, "c" in case.page.names
    sizes = case.at(t=8, n=8, i=2).sizes if "i" not in case.layer.local else case.at(t=8, n=8).sizes
    page, inputs = case.page, arrays(case.page, sizes, case.seed)[0]
    inputs |= {n: (x > 0) * 1.0 for n, x in inputs.items() if n == "doc"}
    told: dict[str, Any] = {
        str(LETTERS[n].option).replace("-", "_"): sizes[n] for n in page.names if n in ("i", "k", "layer", "layers")
    }
    told |= {"window": sizes["w"]} if "w" in page.names and "w" not in case.layer.local else {}
    whole = evaluation.evaluate(name, inputs, modifiers=case.uses, mask=case.mask, form=case.form, **told)
    cache, parts, at = None, [], 0
    while at < 8:
        t = min(rng.choice((2, 4) if chunked else (1, 1, 2, 3)), 8 - at)
        step = evaluation.evaluate(
            name,
            sliced(page, inputs, at, t),
            modifiers=case.uses,
            mask=case.mask,
            form=case.form,
            cache=cache,
            context=at + t,
            **told,
        )
        cache, at = step.cache, at + t
        parts.append(step[page.output])
    yield near(f"{page.output}, step by step and at once", np.concatenate(parts, 1), whole[page.output])
    for n, x in whole.cache.items():
        yield near(f"the cache of {n}, step by step and at once", dict(cache or {})[n], x)


def _looks_back(case: Case) -> bool:
    """Whether a mask of the caller's shows no query what comes later, and does not depend on how many tokens are new."""
    text = case.mask
    if text is None or "documents" in text:  # documents make up a context of their own length
        return text is None
    text = str(case.layer.mask)
    sizes, places = {**case.sizes, "past": 0}, [(i, j) for i in range(10) for j in range(10)]
    later = {**case.sizes, "past": 3}
    return not any(judge.sees(text, i, j, sizes) for i, j in places if j > i) and all(
        judge.sees(text, i, j, sizes) == judge.sees(text, i, j, later) for i, j in places
    )


# -- gradients

STEPS = (1e-5, 1e-6, 1e-7)  # of differences, the next where a kink or a steep place lies within one
DIFFERENCES = 1e-6  # of a difference quotient of float64
WAYS = ("none", "selective", "full", "selective+full")  # what the backward pass computes again


def gradients(case: Case, rng: Random) -> Iterator[Compared]:
    """The gradient along a random direction of all that has one, against what the judge computes a little to either side;
    what is chosen stays. Where they differ, the first tensor that does.

    >>> from attnmath.verifying.cases import draw
    >>> [c.holds for c in gradients(draw("variant", "gqa", 1), Random(1))]
    [True]
    """
    g, draw = case.graded, np.random.default_rng(rng.randrange(2**32))
    to = {key: draw.standard_normal(x.shape) for key, (x, _) in g.directions.items()}
    together = _derivative("the gradient along a random direction of everything", g, to)
    for (name, past), x in to.items() if not together.holds else ():
        what = f"the gradient of {name}{' before the new tokens' * past} along a random direction"
        alone = _derivative(what, g, {(name, past): x})
        if not alone.holds:
            yield alone
            break
    yield together


def _derivative(what: str, g: Graded, to: Mapping[tuple[str, bool], Array]) -> Compared:
    found = sum(float((g.directions[key][1] * x).sum()) for key, x in to.items())
    for h in STEPS:
        out = near(what, found, (_moved(g, to, h) - _moved(g, to, -h)) / (2 * h), DIFFERENCES)
        if out.holds:
            break
    return out


def _moved(g: Graded, to: Mapping[tuple[str, bool], Array], h: float) -> float:
    """The judge's result, as it is weighed, with inputs and past moved so far along a direction."""

    def at(name: str, past: bool, x: Array) -> Any:
        return judged(x + h * to[name, past] if (name, past) in to else x)

    inputs = {n: at(n, False, x) for n, x in g.inputs.items()} | {n: judged(x) for n, x in g.chosen.items()}
    before = {n: (axis, x.shape[axis], at(n, True, x)) for n, (axis, x) in g.past.items()}
    out = judge.Walk(str(g.page), g.sizes, inputs, before).run(set(g.gradient.seeds))
    seeds = g.gradient.seeds.items()
    return sum(float(g.values[c][place]) * x for n, c in seeds for place, x in out[n].items())


def backward(case: Case, rng: Random) -> Iterator[Compared]:
    """A gradient's page in one of the ways to keep less of the forward pass; and that names of functions cost nothing.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in backward(draw("variant", "gqa", 1), Random(1)))
    True
    """
    how = rng.choice(WAYS)
    g = case.graded if how == WAYS[0] else graded(case.page, case.sizes, case.seed, how)
    yield from tallied(g)
    named, plain_ = (total(count(p, case.sizes)) for p in (case.graded.gradient.forward, case.page))
    yield same("FLOPs of the page when every function has a name", named, plain_)


def tallied(g: Graded) -> Iterator[Compared]:
    """Every tensor of the gradient's page, element by element, and the operations that the judge takes for it.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in tallied(draw("variant", "mqa", 1).graded))
    True
    """
    page, made = g.gradient.together, g.gradient.backward.defined
    names = {g.gradient.renamed[n]: n for n in made}  # of what is computed twice, the second time
    handed = {n: judged(x) for n, x in g.values.items() if n in page.inputs}
    past = {n: (axis, x.shape[axis], judged(x)) for n, (axis, x) in g.past.items()}
    before = past | {name: past[n] for name, n in names.items() if n in past}
    walk = Pushing(str(page), g.sizes, handed, before)
    for name, n in names.items():
        cells = walk.values_of(name, np.ndindex(g.values[n].shape))
        yield near(str(made[n]), g.values[n], np.array(list(cells.values())).reshape(g.values[n].shape))
    for step in count(page, g.sizes):
        if step.name in names:
            flops, exps = walk.cost_of(step.name)
            yield same(f"FLOPs of {step.equation}", step.flops.total, flops)
            yield same(f"exponentials of {step.equation}", step.exps, exps)


# -- schedules

SIDES = (1, 2, 3, 4, 5)
BLOCKS = (
    "flash-1:n={0}",
    "flash-2:n={0}",
    "flash-3",
    "memory-efficient:n={0}",
    "paged:n={0}",
    "ring:z={1},n={0}",
    "split-kv:z={1},n={0}",
    "flash-2-packed:n={0}",
    "unfused",
)
NESTS = (
    "b {heads} t/{0} n/{1}",
    "b {heads} n/{1} t/{0}",
    "b {heads} z={2} t/{0} n/{1}",
    "{last} b {first} t/{0} n/{1}",
    "{first} b t/{0} {last} n/{1}",
    "n/{1} b {first} t/{0} {last}",
)


def streamed(case: Case, rng: Random) -> Iterator[Compared]:
    """A schedule, run: the keys block by block, on scores loud enough to need the running maximum.

    >>> from attnmath.verifying.cases import draw
    >>> [c.holds for c in streamed(draw("variant", "gqa", 1), Random(1))]
    [True, True, True]
    """
    try:
        if region(case.page).key is None:
            return
    except NoSchedule:
        return
    inputs, past = case.arrays
    for row in rng.sample(BLOCKS, 3):
        schedule, louder = row.format(rng.choice(SIDES), rng.choice(SIDES)), rng.choice((1, 8, 40))
        what = f"{case.page.output} by {schedule}, inputs x {louder}"
        yield near(what, *both_ways(case, schedule, louder, inputs, past))


def both_ways(
    case: Case, schedule: str, louder: float, inputs: Mapping[str, Array], past: Mapping[str, tuple[int, Array]]
) -> tuple[Array, Array]:
    """(a page's stream's result, the page's own) on inputs that are so many times as large.

    >>> from attnmath.verifying.cases import draw
    >>> case = draw("variant", "mqa", 1)
    >>> got, want = both_ways(case, "flash-2:n=2", 8, *case.arrays)
    >>> float(np.abs(got - want).max()) < 1e-10
    True
    """
    page, walk = case.page, parse(schedule)
    given = {n: louder * x for n, x in inputs.items()}
    before = {n: louder * x for n, (_, x) in past.items()}
    rewritten = streams.stream(page, walk)
    sizes = {**case.sizes, **streams.blocks(walk, case.sizes)}
    got = evaluating.run(rewritten, sizes, given, {**before, **streams.start(rewritten, sizes)})[page.output]
    return got, evaluating.run(page, case.sizes, given, before)[page.output]


def traffic(case: Case, rng: Random) -> Iterator[Compared]:
    """What loops move, against the loops walked tile by tile; and no schedule moves less than the compulsory bytes.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in traffic(draw("variant", "gqa", 1), Random(1)))
    True
    """
    inside = Core(case.page, case.sizes, "bf16", "bf16")
    for name in SCHEDULES if _all_see(case) else ():
        try:
            moved = Traffic(inside, parse(name)).total
        except NoSchedule:
            continue
        yield Compared(
            f"{name} moves {moved} bytes, of which {inside.compulsory} are compulsory", moved >= inside.compulsory
        )
    if not plain(case.page) or "t" not in case.sizes:
        return
    own = heads(case.page).split()
    nest = rng.choice(NESTS if own else NESTS[:3])
    text = nest.format(
        *(rng.choice(SIDES) for _ in range(3)), heads=" ".join(own), first=" ".join(own[:-1]), last=" ".join(own[-1:])
    )
    yield from walked_loops(case, text)
    if "z=" not in text:
        yield from walked_backward(case, text)


def _all_see(case: Case) -> bool:
    """Whether every query sees a key; loops do not visit one that sees none, whose inputs are counted as compulsory."""
    mask, sizes = case.page.sees.get(("t", "n")), {**case.sizes, "past": case.sizes.get("past", 0)}
    if mask is None:
        return True
    return all(map(any, allowed(str(mask), sizes["t"], sizes["n"], sizes["past"], 1, sizes)))


def walked_loops(case: Case, text: str) -> Iterator[Compared]:
    """The bytes of loops, and by tensor, where each is read by one block of queries or of keys.

    >>> from attnmath.verifying.cases import draw
    >>> [c.holds for c in walked_loops(draw("variant", "mqa", 0), "b h t/2 n/2")]
    [True]
    """
    inside = Core(case.page, case.sizes, "bf16", "bf16")
    letters = {n: [str(i) for i in case.page.tensors[n]] for n in (*inside.inputs, *inside.outputs)}
    if any({"t", "n"} <= set(index) or not {"t", "n"} & set(index) for index in letters.values()):
        return  # pairs that are handed in, or what no loop walks
    if any(i not in case.sizes for index in letters.values() for i in index):
        return
    reads, writes = ({n: letters[n] for n in names} for names in (inside.inputs, inside.outputs))
    sizes = {**case.sizes, "past": case.sizes.get("past", 0)}
    want = LoopWalk(text, sizes, str(case.page.sees["t", "n"]), reads, writes).total
    yield same(f"bytes that the loops {text} move", Traffic(inside, parse(text)).total, want)


def walked_backward(case: Case, text: str) -> Iterator[Compared]:
    """The same of training: what the forward pass keeps of each row, the rows' sums, and the loops of the backward pass.

    >>> from attnmath.verifying.cases import draw
    >>> [c.holds for c in walked_backward(draw("variant", "mqa", 0), "b h n/2 t/2")]
    [True, True, True]
    """
    sizes = {**case.sizes, "past": case.sizes.get("past", 0)}
    try:
        first, *rows, last = Training(gradient(case.page, recompute="selective"), sizes, "bf16").walked(parse(text))
    except NoSchedule:
        return
    mask, axes = str(case.page.sees["t", "n"]), last.core.index
    reads, writes = ({n: [str(i) for i in axes[n]] for n in names} for names in (last.core.inputs, last.core.outputs))
    if any({"t", "n"} <= set(x) or not {"t", "n"} & set(x) for x in (*reads.values(), *writes.values())):
        return
    if any(len(x) == 2 or set(x) - set(sizes) for x in (*reads.values(), *writes.values())):
        return
    a_row = [n for n in reads if n.startswith(("LSE", "D"))]
    want = LoopWalk(text, sizes, mask, reads, writes, None, a_row, statistics=0).total
    yield same(f"bytes that the loops {text} move backward", last.total, want)
    (name,) = (n for n in first.core.outputs if n.startswith("LSE"))
    others = {n: [str(i) for i in axes[n]] for n in first.core.outputs if n != name}
    asked = {n: [str(i) for i in axes[n]] for n in first.core.inputs}
    walk = LoopWalk(text, sizes, mask, asked, others)
    kept = 0 if walk.moved["travel"] else 4 * math.prod(sizes[str(i)] for i in axes[name])
    yield same(f"bytes that the loops {text} move forward, with what is kept", first.total, walk.total + kept)
    for one in rows:
        lengths = {n: math.prod(sizes[str(i)] for i in axes[n]) for n in (*one.core.inputs, *one.core.outputs)}
        want = sum(x * (4 if n.startswith("D") else 2) for n, x in lengths.items())
        yield same("bytes of the rows' sums", one.total, want)


# -- masks

REFUSED = (  # what has no closed form, by what is said of it
    "one must divide the other",
    "chunks together with a stride",
    "strides of keys and",
    "over tokens and over blocks",
    "a window over keys that stand for blocks",
    "the one counts tokens, the other blocks",
    "overlap in more than",
    "leaves out the diagonal",
)


def _built(case: MaskCase) -> Any:
    """The mask, or None where it is refused by name."""
    try:
        mask = build_text(case.text, past=case.past)
        mask.pairs(9, 9, 0)
        return mask
    except LanguageError as error:
        if any(reason in str(error) for reason in REFUSED):
            return None
        raise


def pairs(case: MaskCase, rng: Random) -> Iterator[Compared]:
    """Which pairs a mask allows, how many, and how many keys are seen, asked one by one; and of arrays.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in pairs(draw("mask", "causal", 1), Random(1)))
    True
    """
    mask, t, past = _built(case), case.t, case.past
    if mask is None:
        return
    n = t + past
    want = np.array(allowed(case.text, t, n, past))
    yield same("pairs", mask.pairs(t, n, past), int(want.sum()))
    at, keys = np.arange(past, n)[:, None], np.arange(n)[None]
    yield same("the pairs themselves", np.broadcast_to(mask.dense(at, keys), (t, n)).tolist(), want.tolist())
    lengths = [1, t, t + 3]
    swept = np.broadcast_to(mask.pairs(np.array(lengths, float), np.array(lengths, float) + past, past), 3)
    yield same("pairs of arrays", swept.tolist(), [mask.pairs(x, x + past, past) for x in lengths])
    try:
        yield same("keys that are seen", mask.keys_seen(t, n, past), int(want.any(0).sum()))
    except LanguageError as error:
        yield Compared(f"{error}", "leaves out the diagonal" in str(error) or "a dilated mask sees" in str(error))
    newest, span = int(want[-1].sum()), mask.span(n)
    if not past and re.search("chunked|dilated", case.text):  # a chunk may have begun long ago: all between is held
        yield Compared(f"the span {span} is at least the {newest} keys that the newest query sees", span >= newest)
    elif not past:
        yield same("the span, which the newest query sees", span, newest)


def tiles(case: MaskCase, rng: Random) -> Iterator[Compared]:
    """Tiles with a pair, what they hold, and tiles without a hole, against a table of booleans that is cut up.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in tiles(draw("mask", "causal", 1), Random(1)))
    True
    """
    mask, t, past = _built(case), case.t, case.past
    rows, cols, packed = case.sides
    if mask is None:
        return
    n = case.n
    grid = Grid(t, n, past, rows, cols, packed)
    found = cut(allowed(case.text, t, n, past, packed), rows, cols)
    some = [x for x in found if any(map(any, x))]
    try:
        yield same("tiles with a pair", grid.tiles(mask), len(some))
    except LanguageError as error:
        yield Compared(f"{error}", any(reason in str(error) for reason in REFUSED))
        return
    for q in (0, 1):
        for k in (0, 1):
            want = sum((len(x) if q else 1) * (len(x[0]) if k else 1) for x in some)
            yield same(f"what tiles hold, {q} rows by {k} columns", grid.moved(mask, bool(q), bool(k)), want)
    try:
        whole = grid.full(mask)
    except LanguageError:
        yield Compared("tiles without a hole are counted", bool(re.search("chunked|dilated|blocks", case.text)))
    else:
        yield same("tiles without a hole", whole, sum(all(map(all, x)) for x in found))
    lengths = [1.0, 3.0, 8.0]
    sizes = np.array(lengths)
    try:
        swept = Grid(sizes, sizes + past, np.full(3, float(past)), rows, cols, packed).tiles(mask)
    except NoClosedForm:
        return
    single = [Grid(int(x), int(x) + past, past, rows, cols, packed).tiles(mask) for x in lengths]
    yield same("tiles of arrays", np.broadcast_to(swept, 3).tolist(), single)


# -- derivations


def proved(case: PageCase, rng: Random) -> Iterator[Compared]:
    """A derivation's steps, each shown by its check and true of numbers, and its ties to what pages compute.

    >>> all(c.holds for c in proved(PageCase("softmax"), Random(1)))
    True
    """
    from attnmath.proving.page import meaning

    page = derivations.get(case.name)
    found = page.prove()  # raises, saying which step is not shown
    for n, verdict in enumerate(found.verdicts, 1):
        yield Compared(f"step {n} is shown: {verdict.step.says}", verdict.holds)
        true = meaning(page, verdict.step, seed=rng.randrange(1000))
        if true is not None:  # else there are no numbers for it
            yield Compared(f"step {n} is true of numbers: {verdict.step.says}", true)
    for tied in found.tied:
        yield Compared(f"what {tied.tie.variant} computes: {tied.tie.says}", tied.holds, float(tied.error))


# -- print

MACROS = frozenset(  # of LaTeX with amsmath, which what renders it in a browser knows as well
    "frac sqrt sum prod left right mathrm operatorname text prime lfloor rfloor le lt ge iff land lor lnot mid quad big "
    "max min log exp cos sin tanh cdot times pi infty bmod equiv in alpha beta gamma delta lambda sigma mu epsilon top".split()
) | frozenset(",;!:{}| ")


def printed(case: Case, rng: Random) -> Iterator[Compared]:
    """A page as it is written reads as the page.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in printed(draw("variant", "gqa", 1), Random(1)))
    True
    """
    page = case.page
    again = program(str(page))
    yield same("the equations, printed and read again", again.equations, page.equations)
    yield same("the masks, printed and read again", again.sees, page.sees)
    shown = program("\n".join(lines(page))).equations  # a table's shape stands beside it, not on a line of its own
    yield same("the aligned lines, read again", shown, tuple(e for e in page.equations if e.alts))


def latex(case: Case, rng: Random) -> Iterator[Compared]:
    """Each formula's braces and brackets close in their order, and its macros are known ones.

    >>> from attnmath.verifying.cases import draw
    >>> all(c.holds for c in latex(draw("variant", "gqa", 1), Random(1)))
    True
    """
    for line in latex_lines(case.page):
        unknown = sorted(set(re.findall(r"\\([A-Za-z]+|.)", line)) - MACROS)
        yield same(f"macros that are not known in {line}", unknown, [])
        yield Compared(f"braces and brackets close in {line}", _closes(line))


def _closes(line: str) -> bool:
    """Whether every brace, and every \\left, has its partner."""
    waiting = []
    for mark in re.findall(r"\\left\b|\\right\b|(?<!\\)[{}]", line):
        if mark in ("{", "\\left"):
            waiting.append(mark)
        elif not waiting or waiting.pop() != {"}": "{", "\\right": "\\left"}[mark]:
            return False
    return not waiting


PAGES = ("variant", "modifier", "block")
LAWS: dict[str, Law] = {
    "values": Law("what NumPy computes is what the judge computes, element by element", values, PAGES),
    "counts": Law("FLOPs, exponentials and parameters are what the judge tallies", counts, PAGES),
    "categories": Law("FLOPs belong where their factors say", categories),
    "compulsory": Law("compulsory bytes are the elements that the judge touches", compulsory),
    "unfused": Law("unfused bytes and their peak are what the equations move and hold one by one", unfused),
    "caches": Law("what is cached is what the judge reads of the past", remembered),
    "formulas": Law("a printed formula is the number, wherever its conditions hold", formulas, PAGES),
    "arrays": Law("arrays of sizes are counted like integers", numbers),
    "symbols": Law("a SymPy expression is the number", symbols, PAGES, every=4),
    "forms": Law("the forms of a page compute the same", forms),
    "decoding": Law("decoding with the cache equals prefill", decoding),
    "gradients": Law("a gradient is the difference of what the judge computes nearby", gradients, PAGES),
    "backward": Law("a gradient's page computes, and costs, what the judge computes and tallies", backward, PAGES),
    "streams": Law("a schedule computes the same, block of keys by block", streamed),
    "traffic": Law("loops move what a walk over their tiles moves, and no less than they must", traffic),
    "pairs": Law("a mask allows the pairs that its predicate allows", pairs, ("mask",)),
    "tiles": Law("tiles under a mask are those of a table of booleans", tiles, ("mask",)),
    "derivations": Law("each step of a derivation is shown, and true of numbers", proved, ("derivation",)),
    "text": Law("a page prints as it is written", printed, PAGES),
    "latex": Law("LaTeX is balanced, of macros that are known", latex, PAGES),
}
