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
q, k, v, w, c, kernel, R, y, z, P, D, f, g, p, h, F, G = tensors("q k v w c kappa R y z P D f g p h F G")
x, o = reals("x omega")
normal = Gaussian(random=w, sizes=(m, d))

moment = eq(E(exp(total(c[a] * w[r, a], a))), exp(total(c[a] ** 2, a) / 2))
near = eq(kernel[j], exp(P[j] / 2) / R[j])
apart = eq(kernel[j], R[j] * exp(-D[j] / 2))
product = eq(f[r] * g[r, j], p[r, j])
unbiased = eq(E(p[r, j]), kernel[j])
second = eq(F[r, s, j], kernel[j] ** 2 * (1 + KroneckerDelta(r, s) * (exp(P[j]) - 1)))
variance = kernel[j] ** 2 * (exp(P[j]) - 1)
square = (exp(D[j] / 2) - exp(-D[j] / 2)) ** 2 / 2
second_waves = eq(G[r, s, j], kernel[j] ** 2 * (1 + KroneckerDelta(r, s) * square))


def features(x):
    """The features of a query or key: positive, and one number for each direction."""
    return exp(total(w[r, a] * x, a) - total(x**2, a) / 2)


PAGE = Derivation(
    name="random-features",
    title=__doc__.rstrip("."),
    question="Softmax attention needs the exponential of every score. Can that be a product of features, one of the query and "
    "one of the key, so that attention becomes linear, and how far off is it?",
    statement="With `w` normal, `\\exp(w^T x - |x|^2 / 2)` is a random feature of `x`: a query's and a key's multiplied have "
    "the mean `\\exp(q^T k)` exactly. The variance of `m` of them is `\\exp(2 q^T k) (\\exp(|q + k|^2) - 1) / m`. "
    "Cosines and sines have the same mean and a variance that is large, relative to the kernel, just where the kernel is small.",
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
        (o, "one coordinate of a direction"),
    ),
    lets=(
        Let(eq(kernel[j], exp(total(q[a] * k[j, a], a))), "the kernel: the exponential of a score"),
        Let(
            eq(R[j], exp(total(q[a] ** 2, a) / 2 + total(k[j, a] ** 2, a) / 2)),
            "a factor of the query and one of the key",
        ),
        Let(eq(y[j, a], q[a] + k[j, a]), "query and key added"),
        Let(eq(z[j, a], q[a] - k[j, a]), "their difference"),
        Let(eq(P[j], total(y[j, a] ** 2, a)), "the squared length of the sum"),
        Let(eq(D[j], total(z[j, a] ** 2, a)), "and of the difference"),
        Let(eq(f[r], features(q[a])), "the query's features, all positive"),
        Let(eq(g[r, j], features(k[j, a])), "the keys'"),
        Let(eq(p[r, j], exp(total(w[r, a] * y[j, a], a)) / R[j]), "what one feature estimates"),
        Let(eq(h[r, j], R[j] * cos(total(w[r, a] * z[j, a], a))), "the same with a cosine"),
        Let(eq(F[r, s, j], E(p[r, j] * p[s, j])), "the mean of two features' estimates multiplied"),
        Let(eq(G[r, s, j], E(h[r, j] * h[s, j])), "the same with cosines"),
    ),
    steps=(
        Step(
            "Along one coordinate, completing the square under the integral gives the exponential's mean",
            eq(Integral(exp(x * o) * exp(-(o**2) / 2) / sqrt(2 * pi), (o, -oo, oo)), exp(x**2 / 2)),
            scalars,
        ),
        Step(
            "Coordinates are independent, so their means multiply, and the squares add up in the exponent",
            moment,
            normal,
        ),
        Step(
            "The squared length of query and key added is that of each and twice the score, so the kernel is such a mean, scaled",
            near,
            algebra,
        ),
        Step("What is under the mean comes apart into a feature of the query and one of the key", product, algebra),
        Step(
            "So one feature has no bias: its mean is the kernel",
            unbiased,
            Gaussian(random=w, sizes=(m, d), using=(near,)),
        ),
        Step(
            "nor has the mean of `m` of them, by linearity, nor what they make of the values",
            eq(total(total(E(p[r, j]), r) * v[j, u], j) / m, total(kernel[j] * v[j, u], j)),
            Algebra(using=(unbiased,)),
        ),
        Step(
            "and what they make of the values is linear attention: keys and values are summed once for all queries",
            eq(
                total(total(f[r] * g[r, j], r) * v[j, u], j) / m,
                total(f[r] * total(g[r, j] * v[j, u], j), r) / m,
            ),
            algebra,
        ),
        Step(
            "Two features are uncorrelated, while the square of one has a larger mean",
            second,
            Gaussian(random=w, sizes=(m, d), using=(near,)),
        ),
        Step(
            "so that the variance of one feature's estimate is",
            eq(F[r, r, j] - kernel[j] ** 2, variance),
            Algebra(using=(second,)),
        ),
        Step(
            "and that of the mean of `m`, whose square is a double sum, is one `m`-th of it",
            eq(total(F[r, s, j], r, s) / m**2 - kernel[j] ** 2, variance / m),
            Algebra(using=(second,)),
        ),
        Step(
            "For contrast: a cosine of a difference comes apart as well, into features of which some are negative",
            eq(cos(x - o), cos(x) * cos(o) + sin(x) * sin(o)),
            waves,
        ),
        Step("The kernel is a factor of the lengths, too, times one that falls with the difference", apart, algebra),
        Step(
            "which is the mean of a cosine: no bias either",
            eq(E(h[r, j]), kernel[j]),
            Gaussian(random=w, sizes=(m, d), using=(apart,)),
        ),
        Step(
            "Two are uncorrelated again, and the square of one has a mean that grows with the difference",
            second_waves,
            Gaussian(random=w, sizes=(m, d), using=(apart,)),
        ),
        Step(
            "so that the mean of `m` has the variance",
            eq(total(G[r, s, j], r, s) / m**2 - kernel[j] ** 2, kernel[j] ** 2 * square / m),
            Algebra(using=(second_waves,)),
        ),
        Step(
            "Lengths given, the sum is short where the score is small and the difference long, so there cosines are the worse",
            eq(P[j] + D[j], 2 * total(q[a] ** 2, a) + 2 * total(k[j, a] ** 2, a)),
            algebra,
        ),
    ),
    so="Attention with positive features costs what linear attention does, with `m` for the width of the state, and numerator "
    "and denominator are each without bias; their ratio is not. The number of features for a given relative error grows as "
    "`\\exp(|q + k|^2)`: long queries and keys that point the same way, which softmax attention singles out, are what it is "
    "worst at. Orthogonal directions lower the variance further (Choromanski et al. 2021, theorem 2); that is not shown here.",
)
