"""A proved derivation as plain data for the templates, the command line and JSON. Nothing that was not checked gets here."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil, log10
from typing import Any

from attnmath.proving.checks import Level, Recurrence
from attnmath.proving.page import Derivation, Proof, Step
from attnmath.proving.printing import latex, latex_lines, plain
from attnmath.proving.sums import head
from attnmath.reporting import md, tex

RULES = {  # the kernel's rules, as a reader calls them
    "lemma": "earlier results used",
    "delta": "deltas contracted",
    "count": "sums counted",
    "fraction": "over one denominator",
}


def data(proof: Proof, typeset: bool = True) -> dict[str, Any]:
    """Question, statement, names, numbered steps with the check of each, ties and what follows; not `typeset`: no LaTeX.

    Sentences come as they are written; `words` turns what they have in backticks into mathematics.

    >>> from attnmath import derivations
    >>> data(derivations.get("softmax").prove())["steps"][0]["text"]
    'Σ_i(p[i]) = 1'
    """
    page, tex = proof.page, (latex_lines if typeset else _untypeset)
    order = tuple(str(head(n)) for n, _ in page.notation) + tuple(_defined(page))
    return {
        "name": page.name,
        "title": page.title,
        "question": page.question,
        "statement": page.statement,
        "source": page.source,
        "notation": [{"text": plain(n), "latex": latex(n), "meaning": m} for n, m in page.notation],
        "definitions": [
            {
                "text": [plain(c, order) for c in claims],
                "latex": [tex(c, order) for c in claims],
                "meaning": says,
            }
            for claims, says in _definitions(page)
        ],
        "hypotheses": [
            {"text": plain(g.claim, order), "latex": tex(g.claim, order), "meaning": g.says} for g in page.given
        ],
        "assumes": list(page.assumes),
        "steps": [_step(page, n, order, v.rules, tex) for n, v in enumerate(proof.verdicts, 1)],
        "ties": [
            {"says": t.tie.says, "variant": t.tie.variant, "tensors": list(t.tie.shows)}
            | {"entries": t.entries, "shapes": t.trials, "seed": t.seed, "error": t.error}
            for t in proof.tied
        ],
        "so": page.so,
        "levels": {level.words: proof.count(level) for level in reversed(Level) if proof.count(level)},
    }


def _defined(page: Derivation) -> list[str]:
    return [str(x.tensor) if isinstance(x, Recurrence) else str(head(x.claim.lhs)) for x in page.lets]


def _definitions(page: Derivation) -> list[tuple[list[Any], str]]:
    return [
        ([x.start, x.step], x.says or f"{x.tensor}, step by step") if isinstance(x, Recurrence) else ([x.claim], x.says)
        for x in page.lets
    ]


def _untypeset(claim: Any, order: tuple[str, ...]) -> list[str]:
    return []


def _step(
    page: Derivation, n: int, order: tuple[str, ...], rules: tuple[str, ...], tex: Callable[..., list[str]]
) -> dict[str, Any]:
    s = page.steps[n - 1]
    return {
        "number": n,
        "says": s.says,
        "text": plain(s.claim, order),
        "latex": tex(s.claim, order),
        "level": s.by.level.words,
        "check": s.by.words,
        "rules": [*_unfolded(rules, order), *(words for r, words in RULES.items() if r in rules), *_measured(rules)],
        "uses": _uses(page, s),
    }


def _measured(rules: tuple[str, ...]) -> list[str]:
    """What a measurement found; a rule that is none of the kernel's says it in words."""
    return [r for r in rules if r not in RULES and not r.startswith("= ")]


def _unfolded(rules: tuple[str, ...], order: tuple[str, ...]) -> list[str]:
    names = sorted((r[2:] for r in rules if r.startswith("= ")), key=lambda n: (order.index(n) if n in order else 0, n))
    return [f"{', '.join(names)} unfolded"] if names else []


def _uses(page: Derivation, s: Step) -> list[int | str]:
    """The earlier steps that it rests on, by number, and the hypotheses, by their sentence."""
    numbers = {x.claim: n for n, x in enumerate(page.steps, 1)}
    said = {g.claim: g.says for g in page.given}
    return sorted(numbers[c] for c in s.by.using if c in numbers) + [said[c] for c in s.by.using if c in said]


