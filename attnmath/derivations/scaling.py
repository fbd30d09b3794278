"""Why scores are divided by the square root of the head's width."""

from functools import cache

from sympy import Derivative, Function, KroneckerDelta, Limit, Rational, Subs, exp, log, oo, sqrt

from attnmath.models import read
from attnmath.proving.checks import Gaussian, Moments, Tested, algebra, same, scalars, signs
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import E, Partial, eq, gt, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

n, d, D, h = sizes("n d D h")
j, l = indices("j l", n)
(a,) = indices("a", d)
q, K, S, p = tensors("q K S p")
x, g, F, H, N, A, G = reals("x g F H N A G")
c = reals("c", positive=True)
Hm = Function("eta")

MODEL = "llama-3.1-8b"
SIZES = read(MODEL).runs[0].sizes
HEAD, WIDTH = SIZES["head-dim"], SIZES["d-model"]
KEYS, QUERIES = 4096, 64
independent = Moments(random=(q, K))
normal_keys = Gaussian(random=K, sizes=(n, d))


@cache
def measured_entropy(seed: int, width: int, keys: int, head: int) -> float:
    """The mean entropy of the weights that `mha` gives standard normal queries and keys, scores divided by sqrt(width)."""
    import numpy as np

    from attnmath import evaluate

    draw = np.random.default_rng(seed)
    arrays = {"Q": draw.standard_normal((1, QUERIES, 1, head)), "K": draw.standard_normal((1, keys, 1, head))}
    weights = evaluate("mha", arrays, mask="full", modifiers=[f"scale:width={width}"])["A"]
    return float(-(weights * np.log(np.maximum(weights, 1e-300))).sum(-1).mean())


