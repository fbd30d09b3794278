"""Outputs of implementations that nobody here wrote, to the tolerances that their sidecars state."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import shared

import attnmath as am


def close(got, want, meta, what):
    err = np.abs(np.asarray(got) - want).max()
    allowed = meta["tolerance"]["abs"] + meta["tolerance"]["rel"] * np.abs(want).max()
    assert err <= allowed, f"{what} is off by {err:.2e}"


def grouped(z, meta):
    """Q, K, V as the page of gqa lays them out, from whichever layout the source has."""
    q, k, v = z["in.q"], z["in.k"], z["in.v"]
    if meta["hyper"].get("layout") != "bthd":
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    b, t, h, d = q.shape
    g = k.shape[2]
    return {"Q": q.reshape(b, t, g, h // g, d), "K": k, "V": v}


def ungrouped(o, meta):
    b, t, g, r, e = o.shape
    o = o.reshape(b, t, g * r, e)
    return o if meta["hyper"].get("layout") == "bthd" else o.swapaxes(1, 2)


CORES = {  # vector: (mask, window)
    "mha_full__torch_sdpa": ("full", None),
    "mha_causal__torch_sdpa": ("causal", None),
    "gqa_causal__torch_sdpa": (None, None),
    "mqa_causal__torch_sdpa": (None, None),
    "causal_topleft_rect__torch_sdpa": ("causal-top-left", None),
    "causal_bottomright_rect__torch_sdpa": ("causal", None),
    "fa_causal_bottomright__flashattn_ref": ("causal", None),
    "flash_tiled_causal__ring_flash": ("causal", None),
    "chunked_local_causal__torch_flex": ("chunked:4", None),
    "prefix_lm__torch_flex": ("prefix:5", None),
    "sliding_window_causal__torch_flex": (None, 4),
    "sink_window_streaming__torch_flex": ("causal & (window(4) | first(2))", None),
}


@pytest.mark.parametrize("name", CORES)
def test_cores(name, vector):
    z, meta = vector(name)
    mask, window = CORES[name]
    ins = grouped(z, meta)
    if name.startswith("flash_tiled"):  # its heads are grouped the other way round, head h on key head h mod g
        b, t, g, r, d = ins["Q"].shape
        ins["Q"] = z["in.q"].reshape(b, t, r, g, d).swapaxes(2, 3)
    out = am.evaluate("gqa", ins, mask=mask, window=window)
    o = out["O"].swapaxes(2, 3) if name.startswith("flash_tiled") else out["O"]
    close(ungrouped(o, meta), z["out.o"], meta, "o")
    if "out.p" in z:
        b, g, r, t, n = out["A"].shape
        close(out["A"].reshape(b, g * r, t, n), z["out.p"], meta, "p")


def test_padding_as_booleans(vector):
    z, meta = vector("mha_padding_mask__torch_sdpa")
    ins = {n.upper(): z[f"in.{n}"].swapaxes(1, 2) for n in "qkv"}
    close(am.evaluate("mha", ins, mask=z["in.mask"])["O"].swapaxes(1, 2), z["out.o"], meta, "o")


def test_cross_with_values_of_their_own_width(vector):
    z, meta = vector("cross_attention__torch_sdpa")
    ins = {n.upper(): z[f"in.{n}"].swapaxes(1, 2) for n in "qkv"}
    close(am.evaluate("cross", ins)["O"].swapaxes(1, 2), z["out.o"], meta, "o")


def heads(z, name, *shape):
    return z[f"w.{name}.weight"].T.reshape(*shape)


def rotation(z, twice=True):
    """The source's own cos and sin (computed in float32 there) as the table that a rotation multiplies with; most sources
    repeat each pair's.
    """
    cos, sin = z["in.position_embeddings.0"][0], z["in.position_embeddings.1"][0]
    pairs = cos.shape[-1] // (2 if twice else 1)
    cos, sin = cos[:, :pairs], sin[:, :pairs]
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def module(z, meta, variant, uses, ins, window=None):
    out = am.evaluate(variant, {"X": z["in.x"], **ins}, modifiers=uses, window=window)
    close(out["Y"], z["out.o"], meta, "o")
    p = out["A"]
    close(p.reshape(p.shape[0], -1, *p.shape[-2:]), z["out.core.p"], meta, "p")
    return out


def gqa_weights(z, m=24, g=2, r=2, d=8):
    return {
        "WQ": heads(z, "q_proj", m, g, r, d),
        "WK": heads(z, "k_proj", m, g, d),
        "WV": heads(z, "v_proj", m, g, d),
        "WO": heads(z, "o_proj", g, r, d, m),
    }


@pytest.mark.parametrize(("name", "window"), [("gqa_rope__hf", None), ("sliding_window_rope__hf", 4)])
def test_llama_and_mistral(name, window, vector):
    z, meta = vector(name)
    module(z, meta, "gqa", ["rope"], {**gqa_weights(z), "ROT": rotation(z)}, window)


def test_qwen3(vector):
    z, meta = vector("qk_norm_qwen3__hf")
    ins = {**gqa_weights(z), "ROT": rotation(z), "WQN": z["w.q_norm.weight"], "WkN": z["w.k_norm.weight"]}
    module(z, meta, "gqa", ["norm", "rope"], ins)


def test_lfm2(vector):
    z, meta = vector("lfm2_gqa__hf")
    z["w.o_proj.weight"] = z["w.out_proj.weight"]
    ins = {
        **gqa_weights(z, d=6),
        "ROT": rotation(z),
        "WQN": z["w.q_layernorm.weight"],
        "WkN": z["w.k_layernorm.weight"],
    }
    eps = meta["hyper"].get("eps", 1e-5)
    module(z, meta, "gqa", [f"norm:eps={eps}", "rope"], ins)


def mla_weights(z, h=3, d=5, p=4, e=7, l=6, queries=True):
    kvb, kva = z["w.kv_b_proj.weight"].reshape(h, d + e, l), z["w.kv_a_proj_with_mqa.weight"]
    out = {
        "WDKV": kva[:l].T,
        "WKR": kva[l:].T,
        "WNKV": z["w.kv_a_layernorm.weight"],
        "WO": heads(z, "o_proj", h, e, 24),
    }
    out |= {"WUK": kvb[:, :d].transpose(2, 0, 1), "WUV": kvb[:, d:].transpose(2, 0, 1)}
    qb = z["w.q_b_proj.weight" if queries else "w.q_proj.weight"]
    qb = qb.reshape(h, d + p, -1)
    out |= {"WUQ": qb[:, :d].transpose(2, 0, 1), "WQR": qb[:, d:].transpose(2, 0, 1)}
    return out | ({"WDQ": z["w.q_a_proj.weight"].T, "WNQ": z["w.q_a_layernorm.weight"]} if queries else {})


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_deepseek_v3(form, vector):
    z, meta = vector("mla__hf")
    out = am.evaluate(
        "mla", {"X": z["in.x"], "ROT": rotation(z), **mla_weights(z)}, modifiers=["rope:layout=interleaved"], form=form
    )
    close(out["Y"], z["out.o"], meta, "o")
    close(out["A"], z["out.core.p"], meta, "p")


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_kimi_without_a_query_latent(form, vector):
    z, meta = vector("mla_nope_kimi__hf")
    out = am.evaluate("mla", {"X": z["in.x"], **mla_weights(z, queries=False)}, modifiers=["direct-queries"], form=form)
    close(out["Y"], z["out.o"], meta, "o")


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_deepseeks_own_code_prefill_then_decode(form, vector):
    """inference/model.py of DeepSeek-V3: six tokens, then one with the cache; its frequencies are a table of cos and sin."""
    z, meta = vector("mla_naive__deepseek_v3_repo")
    h, d, p, e, l, q = 3, 6, 4, 7, 6, 8
    qb, kvb, kva = (
        z["w.wq_b.weight"].reshape(h, d + p, q),
        z["w.wkv_b.weight"].reshape(h, d + e, l),
        z["w.wkv_a.weight"],
    )
    cos, sin = z["out.freqs"][..., 0], z["out.freqs"][..., 1]
    rot = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    weights = {
        "WDQ": z["w.wq_a.weight"].T,
        "WNQ": z["w.q_norm.weight"],
        "WUQ": qb[:, :d].transpose(2, 0, 1),
        "WQR": qb[:, d:].transpose(2, 0, 1),
        "WDKV": kva[:l].T,
        "WKR": kva[l:].T,
        "WNKV": z["w.kv_norm.weight"],
        "WUK": kvb[:, :d].transpose(2, 0, 1),
        "WUV": kvb[:, d:].transpose(2, 0, 1),
        "WO": z["w.wo.weight"].T.reshape(h, e, 12),
    }
    step = lambda a, b, cache: am.evaluate(
        "mla",
        {"X": z["in.x"][:, a:b], "ROT": rot[a:b], **weights},
        modifiers=["rope:layout=interleaved"],
        cache=cache,
        form=form,
    )
    first = step(0, 6, None)
    second = step(6, 7, first.cache)
    close(np.concatenate([first["Y"], second["Y"]], 1), z["out.o"], meta, "o")
    assert second.cache["aKV"].shape == (2, 7, l)


def test_onnxruntime_with_a_past(vector):
    z, meta = vector("ort_gqa_past__onnxruntime")
    split = lambda x, n: x.reshape(1, 3, n, 8)
    ins = {
        "Q": split(z["in.query"], 4).reshape(1, 3, 2, 2, 8),
        "k": split(z["in.key"], 2),
        "v": split(z["in.value"], 2),
    }
    cache = {"k": z["in.past_key"].swapaxes(1, 2), "v": z["in.past_value"].swapaxes(1, 2)}
    out = am.evaluate("gqa", ins, cache=cache)
    close(out["O"].reshape(1, 3, 32), z["out.o"], meta, "o")
    assert out["O"].dtype == np.float32
    for n, key in (("k", "key"), ("v", "value")):
        np.testing.assert_array_equal(out.cache[n].swapaxes(1, 2), z[f"out.present_{key}"])


def torch_mha(z, h, width):
    """nn.MultiheadAttention's weights: y = x W^T + b."""
    d = width // h
    q, k, v = (z[f"w.{n}_proj_weight"] for n in "qkv") if "w.q_proj_weight" in z else np.split(z["w.in_proj_weight"], 3)
    bq, bk, bv = np.split(z["w.in_proj_bias"], 3)
    shape = lambda w: w.T.reshape(-1, h, d)
    return {
        "WQ": shape(q),
        "WK": shape(k),
        "WV": shape(v),
        "WO": z["w.out_proj.weight"].T.reshape(h, d, width),
        "BQ": bq.reshape(h, d),
        "Bk": bk.reshape(h, d),
        "Bv": bv.reshape(h, d),
        "BY": z["w.out_proj.bias"],
    }


