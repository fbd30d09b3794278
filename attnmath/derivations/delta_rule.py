"""The delta rule: a gradient step on what is recalled, and its products in chunks."""

from sympy import KroneckerDelta, Sum, exp

from attnmath.proving.checks import Algebra, Induction, Recurrence, Rows, algebra
from attnmath.proving.page import Derivation, Given, Let, Step
from attnmath.proving.terms import Partial, counts, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

B, d, e = sizes("B d e")
i, j = indices("i j", B)
a, b, c = indices("a b c", d)
f, g = indices("f g", e)
t, s, r = counts("t s r")
q, k, v, beta, x, gate, M, H, S, P, Z, L, A, U, W, D, C, O, X, X2, Y, R, T = tensors(
    "q k v beta x y M H S P Z L A U W D C O X X' Y H' T"
)
loss = reals("ell")


def recalled(memory):
    """What a memory holds for the key of token t."""
    return total(memory * k[t, c], c)


def faded(s, t, a):
    """What is left at the end of token t - 1 of what was there after token s."""
    return exp(L[t, a] - L[s + 1, a])


def above(solution):
    """The rows above row t, as the triangular system weighs them."""
    return Sum(A[t, s] * solution, (s, 0, t - 1))


def solved(name, row):
    """A model of a triangular system: each row from the rows above it, forward substitution."""
    places = row.lhs.args[2:]
    return {name: lambda world, n, m: world(row.rhs, {t: n, places[0]: m})}


gradient = eq(Partial(loss, M[a, f]), k[t, a] * (recalled(M[c, f]) - v[t, f]))
state = Recurrence(
    t,
    eq(S[0, a, f], H[a, f]),
    eq(
        S[t + 1, a, f],
        exp(x[t, a]) * S[t, a, f] + beta[t] * k[t, a] * (v[t, f] - total(k[t, c] * exp(x[t, c]) * S[t, c, f], c)),
    ),
    "the state before token `t`, by the recurrence",
)
product = Recurrence(
    t,
    eq(P[0, a, b], KroneckerDelta(a, b)),
    eq(P[t + 1, a, b], total(T[t, a, c] * P[t, c, b], c)),
    "the product of all `T` so far",
)
written = Recurrence(
    t,
    eq(Z[0, a, f], 0),
    eq(Z[t + 1, a, f], total(T[t, a, c] * Z[t, c, f], c) + beta[t] * k[t, a] * v[t, f]),
    "the state that starts empty",
)
u_row = eq(U[t, f], beta[t] * v[t, f] - above(U[s, f]))
w_row = eq(W[t, b], beta[t] * exp(L[t + 1, b]) * k[t, b] - above(W[s, b]))
x_row = eq(X[t, f], Y[t, f] - above(X[s, f]))
x2_row = eq(X2[t, f], Y[t, f] - above(X2[s, f]))
d_row = eq(D[t, f], beta[t] * (v[t, f] - total(k[t, c] * exp(L[t + 1, c]) * H[c, f], c)) - above(D[s, f]))
chunked = eq(S[t, a, f], C[t, a, f])
decay = eq(exp(L[t + 1, a]), exp(L[t, a]) * exp(x[t, a]))

