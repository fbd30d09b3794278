"""A document about one variant as plain data: equations, masks, costs with their regime, and checks made while it is written."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from attnmath.errors import AttnmathError, InputError, LanguageError
from attnmath.explain import explain
from attnmath.keys import DERIVED, KEYS, ROOFLINE
from attnmath.language.arith import Number
from attnmath.language.formula import stairs
from attnmath.language.letters import LETTERS
from attnmath.language.masks import MASKS, MaskExpr
from attnmath.language.syntax import Program
from attnmath.layers import Layer
from attnmath.readings.count import Space, learned, tables
from attnmath.readings.memory import caches
from attnmath.readings.text import latex_lines, lines, printed
from attnmath.reporting.equations import data as equations
from attnmath.results import Cost

if TYPE_CHECKING:
    from attnmath.hardware import Figure as HardwareFigure

SEED = 0
TOLERANCE = 1e-10  # of float64 values of about 1: what forms may differ by, relative to the largest value
MOST_ELEMENTS = 4_000_000  # of all tensors of a check together
STEPS = (4, 2, 2)  # how a check cuts its 8 tokens; blocks and chunks of 2 fit
SMALL = {"b": 2, "t": 8, "h": 4, "g": 2, "d": 4, "e": 3, "m": 5, "l": 3, "q": 3, "p": 2, "w": 3, "z": 2, "a": 3}
SMALL |= {"i": 2, "k": 2, "group": 2, "v": 2, "tap": 3, "layer": 1, "layers": 3, "x": 3}
WIDTHS = ("d", "e", "m", "l", "q", "p", "z", "x")  # grown until a modifier's own widths fit
LOOKS_BACK = ("&", "|", "causal", "before", "window", "chunked", "blocks", "blocks_before")  # masks without later keys

SAY = {  # what every format says in the same words
    "sums": "A term sums over the letters that its left side does not name. Pairs that a mask excludes are neither "
    "computed nor counted; an index such as n-past reaches back before the new tokens, and that is the cache.",
    "masks": "i is the position of the query, past + t, and j that of the key; a pair that is not allowed does not exist.",
    "costs": "Every number is read off the equations above. Operations count the pairs that the masks allow, a "
    "multiply-add as 2 FLOP; the core is what lies between queries, keys and values.",
    "lengths": "N with an index below it is the length of that index.",
    "stairs": "stairs(x, s) = x + (x - s) + (x - 2s) + ..., as long as it is positive.",
    "at_most": "A number behind \N{LESS-THAN OR EQUAL TO} is an upper bound: which pairs exist depends on the data.",
    "trace": "Each of these numbers with its equation, substitution and convention, the key in the place of KEY:",
    "bound": "Bounds, no estimates: of the core only, without projections; real kernels are slower.",
    "figures": "The command above explains these keys too. They stand on figures of the accelerator:",
    "fresh": "These checks were made by the command that wrote this document:",
    "conventions": "The conventions of the counts stand beside their meanings, under Costs.",
}


class Shown(Struct, frozen=True):
    """A formula as text and as LaTeX; no LaTeX where it is a sentence."""

    text: str
    latex: str = ""


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


class Tensor(Struct, frozen=True):
    """A tensor of a form: its indices, its shape at these sizes, and where it comes from."""

    name: str
    index: str
    shape: tuple[int, ...]
    role: str


class Mask(Struct, frozen=True):
    """Which pairs exist: the rule, what it means, and how many pairs that leaves at these sizes."""

    rule: Shown
    meaning: str
    pairs: int | None
    of: int | None


class Form(Struct, frozen=True):
    """One form; `misfit` says why it has no shapes at these sizes."""

    name: str
    equations: tuple[Shown, ...]
    masks: tuple[Mask, ...]
    tensors: tuple[Tensor, ...]
    misfit: str = ""


class Letter(Struct, frozen=True):
    """A letter or word of the equations, and its value here."""

    name: Shown
    meaning: str
    set_by: str
    value: int | float | None


class Setting(Struct, frozen=True):
    """What the costs stand on: an option, its value, and who set it."""

    name: str
    value: int | float | str | None
    how: str


class Applied(Struct, frozen=True):
    """A modifier as it was written, and what it is."""

    use: str
    title: str
    about: str
    source: str


class Count(Struct, frozen=True):
    """One number of the costs; `regime` is the number of the list of conditions under which its formula holds, 0 for none."""

    key: str
    value: int | float
    unit: str
    meaning: str
    convention: str
    formula: Shown
    regime: int
    at_most: bool


class Timed(Struct, frozen=True):
    """A number that stands on the accelerator's figures."""

    key: str
    value: int | float | str
    unit: str
    meaning: str
    rule: str
    here: str


