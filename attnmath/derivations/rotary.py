"""Rotary positions: a score knows the distance alone, and the two layouts are one."""

from typing import Any

from sympy import Lambda, cos, sin, sqrt

from attnmath.proving.checks import Algebra, waves
from attnmath.proving.page import Derivation, Given, Let, Step
from attnmath.proving.terms import counts, eq, indices, sizes, tensors, total
from attnmath.proving.ties import Tie

t, h, w = sizes("t h w")
i, j, m, n = indices("i j m n", t)
(p,) = indices("p", h)
(a,) = indices("a", 2 * h)
(b,) = indices("b", w)
c = counts("c")
Q, K, x, y, xk, yk, A, B, S, theta = tensors("Q K x y x' y' A B S theta")
Qh, Kh, u, v, uk, vk, Sh = tensors("Q' K' u v u' v' S'")
X, W, Wh = tensors("X W W'")


def turned(first: Any, second: Any, position: Any) -> tuple[Any, Any]:
    """The two coordinates of a pair, turned to a position."""
    angle = position * theta[p]
    return first * cos(angle) - second * sin(angle), first * sin(angle) + second * cos(angle)


def score(x: Any, y: Any, xk: Any, yk: Any) -> Any:
    """The product of a query at m with a key at n, pair by pair."""
    return total(x[i, m, p] * xk[j, n, p] + y[i, m, p] * yk[j, n, p], p)


def halves(name: str) -> Any:
    """A model of a tensor whose last places p and p + h hold what another has at 2 p and 2 p + 1."""

    def entry(world: Any, *at: int) -> Any:
        *row, place = at
        half, pair = divmod(place, int(world(h)))
        return world.entry(name, (*row, 2 * pair + half))

    return entry


by_halves = (
    eq(Qh[i, p], Q[i, 2 * p]),
    eq(Qh[i, p + h], Q[i, 2 * p + 1]),
    eq(Kh[j, p], K[j, 2 * p]),
    eq(Kh[j, p + h], K[j, 2 * p + 1]),
    eq(Wh[b, p], W[b, 2 * p]),
    eq(Wh[b, p + h], W[b, 2 * p + 1]),
)
STORED = (
    ("where `Q'` has the first entries", "Q'", "Q"),
    ("where `Q'` has the second entries", "Q'", "Q"),
    ("where `K'` has the first entries", "K'", "K"),
    ("where `K'` has the second entries", "K'", "K"),
    ("where `W'` has the first entries", "W'", "W"),
    ("where `W'` has the second entries", "W'", "W"),
)
q_first, q_second, k_first, k_second, w_first, w_second = by_halves
first, second = eq(u[i, m, p], x[i, m, p]), eq(v[i, m, p], y[i, m, p])
frequencies = {theta[p]: 10000 ** (-p / h)}

