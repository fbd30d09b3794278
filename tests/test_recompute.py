"""What the backward pass computes again: the same gradients, from what is kept alone, and counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from layers import cases, small
from test_gradient import EVERYTHING

import attnmath as am
from attnmath import layers, variants
from attnmath.errors import InputError, Unknown
from attnmath.language.modify import prune
from attnmath.language.parse import program
from attnmath.language.rewrite import Names
from attnmath.language.syntax import Equation, Num, Op
from attnmath.readings import recompute as again
from attnmath.readings.count import core, count, tables, total
from attnmath.readings.evaluate import run
from attnmath.readings.gradient import gradient
from attnmath.verifying.cases import arrays, graded
from attnmath.verifying.laws import tallied

TWICE = """
S[b t n] = Q[b t d] * K[b n d]
A[b t n] = softmax_n(S[b t n])
O[b t e] = A[b t n] * A[b t n] * V[b n e]
t sees n: causal
"""
WAYS = ("none", "selective", "full", "selective+full")


def values_of(page, sizes, how, seed=0, inputs=None):
    """(the gradient, its values): the backward page gets what it keeps and nothing else."""
    drawn, past = arrays(page, sizes, seed)
    inputs, past = inputs or drawn, {n: x for n, (_, x) in past.items()}
    g = gradient(page, recompute=how)
    values = run(g.forward, sizes, inputs, past)
    rng = np.random.default_rng(seed + 1)
    seeds = {c: rng.standard_normal(values[n].shape) for n, c in g.seeds.items()}
    kept = {n: values[n] for n in (*g.kept, *tables(g.forward)) if n in values}
    out = run(g.backward, {**sizes, **g.sizes}, {**kept, **seeds}, past)
    return g, {n: out[c] for n, c in g.cotangents.items()}


def ways_agree(page, sizes, inputs=None):
    """Whether all ways give the same gradients."""
    _, want = values_of(page, sizes, "none", inputs=inputs)
    for how in WAYS[1:]:
        g, found = values_of(page, sizes, how, inputs=inputs)
        assert list(found) == list(want)
        if how.endswith("full"):
            assert set(g.kept) <= set(page.inputs)
        for n, x in found.items():
            if not (
                np.isfinite(x).all()
                and np.abs(x - want[n]).max(initial=0) <= 1e-9 * max(1, np.abs(want[n]).max(initial=0))
            ):
                return False
    return True


def fitting(page, layer):
    return [small(layer, t, n) for t, n in ((4, 4), (2, 5)) if "c" not in page.names or t % 2 == 0]


@pytest.mark.parametrize(("name", "uses", "form"), EVERYTHING)
def test_what_is_computed_again_changes_no_gradient(name, uses, form):
    layer = layers.build(name, uses)
    page = layer.form(form)
    for sizes in fitting(page, layer):
        assert ways_agree(page, sizes)


@given(cases())
def test_of_random_layers_neither(case):
    layer, form, sizes = case
    if sizes.get("n", 1) and sizes.get("t", 1):
        assert ways_agree(layer.form(form), sizes)


@pytest.mark.parametrize("uses", [[], ["sink"], ["sink:logit=0"], ["score-bias"]])
@pytest.mark.parametrize("louder", [1, 8, 30])
def test_rows_without_a_key_and_loud_scores(uses, louder):
    """A window of other documents' keys, scores of a million, and biases that leave a row nothing but minus infinity."""
    layer = layers.build("mha", uses, "causal & documents(1, 2, 3) & before")
    sizes = layer.sizes({"b": 1, "t": 6, "h": 2, "d": 4, "m": 3})[0]
    inputs = {n: louder * x if n != "WO" else x for n, x in arrays(layer.form(), sizes)[0].items()}
    if "SB" in inputs:
        inputs["SB"] = np.where(np.arange(6)[:, None] == 4, -np.inf, inputs["SB"])
        page = prune(layer.form(), ["O"])
        got = {how: values_of(page, sizes, how, inputs=inputs)[1] for how in WAYS}
        for how, n in ((h, n) for h in WAYS for n in ("WQ", "WV")):
            np.testing.assert_allclose(got[how][n], got["none"][n], atol=1e-9 * louder**2)  # of scores so large
        return
    assert ways_agree(layer.form(), sizes, inputs)


