"""Keys that serve as values.

One tensor is key and value, so that half as much is cached, as in DeepSeek-V4; head widths are then equal.
"""

from attnmath.errors import LanguageError
from attnmath.language.syntax import Program, Ref, refs, swap_refs
from attnmath.modifiers import Sizes

SOURCE = "DeepSeek-AI 2026, DeepSeek-V4, arXiv:2606.19348, section 2.3"


def lines(page: Program) -> tuple[str, Sizes]:
    """It takes no options.

    >>> from attnmath import variants
    >>> lines(variants.get("mqa").program)
    ('O[b t h e] = A[b h t n] * K[b n e]', {'e': 'd'})
    """
    if not {"K", "V"} <= set(page.defined) or "d" not in page.tensors["K"] or "e" not in page.tensors["V"]:
        raise LanguageError("it lets the keys K of width d serve as values V of width e; this page has no such pair")
    readers = [e for e in page.equations if any(r.name == "V" for a in e.alts for r in refs(a))]
    swapped = [" | ".join(str(swap_refs(a, _keys)) for a in e.alts) for e in readers]
    return "\n".join(f"{e.out} = {text}" for e, text in zip(readers, swapped)), {"e": "d"}


def _keys(r: Ref) -> Ref:
    return Ref("K", r.index) if r.name == "V" else r