def test_torch_module_self_with_padding(vector):
    z, meta = vector("mha_module_self__torch_mha")
    keep = np.broadcast_to(~z["in.key_padding_mask"][:, None], (2, 5, 5))
    out = am.evaluate("mha", {"X": z["in.query"], **torch_mha(z, 3, 12)}, modifiers=["bias:on=Q+k+v+Y"], mask=keep)
    close(out["Y"], z["out.o"], meta, "o")
    close(out["A"], z["out.weights"], meta, "p")


def test_torch_module_cross_with_keys_and_values_of_two_widths(vector):
    """Keys from inputs of width 10, values from inputs of width 6: one memory of width 16, each reading its own part."""
    z, meta = vector("mha_module_cross_kdim__torch_mha")
    w = torch_mha(z, 3, 12)
    w["WK"] = np.concatenate([w["WK"], np.zeros((6, 3, 4))])
    w["WV"] = np.concatenate([np.zeros((10, 3, 4)), w["WV"]])
    memory = np.concatenate([z["in.key"], z["in.value"]], -1)
    out = am.evaluate("cross", {"X": z["in.query"], "E": memory, **w}, modifiers=["bias:on=Q+k+v+Y"])
    close(out["Y"], z["out.o"], meta, "o")


def biased(z, names, h, transposed=True):
    out = {}
    for letter, name in names.items():
        w = z[f"w.{name}.weight"].T if transposed else z[f"w.{name}.weight"]
        out |= {f"W{letter.upper()}": w.reshape(w.shape[0], h, -1), f"B{letter}": z[f"w.{name}.bias"].reshape(h, -1)}
    return out


