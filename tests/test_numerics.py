"""Numbers at their limits, for every variant by existing: large scores, rows without a key, single and lower precision."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from attnmath import variants
from attnmath.readings.evaluate import run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
pytest.importorskip("ml_dtypes")
import precision

SELECTS = {"csa", "dsa", "moba", "msa", "nsa"}  # a rounding may tip a selection over


@pytest.mark.parametrize("name", variants.names())
def test_large_inputs_do_not_overflow(name):
    """Scores of some 10^12, far beyond what exp can take."""
    layer, sizes, inputs = precision.problem(name)
    out = run(layer.form(), sizes, {n: x * 1e6 if n in ("X", "E") else x for n, x in inputs.items()})
    assert all(np.isfinite(x).all() for n, x in out.items() if "only" not in str(layer.form().defined.get(n, "")))
    assert np.abs(out[layer.form().output]).max() > 0


@pytest.mark.parametrize("name", variants.names())
def test_float32_stays_float32_and_is_near_float64(name):
    layer, sizes, inputs = precision.problem(name)
    double = run(layer.form(), sizes, inputs)
    single = run(layer.form(), sizes, {n: x.astype(np.float32) for n, x in inputs.items()})
    y = layer.form().output
    assert single[y].dtype == np.float32
    scale = np.abs(double[y]).max()
    assert 0 < np.abs(single[y] - double[y]).max() < 2e-5 * scale


@pytest.mark.parametrize("name", variants.names())
def test_the_error_of_low_precision_grows_with_the_rounding(name):
    """Half a unit in the last place is 2^-9 for bf16 and 2^-4 for fp8 e4m3; an attention layer makes a few of each."""
    error = dict(precision.errors(name))
    assert error["fp32"] < 1e-6
    assert error["fp32"] < error["bf16"] < error["fp8 e4m3"]
    if name not in SELECTS:
        assert error["bf16"] < 16 * 2**-9
        assert error["fp8 e4m3"] < 16 * 2**-4


def test_a_query_that_sees_no_block_reads_nothing():
    """The first tokens of a page with blocks: no block is whole yet, and what it would have read is 0."""
    layer, sizes, inputs = precision.problem("nsa")
    out = run(layer.form(), sizes, inputs)
    assert (out["OC"][:, : sizes["i"] - 1] == 0).all()
    assert (out["OC"][:, sizes["i"] - 1] != 0).any()
    assert np.isfinite(out["Y"]).all()
