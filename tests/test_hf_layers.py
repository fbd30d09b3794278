"""Whole attention layers of today's models: a variant and modifiers equal transformers' own code, and do so in steps.

The vectors are written by make_vectors.py. An adapter only takes a state dict apart: which rows of a fused projection are
whose, and that a convolution's last tap meets the newest token.
"""

from __future__ import annotations

import numpy as np
import pytest

import attnmath as am

M = 24  # the models' width


def split(x, *shape):
    """nn.Linear's weight [out, in] as [in, ...]."""
    return x.T.reshape(x.shape[1], *shape)


def out(x, *shape):
    """The output projection's weight [out, in] as [..., out]."""
    return x.T.reshape(*shape, x.shape[0])


def gqa(w, g=2, r=2, d=8):
    ins = {"WQ": split(w["q_proj.weight"], g, r, d), "WK": split(w["k_proj.weight"], g, d)}
    return ins | {"WV": split(w["v_proj.weight"], g, d), "WO": out(w["o_proj.weight"], g, r, d)}


def biased(w):
    q, k, v = (w[f"{x}_proj.bias"] for x in "qkv")
    return gqa(w) | {"BQ": q.reshape(2, 2, 8), "Bk": k.reshape(2, 8), "Bv": v.reshape(2, 8)}


def cohere(w):
    return gqa(w) | {"WQN": w["q_norm.weight"].reshape(2, 2, 8), "WkN": w["k_norm.weight"]}


def hunyuan(w):
    return gqa(w) | {"WQN": w["query_layernorm.weight"], "WkN": w["key_layernorm.weight"]}


def dbrx(w):
    q, k, v = np.split(w["Wqkv.weight"], [24, 36])
    names = {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "o_proj.weight": w["out_proj.weight"]}
    return gqa(names, d=6)


def taps(w, *parts):
    """A depthwise convolution's weights by part, the newest token's tap first."""
    x, ends = w[:, 0, ::-1], np.cumsum([int(np.prod(p)) for p in parts])
    return [x[end - int(np.prod(p)) : end].reshape(*p, -1) for p, end in zip(parts, ends)]


def gated_deltanet(w):
    g, r, d, e = 2, 2, 6, 5
    both, ba = split(w["in_proj_qkvz.weight"], g, 2 * d + 2 * r * e), split(w["in_proj_ba.weight"], g, 2 * r)
    cq, ck, cv = taps(w["conv1d.weight"], (g, d), (g, d), (g, r, e))
    q, k, v, z = np.split(both, [d, 2 * d, 2 * d + r * e], -1)
    heads = lambda x: x.reshape(M, g, r, e)
    ins = {"WQ": q, "WK": k, "WV": heads(v), "WZ": heads(z), "WBETA": ba[..., :r], "WA": ba[..., r:]}
    ins |= {"WCQ": cq, "WCK": ck, "WCV": cv, "WN": w["norm.weight"], "WO": out(w["out_proj.weight"], g, r, e)}
    return ins | {"WALOG": w["A_log"].reshape(g, r), "BDT": w["dt_bias"].reshape(g, r)}


def kda(w):
    h, d = 3, 6
    cq, ck, cv = taps(w["conv1d.weight"], (h, d), (h, d), (h, 1, d))
    ins = {"WQ": split(w["q_proj.weight"], h, d), "WK": split(w["k_proj.weight"], h, d)}
    ins |= {"WV": split(w["v_proj.weight"], h, 1, d), "WCQ": cq, "WCK": ck, "WCV": cv}
    ins |= {"WFA": split(w["forget_gate.f_a_proj.weight"], d), "WFB": split(w["forget_gate.f_b_proj.weight"], h, 1, d)}
    ins |= {"WALOG": w["forget_gate.A_log"].reshape(h, 1), "BDT": w["forget_gate.dt_bias"].reshape(h, 1, d)}
    ins |= {"WBETA": split(w["b_proj.weight"], h, 1), "WGA": split(w["g_a_proj.weight"], d)}
    ins |= {"WGB": split(w["g_b_proj.weight"], h, 1, d), "WN": w["o_norm.weight"]}
    return ins | {"WO": out(w["o_proj.weight"], h, 1, d)}


