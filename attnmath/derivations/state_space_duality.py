"""State-space duality: a scan is a product with a semiseparable matrix."""

from sympy import Sum, exp

from attnmath.proving.checks import Algebra, Induction, Recurrence, algebra
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import counts, eq, indices, sizes, tensors, total
from attnmath.proving.ties import Tie

N, c, d, e = sizes("N c d e")
i, j = indices("i j", N * c)
(a,) = indices("a", d)
(f,) = indices("f", e)
t, s, r, m, b = counts("t s r m b")
t2, s2 = counts("t' s'")
B, C, u, x, G, D, M, Y, H, K, E, Q = tensors("B C u x G L M Y H K E Q")


def faded(s, before):
    """What is left before a token of what token s wrote."""
    return exp(G[before] - G[s + 1])


def written(first, upto, before):
    """What the tokens from `first` up to `upto` wrote, as it is before a token."""
    return Sum(faded(s, before) * B[s, a] * u[s, f], (s, first, upto - 1))


scan = Recurrence(
    t, eq(H[0, a, f], 0), eq(H[t + 1, a, f], exp(x[t]) * H[t, a, f] + B[t, a] * u[t, f]), "the state before a token"
)
gates = Recurrence(t, eq(Q[0], 1), eq(Q[t + 1], exp(x[t]) * Q[t]), "the product of the gates")
chunks = Recurrence(
    m,
    eq(E[0, a, f], 0),
    eq(
        E[m + 1, a, f],
        exp(G[(m + 1) * c] - G[m * c]) * E[m, a, f] + written(m * c, (m + 1) * c, (m + 1) * c),
    ),
    "the state before a chunk, from chunk to chunk",
)
held = eq(H[t, a, f], K[t, a, f])
carried = eq(E[m, a, f], K[m * c, a, f])

