"""Dropout, of attention weights or of any tensor.

In training, each number is kept with probability 1 - rate and divided by it, so that its expectation is what it was:
with KEEP, the zeros and ones that were drawn, replaced by its mean 1 - rate, nothing changes. Drawing them is not counted.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes, targets

SOURCE = (
    "Srivastava et al. 2014, JMLR 15:1929-1958; on attention weights: attention_dropout in tensor2tensor's Transformer"
)


def lines(page: Program, rate: float = 0.1, on: str = "") -> tuple[str, Sizes]:
    """`rate`: the probability that a number is dropped; `on`: the tensors, without it the softmax's weights.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, rate=0.5)
    ('A[..] <- A[..] * KEEP[b h t n] / (1 - rate)\\n', {'rate': 0.5})
    """
    if not 0 <= rate < 1:
        raise InputError(f"dropout:rate={rate:g}: a rate is at least 0 and below 1")
    found = [n for n, _ in targets(page, on)] if on else [s.weights.name for s in softmaxes(page)]
    share, text = f"{rate:.17g}" if on else "rate", ""
    for n in found:
        name = "KEEP" if len(found) == 1 and not on else f"KEEP{n}"
        text += f"{n}[..] <- {n}[..] * {name}[{' '.join(map(str, page.tensors[n]))}] / (1 - {share})\n"
    return text, {} if on else {"rate": rate}