def lightning(w):
    h, d = 4, 6
    qkv = split(w["qkv_proj.weight"], h, 3, d)
    ins = {f"W{n}": qkv[:, :, k] for k, n in enumerate("QKV")} | {"WZ": split(w["output_gate.weight"], h, d)}
    return ins | {"WN": w["norm.weight"].reshape(h, d), "WO": out(w["out_proj.weight"], h, d)}


def mamba2(w):
    g, r, e, d = 2, 3, 8, 5
    parts = np.cumsum([g * r * e, g * r * e, g * d, g * d])
    z, x, b, c, dt = np.split(w["in_proj.weight"].T, parts, 1)
    cx, cb, cc = taps(w["conv1d.weight"], (g, r, e), (g, d), (g, d))
    bx, bb, bc = np.split(w["conv1d.bias"], parts[[0]].tolist() + [int(parts[0]) + g * d])
    ins = {"WZ": z.reshape(M, g, r, e), "WX": x.reshape(M, g, r, e), "WB": b.reshape(M, g, d)}
    ins |= {"WC": c.reshape(M, g, d), "WDT": dt.reshape(M, g, r), "WCX": cx, "WCB": cb, "WCC": cc}
    ins |= {"BCX": bx.reshape(g, r, e), "BCB": bb.reshape(g, d), "BCC": bc.reshape(g, d)}
    ins |= {"WALOG": w["A_log"].reshape(g, r), "BDT": w["dt_bias"].reshape(g, r), "WD": w["D"].reshape(g, r)}
    return ins | {"WN": w["norm.weight"].reshape(g, r, e), "WO": out(w["out_proj.weight"], g, r, e)}


def differential(w):
    """Head h goes with head h + 4, and so do the two halves of a value."""
    q, k, v = (split(w[f"{n}_proj.weight"], 2, 2, *rest) for n, rest in (("q", (2, 4)), ("k", (4,)), ("v", (4,))))
    ins = {"WQ1": q[:, 0], "WQ2": q[:, 1], "WK1": k[:, 0], "WK2": k[:, 1], "WV": np.concatenate([v[:, 0], v[:, 1]], -1)}
    ins |= {f"WL{x.upper()}{n}": w[f"lambda_{x}{n}"] for x in "qk" for n in (1, 2)}
    return ins | {"WN": np.ones(8), "WO": out(w["o_proj.weight"], 2, 2, 8)}


def dsa(w):
    h, d, e, l = 3, 5, 7, 6
    qb, kvb = w["q_b_proj.weight"].reshape(h, -1, 10), w["kv_b_proj.weight"].reshape(h, -1, l)
    kva = w["kv_a_proj_with_mqa.weight"]
    ins = {"WDQ": w["q_a_proj.weight"].T, "WNQ": w["q_a_layernorm.weight"], "WDKV": kva[:l].T, "WKR": kva[l:].T}
    ins |= {"WUQ": qb[:, :d].transpose(2, 0, 1), "WQR": qb[:, d:].transpose(2, 0, 1)}
    ins |= {"WUK": kvb[:, :d].transpose(2, 0, 1), "WUV": kvb[:, d:].transpose(2, 0, 1)}
    ins |= {"WNKV": w["kv_a_layernorm.weight"], "WO": out(w["o_proj.weight"], h, e)}
    ins |= {"WIQ": split(w["indexer.wq_b.weight"], 9, 8), "WIK": w["indexer.wk.weight"].T}
    ins |= {"WIN": w["indexer.k_norm.weight"], "BIN": w["indexer.k_norm.bias"]}
    return ins | {"WIW": w["indexer.weights_proj.weight"].T}


