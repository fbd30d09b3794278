"""What a block does on one rank for each token: its matrix products, and what moves between them; read off its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from attnmath.keys import Reading
from attnmath.language.syntax import Program, Ref, letters, refs, settled, terms
from attnmath.models import Piece
from attnmath.models.counting import SPLIT, chosen, shards
from attnmath.models.quantization import PLAIN, Recipe, stored
from attnmath.plans.ranks import Rank
from attnmath.readings.count import core, learned


class Matrix(Struct, frozen=True):
    """A learned matrix of a block on one rank: `n` outputs of `k` inputs, `copies` side by side, and `rows` of them for each
    token; of `experts`, each token goes through `active`. `stored_bytes` of one number of it.
    """

    tensor: str
    n: float
    k: float
    copies: float
    rows: float
    experts: int
    active: int
    stored_bytes: float


class Work(Struct, frozen=True):
    """One block on one rank: its matrices, the bytes for each token that move between its products, and its attention."""

    piece: Piece
    matrices: tuple[Matrix, ...]
    moved_bytes: float
    kernels: int
    core: Reading | None = None


def matrices(x: Reading, p: Piece, recipe: Recipe, rank: Rank) -> tuple[Matrix, ...]:
    """The learned matrices that a page multiplies each token with, as one rank holds them.

    >>> from attnmath.models import read
    >>> from attnmath.models.caching import reading
    >>> from attnmath.models.quantization import recipe_of
    >>> m = read("llama-3.1-8b")
    >>> mlp = next(p for p in m.pieces if p.part == "mlp")
    >>> x = reading(mlp, {"b": 1, "t": 1})
    >>> [(a.tensor, a.n, a.k) for a in matrices(x, mlp, recipe_of(m, "bf16"), Rank(2))]
    [('WG', 7168.0, 4096.0), ('WU', 7168.0, 4096.0), ('WD', 4096.0, 7168.0)]
    """
    kept = {s.name: (s.bits + s.scale_bits) / 8 for s in stored(p, recipe)}
    some, out = chosen(x.page), []
    plain = PLAIN[recipe.plain] / 8  # of what is another block's, and stored as that is: a tied head
    for e in x.page.equations:
        for index, a in settled(e) if e.alts else ():
            left = {d for i in index for d in letters(i)}
            for _, num, _ in terms(a):
                for w in (f for f in num if isinstance(f, Ref) and learned(f)):
                    if len(num) > 1 and set(letters(w)) - {"b", "t"} - left:
                        out.append(_matrix(w, num, left, x, some.get(w.name, ("", "")), kept, plain, rank))
    return tuple(out)


def _matrix(
    w: Ref,
    num: tuple[Any, ...],
    left: set[str],
    x: Reading,
    routed: tuple[str, str],
    kept: Mapping[str, float],
    plain: float,
    rank: Rank,
) -> Matrix:
    """The matrix of one term: axes that it shares with the data and the result are copies, those of the result outputs, the
    others inputs.
    """
    sizes: Mapping[str, Any] = x.sizes
    axes, (expert, active) = [str(i) for i in x.page.tensors[w.name]], routed
    own = set(letters(w)) - {"b", "t"}
    data = {d for f in num if f is not w for d in letters(f)}

    def length(found: set[str]) -> float:
        out = 1.0
        for d in found:
            out *= sizes[d]
        return out

    copies, n, k = own & left & data - {active}, own & left - data - {active}, own - left
    ways = shards(axes, sizes, rank.tensor)
    split = next((d for d in axes if d in SPLIT), "")
    shares = [ways if split in some else 1 for some in (copies, n, k)]
    whole = length(set(axes))
    return Matrix(
        w.name,
        length(n) / shares[1],
        length(k) / shares[2],
        length(copies) / shares[0],
        length((left & data) - own - {"b", "t", active}),
        int(sizes[expert]) if expert else 1,
        int(sizes[active]) if active else 1,
        kept.get(w.name, plain * whole) / whole,
    )


def between(page: Program, sizes: Mapping[str, Any], ways: int, width: float) -> tuple[float, int]:
    """(bytes for each token, kernels) of what a block computes beside products and attention: what these equations read from
    outside and what others read of them, in one pass.

    >>> from attnmath import blocks
    >>> between(blocks.get("gated-mlp").program, {"m": 4, "ffn": 16}, 1, 2.0)  # two projections in, their product out
    (96.0, 1)
    """
    inside = {e.out.name for e in core(page)}
    rest = [e for e in page.equations if e.alts and e.out.name not in inside and not _multiplies(e.alts)]
    made = {e.out.name for e in rest}
    read = {r.name for e in rest for a in e.alts for r in refs(a)} - made
    outside = {r.name for e in page.equations if e not in rest for a in e.alts for r in refs(a)} | {page.output}
    total = 0.0
    for name in (*read, *(made & outside)):
        index = page.tensors[name]
        axes = [d for i in index for d in letters(i)]
        if "t" not in axes or "b" not in axes:
            continue
        numbers = 1.0
        for d in axes:
            numbers *= sizes[d] if d not in ("b", "t") else 1
        total += numbers * width / shards(axes, sizes, ways)
    return total, 1 if total else 0


def _multiplies(alts: Iterable[Any]) -> bool:
    return any(
        len(num) > 1 and any(isinstance(f, Ref) and learned(f) and len(letters(f)) > 1 for f in num)
        for a in alts
        for _, num, _ in terms(a)
    )