def test_bart_cross(vector):
    z, meta = vector("bart_cross__hf")
    ins = biased(z, {"Q": "q_proj", "k": "k_proj", "v": "v_proj"}, 3) | {
        "WO": heads(z, "out_proj", 3, 8, 24),
        "BY": z["w.out_proj.bias"],
        "E": z["in.key_value_states"],
    }
    module(z, meta, "cross", ["bias:on=Q+k+v+Y"], ins)


def test_bert(vector):
    z, meta = vector("bert_self__hf")
    ins = {"X": z["in.x"], **biased(z, {"Q": "query", "k": "key", "v": "value"}, 3)}
    out = am.evaluate(
        "mha",
        ins,
        modifiers=["bias"],
        mask=z["in.core.mask_keep"] if "in.core.mask_keep" in z else z["in.attention_mask_keep"],
    )
    close(out["O"].reshape(2, 10, 24), z["out.o"], meta, "o")
    close(out["A"], z["out.core.p"], meta, "p")


def test_gpt2(vector):
    z, meta = vector("gpt2_causal__hf")
    ws, bs = np.split(z["w.c_attn.weight"], 3, 1), np.split(z["w.c_attn.bias"], 3)
    ins = {f"W{n}": w.reshape(24, 3, 8) for n, w in zip("QKV", ws)} | {
        f"B{n}": b.reshape(3, 8) for n, b in zip("Qkv", bs)
    }
    module(
        z,
        meta,
        "mha",
        ["bias:on=Q+k+v+Y"],
        ins | {"WO": z["w.c_proj.weight"].reshape(3, 8, 24), "BY": z["w.c_proj.bias"]},
    )


