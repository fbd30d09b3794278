"""What a head cannot see and cannot say: the order of its tokens, and patterns wider than itself."""

from mpmath import matrix, mpf, qr
from sympy import Function, KroneckerDelta, Rational, Sum, exp, log, sqrt

from attnmath.proving.checks import Algebra, Bijection, Witness, algebra, same, scalars
from attnmath.proving.page import Derivation, Given, Let, Step
from attnmath.proving.terms import counts, eq, ge, indices, ne, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

n, d, e = sizes("n d e")
i, j, l, z = indices("i j l z", n)
a, b = indices("a b", d)
(u,) = indices("u", e)
t, k = counts("t k")
Q, K, V, S, A, O, B = tensors("Q K V S A O B")
Sr, Or, Om, Omr = tensors("S' O' Y Y'")
U, R, M, H, F = tensors("U R M H F")
(T,) = tensors("T", positive=True)
pi = Function("pi", integer=True)
s, x, v0, v1 = reals("s x v_0 v_1")
tau = reals("tau", positive=True)

reorder = Bijection(pi=pi, size=n)
orthonormal = eq(total(U[i, a] * U[i, b], i), KroneckerDelta(a, b))
spanned = eq(Q[i, a], total(U[i, b] * R[b, a], b))
pattern = eq(total(T[i, j], j), 1)
seen = eq(Sr[i, j], S[pi(i), pi(j)])
factored = eq(S[i, j], total(U[i, b] * M[b, j], b))
kept = eq(total(H[i, l] * S[l, j], l), S[i, j])
left_out = n - d


def gram_schmidt(world):
    """Random queries of a world as orthonormal columns and the square matrix that mixes them."""
    rows, columns = int(world(n)), int(world(d))
    drawn = matrix([[world.entry("drawn", (row, column)) for column in range(columns)] for row in range(rows)])
    return qr(drawn, mode="skinny")


MODEL = {
    "U": lambda world, row, column: gram_schmidt(world)[0][row, column],
    "R": lambda world, row, column: gram_schmidt(world)[1][row, column],
    "Q": lambda world, row, column: world.entry("drawn", (row, column)),
}


def gap(left, right):
    """The squared difference of two patterns, over all pairs."""
    return total((left - right) ** 2, i, j)


def picked(row, key):
    """The score of a query that holds the logarithms of its row of the pattern, and a key that holds a one at its place."""
    return exp(total(log(T[row, l]) * KroneckerDelta(key, l), l))