PAGE = Derivation(
    name="delta-rule",
    title=__doc__.rstrip("."),
    question="Linear attention only ever adds to its state. What does the delta rule do instead, and how can a recurrence that "
    "reads its own state at every token be computed in chunks, by products of matrices?",
    statement="The delta rule is one step of gradient descent on how far the state's recall of a key is from its value. A "
    "token multiplies the state by `I - \\beta k k^T`, after a decay of each channel. Over a chunk these products are the decay "
    "less a sum of outer products (the WY form), whose rows solve one triangular system with one solution.",
    source="Schlag, Irie and Schmidhuber 2021, arXiv:2102.11174; chunks: Yang et al. 2024, arXiv:2406.06484, section 3; gated: "
    "Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464, section 3; per channel: Kimi Team 2025, arXiv:2510.26692, section 3",
    notation=(
        (B, "tokens in a chunk"),
        (d, "width of queries and keys"),
        (e, "width of values"),
        (t, "a token of the chunk, from 0"),
        (s, "an earlier one"),
        (r, "one that is summed over"),
        (q, "queries"),
        (k, "keys"),
        (v, "values"),
        (beta, "how far a step goes, for each token"),
        (x, "the logarithm of what a token leaves of each channel; 0 without a gate"),
        (gate, "the same summed up to a token, where a head has one gate for all channels"),
        (M, "any memory: a matrix from keys to values"),
        (H, "the state at the chunk's start"),
        (U, "the values, as the triangular system makes them independent of one another"),
        (W, "the keys, likewise"),
        (Y, "any right side of the triangular system"),
        (X, "a solution for it"),
        (X2, "a solution for it, perhaps another"),
    ),
    assumes=("a chunk begins with any state; the next one begins with what this one leaves",),
    lets=(
        Let(eq(loss, total((recalled(M[c, f]) - v[t, f]) ** 2, f) / 2), "half the squared error of what is recalled"),
        Let(eq(L[i, a], Sum(x[r, a], (r, 0, i - 1))), "the decay since the chunk's start, as a logarithm"),
        state,
        Let(
            eq(T[i, a, b], (KroneckerDelta(a, b) - beta[i] * k[i, a] * k[i, b]) * exp(x[i, b])),
            "what a token does to the state: a decay, then `I - \\beta k k^T`",
        ),
        product,
        written,
        Let(
            eq(A[i, j], beta[i] * total(k[i, c] * k[j, c] * exp(L[i + 1, c] - L[j + 1, c]), c)),
            "the triangular matrix, below its diagonal",
        ),
        Let(eq(D[i, f], U[i, f] - total(W[i, a] * H[a, f], a)), "what is written beside the keys"),
        Let(
            eq(C[i, a, f], exp(L[i, a]) * H[a, f] + Sum(faded(s, i, a) * k[s, a] * D[s, f], (s, 0, i - 1))),
            "the state before token `i`, as chunks compute it",
        ),
        Let(eq(O[i, f], total(q[i, a] * C[i + 1, a, f], a)), "the output of token `i`"),
        Let(eq(R[a, f], C[B, a, f]), "the state that the chunk leaves"),
    ),
    given=(
        Given(u_row, "`U` solves the triangular system for the values", solved("U", u_row)),
        Given(w_row, "`W` solves it for the decayed keys", solved("W", w_row)),
        Given(x_row, "`X` solves it for any right side `Y`", solved("X", x_row)),
        Given(x2_row, "so does `X'`", solved("X'", x2_row)),
    ),
    steps=(
        Step("The gradient of the error is the key times what the recall has too much", gradient, algebra),
        Step(
            "so that a step of length `\\beta` down it is a factor `I - \\beta k k^T`, and a write",
            eq(
                M[a, f] - beta[t] * Partial(loss, M[a, f]),
                total((KroneckerDelta(a, b) - beta[t] * k[t, a] * k[t, b]) * M[b, f], b) + beta[t] * k[t, a] * v[t, f],
            ),
            Algebra(using=(gradient,)),
        ),
        Step(
            "After it the key recalls a mixture of what it did and of the value; with `\\beta |k|^2 = 1`, the value alone",
            eq(
                total(k[t, a] * (M[a, f] - beta[t] * Partial(loss, M[a, f])), a),
                recalled(M[c, f]) + beta[t] * total(k[t, b] ** 2, b) * (v[t, f] - recalled(M[c, f])),
            ),
            Algebra(using=(gradient,)),
        ),
        Step(
            "With a gate the step starts from the decayed state: a token multiplies the state by `T`, and writes",
            eq(
                exp(x[t, a]) * S[t, a, f]
                + beta[t] * k[t, a] * (v[t, f] - total(k[t, c] * exp(x[t, c]) * S[t, c, f], c)),
                total(T[t, a, b] * S[t, b, f], b) + beta[t] * k[t, a] * v[t, f],
            ),
            algebra,
        ),
        Step("Decays multiply along the chunk, so their logarithms add up", decay, algebra),
        Step(
            "The product of all `T` since the chunk's start is the decay, less a sum of outer products of keys and rows of `W`",
            eq(
                P[t, a, b],
                KroneckerDelta(a, b) * exp(L[t, a]) - Sum(faded(s, t, a) * k[s, a] * W[s, b], (s, 0, t - 1)),
            ),
            Induction(recurrence=product, using=(decay, w_row)),
        ),
        Step(
            "and what is written since, into an empty state, a sum of outer products of keys and rows of `U`",
            eq(Z[t, a, f], Sum(faded(s, t, a) * k[s, a] * U[s, f], (s, 0, t - 1))),
            Induction(recurrence=written, using=(decay, u_row)),
        ),
        Step(
            "With the state `H` at the start, `D = U - W H` solves the triangular system for values less what `H` recalls",
            d_row,
            Algebra(using=(u_row, w_row)),
        ),
        Step(
            "so that the recurrence's state is `H` decayed and a sum of outer products of keys and rows of `D`",
            chunked,
            Induction(recurrence=state, using=(decay, d_row)),
        ),
        Step(
            "where a row of `D` is the correction that the recurrence writes: `\\beta` times value less recall",
            eq(D[t, f], beta[t] * (v[t, f] - total(k[t, c] * exp(x[t, c]) * S[t, c, f], c))),
            Algebra(using=(decay, d_row, chunked)),
        ),
        Step(
            "The triangular system has one solution, whatever its right side: two agree row after row, from the first",
            eq(X2[t, f], X[t, f]),
            Rows(using=(x2_row, x_row)),
        ),
        Step(
            "Outputs read the state at the start once, and the rows of `D` through scores within the chunk",
            eq(
                O[t, f],
                total(q[t, a] * exp(L[t + 1, a]) * H[a, f], a)
                + Sum(total(q[t, a] * k[s, a] * faded(s, t + 1, a), a) * D[s, f], (s, 0, t)),
            ),
            algebra,
        ),
        Step(
            "Where one gate serves all channels, the decay leaves the product of the keys, which heads may then share",
            eq(
                total(k[t, c] * k[s, c] * exp(gate[t] - gate[s]), c),
                exp(gate[t] - gate[s]) * total(k[t, c] * k[s, c], c),
            ),
            algebra,
        ),
    ),
    ties=(
        Tie(
            "a decay per channel: states, corrections and outputs of the recurrence",
            "kda",
            {"K[t d]": k[i, a], "Q[t d]": q[i, a], "v[t e]": v[i, f], "beta[t]": beta[i], "a[t d]": x[i, a]},
            {"H[t d e]": S[t + 1, a, f], "D[t e]": D[i, f], "O[t e]": O[i, f]},
            cache={"H[d e]": H[a, f]},
            options={"form": "recurrent"},
        ),
        Tie(
            "a decay per channel: every tensor of a chunk",
            "kda",
            {"K[t d]": k[i, a], "Q[t d]": q[i, a], "v[t e]": v[i, f], "beta[t]": beta[i], "a[t d]": x[i, a]},
            {
                "L[i d]": L[t + 1, a],
                "U[i e]": U[t, f],
                "W[i d]": W[t, a],
                "D[i e]": D[i, f],
                "H[d e]": R[a, f],
                "O[t e]": O[i, f],
            },
            sizes={"i": B},
            cache={"H[d e]": H[a, f]},
            options={"form": "chunked", "block_size": B},
        ),
        Tie(
            "one decay a head: states, corrections and outputs of the recurrence",
            "gated-deltanet",
            {"K[t d]": k[i, a], "Q[t d]": q[i, a], "v[t e]": v[i, f], "beta[t]": beta[i], "a[t _]": x[i, a]},
            {"H[t d e]": S[t + 1, a, f], "D[t e]": D[i, f], "O[t e]": O[i, f]},
            cache={"H[d e]": H[a, f]},
            options={"form": "recurrent"},
        ),
        Tie(
            "one decay a head: every tensor of a chunk",
            "gated-deltanet",
            {"K[t d]": k[i, a], "Q[t d]": q[i, a], "v[t e]": v[i, f], "beta[t]": beta[i], "a[t _]": x[i, a]},
            {"U[i e]": U[t, f], "W[i d]": W[t, a], "D[i e]": D[i, f], "H[d e]": R[a, f], "O[t e]": O[i, f]},
            sizes={"i": B},
            cache={"H[d e]": H[a, f]},
            options={"form": "chunked", "block_size": B},
        ),
    ),
    so="Within a chunk there is one triangular solve and otherwise products of matrices; between chunks one state moves. A solve "
    "is sequential in the rows of a chunk, which is why chunks of 64 are usual. With a gate per channel the decay cannot leave "
    "the product of keys, so that scores are computed from decayed queries and keys.",
)
