"""Real installations in clean environments: from a wheel, editable, and a bare checkout; the templates are found in each."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.install


def run(*command: object, cwd: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env={**clean, **env})
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(folder: Path) -> Path:
    run(sys.executable, "-m", "venv", folder, cwd=ROOT)
    return folder / "bin" / "python"


def pip(python: Path, *arguments: object) -> None:
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments, cwd=ROOT)


def answers(python: Path, where: Path, **env: str) -> None:
    """The main job and both templates, run from a folder that is not the repository."""
    out = run(python, "-m", "attnmath", "cost", "--variant", "gqa", "--seq", "8192", "--heads", "32", cwd=where, **env)
    assert "549,822,922,752" in out
    assert (
        run(python, "-m", "attnmath", "equations", "gqa", "--format", "markdown", cwd=where, **env)
        == (ROOT / "reports" / "gqa.md").read_text()
    )
    assert r"\begin{document}" in run(
        python, "-m", "attnmath", "equations", "gqa", "--format", "latex", cwd=where, **env
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--disable-pip-version-check",
        "-w",
        folder,
        ROOT,
        cwd=ROOT,
    )
    return next(folder.glob("*.whl"))


def test_a_wheel_holds_what_it_needs_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"attnmath/templates/equations.md.j2", "attnmath/variants/gqa.attn", "attnmath/hardware/gpus.toml"} <= set(
        names
    )
    assert not [n for n in names if n.startswith(("tests", "reports", "benchmarks"))]


def test_from_a_wheel_and_from_a_bare_checkout(wheel, tmp_path):
    python = environment(tmp_path / "env")
    pip(python, wheel)
    answers(python, tmp_path)
    where = run(python, "-c", "import attnmath.reporting as r; print(r.folder())", cwd=tmp_path).strip()
    assert str(tmp_path / "env") in where
    run(python, "-m", "pip", "uninstall", "-q", "-y", "attnmath", cwd=tmp_path)
    answers(python, tmp_path, PYTHONPATH=str(ROOT))
    where = run(
        python, "-c", "import attnmath.reporting as r; print(r.folder())", cwd=tmp_path, PYTHONPATH=str(ROOT)
    ).strip()
    assert where == str(ROOT / "templates")


def test_editable(tmp_path):
    python = environment(tmp_path / "env")
    pip(python, "-e", ROOT)
    answers(python, tmp_path)
    where = run(python, "-c", "import attnmath.reporting as r; print(r.folder())", cwd=tmp_path).strip()
    assert where == str(ROOT / "templates"), "an edited template takes effect"
    finders = list((tmp_path / "env").glob("lib/*/site-packages/__editable__*"))
    assert not finders, "a plain path file starts faster than an import hook"
