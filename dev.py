#!/usr/bin/env python3
"""Everything a contributor needs, with nothing but Python: it makes .venv, installs attnmath into it, and runs.

python3 dev.py demo        set up, and run the main job
python3 dev.py test        set up, and pass lint, types and tests
python3 dev.py thorough    the same with hundreds of random cases each, and every law of verify on ten times as many
python3 dev.py reports     write the committed documents in reports/ anew
python3 dev.py bench       time and accuracy, as ratios
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"


def run(*command: object, **env: str) -> None:
    """Run a command in the repository; stop at the first that fails."""
    print("$", *command, file=sys.stderr, flush=True)
    code = subprocess.run([str(c) for c in command], cwd=ROOT, env={**os.environ, **env}).returncode
    if code:
        sys.exit(code)


def setup() -> None:
    """A virtual environment with the package (editable) and its development tools; quick where it is up to date."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have an older one
        sys.exit(f"attnmath needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    stamp, wanted = VENV / "stamp", (ROOT / "pyproject.toml").read_text()
    if not PYTHON.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode
        if made:
            sys.exit("no virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv")
    if not stamp.exists() or stamp.read_text() != wanted:
        run(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", ".[dev]")
        stamp.write_text(wanted)
    run(PYTHON, "-m", "compileall", "-q", "attnmath")  # start-up is fast from the first run on


def demo() -> None:
    """The main job."""
    attnmath = BIN / "attnmath"
    run(attnmath, "cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", "--gpu", "h100-sxm")
    run(attnmath, "compare", "mha", "gqa", "mqa", "mla", "--seq", "8192", "--heads", "32", "--phase", "decode")


def test(**env: str) -> None:
    """Lint, formatting, types, and every test."""
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")
    run(PYTHON, "-m", "mypy")
    run(PYTHON, "-m", "pytest", "-n", "2", **env)


def thorough() -> None:
    """Every test, and every law of `verify`, with many more random cases."""
    run(BIN / "attnmath", "verify", "--thorough")
    test(HYPOTHESIS_PROFILE="thorough")


def reports() -> None:
    """The committed documents."""
    run(PYTHON, "reports/make.py")


def bench() -> None:
    """How fast it starts, whether its bounds are bounds, and how right its estimates are."""
    run(PYTHON, "benchmarks/startup.py")
    run(PYTHON, "benchmarks/proofs.py")
    run(PYTHON, "benchmarks/bounds.py")
    run(PYTHON, "benchmarks/sweep.py")
    run(PYTHON, "benchmarks/latency/run.py")


JOBS = {"demo": demo, "test": test, "thorough": thorough, "reports": reports, "bench": bench}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in JOBS:
        sys.exit(__doc__)
    setup()
    JOBS[sys.argv[1]]()
