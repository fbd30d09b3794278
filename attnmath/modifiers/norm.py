"""Root-mean-square norm of queries and keys.

Per head, with a learned gain, as Qwen3 does; Henry et al. 2020 (arXiv:2010.04245) and Dehghani et al. 2023
(arXiv:2302.05442) introduced normalised queries and keys, with the l2 norm and with LayerNorm.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, targets

SOURCE = "Zhang and Sennrich 2019, arXiv:1910.07467"
GAINS = {"w": " * W{0}N[{1}]", "1+w": " * (1 + W{0}N[{1}])", "none": ""}


def lines(page: Program, on: str = "Q k", weight: str = "w", eps: float = 1e-6) -> tuple[str, Sizes]:
    """`on`: the tensors that are normalised, each over its innermost index; `weight`: the gain, w, 1+w or none.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, on="Q", weight="none")[0]
    'Q[.. d] <- Q[.. d] / sqrt(mean_d(Q[.. d] * Q[.. d]) + 1e-06)\\n'
    """
    if weight not in GAINS:
        raise InputError(f"norm:weight={weight}: the gains are {', '.join(GAINS)}")
    text = ""
    for n, d in targets(page, on):
        gain = GAINS[weight].format(n, d)
        text += f"{n}[.. {d}] <- {n}[.. {d}]{gain} / sqrt(mean_{d}({n}[.. {d}] * {n}[.. {d}]) + {eps:g})\n"
    return text, {}