@pytest.mark.parametrize("how", ["selective", "full"])
@pytest.mark.parametrize(("name", "uses", "form"), EVERYTHING)
def test_counts_of_what_is_computed_again_are_the_walks(name, uses, form, how):
    layer = layers.build(name, uses)
    page = layer.form(form)
    if gradient(page, recompute=how).again:
        wrong = [c for c in tallied(graded(page, fitting(page, layer)[0], recompute=how)) if not c.holds]
        assert not wrong, wrong[0]


# -- what it is


def test_flash_attentions_backward_is_a_page():
    """Dao 2023, algorithm 2, lines 11 to 16: S, P, dV, dP, dS, dQ, dK, from Q, K, V, O, dO and L; and D beforehand, line 4."""
    page = prune(variants.get("mha").program, ["O"])
    g = gradient(page, wrt=["Q", "K", "V"], recompute="selective")
    assert [str(e) for e in g.backward.equations if e.alts] == [
        "S[b h t n] = Q[b t h d] * K[b n h d]",
        "L[b h t n] = S[b h t n] / sqrt(d)",
        "A[b h t n] = exp(L[b h t n] - LSE[b h t])",
        "dA[b h t n] = dO[b t h e] * V[b n h e]",
        "D[b h t] = sum_e(dO[b t h e] * O[b t h e])",
        "dL[b h t n] = A[b h t n] * (dA[b h t n] - D[b h t])",
        "dS[b h t n] = dL[b h t n] / sqrt(d)",
        "dV[b n h e] = dO[b t h e] * A[b h t n]",
        "dK[b n h d] = dS[b h t n] * Q[b t h d]",
        "dQ[b t h d] = dS[b h t n] * K[b n h d]",
    ]
    assert g.kept == ("Q", "K", "V", "LSE", "O")
    assert list(g.again) == ["S", "L", "A"]
    assert g.statistics == ("LSE", "D")


@pytest.mark.parametrize("mask", ["causal", "full", "window(3)"])
@pytest.mark.parametrize("name", ["mha", "gqa", "mqa"])
def test_two_and_a_half_times_the_forward_products(name, mask):
    """Five products to the forward pass's two, whatever the mask; a softmax in parts costs what it costs as one."""
    layer = layers.build(name, [], mask)
    page, sizes = layer.form(), small(layer, 6, 8)
    sizes |= {"e": sizes["d"]}
    g = gradient(page, recompute="selective")
    forward = total(count(page, sizes))
    steps = count(g.together, sizes)
    made = {g.renamed[n] for n in g.backward.defined}
    first, back = total(s for s in steps if s.name not in made), total(s for s in steps if s.name in made)
    assert (first.matmul, first.projections) == (forward.matmul, forward.projections)
    assert back.matmul * 2 == forward.matmul * 5
    rows = 6 * sizes["b"] * 2
    assert first.softmax - forward.softmax == rows * (1 + 1 + 1 + 1), "a floor of the maximum and of the sum, log, add"
    assert sum(s.exps for s in steps if s.name not in made) == sum(s.exps for s in count(page, sizes)) + rows
    extra = total(s for s in steps if s.name in {g.renamed[n] for n in g.again})
    assert extra.matmul * 2 == forward.matmul


def test_what_full_adds_is_the_forward_pass_without_its_last_product():
    """As torch's checkpoint, which stops where nothing more is needed."""
    c = {how: am.cost("gqa", seq=64, heads=4, phase="train", schedule="unfused", recompute=how) for how in WAYS[:3]}
    forward = am.cost("gqa", seq=64, heads=4)
    last = 2 * 64 * 4 * 128 * 512
    assert c["full"].flops.recomputed == forward.flops.total - last
    assert c["full"].flops.total - c["none"].flops.total == c["full"].flops.recomputed
    assert c["none"].flops.recomputed == 0
    s = c["selective"]
    assert 0 < s.flops.recomputed < c["full"].flops.recomputed


