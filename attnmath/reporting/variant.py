"""A document about one variant as plain data: equations, masks, costs with their regime, and checks made while it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.explain import explain
from attnmath.keys import DERIVED, KEYS, ROOFLINE
from attnmath.language.arith import Number
from attnmath.language.masks import MASKS
from attnmath.language.syntax import Program
from attnmath.layers import Layer
from attnmath.readings.count import Space, learned, tables
from attnmath.readings.memory import caches
from attnmath.readings.text import latex_lines, lines
from attnmath.reporting.checks import (
    Check,
    Commands,
    Request,
    decoding_agrees,
    forms_agree,
    formulas_hold,
    mask_names,
    standing,
)
from attnmath.reporting.equations import data as equations
from attnmath.reporting.formulas import typeset
from attnmath.results import Cost

if TYPE_CHECKING:
    from attnmath.hardware import Figure as HardwareFigure

SAY = {  # what every format says in the same words
    "sums": "A term sums over the letters that its left side does not name. Pairs that a mask excludes are neither "
    "computed nor counted; an index such as n-past reaches back before the new tokens, and that is the cache.",
    "masks": "Queries stand at the end of the keys; a pair that is not allowed does not exist.",
    "costs": "Every number is read off the equations above. Operations count the pairs that the masks allow, a "
    "multiply-add as 2 FLOP; the core is what lies between queries, keys and values.",
    "lengths": "N with an index below it is the length of that index.",
    "stairs": "stairs(x, s) = x + (x - s) + (x - 2s) + ..., as long as it is positive.",
    "at_most": "A number behind \N{LESS-THAN OR EQUAL TO} is an upper bound: which pairs exist depends on the data.",
    "trace": "Each of these numbers with its equation, substitution and convention, the key in the place of KEY:",
    "bound": "Bounds, no estimates: of the core only, without projections; real kernels are slower.",
    "loose": "Operations that the data may spare are in no bound; of them, only the bytes count.",
    "figures": "The command above explains these keys too. They stand on figures of the accelerator:",
    "fresh": "These checks were made by the command that wrote this document:",
    "conventions": "The conventions of the counts stand beside their meanings, under Costs.",
}


class Shown(Struct, frozen=True):
    """A formula as text and as LaTeX; no LaTeX where it is a sentence."""

    text: str
    latex: str = ""


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
        standing=standing(request),
        sources=sources,
        commands=request.commands,
    )


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
    meaning = "; ".join(f"{n.replace('_', '-')}: {MASKS[n].meaning}" for n in mask_names(page.sees[pair]) if n in MASKS)
    if space is None:
        return Mask(rule, meaning, None, None)
    return Mask(rule, meaning, int(space.pairs[pair]), int(space.sizes[pair[0]] * space.length(pair[1])))


def _letters(legend: Sequence[Mapping[str, str]], layer: Layer, request: Request) -> Iterator[Letter]:
    values: dict[str, Number] = {}
    for page in layer.forms.values():
        try:
            values = layer.sizes(request.sizes, page=page)[0] | values
        except InputError:  # a form that these sizes do not fit has letters of its own without a value
            continue
    for row in legend:
        name = row["letter"]
        yield Letter(Shown(name, _sound(row["printed"])), row["meaning"], row["set_by"], values.get(name))


def _settings(cost: Cost, request: Request) -> Iterator[Setting]:
    yield Setting("phase", cost.phase, "")
    if cost.form:
        how = "assumed: the form that a kernel would take here"
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
    if {"flops.matmul", "exps"} & set(getattr(cost, "upper_bounds", ())):
        notes.append(SAY["loose"])
    if cost.l2 == "warm":
        notes.append("--l2 warm: what fits into the L2 is there from the last run, so that only the rest is moved.")
    if not get(cost.gpu_file or cost.gpu or "").exp_rate:
        notes.append(f"{cost.gpu} has no figure for exponentials, so that term is left out.")
    return tuple(notes)


def _cited(cost: Cost) -> tuple[str, dict[str, HardwareFigure]]:
    """(the dtype whose matrix rate counts, the figures of the accelerator that its bound uses, that rate first)."""
    from attnmath.hardware import get
    from attnmath.hardware.roofline import USES

    gpu, dtype = get(cost.gpu_file or cost.gpu or ""), cost.inputs["dtype"]
    rate = {f"tensor_flop_per_s.{dtype}": gpu.tensor_flop_per_s[dtype]} if dtype in gpu.tensor_flop_per_s else {}
    return dtype, rate | {k: f for k, f in gpu.figures.items() if k in USES}


def _figures(cost: Cost, sources: Sequence[Source]) -> tuple[Figure, ...]:
    from attnmath.hardware import FIGURES

    dtype, figures = _cited(cost)
    meanings = {k: f"{q.meaning}, {q.unit}" for k, q in FIGURES.items()}
    meanings[f"tensor_flop_per_s.{dtype}"] = f"dense matrix products in {dtype}, FLOP/s"
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
