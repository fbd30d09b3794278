"""Attention with linear biases.

A score falls with the distance of its key, by a slope of each head's own: 2^(-8/h), its square, and so on. For a number of
heads that is no power of two, `paper` takes the slopes of the power below and every other one of the power above, as BLOOM
does; `mpt` takes those of the power above, the odd ones first, as MPT does.
"""

from attnmath.errors import InputError, LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "Press, Smith and Lewis 2021, arXiv:2108.12409, section 3"
RANKS = {  # which power of 2^(-8 / P) a head's slope is; P: the power of two below, or above
    "paper": "HEAD[{0}] + 1 - lt({P} - 1, HEAD[{0}]) * ({P} + 0.5)",
    "mpt": "HEAD[{0}] + 1 + lt({h}, {P}) * (HEAD[{0}] + 1 - lt({P} / 2 - 1, HEAD[{0}]) * ({P} + 1))",
}
POWERS = {"paper": "pow2({h})", "mpt": "pow2(2 * {h} - 1)"}


def lines(page: Program, slopes: str = "paper") -> tuple[str, Sizes]:
    """`slopes`: the rule for numbers of heads that are no power of two, paper or mpt.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0].splitlines()[-1]
    'L[..] <- L[..] + SLOPE[h] * (@n - @t)'
    """
    if slopes not in RANKS:
        raise InputError(f"alibi:slopes={slopes}: the rules are {', '.join(RANKS)}")
    text = ""
    for s in softmaxes(page):
        if not s.over_tokens:
            raise LanguageError(
                f"the keys {s.key} of {s.scores} are not tokens at places of their own, so they have no distance"
            )
        heads = " ".join(s.heads)
        if "SLOPE" not in text:
            number, count = f"@{s.heads[0]}", s.heads[0]
            for x in s.heads[1:]:
                number, count = f"({number} * {x} + @{x})", f"{count} * {x}"
            power = POWERS[slopes].format(h=count)
            text += f"HEAD[{heads}] = {number}\nRANK[{heads}] = {RANKS[slopes].format(heads, h=count, P=power)}\n"
            text += f"SLOPE[{heads}] = 2^(-8 * RANK[{heads}] / {power})\n"
        text += f"{s.scores.name}[..] <- {s.scores.name}[..] + SLOPE[{heads}] * (@{s.key} - @t)\n"
    return text, {}