def test_the_row_sum_stays_where_it_is_no_identity():
    differential = gradient(am.variant("differential").program, recompute="selective").backward
    assert str(differential.defined["DA1"]) == "DA1[b g r t] = sum_n(A1[b g r t n] * dA1[b g r t n])"
    assert "sum_n" in str(gradient(program(TWICE), recompute="selective").backward.defined["D"])
    read = TWICE.replace("A[b t n] * A[b t n]", "A[b t n]")
    page = program(f"{read}\nR[b t] = max_n(A[b t n])\nY[b t e] = O[b t e] * R[b t]")
    assert "sum_n" in str(gradient(page, recompute="selective").backward.defined["D"])
    dropped = gradient(layers.build("mha", ["dropout"]).form(), recompute="selective").backward
    assert str(dropped.defined["D"]) == "D[b h t] = sum_e(dO[b t h e] * O[b t h e])"


def test_a_recursion_is_computed_again_in_full_only():
    page = am.variant("gated-deltanet").forms["chunked"]
    assert not gradient(page, recompute="selective").again
    assert "H" in gradient(page, recompute="full").again


def test_names_are_the_forward_pages_and_each_is_there_once_in_both():
    g = gradient(am.variant("mha").program, recompute="selective")
    assert {"S", "S'"} <= set(g.together.defined)
    both = gradient(am.variant("mha").program, recompute="selective+full")
    assert [n for n in both.backward.defined if n.startswith("S")] == ["S'", "SUMA", "S"]
    assert [e.out.name for e in core(g.together)][-1] == "dQ"


def test_an_unknown_word_is_named():
    with pytest.raises(Unknown, match="unknown recomputation 'selectiv'"):
        gradient(am.variant("mha").program, recompute="selectiv")


# -- broken on purpose, it is noticed

FAULTS = {
    "a sum that leaves out the sink": lambda m: m.setattr(
        again, "_softmax", lambda e, _s=again._softmax: (x := _s(e)) and Op(x.name, x.args[:1], x.over)
    ),
    "the largest score is left out": lambda m: m.setattr(again, "_in_parts", forgetful),
    "the row sum is moved without asking": lambda m: m.setattr(again, "_linear", lambda e, y: True),
}


def forgetful(e, x, sums, names: Names, _parts=again._in_parts):
    return [
        Equation(a.out, (Op("+", (Num(0), a.alts[0].args[1])),)) if a.out == sums else a
        for a in _parts(e, x, sums, names)
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_recomputation_is_caught(fault, monkeypatch):
    layer = layers.build("gqa", ["sink"])
    trials = [(layer.form(), small(layer, 4, 6)), (program(TWICE), {"b": 1, "t": 3, "n": 3, "d": 2, "e": 2, "past": 0})]
    assert all(ways_agree(*x) for x in trials)
    FAULTS[fault](monkeypatch)
    assert not all(ways_agree(*x) for x in trials)


# -- as users say it


def test_gradients_by_name():
    qkv = {n: np.random.default_rng(k).standard_normal((1, 4, 2, 4)) for k, n in enumerate("QKV")}
    up = {"O": np.ones((1, 4, 2, 4))}
    want = am.gradient("mha", qkv, up)
    for how in ("selective", "full"):
        found = am.gradient("mha", qkv, up, recompute=how)
        for n in "QKV":
            np.testing.assert_allclose(found[n], want[n], atol=1e-12)
    with pytest.raises(InputError, match="unknown recomputation"):
        am.gradient("mha", qkv, up, recompute="some")


def test_in_print(call):
    code, out, _ = call("equations mha --backward --recompute selective")
    assert code == 0
    assert "A[b h t n]  = exp(L[b h t n] - LSE[b h t])" in out
    assert "TOP" not in out, "how the forward pass made it is the forward pass's matter"
    assert call("equations mha --backward --recompute full --format latex")[0] == 0
    for line, why in (
        ("equations mha --recompute full", "--recompute has a use only with --backward"),
        ("equations mha --backward --recompute x", "unknown recomputation 'x'"),
        ("cost --variant gqa --seq 8 --heads 8 --recompute full", "--recompute has a use only with --phase train"),
        ("cost --variant gqa --seq 8 --heads 8 --phase train --recompute x", "unknown recomputation 'x'"),
    ):
        code, out, err = call(line)
        assert (code, out) == (2, "")
        assert why in err
