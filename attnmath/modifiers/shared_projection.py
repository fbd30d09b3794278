"""One projection for keys and values.

What is projected once becomes key and value, each normed and rotated on its own, so that both are cached, as in Gemma 4's
layers that see everything; head widths are then equal.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes

SOURCE = "Google DeepMind 2026, Gemma 4 (attention_k_eq_v); huggingface/transformers, models/gemma4/modeling_gemma4.py"


def lines(page: Program) -> tuple[str, Sizes]:
    """It takes no options.

    >>> from attnmath import variants
    >>> lines(variants.get("mqa").program)[0].splitlines()
    ['kv[b t d] = X[b t m] * WK[m d]', 'k[b t d] = kv[b t d]', 'v[b t e] = kv[b t e]']
    """
    if not {"k", "v"} <= set(page.defined) or "d" not in page.tensors["k"] or "e" not in page.tensors["v"]:
        raise LanguageError(
            "it lets keys k of width d and values v of width e share a projection; this page has no such pair"
        )
    if "kv" in page.tensors or len(page.tensors["k"]) != len(page.tensors["v"]):
        raise LanguageError("its keys and values are not made alike")
    key, value = (" ".join(map(str, page.tensors[n])) for n in ("k", "v"))
    made = " | ".join(map(str, page.defined["k"].alts))
    return f"kv[{key}] = {made}\nk[{key}] = kv[{key}]\nv[{value}] = kv[{value}]\n", {"e": "d"}
