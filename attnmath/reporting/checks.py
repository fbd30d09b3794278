"""What a document checks while it is written: forms against each other, steps against all at once, formulas against counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.errors import AttnmathError, InputError
from attnmath.keys import KEYS
from attnmath.language.arith import Number
from attnmath.language.letters import LETTERS
from attnmath.language.masks import MaskExpr
from attnmath.language.syntax import Program
from attnmath.layers import Layer
from attnmath.readings.count import Space
from attnmath.reporting.formulas import typeset, value
from attnmath.results import Cost

SEED = 0
TOLERANCE = 1e-10  # of float64 values of about 1: what forms may differ by, relative to the largest value
ALLOWED = f"{TOLERANCE:.0e}, or that share of the largest value"
MOST_ELEMENTS = 4_000_000  # of all tensors of a check together
NOT_EVALUATED = "The page cannot be evaluated at the small sizes that this takes"
STEPS = (4, 2, 2)  # how a check cuts its 8 tokens; blocks and chunks of 2 fit
SMALL = {"b": 2, "t": 8, "h": 4, "g": 2, "d": 4, "e": 3, "m": 5, "l": 3, "q": 3, "p": 2, "w": 3, "z": 2, "a": 3}
SMALL |= {"i": 2, "k": 2, "group": 2, "v": 2, "tap": 3, "layer": 1, "layers": 3, "x": 3}
WIDTHS = ("d", "e", "m", "l", "q", "p", "z", "x")  # grown until a modifier's own widths fit
LOOKS_BACK = ("&", "|", "causal", "before", "window", "chunked", "blocks", "blocks_before")  # masks without later keys


class Commands(Struct, frozen=True):
    """The command lines that give the document, one of its numbers, and its equations."""

    report: str
    explain: str
    equations: str


class Request(Struct, frozen=True):
    """What was asked, beside the layer: sizes by letter, and the options that nobody gave and the document filled in."""

    variant: str
    sizes: Mapping[str, Number]
    defaults: tuple[str, ...]
    commands: Commands
    uses: tuple[str, ...] = ()
    mask: str | None = None
    window: bool = False


class Check(Struct, frozen=True):
    """What was checked and what came out; `passed` None: it could not be, and the text says why."""

    name: str
    passed: bool | None
    text: str


def small_sizes(layer: Layer) -> dict[str, Any]:
    """Sizes small enough to evaluate in an instant; widths grow until a modifier's own fit. InputError if none do.

    >>> from attnmath.layers import build
    >>> small_sizes(build("mqa", ["rope:dims=64"]))["d"]
    64
    """
    why = InputError("no sizes fit")
    for scale in (1, 4, 16, 64):
        given = {n: v * (scale if n in WIDTHS else 1) for n, v in SMALL.items() if n not in layer.local}
        try:
            sizes, _ = layer.sizes(given)
            elements = sum(
                int(Space(page, sizes).elements(index))
                for page in layer.forms.values()
                for index in page.tensors.values()
            )
        except InputError as error:
            why = error
            continue
        if elements <= MOST_ELEMENTS:
            return sizes
        why = InputError(f"its own sizes make {elements:,} elements; at most {MOST_ELEMENTS:,} are evaluated here")
    raise why


def _random(layer: Layer, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs for every form: half of standard normal numbers, drawn form by form in the order of the page."""
    import numpy as np

    rng, found = np.random.default_rng(SEED), dict[str, Any]()
    for page in layer.forms.values():
        space = Space(page, sizes)
        for name in page.inputs:
            if name not in found:
                found[name] = rng.standard_normal([int(space.elements((i,))) for i in page.tensors[name]]) / 2
    return found