def test_core_scale(vector):
    z, meta = vector("mha_scale__torch_sdpa")
    out = am.evaluate("gqa", grouped(z, meta), modifiers=["scale:value=0.3"])
    close(ungrouped(out["O"], meta), z["out.o"], meta, "o")


def test_additive_bias(vector):
    z, meta = vector("mha_additive_bias__torch_sdpa")
    ins = {n.upper(): z[f"in.{n}"].swapaxes(1, 2) for n in "qkv"} | {"SB": z["in.mask"]}
    out = am.evaluate("mha", ins, modifiers=["score-bias:axes=b+h+t+n"], mask="full")
    close(out["O"].swapaxes(1, 2), z["out.o"], meta, "o")


MODIFIED = {  # vector: (modifiers, mask, window)
    "softcap_causal__torch_flex": (["softcap:cap=5"], "causal", None),
    "alibi_h4_causal__torch_flex": (["alibi"], "causal", None),
    "fa_window_softcap__flashattn_ref": (["softcap:cap=4"], "band(3, 1)", None),
    "sparse_transformer_strided__torch_flex": ([], "causal & (window(4) | dilated(4))", None),
}


@pytest.mark.parametrize("name", MODIFIED)
def test_modified_cores(name, vector):
    z, meta = vector(name)
    uses, mask, window = MODIFIED[name]
    out = am.evaluate("gqa", grouped(z, meta), modifiers=uses, mask=mask, window=window)
    close(ungrouped(out["O"], meta), z["out.o"], meta, "o")


def test_documents(vector):
    z, meta = vector("document_causal__torch_flex")
    doc = z["in.doc_id"].tolist()
    lengths = [doc.count(d) for d in dict.fromkeys(doc)]
    out = am.evaluate("gqa", grouped(z, meta), mask=f"causal & documents({', '.join(map(str, lengths))})")
    close(ungrouped(out["O"], meta), z["out.o"], meta, "o")


def test_sink_logit_in_a_window(vector):
    z, meta = vector("sink_logit_gqa__fla_naive")
    ins = grouped(z, meta)
    sink = z["in.sink_bias"].reshape(ins["Q"].shape[2:4])
    out = am.evaluate("gqa", ins | {"WSINK": sink}, modifiers=["sink"], window=5)
    close(ungrouped(out["O"], meta), z["out.o"], meta, "o")


