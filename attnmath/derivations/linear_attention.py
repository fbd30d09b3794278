"""Linear attention: one function as a product, a recurrence and chunks, and the best length of a chunk."""

from sympy import Derivative, Limit, Rational, Subs, Sum, oo, sqrt

from attnmath.proving.checks import Algebra, Induction, Recurrence, algebra, scalars, signs
from attnmath.proving.costs import read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import counts, eq, gt, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

M, B, d, w, n, b, h = sizes("M B d e n b h")
i, j, l = indices("i j l", M * B)
(a,) = indices("a", d)
(u,) = indices("u", w)
t, g, s = counts("t g s")
q, k, v, W, S, z, C, y, num, den, O = tensors("q k v W S z C c N D O")
eps, F_quad, F_rec, F_chunk, H_rec, H_chunk, R, best, fastest = reals(
    "epsilon F_quad F_rec F_chunk H_rec H_chunk R B_bytes B_time", positive=True
)
x = reals("x", nonnegative=True)


def state(first, last):
    """What the tokens from `first` to `last` write."""
    return Sum(k[s, a] * v[s, u], (s, first, last))


def keys(first, last):
    """The sum of their keys."""
    return Sum(k[s, a], (s, first, last))


states = Recurrence(
    t,
    eq(S[0, a, u], k[0, a] * v[0, u]),
    eq(S[t + 1, a, u], S[t, a, u] + k[t + 1, a] * v[t + 1, u]),
    "the state after a token",
)
sums = Recurrence(t, eq(z[0, a], k[0, a]), eq(z[t + 1, a], z[t, a] + k[t + 1, a]), "the sum of keys after a token")
chunks = Recurrence(
    g,
    eq(C[0, a, u], 0),
    eq(C[g + 1, a, u], C[g, a, u] + state(g * B, (g + 1) * B - 1)),
    "the state before a chunk",
)
chunk_sums = Recurrence(
    g,
    eq(y[0, a], 0),
    eq(y[g + 1, a], y[g, a] + keys(g * B, (g + 1) * B - 1)),
    "the sum of keys before a chunk",
)
held = eq(S[t, a, u], state(0, t))
held_keys = eq(z[t, a], keys(0, t))
before = eq(C[g, a, u], state(0, g * B - 1))
before_keys = eq(y[g, a], keys(0, g * B - 1))
recalled = eq(total(q[t, a] * S[t, a, u], a), num[t, u])
weighed = eq(total(q[t, a] * z[t, a], a), den[t])
inside = t >= g * B
letters = {"b": b, "h": h, "t": n, "d": d, "i": B}

