"""Random layers: variants, modifiers, masks and sizes small enough to walk element by element."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from oracle import Walk

from attnmath import layers, variants
from attnmath.language.syntax import Shift, refs
from attnmath.readings.evaluate import run

MASKS = [
    "full",
    "causal",
    "causal-top-left",
    "before",
    "window(2)",
    "window(3)",
    "prefix:2",
    "first(1)",
    "chunked:2",
    "chunked:3",
    "causal & chunked(2)",
    "window(2) | first(1)",
    "prefix(3) & window(2)",
    "chunked(4) & window(3)",
    "chunked(2) | window(2) | first(2)",
    "around(1)",
    "band(2, 1)",
    "causal & dilated(2)",
    "causal & (window(2) | dilated(3))",
    "causal & documents(2, 3, 4)",
    "documents(2, 1)",
    "documents(1, 2) | window(2)",
    "causal & chunked(2) & documents(3)",
    "before & around(2) & dilated(3)",
]
MODIFIERS = {
    "gqa": [
        [],
        ["rope"],
        ["rope:layout=interleaved"],
        ["rope:dims=2"],
        ["norm"],
        ["norm:weight=1+w", "rope"],
        ["rope", "norm:weight=none"],
        ["bias"],
        ["bias:on=Q+k+v+Y", "norm", "rope"],
        ["window:w=2"],
        ["rope:dims=2,part=last,turn=back"],
        ["rope:scaling=yarn,factor=4,original=64", "scale:width=16", "softcap:cap=5"],
        ["rope:scaling=llama3,factor=8", "sink"],
        ["norm:over=all", "temperature-tuning:floor=2"],
        ["norm:kind=layer", "gate"],
        ["clip:limit=0.4", "norm:kind=layer,gain=per-head,bias=none", "rope"],
        ["alibi"],
        ["dropout:rate=0.5", "sink:logit=0"],
        ["shared-kv"],
    ],
    "mha": [
        [],
        ["rope:dims=2,layout=interleaved"],
        ["bias"],
        ["rope", "rope"],
        ["scale:value=1", "t5-bias:buckets=8,far=6"],
        ["t5-bias:side=decoder,buckets=4,far=5"],
        ["alibi:slopes=mpt", "temperature:tau=2"],
        ["score-bias:axes=t+n"],
    ],
    "mqa": [[], ["rope"], ["norm", "bias:on=Y"], ["tied"], ["norm:kind=l2,weight=none", "gate:per=head"]],
    "mla": [[], ["rope:layout=interleaved"], ["direct-queries"], ["direct-queries", "rope"], ["bias:on=cQ+cKV+kR+Y"]],
    "cross": [[], ["bias:on=Q+k+v+Y"], ["norm"]],
    "sliding-window": [[], ["rope"], ["packed"]],
    "dsa": [[], ["rope:layout=interleaved", "rope:on=qI+kI,dims=2"]],
    "msa": [[], ["norm:on=qI+kI,weight=1+w", "rope"]],
    "moba": [[], ["rope", "sink"]],
    "nsa": [[], ["softcap:cap=5"]],
    "csa": [[], ["rope:on=Q+kv,dims=2,part=last,layout=interleaved", "rope:on=eI,dims=2", "rope:on=O,turn=back"]],
    "hca": [[], ["rope:on=e"]],
    "differential": [[], ["rope:on=Q1+k1", "sink"]],
    "gated-deltanet": [[], ["norm:on=q"]],
}


def maskable(name):
    """Whether a mask of the caller's makes sense: one mask of positions, in every form."""
    forms = variants.get(name).forms.values()
    return name != "cross" and all([pair for pair in p.sees if pair[0] == "t"] == [("t", "n")] for p in forms)