def msa(w):
    ins = gqa(w, 3, 2) | {"WQN": w["q_norm.weight"], "WkN": w["k_norm.weight"]}
    ins |= {"WIQ": split(w["indexer.q_proj.weight"], 3, 8), "WIK": w["indexer.k_proj.weight"].T}
    return ins | {"WqIN": w["indexer.q_norm.weight"], "WkIN": w["indexer.k_norm.weight"]}


def v4_window(w):
    h, d = 4, 16
    ins = {"WDQ": w["q_a_proj.weight"].T, "WNQ": w["q_a_norm.weight"], "WUQ": split(w["q_b_proj.weight"], h, d)}
    ins |= {"WKV": w["kv_proj.weight"].T, "WNKV": w["kv_norm.weight"], "WSINK": w["sinks"]}
    ins |= {"WOA": w["o_a_proj.weight"].reshape(2, 6, 2, d).transpose(0, 2, 3, 1)}
    return ins | {"WOB": out(w["o_b_proj.weight"], 2, 6)}


def v4_hca(w):
    of = {n: w[f"compressor.{n}"] for n in ("kv_proj.weight", "gate_proj.weight", "position_bias", "kv_norm.weight")}
    ins = {"WCK": of["kv_proj.weight"].T, "WCG": of["gate_proj.weight"].T}
    return v4_window(w) | ins | {"WPOS": of["position_bias"], "WNE": of["kv_norm.weight"]}


def v4_csa(w):
    ins, pair = v4_hca(w), lambda x: split(x, 2, -1)
    c, i = "compressor.", "compressor.indexer."
    ins |= {"WCK": pair(w[c + "kv_proj.weight"]), "WCG": pair(w[c + "gate_proj.weight"])}
    ins |= {"WPOS": ins["WPOS"].reshape(4, 2, 16), "WIPOS": w[i + "position_bias"].reshape(4, 2, 8)}
    ins |= {"WIK": pair(w[i + "kv_proj.weight"]), "WIG": pair(w[i + "gate_proj.weight"])}
    ins |= {"WNI": w[i + "kv_norm.weight"], "WIQ": split(w[i + "q_b_proj.weight"], 9, 8)}
    return ins | {"WIW": w[i + "scorer.weights_proj.weight"].T}


def olmo2(w):
    g, d = 2, 6
    ins = gqa(w, g, 2, d)
    return ins | {"WQN": w["q_norm.weight"].reshape(g, 2, d), "WkN": w["k_norm.weight"].reshape(g, d)}


def normed(w):
    return gqa(w) | {"WQN": w["q_norm.weight"], "WkN": w["k_norm.weight"]}


def t5(w):
    ins = {f"W{n.upper()}": split(w[f"{n}.weight"], 4, 8) for n in "qkv"}
    return ins | {"WO": out(w["o.weight"], 4, 8), "WREL": w["relative_attention_bias.weight"]}


def v4_rope(base, *entries):
    """Interleaved pairs of the last four dimensions; what is read is turned back."""
    turn = f"dims=4,part=last,layout=interleaved,base={base}"
    return [f"rope:on=Q+kv,{turn}", *(f"rope:on={x},{turn}" for x in entries), f"rope:on=O,{turn},turn=back"]


