"""Sliding window.

A query sees its own key and the w - 1 before it, within whatever else its mask allows.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes

SOURCE = "Beltagy et al. 2020, arXiv:2004.05150, section 3.1; Jiang et al. 2023, arXiv:2310.06825, section 2"


def lines(page: Program, w: int = 4096) -> tuple[str, Sizes]:
    """`w`: how many keys a query sees, its own included.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, w=4)
    ('t sees n: window(w)', {'w': 4})
    """
    if [pair for pair in page.sees if pair[0] == "t"] != [("t", "n")]:
        raise LanguageError("what a query sees is part of what this page computes, or it sees no keys at all")
    return "t sees n: window(w)", {"w": w}
