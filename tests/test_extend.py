"""What a newcomer is promised: a variant, a modifier or an accelerator is one new file or table, and is seen everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = """title:  Attention with one value head for all
source: an example for this test
about:  keys per head, one shared value

Q[b t h d] = X[b t m] * WQ[m h d]
k[b t h d] = X[b t m] * WK[m h d]
v[b t e]   = X[b t m] * WV[m e]
K[b n h d] = k[b n-past h d]
V[b n e]   = v[b n-past e]
SC[b h t n] = Q[b t h d] * K[b n h d]
P[b h t n] = softmax_n(SC[b h t n] / sqrt(d))
Y[b t m]   = O[b t h e] * WO[h e m]
t sees n: causal

form plain:
    O[b t h e] = P[b h t n] * V[b n e]

form unscaled-twice:
    O[b t h e] = 2 * P[b h t n] * V[b n e] / 2
"""
MODIFIER = '"""Half the scores.\n\nAn example.\n"""\n\nSOURCE = "an example for this test"\n\n\ndef lines(page, by: float = 0.5):\n    return f"SC[..] <- {by} * SC[..]", {}\n'
GPU = """
[mine]
title = "My accelerator"
hbm_bytes_per_s = { value = 1_000_000_000_000, source = "its datasheet" }
[mine.tensor_flop_per_s]
bf16 = { value = 100_000_000_000_000, source = "its datasheet" }
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the checkout with one new page, one new modifier and one new table, and nothing else changed."""
    root = tmp_path_factory.mktemp("extended")
    for part in ("attnmath", "templates", "tests"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "attnmath" / "variants" / "shared-value.attn").write_text(PAGE)
    (root / "attnmath" / "modifiers" / "half_scores.py").write_text(MODIFIER)
    with open(root / "attnmath" / "hardware" / "gpus.toml", "a") as file:
        file.write(GPU)
    return root


def run(root, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attnmath(root, *arguments):
    return run(root, "-m", "attnmath", *arguments)


def test_they_are_listed(extended):
    assert "shared-value" in attnmath(extended, "variants")
    assert "half-scores" in attnmath(extended, "modifiers")
    assert "mine" in attnmath(extended, "gpus")


def test_they_work_together(extended):
    line = [
        "cost",
        "--variant",
        "shared-value",
        "--seq",
        "64",
        "--heads",
        "4",
        "--head-dim",
        "8",
        "--with",
        "half-scores",
        "--gpu",
        "mine",
        "--json",
    ]
    d = json.loads(attnmath(extended, *line))
    assert d["flops"]["matmul"] == 4 * 4 * 8 * 64 * 65 // 2
    assert d["kv_cache_bytes_per_token"] == 2 * (4 * 8 + 8)
    assert d["time_bound_s"]["fused"] == max(d["flops"]["matmul"] / 1e14, d["hbm_bytes"]["compulsory"] / 1e12)
    assert "shared-value" in attnmath(extended, "compare", "mha", "shared-value", "--seq", "64", "--heads", "4")
    assert "V[b n e]" in attnmath(extended, "equations", "shared-value")
    assert "dV[b n e]" in attnmath(extended, "equations", "shared-value", "--with", "half-scores", "--backward")
    assert "# Attention with one value head for all" in attnmath(
        extended, "equations", "shared-value", "--format", "markdown"
    )


def test_verify_knows_them(extended):
    out = attnmath(extended, "verify", "shared-value", "half-scores", "--cases", "1", "--jobs", "1")
    assert "all of it holds; variant shared-value, modifier half-scores" in out


def test_the_laws_hold_for_them(extended):
    """The registry's tests, run in the copy: the newcomers are tested by existing."""
    laws = [
        "test_language.py",
        "test_hardware.py::test_every_figure_has_a_source",
        "test_laws.py::test_every_law_holds_of_everything_there_is[variant-shared-value]",
        "test_laws.py::test_every_law_holds_of_everything_there_is[modifier-half-scores]",
        "test_laws.py::test_every_law_holds_of_whatever_is_drawn[counts]",
    ]
    config = (ROOT / "pyproject.toml").read_text()
    (extended / "pyproject.toml").write_text(config)
    out = run(extended, "-m", "pytest", "-p", "no:xdist", *(f"tests/{law}" for law in laws))
    assert out.count(".") > 80
    assert "F" not in out.partition("[")[0]
