"""Tests of the tests: a deliberate fault in the code under test makes its oracle fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layers import small

import attnmath as am
from attnmath import layers
from attnmath.language import masks, ops
from attnmath.readings import count as counting
from attnmath.readings import evaluate as evaluating
from attnmath.readings import memory
from attnmath.verifying import laws
from attnmath.verifying.cases import Case, walked
from attnmath.verifying.judge import Walk, sees


def case(name="gqa", uses=(), form=None):
    layer = layers.build(name, uses)
    given = {"b": 1, "t": 3, "n": 5, "h": 2, "g": 1, "d": 2, "e": 3, "m": 2, "l": 2, "q": 2, "p": 2, "w": 2}
    return Case(
        layer, form or next(iter(layer.forms)), {k: v for k, v in given.items() if k in (*layer.names, "h", "g")}
    )


def counts_agree(case):
    return all(c.holds for c in laws.counts(case, None))


def values_agree(case):
    return all(c.holds for c in laws.values(case, None))


PAGES = [("gqa", ["rope"], None), ("sliding-window", [], None), ("mla", [], "absorbed"), ("gqa", ["norm"], None)]


@pytest.mark.parametrize(("name", "uses", "form"), PAGES)
def test_without_a_fault_all_agree(name, uses, form):
    assert counts_agree(case(name, uses, form))
    assert values_agree(case(name, uses, form))


def replaced(row, **new):
    return ops.Row(**{n: new.get(n, getattr(row, n)) for n in row.__struct_fields__})


COUNT_FAULTS = {
    "a multiply-add is one operation": lambda m: m.setattr(
        counting,
        "terms",
        lambda x: [(s, n[:1], d) for s, n, d in __import__("attnmath.language.syntax", fromlist=["terms"]).terms(x)],
    ),
    "softmax costs four": lambda m: m.setitem(ops.OPS, "softmax", replaced(ops.OPS["softmax"], cost=4)),
    "softmax has no exponential": lambda m: m.setitem(ops.OPS, "softmax", replaced(ops.OPS["softmax"], exps=0)),
    "a causal mask leaves out the diagonal": lambda m: m.setitem(masks.MASKS, "causal", masks.MASKS["before"]),
    "a window is one too wide": lambda m: m.setitem(
        masks.MASKS, "window", masks.Named(("w",), "", "", lambda past, w: (masks.Piece(lo=-w, hi=0),))
    ),
    "the triangle is one short": lambda m: m.setattr(
        masks, "_triangle", lambda x, step: max(x, 0) * (max(x, 0) - 1) // 2
    ),
    "the past is forgotten": lambda m: m.setattr(counting.Space, "past", lambda self, q: 0),
    "a root is free": lambda m: m.setitem(ops.OPS, "sqrt", replaced(ops.OPS["sqrt"], cost=0)),
    "a mean is free": lambda m: m.setitem(ops.OPS, "mean", replaced(ops.OPS["mean"], cost=0)),
    "joined terms are charged": lambda m: m.setattr(counting, "max", lambda *a: 1, raising=False),
}


@pytest.mark.parametrize("fault", COUNT_FAULTS)
def test_a_wrong_count_is_caught(fault, monkeypatch):
    COUNT_FAULTS[fault](monkeypatch)
    assert not all(counts_agree(case(n, u, f)) for n, u, f in PAGES)


VALUE_FAULTS = {
    "softmax is not normalised": lambda m: m.setitem(
        ops.OPS, "softmax", replaced(ops.OPS["softmax"], run=lambda np, xs, ax, w: np.where(w > 0, np.exp(xs[0]), 0))
    ),
    "the mask is forgotten": lambda m: m.setattr(masks.Mask, "dense", lambda self, i, j: (i == i) | (j == j)),
    "positions start at zero": lambda m: m.setattr(evaluating._Machine, "offset", lambda self, q: 0),
    "the cache is ignored": lambda m: m.setattr(
        evaluating, "run", lambda p, s, t, past=None, masks=None, _r=evaluating.run: _r(p, s, t, {}, masks)
    ),
    "cosines are sines": lambda m: m.setitem(ops.OPS, "cos", replaced(ops.OPS["cos"], run=lambda np, a: np.sin(a))),
    "a mean is a sum": lambda m: m.setitem(ops.OPS, "mean", replaced(ops.OPS["mean"], run=ops.OPS["sum"].run)),
}


@pytest.mark.parametrize("fault", VALUE_FAULTS)
def test_a_wrong_value_is_caught(fault, monkeypatch):
    VALUE_FAULTS[fault](monkeypatch)
    assert not all(values_agree(case(n, u, f)) for n, u, f in PAGES)


def test_bytes_that_ignore_the_window_are_caught(monkeypatch):
    """Loading all keys of a window is no lower bound; the walk touches fewer."""
    one = case("sliding-window").at(t=1)
    page, sizes = one.page, one.sizes
    inside = memory.Core(page, sizes, "bf16", "bf16")
    walk, _, _ = walked(page, sizes, only=set(inside.outputs), given=inside.inputs)
    assert inside.bytes(["K"]) == 2 * len(walk.touched["K"])
    monkeypatch.setattr(masks.Mask, "keys_seen", lambda self, t, n, past=0: n)
    assert memory.Core(page, sizes, "bf16", "bf16").bytes(["K"]) != 2 * len(walk.touched["K"])


ROPE_FAULTS = {
    "the wrong layout": "rope:layout=interleaved",
    "half of the dimensions": "rope:dims=4",
    "no rotation": None,
}


@pytest.mark.parametrize("fault", ROPE_FAULTS)
def test_a_wrong_rotation_is_caught_by_the_vector(fault, vector):
    from test_vectors import gqa_weights

    z, meta = vector("gqa_rope__hf")
    uses = [ROPE_FAULTS[fault]] if ROPE_FAULTS[fault] else []
    out = am.evaluate("gqa", {"X": z["in.x"], **gqa_weights(z)}, modifiers=uses)
    assert np.abs(out["Y"] - z["out.o"]).max() > 0.1
    right = am.evaluate("gqa", {"X": z["in.x"], **gqa_weights(z)}, modifiers=["rope"])
    assert np.abs(right["Y"] - z["out.o"]).max() < 1e-6  # the source's table of angles is float32


@pytest.mark.parametrize(("mask", "window"), [("full", None), ("causal-top-left", None), ("causal", 3)])
def test_a_wrong_mask_is_caught_by_the_vector(mask, window, vector):
    from test_vectors import grouped, ungrouped

    z, meta = vector("causal_bottomright_rect__torch_sdpa")
    wrong = am.evaluate("gqa", grouped(z, meta), mask=mask, window=window)["O"]
    assert np.abs(ungrouped(wrong, meta) - z["out.o"]).max() > 0.1


def test_heads_grouped_the_other_way_round_are_caught(vector):
    z, meta = vector("gqa_causal__torch_sdpa")
    q, k, v = (z[f"in.{n}"].swapaxes(1, 2) for n in "qkv")
    b, t, h, d = q.shape
    wrong = am.evaluate("gqa", {"Q": q.reshape(b, t, h // 2, 2, d).swapaxes(2, 3), "K": k, "V": v})["O"]
    assert np.abs(wrong.reshape(b, t, h, d).swapaxes(1, 2) - z["out.o"]).max() > 0.1


def test_the_oracle_notices_a_recursion_that_needs_itself():
    with pytest.raises(RecursionError, match="needs itself"):
        Walk("A[t] = A[t] + X[t]", {"t": 2}, {"X": {(0,): 1.0, (1,): 2.0}}).run()


def test_the_oracles_masks_are_its_own():
    assert not sees("causal & window(2)", 3, 1, {})
    assert sees("prefix(2)", 0, 1, {})


def test_a_modifier_that_forgets_its_reader_is_caught(monkeypatch, vector):
    """If what read Q went on reading the unrotated one, the page would still hold together, but the vector would notice."""
    from test_vectors import gqa_weights, rotation

    from attnmath.language import modify

    z, _meta = vector("gqa_rope__hf")
    monkeypatch.setattr(
        modify,
        "_behind",
        lambda old, new, taken: (old, modify.replace(new, out=modify.Ref(f"{new.out.name}r", new.out.index))),
    )
    layers.build("gqa", ["rope"])
    out = am.evaluate("gqa", {"X": z["in.x"], **gqa_weights(z)}, modifiers=["rope"])
    assert np.abs(out["Y"] - z["out.o"]).max() > 0.1
    assert rotation(z).shape == (10, 4, 2, 2)


# -- mistakes that implementations make, written into a page: each shows on the vectors


PAGE_FAULTS = [  # (vector, what the page says, what the mistake says)
    (
        "gated_deltanet_qwen3next",
        "P[b t g r e]   = F[b t g r d e]",
        "P[b t g r e]   = H[b t-1 g r d e]",
    ),  # reads, then forgets
    ("gated_deltanet_qwen3next", "* silu(z[b t g r e])", "* sigmoid(z[b t g r e])"),
    ("gated_deltanet_qwen3next", "+ 1e-06) / sqrt(d)", "+ 1e-06)"),
    ("gated_deltanet_qwen3next", "q0[b t-tap g d]", "q0[b t+tap g d]"),  # a convolution that sees the future
    ("kda_kimi", "l[b t g r d] * H[b t-1", "l[b t g r d] * l[b t g r d] * H[b t-1"),
    ("lightning_minimax", "mean_h_e(", "mean_e("),
    ("lightning_minimax", "layer / (layers - 1", "layer / (layers"),
    ("mamba2", "+ WD[g r] * x[b t g r e]", "+ WD[g r] * u[b t g r e]"),  # D on what is already times dt
    ("mamba2", "mean_r_e(", "mean_e("),
    ("differential_diffllama", "- LAMBDA[] * A2", "+ LAMBDA[] * A2"),
    ("differential_diffllama", "(0.2 + 0.6 * exp(-0.3 * layer))", "1"),
    ("dsa_deepseek_v32", "relu(J[b a t n] / sqrt(z))", "J[b a t n] / sqrt(z)"),
    ("dsa_deepseek_v32", "- mean_z(kI0[b t z])", "- 0 * kI0[b t z]"),  # RMS norm where LayerNorm is meant
    ("dsa_deepseek_v32", "wI[b t a] * relu", "-wI[b t a] * relu"),  # the worst keys
    ("msa_minimax_m3", "max_i I", "mean_i I"),
    ("msa_minimax_m3", "t sees n: chunked(i)", "t sees n: window(i)"),
    ("hca_deepseek_v4", "t sees o: blocks(i)", "t sees o: blocks-before(i)"),
    ("hca_deepseek_v4", "+ WPOS[i d]", "+ 0 * WPOS[i d]"),
    ("csa_deepseek_v4", "f+done+series-1 i) series d] + WPOS", "f+done i) series d] + WPOS"),
    ("csa_deepseek_v4", "+ only(@f + done + @series)\nV", "\nV"),
    ("window_deepseek_v4", "softmax_n(L[b h t n], WSINK[h])", "softmax_n(L[b h t n], 2 * WSINK[h])"),
    ("window_deepseek_v4", "QC[b t h d] / sqrt(mean_d", "QC[b t h d] * 1 / sqrt(sum_d"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), PAGE_FAULTS)
def test_a_wrong_page_is_caught_by_the_vector(name, right, wrong, vector, tmp_path):
    from test_hf_layers import loaded

    variant, ins, uses, options, want, _ = loaded(name, vector)
    page = Path(am.__file__).parent / "variants" / f"{variant}.attn"
    text = page.read_text()
    assert right in text, f"{page.name} says something else by now"
    own = tmp_path / f"{variant}.attn"
    own.write_text(text.replace(right, wrong))
    got = am.evaluate(str(own), ins, modifiers=uses, form=next(iter(am.variant(variant).forms)), **options)
    assert np.abs(got["Y"] - want).max() > 1e-3


LATE_FAULTS = {
    "a dilated mask sees every key": lambda m: m.setitem(
        masks.MASKS, "dilated", masks.Named(("s",), "", "", lambda past, s: (masks.Piece(),))
    ),
    "documents see each other": lambda m: m.setitem(
        masks.MASKS, "documents", masks.Named(("k..",), "", "", lambda past, *k: (masks.Piece(),))
    ),
    "a block is seen before it is whole": lambda m: m.setitem(
        masks.MASKS, "blocks", masks.Named(("m",), "", "", lambda past, k: (masks.Piece(hi=0, pitch=k),), over="blocks")
    ),
    "tables are charged": lambda m: m.setattr(counting, "tables", lambda program: frozenset()),
    "a sink is free": lambda m: m.setitem(ops.OPS, "softmax", replaced(ops.OPS["softmax"], joins=0)),
    "a selection is free": lambda m: m.setitem(ops.OPS, "topk", replaced(ops.OPS["topk"], cost=0)),
    "stairs have one step too few": lambda m: m.setattr(
        masks, "_triangle", lambda x, step=1, _t=masks._triangle: _t(x - (step if step != 1 else 0), step)
    ),
}


@pytest.mark.parametrize("fault", LATE_FAULTS)
def test_a_wrong_count_of_selection_and_strides_is_caught(fault, monkeypatch):
    layers_ = [
        layers.build("gqa", ["rope", "sink"], "causal & dilated(2)"),
        layers.build("gqa", [], "causal & documents(2, 3)"),
        layers.build("nsa"),
        layers.build("dsa"),
    ]
    agree = lambda: all(counts_agree(Case(x, next(iter(x.forms)), small(x, 3, 5))) for x in layers_)
    assert agree()
    LATE_FAULTS[fault](monkeypatch)
    assert not agree()


def test_a_selection_of_the_worst_is_caught(monkeypatch):
    layer = layers.build("dsa")
    worst = lambda np, xs, ax, w, k, _r=ops.OPS["topk"].run: _r(np, [-xs[0]], ax, w, k)
    monkeypatch.setitem(ops.OPS, "topk", replaced(ops.OPS["topk"], run=worst))
    assert not values_agree(Case(layer, next(iter(layer.forms)), small(layer, 3, 5)))