GEMMA = {"gemma2_local__hf": 4, "gemma2_global__hf": None}


@pytest.mark.parametrize("name", GEMMA)
def test_gemma2(name, vector):
    """The cap joins after the scale, 1/sqrt(query_pre_attn_scalar) with 16, and before the mask."""
    z, meta = vector(name)
    uses = ["rope", "scale:width=16", "softcap:cap=5"]
    module(z, meta, "gqa", uses, {**gqa_weights(z), "ROT": rotation(z)}, GEMMA[name])


def test_gemma3n(vector):
    z, meta = vector("gemma3n_local_vnorm__hf")
    ins = {**gqa_weights(z), "ROT": rotation(z), "WQN": z["w.q_norm.weight"], "WkN": z["w.k_norm.weight"]}
    module(z, meta, "gqa", ["norm", "norm:on=v,weight=none", "rope", "scale:value=1"], ins, 4)


def test_gpt_oss(vector):
    z, meta = vector("gptoss_sink_global__hf")
    bias = {
        "BQ": z["w.q_proj.bias"].reshape(2, 2, 8),
        "Bk": z["w.k_proj.bias"].reshape(2, 8),
        "Bv": z["w.v_proj.bias"].reshape(2, 8),
        "BY": z["w.o_proj.bias"],
    }
    ins = {**gqa_weights(z), **bias, "ROT": rotation(z, twice=False), "WSINK": z["w.sinks"].reshape(2, 2)}
    out = am.evaluate("gqa", {"X": z["in.x"], **ins}, modifiers=["bias:on=Q+k+v+Y", "rope", "sink"])
    close(out["Y"], z["out.o"], meta, "o")


def test_qwen3_next(vector):
    """q_proj holds, head by head, the query and its gate; a quarter or half of the dimensions turn."""
    z, meta = vector("gated_attention_qwen3next__hf")
    both = z["w.q_proj.weight"].reshape(2, 2, 2, 8, 24)  # group, head of the group, query or gate
    ins = {
        "WQ": both[:, :, 0].transpose(3, 0, 1, 2),
        "WGATE": both[:, :, 1].transpose(3, 0, 1, 2),
        "WK": heads(z, "k_proj", 24, 2, 8),
        "WV": heads(z, "v_proj", 24, 2, 8),
        "WO": heads(z, "o_proj", 2, 2, 8, 24),
        "WQN": z["w.q_norm.weight"],
        "WkN": z["w.k_norm.weight"],
        "ROT": rotation(z),
    }
    out = am.evaluate("gqa", {"X": z["in.x"], **ins}, modifiers=["norm:weight=1+w", "rope:dims=4", "gate"])
    close(out["Y"], z["out.o"], meta, "o")


def test_bloom(vector):
    """Six heads: the slopes of four, then every other one of eight. BLOOM adds slope * j; a softmax cannot tell."""
    z, meta = vector("alibi_bloom__hf")
    w = z["w.query_key_value.weight"]
    h, d = 6, w.shape[0] // 18
    parts, biases = w.T.reshape(-1, h, 3, d), z["w.query_key_value.bias"].reshape(h, 3, d)
    ins = {f"W{n}": parts[:, :, k] for k, n in enumerate("QKV")} | {f"B{n}": biases[:, k] for k, n in enumerate("Qkv")}
    ins |= {"WO": z["w.dense.weight"].T.reshape(h, d, -1), "BY": z["w.dense.bias"], "X": z["in.x"]}
    out = am.evaluate("mha", ins, modifiers=["bias:on=Q+k+v+Y", "alibi"])
    residual = z.get("in.residual", 0)
    close(out["Y"] + residual, z["out.o"], meta, "o")


