"""Scale of the scores.

A constant in place of 1/sqrt(d): Gemma 2 divides by the root of query_pre_attn_scalar, T5 and Gemma 3n do not scale.
"""

from attnmath.errors import InputError, LanguageError
from attnmath.language.syntax import Op, Program, Ref
from attnmath.modifiers import Sizes, softmaxes

SOURCE = (
    "query_pre_attn_scalar in gemma_pytorch's gemma/config.py (Gemma 2); T5Attention in transformers' modeling_t5.py"
)


def lines(page: Program, value: float = 1.0, width: float = 0.0) -> tuple[str, Sizes]:
    """`value`: what products are multiplied with, 1 for no scale; or `width`: 1/sqrt(width).

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, width=256)
    ('L[..] = S[..] / sqrt(width)\\n', {'width': 256})
    """
    if not value > 0 or (width and value != 1):
        raise InputError("scale: give either value=X or width=X, more than 0")
    text = ""
    for s in softmaxes(page):
        (was,) = page.defined[s.scores.name].alts
        if not (isinstance(was, Op) and was.name == "/" and isinstance(was.args[0], Ref)):
            raise LanguageError(
                f"{s.scores} is no scaled product any more; the scale comes before what else changes the scores"
            )
        product = f"{was.args[0].name}[..]"
        scaled = f"{product} / sqrt(width)" if width else f"value * {product}" if value != 1 else product
        text += f"{s.scores.name}[..] = {scaled}\n"
    return text, {"width": width} if width else {"value": value} if value != 1 else {}
