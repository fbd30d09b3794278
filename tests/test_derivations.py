"""The derivations: proved, true of numbers, not provable when changed, tied to what is computed, and typeset."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache

import pytest
from msgspec.structs import replace
from sympy import Lambda, Rational

from attnmath import cost, derivations
from attnmath.cli import run as command_line
from attnmath.errors import AttnmathError
from attnmath.language.ops import OPS
from attnmath.proving.checks import Algebra, Level, spelled_out
from attnmath.proving.mutants import mutants
from attnmath.proving.page import meaning
from attnmath.reporting import derivation as report
from attnmath.reporting import render

NAMES = list(derivations.titles())
STEPS = [(name, n) for name in NAMES for n in range(1, len(derivations.get(name).steps) + 1)]
MOST = 8  # changed claims of a step; `make thorough` tries more, and unfolds them to the bottom


@cache
def proof(name):
    return derivations.get(name).prove()


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_proved_and_its_ties_hold(name):
    found = proof(name)
    assert len(found.verdicts) == len(found.page.steps) >= 4
    assert all(t.entries for t in found.tied)
    assert found.page.question.endswith("?")
    for text in (found.page.statement, found.page.so, found.page.source):
        assert len(text) > 20, "the page does not say what it states, where it is from, or what follows"


def test_nearly_all_steps_are_proved_for_all_sizes_and_the_others_say_why():
    steps = [s for name in NAMES for s in derivations.get(name).steps]
    lower = [s for s in steps if s.by.level < Level.ALL]
    assert len(lower) <= 0.05 * len(steps)
    assert all(len(s.by.reason) > 10 for s in lower)


@pytest.mark.parametrize(("name", "n"), STEPS)
def test_the_oracle_agrees(name, n):
    """What was proved by rewriting is true of numbers, by a walker that shares no line with the rewriting."""
    page = derivations.get(name)
    found = meaning(page, page.steps[n - 1])
    if found is None:
        pytest.skip("the oracle has no numbers for this step")
    assert found


@pytest.mark.parametrize(("name", "n"), STEPS)
def test_changed_claims_are_refused_unless_they_are_true(name, n):
    refuses_changes(name, n, MOST)


def refuses_changes(name, n, most):
    page = derivations.get(name)
    step, refused = page.steps[n - 1], 0
    if step.by.level == Level.CITED:
        pytest.skip("cited, not proved")
    by = step.by if most > MOST else _as_deep(step.by, step.by(step.claim, page.definitions))
    for wrong in mutants(step.claim, most):
        try:
            holds = by(wrong, page.definitions) is not None
        except (AttnmathError, ValueError, NotImplementedError):
            holds = False
        assert not holds or meaning(page, step, wrong) is not False, wrong
        refused += not holds
    assert refused >= 2 or step.claim.rel_op != "==", "hardly a change is refused"


def _as_deep(check, rules):
    """The check, unfolding no more than the true claim needed: what is wrong would be unfolded to the bottom."""
    return replace(check, of=tuple(r[2:] for r in rules if r.startswith("= ")))


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "n"), STEPS)
def test_more_changed_claims_are_refused_unless_they_are_true(name, n):
    refuses_changes(name, n, 12)


def test_the_oracle_has_a_say_in_nearly_all():
    unknown = [
        (name, n)
        for name, n in STEPS
        if meaning(derivations.get(name), derivations.get(name).steps[n - 1], trials=1) is None
    ]
    assert len(unknown) <= 0.05 * len(STEPS), unknown


# -- what is printed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_every_step(name, call):
    found = report.data(proof(name))
    text = call(f"derive {name}")[1]
    d = json.loads(call(f"derive {name} --json")[1])
    assert d["schema"] == "attnmath.derive/1"
    assert {k: v for k, v in d.items() if k != "schema"} == json.loads(json.dumps(found))
    assert len(re.findall(r"^ ?\d+\. ", text, re.M)) == len(found["steps"])
    assert text.count("[proved ") + text.count("[cited") + text.count("[tested") >= len(found["steps"])
    assert max(map(len, text.splitlines())) <= 130
    markdown = render("derivation.md", {"d": report.document(found, "markdown")})
    assert markdown.count("$$") == 2 * (
        len(found["steps"]) + sum(len(x["latex"]) for x in found["definitions"]) + len(found["hypotheses"])
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_typeset_without_a_line_that_sticks_out(name, tmp_path):
    found = report.document(report.data(proof(name)), "latex")
    (tmp_path / "page.tex").write_text(render("derivation.tex", {"d": found}))
    log = typeset(tmp_path)
    assert "undefined" not in log
    assert "Missing character" not in log
    wide = [float(x) for x in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]
    assert max(wide, default=0) <= 5, re.findall(r"Overfull.*?\n\n", log, re.S)
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_page_that_does_not_compile_or_sticks_out_is_caught(tmp_path):
    body = r"\documentclass{article}\begin{document}\noindent\hbox to 2\textwidth{x\hfil}\end{document}"
    (tmp_path / "page.tex").write_text(body)
    assert "Overfull" in typeset(tmp_path)
    (tmp_path / "page.tex").write_text(body.replace("x", r"\nonsense"))
    with pytest.raises(AssertionError):
        typeset(tmp_path)


def typeset(folder):
    """The log of LaTeX, with lines that nothing breaks."""
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"],
        cwd=folder,
        capture_output=True,
        env={**os.environ, "max_print_line": "10000", "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / "page.log").read_text(errors="replace")


# -- what a page composes from readings --------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "chosen", "blocks"), [(64, 4, 10), (32, 2, 7), (128, 3, 5)])
def test_block_selection_costs_what_is_counted_of_moba(block, chosen, blocks):
    """The page puts its cost together from dense attention to means and to blocks; the variant is counted by itself."""
    from attnmath.derivations.sparse_selection import PAGE, N, b, d, h, selecting_blocks, w, y

    shape = {"heads": 8, "kv_heads": 2, "head_dim": 16, "batch": 3}
    counted = cost("moba", phase="decode", seq=block * blocks, block_size=block, top_k=chosen, **shape).flops.matmul
    sizes = {N: block * blocks, w: block, y: chosen, b: 3, d: 16, h: 8}
    assert spelled_out(selecting_blocks, PAGE.definitions).subs(sizes) == counted


# -- the verbs ---------------------------------------------------------------------------------------------------------


def test_unknown_derivations_are_refused_with_the_nearest(call):
    code, out, err = call("derive softmx")
    assert (code, out) == (2, "")
    assert "did you mean 'softmax'" in err


def test_one_is_shown_without_its_proof(call):
    code, out, _ = call("derivations softmax")
    assert code == 0
    assert "softmax:" in out
    assert derivations.get("softmax").question in out


def test_a_derivation_that_does_not_hold_is_not_printed(call, monkeypatch):
    monkeypatch.setattr(Algebra, "__call__", lambda self, claim, definitions=(): None)
    code, out, err = call("derive softmax")
    assert (code, out) == (2, "")
    assert "step 1 is not shown: The weights add up to one" in err


def test_the_package_shows_one():
    import attnmath

    assert attnmath.derivation("softmax").prove().count(Level.ALL) == len(derivations.get("softmax").steps)


_ = command_line


# -- ties to gradients

BACKWARD = [
    (name, k) for name in ("backward", "softmax") for k, tie in enumerate(derivations.get(name).ties) if tie.upstream
]


def places(entry):
    """(the indices of what a tie shows, the expression)"""
    return (entry.variables, entry.expr) if isinstance(entry, Lambda) else (entry.args[1:], entry)


@pytest.mark.parametrize(("name", "at"), BACKWARD)
def test_a_wrong_gradient_is_tied_to_nothing(name, at):
    """Each entry that is shown, half as much again."""
    page = derivations.get(name)
    tie = page.ties[at]
    assert tie.run(page).holds
    for text, entry in tie.shows.items():
        index, expr = places(entry)
        wrong = replace(tie, shows={text: Lambda(tuple(index), expr * Rational(3, 2))})
        assert not wrong.run(page).holds, text


def test_a_wrong_adjoint_unties(monkeypatch):
    page, row = derivations.get("backward"), OPS["softmax"]
    wrong = {n: getattr(row, n) for n in row.__struct_fields__} | {
        "adjoint": ("y * (g + sum_o(y * g))", row.adjoint[1])
    }
    monkeypatch.setitem(OPS, "softmax", type(row)(**wrong))
    assert not any(t.run(page).holds for t in page.ties if t.upstream)
    assert all(t.run(page).holds for t in page.ties if not t.upstream)


def test_a_tie_to_a_name_that_is_not_computed_names_others():
    page = derivations.get("softmax")
    tie = next(t for t in page.ties if t.upstream)
    with pytest.raises(AttnmathError, match=r"mha: unknown tensor .dP.: did you mean"):
        replace(tie, shows={"dP[n]": tie.shows["dL[n]"]}).run(page)
