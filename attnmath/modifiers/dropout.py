"""Dropout of attention weights.

In training, each weight is kept with probability 1 - rate and divided by it, so that its expectation is what it was:
with KEEP, the zeros and ones that were drawn, replaced by its mean 1 - rate, nothing changes. Drawing them is not counted.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = (
    "Srivastava et al. 2014, JMLR 15:1929-1958; on attention weights: attention_dropout in tensor2tensor's Transformer"
)


def lines(page: Program, rate: float = 0.1) -> tuple[str, Sizes]:
    """`rate`: the probability that a weight is dropped.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, rate=0.5)
    ('A[..] <- A[..] * KEEP[b h t n] / (1 - rate)\\n', {'rate': 0.5})
    """
    if not 0 <= rate < 1:
        raise InputError(f"dropout:rate={rate:g}: a rate is at least 0 and below 1")
    found, text = softmaxes(page), ""
    for s in found:
        name = "KEEP" if len(found) == 1 else f"KEEP{s.weights.name}"
        index = " ".join(map(str, s.weights.index))
        text += f"{s.weights.name}[..] <- {s.weights.name}[..] * {name}[{index}] / (1 - rate)\n"
    return text, {"rate": rate}
