"""Temperature of the softmax.

Scores are divided by it: below 1 sharper, above 1 flatter.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "Hinton, Vinyals and Dean 2015, arXiv:1503.02531"


def lines(page: Program, tau: float = 1.0) -> tuple[str, Sizes]:
    """`tau`: the temperature.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, tau=2)
    ('L[..] <- L[..] / tau\\n', {'tau': 2})
    """
    if not tau > 0:
        raise InputError(f"temperature:tau={tau:g}: a temperature is more than 0")
    return "".join(f"{s.scores.name}[..] <- {s.scores.name}[..] / tau\n" for s in softmaxes(page)), {"tau": tau}