PAGE = Derivation(
    name="permutations-and-rank",
    title=__doc__.rstrip("."),
    question="Does attention know the order of its tokens when no positions are given, and why do decoders without "
    "positional encodings work all the same? Is a head of width 128 too narrow for a context of 100,000 keys, or does the "
    "softmax make up for that?",
    statement="Without positions a head only permutes its outputs when its tokens are permuted; a causal mask tells it the "
    "order. The scores of a head of width `d` lie in `d` dimensions: from the pattern in which each of `n` tokens looks at "
    "itself they are at least `n - d` away, in squares; at width `n` nothing is out of reach.",
    source="equivariance: Lee et al. 2019, arXiv:1810.00825, section 3; order from the causal mask: Haviv et al. 2022, "
    "arXiv:2203.16634; the low-rank bottleneck: Bhojanapalli et al. 2020, arXiv:2002.07028, theorem 1; the nearest matrix of "
    "a rank: Eckart and Young 1936, Psychometrika 1, pages 211 to 218",
    notation=(
        (n, "tokens"),
        (d, "width of the head's queries and keys"),
        (e, "width of its values"),
        (Q, "queries, each made of its own token alone"),
        (K, "keys, likewise"),
        (V, "values, likewise"),
        (s, "the factor of the scores"),
        (pi(i), "the token that a new order puts in place i"),
        (B, "a mask: 1 where a query sees a key, 0 where not"),
        (t, "how many tokens come before the query"),
        (x, "a score"),
        (v0, "the first token's value"),
        (v1, "the second token's value"),
        (U, "orthonormal columns that the queries lie in the span of"),
        (R, "how the queries are mixed from them"),
        (T, "any pattern of positive weights"),
        (tau, "how sharp a pattern is"),
    ),
    lets=(
        Let(eq(S[i, j], s * total(Q[i, a] * K[j, a], a)), "scores"),
        Let(eq(F[i], log(total(exp(S[i, j]), j))), "the log-sum-exp of a row of scores"),
        Let(eq(A[i, j], exp(S[i, j]) / total(exp(S[i, l]), l)), "weights"),
        Let(eq(O[i, u], total(A[i, j] * V[j, u], j)), "outputs"),
        Let(eq(Sr[i, j], s * total(Q[pi(i), a] * K[pi(j), a], a)), "scores of the reordered tokens"),
        Let(
            eq(Or[i, u], total(exp(Sr[i, j]) * V[pi(j), u], j) / total(exp(Sr[i, l]), l)),
            "outputs of the reordered tokens",
        ),
        Let(
            eq(Om[i, u], total(B[i, j] * exp(S[i, j]) * V[j, u], j) / total(B[i, l] * exp(S[i, l]), l)),
            "outputs under the mask",
        ),
        Let(
            eq(
                Omr[i, u],
                total(B[pi(i), pi(j)] * exp(Sr[i, j]) * V[pi(j), u], j) / total(B[pi(i), pi(l)] * exp(Sr[i, l]), l),
            ),
            "outputs of the reordered tokens under a mask that is reordered with them",
        ),
        Let(eq(M[b, j], s * total(R[b, a] * K[j, a], a)), "the keys, mixed as the queries are"),
        Let(eq(H[i, l], total(U[i, b] * U[l, b], b)), "the projection onto the span of the queries' columns"),
    ),
    given=(
        Given(
            spanned,
            "the columns of `Q` lie in the span of `d` orthonormal columns (Gram and Schmidt)",
            MODEL,
            (ge(n, d),),
        ),
        Given(orthonormal, "the columns of `U` are orthonormal", MODEL, (ge(n, d),)),
        Given(
            pattern,
            "the weights of a row of the pattern add up to one",
            {"T": lambda world, row, key: mpf(1 + (row == key)) / (world(n) + 1)},
        ),
    ),
    assumes=(
        "there are at least as many tokens as the head is wide (`n \\ge d`); every matrix `Q` is then `U R`",
        "the scores are those before a mask: what a mask cuts off, it cuts off the scores of any rank",
    ),
    steps=(
        Step("A score is of two tokens alone: of the tokens in a new order, the scores are in that order", seen, same),
        Step(
            "A sum over all keys does not see their order, so each row's sum of exponentials moves with its query",
            eq(total(exp(Sr[i, j]), j), total(exp(S[pi(i), j]), j)),
            reorder,
        ),
        Step(
            "and so do the outputs: a head permutes them as its tokens are permuted, and does nothing else",
            eq(Or[i, u], O[pi(i), u]),
            reorder,
        ),
        Step(
            "What is pooled over all tokens does not change at all",
            eq(total(Or[i, u], i), total(O[i, u], i)),
            reorder,
        ),
        Step(
            "Under a mask the same holds if the mask is reordered with the tokens",
            eq(Omr[i, u], Om[pi(i), u]),
            reorder,
        ),
        Step(
            "but a causal mask stays where it is: of two tokens exchanged, the second saw both, now comes first and sees "
            "itself alone, and its output changes by this",
            eq(v1 - (v0 + v1 * exp(x)) / (1 + exp(x)), (v1 - v0) / (1 + exp(x))),
            scalars,
        ),
        Step(
            "which is not nothing: a causal head is not equivariant",
            ne((v1 - v0) / (1 + exp(x)), 0),
            Witness(at=((v0, 0), (v1, 1), (x, 0))),
        ),
        Step(
            "A causal head whose scores are all equal gives its first token a weight that tells how many tokens there are so "
            "far",
            eq(exp(x) / Sum(exp(x), (k, 0, t)), 1 / (t + 1)),
            algebra,
        ),
        Step(
            "Now the width: the scores are `d` columns, mixed differently for each key",
            factored,
            Algebra(using=(spanned,)),
        ),
        Step(
            "Projecting them onto the span of those columns leaves them as they are",
            kept,
            Algebra(using=(factored, orthonormal)),
        ),
        Step(
            "It is a projection: what is done twice is done once",
            eq(total(H[i, l] * H[l, j], l), H[i, j]),
            Algebra(using=(orthonormal,)),
        ),
        Step(
            "and its trace, which is the dimension of what it projects onto, is `d`: the scores of `n` tokens miss `n - d` "
            "dimensions",
            eq(total(KroneckerDelta(i, l) * H[i, l], i, l), d),
            Algebra(using=(orthonormal,)),
        ),
        Step(
            "The nearest that the span comes to the pattern in which each token looks at itself is the projection, and it is "
            "`n - d` away",
            eq(gap(KroneckerDelta(i, j), H[i, j]), left_out),
            Algebra(using=(orthonormal,)),
        ),
        Step(
            "Scores that ought to be `\\tau` there and 0 elsewhere are off by that times `\\tau^2`, and a sum of squares "
            "more (Pythagoras): no head of width `d` does better than `S = \\tau H`",
            eq(gap(tau * KroneckerDelta(i, j), S[i, j]), tau**2 * left_out + gap(tau * H[i, j], S[i, j])),
            Algebra(using=(factored, orthonormal)),
        ),
        Step(
            "The softmax takes one number a row off the scores: the logarithms of the weights lie in `d + 1` dimensions",
            eq(A[i, j], exp(total(U[i, b] * M[b, j], b) - F[i])),
            Algebra(using=(spanned,)),
        ),
        Step(
            "The weights themselves may have any rank: with two tokens and `d = 1`, where `Q = (0, 1)` and `K = (0, x)`, "
            "their determinant is not zero",
            ne(Rational(1, 2) * exp(x) / (1 + exp(x)) - Rational(1, 2) / (1 + exp(x)), 0),
            Witness(at=((x, 1),)),
        ),
        Step(
            "A head as wide as its context can take any pattern: queries that hold its logarithms, keys that are the unit "
            "vectors",
            eq(picked(i, j) / total(picked(i, z), z), T[i, j]),
            Algebra(using=(pattern,)),
        ),
    ),
    ties=(
        Tie(
            "scores, weights and outputs of a head",
            "mha",
            {"Q[t d]": Q[i, a], "K[n d]": K[j, a], "V[n e]": V[j, u]},
            {"L[t n]": S[i, j], "A[t n]": A[i, j], "O[t e]": O[i, u]},
            numbers={s: 1 / sqrt(d)},
            options={"mask": "full"},
        ),
    ),
    so="An encoder needs positions; a decoder learns some from its mask, and less clearly the further back they are. Give a "
    "head its width for the context it has to be precise in, not as the model's width over the number of heads: more heads "
    "of less width mix more patterns, each of fewer dimensions.",
)