@st.composite
def cases(draw, names=None):
    """(layer, form, sizes): everything that a reading needs."""
    name = draw(st.sampled_from(sorted(names or variants.names())))
    uses = draw(st.sampled_from(MODIFIERS.get(name, [[]])))
    phase = draw(st.sampled_from(["prefill", "one new token", "several"]))
    masked = maskable(name) and draw(st.booleans())
    layer = layers.build(name, uses, draw(st.sampled_from(MASKS)) if masked else None)
    form = draw(st.sampled_from(sorted(layer.forms)))
    chunked = "c" in layer.names
    i = 1 if chunked and phase == "one new token" else draw(st.integers(1, 3))
    t = {"prefill": draw(st.integers(1, 4)), "one new token": 1, "several": draw(st.integers(2, 3))}[phase]
    t = i * draw(st.integers(1, 2)) if chunked and phase != "one new token" else t
    given_ = {"b": draw(st.integers(1, 2)), "t": t, "i": i, "p": 2, "layers": 4}
    given_ |= {x: draw(st.sampled_from([2, 4])) for x in ("d", "z")}
    given_ |= {x: draw(st.integers(1, 3)) for x in ("e", "m", "l", "q", "x", "k", "a", "v", "tap", "layer")}
    g, r = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    given_ |= {"h": g * r, "g": g, "group": g, "w": draw(st.integers(1, 4))}
    if name == "cross":
        given_["n"] = draw(st.integers(1, 4))
        given_["kept"] = 0 if phase == "prefill" else given_["n"]
    elif phase != "prefill":
        given_["n"] = t + draw(st.integers(0, 4))
    given_ = {n: x for n, x in given_.items() if n not in layer.local}  # what a modifier brings is not given
    sizes, _ = layer.sizes({n: x for n, x in given_.items() if n in layer.names or n in ("h", "g", "n", "t")})
    return layer, form, sizes


def small(layer, t=2, n=3):
    """Small sizes for any layer: t new tokens, n keys."""
    given = {"b": 1, "t": t, "n": n, "h": 2, "g": 1, "d": 4, "e": 2, "m": 3, "l": 2, "q": 2, "p": 2, "x": 2, "w": 2}
    given |= {"i": 2, "k": 2, "a": 2, "z": 2, "v": 2, "group": 1, "tap": 2, "layer": 1, "layers": 3}
    kept = {x: v for x, v in given.items() if x not in layer.local and (x in layer.names or x in ("h", "g"))}
    return layer.sizes(kept)[0]


def arrays(page, sizes, seed=0):
    """Random inputs of a page, and a past for what it reads before the new tokens (tokens, blocks, or states)."""
    rng = np.random.default_rng(seed)
    inputs = {n: rng.standard_normal([int(sizes[i]) for i in page.tensors[n]]) / 2 for n in page.inputs}
    past = {}
    for r in (r for e in page.defined.values() for a in e.alts for r in refs(a)):
        for axis, i in enumerate(r.index):
            if not isinstance(i, Shift) or i.base not in ("t", "n", "c", "o"):
                continue
            offset = next((x for sign, x in i.by if sign < 0 and x in ("past", "kept", "done")), None)
            back = sum(-sign * x if isinstance(x, int) else sizes[x] - 1 for sign, x in i.by if x != offset)
            rows = int(sizes[offset]) if offset else int(back) if sizes.get("past") else 0
            if rows > 0:
                shape = [int(sizes[d]) for d in page.tensors[r.name]]
                shape[axis] = rows
                past[r.name] = (axis, rng.standard_normal(shape) / 2)
    return inputs, past


def sliced(page, inputs, at, t):
    """The inputs of a step that adds t tokens to those seen so far."""
    cut = {"t": lambda x, k: np.take(x, range(at, at + t), k), "n": lambda x, k: np.take(x, range(at + t), k)}
    out = {}
    for n, x in inputs.items():
        for k, i in enumerate(page.tensors[n]):
            x = cut[i](x, k) if i in cut else x
        out[n] = x
    return out


def table(x):
    return dict(np.ndenumerate(x))


def walked(page, sizes, seed=0, only=None, given=()):
    """(the walk, what NumPy makes of the same inputs, the walk's values); `given`: tensors handed in, not computed."""
    inputs, past = arrays(page, sizes, seed)
    out = run(page, sizes, inputs, {n: x for n, (_, x) in past.items()})
    handed = inputs | {n: out[n] for n in given}
    walk = Walk(
        str(page),
        dict(sizes),
        {n: table(x) for n, x in handed.items()},
        {n: (axis, x.shape[axis], table(x)) for n, (axis, x) in past.items()},
    )
    return walk, out, walk.run(only)
