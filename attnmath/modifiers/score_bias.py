"""Bias on the scores, handed in.

Numbers that are added to the scores after the scale: an additive mask (0 and minus infinity), ONNX's attn_mask, a table of
one's own. It belongs to nobody's parameters.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "ONNX, operator Attention, version 23, input attn_mask"


def lines(page: Program, axes: str = "t n") -> tuple[str, Sizes]:
    """`axes`: the indices that the bias has, of those of the scores.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0]
    'L[..] <- L[..] + SB[t n]\\n'
    """
    text = ""
    for s in softmaxes(page):
        own, asked = [str(i) for i in page.tensors[s.scores.name]], axes.split()
        if unknown := [x for x in asked if x not in own]:
            raise InputError(f"score-bias:axes: {', '.join(unknown)[:60]}: the scores have {' '.join(own)}")
        text += f"{s.scores.name}[..] <- {s.scores.name}[..] + SB[{' '.join(asked)}]\n"
    return text, {}
