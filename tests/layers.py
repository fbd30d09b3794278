"""Random layers: variants, modifiers, masks and sizes small enough to walk element by element."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from oracle import Walk

from attnmath import layers, variants
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
    ],
    "mha": [[], ["rope:dims=2,layout=interleaved"], ["bias"], ["rope", "rope"]],
    "mqa": [[], ["rope"], ["norm", "bias:on=Y"]],
    "mla": [[], ["rope:layout=interleaved"], ["direct-queries"], ["direct-queries", "rope"], ["bias:on=cQ+cKV+kR+Y"]],
    "cross": [[], ["bias:on=Q+k+v+Y"], ["norm"]],
    "sliding-window": [[], ["rope"]],
}


@st.composite
def cases(draw, names=None):
    """(layer, form, sizes): everything that a reading needs."""
    name = draw(st.sampled_from(sorted(names or variants.names())))
    uses = draw(st.sampled_from(MODIFIERS.get(name, [[]])))
    phase = draw(st.sampled_from(["prefill", "one new token", "several"]))
    masked = name != "cross" and draw(st.booleans())
    layer = layers.build(name, uses, draw(st.sampled_from(MASKS)) if masked else None)
    form = draw(st.sampled_from(sorted(layer.forms)))
    t = {"prefill": draw(st.integers(1, 4)), "one new token": 1, "several": draw(st.integers(2, 3))}[phase]
    given_ = {
        "b": draw(st.integers(1, 2)),
        "t": t,
        "d": draw(st.sampled_from([2, 4])),
        "e": draw(st.integers(1, 3)),
        "m": draw(st.integers(1, 3)),
    }
    g, r = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    given_ |= {
        "h": g * r,
        "g": g,
        "w": draw(st.integers(1, 4)),
        "l": draw(st.integers(1, 3)),
        "q": draw(st.integers(1, 3)),
        "p": 2,
        "x": draw(st.integers(1, 3)),
    }
    if name == "cross":
        given_["n"] = draw(st.integers(1, 4))
        given_["kept"] = 0 if phase == "prefill" else given_["n"]
    elif phase != "prefill":
        given_["n"] = t + draw(st.integers(0, 4))
    if any(str(u).startswith("window") for u in layer.uses):
        del given_["w"]  # the modifier brings its own
    sizes, _ = layer.sizes(given_)
    return layer, form, sizes


def arrays(page, sizes, seed=0):
    """Random inputs of a page, and a past for what it reads before the new tokens."""
    rng = np.random.default_rng(seed)
    size = lambda i: int(sizes[i]) if isinstance(i, str) else 0
    inputs = {
        n: rng.standard_normal([size(i) for i in index]) / 2 for n, index in page.tensors.items() if n in page.inputs
    }
    past = {}
    for e in page.equations:
        x = e.alts[0]
        name = getattr(x, "name", None)
        for axis, i in enumerate(getattr(x, "index", ())):
            offset = next((o for o in ("past", "kept") if o in str(i)), None)
            if offset and sizes[offset]:
                shape = [size(d) for d in page.tensors[name]]
                shape[axis] = int(sizes[offset])
                past[name] = (axis, rng.standard_normal(shape) / 2)
    return inputs, past


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
