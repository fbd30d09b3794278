"""Rotary position embedding.

Pairs of a query's and a key's dimensions turn by an angle that grows with the position, so that their product depends on
the distance only. `half`: pair i is (i, i + dims/2), as in GPT-NeoX; `interleaved`: (2i, 2i + 1), as in the paper.
dims = 0 turns all dimensions, otherwise the first or the last so many; a block of tokens stands where its first does. The
frequencies are base^(-i/pairs), rescaled for contexts longer than the model was trained on: `linear` (Chen et al. 2023,
arXiv:2306.15595, equation 4), `llama3` (as Llama 3.1's code does), `yarn` (Peng et al. 2023, arXiv:2309.00071, section
3, its ramp over the pairs as in transformers), `given` (FREQ is handed in, as LongRoPE's is).
"""

from math import isfinite

from attnmath.errors import InputError, Unknown
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, defaults, renamed, targets

SOURCE = "Su et al. 2021, arXiv:2104.09864, section 3.2.2, equations 14 and 15"
LAYOUTS = {"half": ("(side pair)", "(side' pair)"), "interleaved": ("(pair side)", "(pair side')")}
POSITIONS = {"t": "@t", "f": "(@f + done) * i"}  # of a token; of the first token of a block
USED = {  # the numbers that each scaling has a use for
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "original", "low", "high"),
    "yarn": ("factor", "original", "fast", "slow", "truncate"),
    "given": (),
}
SCALINGS = {
    "none": "FREQ[pair] = 1 / {base}^(@pair / pair)\n",
    "linear": "FREQ[pair] = 1 / ({factor} * {base}^(@pair / pair))\n",
    "llama3": """
        BARE[pair] = 1 / {base}^(@pair / pair)
        RAMP[pair] = min2(1, max2(0, ({original} * BARE[pair] / (2 * pi) - {low}) / ({high} - {low})))
        FREQ[pair] = RAMP[pair] * BARE[pair] + (1 - RAMP[pair]) * BARE[pair] / {factor}
    """,
    "yarn": """
        BARE[pair] = 1 / {base}^(@pair / pair)
        RAMP[pair] = min2(1, max2(0, (@pair - {first}) / max2({last} - {first}, 0.001)))
        FREQ[pair] = (1 - RAMP[pair]) * BARE[pair] + RAMP[pair] * BARE[pair] / {factor}
    """,
    "given": "",
}
FIRST = "max2(0, {down}(pair * log({original} / (2 * pi * {fast})) / log({base})))"
LAST = "min2(2 * pair - 1, -{down}(-pair * log({original} / (2 * pi * {slow})) / log({base})))"


def lines(
    page: Program,
    on: str = "",
    layout: str = "half",
    dims: int = 0,
    part: str = "first",
    base: float = 10000.0,
    turn: str = "forward",
    scaling: str = "none",
    factor: float = 1.0,
    original: int = 8192,
    low: float = 1.0,
    high: float = 4.0,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: int = 1,
    amplitude: float = 1.0,
) -> tuple[str, Sizes]:
    """`on`: the tensors that turn; without it, the parts made for it (QR, kR), else the query and the new key (Q, k).

    `turn`: forward, or back (what undoes it); `factor`, `original`: how much longer the context is, and the one trained
    on; `low`, `high` (llama3), `fast`, `slow` (yarn): turns in that context between which the frequencies are mixed;
    `truncate` 0 leaves yarn's ends between two pairs; `amplitude`: what cos and sin are multiplied with.

    >>> from attnmath import variants
    >>> print(lines(variants.get("mha").program, on="Q")[0].splitlines()[0])
    FREQ[pair] = 1 / 10000^(@pair / pair)
    """
    numbers = {
        "base": base,
        "factor": factor,
        "original": original,
        "low": low,
        "high": high,
        "fast": fast,
        "slow": slow,
    }
    _check(layout, dims, part, turn, scaling, {**numbers, "amplitude": amplitude}, truncate)
    tensors = targets(page, on or " ".join(n for n in ("QR", "kR") if n in page.tensors) or "Q k")
    old, new = (p if not dims else f"{p}|rest" if part == "first" else f"rest|{p}" for p in LAYOUTS[layout])
    shown: dict[str, str] = {k: f"{v:.17g}" for k, v in numbers.items()} | {"down": "floor" if truncate else ""}
    text = SCALINGS[scaling].format(**shown, first=FIRST.format(**shown), last=LAST.format(**shown))
    angle = "(@side - @side')" if turn == "forward" else "(@side' - @side)"
    table: dict[str, str] = {}
    for n, _ in tensors:
        at = next((x for x in POSITIONS if x in page.tensors[n]), "t")
        if at not in table:
            table[at] = f"ROT{'' if at == 't' else at.upper()}[{at} pair side side']"
            grown = "" if amplitude == 1 else f"{amplitude:.17g} * "
            text += f"{table[at]} = {grown}cos({POSITIONS[at]} * FREQ[pair] + {angle} * pi / 2)\n"
        turned, kept = f"{n}[.. {old}] * {table[at]}", f"{n}[.. {old}]"
        both = turned if not dims else f"{turned} | {kept}" if part == "first" else f"{kept} | {turned}"
        text += f"{n}[.. {new}] <- {both}\n"
    width = tensors[0][1]
    sizes: Sizes = {"pair": dims // 2 if dims else f"{width} / 2", "side": 2, "side'": 2}
    sizes |= {"rest": f"{width} - {dims}"} if dims else {}
    return renamed(page, text, sizes, ("ROT", "ROTF", "FREQ", "BARE", "RAMP"))


def _check(
    layout: str, dims: int, part: str, turn: str, scaling: str, numbers: dict[str, float], truncate: int
) -> None:
    choices = {"layout": (layout, LAYOUTS), "part": (part, ("first", "last")), "turn": (turn, ("forward", "back"))}
    for option, (value, known) in {**choices, "scaling": (scaling, SCALINGS)}.items():
        if value not in known:
            raise InputError(f"rope:{option}={value}: {Unknown(option, value, known)}")
    if dims % 2:
        raise InputError(f"rope:dims={dims}: dimensions turn in pairs; give an even number")
    for option, number in numbers.items():
        if not (isfinite(number) and number > 0):
            raise InputError(f"rope:{option}={number:g}: it is more than 0")
    for above, below in (("high", "low"), ("fast", "slow")):
        if numbers[above] <= numbers[below]:
            raise InputError(f"rope:{above}={numbers[above]:g} is not above {below}={numbers[below]:g}")
    if numbers["base"] == 1 or truncate not in (0, 1):
        raise InputError("rope: a base is not 1, and truncate is 0 or 1")
    if part == "last" and not dims:
        raise InputError("rope:part=last: say how many of the last dimensions turn, with dims=")
    usual = defaults(lines)
    given = {k for k, v in {**numbers, "truncate": truncate}.items() if v != usual[k]} - {"base", "amplitude"}
    if idle := sorted(given - set(USED[scaling])):
        raise InputError(f"rope:scaling={scaling} has no use for {', '.join(idle)}")