def carried(step: dict[str, Any]) -> str:
    """How a step was verified, in one line.

    >>> carried({"level": "tested", "check": "c", "rules": ["r"], "uses": [1, 2, "h"]})
    'tested: c (r), from 1, 2 and h'
    """
    rules = f" ({', '.join(step['rules'])})" if step["rules"] else ""
    uses = [str(u) for u in step["uses"]]
    from_ = f", from {' and '.join(filter(None, [', '.join(uses[:-1]), uses[-1]]))}" if uses else ""
    return f"{step['level']}: {step['check']}{rules}{from_}"


def tied(tie: dict[str, Any]) -> str:
    """What a tie found, in one sentence.

    >>> tied({"says": "the weights", "variant": "mha", "tensors": ["A[n]"], "entries": 6, "shapes": 2, "error": 4e-12})
    'the weights: as `mha` computes `A[n]`, 6 entries at 2 random shapes, no difference above 1e-11'
    """
    above = 10.0 ** max(-15, ceil(log10(tie["error"]))) if tie["error"] else 1e-15
    names = ", ".join(f"`{t}`" for t in tie["tensors"])
    shapes = f"{tie['entries']} entries at {tie['shapes']} random shapes"
    return f"{tie['says']}: as `{tie['variant']}` computes {names}, {shapes}, no difference above {above:.0e}"


def words(text: str, prose: Callable[[str], str], formula: Callable[[str], str]) -> str:
    """A sentence, its words and what stands in backticks each turned into what a format wants.

    >>> words("the width `d` of a head", str.upper, lambda f: f"<{f}>")
    'THE WIDTH <d> OF A HEAD'
    """
    return "".join(formula(part) if k % 2 else prose(part) for k, part in enumerate(text.split("`")))


def spoken(text: str) -> str:
    """A sentence for a terminal: the formulas in it without their markup.

    >>> spoken(r"by `\\\\sqrt{d}` and `p p^T`")
    'by sqrt(d) and p p^T'
    """
    return words(text, str, _unmarked)


SPOKEN = {r"\le": "<=", r"\ge": ">=", r"\times": "x", r"\cdot": "*", r"\to": "->", r"\infty": "infinity", r"\neq": "!="}


def _unmarked(formula: str) -> str:
    for macro, sign in SPOKEN.items():
        formula = re.sub(re.escape(macro) + r"(?![a-z])", lambda _, s=sign: s, formula)  # type: ignore[misc]
    formula = re.sub(r"\\(?:mathrm|operatorname|text)\{([^{}]*)\}", r"\1", formula)
    formula = re.sub(r"\\([a-zA-Z]+)\{([^{}]*)\}", r"\1(\2)", formula)
    return re.sub(r"[{}\\]", "", formula)


def document(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """The data with every sentence turned into what a `kind` of document ("latex" or "markdown") wants.

    >>> from attnmath import derivations
    >>> d = document(data(derivations.get("softmax").prove()), "latex")
    >>> d["steps"][2]["carried"]
    'proved for all sizes: index algebra (p unfolded, deltas contracted)'
    """
    prose = {"latex": tex, "markdown": md}[kind]

    def said(text: str) -> str:
        return words(text, prose, lambda f: f"${f}$")

    def capital(text: str) -> str:
        return said(text[:1].upper() + text[1:])

    def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**r, "meaning": capital(r["meaning"])} for r in rows]

    return {
        **found,
        **{k: said(found[k]) for k in ("title", "question", "statement", "source", "so")},
        "notation": [{**r, "meaning": said(r["meaning"])} for r in found["notation"]],
        "definitions": named(found["definitions"]),
        "hypotheses": named(found["hypotheses"]),
        "assumes": [capital(a) for a in found["assumes"]],
        "steps": [{**s, "says": said(s["says"]), "carried": said(carried(s))} for s in found["steps"]],
        "ties": [prose(tied(t).replace("`", "")) for t in found["ties"]],
        "levels": prose(levels(found)),
    }


def levels(found: dict[str, Any]) -> str:
    """How many steps are shown, and how far.

    >>> levels({"steps": [1, 2], "levels": {"proved for all sizes": 2}})
    '2 steps: 2 proved for all sizes'
    """
    return f"{len(found['steps'])} steps: {', '.join(f'{n} {level}' for level, n in found['levels'].items())}"