def test_t5(vector):
    z, meta = vector("t5_encoder_bias__hf")
    h = 3
    shape = lambda n: z[f"w.{n}.weight"].T.reshape(z[f"w.{n}.weight"].shape[1], h, -1)
    ins = {"WQ": shape("q"), "WK": shape("k"), "WV": shape("v"), "WREL": z["w.relative_attention_bias.weight"]}
    ins["WO"] = z["w.o.weight"].T.reshape(h, -1, z["w.o.weight"].shape[0])
    uses = ["scale:value=1", "t5-bias:buckets=8,far=12"]
    out = am.evaluate("mha", {"X": z["in.x"], **ins}, modifiers=uses, mask="full")
    close(out["Y"], z["out.o"], meta, "o")
    close(out["A"], z["out.core.p"], meta, "p")


# -- recurrences: every form of a page, with its state


FORMS = {"recurrent": {}, "quadratic": {}, "chunked": {"block_size": 4}}


def every_form(variant, ins, meta, want, output="O", state=None, **options):
    """Each form's output, and the last state where the source gives it (the quadratic form has none)."""
    for form in am.variant(variant).forms:
        cache = {} if state is None else {"H": state[0]}
        if form == "quadratic" and cache:
            continue
        out = am.evaluate(variant, ins, form=form, cache=cache, **options, **FORMS[form])
        close(out[output].reshape(want.shape), want, meta, f"{form} o")
        if state is not None:
            close(out.cache["H"][:, -1].reshape(state[1].shape), state[1], meta, f"{form} state")


def swapped(z, *names):
    return [z[f"in.{n}"].swapaxes(1, 2) for n in names]


def test_linear_attention(vector):
    """The source feeds its features in, and divides."""
    z, meta = vector("linear_attn_normalized__fla_naive")
    every_form("linear-attention", {"FQ": z["in.q"], "FK": z["in.k"], "v": z["in.v"]}, meta, z["out.o"], eps=1e-10)


def test_linear_attention_without_a_denominator(vector):
    z, meta = vector("linear_attn_unnormalized__fla_naive")
    ins = {"Q": z["in.q"] / 2, "k": z["in.k"], "v": z["in.v"], "g": np.zeros_like(z["in.k"])}
    every_form("gated-linear-attention", ins, meta, z["out.o"], state=(z["in.initial_state"][:, None], z["out.state"]))


def test_gated_linear_attention(vector):
    z, meta = vector("gla_recurrent__fla_naive")
    ins = {"Q": z["in.q"] / 2, "k": z["in.k"], "v": z["in.v"], "g": z["in.gk"]}
    every_form("gated-linear-attention", ins, meta, z["out.o"], state=(z["in.initial_state"][:, None], z["out.state"]))


def test_one_decay_per_head(vector):
    z, meta = vector("simple_gla_recurrent__fla_naive")
    decay = np.broadcast_to(z["in.g"][..., None], z["in.k"].shape)
    ins = {"Q": z["in.q"] / 2, "k": z["in.k"], "v": z["in.v"], "g": decay}
    every_form("gated-linear-attention", ins, meta, z["out.o"])


def test_retention_as_a_fixed_decay(vector):
    z, meta = vector("retention__fla_naive")
    q, k, v = swapped(z, "q", "k", "v")
    decay = np.log(1 - 2.0 ** (-5 - np.arange(4)))
    ins = {"Q": q / 2, "k": k, "v": v, "g": np.broadcast_to(decay[:, None], k.shape)}
    every_form("gated-linear-attention", ins, meta, z["out.o"].swapaxes(1, 2))


def test_mamba2(vector):
    """ssd_minimal takes x times dt and A times dt."""
    z, meta = vector("mamba2_ssd_minimal__mamba_repo")
    ins = {"C": z["in.C"], "B": z["in.B"], "u": z["in.X"][:, :, :, None], "a": z["in.A"][..., None]}
    every_form("mamba2", ins, meta, z["out.Y"])


def one(x):
    """Value heads in groups of one."""
    return x[:, :, :, None]


def test_gated_delta_rule(vector):
    z, meta = vector("gated_delta_rule_recurrent__fla_naive")
    ins = {"Q": z["in.q"] / 2, "K": z["in.k"], "v": one(z["in.v"]), "a": one(z["in.g"]), "beta": one(z["in.beta"])}
    state = z["in.initial_state"][:, None, :, None], z["out.state"]
    every_form("gated-deltanet", ins, meta, z["out.o"], state=state)


