"""Counts against published figures, against others' counters, and at their limits; the laws of counts are in tests/test_laws.py."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from layers import cases

import attnmath as am
from attnmath import layers, variants
from attnmath.errors import InputError, NoClosedForm
from attnmath.keys import KEYS, Reading
from attnmath.language.letters import LETTERS
from attnmath.language.parse import program
from attnmath.readings.count import Space, core, count, total
from attnmath.readings.memory import Core, caches
from attnmath.verifying.cases import MASKS, maskable, table
from attnmath.verifying.judge import Walk, number


def given_letters(layer, sizes):
    """What an option sets, but for what a modifier brings along."""
    return {k: v for k, v in sizes.items() if k in LETTERS and LETTERS[k].option and k not in layer.local}


def keyed(layer, form, sizes, key, **more):
    options = {LETTERS[k].option.replace("-", "_"): v for k, v in given_letters(layer, sizes).items()}
    if sizes["n"] == sizes["t"] and layer.variant.name != "cross":
        del options["context"]  # not given: it is the new tokens
    options["phase"] = "decode" if sizes.get("kept") else "prefill"
    mask = str(layer.mask).replace(" & window(w)", "") if maskable(layer.variant.name) else None
    return dict(modifiers=[str(u) for u in layer.uses], mask=mask, form=form, **options)


@given(
    cases(),
    st.sampled_from(
        [
            "flops.core",
            "flops.total",
            "flops.matmul",
            "kv_cache_bytes",
            "hbm_bytes.compulsory",
            "memory_bytes.unfused",
            "parameters",
        ]
    ),
)
def test_sympy_agrees_with_the_formulas_of_cost(case, key):
    layer, form, sizes = case
    if any("chunked" in m or "documents" in m for m in str(layer.mask).split()) or any(
        "window:" in str(u) for u in layer.uses
    ):
        return  # chunks: see below
    options = keyed(layer, form, sizes, key)
    c = am.cost(layer.variant.name, **options)
    try:
        f = am.formula(layer.variant.name, key, **options)
    except NoClosedForm:  # which keys a dilated mask sees: a count, and no formula
        assert "dilated" in str(layer.mask) and key not in c.formulas
        return
    names = {n: sp.Symbol(n, integer=True, positive=True) for n in LETTERS}
    text = sp.sympify(eval(c.formulas[key], {"floor": sp.floor, "stairs": symbolic_stairs}, names))
    values = {names[k]: v for k, v in sizes.items() if k in LETTERS}
    on_a_border = (
        sizes["t"] == 1
        or sizes.get("w") == 1
        or ("context" in options and sizes["n"] == sizes["t"])
        or any(number(cond.replace(">=", "=="), sizes) for cond in c.regime.get(key, []) if ">=" in cond)
    )  # two formulas hold there
    assert on_a_border or sp.simplify(f - text) == 0, (c.formulas[key], f)
    assert f.subs(values) == c[key]


def symbolic_stairs(x, step):
    rows = sp.floor((x + step - 1) / step)
    return rows * x - step * rows * (rows - 1) / 2


@pytest.mark.parametrize("mask", ["chunked:3", "chunked:8192", "chunked(4) | first(2)"])
def test_floors_agree_with_sympy(mask):
    for seq, context in ((20000, 20000), (7, 20), (1, 50)):
        c = am.cost("gqa", seq=seq, context=context, heads=4, mask=mask)
        f = am.formula("gqa", "flops.matmul", seq=seq, context=context, heads=4, mask=mask)
        at = {"b": 1, "t": seq, "n": context, "h": 4, "g": 4, "d": 128}
        assert f.subs({sp.Symbol(k, integer=True, positive=True): v for k, v in at.items()}) == c.flops.matmul


def test_generic_formula_keeps_the_minimum_and_is_right_on_both_sides():
    f = am.formula("sliding-window", "flops.matmul")
    assert f.has(sp.Max) or f.has(sp.Min)
    for seq, w in ((10, 4), (4, 10), (7, 7)):
        at = {"b": 1, "t": seq, "h": 4, "g": 4, "d": 8, "w": w}
        value = f.subs({sp.Symbol(k, integer=True, positive=True): v for k, v in at.items()})
        assert value == am.cost("sliding-window", seq=seq, heads=4, kv_heads=4, head_dim=8, window=w).flops.matmul


def test_arrays_of_lengths():
    page = variants.get("gqa").program
    n = np.array([1.0, 5.0, 64.0])
    sizes = {"b": 2, "t": n, "n": n, "past": 0, "g": 2, "r": 2, "d": 8, "e": 8, "m": 32}
    got = total(count(page, sizes)).core
    want = [total(count(page, {**sizes, "t": int(x), "n": int(x)})).core for x in n]
    assert got.tolist() == want


def test_integer_arrays_are_refused():
    page = variants.get("mha").program
    with pytest.raises(InputError, match="t is an array of integers, which wrap silently"):
        count(page, {"b": 1, "t": np.array([1, 2]), "n": 2, "past": 0, "h": 1, "d": 2, "e": 2, "m": 2})


def test_integers_are_exact_at_any_size():
    n = 10**30
    c = am.cost("gqa", seq=n, heads=32, kv_heads=8)
    assert c.flops.matmul == 2 * 32 * 128 * n * (n + 1)
    assert c.hbm_bytes.compulsory == 2 * 128 * n * (2 * 32 + 2 * 8)


# -- figures of others


def test_published_figures():
    """FlashAttention-2, section 4.1: 4 seqlen^2 d heads, halved for causal; the issue's figures for 8192 tokens."""
    c = am.cost("gqa", seq=8192, heads=32, kv_heads=8, head_dim=128)
    assert c.flops.matmul == 549_822_922_752
    assert c.flops_by_convention.dense == 1_099_511_627_776 == 4 * 8192**2 * 128 * 32
    assert c.flops_by_convention.causal_half == 549_755_813_888
    assert c.exps == 32 * 8192 * 8193 // 2
    # FlashAttention's benchmark shape: batch 64, 16 heads, 1024 tokens, head dimension 64: 274.9 GFLOP
    assert am.cost("mha", batch=64, seq=1024, heads=16, head_dim=64, mask="full").flops.matmul == 274_877_906_944


