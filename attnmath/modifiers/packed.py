"""Packed documents whose boundaries are data.

Several documents stand one after the other in a sequence, and a query sees the keys of its own only: those with the same
number in `doc`. How many pairs that leaves is known when the data are, so that the counts are upper bounds; where the
lengths are known beforehand, the mask causal & documents(...) counts exactly.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "Krell et al. 2021, arXiv:2107.02027"


def lines(page: Program) -> tuple[str, Sizes]:
    """It takes no options; `doc[b t]` is handed in, a floating-point number per token, equal where the document is.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0].splitlines()
    ['doc[b t]', 'DOC[b n] = doc[b n-past]', 'L[..] <- L[..] + only(eq(doc[b t], DOC[b n]))']
    """
    text = "doc[b t]\nDOC[b n] = doc[b n-past]\n"
    for s in softmaxes(page):
        if s.key != "n":
            raise LanguageError(f"the keys {s.key} of {s.scores} are not tokens, each of one document")
        text += f"{s.scores.name}[..] <- {s.scores.name}[..] + only(eq(doc[b t], DOC[b n]))\n"
    return text, {}