PAGE = Derivation(
    name="rotary",
    title=__doc__.rstrip("."),
    question="A rotary embedding turns each query and key by its own absolute position. Why does a score then know how far "
    "apart they are and nothing else, and does it matter which two entries make a pair?",
    statement="Turning a query by its position and a key by its own turns their product by the difference. Which entries are "
    "paired is a matter of storage: one permutation, of queries and keys alike, makes one layout of the other.",
    source="Su et al. 2021, arXiv:2104.09864, sections 3.2.1 and 3.2.2, equations 11 to 16",
    notation=(
        (t, "positions"),
        (h, "pairs of entries: half of a head's width"),
        (Q, "queries before they are turned, pair `p` in the places `2p` and `2p + 1`"),
        (K, "keys, likewise"),
        (theta, "the frequency of each pair: any numbers; `10000^{-p/h}` in the paper"),
        (c, "a shift of positions"),
        (Qh, "the same queries in the other layout, pair `p` in the places `p` and `p + h`"),
        (Kh, "the same keys, likewise"),
        (w, "the embedding's width"),
        (X, "embeddings"),
        (W, "a projection to queries or keys, pairs side by side"),
        (Wh, "the same with its columns in the other layout"),
    ),
    lets=(
        Let(
            eq(x[i, m, p], turned(Q[i, 2 * p], Q[i, 2 * p + 1], m)[0]),
            "query `i` turned to position `m`, first entries",
        ),
        Let(eq(y[i, m, p], turned(Q[i, 2 * p], Q[i, 2 * p + 1], m)[1]), "second entries"),
        Let(
            eq(xk[j, n, p], turned(K[j, 2 * p], K[j, 2 * p + 1], n)[0]), "key `j` turned to position `n`, first entries"
        ),
        Let(eq(yk[j, n, p], turned(K[j, 2 * p], K[j, 2 * p + 1], n)[1]), "second entries"),
        Let(eq(S[i, j, m, n], score(x, y, xk, yk)), "their score, before it is scaled"),
        Let(
            eq(A[i, j, p], Q[i, 2 * p] * K[j, 2 * p] + Q[i, 2 * p + 1] * K[j, 2 * p + 1]),
            "the product of two pairs as they are",
        ),
        Let(
            eq(B[i, j, p], Q[i, 2 * p] * K[j, 2 * p + 1] - Q[i, 2 * p + 1] * K[j, 2 * p]),
            "the area between them, which is the product after a quarter turn",
        ),
        Let(
            eq(u[i, m, p], turned(Qh[i, p], Qh[i, p + h], m)[0]),
            "the other layout, turned in its own pairs: a query's first",
        ),
        Let(eq(v[i, m, p], turned(Qh[i, p], Qh[i, p + h], m)[1]), "and second entries"),
        Let(eq(uk[j, n, p], turned(Kh[j, p], Kh[j, p + h], n)[0]), "a key's first"),
        Let(eq(vk[j, n, p], turned(Kh[j, p], Kh[j, p + h], n)[1]), "and second entries"),
        Let(eq(Sh[i, j, m, n], score(u, v, uk, vk)), "and their score"),
    ),
    given=tuple(Given(c, says, {new: halves(old)}) for c, (says, new, old) in zip(by_halves, STORED, strict=True)),
    steps=(
        Step(
            "A turn keeps lengths",
            eq(x[i, m, p] ** 2 + y[i, m, p] ** 2, Q[i, 2 * p] ** 2 + Q[i, 2 * p + 1] ** 2),
            waves,
        ),
        Step(
            "Of two turns, what is left in a product is the difference: its cosine",
            eq(cos(m * theta[p]) * cos(n * theta[p]) + sin(m * theta[p]) * sin(n * theta[p]), cos((m - n) * theta[p])),
            waves,
        ),
        Step(
            "and its sine",
            eq(sin(m * theta[p]) * cos(n * theta[p]) - cos(m * theta[p]) * sin(n * theta[p]), sin((m - n) * theta[p])),
            waves,
        ),
        Step(
            "So the product of two turned pairs is a wave in the distance, whose height and phase are the contents'",
            eq(
                x[i, m, p] * xk[j, n, p] + y[i, m, p] * yk[j, n, p],
                A[i, j, p] * cos((m - n) * theta[p]) + B[i, j, p] * sin((m - n) * theta[p]),
            ),
            waves,
        ),
        Step(
            "and a score a sum of such waves, one for each pair",
            eq(
                S[i, j, m, n],
                total(A[i, j, p] * cos((m - n) * theta[p]) + B[i, j, p] * sin((m - n) * theta[p]), p),
            ),
            waves,
        ),
        Step("A shift of both positions leaves the score as it is", eq(S[i, j, m + c, n + c], S[i, j, m, n]), waves),
        Step(
            "so that a key at `n` and a query `c` places after it have the score of a key at 0 and a query at `c`",
            eq(S[i, j, n + c, n], S[i, j, c, 0]),
            waves,
        ),
        Step(
            "At one and the same place it is the product without any turn",
            eq(S[i, j, m, m], total(A[i, j, p], p)),
            waves,
        ),
        Step(
            "Stored by halves and turned in its own pairs, a query has the same first entries",
            first,
            Algebra(using=(q_first, q_second)),
        ),
        Step("and the same second ones, only elsewhere", second, Algebra(using=(q_first, q_second))),
        Step(
            "A product does not see where entries are stored, if they are moved in queries and keys alike: before the turn",
            eq(total(Qh[i, p] * Kh[j, p] + Qh[i, p + h] * Kh[j, p + h], p), total(A[i, j, p], p)),
            Algebra(using=(q_first, q_second, k_first, k_second)),
        ),
        Step(
            "and after it: both layouts give the same scores",
            eq(Sh[i, j, m, n], S[i, j, m, n]),
            Algebra(using=(first, second, k_first, k_second)),
        ),
        Step(
            "To change the layout for good, permute the columns of the projections, which make the first entries",
            eq(total(X[i, b] * Wh[b, p], b), total(X[i, b] * W[b, 2 * p], b)),
            Algebra(using=(w_first,)),
        ),
        Step(
            "and the second ones",
            eq(total(X[i, b] * Wh[b, p + h], b), total(X[i, b] * W[b, 2 * p + 1], b)),
            Algebra(using=(w_second,)),
        ),
    ),
    ties=(
        Tie(
            "scores with neighbouring entries paired, token `i` at position `i`",
            "mha",
            {"Q0[t d]": Q[i, a], "k0[t d]": K[j, a]},
            {"S[t n]": Lambda((i, j), S[i, j, i, j]), "L[t n]": Lambda((i, j), S[i, j, i, j] / sqrt(2 * h))},
            numbers=frequencies,
            options={"mask": "full", "modifiers": ["rope:layout=interleaved"]},
        ),
        Tie(
            "and with halves paired",
            "mha",
            {"Q0[t d]": Qh[i, a], "k0[t d]": Kh[j, a]},
            {"S[t n]": Lambda((i, j), Sh[i, j, i, j])},
            numbers=frequencies,
            options={"mask": "full", "modifiers": ["rope:layout=half"]},
        ),
    ),
    so="Positions may be counted from anywhere, and a prompt may be moved as a whole. Weights made for one layout give, in the "
    "other, no error but another model: scores still know distances alone, of the wrong pairs. Convert them by permuting the "
    "columns of the query and key projections within each head, once; values and outputs stay.",
)
