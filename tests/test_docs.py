"""Documentation that is true: public docstrings are whole and their examples run, README sessions are what is printed, reports do not drift."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shlex
import sys
from pathlib import Path

import pytest

import attnmath
from attnmath.cli import run

ROOT = Path(__file__).resolve().parent.parent
MODULES = [m.name for m in pkgutil.walk_packages(attnmath.__path__, "attnmath.") if not m.name.endswith("__main__")]


def public(module):
    for name, thing in vars(module).items():
        if (
            not name.startswith("_")
            and getattr(thing, "__module__", None) == module.__name__
            and (inspect.isfunction(thing) or inspect.isclass(thing))
        ):
            yield name, thing


@pytest.mark.parametrize("name", MODULES)
def test_modules_classes_and_functions_say_what_they_are(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for what, thing in public(module):
        assert inspect.getdoc(thing), f"{name}.{what} has no docstring"
        if inspect.isfunction(inspect.unwrap(thing)) and not name.startswith(("attnmath.cli", "attnmath.derivations.")):
            assert ">>>" in inspect.getdoc(thing), f"{name}.{what} has no example"
        if inspect.isclass(thing):
            for method, f in vars(thing).items():
                if (
                    inspect.isfunction(f)
                    and not method.startswith("_")
                    and "attnmath" in f.__module__
                    and not name.endswith(("parse", "cli", "evaluate"))
                ):
                    assert inspect.getdoc(f), f"{name}.{what}.{method} has no docstring"


@pytest.mark.parametrize("name", [n for n in attnmath.__all__ if n != "AttnmathError"])
def test_public_verbs_are_documented_with_an_example_and_their_errors(name):
    doc = inspect.getdoc(getattr(attnmath, name))
    assert ">>>" in doc
    assert "Raises" in doc or "Error" in doc


def sessions():
    """(command, what follows it) of every console block of the README whose first line is a command."""
    text = (ROOT / "README.md").read_text()
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        command, _, rest = block.partition("\n")
        if command.startswith("$ attnmath"):
            yield command[2:], rest


@pytest.mark.parametrize(("command", "printed"), list(sessions()))
def test_the_readme_shows_what_is_printed(command, printed, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    fails = "plan check" in command and "/fails-" in command  # a plan that does not fit, to show what is said then
    assert run(shlex.split(command)[1:]) == fails
    assert capsys.readouterr().out == printed


def test_the_readme_has_sessions():
    assert len(list(sessions())) >= 3


def test_reports_do_not_drift():
    sys.path.insert(0, str(ROOT / "reports"))
    import make

    for name, text in make.documents().items():
        path = ROOT / "reports" / name
        assert path.exists(), f"{name} is missing: run `python3 dev.py reports` and commit what it writes"
        assert path.read_text() == text, f"{name}: run `python3 dev.py reports`"
    measured = {"time-model.md"}  # from data that are not here: tests/test_latency.py
    assert {p.name for p in (ROOT / "reports").glob("*.md")} == set(make.documents()) | measured


def test_architecture_names_what_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in re.findall(r"`((?:attnmath|templates|tests|reports|benchmarks)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_nothing_of_how_it_was_made_is_in_it():
    for path in [
        *ROOT.glob("attnmath/**/*.py"),
        *ROOT.glob("*.md"),
        *ROOT.glob("attnmath/**/*.toml"),
        *ROOT.glob("attnmath/**/*.attn"),
    ]:
        assert not re.search(r"/(root|home|work|tmp)/", path.read_text()), path
