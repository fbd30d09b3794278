"""What is done to scores: ALiBi and T5's table as additive masks, and the soft cap's slope."""

from collections.abc import Callable
from typing import Any

from sympy import (
    Derivative,
    KroneckerDelta,
    Lambda,
    Limit,
    Max,
    Min,
    Piecewise,
    Rational,
    Subs,
    cosh,
    exp,
    floor,
    log,
    oo,
    sqrt,
    tanh,
)

from attnmath.proving.checks import Witness, algebra, same, scalars
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import Partial, counts, eq, gt, indices, ne, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

h, t, n, d, near, far = sizes("h t n d N_0 N_1")
f, f2 = indices("f m", h)
i, i2 = indices("i k", t)
j, l = indices("j l", n)
(a,) = indices("a", d)
(b,) = indices("b", near + far)
shift = counts("r")
Q, K, X, B, P, U, mu, A, G = tensors("Q K X B P U mu A G")
W, T, dT, C, R, bucket = tensors("W T dT C R nu")
s, L, x, y, beta, psi = reals("s L x y beta psi")
cap, g, end, z, delta, edge = reals("c g delta_1 z delta epsilon", positive=True)


def reached(distance: Any) -> Any:
    """How many of T5's buckets lie below a distance, before it is rounded down."""
    return near + far * log(distance / near) / log(end / near)


def softmaxed(scores: Callable[[Any], Any]) -> Any:
    """The weight of key j, of scores that are a function of the key."""
    return exp(scores(j)) / total(exp(scores(l)), l)


same_row = KroneckerDelta(f, f2) * KroneckerDelta(i, i2)
attends = {"Q[h t d]": Q[f, i, a], "K[h n d]": K[f, j, a]}
scaled = {s: 1 / sqrt(d)}