PAGE = Derivation(
    name="scaling",
    title=__doc__.rstrip("."),
    question="Why `\\sqrt{d}`, and not `d`, or nothing? And which width is it: the head's, or the embedding's, which some "
    "code divides by?",
    statement="A score is a sum of `d` products, so its variance is `d`. Divided by `\\sqrt{d}` it is one, and the softmax "
    "works at the same temperature for heads of every width. Undivided, a few keys take all and hardly a "
    "gradient passes; divided by the root of the embedding's width, the weights are nearly equal and the layer averages.",
    source="Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1 and its footnote on dot products; the softmax over many "
    "normal scores: Derrida 1981, Physical Review B 24, pages 2613 to 2626",
    notation=(
        (d, "the head's width: the entries of a query and of a key"),
        (n, "keys"),
        (D, "the embedding's width"),
        (h, "heads"),
        (q, "a query, its entries independent, of mean 0 and variance 1"),
        (K, "the keys, likewise; standard normal where an exponential's mean is taken"),
        (c, "what scores are multiplied with: `1/\\sqrt{d}`, or something else"),
        (x, "by how much one of two scores is the larger, from 0 on"),
        (Hm(D, n, d), "the entropy of the weights, measured, of scores divided by the root of its first argument"),
    ),
    lets=(
        Let(eq(S[j], total(q[a] * K[j, a], a)), "the scores, not scaled"),
        Let(eq(p[j], exp(c * S[j]) / total(exp(c * S[l]), l)), "the weights"),
        Let(eq(g, 1 / (1 + exp(x))), "of two weights the smaller, a function of the gap of their scores"),
        Let(eq(F, log(total(exp(c * S[l]), l))), "the log-sum-exp of the scaled scores"),
        Let(eq(H, total(p[j] * (F - c * S[j]), j)), "the entropy of the weights: the mean of minus their logarithms"),
        Let(eq(N, total(q[a] ** 2, a)), "the query's squared length"),
        Let(eq(A, log(n * E(exp(c * S[0])))), "what the log-sum-exp is over many keys: a sum is `n` times its mean"),
        Let(eq(G, log(n) - c**2 * d / 2), "the entropy that comes out for a query of the mean length"),
    ),
    assumes=(
        "There are many keys: the sum of their exponentials is `n` times its mean. For normal scores of variance `\\sigma^2` "
        "that holds as long as the entropy that comes out is above zero, `\\sigma^2 < 2 \\log n`; beyond, the sum is its largest "
        "terms",
        "The embedding has a head's width for each head where a step says `D = h d`",
    ),
    steps=(
        Step("A score has mean zero", eq(E(S[j]), 0), independent),
        Step("and variance `d`: of its products, only each with itself has a mean", eq(E(S[j] ** 2), d), independent),
        Step(
            "Divided by `\\sqrt{d}` its variance is one, whatever the width",
            eq(E((S[j] / sqrt(d)) ** 2), 1),
            independent,
        ),
        Step(
            "Scores of two different keys are uncorrelated, so their gap has twice that variance: without the scale a gap of "
            "`\\sqrt{2 d}` is usual",
            eq(E((S[j] - S[l]) ** 2), 2 * d * (1 - KroneckerDelta(j, l))),
            independent,
        ),
        Step(
            "What such a gap does to two weights: the smaller falls, and the larger rises, by `g (1 - g)` per unit of it",
            eq(Derivative(g, x), -g * (1 - g)),
            scalars,
        ),
        Step("which is less than `e^{-x}` at every gap", gt(exp(-x), g * (1 - g)), signs),
        Step(
            "and, at a wide one, that much: the gradient dies exponentially",
            eq(Limit(g * (1 - g) * exp(x), x, oo), 1),
            scalars,
        ),
        Step(
            f"At a head's width of {HEAD}, which is {MODEL}'s, the usual gap lets less than a part in eight million through",
            gt(Rational(1, 8 * 10**6), exp(-sqrt(2 * HEAD))),
            signs,
        ),
        Step(
            "Over all keys: the log-sum-exp is what is subtracted from a score to make it the logarithm of its weight",
            eq(exp(c * S[j] - F), p[j]),
            same,
        ),
        Step(
            "so the entropy of the weights is the log-sum-exp less `c` times its slope, exactly and for any scores",
            eq(H, F - c * Partial(F, c)),
            algebra,
        ),
        Step(
            "For a given query and normal keys, the exponential of a scaled score has the mean of a log-normal law",
            eq(E(exp(c * S[j])), exp(c**2 * N / 2)),
            normal_keys,
        ),
        Step(
            "Over many keys that is the log-sum-exp, and the entropy falls short of `\\log n`, that of equal weights, by half "
            "the variance of the scaled scores",
            eq(A - c * Partial(A, c), log(n) - c**2 * N / 2),
            normal_keys,
        ),
        Step("A query's squared length is `d` in the mean", eq(E(N), d), independent),
        Step(
            "With `c = 1/\\sqrt{d}` a softmax gives up half a nat, whatever the width: it attends to some `n / \\sqrt{e}` keys",
            eq(Subs(G, c, 1 / sqrt(d)), log(n) - Rational(1, 2)),
            scalars,
        ),
        Step(
            "Without a scale, nothing is left of the entropy unless there are more than `e^{d/2}` keys: a few take all",
            eq(Subs(G, (c, n), (1, exp(d / 2))), 0),
            scalars,
        ),
        Step(
            "By the embedding's width, the scores have a variance that is the part a head has of the embedding",
            eq(E((S[j] / sqrt(D)) ** 2), d / D),
            independent,
        ),
        Step(
            "one part in `h` where the heads share it: the more heads, the flatter the weights",
            eq(Subs(d / D, D, h * d), 1 / h),
            scalars,
        ),
        Step(
            "so that hardly any entropy is given up",
            eq(Subs(G, c, 1 / sqrt(D)), log(n) - d / (2 * D)),
            scalars,
        ),
        Step(
            f"As measured with the shapes of {MODEL}: of what the softmax gives up with the head's width, the embedding's "
            "leaves that same part",
            eq((log(n) - Hm(D, n, d)) / (log(n) - Hm(d, n, d)), d / D),
            Tested(
                measured={"eta": measured_entropy},
                at=((d, HEAD), (D, WIDTH), (n, KEYS)),
                seeds=(0, 1),
                within=0.05,
                setting=f"{QUERIES} queries, computed by mha",
                reason="at a finite number of keys it is an approximation, whose error is what is measured",
            ),
        ),
    ),
    ties=(
        Tie(
            "the weights, scaled by the head's width",
            "mha",
            {"Q[d]": q[a], "K[n d]": K[j, a]},
            {"S[n]": S[j], "A[n]": p[j]},
            numbers={c: 1 / sqrt(d)},
            options={"mask": "full"},
        ),
        Tie(
            "and by another's, here 12",
            "mha",
            {"Q[d]": q[a], "K[n d]": K[j, a]},
            {"A[n]": p[j]},
            numbers={c: 1 / sqrt(12)},
            options={"mask": "full", "modifiers": ["scale:width=12"]},
        ),
    ),
    so=f"Divide by the root of the head's own width. With {MODEL}'s embedding ({WIDTH}) in place of its head ({HEAD}), scores "
    f"would have a variance of 1/{WIDTH // HEAD}, and a freshly initialised layer would average its values. Without any scale, "
    f"a few keys would take all in every context of fewer than `10^{{{int(HEAD / 2 / log(10))}}}` keys, and hardly a gradient "
    "would pass. A norm of queries and keys, or a learned temperature, repairs either only by learning the factor that was "
    "left out.",
)
