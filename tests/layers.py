"""Random layers as `verify` draws them, drawn by hypothesis, which makes what fails smaller; and small ones for any layer."""

from __future__ import annotations

from hypothesis import strategies as st

from attnmath import variants
from attnmath.verifying.cases import KINDS, of_variant


@st.composite
def cases(draw, names=None):
    """(layer, form, sizes): everything that a reading needs."""
    name = draw(st.sampled_from(sorted(names or variants.names())))
    case = of_variant(draw(st.randoms(use_true_random=False)), name, draw(st.integers(0, 199)))
    return case.layer, case.form, case.sizes


@st.composite
def subjects(draw, kinds):
    """A case of one of these kinds, as laws take it."""
    kind = draw(st.sampled_from(kinds))
    name = draw(st.sampled_from(sorted(KINDS[kind].names())))
    return KINDS[kind].draw(draw(st.randoms(use_true_random=False)), name, draw(st.integers(0, 199)))


def small(layer, t=2, n=3):
    """Small sizes for any layer: t new tokens, n keys."""
    given = {"b": 1, "t": t, "n": n, "h": 2, "g": 1, "d": 4, "e": 2, "m": 3, "l": 2, "q": 2, "p": 2, "x": 2, "w": 2}
    given |= {"i": 2, "k": 2, "a": 2, "z": 2, "v": 2, "group": 1, "tap": 2, "layer": 1, "layers": 3}
    kept = {x: v for x, v in given.items() if x not in layer.local and (x in layer.names or x in ("h", "g"))}
    return layer.sizes(kept)[0]
