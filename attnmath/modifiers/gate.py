"""Output gate.

What a head reads is multiplied with a sigmoid of a projection of the input, before the output's projection: one gate per
element as in Qwen3-Next, or one per head.
"""

from attnmath.errors import InputError, LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, targets

SOURCE = "Qiu et al. 2025, arXiv:2505.06708, section 2.2, equation 5"


def lines(page: Program, on: str = "O", per: str = "element") -> tuple[str, Sizes]:
    """`on`: what is gated; `per`: element, or head.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0].splitlines()
    ['GATE[b t h e] = X[b t m] * WGATE[m h e]', 'O[b t h e] <- O[b t h e] * sigmoid(GATE[b t h e])']
    """
    if per not in ("element", "head"):
        raise InputError(f"gate:per={per}: it is element, or head")
    text = ""
    for n, d in targets(page, on):
        index = [str(i) for i in page.tensors[n]]
        if "m" in index:
            raise LanguageError(f"{n} is as wide as the model; what heads read is gated, before it is projected")
        own = [i for i in index if per == "element" or i != d]
        gate = "GATE" if n == "O" else f"GATE{n}"
        weight = f"W{gate}[m {' '.join(i for i in own if i not in ('b', 't'))}]"
        text += f"{gate}[{' '.join(own)}] = X[b t m] * {weight}\n"
        text += f"{n}[{' '.join(index)}] <- {n}[{' '.join(index)}] * sigmoid({gate}[{' '.join(own)}])\n"
    return text, {}
