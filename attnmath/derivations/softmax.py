"""The softmax: shifts, temperature, its Jacobian, and the log-sum-exp behind it."""

from sympy import KroneckerDelta, Lambda, Limit, Rational, exp, log, oo

from attnmath.proving.checks import Algebra, algebra, same, scalars
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import Partial, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

n = sizes("n")
i, j, k = indices("i j k", n)
x, p, w, v = tensors("x p w v")
c, F, G, m, V = reals("c F G mu V")
tau, gap = reals("tau Delta", positive=True)


sums_to_one = eq(total(p[i], i), 1)
jacobian = eq(Partial(p[i], x[j]), p[i] * (KroneckerDelta(i, j) - p[j]))
potential = eq(Partial(F, x[j]), p[j])

PAGE = Derivation(
    name="softmax",
    title=__doc__.rstrip("."),
    question="Why may a kernel subtract the largest score before it exponentiates, why does every backward pass subtract a row "
    "sum, and what is the log-sum-exp that flash attention keeps?",
    statement="The softmax does not see a shift of all scores. It is the gradient of the log-sum-exp, so that its Jacobian, "
    "`\\operatorname{diag}(p) - p p^T`, is a Hessian, hence symmetric.",
    source="Bridle 1990, Neurocomputing 68, pages 227 to 236; the log-sum-exp: Boyd and Vandenberghe 2004, section 3.1.5",
    notation=(
        (n, "how many scores there are"),
        (x, "the scores, one for each key"),
        (c, "any number, the same for all scores"),
        (v, "a direction in which scores move, a number for each"),
        (tau, "the temperature"),
        (gap, "by how much one of two scores is the larger"),
    ),
    lets=(
        Let(eq(p[i], exp(x[i]) / total(exp(x[k]), k)), "the softmax's weights"),
        Let(eq(F, log(total(exp(x[k]), k))), "the log-sum-exp"),
        Let(eq(G, log(total(exp(x[k] - c), k))), "the log-sum-exp of shifted scores"),
        Let(eq(w[i], exp(x[i] / tau) / total(exp(x[k] / tau), k)), "the weights at temperature `tau`"),
        Let(eq(m, total(w[k] * x[k], k)), "the mean score under them"),
        Let(eq(V, total(p[k] * v[k], k)), "the mean of a direction under the weights"),
    ),
    steps=(
        Step("The weights add up to one", sums_to_one, algebra),
        Step(
            "A number added to every score leaves every weight as it is, since its exponential stands above and below the line",
            eq(exp(x[i] + c) / total(exp(x[k] + c), k), p[i]),
            algebra,
        ),
        Step(
            "Moving one score moves every weight: the quotient rule gives the Jacobian, `\\operatorname{diag}(p) - p p^T`",
            jacobian,
            algebra,
        ),
        Step(
            "Its rows add up to zero: the softmax does not see a common shift to first order either",
            eq(total(Partial(p[i], x[j]), j), 0),
            algebra,
        ),
        Step(
            "Its columns do too, because the weights go on adding up to one",
            eq(total(p[i] * (KroneckerDelta(i, j) - p[j]), i), 0),
            Algebra(using=(sums_to_one,)),
        ),
        Step("The weights are the gradient of the log-sum-exp", potential, algebra),
        Step(
            "so that the Jacobian is the log-sum-exp's Hessian, and symmetric as every Hessian is",
            eq(Partial(Partial(F, x[j]), x[i]), p[i] * (KroneckerDelta(i, j) - p[j])),
            algebra,
        ),
        Step(
            "and it measures a variance, which is never negative: the log-sum-exp is convex",
            eq(total(v[i] * p[i] * (KroneckerDelta(i, j) - p[j]) * v[j], i, j), total(p[i] * (v[i] - V) ** 2, i)),
            Algebra(using=(sums_to_one,)),
        ),
        Step("A weight is had from its score and the log-sum-exp alone", eq(exp(x[i] - F), p[i]), same),
        Step(
            "With `c` subtracted from every score, `c` has to be added to their log-sum-exp again",
            eq(G + c, F),
            algebra,
        ),
        Step(
            "A temperature divides the scores, and the Jacobian with them",
            eq(Partial(w[i], x[j]), w[i] * (KroneckerDelta(i, j) - w[j]) / tau),
            algebra,
        ),
        Step(
            "A rise in temperature takes from the scores above their mean and gives to those below",
            eq(Partial(w[i], tau), w[i] * (m - x[i]) / tau**2),
            algebra,
        ),
        Step(
            "Of two scores that differ, a temperature near zero leaves the larger alone",
            eq(Limit(1 / (1 + exp(-gap / tau)), tau, 0), 1),
            scalars,
        ),
        Step(
            "and a high temperature makes them equal",
            eq(Limit(1 / (1 + exp(-gap / tau)), tau, oo), Rational(1, 2)),
            scalars,
        ),
    ),
    ties=(
        Tie("the weights of one query over its keys", "mha", {"L[n]": x[i]}, {"A[n]": p[i]}, options={"mask": "full"}),
        Tie(
            "their Jacobian with any direction, which is its own transpose: what a backward pass multiplies with",
            "mha",
            {"L[n]": x[i]},
            {"dL[n]": Lambda((j,), p[j] * (v[j] - V)), "D[]": V},
            options={"mask": "full"},
            upstream={"A[n]": v[i]},
        ),
        Tie(
            "the weights at temperature 2",
            "mha",
            {"L0[n]": x[i]},
            {"A[n]": w[i]},
            numbers={tau: 2},
            options={"mask": "full", "modifiers": ["temperature:tau=2"]},
        ),
    ),
    so="A kernel may subtract whatever it likes from a row of scores, so it subtracts the largest and nothing overflows; it "
    "keeps F, one number a row, and recomputes the weights from it in the backward pass.",
)