class Figure(Struct, frozen=True):
    """A figure of the accelerator; `sources` are numbers of the document's list."""

    name: str
    value: int | float
    meaning: str
    note: str
    sources: tuple[int, ...]


class Check(Struct, frozen=True):
    """What was checked and what came out; `passed` None: it could not be, and the text says why."""

    name: str
    passed: bool | None
    text: str


class Source(Struct, frozen=True):
    """An entry of the list of sources: what comes from it, and what it is."""

    of: str
    text: str


class Report(Struct, frozen=True):
    """The whole document."""

    variant: str
    title: str
    about: str
    source: str
    form: str
    forms: tuple[Form, ...]
    letters: tuple[Letter, ...]
    modifiers: tuple[Applied, ...]
    settings: tuple[Setting, ...]
    counts: tuple[Count, ...]
    regimes: tuple[tuple[Shown, ...], ...]
    has_stairs: bool
    has_lengths: bool
    gpu: str
    times: tuple[Timed, ...]
    time_notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    checks: tuple[Check, ...]
    standing: tuple[str, ...]
    sources: tuple[Source, ...]
    commands: Commands


def data(layer: Layer, cost: Cost, request: Request) -> Report:
    """Everything that the document says; the checks are made here and now.

    >>> from attnmath import cost, layers
    >>> asked = Request("mqa", {"t": 64, "h": 4}, (), Commands("", "", ""))
    >>> found = data(layers.build("mqa"), cost("mqa", seq=64, heads=4), asked)
    >>> found.counts[0].key, [check.passed for check in found.checks]
    ('flops.total', [None, True, True])
    """
    page = equations(layer)
    forms = tuple(_form(name, layer, request) for name in layer.forms)
    counts, regimes = _counts(cost)
    sources = _sources(layer, cost)
    return Report(
        variant=layer.variant.name,
        title=page["title"],
        about=layer.variant.about,
        source=layer.variant.source,
        form=cost.form or "",
        forms=forms,
        letters=tuple(_letters(page["legend"], layer, request)),
        modifiers=tuple(Applied(str(u), u.modifier.title, u.modifier.about, u.modifier.source) for u in layer.uses),
        settings=tuple(_settings(cost, request)),
        counts=counts,
        regimes=regimes,
        has_stairs=any("stairs(" in c.formula.text for c in counts),
        has_lengths=any("N_{" in e.latex for f in forms for e in f.equations),
        gpu=cost.gpu or "",
        times=_times(cost) if cost.gpu else (),
        time_notes=_time_notes(cost) if cost.gpu else (),
        figures=_figures(cost, sources) if cost.gpu else (),
        checks=(forms_agree(layer), decoding_agrees(layer, request), formulas_hold(cost)),
        standing=_standing(request),
        sources=sources,
        commands=request.commands,
    )


# -- formulas, as text that Python reads


def typeset(text: str) -> str:
    """A formula or a condition of `cost` as LaTeX; empty if it is a sentence.

    >>> print(typeset("2*b*h*t**2*(t + 1)/2/i"))
    \\frac{2\\,b\\,h\\,t^{2}\\,\\left(t + 1\\right)}{2\\,i}
    >>> typeset("rounded up to whole bytes")
    ''
    """
    try:
        return _latex(ast.parse(text, mode="eval").body)
    except (SyntaxError, LanguageError):
        return ""


def _latex(x: ast.expr, tight: bool = False) -> str:
    """`tight`: it is a factor, so that a sum needs parentheses."""
    if isinstance(x, ast.Constant) and isinstance(x.value, int):
        return str(x.value)
    if isinstance(x, ast.Name):
        return printed(x.id)
    if isinstance(x, ast.Compare) and len(x.ops) == 1 and type(x.ops[0]) in _RELATIONS:
        return rf"{_latex(x.left)} {_RELATIONS[type(x.ops[0])]} {_latex(x.comparators[0])}"
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        return f"-{_latex(x.operand, True)}"
    if isinstance(x, ast.Call) and isinstance(x.func, ast.Name):
        args = r",\, ".join(map(_latex, x.args))
        if x.func.id == "floor":
            inside = x.args[0]
            flat = isinstance(inside, ast.BinOp) and isinstance(inside.op, ast.Div)
            args = f"{_latex(inside.left, True)} / {_latex(inside.right, True)}" if flat else args
            return rf"\lfloor {args} \rfloor"
        return rf"\mathrm{{{x.func.id}}}({args})"
    if not isinstance(x, ast.BinOp):
        raise LanguageError("no formula")
    if isinstance(x.op, ast.Div):
        over: list[str] = []
        top: ast.expr = x
        while isinstance(top, ast.BinOp) and isinstance(top.op, ast.Div):
            over.insert(0, _latex(top.right, isinstance(top.left, ast.BinOp) and isinstance(top.left.op, ast.Div)))
            top = top.left
        under = r"\,".join(over)
        return rf"\frac{{{_latex(top)}}}{{{under}}}"
    if isinstance(x.op, ast.Pow):
        return f"{_latex(x.left, True)}^{{{_latex(x.right)}}}"
    if isinstance(x.op, ast.Mult):
        return rf"{_latex(x.left, True)}\,{_latex(x.right, True)}"
    if not isinstance(x.op, (ast.Add, ast.Sub)):
        raise LanguageError("no formula")
    out = f"{_latex(x.left)} {'+' if isinstance(x.op, ast.Add) else '-'} {_latex(x.right, isinstance(x.op, ast.Sub))}"
    return rf"\left({out}\right)" if tight else out