@pytest.mark.parametrize("name", ["delta_rule_recurrent__fla_naive", "delta_rule_chunk__fla_naive"])
def test_the_delta_rule_is_the_gated_one_that_forgets_nothing(name, vector):
    z, meta = vector(name)
    q, k, v, beta = swapped(z, "q", "k", "v", "beta")
    ins = {"Q": q / 2, "K": k, "v": one(v), "a": np.zeros_like(one(beta)), "beta": one(beta)}
    every_form("gated-deltanet", ins, meta, z["out.o"].swapaxes(1, 2))


def test_kimi_delta_attention(vector):
    """Four value heads on two key heads."""
    z, meta = vector("kda_recurrent__fla_naive")
    pairs = lambda x: x.reshape(*x.shape[:2], 2, 2, *x.shape[3:])
    ins = {"Q": z["in.q"] / 2, "K": z["in.k"]}
    ins |= {"v": pairs(z["in.v"]), "a": pairs(z["in.g"]), "beta": pairs(z["in.beta"])}
    state = z["in.initial_state"].reshape(2, 1, 2, 2, 4, 6), z["out.state"]
    every_form("kda", ins, meta, z["out.o"], state=state)


# -- selection


def test_dsa(vector):
    """Keys and values of their own widths, as one latent that holds both: the query looks at the first, the output at the second."""
    z, meta = vector("dsa__fla_naive")
    k, v = z["in.k"][:, :, 0], z["in.v"][:, :, 0]
    q = np.concatenate([z["in.q"] * np.sqrt(6 / 4), np.zeros((2, 10, 4, 6))], -1)  # the page divides by sqrt(4 + 2)
    ins = {"Z": q, "C": np.concatenate([k, v], -1), "QR": np.zeros((2, 10, 4, 2)), "KR": np.zeros((2, 10, 2))}
    ins |= {"QC": np.zeros((2, 10, 4, 4)), "WUV": np.eye(10)[:, None, 4:].repeat(4, 1)}
    ins |= {"qI": z["in.q_idx"], "KI": z["in.k_idx"], "wI": z["in.w_idx"]}
    out = am.evaluate("dsa", ins, top_k=4)
    close(out["O"], z["out.o"], meta, "o")
    exists = np.arange(4)[None] <= np.arange(10)[:, None]
    chosen = np.sort(np.where(exists, out["T"], -1), -1)
    assert (chosen == np.sort(z["out.indices"], -1)).all(), "the same keys are chosen"


def grouped_queries(z):
    return z["in.q"].reshape(1, 16, 2, 2, 4)


def test_nsa_compression(vector):
    z, meta = vector("nsa_compression__fla_naive")
    ins = {"Q": grouped_queries(z), "KC": z["in.k_cmp"], "VC": z["in.v_cmp"]}
    out = am.evaluate("nsa", ins, block_size=4)
    close(out["OC"].reshape(1, 16, 4, 6), z["out.o"], meta, "o")


def test_nsa_selection(vector):
    """The source lists the query's own block among the selected; the page always has it."""
    z, meta = vector("nsa_selection__fla_naive")
    own = np.arange(16)[:, None] // 4
    chosen = z["in.block_indices"].swapaxes(1, 2)
    assert (chosen == own).any(-1).all()
    others = np.sort(np.where(chosen == own, -1, chosen), -1)[..., ::-1][..., :2]
    ins = {"Q": grouped_queries(z), "KS": z["in.k"], "VS": z["in.v"], "T": np.ascontiguousarray(others)}
    out = am.evaluate("nsa", ins, block_size=4, top_k=3)
    close(out["OS"].reshape(1, 16, 4, 6), z["out.o"], meta, "o")


def test_moba(vector):
    """Two documents, one after the other; the last block of the second is not full."""
    z, meta = vector("moba__moba_naive")
    ends = z["in.cu_seqlens"]
    for a, b in itertools.pairwise(ends):
        q, k, v = (z[f"in.{n}"][None, a:b] for n in "qkv")
        out = am.evaluate("moba", {"Q": q[:, :, :, None], "K": k, "V": v}, block_size=4, top_k=2)
        close(out["O"][0, :, :, 0], z["out.o"][a:b], meta, "o")


