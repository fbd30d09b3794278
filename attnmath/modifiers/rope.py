"""Rotary position embedding.

Pairs of a query's and a key's dimensions turn by an angle that grows with the position, so that their product depends on
the distance only. `half`: pair i is (i, i + dims/2), as in GPT-NeoX; `interleaved`: (2i, 2i + 1), as in the paper.
dims = 0 turns all dimensions, otherwise the first so many.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, targets

SOURCE = "Su et al. 2021, arXiv:2104.09864, section 3.2.2, equations 14 and 15"
LAYOUTS = {"half": ("(side pair)", "(side' pair)"), "interleaved": ("(pair side)", "(pair side')")}


def lines(page: Program, on: str = "", layout: str = "half", dims: int = 0, base: float = 10000.0) -> tuple[str, Sizes]:
    """`on`: the tensors that turn; without it, the parts made for it (QR, kR), else the query and the new key (Q, k).

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[1]["pair"]
    'd / 2'
    """
    if layout not in LAYOUTS:
        raise InputError(f"rope:layout={layout}: the layouts are {', '.join(LAYOUTS)}")
    if dims % 2:
        raise InputError(f"rope:dims={dims}: dimensions turn in pairs; give an even number")
    if base <= 0:
        raise InputError(f"rope:base={base}: a wavelength's base is more than 0")
    tensors = targets(page, on or " ".join(n for n in ("QR", "kR") if n in page.tensors) or "Q k")
    old, new = (pairs + ("|rest" if dims else "") for pairs in LAYOUTS[layout])
    text = "ROT[t pair side side'] = cos(@t / base^(@pair / pair) + (@side - @side') * pi / 2)\n"
    for n, _ in tensors:
        kept = f" | {n}[.. {old}]" if dims else ""
        text += f"{n}[.. {new}] <- {n}[.. {old}] * ROT[t pair side side']{kept}\n"
    width = tensors[0][1]
    sizes: Sizes = {"pair": dims // 2 if dims else f"{width} / 2", "side": 2, "side'": 2, "base": base}
    return text, sizes | ({"rest": f"{width} - {dims}"} if dims else {})