YARN = "scaling=yarn,factor=4,original=64,amplitude=1.1386294361119891"  # 0.1 ln 4 + 1
LAYERS = {  # vector: (variant, its weights, modifiers, options)
    "gated_deltanet_qwen3next": ("gated-deltanet", gated_deltanet, [], {}),
    "kda_kimi": ("kda", kda, [], {}),
    "lightning_minimax": ("lightning-attention", lightning, [], {"layer": 2, "layers": 5}),
    "mamba2": ("mamba2", mamba2, [], {}),
    "differential_diffllama": ("differential", differential, ["rope:on=Q1+Q2+k1+k2"], {"layer": 2}),
    "dsa_deepseek_v32": ("dsa", dsa, ["rope:layout=interleaved", "rope:on=qI+kI,dims=4"], {"top_k": 4}),
    "msa_minimax_m3": (
        "msa",
        msa,
        ["norm:on=Q+k+qI+kI,weight=1+w", "rope:on=Q+k+qI+kI,dims=4"],
        {"top_k": 3, "block_size": 4},
    ),
    "window_deepseek_v4": ("shared-window", v4_window, v4_rope(1e4), {"window": 5}),
    "hca_deepseek_v4": ("hca", v4_hca, v4_rope(1.6e5, "e"), {"window": 5, "block_size": 8}),
    "csa_deepseek_v4": (
        "csa",
        v4_csa,
        v4_rope(1.6e5, "e", "qI+eI"),
        {"window": 5, "block_size": 4, "top_k": 2},
    ),
    "llama4_chunked": (
        "gqa",
        gqa,
        ["rope:layout=interleaved", "norm:weight=none,eps=1e-5"],
        {"mask": "chunked:6"},
    ),
    "llama4_nope": ("gqa", gqa, ["temperature-tuning:floor=4"], {}),
    "olmo2": ("gqa", olmo2, ["norm:over=all,eps=1e-5", "rope"], {}),
    "gemma3": ("gqa", normed, ["norm:weight=1+w", "rope", "scale:width=24"], {}),
    "t5_decoder": ("mha", t5, ["scale:value=1", "t5-bias:side=decoder,buckets=8,far=12"], {}),
    "glm4": ("gqa", biased, ["bias:on=Q+k+v", "rope:layout=interleaved,dims=4"], {}),
    "cohere": (
        "gqa",
        cohere,
        ["norm:kind=layer,gain=per-head,bias=none,eps=1e-5", "rope:layout=interleaved"],
        {},
    ),
    "hunyuan": ("gqa", hunyuan, ["rope", "norm:eps=1e-5"], {}),
    "dbrx": ("gqa", dbrx, ["clip:limit=0.5", "rope"], {}),
    "llama_yarn": ("gqa", gqa, [f"rope:{YARN}"], {}),
    "llama_llama3": ("gqa", gqa, ["rope:scaling=llama3,factor=8,original=64"], {}),
}


def loaded(name, vector):
    z, meta = vector(f"{name}__hf64")
    variant, weights, uses, options = LAYERS[name]
    ins = weights({n[2:]: x for n, x in z.items() if n.startswith("w.")})
    return variant, {"X": z["in.x"], **ins}, uses, options, z["out.o"], meta


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_transformers(name, vector):
    variant, ins, uses, options, want, meta = loaded(name, vector)
    for form in am.variant(variant).forms:
        sizes = {"block_size": 11} if form == "chunked" else {}
        got = am.evaluate(variant, ins, modifiers=uses, form=form, **options, **sizes)["Y"]
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=meta["tolerance"]["abs"], err_msg=form)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_steps_equals_transformers(name, vector):
    """Seven tokens, then one by one and several at once, with the cache in between."""
    variant, ins, uses, options, want, meta = loaded(name, vector)
    cache, parts, at = None, [], 0
    for t in (7, 1, 1, 6, 1, 6):
        step = am.evaluate(variant, ins | {"X": ins["X"][:, at : at + t]}, modifiers=uses, cache=cache, **options)
        cache, at = step.cache, at + t
        parts.append(step["Y"])
    np.testing.assert_allclose(np.concatenate(parts, 1), want, rtol=1e-9, atol=meta["tolerance"]["abs"])


def test_the_order_of_modifiers_matters(vector):
    """Llama 4 norms after the rope; before it is something else, and the vector tells."""
    variant, ins, uses, options, want, _ = loaded("llama4_chunked", vector)
    wrong = am.evaluate(variant, ins, modifiers=["norm:on=Q,weight=none,eps=1e-5", "rope"], **options)["Y"]
    assert np.abs(wrong - want).max() > 1e-3
