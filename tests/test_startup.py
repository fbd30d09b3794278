"""Start-up is a contract: what the light verbs may not load, in a process of their own; and that this test can fail."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("sympy", "numpy", "jinja2", "matplotlib", "pyarrow", "simpy")
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 100,
    "intermediate_size": 128,
}


def loaded(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after this code."""
    report = f"import sys\n{code}\nsys.stderr.write('LOADED ' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert "LOADED" in done.stderr, done.stderr
    return set(done.stderr.rpartition("LOADED")[2].split())


def verb(*args: str) -> str:
    return f"from attnmath.cli import run\nassert run({list(args)!r}) == 0"


LIGHT = [
    ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa"],
    ["cost", "--seq", "8192", "--heads", "32", "--variant", "mla", "--with", "rope", "--gpu", "h100-sxm", "--json"],
    ["cost", "--seq", "8k,16k", "--heads", "32", "--variant", "sliding-window", "--window", "1k", "--format", "csv"],
    ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", "--explain", "flops.core"],
    ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", "--verbose", "--mask", "chunked:1k"],
    ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", "--gpu", "h100-sxm", "--measured", "1.2ms"],
    ["compare", "mha", "gqa", "--seq", "8192", "--heads", "32"],
    ["roofline", "mha", "gqa", "--seq", "1k,8k", "--heads", "32", "--phase", "prefill,decode", "--gpu", "h100-sxm"],
    ["roofline", "mha", "--seq", "8k", "--heads", "32", "--gpu", "h100-sxm", "--measured", "1ms", "--json"],
    ["tile", "gqa", "--seq", "8k", "--heads", "32", "--gpu", "h100-sxm", "--verbose"],
    ["tile", "mla", "--seq", "8k", "--heads", "128", "--gpu", "h200-sxm", "--phase", "decode", "--json"],
    ["variants"],
    ["modifiers"],
    ["masks"],
    ["masks", "window:4"],
    ["schedules", "flash-2", "--variant", "gqa"],
    ["gpus"],
    ["equations", "gqa"],
    ["equations", "gated-deltanet", "--backward"],
    ["cost", "--seq", "8192", "--heads", "32", "--variant", "gqa", "--phase", "train"],
    ["schema", "cost"],
    ["schema", "sweep"],
    ["sweep", "--help"],
]


@pytest.mark.parametrize("args", LIGHT, ids=" ".join)
def test_light_verbs_load_nothing_heavy(args):
    assert loaded(verb(*args)) == set()


def test_a_model_loads_nothing_heavy(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert loaded(verb("cost", "--model", str(tmp_path), "--seq", "8192", "--gpu", "h100-sxm")) == set()


def test_the_package_itself_is_light():
    assert loaded("import attnmath\nattnmath.cost('gqa', seq=8192, heads=32)") == set()


@pytest.mark.parametrize("module", HEAVY)
def test_this_test_can_fail(module):
    assert loaded(f"import {module}") >= {module}
    assert loaded(f"import attnmath.costs, {module}\n{verb(*LIGHT[0])}") >= {module}


def test_an_import_slipped_into_a_light_module_is_caught(tmp_path):
    fault = "import attnmath.costs as c\nreal = c.cost\ndef slow(*a, **k):\n    import numpy\n    return real(*a, **k)\nc.cost = slow\n"
    assert "numpy" in loaded(fault + verb(*LIGHT[0]))
