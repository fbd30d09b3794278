"""The laws of `verify`: on everything by its own cases, on whatever hypothesis draws, and none about nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import subjects

import attnmath
from attnmath import variants
from attnmath.verifying import judge
from attnmath.verifying.cases import KINDS, MODIFIERS, combinations, draw
from attnmath.verifying.laws import LAWS
from attnmath.verifying.running import verify

# derivations have no sizes to draw: tests/test_derivations.py tries them step by step
EVERYTHING = [(kind, name) for kind, row in KINDS.items() if kind != "derivation" for name in row.names()]


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_law_holds_of_everything_there_is(kind, name):
    """A page, a modifier, a block, a mask: tried by existing, every form under every set of modifiers."""
    found = verify([name], jobs=1)
    assert not found.failures, "\n".join(map(str, found.failures))
    of_one = {x.law: x for x in found.tried if x.kind == kind}
    always = {"mask": {"pairs"}}.get(kind, {"values", "counts", "gradients", "backward", "formulas", "text", "latex"})
    assert all(of_one[law].comparisons for law in always)


@pytest.mark.parametrize("name", [n for n in LAWS if n != "derivations"])
def test_every_law_holds_of_whatever_is_drawn(name):
    law = LAWS[name]

    @given(subjects(law.of), st.randoms(use_true_random=False))
    def holds(case, rng):
        wrong = [c for c in law.check(case, rng) if not c.holds]
        assert not wrong, f"{case}: {wrong[0]}"

    holds()


REACHED = {  # subjects that a law has to find something to compare in
    "categories": ["cross", "gqa", "mha", "mla", "mqa", "sliding-window", "shared-window"],
    "compulsory": ["gqa", "mha", "mla", "mqa", "sliding-window"],
    "unfused": ["gqa", "mha", "mla", "mqa", "sliding-window"],
    "caches": ["gqa", "mla", "sliding-window", "nsa", "csa", "mamba2", "kda", "linear-attention"],
    "arrays": ["gqa", "mla", "nsa", "kda"],
    "symbols": ["gqa", "mla"],
    "forms": ["mla", "kda", "mamba2", "linear-attention", "gated-deltanet", "lightning-attention"],
    "decoding": sorted(set(variants.names()) - {"cross"}),
    "streams": ["gqa", "mha", "mqa", "mla", "cross", "sliding-window", "shared-window", "linear-attention"],
    "traffic": ["gqa", "mha", "mqa", "mla", "sliding-window", "shared-window", "mamba2"],
}


@pytest.mark.parametrize("law", REACHED)
def test_laws_reach_what_they_are_about(law):
    """No law holds because it compares nothing."""
    found = verify(REACHED[law], [law], jobs=1, cases=2 if law == "symbols" else 8)
    assert {x.name for x in found.tried if x.comparisons} == set(REACHED[law])


def test_every_form_under_every_set_of_modifiers_has_its_turn():
    for name in variants.names():
        made = [draw("variant", name, seed) for seed in range(KINDS["variant"].turns(name))]
        found = {(c.form, tuple(c.uses)) for c in made}
        assert len(found) == len(variants.get(name).forms) * len(combinations(name))
    assert set(MODIFIERS) <= set(variants.names())


def test_cases_follow_from_the_seed():
    for kind, name in EVERYTHING:
        assert str(draw(kind, name, 5)) == str(draw(kind, name, 5))
    assert len({str(draw("variant", "gqa", seed)) for seed in range(0, 400, 20)}) > 10


# -- the judges


ROOM = Path(attnmath.__file__).parent / "verifying"


def imported(path):
    """The modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize(
    ("judge_", "allowed"),
    [
        ("judge.py", set()),
        ("loops.py", {"attnmath.verifying.judge"}),
        ("pushing.py", {"attnmath.verifying.judge"}),
    ],
)
def test_the_judges_share_no_code_with_what_they_judge(judge_, allowed):
    own = {m for m in imported(ROOM / judge_) if m.startswith((".", "attnmath"))}
    assert own == allowed
    assert {"math", "attnmath.verifying.judge"} & set(imported(ROOM / judge_))


def test_nothing_that_ships_runs_text():
    for path in Path(attnmath.__file__).parent.rglob("*.py"):
        calls = [
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
        assert not {"eval", "exec", "__import__"} & set(calls), path


@pytest.mark.parametrize(
    "text", ["__import__('os')", "t.real", "[t]", "lambda: 1", "t if t else 1", "u + 1", "open(t)", "'a'"]
)
def test_the_judge_reads_formulas_and_nothing_else(text):
    with pytest.raises((ValueError, SyntaxError)):
        judge.number(text, {"t": 3})


def test_the_judge_is_exact():
    n = 10**30 + 1
    assert judge.number("b*t*(t + 1)/2 + floor(t/3)**2", {"b": 2, "t": n}) == n * (n + 1) + (n // 3) ** 2
    assert judge.number("stairs(t, 3)", {"t": 10}) == 10 + 7 + 4 + 1
    assert judge.number("t/3", {"t": 1}) * 3 == 1
