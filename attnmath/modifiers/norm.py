"""Norm of queries and keys.

Root mean square per head with a learned gain, as Qwen3 does (its gain is w; Gemma's and Qwen3-Next's 1 + w); jointly over
all heads, as OLMo 2 does; `layer` subtracts the mean first and adds a bias, as DeepSeek's indexer does; `l2` divides by
the length. Before a rope or after it: in the order they are given. Henry et al. 2020 (arXiv:2010.04245) introduced
normalised queries and keys.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import HEADS, Sizes, targets

SOURCE = "Zhang and Sennrich 2019, arXiv:1910.07467; on queries and keys: Team OLMo 2025, arXiv:2501.00656, section 2.1"
GAINS = {"w": " * W{0}N[{1}]", "1+w": " * (1 + W{0}N[{1}])", "none": ""}
KINDS = {
    "rms": "{0} <- {0}{gain} / sqrt(mean_{over}({0} * {0}) + {eps:g})\n",
    "layer": "{0} <- {0} - mean_{over}({0})\n{0} <- {0}{gain} / sqrt(mean_{over}({0} * {0}) + {eps:g}) + B{name}N[{own}]\n",
    "l2": "{0} <- {0}{gain} / sqrt(sum_{over}({0} * {0}) + {eps:g})\n",
}


def lines(
    page: Program, on: str = "Q k", weight: str = "w", eps: float = 1e-6, kind: str = "rms", over: str = "head"
) -> tuple[str, Sizes]:
    """`on`: the tensors that are normalised; `weight`: the gain, w, 1+w or none; `kind`: rms, layer or l2; `over`: head (the
    innermost index) or all (every head together).

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, on="Q", weight="none")[0]
    'Q[.. d] <- Q[.. d] / sqrt(mean_d(Q[.. d] * Q[.. d]) + 1e-06)\\n'
    """
    choices = {"weight": (weight, GAINS), "kind": (kind, KINDS), "over": (over, ("head", "all"))}
    for option, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"norm:{option}={value}: it is one of {', '.join(known)}")
    text = ""
    for n, d in targets(page, on):
        own = [d] if over == "head" else [str(i) for i in page.tensors[n] if i in HEADS or i == d]
        tensor, letters = f"{n}[.. {' '.join(own)}]", " ".join(own)
        gain = GAINS[weight].format(n, letters)
        text += KINDS[kind].format(tensor, gain=gain, over="_".join(own), eps=eps, name=n, own=letters)
    return text, {}
