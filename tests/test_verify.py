"""`attnmath verify`: what it prints, its exit codes and documents, and that a planted fault fails the law that is about it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import jsonschema
import pytest

from attnmath.language import masks, ops
from attnmath.language import tiles as tiling
from attnmath.language.formula import Formula
from attnmath.language.parse import program
from attnmath.proving import oracle
from attnmath.readings import count as counting
from attnmath.readings import evaluate as evaluating
from attnmath.readings import memory, streams
from attnmath.readings.traffic import Traffic
from attnmath.schemas import json_schema
from attnmath.verifying import cases
from attnmath.verifying.laws import LAWS, Compared, Law
from attnmath.verifying.running import verify


def changed(row, **new):
    return type(row)(**{n: new.get(n, getattr(row, n)) for n in row.__struct_fields__})


def one_form_doubles(m):
    """The last form of a page computes twice what the others do."""
    build = cases.layers.build

    def wrong(*args, **more):
        layer = build(*args, **more)
        *_, last = layer.forms
        text = str(layer.forms[last]).replace("Y[b t m] = ", "Y[b t m] = 2 * ")
        return changed(layer, forms={**layer.forms, last: program(text)})

    m.setattr(cases.layers, "build", wrong)


def offset(what):
    """Index tuples are miscounted by one, in one kind of arithmetic."""

    def plant(m):
        right = counting.Space._tuples

        def wrong(self, found):
            n = right(self, found)
            return n + 1 if hasattr(n, what) else n

        m.setattr(counting.Space, "_tuples", wrong)

    return plant


FAULTS = {  # law -> (a name that shows it, the fault)
    "values": (
        "gqa",
        lambda m: m.setattr(masks.Mask, "dense", lambda s, i, j: (i == i) | (j == j)),
    ),
    "counts": ("gqa", lambda m: m.setitem(ops.OPS, "softmax", changed(ops.OPS["softmax"], cost=4))),
    "categories": ("gqa", lambda m: m.setattr(counting, "learned", lambda x: False)),
    "compulsory": ("sliding-window", lambda m: m.setattr(masks.Mask, "keys_seen", lambda s, t, n, past=0: n)),
    "unfused": ("gqa", lambda m: m.setattr(memory, "from_cache", lambda page: frozenset())),
    "caches": ("sliding-window", lambda m: m.setattr(masks.Mask, "span", lambda s, n: n)),
    "formulas": ("sliding-window", lambda m: m.setattr(Formula, "minimum", Formula.maximum)),
    "arrays": ("gqa", offset("dtype")),
    "symbols": ("gqa", offset("free_symbols")),
    "forms": ("mla", one_form_doubles),
    "decoding": ("gqa", lambda m: m.setattr(evaluating._Machine, "offset", lambda self, q: 0)),
    "gradients": (
        "mqa",
        lambda m: m.setitem(
            ops.OPS, "softmax", changed(ops.OPS["softmax"], adjoint=("y * g", ops.OPS["softmax"].adjoint[1]))
        ),
    ),
    "backward": ("mqa", lambda m: m.setitem(ops.OPS, "sum", changed(ops.OPS["sum"], cost=0))),
    "streams": ("gqa", lambda m: m.setattr(streams, "LOWEST", 0.0)),
    "traffic": ("gqa", lambda m: m.setattr(Traffic, "_statistics", lambda self, k: 0)),
    "pairs": (
        "window",
        lambda m: m.setitem(
            masks.MASKS, "window", changed(masks.MASKS["window"], pieces=lambda past, w: (masks.Piece(lo=-w, hi=0),))
        ),
    ),
    "tiles": ("causal", lambda m: m.setattr(tiling, "_nothing", lambda x: True)),
    "derivations": ("softmax", lambda m: m.setattr(oracle, "agree", lambda *args, **more: False)),
    "text": ("gqa", lambda m: m.setattr(masks.MaskExpr, "__str__", lambda self: "full")),
    "latex": (
        "gqa",
        lambda m: m.setitem(ops.OPS, "softmax", changed(ops.OPS["softmax"], latex=r"\softmaxx_{{{o}} {0}")),
    ),
}


def test_every_law_has_a_fault():
    assert set(FAULTS) == set(LAWS)


@pytest.mark.parametrize("law", LAWS)
def test_a_planted_fault_is_caught_and_repeated(law, call, monkeypatch):
    name, plant = FAULTS[law]
    line = f"verify {name} --law {law} --cases 24 --jobs 1 --seed 40"
    assert call(line)[0] == 0, "without the fault it holds"
    plant(monkeypatch)
    code, out, err = call(f"{line} --json")
    assert (code, err) == (1, "")
    d = json.loads(out)
    (failure,) = d["failures"]
    assert (d["verdict"], failure["law"], failure["name"]) == ("fail", law, name)
    assert 40 <= failure["seed"] < 64
    code, again, _ = call([*shlex.split(failure["command"])[1:], "--json"])
    assert code == 1
    (repeated,) = json.loads(again)["failures"]
    assert {**repeated, "failed": None} == {**failure, "failed": None}


def test_a_failure_is_told_in_full(call, monkeypatch):
    FAULTS["counts"][1](monkeypatch)
    code, out, _ = call("verify mqa gqa --law counts --law forms --law text --jobs 1")
    assert code == 1
    assert "counts fails on" in out
    assert "repeat  attnmath verify gqa --law counts --seed " in out
    assert "case    gqa" in out
    assert "is      " in out and "not     " in out
    assert "does not hold: counts; variant gqa, mqa; seed 0" in out
    table = {line.split()[0]: line.split() for line in out.split("\n\n")[0].splitlines()}
    assert "FAILS" in table["counts"] and "holds" in table["text"] and "-" in table["forms"]


def test_what_raises_fails(call, monkeypatch):
    monkeypatch.setattr(evaluating._Machine, "read", lambda self, r: 1 / 0)
    code, out, err = call("verify mqa --law values --cases 1")
    assert (code, err) == (1, "")
    assert "ZeroDivisionError: division by zero" in out
    monkeypatch.setattr(cases.layers, "build", lambda *a: 1 / 0)
    assert "cannot be drawn" in call("verify mqa --law values --cases 1")[1]


def test_it_holds_and_says_so(call):
    code, out, err = call("verify mqa rope linear causal --cases 2 --seed 3")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(
        "all of it holds; variant mqa, modifier rope, block linear, mask causal; seed 3;"
    )
    for name, law in LAWS.items():
        assert f"{name} " in out and law.says in out


def test_the_same_seed_tries_the_same_in_any_number_of_processes():
    one, two = (verify(["mqa", "window", "mha"], ["counts", "pairs"], seed=9, jobs=jobs) for jobs in (1, 2))
    plain = lambda v: [(x.law, x.name, x.cases, x.comparisons, x.failed) for x in v.tried]
    assert plain(one) == plain(two)
    assert plain(one) != plain(verify(["mqa", "window", "mha"], ["counts", "pairs"], seed=10, jobs=1))
    assert [x.name for x in one.laws] == ["counts", "pairs"]


def test_thorough_is_ten_times_as_many():
    quick, thorough = (verify(["softcap"], ["latex"], thorough=t, jobs=1) for t in (False, True))
    assert thorough.laws[0].cases == 10 * quick.laws[0].cases


@pytest.mark.parametrize("fault", [False, True])
def test_json_keeps_its_schema(fault, call, monkeypatch):
    if fault:
        FAULTS["counts"][1](monkeypatch)
    code, out, _ = call("verify mqa --law counts --law values --json --jobs 1")
    d = json.loads(out)
    assert code == fault
    jsonschema.validate(d, json_schema("verify"))
    assert d["schema"] == "attnmath.verify/1"
    assert d["verdict"] == ("fail" if fault else "pass")
    assert d["subjects"] == {"variant": ["mqa"]}
    row = next(x for x in d["laws"] if x["name"] == "values")
    assert row["verdict"] == "pass" and 0 <= row["largest_error"] < 1e-12
    assert row["comparisons"] == sum(x["comparisons"] for x in d["tried"] if x["law"] == "values")


def test_junit_parses(call, monkeypatch):
    FAULTS["counts"][1](monkeypatch)
    code, out, _ = call("verify mqa gqa --law counts --law text --law forms --format junit --cases 1 --jobs 1")
    assert code == 1
    root = ElementTree.fromstring(out)
    suites = {s.get("name"): s for s in root}
    assert list(suites) == ["counts", "forms", "text"]
    assert (suites["counts"].get("tests"), suites["counts"].get("failures")) == ("2", "2")
    assert (suites["text"].get("failures"), suites["forms"].get("skipped")) == ("0", "2")
    (failure,) = suites["counts"].find("testcase[@name='variant gqa']")
    assert "attnmath verify gqa --law counts --seed 0 --cases 1" in failure.text


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ("verify gqaa ropee --law coutns", ["3 errors", "did you mean 'gqa'", "'rope'", "did you mean 'counts'"]),
        ("verify causal --law counts", ["says nothing about a mask, causal; the laws that do are pairs, tiles"]),
        ("verify gqa --law forms", ["nothing to compare: forms has nothing to say about gqa"]),
        ("verify gqa --cases 0", ["--cases 0: from 1 to"]),
        ("verify gqa --cases 3 --thorough", ["both say how many cases"]),
        ("verify gqa --seed -1", ["--seed"]),
        ("verify gqa --seed x", ["--seed"]),
        ("verify gqa --jobs 0", ["--jobs"]),
        ("verify gqa --format csv", ["--format"]),
    ],
)
def test_wrong_usage_is_no_verdict(line, messages, call):
    code, out, err = call(line)
    assert (code, out) == (2, "")
    assert all(m in err for m in messages), err


def test_other_kinds_and_laws_are_rows(call, monkeypatch):
    """What somebody adds to the tables is named, tried and repeated like the rest."""
    from random import Random

    monkeypatch.setitem(
        cases.KINDS,
        "tale",
        cases.Kind(lambda: ["moon"], lambda rng, name, turn: f"{name} {rng.random()}", lambda name: 3),
    )
    monkeypatch.setitem(
        LAWS,
        "cheese",
        Law("the moon is made of it", lambda case, rng: iter([Compared("cheese", len(case) < 9)]), ("tale",)),
    )
    code, out, _ = call("verify moon")
    assert code == 1
    assert "cheese fails on 3 cases of tale moon" in out
    assert f"case    moon {Random('tale moon 0').random()}" in out


@pytest.mark.parametrize(
    ("words", "found"), [("verify gated", "gated-deltanet"), ("verify rop", "rope"), ("verify gqa --law cou", "counts")]
)
def test_names_are_completed(words, found):
    words = f"attnmath {words}"
    more = {"_ATTNMATH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    command = os.path.join(os.path.dirname(sys.executable), "attnmath")
    done = subprocess.run([command], capture_output=True, text=True, env={**os.environ, **more})
    assert found in done.stdout


def hearing():
    """Whoever runs these tests in the background does not hear Ctrl-C, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_leaves_no_traceback_and_no_process():
    line = [sys.executable, "-m", "attnmath", "verify", "--thorough", "--jobs", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, **pipes, start_new_session=True, preexec_fn=hearing)
    time.sleep(5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)  # both end when the last process that holds them does
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "")


def test_help_is_light():
    code = "import sys\nfrom attnmath.cli import run\nrun(['verify', '--help'])\nassert 'numpy' not in sys.modules, 1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--law" in done.stdout


def test_an_interrupt_while_processes_start_is_not_lost():
    """It waits until they are there, and none of them hears it."""
    code = (
        "import os, signal, sys\n"
        "from attnmath.verifying.running import _deaf\n"
        "try:\n"
        "    with _deaf():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('goes on')\n"
        "except KeyboardInterrupt:\n"
        "    print('is heard')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, preexec_fn=hearing)
    assert done.stdout == "goes on\nis heard\n"