_RELATIONS = {ast.GtE: r"\ge", ast.LtE: r"\le", ast.Gt: ">", ast.Lt: "<", ast.Eq: "="}


def value(text: str, sizes: Mapping[str, Number]) -> Fraction | bool:
    """A formula's or a condition's value, computed from its printed text, exactly; LanguageError if it is none.

    >>> value("b*t*(t + 1)/2", {"b": 1, "t": 4}), value("t >= 5", {"t": 4})
    (Fraction(10, 1), False)
    """
    try:
        return _value(ast.parse(text, mode="eval").body, sizes)
    except SyntaxError:
        raise LanguageError(f"{text[:80]!r} is no formula") from None


def _value(x: ast.expr, sizes: Mapping[str, Number]) -> Any:
    if isinstance(x, ast.Constant) and isinstance(x.value, int):
        return Fraction(x.value)
    if isinstance(x, ast.Name) and x.id in sizes:
        return Fraction(sizes[x.id])
    if isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.USub):
        return -_value(x.operand, sizes)
    if isinstance(x, ast.BinOp) and type(x.op) in _ARITHMETIC:
        return _ARITHMETIC[type(x.op)](_value(x.left, sizes), _value(x.right, sizes))
    if isinstance(x, ast.Compare) and len(x.ops) == 1 and type(x.ops[0]) in _COMPARED:
        return _COMPARED[type(x.ops[0])](_value(x.left, sizes), _value(x.comparators[0], sizes))
    if isinstance(x, ast.Call) and isinstance(x.func, ast.Name):
        args = [_value(a, sizes) for a in x.args]
        if x.func.id == "floor" and len(args) == 1:
            return Fraction(floor(args[0]))
        if x.func.id == "stairs" and len(args) == 2:
            return Fraction(stairs(int(args[0]), int(args[1])))
    raise LanguageError(f"{ast.unparse(x)[:80]!r} is no formula over sizes")


_ARITHMETIC: dict[type, Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a ** int(b),
}
_COMPARED: dict[type, Any] = {
    ast.GtE: lambda a, b: a >= b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.Lt: lambda a, b: a < b,
    ast.Eq: lambda a, b: a == b,
}


# -- the page


def _form(name: str, layer: Layer, request: Request) -> Form:
    page = layer.form(name)
    shown = [Shown(" ".join(text.split()), _sound(latex)) for text, latex in zip(lines(page), latex_lines(page))]
    rules = shown[len(shown) - len(page.sees) :]
    space, misfit = None, ""
    try:
        space = Space(page, layer.sizes(request.sizes, page=page)[0])
        tensors = tuple(_tensors(page, space))
    except InputError as error:
        tensors, misfit = (), str(error)
    masks = tuple(_mask(rule, pair, page, space) for rule, pair in zip(rules, page.sees))
    return Form(name, tuple(shown[: len(shown) - len(rules)]), masks, tensors, misfit)


def _sound(latex: str) -> str:
    """Two primes as one superscript: TeX refuses two in a row."""
    return latex.replace(r"^{\prime}^{\prime}", r"^{\prime\prime}")


def _tensors(page: Program, space: Space) -> Iterator[Tensor]:
    free, kept = tables(page), {c.tensor for c in caches(page, space.sizes)}
    for name, index in page.tensors.items():
        if name in page.inputs:
            role = "learned" if learned(page.inputs[name]) else "given"
        else:
            role = "table of positions" if name in free else "result" if name == page.output else "computed"
        role += ", kept for later tokens" if name in kept else ""
        yield Tensor(name, " ".join(map(str, index)), tuple(int(space.elements((i,))) for i in index), role)


