"""Evaluation: forms agree, decoding equals prefill, shapes are checked, rows without keys are 0, both precisions."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import small

import attnmath as am
from attnmath import layers
from attnmath.errors import AttnmathError, InputError, LanguageError
from attnmath.language.ops import OPS
from attnmath.language.parse import program
from attnmath.readings.evaluate import run
from attnmath.verifying.cases import arrays


def test_a_window_needs_no_more_cache_than_counted():
    """Keys beyond the span that the count keeps change nothing; one fewer does."""
    layer = layers.build("sliding-window")
    sizes, _ = layer.sizes({"b": 1, "t": 1, "n": 9, "h": 2, "g": 1, "d": 4, "m": 3, "w": 4})
    inputs, past = arrays(layer.form(), sizes)
    old = {n: x for n, (_, x) in past.items()}
    decode = lambda kept: am.evaluate(
        "sliding-window", inputs, window=4, cache={n: x[:, -kept:] for n, x in old.items()}
    )["Y"]
    np.testing.assert_allclose(decode(3), decode(8), atol=1e-12)
    assert np.abs(decode(2) - decode(8)).max() > 1e-6


def test_cross_attention_encodes_its_memory_once():
    layer = layers.build("cross")
    sizes, _ = layer.sizes({"b": 2, "t": 3, "n": 5, "h": 2, "d": 4, "m": 3, "x": 6})
    inputs, _ = arrays(layer.form(), sizes)
    whole = am.evaluate("cross", inputs)
    first = am.evaluate("cross", {**inputs, "X": inputs["X"][:, :1]})
    rest = {n: x for n, x in inputs.items() if n != "E"} | {"X": inputs["X"][:, 1:], "E": inputs["E"][:, :0]}
    second = am.evaluate("cross", rest, cache=first.cache)
    np.testing.assert_allclose(np.concatenate([first["Y"], second["Y"]], 1), whole["Y"], atol=1e-12)
    assert second.cache["k"].shape == (2, 5, 2, 4)


def qkv(t=3, n=3, dtype=float):
    rng = np.random.default_rng(0)
    return {
        "Q": rng.standard_normal((1, t, 2, 4)).astype(dtype),
        "K": rng.standard_normal((1, n, 2, 4)).astype(dtype),
        "V": rng.standard_normal((1, n, 2, 4)).astype(dtype),
    }


def test_a_query_without_a_key_gives_zero():
    mask = np.array([[True, False, False], [False, False, False], [True, True, True]])
    out = am.evaluate("mha", qkv(), mask=mask)
    assert (out["O"][0, 1] == 0).all()
    assert np.isfinite(out["O"]).all()
    before = am.evaluate("mha", qkv(), mask="before")
    assert (before["O"][0, 0] == 0).all()


def test_very_large_scores_do_not_overflow():
    x = qkv()
    out = am.evaluate("mha", {**x, "Q": x["Q"] * 1e8})
    assert np.isfinite(out["O"]).all()
    np.testing.assert_allclose(out["A"].sum(-1), 1)


def test_float32_stays_float32_and_is_near_float64():
    double, single = am.evaluate("mha", qkv()), am.evaluate("mha", qkv(dtype=np.float32))
    assert all(x.dtype == np.float32 for x in single.values())
    assert 0 < np.abs(single["O"] - double["O"]).max() < 1e-6


def test_it_starts_from_whatever_is_given():
    layer = layers.build("gqa")
    sizes, _ = layer.sizes({"b": 1, "t": 4, "h": 4, "g": 2, "d": 4, "m": 5})
    inputs, _ = arrays(layer.form(), sizes)
    whole = am.evaluate("gqa", inputs)
    for start in (["Q", "K", "V"], ["A", "V"], ["L", "V"], ["Q", "k", "v"]):
        np.testing.assert_allclose(am.evaluate("gqa", {n: whole[n] for n in start})["O"], whole["O"], atol=1e-12)
    partial = am.evaluate("gqa", {"X": inputs["X"], "WQ": inputs["WQ"]})
    assert set(partial) == {"X", "WQ", "Q"}
    with pytest.raises(InputError, match="O was not computed: WK, WV not given"):
        partial["O"]


BAD = [
    (dict(Q=np.ones((1, 3, 2))), {}, r"Q has 3 dimensions, shape \(1, 3, 2\); it is Q\[b t h d\]"),
    (dict(Q=np.ones((1, 3, 2, 4), int)), {}, "Q holds int64; give float64 or float32"),
    (dict(Qq=np.ones(3)), {}, "unknown tensor 'Qq': did you mean 'Q'"),
    (dict(**{**qkv(), "V": np.ones((1, 5, 2, 4))}), {}, r"n is 3 in K\(1, 3, 2, 4\) but 5 in V\(1, 5, 2, 4\)"),
    (dict(**{**qkv(), "V": np.ones((2, 3, 2, 4))}), {}, "b is 1 in Q"),
    (qkv(), dict(mask=np.ones((3, 3))), "a mask array holds booleans"),
    (qkv(), dict(mask=np.ones((4, 3), bool)), r"the mask has shape \(4, 3\); t n are \(3, 3\)"),
    (qkv(), dict(mask=np.ones(3, bool)), r"\[t n\], \[b t n\] or \[b h t n\]"),
    (qkv(), dict(mask=np.ones((1, 5, 3, 3), bool)), "the mask has 5 heads; there are 2"),
    (qkv(), dict(form="absorbed"), "mha has one form only"),
    (qkv(), dict(mask="casual"), "did you mean 'causal'"),
    (qkv(4, 3), {}, "context 3 is less than --seq 4"),
    ({}, {}, "nothing can be computed from nothing: mha needs X"),
    (
        dict(Q=np.ones((1, 2, 2, 4)), k=np.ones((1, 2, 2, 4)), v=np.ones((1, 2, 2, 4))),
        dict(cache={"k": np.ones((1, 3, 2, 4)), "v": np.ones((1, 4, 2, 4))}),
        "differ in their number of tokens",
    ),
    (
        dict(Q=np.ones((1, 2, 2, 4)), k=np.ones((1, 2, 2, 4)), v=np.ones((1, 2, 2, 4))),
        dict(cache={"k": np.ones((1, 3, 3, 4)), "v": np.ones((1, 3, 2, 4))}),
        "does not continue",
    ),
    (
        dict(Q=np.ones((1, 2, 2, 4)), k=np.ones((1, 2, 2, 4)), v=np.ones((1, 2, 2, 4))),
        dict(cache={"Y": np.ones((1, 3, 3))}),
        "nothing reads Y before the new tokens",
    ),
]


@pytest.mark.parametrize(("tensors", "more", "message"), BAD)
def test_what_does_not_fit_is_named(tensors, more, message):
    with pytest.raises(AttnmathError, match=message):
        am.evaluate("mha", tensors, **more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Y[t m] = X[t]", "m only on the left of `Y\\[t m\\] = X\\[t\\]`"),
        ("A[t] = B[t]\nB[t] = A[t]", "A, B refer to each other without a step such as \\[t-1\\]"),
        ("A[t] = A[t]", "A refers to itself without a step"),
        ("A[t] = A[t-1] + A[t+1]", "it takes one index and one direction"),
    ],
)
def test_pages_that_cannot_run(text, message):
    with pytest.raises(LanguageError, match=message):
        run(program(text), dict(t=3, m=2), dict(X=np.ones(3)))


# -- the table of operations: every row's adjoint is the derivative


def check_adjoint(name, over=""):
    row = OPS[name]
    rng = np.random.default_rng(1)
    for k, text in enumerate(row.adjoint):
        n = row.arity[1]
        args = (
            [rng.uniform(0.3, 2, (3, 4)) for _ in range(n)]
            if not (row.along and n > 1)
            else [rng.uniform(0.3, 2, (3, 4)), rng.uniform(0.3, 2, (3, 1))]
        )
        refs = ["A[t n]", "B[t n]" if not row.along else "B[t]"][:n]
        written = ", ".join(refs)
        left = "Y[t]" if row.along == "drop" else "Y[t n]"
        call = (
            f"{refs[0]} {name} {refs[1]}"
            if not name.isalnum() and n == 2
            else f"-{refs[0]}"
            if name == "neg"
            else f"{name}{over}({written})"
        )
        page = program(f"{left} = {call}\nt sees n: window(3)" if row.along else f"{left} = {call}")
        sizes = {"t": 3, "n": 4, "past": 1}
        ins = dict(zip("AB", args))
        if row.along and n > 1:
            ins["B"] = ins["B"][:, 0]
        y = run(page, sizes, ins)["Y"]
        ct = rng.standard_normal(y.shape)
        words = {"a": "A[t n]", "b": refs[-1], "y": left, "g": left.replace("Y", "G"), "size_o": "n"}
        body = re.sub(r"\b(a|b|y|g|size_o)\b", lambda m: words[m[1]], text).replace("_o(", f"{over}(")
        body += " + 0 * A[t n]" if row.along == "drop" else ""
        target = "D[t]" if (row.along and k == 1) else "D[t n]"
        inputs = {**ins, "Y": y, "G": ct}
        got = run(
            program(f"{target} = {body}" + ("\nt sees n: window(3)" if row.along else "")),
            sizes,
            {n: x for n, x in inputs.items() if f"{n}[" in body},
        )["D"]
        which, h = "AB"[k], 1e-6
        direction = rng.standard_normal(ins[which].shape)
        f = lambda s: (run(page, sizes, {**ins, which: ins[which] + s * h * direction})["Y"] * ct).sum()
        numeric = (f(1) - f(-1)) / (2 * h)
        analytic = (np.broadcast_to(got, ins[which].shape) * direction).sum()
        assert abs(numeric - analytic) < 1e-6 * max(1, abs(numeric)), (name, k)


@pytest.mark.parametrize("name", [n for n, r in OPS.items() if r.adjoint])
def test_every_adjoint_is_the_derivative(name):
    check_adjoint(name, "_n" if OPS[name].along else "")


def test_a_wrong_adjoint_is_caught(monkeypatch):
    row = OPS["tanh"]
    monkeypatch.setitem(
        OPS, "tanh", type(row)(**{**{f: getattr(row, f) for f in row.__struct_fields__}, "adjoint": ("g * (1 - y)",)})
    )
    with pytest.raises(AssertionError):
        check_adjoint("tanh")


@given(st.sampled_from(sorted(OPS)))
def test_every_row_is_whole(name):
    row = OPS[name]
    assert row.cost >= 0
    assert row.exps in (0, 1, 2)
    assert row.along in ("", "keep", "drop", "swap")
    assert len(row.adjoint) in (0, row.arity[1])
    assert row.latex.format(*(["x"] * row.arity[1]), o="n")


def test_a_gain_of_one_plus_w_is_one_plus_w():
    """The same as a plain gain that is one larger; with none, as a gain of one."""
    layer = layers.build("gqa", ["norm"])
    sizes, _ = layer.sizes({"b": 1, "t": 3, "h": 2, "g": 1, "d": 4, "m": 3})
    inputs, _ = arrays(layer.form(), sizes)
    larger = {n: x + 1 if n in ("WQN", "WkN") else x for n, x in inputs.items()}
    np.testing.assert_allclose(
        am.evaluate("gqa", inputs, modifiers=["norm:weight=1+w"])["Y"],
        am.evaluate("gqa", larger, modifiers=["norm"])["Y"],
    )
    ones = {n: np.ones_like(x) if n in ("WQN", "WkN") else x for n, x in inputs.items()}
    bare = {n: x for n, x in inputs.items() if n not in ("WQN", "WkN")}
    np.testing.assert_allclose(
        am.evaluate("gqa", bare, modifiers=["norm:weight=none"])["Y"], am.evaluate("gqa", ones, modifiers=["norm"])["Y"]
    )


# -- what is handed in has to fit the page: caches, choices, options


def filled(name, **more):
    """A page's random inputs at small sizes, in float64."""
    layer = layers.build(name)
    sizes = small(layer, 8, 8)
    return arrays(layer.form(), sizes)[0] | more


