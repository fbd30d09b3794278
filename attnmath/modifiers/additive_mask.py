"""A causal mask that is added to the scores, as code without a fused kernel does it.

Zero where a query sees a key and minus infinity elsewhere, so that under --mask full all pairs are computed, moved and thrown
away by the softmax. It is made of positions and belongs to nobody's inputs; a bias that is handed in is score-bias.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "attention_mask in transformers' eager_attention_forward; causal masks in Megatron-LM's fused_softmax"


def lines(page: Program) -> tuple[str, Sizes]:
    """It takes no options.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0]
    'L[..] <- L[..] + only(lt(@n, @t + 1))\\n'
    """
    text = ""
    for s in softmaxes(page):
        if not s.over_tokens:
            raise LanguageError(
                f"the keys {s.key} of {s.scores} are not tokens at places of their own: none comes later"
            )
        text += f"{s.scores.name}[..] <- {s.scores.name}[..] + only(lt(@{s.key}, @t + 1))\n"
    return text, {}
