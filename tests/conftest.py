"""What tests share: vectors of independent implementations, and random layers small enough to walk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
FOLDERS = [ROOT / "tests" / "vectors", Path(os.environ.get("ATTNMATH_VECTORS", SHARED / "vectors"))]

collect_ignore = ["make_vectors.py", "make_models.py", "make_saved.py"]  # scripts: they need torch and transformers

settings.register_profile(
    "default", deadline=None, max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("thorough", deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(config, items):
    """What takes minutes is left to `make thorough`."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "thorough":
        left = [i for i in items if i.get_closest_marker("thorough")]
        items[:] = [i for i in items if i not in left]
        config.hook.pytest_deselected(items=left)


def load_vector(name: str):
    """(arrays, sidecar) of a vector; skips, saying so, where it is not at hand."""
    for folder in FOLDERS:
        if (folder / f"{name}.npz").exists():
            return dict(np.load(folder / f"{name}.npz")), json.loads((folder / f"{name}.json").read_text())
    pytest.skip(f"vector {name} is not at hand")


@pytest.fixture
def vector():
    return load_vector


def shared(*parts: str) -> Path:
    """A path in the folder beside the repository; skips where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"../shared/{'/'.join(parts)} is not at hand")
    return path


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """(exit code, stdout, stderr) of a command line, a text or its parts, in an empty folder."""
    from attnmath.cli import run

    monkeypatch.chdir(tmp_path)

    def go(line):
        code = run(line.split() if isinstance(line, str) else line)
        out = capsys.readouterr()
        return code, out.out, out.err

    return go