def v4_weights(z, width=24, h=4, d=8):
    w = {n[2:]: x for n, x in z.items() if n.startswith("w.")}
    ins = {"X": z["in.x"], "WDQ": w["q_a_proj.weight"].T, "WNQ": w["q_a_norm.weight"], "WKV": w["kv_proj.weight"].T}
    ins |= {"WUQ": w["q_b_proj.weight"].T.reshape(-1, h, d), "WNKV": w["kv_norm.weight"], "WSINK": w["sinks"]}
    ins |= {"WOA": w["o_a_proj.weight"].reshape(2, -1, 2, d).transpose(0, 2, 3, 1)}
    return w, ins | {"WOB": w["o_b_proj.weight"].T.reshape(2, -1, width)}


def v4_tables(z, kind, *tables):
    """FREQ of every rope, from the source's cos and sin at position 1 (computed in float32 there)."""
    cos, sin = (z[f"in.position_embeddings.{kind}.{k}"][0, 1] for k in (0, 1))
    return {name: np.arctan2(sin, cos) for name in tables}


V4_TURN = "dims=4,part=last,layout=interleaved,scaling=given"


def test_deepseek_v4_sliding(vector):
    z, meta = vector("deepseek_v4_sliding__hf")
    _, ins = v4_weights(z)
    uses = [f"rope:on=Q+kv,{V4_TURN}", f"rope:on=O,{V4_TURN},turn=back"]
    out = am.evaluate("shared-window", ins | v4_tables(z, "main", "FREQ", "FREQ2"), modifiers=uses, window=4)
    close(out["Y"], z["out.o"], meta, "o")


def test_deepseek_v4_csa(vector):
    z, meta = vector("deepseek_v4_csa__hf")
    w, ins = v4_weights(z)
    c, i = "compressor.", "compressor.indexer."
    pair = lambda n: w[n].T.reshape(24, 2, 8)
    ins |= {"WCK": pair(c + "kv_proj.weight"), "WCG": pair(c + "gate_proj.weight"), "WNE": w[c + "kv_norm.weight"]}
    ins |= {"WPOS": w[c + "position_bias"].reshape(4, 2, 8), "WIPOS": w[i + "position_bias"].reshape(4, 2, 8)}
    ins |= {"WIK": pair(i + "kv_proj.weight"), "WIG": pair(i + "gate_proj.weight"), "WNI": w[i + "kv_norm.weight"]}
    ins |= {"WIQ": w[i + "q_b_proj.weight"].T.reshape(-1, 2, 8), "WIW": w[i + "scorer.weights_proj.weight"].T}
    uses = [f"rope:on={x},{V4_TURN}" for x in ("Q+kv", "e", "qI+eI")] + [f"rope:on=O,{V4_TURN},turn=back"]
    ins |= v4_tables(z, "compress", "FREQ", "FREQ2", "FREQ3", "FREQ4")
    out = am.evaluate("csa", ins, modifiers=uses, window=4, block_size=4, top_k=2)
    close(out["Y"], z["out.o"], meta, "o")


# -- every vector in the folder is met by a test, or belongs to mechanisms that come later

LATER = {
    "bahdanau_additive__opennmt", "based_taylor__fla_naive", "bigbird_block_sparse__hf", "forgetting_attn__fla_naive",
    "gta__gta_gla_repo", "han_word_attention__han_repo", "linformer__linformer_pkg", "local_block_window__local_attention",
    "longformer__hf", "luong_dot__opennmt", "nystromformer__hf", "performer_favor__performer_pytorch",
    "performer_relu__performer_pytorch", "rebased__fla_naive", "reformer_local__hf", "reformer_lsh_r1__hf",
    "reformer_lsh_r1_causal__hf", "reformer_lsh_r2__hf", "tpa__tpa_repo",
}  # fmt: skip


def test_no_vector_is_forgotten():
    folder = shared("vectors")
    texts = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    forgotten = [p.stem for p in sorted(folder.glob("*.npz")) if p.stem not in texts]
    assert not forgotten