def test_half_a_cache_is_refused():
    ins = filled("linear-attention")
    first = am.evaluate("linear-attention", ins, form="recurrent")
    for cache in ({"H": first.cache["H"]}, {"Z": first.cache["Z"]}):
        with pytest.raises(InputError, match=r"the cache lacks [HZ]"):
            am.evaluate("linear-attention", ins, form="recurrent", cache=cache)
    with pytest.raises(InputError, match="has no row"):
        am.evaluate("linear-attention", ins, form="recurrent", cache={n: x[:, :0] for n, x in first.cache.items()})


def test_a_cache_of_other_blocks_is_refused():
    ins = filled("moba")
    first = am.evaluate("moba", ins, block_size=2, top_k=2)
    assert first.cache["kM"].shape[1] == 4
    short = dict(first.cache) | {"kM": first.cache["kM"][:, :3]}
    with pytest.raises(InputError, match="the cache of kM has 3 blocks; 8 tokens make 4 of 2"):
        am.evaluate("moba", ins, block_size=2, top_k=2, cache=short)
    with pytest.raises(InputError, match="the cache of kM has 4 blocks; 8 tokens make 2 of 4"):
        am.evaluate("moba", ins, block_size=4, top_k=2, cache=first.cache)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [(99, "chooses what its query cannot see"), (-1, "names no place"), (0.5, "names no place"), (3, "cannot see")],
)
def test_choices_that_cannot_be_are_refused(chosen, message):
    ins = filled("moba")
    whole = am.evaluate("moba", ins, block_size=2, top_k=2)
    own = whole["T"].copy()
    am.evaluate("moba", {"Q": whole["Q"], "K": whole["K"], "V": whole["V"], "T": own}, block_size=2, top_k=2)
    own[:, :, :, 5] = chosen
    with pytest.raises(InputError, match=message):
        am.evaluate("moba", {"Q": whole["Q"], "K": whole["K"], "V": whole["V"], "T": own}, block_size=2, top_k=2)


