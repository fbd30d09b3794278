"""Keys and values of another layer.

The layer has no projections of keys and values and no cache of its own: it attends to what an earlier layer cached, as in
CLA's every other layer, YOCO's second half and Gemma 3n's last layers.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program, Ref, Shift
from attnmath.modifiers import Sizes

SOURCE = (
    "Brandon et al. 2024, arXiv:2405.12981, section 2.2; Sun et al. 2024, arXiv:2405.05254, section 2.2, equation 2"
)


def lines(page: Program) -> tuple[str, Sizes]:
    """It takes no options.

    >>> from attnmath import variants
    >>> lines(variants.get("mqa").program)[0].splitlines()
    ['K[b n d] = SK[b n d]', 'V[b n e] = SV[b n e]']
    """
    text = ""
    for name, e in page.defined.items():
        x = e.alts[0]
        if isinstance(x, Ref) and any(isinstance(i, Shift) and (-1, "past") in i.by for i in x.index):
            index = " ".join(map(str, e.out.index))
            text += f"{name}[{index}] = S{name}[{index}]\n"
    if not text:
        raise LanguageError("this page caches no tokens that another layer could share")
    return text, {}