GQA = {"b": 2, "t": 10, "h": 4, "g": 2, "d": 8, "m": 24}
FLASH = {"b": 2, "t": 6, "n": 9, "h": 4, "g": 2, "d": 8, "m": 8}


@pytest.mark.parametrize(
    ("name", "layer", "sizes"),
    [
        ("cross_attention__torch_sdpa", ("cross", [], None, None), {"b": 2, "t": 5, "n": 9, "h": 3, "d": 8, "e": 6}),
        (
            "mla__hf",
            ("mla", [], None, "expanded"),
            {"b": 2, "t": 10, "h": 3, "d": 5, "e": 7, "p": 4, "l": 6, "q": 10, "m": 24},
        ),
        ("gemma2_local__hf", ("gqa", ["rope", "scale:width=16", "softcap:cap=5"], "window(4)", None), GQA),
        ("gemma2_global__hf", ("gqa", ["rope", "scale:width=16", "softcap:cap=5"], None, None), GQA),
        (
            "gemma3n_local_vnorm__hf",
            ("gqa", ["norm", "norm:on=v,weight=none", "rope", "scale:value=1"], "window(4)", None),
            GQA,
        ),
        ("gptoss_sink_global__hf", ("gqa", ["bias:on=Q+k+v+Y", "rope", "sink"], None, None), GQA),
        ("gated_attention_qwen3next__hf", ("gqa", ["norm:weight=1+w", "rope:dims=4", "gate"], None, None), GQA),
        ("lfm2_gqa__hf", ("gqa", ["norm", "rope"], None, None), GQA | {"d": 6}),
        ("gpt2_causal__hf", ("mha", ["bias:on=Q+k+v+Y"], None, None), {"b": 2, "t": 10, "h": 3, "d": 8, "m": 24}),
        (
            "alibi_bloom__hf",
            ("mha", ["bias:on=Q+k+v+Y", "alibi"], None, None),
            {"b": 2, "t": 10, "h": 6, "d": 4, "m": 24},
        ),
        (
            "t5_encoder_bias__hf",
            ("mha", ["scale:value=1", "t5-bias"], "full", None),
            {"b": 2, "t": 20, "h": 3, "d": 6, "m": 24},
        ),
        (
            "bart_cross__hf",
            ("cross", ["bias:on=Q+k+v+Y"], None, None),
            {"b": 2, "t": 6, "n": 10, "kept": 0, "h": 3, "d": 8, "m": 24, "x": 24},
        ),
        (
            "mla_nope_kimi__hf",
            ("mla", ["direct-queries"], None, "expanded"),
            {"b": 2, "t": 10, "h": 3, "d": 5, "e": 7, "p": 4, "l": 6, "m": 24},
        ),
        (
            "deepseek_v4_sliding__hf",
            ("shared-window", [], None, None),
            {"b": 2, "t": 18, "h": 4, "d": 8, "m": 24, "q": 10, "w": 4, "group": 2, "v": 6},
        ),
        ("fa_window_softcap__flashattn_ref", ("gqa", ["softcap"], "band(3, 1)", None), FLASH),
        ("fa_causal_bottomright__flashattn_ref", ("gqa", [], "causal", None), FLASH),
        ("gqa_rope__hf", ("gqa", ["rope"], None, None), {"b": 2, "t": 10, "h": 4, "g": 2, "d": 8, "m": 24}),
        (
            "qk_norm_qwen3__hf",
            ("gqa", ["norm", "rope"], None, None),
            {"b": 2, "t": 10, "h": 4, "g": 2, "d": 8, "m": 24},
        ),
        (
            "sliding_window_rope__hf",
            ("sliding-window", ["rope"], None, None),
            {"b": 2, "t": 10, "h": 4, "g": 2, "d": 8, "m": 24, "w": 4},
        ),
    ],
)
def test_torch_convention_is_what_torch_counts(name, layer, sizes, vector):
    _, meta = vector(name)
    variant, uses, mask, form = layer
    built = layers.build(variant, uses, mask)
    full, _ = built.sizes(sizes, page=built.form(form))
    r = Reading(built.form(form), full, "fp64", "fp64")
    counted = meta["torch_flop_counter"]["matmul_flops_forward"]
    convention = KEYS["flops_by_convention.dense" if meta["level"] == "core" else "flops_by_convention.torch"]
    assert convention.read(r) == counted


