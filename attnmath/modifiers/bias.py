"""Learned biases on the projections.

Qwen 2 has them on queries, keys and values; GPT-2 on the output as well (on=Q+k+v+Y).
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, targets

SOURCE = "Qwen Team 2024, arXiv:2407.10671, section 2.2.1"
TOKENS = ("b", "t", "s", "n")


def lines(page: Program, on: str = "Q k v") -> tuple[str, Sizes]:
    """`on`: the projected tensors that gain a bias, one number per head and dimension.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, on="Q")[0]
    'Q[.. h d] <- Q[.. h d] + BQ[h d]\\n'
    """
    text = ""
    for n, _ in targets(page, on):
        if f"B{n}" in page.tensors:
            raise LanguageError(f"{n} has a bias already")
        own = " ".join(str(i) for i in page.tensors[n] if i not in TOKENS)
        text += f"{n}[.. {own}] <- {n}[.. {own}] + B{n}[{own}]\n"
    return text, {}
