"""What an author gets wrong without noticing: each is found when a page is loaded, and the page refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sympy import Indexed, IndexedBase, Product, Sum
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from attnmath.proving.checks import Check, Level, Recurrence, Same
from attnmath.proving.sums import head, heads, reached
from attnmath.proving.terms import Claim, Index, Partial, eq

if TYPE_CHECKING:
    from attnmath.proving.page import Derivation, Step


def found(page: Derivation) -> Iterator[str]:
    """Every slip of a page, a line each.

    >>> from attnmath import derivations
    >>> list(found(derivations.get("softmax")))
    []
    """
    if not page.steps:
        yield "a derivation has steps"
    wrong = [f"{where}: {what}" for where, s in _numbered(page) for what in _shape(s)]
    yield from wrong
    if wrong:
        return
    for where, claim in _claims(page):
        for rule in RULES:
            yield from (f"{where}: {what}" for what in rule(claim))
    for n, s in enumerate(page.steps):
        yield from (f"step {n + 1}: {what}" for what in _content(page, s, page.steps[:n]))
    yield from _dimensions(page)
    yield from _names(page)


def _numbered(page: Derivation) -> list[tuple[str, Step]]:
    return [(f"step {n}", s) for n, s in enumerate(page.steps, 1)]


def _claims(page: Derivation) -> Iterator[tuple[str, Claim]]:
    for x in page.lets:
        for c in (x.start, x.step) if isinstance(x, Recurrence) else (x.claim,):
            yield f"the definition of {head(c.lhs)}", c
    for g in page.given:
        yield f"the hypothesis {g.says!r}", g.claim
    for where, s in _numbered(page):
        yield where, s.claim


def _shape(s: Step) -> Iterator[str]:
    if not isinstance(s.claim, Relational):
        yield f"not a claim but {s.claim!r}; SymPy evaluated it, write it with eq, gt, ge or ne"
    if not isinstance(s.by, Check) or type(s.by) is Check:
        yield f"needs a check, not {s.by!r}"
    elif s.by.level < Level.ALL and not getattr(s.by, "reason", ""):
        yield "is not proved for all sizes and does not say why"
    if not s.says.strip():
        yield "says nothing"


# -- of one claim -----------------------------------------------------------------------------------------------------


def _bound_twice(claim: Claim) -> Iterator[str]:
    """Sum over i of (sum over i of ..): the inner one hides the outer, which the author did not see."""

    def within(e: Any, bound: frozenset[Any]) -> Iterator[str]:
        if isinstance(e, (Sum, Product)):
            names = [limit[0] for limit in e.limits]
            for v in names:
                if v in bound or names.count(v) > 1:
                    yield f"the index {v} is bound twice, one inside the other"
            bound |= set(names)
        for a in e.args:
            yield from within(a, bound)

    for side in claim.args:
        yield from dict.fromkeys(within(side, frozenset()))


def _free_and_bound(claim: Claim) -> Iterator[str]:
    for side in claim.args:
        bound = {v for s in side.atoms(Sum, Product) for v, *_ in s.limits}
        for v in sorted(bound & side.free_symbols, key=str):
            yield f"the index {v} is both free and bound on one side"


def _captured(claim: Claim) -> Iterator[str]:
    """T[.., a, a] under a sum over a: the mark of a helper that binds a and was handed a."""
    for side in claim.args:
        bound = {v for s in side.atoms(Sum, Product) for v, *_ in s.limits}
        for x in side.atoms(Indexed):
            for v in {a for a in x.args[1:] if a in bound and x.args[1:].count(a) > 1}:
                yield f"{x.base} has the bound index {v} twice: was it handed to a helper that binds it?"


def _idle(claim: Claim) -> Iterator[str]:
    """A sum over an index that its terms do not have, but other tensors do."""
    for side in claim.args:
        for s in side.atoms(Sum):
            names = [limit[0] for limit in s.limits]
            for n, v in enumerate(names):
                if (
                    not s.function.has(v)
                    and not any(x.has(v) for limit in s.limits[:n] for x in limit[1:])
                    and s.has(Indexed)
                ):
                    yield f"sums over {v}, which nothing under the sum has"


def _loose(claim: Claim) -> Iterator[str]:
    left, right = ({s for s in side.free_symbols if isinstance(s, Index)} for side in claim.args)
    for v in sorted(right - left, key=str):
        yield f"the index {v} is free on the right and absent on the left"


RULES: tuple[Callable[[Claim], Iterator[str]], ...] = (_bound_twice, _free_and_bound, _captured, _idle, _loose)


# -- of a step on its page --------------------------------------------------------------------------------------------


def _content(page: Derivation, s: Step, before: tuple[Step, ...]) -> Iterator[str]:
    earlier = [x.claim for x in before]
    given = [g.claim for g in page.given]
    if s.claim in given or s.claim.reversed in given:
        yield "claims what is assumed"
    if s.claim in earlier:
        yield "repeats an earlier step"
    if s.claim in page.definitions:
        yield "is true by construction: it restates a definition"
    elif (
        not isinstance(s.by, Same)
        and _made_of_the_same(s.claim, page)
        and Same()(s.claim, page.definitions) is not None
    ):
        yield "is true by construction: the definitions make both sides one (if it is worth a line, say so with `same`)"
    for p in s.claim.atoms(Partial):
        for r in page.recurrences:
            by, stepwise = (
                str(head(p.args[1])),
                (*page.definitions, *(eq(x.tensor, x.step.rhs + x.start.rhs) for x in page.recurrences)),
            )
            if str(r.tensor) in reached(p.args[0], stepwise) and by in reached(r.step.rhs + r.start.rhs, stepwise):
                yield f"takes a derivative through the recurrence of {r.tensor}, which the kernel does not follow"
    rows = getattr(s.by, "rows", ())
    for c in s.by.using:
        if c not in given and c not in earlier:
            yield f"uses {c}, which is neither a hypothesis nor an earlier step"
    for c in rows:
        if c not in page.definitions:
            yield f"unfolds {c}, which the page does not define"
    if (over := getattr(s.by, "recurrence", None)) is not None and over not in page.recurrences:
        yield f"inducts over {over.tensor}, which the page does not define"


def _made_of_the_same(claim: Claim, page: Derivation) -> bool:
    """Whether both sides of an equation are made of the same undefined names; if not, no unfolding makes them one."""
    if claim.rel_op != "==":
        return False
    defined = {str(head(d.lhs)) for d in page.definitions}
    left, right = (reached(side, page.definitions) - defined for side in claim.args)
    return left == right


# -- of the page ------------------------------------------------------------------------------------------------------


def _dimensions(page: Derivation) -> Iterator[str]:
    """A tensor has one number of axes, and an axis one length."""
    seen: dict[tuple[str, int], set[Any]] = {}
    ranks: dict[str, set[int]] = {}
    for _, claim in _claims(page):
        for x in claim.atoms(Indexed):
            ranks.setdefault(str(x.base), set()).add(len(x.args) - 1)
            for n, place in enumerate(x.args[1:]):
                if isinstance(place, Index):
                    seen.setdefault((str(x.base), n), set()).add(place.size)
    for name, found_ in sorted(ranks.items()):
        if len(found_) > 1:
            yield f"{name} has {' and '.join(map(str, sorted(found_)))} indices"
    for (name, n), lengths in sorted(seen.items()):
        if len(lengths) > 1:
            yield f"{name}: its index {n + 1} runs over {' and over '.join(sorted(map(str, lengths)))}"


def _names(page: Derivation) -> Iterator[str]:
    """Every letter has one meaning, and every definition a use; none goes round in a circle."""
    defined: dict[str, set[str]] = {}
    for x in page.lets:
        for c in (x.start, x.step) if isinstance(x, Recurrence) else (x.claim,):
            name = str(head(c.lhs))
            if name in defined and not isinstance(x, Recurrence):
                yield f"{name} is defined twice"
            own = {name} if isinstance(x, Recurrence) else set()
            defined[name] = defined.get(name, set()) | heads(c.rhs) - own
    for name in defined:
        reached, todo = set(), [*defined[name]]
        while todo:
            if (n := todo.pop()) not in reached:
                reached.add(n)
                todo += defined.get(n, ())
        if name in reached:
            yield f"the definition of {name} goes round in a circle"
    used = set().union(*(heads(s.claim) for s in page.steps), *(t.heads for t in page.ties), *defined.values())
    yield from (f"{name} is defined and never used" for name in defined if name not in used)
    tensors = {str(x.base) for _, c in _claims(page) for x in c.atoms(Indexed)}
    symbols = {
        str(s) for _, c in _claims(page) for s in c.free_symbols if not isinstance(s, (Indexed, IndexedBase, Index))
    }
    yield from (f"{n} is the name of a tensor and of a number" for n in sorted(tensors & (symbols - _labels(page))))
    told = {str(head(n)) for n, _ in page.notation}
    lengths = {str(s) for _, c in _claims(page) for i in c.atoms(Index) for s in i.size.free_symbols}
    bound = {str(v) for _, c in _claims(page) for s in c.atoms(Sum, Product) for v, *_ in s.limits}
    missing = (tensors | symbols | lengths | _functions(page)) - set(defined) - told - (bound - lengths)
    yield from (f"the letter {n} has no meaning in the notation" for n in sorted(missing))


def _labels(page: Derivation) -> set[str]:
    """Names that SymPy counts among the free symbols because they are the label of a tensor."""
    return {str(x.base.label) for _, c in _claims(page) for x in c.atoms(Indexed)} - {
        str(s) for _, c in _claims(page) for i in c.atoms(Index) for s in i.size.free_symbols
    }


def _functions(page: Derivation) -> set[str]:
    """The functions without a definition of SymPy's own."""
    return {x.func.__name__ for _, c in _claims(page) for x in c.atoms(AppliedUndef)}