def _mask(rule: Shown, pair: tuple[str, str], page: Program, space: Space | None) -> Mask:
    meaning = "; ".join(f"{n.replace('_', '-')}: {MASKS[n].meaning}" for n in _named(page.sees[pair]) if n in MASKS)
    if space is None:
        return Mask(rule, meaning, None, None)
    return Mask(rule, meaning, int(space.pairs[pair]), int(space.sizes[pair[0]] * space.length(pair[1])))


def _named(mask: MaskExpr) -> list[str]:
    """The names that a mask is joined of, and what joins them."""
    found = [mask.name, *(n for a in mask.args if isinstance(a, MaskExpr) for n in _named(a))]
    return list(dict.fromkeys(found))


def _letters(legend: Sequence[Mapping[str, str]], layer: Layer, request: Request) -> Iterator[Letter]:
    values: dict[str, Number] = {}
    for page in layer.forms.values():
        try:
            values = layer.sizes(request.sizes, page=page)[0] | values
        except InputError:  # a form that these sizes do not fit has letters of its own without a value
            continue
    for row in legend:
        name = row["letter"]
        meaning = row["meaning"] if name in LETTERS else "a size of this page's or a modifier's own"
        yield Letter(Shown(name, _sound(row["printed"])), meaning, row["set_by"], values.get(name))


def _settings(cost: Cost, request: Request) -> Iterator[Setting]:
    yield Setting("phase", cost.phase, "")
    if cost.form:
        how = "assumed: the form that a kernel would take here, the one with the fewest FLOPs"
        yield Setting("form", cost.form, how if "form" in cost.assumed else "given")
    for key, v in cost.inputs.items():
        name = key.replace("_", "-")
        how = "default of this document" if name in request.defaults else "assumed" if key in cost.assumed else "given"
        if key == "mask":
            how = "given" if request.mask or request.window else "the variant's own"
        yield Setting(name, v, how if v is not None else "")


# -- the numbers


def _counts(cost: Cost) -> tuple[tuple[Count, ...], tuple[tuple[Shown, ...], ...]]:
    """Every number that has a reading, and the different lists of conditions that their formulas hold under."""
    found: list[Count] = []
    regimes: dict[tuple[str, ...], int] = {}
    at_most = getattr(cost, "upper_bounds", ())
    for key, row in KEYS.items():
        n = cost[key]
        if n is None:
            continue
        formula = Shown(" + ".join(row.sums)) if row.sums else _formula(cost.formulas.get(key, ""))
        regime = tuple(cost.regime.get(key, ()))
        number = regimes.setdefault(regime, len(regimes) + 1) if regime else 0
        found.append(Count(key, n, row.unit, row.meaning, row.source, formula, number, key in at_most))
    return tuple(found), tuple(tuple(map(_formula, conditions)) for conditions in regimes)


def _formula(text: str) -> Shown:
    return Shown(text, typeset(text) if text else "")


def _times(cost: Cost) -> tuple[Timed, ...]:
    found = []
    for key, row in DERIVED.items():
        if cost[key] is not None:
            found.append(Timed(key, cost[key], row.unit, row.meaning, row.rule, explain(cost, key).substitution))
    return tuple(found)


def _time_notes(cost: Cost) -> tuple[str, ...]:
    from attnmath.hardware import get

    if cost.time_bound_s.fused is None:
        return ("Queries meet no keys here, so that there is no core whose time could be bounded.",)
    notes = [SAY["bound"]]
    if cost.l2 == "warm":
        notes.append("--l2 warm: what fits into the L2 is there from the last run, so that only the rest is moved.")
    if not get(cost.gpu_file or cost.gpu or "").exp_rate:
        notes.append(f"{cost.gpu} has no figure for exponentials, so that term is left out.")
    return tuple(notes)


def _cited(cost: Cost) -> tuple[str, dict[str, HardwareFigure]]:
    """(the dtype whose matrix rate counts, the accelerator's figures as far as its table has them, that rate first)."""
    from attnmath.hardware import get

    gpu, dtype = get(cost.gpu_file or cost.gpu or ""), cost.inputs["dtype"]
    rate = {f"tensor_flop_per_s.{dtype}": gpu.tensor_flop_per_s[dtype]} if dtype in gpu.tensor_flop_per_s else {}
    return dtype, rate | dict(gpu.figures)


