"""T5's relative position bias.

A learned number per head and bucket of distances joins each score: a bucket for each short distance, and logarithmically
wider ones up to the largest. An encoder tells the two directions apart, a decoder looks back only. T5 itself does not
scale its scores (--with scale:value=1).
"""

from attnmath.errors import InputError, LanguageError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, softmaxes

SOURCE = "Raffel et al. 2019, arXiv:1910.10683, section 2.1"
DISTANCE = {"encoder": "max2(@n - @t, @t - @n)", "decoder": "max2(0, @t - @n)"}


def lines(page: Program, side: str = "encoder", buckets: int = 32, far: int = 128) -> tuple[str, Sizes]:
    """`side`: encoder or decoder; `buckets`: how many there are; `far`: the distance from which the last one holds all.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program)[0].splitlines()[-1].strip()
    'L[..] <- L[..] + WREL[BUCKET[t n] h]'
    """
    if side not in DISTANCE:
        raise InputError(f"t5-bias:side={side}: it is encoder or decoder")
    if buckets < 4 or buckets % 4:
        raise InputError(f"t5-bias:buckets={buckets}: a multiple of 4, for two directions and two kinds of buckets")
    if far <= (least := buckets // (4 if side == "encoder" else 2)):
        raise InputError(f"t5-bias:far={far}: beyond {least}, up to which each distance has a bucket of its own")
    (s, *more) = softmaxes(page)
    if more or s.key != "n":
        why = "several softmaxes" if more else "keys that are not tokens at places of their own"
        raise LanguageError(f"it joins one softmax over tokens; this page has {why}")
    own = buckets // 2 if side == "encoder" else buckets
    near = own // 2
    after = f"{own} * lt(@t, @n) + " if side == "encoder" else ""
    return (
        f"""
        WREL[bucket {" ".join(s.heads)}]
        DIST[t n] = {DISTANCE[side]}
        FAR[t n] = {near} + floor(log(max2(DIST[t n], 1) / {near}) / log({far} / {near}) * {own - near})
        BUCKET[t n] = {after}lt(DIST[t n], {near}) * DIST[t n] + lt({near} - 1, DIST[t n]) * min2(FAR[t n], {own - 1})
        {s.scores.name}[..] <- {s.scores.name}[..] + WREL[BUCKET[t n] {" ".join(s.heads)}]
    """.strip(),
        {"bucket": buckets},
    )