# -- bytes, by what the walk touches


def fewest_keys(t, n, block, others):
    """By trying every choice of every query: the fewest keys that t last queries read, of their own block and of others before."""
    own = {j for q in range(n - t, n) for j in range(q // block * block, q + 1)}
    choices = [list(combinations(range(q // block), min(others, q // block))) for q in range(n - t, n)]
    return min(
        len(own | {o * block + x for chosen in picked for o in chosen for x in range(block)})
        for picked in product(*choices)
    )


@pytest.mark.parametrize(
    ("t", "n"), [(1, 1), (1, 8), (1, 9), (1, 12), (2, 9), (3, 9), (3, 14), (4, 14), (4, 4), (5, 9), (9, 9)]
)
@pytest.mark.parametrize("others", [1, 2, 3])
@pytest.mark.parametrize(("variant", "keys"), [("moba", "K"), ("msa", "V"), ("nsa", "KS")])
def test_a_query_reads_its_own_block_beside_those_it_chooses(variant, keys, t, n, others):
    layer = layers.build(variant)
    sizes, _ = layer.sizes(
        {"b": 2, "t": t, "n": n, "h": 4, "g": 2, "d": 3, "e": 3, "i": 2, "k": others + 1, "z": 2, "w": 3}
    )
    assert Core(layer.form(None), sizes, "bf16", "bf16").bytes([keys]) == 2 * 2 * 2 * 3 * fewest_keys(t, n, 2, others)


def test_caches_are_found():
    llama = variants.get("gqa").program
    assert [
        (c.per_row, c.rows) for c in caches(llama, {"b": 1, "t": 1, "n": 100, "past": 99, "g": 8, "d": 128, "e": 128})
    ] == [(1024, 100), (1024, 100)]
    conv = program("Y[b t m] = X[b t-k m] * W[m k]")
    assert [(c.per_row, c.rows) for c in caches(conv, {"b": 1, "t": 9, "m": 5, "k": 4})] == [(3 * 5, None)]
    recurrent = program("H[b t d e] = H[b t-1 d e] + k[b t d] * v[b t e]\nO[b t e] = q[b t d] * H[b t d e]")
    assert [(c.per_row, c.rows) for c in caches(recurrent, {"b": 1, "t": 9, "d": 5, "e": 4})] == [(20, None)]


def test_convolutions_and_lags_step_by_step():
    """What is cached is as many rows as are read, however few tokens a step has."""
    from attnmath.evaluation import _grown
    from attnmath.readings.evaluate import run

    rng = np.random.default_rng(0)
    for text, more in (
        ("Y[b t m] = X[b t-k m] * W[m k]", {"W": rng.standard_normal((2, 4))}),
        ("Y[b t m] = X[b t-2 m] + 3 * X[b t-1 m]", {}),
    ):
        page = program(text)
        x = rng.standard_normal((1, 7, 2))
        sizes = dict(b=1, t=7, m=2, k=4)
        whole = run(page, sizes, {"X": x, **more})["Y"]
        cache, parts = {}, []
        for at in range(7):
            out = run(page, {**sizes, "t": 1}, {"X": x[:, at : at + 1], **more}, cache)
            cache = _grown(page, out, cache, {**sizes, "t": 1})
            parts.append(out["Y"])
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-12)
        kept = {c.tensor: c.per_row for c in caches(page, sizes)}
        assert kept == {"X": 2 * (3 if "k" in text else 2)}
        assert cache["X"].shape[1] == (3 if "k" in text else 2)


def test_two_masks_on_one_query_are_counted_from_above():
    """How many triples there are has no closed form: as if every query saw as many c as there are."""
    p = program("S[t n c] = Q[t d] * K[n d] * Z[c d]\nR[t n] = Q[t d] * K[n d]\nt sees n: causal\nt sees c: causal")
    s, r = count(p, {"t": 3, "n": 3, "c": 3, "d": 2})
    assert s.at_most and not r.at_most
    assert s.flops.total == 3 * 2 * (1 + 2 + 3) * 3 >= 3 * 2 * (1 + 4 + 9)
    assert count(p, {"t": 3, "n": 3, "c": 3, "d": 2})[0].at_most  # and says so each time


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="is 8 long, but the e of v is 3"):
        am.cost("gqa", seq=4, heads=2, head_dim=8, v_head_dim=3, modifiers=["rope:on=Q+v"])
    with pytest.raises(InputError, match="the d of V is 2"):
        count(program("V[n d] = X[n d]\nO[t e] = A[t n] * V[n e]"), {"n": 2, "d": 2, "e": 3, "t": 2})


PROGRAMS = {  # what the language can say beyond the variants: recursion, solve, convolution, groups, parts, gathers
    "recurrence": (
        "H[b t d e] = a[b t] * H[b t-1 d e] + k[b t d] * v[b t e]\nO[b t e] = q[b t d] * H[b t d e]",
        dict(b=2, t=4, d=2, e=3),
    ),
    "triangular solve": ("U[b i e] = B[b i e] - N[b i l] * U[b l e]\ni sees l: before", dict(b=2, i=4, l=4, e=2)),
    "convolution": ("Y[b t m] = X[b t-k m] * W[m k]", dict(b=2, t=5, m=2, k=3)),
    "chunks": (
        "S[b c i j] = q[b (c i) d] * k[b (c j) d]\nO[b (c i) d] = S[b c i j] * k[b (c j) d]\ni sees j: causal",
        dict(b=1, c=2, i=3, j=3, d=2),
    ),
    "two parts": (
        "S[t n|s] = Q[t d] * K[n d] | Q[t d] * Z[s d]\nA[t n|s] = softmax_(n|s) S[t n|s]\nO[t d] = A[t n|s] * K[n d] + A[t n|s] * Z[s d]\nt sees n: causal",
        dict(t=3, n=3, s=2, d=2),
    ),
    "joined terms": (
        "S[t n] = Q[t d] * K[n d] + P[t e] * R[n e] + B[t n] - C[n]\nt sees n: window(2)",
        dict(t=4, n=4, d=2, e=3),
    ),
    "functions": (
        "Y[b t m] = X[b t m] * (1 + W[m]) / sqrt(mean_m(X[b t m] * X[b t m]) + eps) * sigmoid(G[b t m])",
        dict(b=2, t=2, m=3, eps=1e-6),
    ),
    "delta rule, its lines in the wrong order": (
        "H[b t d e] = H[b t-1 d e] + k[b t d] * D[b t e]\nP[b t e] = H[b t-1 d e] * k[b t d]\nD[b t e] = v[b t e] - P[b t e]",
        dict(b=1, t=4, d=2, e=2),
    ),
    "two lags": ("Y[b t] = X[b t-2] + 2 * X[b t-1] + Y[b t-1] * W[d] * V[d]", dict(b=2, t=5, d=2)),
    "backwards": ("G[b t] = a[b t] * G[b t+1] + X[b t]", dict(b=1, t=4)),
    "a mean and a maximum under a mask": (
        "M[t] = mean_n(S[t n])\nT[t] = max_n(S[t n])\nt sees n: causal",
        dict(t=3, n=3),
    ),
    "a sum whose mask needs the left": ("Z[b t d] = 0 * @t + K[b n d]\nt sees n: causal", dict(b=1, t=3, n=3, d=2)),
    "powers and signs": ("Y[t] = -(X[t] ^ 2) / 3 + 2 * -X[t]", dict(t=3)),
    "read out of order": ("Y[t] = 2 * Z[t]\nZ[t] = X[t] + X[t-1]", dict(t=4)),
}


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n != "two parts"])
def test_the_language_is_counted_and_computed_as_the_walk_does(name):
    text, sizes = PROGRAMS[name]
    page = program(text)
    rng = np.random.default_rng(0)
    space = Space(page, sizes)
    inputs = {
        n: rng.standard_normal([int(space._axis(i)) for i in index])
        for n, index in page.tensors.items()
        if n in page.inputs
    }
    from attnmath.readings.evaluate import run

    out = run(page, sizes, inputs)
    walk = Walk(str(page), sizes, {n: table(x) for n, x in inputs.items()})
    values = walk.run()
    for step in count(page, sizes):
        got = np.array(list(values[step.name].values())).reshape(out[step.name].shape)
        np.testing.assert_allclose(out[step.name], got, atol=1e-12)
        assert step.flops.total == walk.cost[step.name], step.equation


def test_two_parts_of_one_axis():
    """A softmax over keys and slots side by side; concatenating costs nothing."""
    text, sizes = PROGRAMS["two parts"]
    page = program(text)
    rng = np.random.default_rng(0)
    q, k, z = (rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.standard_normal((2, 2)))
    from attnmath.readings.evaluate import run

    out = run(page, sizes, {"Q": q, "K": k, "Z": z})
    scores = np.concatenate([np.where(np.tri(3) > 0, q @ k.T, -np.inf), q @ z.T], 1)
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(out["O"], weights @ np.concatenate([k, z]), atol=1e-12)
    pairs = 6 + 3 * 2  # causal keys, and every slot
    assert {s.name: s.flops.total for s in count(page, sizes)} == {
        "S": 2 * 2 * pairs,
        "A": 5 * pairs,
        "O": 2 * 2 * pairs,
    }


def test_gathers():
    page = program("K[n d]\nG[t s d] = K[T[t s] d]\nS[t s] = Q[t d] * G[t s d]")
    rng = np.random.default_rng(0)
    k, t, q = rng.standard_normal((5, 2)), rng.integers(0, 5, (3, 2)), rng.standard_normal((3, 2))
    from attnmath.readings.evaluate import run

    out = run(page, dict(t=3, s=2, n=5, d=2), {"K": k, "T": t, "Q": q})
    np.testing.assert_allclose(out["S"], np.einsum("td,tsd->ts", q, k[t]))


def test_core_is_where_queries_meet_keys():
    assert [e.out.name for e in core(variants.get("mla").form("absorbed"))] == ["S", "L", "A", "P"]
    assert [e.out.name for e in core(variants.get("gqa").program)] == ["S", "L", "A", "O"]


def test_masks_of_the_strategies_are_understood():
    for m in MASKS:
        layers.build("gqa", [], m)


# -- what a deliberate fault once slipped through


@pytest.mark.parametrize(
    ("dtype", "bits_"), [("fp32", 32), ("bf16", 16), ("fp16", 16), ("fp8", 8), ("int8", 8), ("fp4", 4), ("int4", 4)]
)
def test_a_cache_takes_the_bits_of_its_dtype(dtype, bits_):
    c = am.cost("gqa", seq=100, batch=3, heads=32, kv_heads=8, head_dim=128, kv_dtype=dtype)
    assert c.kv_cache_bytes_per_token == 2 * 8 * 128 * bits_ // 8
    assert c.kv_cache_bytes == 3 * 100 * c.kv_cache_bytes_per_token


def test_a_state_is_kept_for_every_sequence(tmp_path):
    page = tmp_path / "state.attn"
    page.write_text(
        "title: T\nsource: an example for this test\n\nH[b t d e] = H[b t-1 d e] + X[b t d] * Z[b t e]\nY[b t e] = Q[b t d] * H[b t d e]\n"
    )
    c = am.cost(str(page), seq=64, batch=3, head_dim=8, v_head_dim=4)
    assert c.state_bytes == 3 * 8 * 4 * 4  # sequences, d, e, and float32: what implementations keep a recurrence in
    assert c.kv_cache_bytes == 0


def test_the_bound_step_by_step_is_the_sum_of_each_equations_bound():
    """By hand, for multi-head attention: S, L, A and O, each at the slower of its work and its bytes."""
    n, h, d, flop, byte, exp = 512, 4, 64, 989.4e12, 3.35e12, 132 * 16 * 1.98e9
    pairs, q, s = n * (n + 1) // 2, 2 * n * h * d, 2 * n * n * h
    steps = [(2 * h * d * pairs, 0, 2 * q + s), (0, 0, 2 * s), (0, h * pairs, 2 * s), (2 * h * d * pairs, 0, s + 2 * q)]
    c = am.cost("mha", seq=n, heads=h, head_dim=d, gpu="h100-sxm")
    assert c.time_bound_s.unfused == pytest.approx(
        sum(max(f / flop, e / exp, b / byte) for f, e, b in steps), rel=1e-12
    )


@pytest.mark.parametrize(("variant", "there"), [("dsa", 128), ("csa", 32)])
def test_dense_code_chooses_no_more_than_there_are(variant, there):
    """128 keys, in csa 32 blocks of four: choosing 100,000 of them is choosing all."""
    import attnmath as am

    all_, more = (am.cost(variant, seq=128, heads=8, top_k=k) for k in (there, 100_000))
    for key in ("flops_by_convention.dense", "flops_by_convention.torch", "flops.matmul"):
        assert all_[key] == more[key], key