PAGE = Derivation(
    name="state-space-duality",
    title=__doc__.rstrip("."),
    question="A state-space model steps through a sequence with a state that decays; attention multiplies by a matrix of "
    "pairs. In what sense are they one thing, and which of the two does a GPU compute?",
    statement="A state with one decay per token returns the product of its inputs with a lower triangular matrix: scores of `C` "
    "and `B` under a mask of decays. Each block of that matrix below the diagonal goes through the `d` numbers of the state "
    "(it is semiseparable), and that is why a scan, the matrix, and chunks of both compute the same.",
    source="Dao and Gu 2024, arXiv:2405.21060, sections 3, 5 and 6",
    notation=(
        (N, "how many chunks there are"),
        (c, "tokens in a chunk"),
        (d, "width of the state"),
        (e, "width of a head"),
        (t, "a token"),
        (s, "an earlier one"),
        (t2, "another token"),
        (s2, "another earlier one"),
        (r, "a token that is summed over"),
        (m, "a chunk"),
        (b, "where a sequence is cut in two"),
        (C, "what reads the state, in the place of queries"),
        (B, "what writes to it, in the place of keys"),
        (u, "the inputs, in the place of values"),
        (x, "the logarithm of what a token leaves of the state"),
    ),
    assumes=("what a token leaves of the state is positive, so that it has a logarithm", "the state begins at 0"),
    lets=(
        Let(eq(G[i], Sum(x[r], (r, 0, i - 1))), "the decay up to token `i`, as a logarithm"),
        scan,
        gates,
        Let(
            eq(D[i, j], exp(G[i + 1] - G[j + 1])),
            "what token `i` finds left of what token `j` wrote: the mask, where `j \\le i`",
        ),
        Let(eq(M[i, j], total(C[i, a] * B[j, a], a) * D[i, j]), "the matrix, where `j \\le i`; it is 0 elsewhere"),
        Let(eq(Y[i, f], Sum(M[i, s] * u[s, f], (s, 0, i))), "the matrix times the inputs"),
        Let(eq(K[i, a, f], written(0, i, i)), "what is left before token `i` of all that was written"),
        chunks,
    ),
    steps=(
        Step(
            "The product of the gates is the exponential of a running sum, so decays are differences of sums",
            eq(Q[t], exp(G[t])),
            Induction(recurrence=gates),
        ),
        Step("Decays compose: over two stretches they multiply", eq(D[t, s] * D[s, r], D[t, r]), algebra),
        Step(
            "so a row of the mask is the row above times one gate; which is what a scan steps through",
            eq(D[t + 1, s], exp(x[t + 1]) * D[t, s]),
            algebra,
        ),
        Step("The state is what is left of all that was written", held, Induction(recurrence=scan)),
        Step(
            "Read after each token's own write, it returns the product with the matrix: the scan is the quadratic form",
            eq(total(C[t, a] * (exp(x[t]) * H[t, a, f] + B[t, a] * u[t, f]), a), Y[t, f]),
            Algebra(using=(held,)),
        ),
        Step(
            "Across any cut `b`, between writer `s` and reader `t`, an entry is a product of two vectors as wide as the state",
            eq(M[t, s], total(C[t, a] * exp(G[t + 1] - G[b]) * faded(s, b) * B[s, a], a)),
            algebra,
        ),
        Step(
            "so all that reaches a token from before the cut goes through the `d` numbers of each channel of the state there",
            eq(
                Sum(M[t, s] * u[s, f], (s, 0, b - 1)),
                total(C[t, a] * exp(G[t + 1] - G[b]) * K[b, a, f], a),
            ),
            algebra,
        ),
        Step(
            "Of the mask alone every two rows and two columns below the diagonal are proportional: it has rank one there",
            eq(D[t, s] * D[t2, s2], D[t, s2] * D[t2, s]),
            algebra,
        ),
        Step(
            "From cut to cut the state decays by the whole stretch, and what was written in between is added",
            eq(K[t, a, f], exp(G[t] - G[b]) * K[b, a, f] + written(b, t, t)),
            algebra,
            when=(t >= b,),
        ),
        Step(
            "so that with a cut at every chunk's start, a scan over chunks has the states of the scan over tokens",
            carried,
            Induction(recurrence=chunks),
        ),
        Step(
            "and a token's output is the matrix inside its chunk, and one reading of the state at the chunk's start",
            eq(
                Y[t, f],
                Sum(M[t, s] * u[s, f], (s, m * c, t)) + total(C[t, a] * exp(G[t + 1] - G[m * c]) * E[m, a, f], a),
            ),
            Algebra(using=(carried,)),
            when=(t >= m * c,),
        ),
    ),
    ties=(
        Tie(
            "the scan's states and outputs",
            "mamba2",
            {"C[t d]": C[i, a], "B[t d]": B[i, a], "u[t e]": u[i, f], "a[t]": x[i]},
            {"H[t d e]": H[t + 1, a, f], "O[t e]": Y[i, f]},
            sizes={"t": N * c},
            options={"form": "recurrent"},
        ),
        Tie(
            "the decays and the outputs of the matrix",
            "mamba2",
            {"C[t d]": C[i, a], "B[t d]": B[i, a], "u[t e]": u[i, f], "a[t]": x[i]},
            {"P[t]": G[t + 1], "O[t e]": Y[i, f]},
            sizes={"t": N * c},
            options={"form": "quadratic"},
        ),
        Tie(
            "the states between chunks and the outputs",
            "mamba2",
            {"C[t d]": C[i, a], "B[t d]": B[i, a], "u[t e]": u[i, f], "a[t]": x[i]},
            {"H[c d e]": E[m + 1, a, f], "O[t e]": Y[i, f]},
            sizes={"t": N * c, "c": N},
            options={"form": "chunked", "block_size": c},
        ),
    ),
    so="Train and prefill in chunks, where the work is products of matrices; decode with the scan, whose state does not grow. "
    "One decay for all channels of a head is what makes the mask a factor of its own: with a decay per channel the scores "
    "themselves have to carry it.",
)