PAGE = Derivation(
    name="score-biases",
    title=__doc__.rstrip("."),
    question="ALiBi, T5's table of distances and a mask all add something to the scores. What does adding to a score do to a "
    "weight, and where do they differ? And what does a soft cap, which adds nothing, do to gradients?",
    statement="What is added to a score multiplies the weight's odds. A mask multiplies them with 0, ALiBi with a factor for "
    "each place of distance, T5 with a learned one for each bucket of distances; each depends on the distance alone. A soft "
    "cap bounds the odds instead, and its slope, `1 - \\tanh^2`, is read off the capped score.",
    source="ALiBi: Press, Smith and Lewis 2021, arXiv:2108.12409, section 3; T5: Raffel et al. 2019, arXiv:1910.10683, section "
    "2.1; the soft cap: Gemma Team 2024, arXiv:2408.00118, section 2",
    notation=(
        (h, "heads"),
        (t, "queries"),
        (n, "keys"),
        (d, "width of a head"),
        (s, "the factor of the scores, `1/\\sqrt{d}`"),
        (Q, "queries, one for each head `f` and place `i`"),
        (K, "keys, one for each head `f` and place `j`"),
        (B, "any bias on the scores"),
        (x, "a score"),
        (y, "what is added to a score"),
        (z, "the exponentials of all other scores, added up"),
        (shift, "a shift of positions"),
        (near, "how many short distances have a bucket each"),
        (far, "how many wider buckets there are beyond"),
        (end, "the distance from which the last bucket holds all"),
        (delta, "a distance"),
        (g, "a number of wider buckets"),
        (W, "T5's table: a learned number for each bucket and head"),
        (dT, "the loss's gradient by the bias"),
        (cap, "what no score exceeds"),
    ),
    lets=(
        Let(eq(X[f, i, j], s * total(Q[f, i, a] * K[f, j, a], a)), "scores"),
        Let(eq(U[f, i, j], softmaxed(lambda k: X[f, i, k])), "the weights that they give by themselves"),
        Let(eq(P[f, i, j], softmaxed(lambda k: X[f, i, k] + B[f, i, k])), "the weights with a bias"),
        Let(eq(mu[f], 2 ** (-8 * (f + 1) / h)), "ALiBi's slopes, for a number of heads that is a power of two"),
        Let(eq(A[f, i, j], X[f, i, j] - mu[f] * (i - j)), "ALiBi's scores"),
        Let(eq(G[f, i, j], softmaxed(lambda k: A[f, i, k])), "ALiBi's weights"),
        Let(eq(beta, reached(delta)), "T5's scale of distances"),
        Let(eq(edge, near * (end / near) ** (g / far)), "the distance at which it has passed `g` of the wider buckets"),
        Let(
            eq(bucket[j], Piecewise((j, j < near), (Min(floor(reached(j)), near + far - 1), True))),
            "the bucket of a distance: its scale, rounded down",
        ),
        Let(
            eq(T[f, i, j], total(KroneckerDelta(bucket[Max(0, i - j)], b) * W[b, f], b)),
            "T5's bias, as a decoder has it: the table's number for the bucket that the distance is in",
        ),
        Let(eq(L, total(dT[f, i, j] * T[f, i, j], f, i, j)), "a loss, to first order in that bias"),
        Let(eq(psi, cap * tanh(x / cap)), "a capped score"),
        Let(eq(C[f, i, j], cap * tanh(X[f, i, j] / cap)), "all of them"),
        Let(eq(R[f, i, j], softmaxed(lambda k: C[f, i, k])), "their weights"),
    ),
    steps=(
        Step(
            "A bias multiplies the weights that there are without it, and they are made to add up to one again",
            eq(P[f, i, j], U[f, i, j] * exp(B[f, i, j]) / total(U[f, i, l] * exp(B[f, i, l]), l)),
            algebra,
        ),
        Step(
            "A mask is the bias of minus infinity: it takes the key's weight away",
            eq(Limit(exp(x + y) / (exp(x + y) + z), y, -oo), 0),
            scalars,
        ),
        Step("and leaves the whole to the other keys", eq(Limit(z / (exp(x + y) + z), y, -oo), 1), scalars),
        Step(
            "A bias has the gradient of the score that it is added to, with the softmax's own Jacobian",
            eq(Partial(P[f, i, j], B[f2, i2, l]), same_row * P[f, i, j] * (KroneckerDelta(j, l) - P[f, i, l])),
            algebra,
        ),
        Step(
            "ALiBi's bias grows with the distance; but what all keys of a query share does not count, so that it may as well "
            "be a number of the key alone",
            eq(G[f, i, j], softmaxed(lambda k: X[f, i, k] + mu[f] * k)),
            algebra,
        ),
        Step(
            "Of two keys, the later one's odds gain a factor `e^\\mu` for each place between them, wherever the query is",
            eq(G[f, i, j] / G[f, i, l], U[f, i, j] / U[f, i, l] * exp(mu[f] * (j - l))),
            algebra,
        ),
        Step(
            "The last head's slope is the same for every number of heads: a factor `e` takes 256 places",
            eq(mu[h - 1], Rational(1, 256)),
            same,
        ),
        Step(
            "T5's bias, too, is the same for pairs of the same distance",
            eq(T[f, i + shift, j + shift], T[f, i, j]),
            same,
        ),
        Step(
            "Its wider buckets begin at distances that grow geometrically",
            eq(Subs(beta, delta, edge), near + g),
            scalars,
            when=(gt(end, near),),
        ),
        Step(
            "from the last short one up to the end",
            eq(Subs(beta, delta, end), near + far),
            scalars,
            when=(gt(end, near),),
        ),
        Step(
            "A number of the table gathers the gradient of every pair whose distance falls into its bucket",
            eq(Partial(L, W[b, f]), total(KroneckerDelta(bucket[Max(0, i - j)], b) * dT[f, i, j], i, j)),
            algebra,
        ),
        Step("A soft cap's slope is read off the capped score", eq(Derivative(psi, x), 1 - (psi / cap) ** 2), scalars),
        Step(
            "and is never zero nor negative, so that the order of scores stays; far beyond the cap little passes",
            eq(Derivative(psi, x), 1 / cosh(x / cap) ** 2),
            scalars,
        ),
        Step(
            "Small scores lose a third of their cube, in units of the cap",
            eq(Limit((x - psi) / x**3, x, 0), 1 / (3 * cap**2)),
            scalars,
        ),
        Step("Large ones approach the cap", eq(Limit(psi, x, oo), cap), scalars),
        Step("on either side alike", eq(Subs(psi, x, -x), -psi), scalars),
        Step(
            "so that no two keys' odds exceed `\\exp(2c)`, however far out their scores are",
            eq(Limit(exp(psi - Subs(psi, x, -x)), x, oo), exp(2 * cap)),
            scalars,
        ),
        Step(
            "A shift of all scores goes unseen after a cap, but not before it: only after it may the largest be subtracted",
            ne(Subs(psi, x, x + y), psi + y),
            Witness(at=((x, 0), (y, 1), (cap, 1))),
        ),
        Step(
            "In the softmax the slope of each score multiplies its column of the Jacobian",
            eq(
                Partial(R[f, i, j], X[f2, i2, l]),
                same_row * R[f, i, j] * (KroneckerDelta(j, l) - R[f, i, l]) * (1 - (C[f, i, l] / cap) ** 2),
            ),
            algebra,
        ),
    ),
    ties=(
        Tie(
            "ALiBi",
            "mha",
            attends,
            {"L[h t n]": A[f, i, j], "A[h t n]": G[f, i, j]},
            numbers=scaled | {h: 4, n: t},
            options={"mask": "full", "modifiers": ["alibi"]},
        ),
        Tie(
            "T5's bias with two short distances and two wider buckets",
            "mha",
            attends | {"WREL[bucket h]": W[b, f]},
            {"L[h t n]": Lambda((f, i, j), X[f, i, j] + T[f, i, j])},
            numbers=scaled | {near: 2, far: 2, end: 4, h: 2, t: 5, n: t},
            options={"mask": "full", "modifiers": ["t5-bias:side=decoder,buckets=4,far=4"]},
        ),
        Tie(
            "a soft cap",
            "mha",
            attends,
            {"L[h t n]": C[f, i, j], "A[h t n]": R[f, i, j]},
            numbers=scaled | {cap: 2},
            options={"mask": "full", "modifiers": ["softcap:cap=2"]},
        ),
        Tie(
            "a bias that is handed in",
            "mha",
            attends | {"SB[h t n]": B[f, i, j]},
            {"A[h t n]": P[f, i, j]},
            numbers=scaled,
            options={"mask": "full", "modifiers": ["score-bias:axes=h t n"]},
        ),
    ),
    so="Whatever is added to scores costs an addition for each pair. ALiBi needs no matrix of biases, but a number of each key; "
    "T5's table needs a look-up for each distance, and its gradient a sum over all pairs at that distance. A soft cap must come "
    "before the mask, since it would turn minus infinity into minus the cap, and before the largest score is subtracted; the "
    "backward pass needs the capped score.",
)
