"""A derivation is a page of steps; a step is a claim and the check that carries it; only what was checked can be printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

from msgspec import Struct
from sympy.core.relational import Relational

from attnmath.errors import AttnmathError, together
from attnmath.proving import oracle, slips
from attnmath.proving.checks import Check, Gaussian, Level, Moments, Recurrence, Same, Tested
from attnmath.proving.sums import head, heads
from attnmath.proving.terms import Claim
from attnmath.proving.ties import Tie, Tied

Model = Mapping[str, Callable[..., Any]]


class BadPage(AttnmathError):
    """A page of a derivation with slips of its author: every one of them, at once."""


class Unproved(AttnmathError):
    """A derivation with a step that its check does not carry, or a hypothesis whose model does not satisfy it."""


class Let(Struct, frozen=True):
    """What a name stands for: `claim` says it at every position, `says` in words."""

    claim: Claim
    says: str = ""


class Given(Struct, frozen=True):
    """A hypothesis, with a model: tensors (and functions) by name, each from (world, *positions) to a number.

    `when`: side conditions on the sizes of the model. A hypothesis that nothing satisfies would prove anything.
    """

    claim: Claim
    says: str
    model: Model
    when: tuple[Any, ...] = ()


class Step(Struct, frozen=True):
    """One sentence of the page, what it asserts, and the check that carries it. `when`: side conditions of its sizes."""

    says: str
    claim: Claim
    by: Check
    when: tuple[Any, ...] = ()


class Derivation(Struct, frozen=True):
    """A page: the question first, what is stated, under which assumptions, the names, the steps.

    `notation`: every letter's meaning. `lets`: what names stand for, `Recurrence`s among them. `ties`: how the page's names
    are those that a variant computes. `so`: what follows for who builds or buys. Raises BadPage with every slip.
    """

    name: str
    title: str
    question: str
    statement: str
    source: str
    notation: tuple[tuple[Any, str], ...]
    steps: tuple[Step, ...]
    lets: tuple[Let | Recurrence, ...] = ()
    given: tuple[Given, ...] = ()
    assumes: tuple[str, ...] = ()
    ties: tuple[Tie, ...] = ()
    so: str = ""

    def __post_init__(self) -> None:
        if found := tuple(slips.found(self)):
            raise BadPage(together(found, f"{self.name}: {len(found)} slip{'s' * (len(found) > 1)}:"))

    @property
    def definitions(self) -> tuple[Claim, ...]:
        """What names stand for, as equations; recurrences are not among them."""
        return tuple(x.claim for x in self.lets if isinstance(x, Let))

    @property
    def recurrences(self) -> tuple[Recurrence, ...]:
        """The tensors that are defined step by step."""
        return tuple(x for x in self.lets if isinstance(x, Recurrence))

    def prove(self) -> Proof:
        """Run every check; raises Unproved unless all hold."""
        return Proof(self, tuple(self._verdict(s) for s in self.steps), tuple(t.run(self) for t in self.ties))

    def _verdict(self, step: Step) -> Verdict:
        start = perf_counter()
        rules = step.by(step.claim, self.definitions)
        return Verdict(step, rules is not None, tuple(sorted(rules or ())), perf_counter() - start)


class Verdict(Struct, frozen=True):
    """What a check said of a step, by which rules of the kernel, in what time."""

    step: Step
    holds: bool
    rules: tuple[str, ...]
    time_s: float


class Proof(Struct, frozen=True):
    """A derivation whose every check has run, whose hypotheses have models and whose ties hold. Nothing else is printed."""

    page: Derivation
    verdicts: tuple[Verdict, ...]
    tied: tuple[Tied, ...]

    def __post_init__(self) -> None:
        bad = [f"step {n} is not shown: {v.step.says}" for n, v in enumerate(self.verdicts, 1) if not v.holds]
        bad += [f"no model: {g.says}" for g in self.page.given if not satisfied(self.page, g)]
        bad += [
            f"not what {t.tie.variant} computes: {t.tie.says} (off by {t.error:.2g})" for t in self.tied if not t.holds
        ]
        if [v.step for v in self.verdicts] != list(self.page.steps):
            bad += ["not every step was checked"]
        if bad:
            raise Unproved(together(bad, f"{self.page.name}:"))

    def count(self, level: Level) -> int:
        """How many steps are shown at this level."""
        return sum(v.step.by.level == level for v in self.verdicts)


# -- numbers ----------------------------------------------------------------------------------------------------------


def models(page: Derivation, using: Iterable[Any] = ()) -> dict[str, Callable[..., Any]]:
    """What the page's names stand for, as functions of a world: definitions unfold, recurrences run, hypotheses have models.

    >>> from attnmath import derivations
    >>> sorted(models(derivations.get("softmax")))
    ['F', 'G', 'V', 'mu', 'p', 'w']
    """
    out: dict[str, Callable[..., Any]] = {}
    for g in page.given:
        if g.claim in using:
            out |= g.model
    out |= {str(head(c.lhs)): unfolding(c) for c in page.definitions}
    return out | {str(r.tensor): _running(r) for r in page.recurrences}


def unfolding(c: Claim) -> Callable[..., Any]:
    """A definition as a function of a world and positions: what its right side is there.

    >>> import random
    >>> from attnmath.proving.terms import counts, eq, tensors
    >>> t, (x,) = counts("t"), tensors("x")
    >>> unfolding(eq(x[t], 2 * t))(oracle.World({}, random.Random(0)), 3)
    6
    """
    places = c.lhs.args[1:] if not c.lhs.is_Symbol else ()
    if c.lhs.is_Function:
        places = c.lhs.args
    return lambda world, *idx: world(c.rhs, dict(zip(places, idx)))


def _running(r: Recurrence) -> Callable[..., Any]:
    def run(world: oracle.World, n: int, *idx: int) -> Any:
        first = world(r.start.lhs.args[1])
        if n < first:
            raise oracle.Outside
        if n == first:
            return world(r.start.rhs, dict(zip(r.start.lhs.args[2:], idx)))
        return world(r.step.rhs, {**dict(zip(r.step.lhs.args[2:], idx)), r.t: n - 1})

    return run


def satisfied(page: Derivation, given: Given) -> bool:
    """Whether the model of a hypothesis satisfies it.

    >>> from attnmath import derivations
    >>> page = derivations.get("low-rank")
    >>> all(satisfied(page, g) for g in page.given)
    True
    """
    return oracle.agree(given.claim, when=given.when, defined=given.model, trials=4)


def meaning(page: Derivation, step: Step, claim: Claim | None = None, trials: int = 4, seed: int = 0) -> bool | None:
    """Whether a step (or a claim in its place) is true of numbers; None where the oracle cannot say.

    >>> from attnmath import derivations
    >>> page = derivations.get("softmax")
    >>> meaning(page, page.steps[0])
    True
    """
    if isinstance(step.by, Tested):  # a measurement is no identity, and nobody but the check measures
        return None
    claim = step.claim if claim is None else claim
    using = _rests_on(page, step)
    when = (*step.when, *(c for g in page.given if g.claim in using for c in g.when))
    laws: dict[str, str] = {}
    for by in [x.by for x in page.steps if x.claim in using] + [step.by]:
        if isinstance(by, Moments):
            laws |= {str(r): "three" if by.gaussian else "sign" for r in by.random}
        elif isinstance(by, Gaussian):
            laws |= {str(by.random): "normal"}
    also = [x for c in page.definitions for x in c.args]
    also += [x for r in page.recurrences for c in (r.start, r.step) for x in c.args]
    defined = models(page, using)
    rows = [x for c in getattr(step.by, "rows", ()) for x in c.args]
    rows += [x for g in page.given if g.claim in using for x in g.claim.args]  # models may be made of definitions
    needed = _needed([*claim.args, *rows], also, defined)
    try:
        return oracle.agree(
            claim,
            when=when,
            also=[*rows, *(e for e in also if e in needed)],
            defined=defined,
            laws=laws,
            trials=1 if "normal" in laws.values() else trials,  # each is a mean over thousands of outcomes
            seed=seed,
            top=2 if "normal" in laws.values() else 3,
        )
    except (NotImplementedError, RuntimeError):
        return None


def _needed(exprs: list[Any], also: list[Any], defined: Mapping[str, Any]) -> list[Any]:
    """Those definitions' expressions that the claim reaches, so that no size is drawn in vain."""
    found: list[Any] = []
    todo = list(exprs)
    while todo:
        names = heads(todo.pop())
        for lhs, rhs in zip(also[::2], also[1::2]):
            if str(head(lhs)) in names and rhs not in found:
                found += [lhs, rhs]
                todo.append(rhs)
    return found


def _rests_on(page: Derivation, step: Step) -> tuple[Any, ...]:
    """The hypotheses that a step rests on, by itself or through earlier steps."""
    known, todo = {s.claim: s for s in page.steps}, [step]
    out: list[Any] = []
    while todo:
        for c in todo.pop().by.using:
            out.append(c)
            if c in known:
                todo.append(known[c])
    return tuple(out)


__all__ = [
    "BadPage",
    "Derivation",
    "Given",
    "Let",
    "Proof",
    "Recurrence",
    "Relational",
    "Same",
    "Step",
    "Tie",
    "Unproved",
]
