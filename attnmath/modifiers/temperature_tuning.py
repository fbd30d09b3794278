"""Temperature that grows with the position.

Llama 4 multiplies the queries of layers without rotary embedding with 1 + 0.1 log(1 + floor((position + 1) / 8192)), so
that attention stays sharp over long contexts.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, targets

SOURCE = "Meta 2025, Llama 4, attn_temperature_tuning in transformers' modeling_llama4.py; after Nakanishi 2025, arXiv:2501.19399"


def lines(page: Program, on: str = "Q", growth: float = 0.1, floor: int = 8192) -> tuple[str, Sizes]:
    """`growth`: of the factor with the logarithm (attn_scale); `floor`: tokens before it sets in (floor_scale).

    >>> from attnmath import variants
    >>> print(lines(variants.get("mha").program)[0].splitlines()[0])
    TEMP[t] = 1 + growth * log(1 + floor((@t + 1) / start))
    """
    if floor < 1:
        raise InputError("temperature-tuning:floor=0: it is at least 1")
    text = "TEMP[t] = 1 + growth * log(1 + floor((@t + 1) / start))\n"
    return text + "".join(f"{n}[..] <- {n}[..] * TEMP[t]\n" for n, _ in targets(page, on)), {
        "growth": growth,
        "start": floor,
    }