PAGE = Derivation(
    name="linear-attention",
    title=__doc__.rstrip("."),
    question="Without a softmax, attention can be a product of three matrices, a recurrence with a state of fixed size, or "
    "chunks of both. Are these the same function, to the last token, and how long should a chunk be?",
    statement="Products associate, so keys and values can be summed before a query reads them: causal attention without a "
    "softmax is a recurrence whose state does not grow. Cut into chunks, it is the quadratic form inside a chunk plus one "
    "reading of the state before it. Chunks cost operations in proportion to their length and save traffic of states in "
    "proportion to it; the best length is close to the width of a head.",
    source="Katharopoulos et al. 2020, arXiv:2006.16236, sections 3.2 to 3.4; chunks: Hua et al. 2022, arXiv:2202.10447; "
    "Yang et al. 2023, arXiv:2312.06635, section 4",
    notation=(
        (M, "how many chunks there are"),
        (B, "tokens in a chunk"),
        (n, "how many tokens there are"),
        (d, "width of a head's features; its values are as wide where costs are read off"),
        (w, "width of a head's values"),
        (b, "sequences"),
        (h, "heads"),
        (q, "the features of the queries"),
        (k, "the features of the keys"),
        (v, "the values"),
        (t, "a token"),
        (s, "a token that is summed over"),
        (g, "a chunk"),
        (eps, "what keeps the denominator from zero"),
        (R, "the ridge point: operations a second over bytes a second"),
        (x, "by how much there are more tokens"),
    ),
    assumes=(
        "features are numbers, made of queries and keys by any map; the denominators are not zero",
        "traffic is that of kernels that write every result to memory, in 16 bits; one that keeps scores on the chip takes the "
        "longest chunk that fits there",
    ),
    lets=(
        Let(eq(W[i, j], total(q[i, a] * k[j, a], a)), "the score of a pair: what takes the softmax's place"),
        Let(eq(num[i, u], Sum(W[i, s] * v[s, u], (s, 0, i))), "causal attention without a softmax, not yet divided"),
        Let(eq(den[i], Sum(W[i, s], (s, 0, i))), "its denominator"),
        Let(eq(O[i, u], num[i, u] / (den[i] + eps)), "its output, as it is defined"),
        states,
        sums,
        chunks,
        chunk_sums,
        read_off(
            F_quad, "linear-attention", "flops.core", letters, "operations of the quadratic form", form="quadratic"
        ),
        read_off(F_rec, "linear-attention", "flops.core", letters, "of the recurrence", form="recurrent"),
        read_off(F_chunk, "linear-attention", "flops.core", letters, "of chunks", form="chunked"),
        read_off(
            H_rec, "linear-attention", "hbm_bytes.unfused", letters, "traffic of the recurrence", form="recurrent"
        ),
        read_off(H_chunk, "linear-attention", "hbm_bytes.unfused", letters, "of chunks", form="chunked"),
        Let(eq(best, 2 * sqrt(d * (d + 1) / 3)), "the chunk with the least traffic, as will be seen"),
        Let(eq(fastest, 4 * sqrt(d * (d + 1) * R / (12 * R + 4 * d + 1))), "the fastest chunk, as will be seen"),
    ),
    steps=(
        Step(
            "Products of matrices associate: scores times values are queries times the sum of all keys' and values' products",
            eq(total(W[i, j] * v[j, u], j), total(q[i, a] * total(k[j, a] * v[j, u], j), a)),
            algebra,
        ),
        Step(
            "Causally, that sum is a state that every token adds to, and after token `t` it holds all tokens up to `t`",
            held,
            Induction(recurrence=states),
        ),
        Step("as a second one holds their keys", held_keys, Induction(recurrence=sums)),
        Step("Reading the state gives the numerator of the quadratic form", recalled, Algebra(using=(held,))),
        Step("reading the sum of keys its denominator", weighed, Algebra(using=(held_keys,))),
        Step(
            "so that the recurrence returns what the quadratic form does, token by token",
            eq(total(q[t, a] * S[t, a, u], a) / (total(q[t, a] * z[t, a], a) + eps), O[t, u]),
            Algebra(using=(recalled, weighed)),
        ),
        Step(
            "In chunks a state moves once a chunk; before chunk `g` it holds all tokens of the chunks before",
            before,
            Induction(recurrence=chunks),
        ),
        Step("as does the sum of keys", before_keys, Induction(recurrence=chunk_sums)),
        Step(
            "so a token of chunk `g` finds in its state that of the chunk's start and what the chunk has added since",
            eq(S[t, a, u], C[g, a, u] + state(g * B, t)),
            Algebra(using=(held, before)),
            when=(inside,),
        ),
        Step(
            "Hence its numerator is the quadratic form inside the chunk, and one reading of the state before it",
            eq(num[t, u], Sum(W[t, s] * v[s, u], (s, g * B, t)) + total(q[t, a] * C[g, a, u], a)),
            Algebra(using=(before,)),
            when=(inside,),
        ),
        Step(
            "and its denominator likewise",
            eq(den[t], Sum(W[t, s], (s, g * B, t)) + total(q[t, a] * y[g, a], a)),
            Algebra(using=(before_keys,)),
            when=(inside,),
        ),
        Step(
            "The recurrence takes fewer operations than the quadratic form from twice as many tokens on as a head is wide",
            gt(Subs(F_quad - F_rec, n, 2 * d + x), 0),
            signs,
        ),
        Step("and with one token less it does not", gt(Subs((F_rec - F_quad) / n, n, 2 * d - 1), 0), signs),
        Step(
            "Chunks take more the longer they are: a token meets half of its chunk, so one more token is half a score more",
            eq(Derivative(F_chunk, B), b * h * n * (4 * d + 1) / 2),
            scalars,
        ),
        Step(
            "States, one a chunk, and scores, a square a chunk, move the least bytes together at one length in between",
            eq(Subs(Derivative(H_chunk, B), B, best), 0),
            scalars,
        ),
        Step(
            "that being a minimum and the only one, for the traffic is convex",
            gt(Derivative(H_chunk, (B, 2)), 0),
            signs,
        ),
        Step(
            "The best length is about as many tokens as a head is wide",
            eq(Limit(best / d, d, oo), 2 / sqrt(3)),
            scalars,
        ),
        Step(
            "At a length of `d` the traffic of the recurrence falls by a factor that grows as `d / 4`",
            eq(Limit(d * Subs(H_chunk, B, d) / H_rec, d, oo), 4),
            scalars,
        ),
        Step(
            "for one and a half times its operations",
            eq(Limit(Subs(F_chunk, B, d) / F_rec, d, oo), Rational(3, 2)),
            scalars,
        ),
        Step(
            "In time, an operation counts as one and a byte as `R` of them, and operations pull the best length down",
            eq(Subs(Derivative(F_chunk + R * H_chunk, B), B, fastest), 0),
            scalars,
        ),
        Step("and it is again the only one", gt(Derivative(F_chunk + R * H_chunk, (B, 2)), 0), signs),
        Step(
            "which is the length of the least traffic where operations are free",
            eq(Limit(fastest, R, oo), best),
            scalars,
        ),
    ),
    ties=(
        Tie(
            "the recurrence's states and results",
            "linear-attention",
            {"FQ[t d]": q[i, a], "FK[t d]": k[i, a], "v[t e]": v[i, u]},
            {"H[t d e]": S[t, a, u], "Z[t d]": z[t, a], "NUM[t e]": num[i, u], "DEN[t]": den[i], "O[t e]": O[i, u]},
            sizes={"t": M * B},
            numbers={eps: Rational(1, 8)},
            options={"form": "recurrent", "eps": 0.125},
        ),
        Tie(
            "the quadratic form's scores and results",
            "linear-attention",
            {"FQ[t d]": q[i, a], "FK[t d]": k[i, a], "v[t e]": v[i, u]},
            {"NUM[t e]": num[i, u], "DEN[t]": den[i], "O[t e]": O[i, u]},
            numbers={eps: Rational(1, 8)},
            options={"form": "quadratic", "eps": 0.125},
        ),
        Tie(
            "the chunked form's states and results",
            "linear-attention",
            {"FQ[t d]": q[i, a], "FK[t d]": k[i, a], "v[t e]": v[i, u]},
            {"H[c d e]": C[g + 1, a, u], "Z[c d]": y[g + 1, a], "NUM[t e]": num[i, u], "O[t e]": O[i, u]},
            sizes={"c": M},
            numbers={eps: Rational(1, 8)},
            options={"form": "chunked", "block_size": B, "eps": 0.125},
        ),
    ),
    so="Decode with the recurrence, whose state costs the same at any context. Train and prefill in chunks of about the head's "
    "width (64 or 128 in today's kernels): shorter ones move states, longer ones compute and move scores that a state would "
    "stand for. Nothing is approximated by it.",
)
