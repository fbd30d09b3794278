"""Why scores are divided by the square root of the head's width."""

from sympy import Derivative, Limit, Rational, Subs, exp, oo, sqrt

from attnmath.proving.checks import Moments, scalars
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import E, eq, indices, reals, sizes, tensors, total

d, D = sizes("d D")
(a,) = indices("a", d)
q, k = tensors("q k")
s, x, p, m2 = reals("s x p sigma")
independent = Moments(random=(q, k))

PAGE = Derivation(
    name="scaling",
    title=__doc__.rstrip("."),
    question="?",
    statement="?",
    source="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1",
    notation=(
        (d, "the head's width"),
        (q, "a query"),
        (k, "a key"),
        (x, "the gap between two scores"),
        (D, "the width of the model"),
    ),
    lets=(
        Let(eq(s, total(q[a] * k[a], a)), "the score"),
        Let(eq(p, exp(x) / (exp(x) + 1)), "the larger of two weights"),
    ),
    steps=(
        Step("A score has mean zero", eq(E(s), 0), independent),
        Step("and variance d", eq(E(s**2), d), independent),
        Step("The scaled score has variance one", eq(E((s / sqrt(d)) ** 2), 1), independent),
        Step("Two weights", eq(Derivative(p, x), p * (1 - p)), scalars),
        Step("at gap zero", eq(Subs(Derivative(p, x), x, 0), Rational(1, 4)), scalars),
        Step("vanishes", eq(Limit(p * (1 - p), x, oo), 0), scalars),
        Step("by the width of the embedding", eq(E((s / sqrt(D)) ** 2), d / D), independent),
    ),
)