def forms_agree(layer: Layer) -> Check:
    """Whether all forms give the same on the same random inputs; the largest difference is in the text.

    >>> from attnmath.layers import build
    >>> forms_agree(build("mla")).passed, forms_agree(build("gqa")).passed
    (True, None)
    """
    name = "the forms agree"
    if len(layer.forms) == 1:
        return Check(name, None, "There is one form only, so that there is nothing to compare.")
    passed, gaps, most = True, [], 0.0
    try:
        sizes = small_sizes(layer)
        inputs = _random(layer, sizes)
        outputs = {n: _run(page, sizes, inputs) for n, page in layer.forms.items()}
        first, *others = outputs
        for n in others:
            ok, gap, most = _near(outputs[n], outputs[first])
            passed = passed and ok
            gaps.append(f"{n} and {first} differ by at most {_small(gap)}")
    except AttnmathError as error:
        return Check(name, None, f"{NOT_EVALUATED}: {error}")
    result = layer.form().output
    return Check(
        name,
        passed,
        f"All {len(outputs)} forms were evaluated in float64 on the same inputs, {_drawn(layer, sizes)}: "
        f"of {result}, {'; '.join(gaps)}, with values up to {most:.2g} (allowed: {ALLOWED}).",
    )


def _drawn(layer: Layer, sizes: Mapping[str, Any]) -> str:
    at = ", ".join(f"{n} = {sizes[n]}" for n in SMALL if n in sizes)
    return f"random ones (half of numpy.random.default_rng({SEED}).standard_normal) at {at}"


