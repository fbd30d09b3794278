"""Queries without a latent.

DeepSeek-V2-Lite (q_lora_rank null) makes the queries of multi-head latent attention from the input itself.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes

SOURCE = "DeepSeek-AI 2024, DeepSeek-V2-Lite, config.json: q_lora_rank null"


def lines(page: Program) -> tuple[str, Sizes]:
    """It takes no options.

    >>> from attnmath import variants
    >>> lines(variants.get("mla").program)[0].splitlines()[0]
    'QC[b t h d] = X[b t m] * WUQ[m h d]'
    """
    if "cQ" not in page.tensors:
        raise LanguageError("it replaces the queries' latent cQ of multi-head latent attention; this page has none")
    return "QC[b t h d] = X[b t m] * WUQ[m h d]\nQR[b t h p] = X[b t m] * WQR[m h p]", {}
