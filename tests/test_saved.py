"""What training keeps: the gradient's program against PyTorch's own hooks, and against published formulas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnmath import blocks, layers, variants
from attnmath.errors import InputError
from attnmath.language.ops import OPS
from attnmath.models import activations as acts
from attnmath.models import describe, read
from attnmath.models.activations import Training, activations
from attnmath.readings.eager import eager
from attnmath.readings.gradient import gradient
from attnmath.readings.saved import saved

HOOKS = json.loads((Path(__file__).parent / "vectors" / "saved.json").read_text())
CONFIGS = HOOKS["bytes_by_layer"]
WITH_MASK = (
    "phi3",
    "exaone4",
    "glm",
    "glm4",
    "stablelm",
    "gemma3_text",
)  # whose sdpa took a mask, and copies of the keys


def by_layer(m, tokens, *how, dtype="bf16"):
    found = activations(m, lambda p: tokens, dtype, Training(*how))
    return found, [size for n, size in found.layers for _ in range(n)]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_autograd_keeps_the_same(family, attention):
    row = CONFIGS[family]
    if attention not in row:
        pytest.skip("transformers has no sdpa for it")
    if attention == "sdpa" and family in WITH_MASK:
        pytest.skip("its sdpa took an explicit mask, which copies keys and is no fused kernel")
    tokens = {"b": HOOKS["batch"], "t": HOOKS["tokens"], "n": HOOKS["tokens"]}
    recompute = "none" if attention == "eager" else "selective"
    m = describe(row["config"], family, "x")
    assert by_layer(m, tokens, recompute, "transformers", 0)[1] == row[attention]


FAULTS = {  # adjoints that read what PyTorch does not keep
    "softmax": ("y * (g - sum_o(y * g)) + a", "(sum_o(y) - 1) * sum_o(y * g)"),
    "sqrt": ("g / (2 * y) + a",),
}


@pytest.mark.parametrize("op", FAULTS)
def test_an_adjoint_that_reads_more_is_noticed(op, monkeypatch):
    row = CONFIGS["llama"]
    monkeypatch.setitem(OPS, op, replace(OPS[op], adjoint=FAULTS[op]))
    acts._saved.cache_clear()
    tokens = {"b": HOOKS["batch"], "t": HOOKS["tokens"], "n": HOOKS["tokens"]}
    try:
        assert by_layer(describe(row["config"], "llama", "x"), tokens, "none", "transformers", 0)[1] != row["eager"]
    finally:
        acts._saved.cache_clear()


def test_a_layer_of_llama():
    """201,352 bytes a token with fused attention, 410,120 eager: what the hooks count of Llama-3.1-8B at 1,024 tokens."""
    tokens = {"b": 1, "t": 1024, "n": 1024}
    for recompute, want in (("selective", 201_352), ("none", 410_120)):
        found, sizes = by_layer(read("llama-3.1-8b"), tokens, recompute, "transformers")
        assert sizes == [want * 1024] * 32
        assert sum(x.bytes * x.count for x in found.tensors) == found.bytes
    own = {x.tensor: x.bytes // 1024 for x in found.tensors if x.part == "attention"}
    kept = {"X": 8192, "ROT": 512, "Q": 8192, "Kr": 8192, "Vr": 8192, "O": 8192, "A32": 131_072, "A": 65_536}
    assert own == kept


def gpt(h, a, layers=2, **more):
    shape = {"n_embd": h, "n_layer": layers, "n_head": a, "vocab_size": 50, "n_positions": 4096}
    return describe(shape | {"attn_pdrop": 0.1, "resid_pdrop": 0.1} | more, "gpt2", "x")


KORTHIKANTI = {  # bytes of a layer, Korthikanti et al. 2022, arXiv:2205.05198, table 2; s tokens, b sequences, t ranks
    ("none", False): lambda s, b, h, a, t: s * b * (10 * h * t + 24 * h + 5 * a * s) // t,
    ("none", True): lambda s, b, h, a, t: s * b * (34 * h + 5 * a * s) // t,
    ("selective", False): lambda s, b, h, a, t: s * b * (10 * h * t + 24 * h) // t,
    ("selective", True): lambda s, b, h, a, t: s * b * 34 * h // t,
    ("full", False): lambda s, b, h, a, t: 2 * s * b * h,
    ("full", True): lambda s, b, h, a, t: 2 * s * b * h // t,  # its input, shared by tokens
}


@pytest.mark.parametrize(("recompute", "sequence"), KORTHIKANTI)
@pytest.mark.parametrize(
    ("s", "b", "h", "a", "t"),
    [(2048, 1, 6144, 64, 8), (2048, 4, 12288, 96, 8), (2048, 1, 20480, 128, 8), (64, 3, 96, 4, 2), (16, 2, 32, 8, 1)],
)
def test_korthikanti(recompute, sequence, s, b, h, a, t):
    """Exactly, rows' statistics apart, which the paper leaves out: s b (34 h + 5 a s) and its variants."""
    found, sizes = by_layer(
        gpt(h, a), {"b": b, "t": s, "n": s}, recompute, "page", None, t, sequence and t > 1, dtype="fp16"
    )
    rows = sum(x.bytes for x in found.tensors if x.kind == "row" and x.part == "attention")
    if recompute != "full":
        rows += 2 * next(x.bytes for x in found.tensors if x.kind == "row" and x.part == "norm")
    if recompute == "selective":  # the keep-mask is drawn again from its seed, and the scores' rows are one number each
        assert [x.tensor for x in found.tensors if x.kind == "row" and x.part == "attention"] == ["LSE"]
    want = KORTHIKANTI[recompute, sequence](s, b, h, a, t)
    assert [x - rows for x in sizes] == [want] * 2, found