def _run(page: Program, sizes: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    import numpy as np

    from attnmath.readings.evaluate import run

    with np.errstate(all="ignore"):  # what is no number is found afterwards
        return run(page, sizes, {n: x for n, x in inputs.items() if n in page.inputs})[page.output]


def _small(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def _near(a: Any, b: Any) -> tuple[bool, float, float]:
    """(near enough, the largest difference, the largest value); InputError if there are values that are no numbers."""
    import numpy as np

    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("on random inputs it gives values that are no finite numbers")
    error, most = float(np.abs(a - b).max(initial=0)), float(np.abs(b).max(initial=0))
    return error <= TOLERANCE * max(1.0, most), error, most


def decoding_agrees(layer: Layer, request: Request) -> Check:
    """Whether steps with the cache give what all tokens at once give, where no query sees a later key.

    >>> from attnmath.layers import build
    >>> decoding_agrees(build("mqa"), Request("mqa", {}, (), Commands("", "", ""))).passed
    True
    """
    name = "decoding with the cache equals all tokens at once"
    later = {n for p in layer.forms.values() for m in p.sees.values() for n in mask_names(m)} - set(LOOKS_BACK)
    if later or any("kept" in p.names for p in layer.forms.values()):
        what = f"Under {', '.join(sorted(later))}, a step" if later else "A step"
        return Check(
            name, None, f"{what} may see less than all tokens at once do, so that there is nothing to compare."
        )
    try:
        sizes = small_sizes(layer)
        inputs = _random(layer, sizes)
        found = {n: _near(*_stepped(n, layer, request, sizes, inputs)) for n in layer.forms}
    except AttnmathError as error:
        return Check(name, None, f"{NOT_EVALUATED}: {error}")
    errors = "; ".join(
        f"{n}: {_small(error)}" if len(found) > 1 else _small(error) for n, (_, error, _) in found.items()
    )
    return Check(
        name,
        all(ok for ok, _, _ in found.values()),
        f"{sum(STEPS)} tokens were computed in float64 in steps of {', '.join(map(str, STEPS[:-1]))} and {STEPS[-1]} with "
        f"the cache, and at once, on the same inputs, {_drawn(layer, sizes)}; largest difference of "
        f"{layer.form().output}: {errors} (allowed: {ALLOWED}).",
    )


def _stepped(
    form: str, layer: Layer, request: Request, sizes: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[Any, Any]:
    """(the output of steps with the cache, the output at once) of one form."""
    import numpy as np

    from attnmath.evaluation import evaluate

    page = layer.form(form)
    own = {n: x for n, x in inputs.items() if n in page.inputs}
    told: dict[str, Any] = {
        str(LETTERS[n].option).replace("-", "_"): sizes[n]
        for n in page.names
        if n in LETTERS and LETTERS[n].option and n not in layer.local and n not in ("b", "t", "n")
    }
    settings: dict[str, Any] = {"mask": request.mask, "modifiers": request.uses, "form": form, **told}
    parts, cache, at = [], None, 0
    with np.errstate(all="ignore"):
        for step in STEPS:
            done = evaluate(request.variant, _cut(page, own, at, step), cache=cache, **settings)
            cache, at = done.cache, at + step
            parts.append(done[page.output])
        whole = evaluate(request.variant, own, **settings)[page.output]
    return np.concatenate(parts, [str(i) for i in page.tensors[page.output]].index("t")), whole


def _cut(page: Program, inputs: Mapping[str, Any], at: int, step: int) -> dict[str, Any]:
    """The inputs of a step: the new tokens of what has tokens, all keys so far of what has keys."""
    import numpy as np

    out = dict(inputs)
    for name in inputs:
        for axis, i in enumerate(page.tensors[name]):
            if i in ("t", "n"):
                out[name] = np.take(out[name], range(at if i == "t" else 0, at + step), axis)
    return out


def formulas_hold(cost: Cost) -> Check:
    """Whether the printed formulas and their conditions give the numbers beside them, in exact arithmetic.

    >>> from attnmath import cost
    >>> formulas_hold(cost("gqa", seq=8192, heads=32)).passed
    True
    """
    numbers = cost.readings[0]
    wrong, rounded, conditions = [], 0, 0
    for key, text in cost.formulas.items():
        gap = cost[key] - value(text, numbers.sizes)
        up = KEYS[key].unit == "bytes" and 0 < gap < len(numbers.page.tensors)  # each tensor in whole bytes
        rounded += up
        wrong += [key] if gap and not up else []
    for key, regime in cost.regime.items():
        for condition in regime:
            if typeset(condition):
                conditions += 1
                wrong += [] if value(condition, numbers.sizes) else [f"{key} while {condition}"]
    what = f"{len(cost.formulas) - len([w for w in wrong if w in cost.formulas])} of {len(cost.formulas)}"
    return Check(
        "the formulas give the numbers",
        not wrong,
        f"{what} printed formulas, evaluated in exact arithmetic at the sizes above, equal the integers that were "
        f"counted{f' ({rounded} of them after each tensor is rounded up to whole bytes)' if rounded else ''}"
        f"{f', and the conditions ({conditions}) hold' if conditions and not wrong else ''}"
        f"{'; they fail for ' + ', '.join(wrong) if wrong else ''}. "
        "Both are the same reading of the same equations, so that this checks the formulas and not the counting.",
    )


def standing(request: Request) -> tuple[str, ...]:
    """What stands behind the counting that no check above repeats, and what does not.

    >>> [len(standing(Request(name, {}, (), Commands("", "", "")))) for name in ("mqa", "mine.attn")]
    [1, 2]
    """
    from attnmath.variants import SUFFIX

    walk = (
        "The counting itself is held by the project's tests, which were not run for this document: tests/test_count.py "
        "compares counts and values with a walk of every index tuple by code that shares none with them, at small random "
        "sizes; tests/test_vectors.py compares values with those of other implementations, for the variants and modifiers "
        "that have such vectors."
    )
    if request.variant.endswith(SUFFIX):
        return (walk, "This page is a file of your own: those tests run over the built-in variants, and not over it.")
    combined = "They draw modifiers, masks and sizes at random: this very combination need not have been among them."
    return (walk, combined) if request.uses or request.mask or request.window else (walk,)


def mask_names(mask: MaskExpr) -> list[str]:
    """The names that a mask is joined of, and what joins them.

    >>> from attnmath.language.parse import mask
    >>> mask_names(mask("causal & window(4)"))
    ['&', 'causal', 'window']
    """
    found = [mask.name, *(n for a in mask.args if isinstance(a, MaskExpr) for n in mask_names(a))]
    return list(dict.fromkeys(found))
