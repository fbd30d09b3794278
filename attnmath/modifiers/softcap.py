"""Soft cap on the scores.

cap * tanh(score / cap) keeps scores within the cap; after the scale and before the mask. Gemma 2 caps at 50.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "Gemma Team 2024, arXiv:2408.00118, section 2"


def lines(page: Program, cap: float = 50.0) -> tuple[str, Sizes]:
    """`cap`: what no score's absolute value exceeds.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, cap=30)
    ('L[..] <- cap * tanh(L[..] / cap)\\n', {'cap': 30})
    """
    if not cap > 0:
        raise InputError(f"softcap:cap={cap:g}: a cap is more than 0")
    return "".join(f"{s.scores.name}[..] <- cap * tanh({s.scores.name}[..] / cap)\n" for s in softmaxes(page)), {
        "cap": cap
    }
