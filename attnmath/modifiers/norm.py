"""Norm of queries and keys.

Root mean square per head with a learned gain, as Qwen3 does (its gain is w; Gemma's and Qwen3-Next's 1 + w); jointly over
all heads, as OLMo 2 does; `layer` subtracts the mean first and adds a bias, as DeepSeek's indexer does (Cohere's has no
bias, and a gain for each head); `l2` divides by the length. Before a rope or after it: in the order they are given. Henry
et al. 2020 (arXiv:2010.04245) introduced normalised queries and keys.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import HEADS, Sizes, targets

SOURCE = "Zhang and Sennrich 2019, arXiv:1910.07467; on queries and keys: Team OLMo 2024, arXiv:2501.00656, section 2.1"
GAINS = {"w": " * W{0}N[{1}]", "1+w": " * (1 + W{0}N[{1}])", "none": ""}
KINDS = {
    "rms": "{0} <- {0}{gain} / sqrt(mean_{over}({0} * {0}) + {eps:g})\n",
    "layer": "{0} <- {0} - mean_{over}({0})\n{0} <- {0}{gain} / sqrt(mean_{over}({0} * {0}) + {eps:g}){bias}\n",
    "l2": "{0} <- {0}{gain} / sqrt(sum_{over}({0} * {0}) + {eps:g})\n",
}


def lines(
    page: Program,
    on: str = "Q k",
    weight: str = "w",
    eps: float = 1e-6,
    kind: str = "rms",
    over: str = "head",
    gain: str = "shared",
    bias: str = "w",
) -> tuple[str, Sizes]:
    """`on`: the tensors that are normalised; `weight`: the gain, w, 1+w or none; `kind`: rms, layer or l2; `over`: head (the
    innermost index) or all (every head together); `gain`: shared by the heads or per-head; `bias`: a layer norm's, w or
    none (and there is none without a gain).

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, on="Q", weight="none")[0]
    'Q[.. d] <- Q[.. d] / sqrt(mean_d(Q[.. d] * Q[.. d]) + 1e-06)\\n'
    """
    choices = {
        "weight": (weight, GAINS),
        "kind": (kind, KINDS),
        "over": (over, ("head", "all")),
        "gain": (gain, ("shared", "per-head")),
        "bias": (bias, ("w", "none")),
    }
    for option, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"norm:{option}={value}: it is one of {', '.join(known)}")
    text = ""
    for n, d in targets(page, on):
        every = [str(i) for i in page.tensors[n] if i in HEADS or i == d]
        own = [d] if over == "head" else every
        learned = " ".join(every if gain == "per-head" else own)
        text += KINDS[kind].format(
            f"{n}[.. {learned}]",
            gain=GAINS[weight].format(n, learned),
            over="_".join(own),
            eps=eps,
            bias=f" + B{n}N[{learned}]" if bias == "w" and weight != "none" else "",
        )
    return text, {}
