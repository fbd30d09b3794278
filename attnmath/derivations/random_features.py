"""Random features: the exponential kernel as an expectation, without bias, and its variance."""

from sympy import Integral, KroneckerDelta, cos, exp, oo, pi, sin, sqrt

from attnmath.proving.checks import Algebra, Gaussian, algebra, scalars, waves
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import E, eq, indices, reals, sizes, tensors, total

n, m, d, e = sizes("n m d e")
(j,) = indices("j", n)
r, s = indices("r s", m)
(a,) = indices("a", d)
(u,) = indices("u", e)
q, k, v, w, S, P, D, f, g, p, h, c, F, G, R, z = tensors("q k v w S P D f g p h c F G R z")
x, y = reals("x y")
normal = Gaussian(random=w, sizes=(m, d))

moment = eq(E(exp(total(c[a] * w[r, a], a))), exp(total(c[a] ** 2, a) / 2))
longer = eq(P[j], total(q[a] ** 2, a) + total(k[j, a] ** 2, a) + 2 * S[j])
unbiased = eq(E(p[r, j]), exp(S[j]))
second = eq(F[r, s, j], exp(2 * S[j]) * (1 + KroneckerDelta(r, s) * (exp(P[j]) - 1)))
second_waves = eq(
    G[r, s, j],
    exp(2 * S[j]) * (1 + KroneckerDelta(r, s) * (exp(D[j] / 2) - exp(-D[j] / 2)) ** 2 / 2),
)
variance = exp(2 * S[j]) * (exp(P[j]) - 1)
variance_waves = exp(2 * S[j]) * (exp(D[j] / 2) - exp(-D[j] / 2)) ** 2 / 2

PAGE = Derivation(
    name="random-features",
    title=__doc__.rstrip("."),
    question="Softmax attention needs the exponential of every score. Can that be a product of features, one of the query and "
    "one of the key, so that attention becomes linear, and how far off is it?",
    statement="With w normal, exp(w.x - |x|^2 / 2) is a random feature whose products have the mean exp(q.k) exactly. With m "
    "of them the variance is exp(2 q.k) (exp(|q + k|^2) - 1) / m. Cosines and sines have the same mean and a variance that is "
    "large, relative to the kernel, just where the kernel is small.",
    source="Choromanski et al. 2021, arXiv:2009.14794, lemmas 1 and 2; cosines: Rahimi and Recht 2007, NIPS",
    notation=(
        (n, "keys"),
        (m, "features"),
        (d, "width of queries and keys"),
        (e, "width of values"),
        (q, "a query, scaled as the softmax's scores ask for"),
        (k, "the keys, scaled likewise"),
        (v, "the values"),
        (w, "the features' directions: independent, standard normal"),
        (c, "any vector"),
        (x, "any number"),
        (y, "one coordinate of a direction"),
    ),
    lets=(
        Let(eq(S[j], total(q[a] * k[j, a], a)), "the scores"),
        Let(eq(P[j], total((q[a] + k[j, a]) ** 2, a)), "the squared length of query and key added"),
        Let(eq(z[j, a], q[a] - k[j, a]), "their difference"),
        Let(eq(D[j], total(z[j, a] ** 2, a)), "its squared length"),
        Let(eq(f[r], exp(total(w[r, a] * q[a], a) - total(q[a] ** 2, a) / 2)), "the query's features, all positive"),
        Let(eq(g[r, j], exp(total(w[r, a] * k[j, a], a) - total(k[j, a] ** 2, a) / 2)), "the keys'"),
        Let(eq(p[r, j], f[r] * g[r, j]), "what one feature estimates"),
        Let(
            eq(R[j], exp(total(q[a] ** 2, a) / 2 + total(k[j, a] ** 2, a) / 2)),
            "a factor of the query and one of the key",
        ),
        Let(eq(h[r, j], R[j] * cos(total(w[r, a] * z[j, a], a))), "what cosines have in the place of f times g"),
        Let(eq(F[r, s, j], E(p[r, j] * p[s, j])), "the mean of two features' estimates multiplied"),
        Let(eq(G[r, s, j], E(h[r, j] * h[s, j])), "the same of cosines"),
    ),
    steps=(
        Step(
            "Along one coordinate, completing the square under the integral gives the exponential's mean",
            eq(Integral(exp(x * y) * exp(-(y**2) / 2) / sqrt(2 * pi), (y, -oo, oo)), exp(x**2 / 2)),
            scalars,
        ),
        Step(
            "Coordinates are independent, so their means multiply, and the squares add up in the exponent",
            moment,
            normal,
        ),
        Step(
            "The squared length of a sum is that of its parts and twice the score",
            longer,
            algebra,
        ),
        Step("So one feature's product has the exponential of the score for its mean: no bias", unbiased, normal),
        Step(
            "nor has the mean of m of them, by linearity, nor what they make of the values",
            eq(total(total(E(p[r, j]), r) * v[j, u], j) / m, total(exp(S[j]) * v[j, u], j)),
            Algebra(using=(unbiased,)),
        ),
        Step(
            "and what they make of the values is linear attention: keys and values are summed once for all queries",
            eq(
                total(total(p[r, j], r) * v[j, u], j) / m,
                total(f[r] * total(g[r, j] * v[j, u], j), r) / m,
            ),
            algebra,
        ),
        Step("Two features are uncorrelated, while the square of one has a larger mean", second, normal),
        Step(
            "so that the variance of one feature's product is",
            eq(F[r, r, j] - exp(S[j]) ** 2, variance),
            Algebra(using=(second,)),
        ),
        Step(
            "and that of the mean of m, whose square is a double sum, is one m-th of it",
            eq(total(F[r, s, j], r, s) / m**2 - exp(S[j]) ** 2, variance / m),
            Algebra(using=(second,)),
        ),
        Step(
            "For contrast: a cosine of a difference is a product of two features as well, of which some are negative",
            eq(cos(x - y), cos(x) * cos(y) + sin(x) * sin(y)),
            waves,
        ),
        Step("It too has the exponential of the score for its mean", eq(E(h[r, j]), exp(S[j])), normal),
        Step(
            "Two are uncorrelated again, while the square of one has a mean that grows with the difference",
            second_waves,
            normal,
        ),
        Step(
            "so that the mean of m has the variance",
            eq(total(G[r, s, j], r, s) / m**2 - exp(S[j]) ** 2, variance_waves / m),
            Algebra(using=(second_waves,)),
        ),
        Step(
            "Lengths given, the sum is short where the score is small and the difference long, so there cosines are the worse",
            eq(P[j] + D[j], 2 * total(q[a] ** 2, a) + 2 * total(k[j, a] ** 2, a)),
            algebra,
        ),
    ),
    so="Attention with positive features costs what linear attention does, with m for the width of the state, and numerator and "
    "denominator are each without bias; their ratio is not. The number of features for a given relative error grows as "
    "exp(|q + k|^2): long queries and keys that point the same way, which softmax attention singles out, are what it is worst "
    "at. Orthogonal directions lower the variance further (Choromanski et al. 2021, theorem 2); that is not shown here.",
)