def test_the_same_choice_twice_is_refused():
    ins = filled("moba")
    whole = am.evaluate("moba", ins, block_size=2, top_k=3)
    twice = np.zeros_like(whole["T"])
    with pytest.raises(InputError, match="chooses a place twice"):
        am.evaluate("moba", {"Q": whole["Q"], "K": whole["K"], "V": whole["V"], "T": twice}, block_size=2, top_k=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mha", {"top_k": 3}, "--top-k has no use for mha"),
        ("moba", {"mask": np.ones((8, 8), bool)}, "what a query sees is part of what it computes"),
        ("linear-attention", {"form": "quadratic", "mask": np.ones((8, 8), bool)}, "no mask between queries and keys"),
        ("mha", {"block-size": 4, "block_size": 5}, "an option is given twice"),
        ("lightning-attention", {"layer": 99, "layers": 4}, "--layer 99 of --layers 4"),
        ("gqa", {"modifiers": "rope"}, "a list of texts is expected"),
        ("gqa", {"cache": [1]}, "cache: a mapping of names"),
        ("mha", {"mask": "documents(3, 4)"}, "its documents make 7 tokens, the context is 8"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        am.evaluate(name, filled(name), **options)


def test_a_state_says_how_many_tokens_came_before_if_told():
    """A rope needs positions; a state has none of its own."""
    ins, uses = filled("gated-deltanet"), ["rope:on=Q+K"]
    whole = am.evaluate("gated-deltanet", ins, modifiers=uses, form="recurrent")["Y"]
    step = lambda a, b, **more: am.evaluate(
        "gated-deltanet", ins | {"X": ins["X"][:, a:b]}, modifiers=uses, form="recurrent", **more
    )
    first = step(0, 5)
    with pytest.raises(InputError, match="give context=N"):
        step(5, 8, cache=first.cache)
    second = step(5, 8, cache=first.cache, context=8)
    np.testing.assert_allclose(np.concatenate([first["Y"], second["Y"]], 1), whole, atol=1e-12)


@pytest.mark.parametrize("name", ["gated-deltanet", "lightning-attention", "mamba2"])
def test_modifiers_read_a_chunked_form_as_the_others(name):
    """A gate is as wide in every form, and what it computes the same."""
    layer = layers.build(name, ["gate:on=O"])
    sizes = small(layer, 8, 8)
    counts = {am.cost(name, seq=64, heads=4, form=f, modifiers=["gate:on=O"]).parameters for f in layer.forms}
    assert len(counts) == 1
    inputs = {n: x for p in layer.forms.values() for n, x in arrays(p, sizes)[0].items()}
    outs = [run(p, sizes, {n: x for n, x in inputs.items() if n in p.inputs})["Y"] for p in layer.forms.values()]
    for o in outs[1:]:
        np.testing.assert_allclose(o, outs[0], atol=1e-10)