def test_blocks_side_by_side_share_their_input():
    """Falcon's attention and feed-forward layer read one norm; GPT-2's read one each."""
    falcon = describe(
        {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 50, "parallel_attn": True}
        | {"multi_query": True, "bias": False, "alibi": False, "new_decoder_architecture": False},
        "falcon",
        "x",
    )
    tokens = {"b": 1, "t": 8, "n": 8}
    read_by = [x.part for x in by_layer(falcon, tokens, "none")[0].tensors if x.tensor == "X" and x.count == 2]
    assert read_by == ["attention"]
    read_by = [x.part for x in by_layer(gpt(64, 4), tokens, "none")[0].tensors if x.tensor == "X" and x.count == 2]
    assert read_by == ["attention", "mlp"]


def test_dropout_of_a_config_and_as_asked_for():
    tokens = {"b": 1, "t": 8, "n": 8}
    said = by_layer(gpt(64, 4), tokens, "none")[0]
    asked = by_layer(gpt(64, 4, attn_pdrop=0.0, resid_pdrop=0.0), tokens, "none", "page", 0.1)[0]
    without = by_layer(gpt(64, 4), tokens, "none", "page", 0.0)[0]
    assert said.bytes == asked.bytes > without.bytes
    assert not any(x.kind == "drawn" for x in without.tensors)
    assert {x.tensor: x.bytes for x in said.tensors if x.kind == "drawn"} == {"KEEP": 4 * 8 * 8, "KEEPY": 8 * 64}


def test_what_is_kept_is_what_the_gradient_reads():
    """A tensor under other indices is that tensor; weights are there anyway; a table is one for all layers."""
    layer = layers.build(variants.get("gqa"), ("rope",), None, False)
    sizes, _ = layer.sizes({"b": 2, "t": 8, "n": 8, "m": 16, "g": 2, "r": 2, "d": 4, "e": 4})
    found = {x.tensor: x for x in saved(gradient(layer.form()), sizes, "bf16")}
    assert list(found) == ["X", "ROT", "Q", "k", "v", "A", "O"]
    assert found["ROT"].kind == "table"
    assert found["k"].readers == ("dQ",)
    assert found["A"].bytes == 2 * 2 * 2 * 8 * 8 * 2
    casts = {x.tensor: x.bits for x in saved(gradient(eager(layer.form())), sizes, "bf16")}
    assert (casts["A32"], casts["A"]) == (32, 16)


@pytest.mark.parametrize("gain", ["after", "inside"])
def test_eager_code_is_the_same_function(gain):
    """Casts and copies change no value."""
    import numpy as np

    from attnmath.readings.evaluate import run

    rng = np.random.default_rng(7)
    page = blocks.get("rms-norm").program
    sizes, ins = {"b": 2, "t": 3, "m": 8}, {"X": rng.normal(size=(2, 3, 8)), "WN": rng.normal(size=8)}
    want, got = (run(p, {**sizes, "eps": 1e-6}, ins, {}, {})["Y"] for p in (page, eager(page, gain)))
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (("some",), "unknown --recompute 'some'"),
        (("none", "torch"), "unknown --computed-by 'torch'"),
        (("none", "page", 1.5), "a rate is at least 0 and below 1"),
        (("none", "page", None, 0), "a whole number of at least 1"),
        (("none", "page", None, 1, True), "it needs --tensor-parallel"),
        (("none", "transformers"), "how it computes gpt2 is not known here; known: exaone4, gemma"),
    ],
)
def test_what_is_refused(how, words):
    with pytest.raises(InputError, match=words):
        activations(gpt(64, 4), lambda p: {"b": 1, "t": 8, "n": 8}, "bf16", Training(*how))


def test_model_prints_what_it_keeps(call):
    """The command line: totals by part, a layer's bytes a token, every tensor, what the words mean."""
    line = "model llama-3.1-8b --seq 1k --phase train --computed-by transformers --recompute none"
    shown = call(line)[1]
    for words in ("410,120 bytes a token", "gqa A32[b g r t n]", "single precision", "activations kept, on one rank"):
        assert words in shown
    document = json.loads(call(f"{line} --json")[1])
    held = document["activations"]
    assert document["activation_bytes"] == held["bytes"] == sum(held["by_part"].values())
    assert held["layers"] == [[32, 410_120 * 1024]]
    assert document["flops"]["recompute"] == 0


def test_recomputation_adds_flops():
    """Selective: the scores and weights once more; full: the layers' forward pass once more."""
    import attnmath as am

    found = {r: am.model("llama-3.1-8b", seq=1024, phase="train", recompute=r) for r in ("none", "selective", "full")}
    forward = {k: v for k, v in found["full"].flops.by_part.items() if k in ("attention", "mlp", "norm")}
    assert [found[r].flops.backward for r in found] == [found["none"].flops.backward] * 3
    pairs = 1024 * 1025 // 2 * 32
    assert found["selective"].flops.recompute == 32 * pairs * (2 * 128 + 1 + 2)  # S again, over sqrt(d), less LSE, exp
    one = am.model("llama-3.1-8b", seq=1024)
    norm = one.flops.by_part["norm"] // 65
    assert set(forward) == {"attention", "mlp", "norm"}
    assert found["full"].flops.recompute == sum(one.flops.by_part[k] for k in forward) - norm
    assert found["none"].activation_bytes > found["selective"].activation_bytes > found["full"].activation_bytes


def test_training_options_need_training():
    import attnmath as am

    with pytest.raises(InputError, match="--recompute, --dropout: of use with --phase train alone"):
        am.model("llama-3.1-8b", seq=64, recompute="full", dropout=0.1)