def _figures(cost: Cost, sources: Sequence[Source]) -> tuple[Figure, ...]:
    from attnmath.hardware import FIGURES

    dtype, figures = _cited(cost)
    meanings = {**FIGURES, f"tensor_flop_per_s.{dtype}": f"dense matrix products in {dtype}, FLOP/s"}
    texts = [s.text for s in sources]
    return tuple(
        Figure(name, f.value, meanings[name], f.note, tuple(texts.index(text) + 1 for text in f.sources))
        for name, f in figures.items()
    )


def _sources(layer: Layer, cost: Cost) -> tuple[Source, ...]:
    """The works and pages that the document stands on, each once."""
    found: dict[str, list[str]] = {layer.variant.source: [layer.variant.name]}
    for u in layer.uses:
        found.setdefault(u.modifier.source, []).append(u.modifier.name)
    if cost.gpu:
        found.setdefault(ROOFLINE, []).append("bounds on time")
        for name, figure in _cited(cost)[1].items():
            for text in figure.sources:
                found.setdefault(text, []).append(name)
    return tuple(Source(", ".join(dict.fromkeys(of)), text) for text, of in found.items())


# -- what is checked here and now


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
    try:
        sizes = small_sizes(layer)
        inputs = _random(layer, sizes)
        outputs = {n: _run(page, sizes, inputs) for n, page in layer.forms.items()}
    except AttnmathError as error:
        return Check(name, None, f"The page cannot be evaluated at the small sizes that this takes: {error}")
    first, *others = outputs
    passed, errors, most = True, [], 0.0
    for n in others:
        ok, error, most = _near(outputs[n], outputs[first])
        passed = passed and ok
        errors.append(f"{n} and {first} differ by at most {_small(error)}")
    result = layer.form().output
    return Check(
        name,
        passed,
        f"All {len(outputs)} forms were evaluated in float64 on the same inputs, {_drawn(layer, sizes)}: "
        f"of {result}, {'; '.join(errors)}, with values up to {most:.2g} (allowed: {TOLERANCE:.0e}).",
    )


def _drawn(layer: Layer, sizes: Mapping[str, Any]) -> str:
    at = ", ".join(f"{n} = {sizes[n]}" for n in SMALL if n in sizes)
    return f"random ones (half of numpy.random.default_rng({SEED}).standard_normal) at {at}"


def _run(page: Program, sizes: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    from attnmath.readings.evaluate import run

    return run(page, sizes, {n: x for n, x in inputs.items() if n in page.inputs})[page.output]


def _small(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def _near(a: Any, b: Any) -> tuple[bool, float, float]:
    """(near enough, the largest difference, the largest value); what is no number is never near."""
    import numpy as np

    error, most = float(np.abs(a - b).max(initial=0)), float(np.abs(b).max(initial=0))
    return error <= TOLERANCE * max(1.0, most), error, most


def decoding_agrees(layer: Layer, request: Request) -> Check:
    """Whether steps with the cache give what all tokens at once give, where no query sees a later key.

    >>> from attnmath.layers import build
    >>> decoding_agrees(build("mqa"), Request("mqa", {}, (), Commands("", "", ""))).passed
    True
    """
    name = "decoding with the cache equals all tokens at once"
    later = {n for p in layer.forms.values() for m in p.sees.values() for n in _named(m)} - set(LOOKS_BACK)
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
        return Check(name, None, f"The page cannot be evaluated at the small sizes that this takes: {error}")
    errors = "; ".join(
        f"{n}: {_small(error)}" if len(found) > 1 else _small(error) for n, (_, error, _) in found.items()
    )
    return Check(
        name,
        all(ok for ok, _, _ in found.values()),
        f"{sum(STEPS)} tokens were computed in float64 in steps of {', '.join(map(str, STEPS[:-1]))} and {STEPS[-1]} with "
        f"the cache, and at once, on the same inputs, {_drawn(layer, sizes)}; largest difference of "
        f"{layer.form().output}: {errors} (allowed: {TOLERANCE:.0e}).",
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
    for step in STEPS:
        done = evaluate(request.variant, _cut(page, own, at, step), cache=cache, **settings)
        cache, at = done.cache, at + step
        parts.append(done[page.output])
    axis = [str(i) for i in page.tensors[page.output]].index("t")
    return np.concatenate(parts, axis), evaluate(request.variant, own, **settings)[page.output]


def _cut(page: Program, inputs: Mapping[str, Any], at: int, step: int) -> dict[str, Any]:
    """The inputs of a step: the new tokens of what has tokens, all keys so far of what has keys."""
    import numpy as np

    out = dict(inputs)
    for name, x in inputs.items():
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


def _standing(request: Request) -> tuple[str, ...]:
    """What stands behind the counting that no check above repeats, and what does not."""
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
