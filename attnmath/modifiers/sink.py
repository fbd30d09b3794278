"""Attention sink: a logit in the denominator.

One more logit per head joins the softmax and attends to nothing, so that a row may sum to less than 1. Learned in gpt-oss;
0 is the softmax that is off by one (Miller 2023), ONNX Runtime's smooth softmax. The first tokens that streaming keeps are
another thing: a mask, `window(4096) | first(4)`.
"""

from attnmath.errors import InputError, LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "OpenAI 2025, gpt-oss-120b & gpt-oss-20b Model Card, arXiv:2508.10925, section 2.2"


def lines(page: Program, logit: str = "learned") -> tuple[str, Sizes]:
    """`logit`: learned (one per head), or 0.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0]
    'A[..] = softmax_n(L[..], WSINK[h])\\n'
    """
    if logit not in ("learned", "0"):
        raise InputError(f"sink:logit={logit}: it is learned, or 0")
    found, text = softmaxes(page), ""
    if any(s.sink for s in found):
        raise LanguageError("this page's softmax has a sink already")
    for s in found:
        name = "WSINK" if len(found) == 1 else f"WSINK{s.weights.name}"
        joins = f"{name}[{' '.join(s.heads)}]" if logit == "learned" else "0"
        text += f"{s.weights.name}[..] = {s.operation}({s.scores.name}[..], {joins})\n"
    return text, {}
