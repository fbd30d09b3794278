"""The equations of a layer as plain data for the templates."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from attnmath.language.letters import LETTERS
from attnmath.language.syntax import Equation, Program, Ref
from attnmath.layers import Layer
from attnmath.readings.text import latex_lines, legend, lines, printed


def data(layer: Layer, form: str | None = None, backward: bool = False, recompute: str = "none") -> dict[str, Any]:
    """Title, source, forms (each with its equations as text and as LaTeX) and legend; `backward`: of the gradients, which
    compute again what `recompute` says.

    >>> from attnmath.layers import build
    >>> data(build("mqa"))["forms"][0]["text"][0]
    'Q[b t h d] = X[b t m] * WQ[m h d]'
    """
    names = [form] if form else list(layer.forms)
    pages = {n: _backward(layer.form(n), recompute) if backward else layer.form(n) for n in names}
    own = layer.variant.where
    rows = dict.fromkeys(
        (n, meaning, f"= {own[n]}" if n in own and set_by.startswith("=") else set_by)
        for p in pages.values()
        for n, meaning, set_by in legend(p)
    )
    rows |= dict.fromkeys(
        (n, "a size of this page's own" if n in own else "a size that a modifier brings along", f"= {v}")
        for n, v in layer.local.items()
        if n not in LETTERS
    )
    with_ = f" with {', '.join(map(str, layer.uses))}" if layer.uses else ""
    return {
        "variant": layer.variant.name,
        "with": [str(u) for u in layer.uses],
        "title": layer.variant.title + with_ + (", backward" if backward else ""),
        "source": "; ".join([layer.variant.source, *(f"{u.modifier.name}: {u.modifier.source}" for u in layer.uses)]),
        "about": layer.variant.about,
        "backward": backward,
        "forms": [
            {
                "name": n,
                "text": lines(p),
                "latex": latex_lines(p),
                "tensors": {k: [str(i) for i in v] for k, v in p.tensors.items()},
            }
            for n, p in pages.items()
        ],
        "legend": [
            {
                "letter": n,
                "printed": printed(n),
                "meaning": m,
                "set_by": s,
            }
            for n, m, s in rows
        ],
    }


def _backward(page: Program, recompute: str) -> Program:
    """The page of its gradient, after what it reads of the forward pass under names that the page itself does not have; what
    is kept of a softmax's rows stands as it is.
    """
    from attnmath.readings.gradient import gradient

    found = gradient(page, recompute=recompute)
    read = set(found.backward.inputs)
    named: list[Equation] = []
    for e in reversed(found.forward.equations):
        if e.alts and e.out.name in read and e.out.name not in {*page.tensors, *found.statistics}:
            named.insert(0, e)
            read |= {r.name for r in e.reads}
    own = {e.out.name for e in named}
    kept = [e for e in found.backward.equations if not e.alts and e.out.name in found.statistics]
    inputs = [Equation(Ref(n, page.tensors[n]), ()) for n in page.tensors if n in read]
    seeds = [e for e in found.backward.equations if not e.alts and e.out.name not in {*own, *page.tensors}]
    made = [e for e in found.backward.equations if e.alts]
    first = [e for e in seeds if e not in kept]
    return replace(found.backward, equations=(*first, *inputs, *kept, *named, *made))
