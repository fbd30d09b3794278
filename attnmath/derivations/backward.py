"""The backward pass of attention: dV, dP, dS, dQ and dK, and the row sum D."""

from sympy import KroneckerDelta, Lambda, Limit, Piecewise, exp, oo, sqrt, tanh

from attnmath.proving.checks import Algebra, Chain, algebra, same, scalars
from attnmath.proving.page import Derivation, Given, Let, Step
from attnmath.proving.terms import Partial, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

t, n, d, e, r = sizes("t n d e r")
i, i2 = indices("i k", t)
j, l = indices("j l", n)
(a,) = indices("a", d)
(u,) = indices("u", e)
f, f2 = indices("f m", r)
Q, K, V, B, M, X, C, S, P, O = tensors("Q K V B M X C S P O")
dO, dP, dS, dX, D, z, Y, R, T, Os, Ds = tensors("dO dP dS dX D z Y P' T O' D'")
s, L, Ls, y = reals("s L L' y")
cap = reals("c", positive=True)

same_row = KroneckerDelta(f, f2) * KroneckerDelta(i, i2)
binary = eq(M[i, j] * M[i, j], M[i, j])
rows = eq(total(P[f, i, j], j), 1)
by_output = eq(Partial(L, O[f, i, u]), dO[f, i, u])
by_weight = eq(Partial(L, P[f, i, j]), dP[f, i, j])
jacobian = eq(Partial(P[f, i, j], S[f2, i2, l]), same_row * P[f, i, j] * (KroneckerDelta(j, l) - P[f, i, l]))
row_sum = eq(total(dP[f, i, j] * P[f, i, j], j), D[f, i])
by_score = eq(Partial(L, S[f, i, j]), dS[f, i, j])
slope = eq(Partial(S[f, i, j], X[f2, i2, l]), same_row * KroneckerDelta(j, l) * (1 - (C[f, i, j] / cap) ** 2))
by_raw = eq(Partial(L, X[f, i, j]), dX[f, i, j])
by_value = eq(Partial(L, V[j, u]), total(P[f, i, j] * dO[f, i, u], f, i))
by_query = eq(Partial(L, Q[f, i, a]), s * total(dX[f, i, j] * K[j, a], j))
by_key = eq(Partial(L, K[j, a]), s * total(dX[f, i, j] * Q[f, i, a], f, i))
by_bias = eq(Partial(L, B[i, j]), total(dS[f, i, j], f))
parted = eq(total(M[i, j] * exp(S[f, i, j]), j), Y[f, i] - exp(z[f]))
sink_rows = eq(total(R[f, i, j], j), 1 - T[f, i])
sink_by_weight = eq(Partial(Ls, R[f, i, j]), dP[f, i, j])
sink_jacobian = eq(Partial(R[f, i, j], S[f2, i2, l]), same_row * R[f, i, j] * (KroneckerDelta(j, l) - R[f, i, l]))
sink_slope = eq(Partial(R[f, i, j], z[f2]), -KroneckerDelta(f, f2) * R[f, i, j] * T[f, i])
sink_by_score = eq(Partial(Ls, S[f, i, j]), R[f, i, j] * (dP[f, i, j] - Ds[f, i]))
by_sink = eq(Partial(Ls, z[f]), -total(T[f, i] * Ds[f, i], i))
sink_row_sum = eq(total(dP[f, i, j] * R[f, i, j], j), Ds[f, i])

attends = {
    "Q[r t d]": Q[f, i, a],
    "K[n d]": K[j, a],
    "V[n e]": V[j, u],
}
causal = Piecewise((1, j <= i), (0, True))
passed = {  # what the gradient of the variant computes, whatever stands between scores and products
    "dA[r t n]": Lambda((f, i, j), M[i, j] * dP[f, i, j]),  # a pair that is masked has none
    "dV[n e]": Lambda((j, u), by_value.rhs),
    "dQ[r t d]": Lambda((f, i, a), by_query.rhs),
    "dK[n d]": Lambda((j, a), by_key.rhs),
    "D[r t]": D[f, i],
    "dL[r t n]": dS[f, i, j],
}

PAGE = Derivation(
    name="backward",
    title=__doc__.rstrip("."),
    question="Every gradient of attention has the term `dS = P\\ (dP - D)`. Where does the row sum `D` come from, why may it be "
    "had from the output alone, and what do grouped heads, masks, biases, a soft cap and a sink change?",
    statement="Four products, the weights computed again, and one row sum are the whole backward pass. A mask and a sink leave "
    "`dS = P\\ (dP - D)` as it is; a bias gathers `dS`; a soft cap multiplies it with its slope; keys and values that heads "
    "share add the heads up.",
    source="Dao et al. 2022, arXiv:2205.14135, appendix B.2 and B.4 (the gradients, and `D` from the output); the soft cap: "
    "Gemma Team 2024, arXiv:2408.00118, section 2; the sink: OpenAI 2025, arXiv:2508.10925, section 2.2",
    notation=(
        (r, "query heads that share the keys and values of this page; 1 in multi-head attention"),
        (t, "queries"),
        (n, "keys"),
        (d, "width of a head's queries and keys"),
        (e, "width of a head's values"),
        (s, "the factor of the scores, `1/\\sqrt{d}`"),
        (Q, "queries, one for each head `f` and place `i`"),
        (K, "keys"),
        (V, "values"),
        (M, "1 where a query may see a key, else 0"),
        (B, "a bias on the scores, the same for all heads"),
        (cap, "what no score exceeds"),
        (dO, "the gradient by the output, which is given"),
        (z, "a sink's score, a number of each head"),
        (y, "one score"),
    ),
    lets=(
        Let(eq(X[f, i, j], s * total(Q[f, i, a] * K[j, a], a)), "scaled products"),
        Let(eq(C[f, i, j], cap * tanh(X[f, i, j] / cap)), "the same, capped"),
        Let(eq(S[f, i, j], C[f, i, j] + B[i, j]), "scores"),
        Let(eq(P[f, i, j], M[i, j] * exp(S[f, i, j]) / total(M[i, l] * exp(S[f, i, l]), l)), "weights"),
        Let(eq(O[f, i, u], total(P[f, i, j] * V[j, u], j)), "output"),
        Let(eq(L, total(dO[f, i, u] * O[f, i, u], f, i, u)), "any loss, to first order in the output"),
        Let(eq(dP[f, i, j], total(dO[f, i, u] * V[j, u], u)), "what will be the gradient by the weights"),
        Let(eq(D[f, i], total(dO[f, i, u] * O[f, i, u], u)), "a number for each query: its output with its gradient"),
        Let(eq(dS[f, i, j], P[f, i, j] * (dP[f, i, j] - D[f, i])), "what will be the gradient by the scores"),
        Let(eq(dX[f, i, j], dS[f, i, j] * (1 - (C[f, i, j] / cap) ** 2)), "and by the scaled products"),
        Let(
            eq(Y[f, i], exp(z[f]) + total(M[i, l] * exp(S[f, i, l]), l)),
            "a softmax's denominator that a sink has joined",
        ),
        Let(eq(R[f, i, j], M[i, j] * exp(S[f, i, j]) / Y[f, i]), "weights beside a sink"),
        Let(eq(T[f, i], exp(z[f]) / Y[f, i]), "the weight of the sink"),
        Let(eq(Os[f, i, u], total(R[f, i, j] * V[j, u], j)), "output beside a sink"),
        Let(eq(Ls, total(dO[f, i, u] * Os[f, i, u], f, i, u)), "its loss, to first order"),
        Let(eq(Ds[f, i], total(dO[f, i, u] * Os[f, i, u], u)), "its row sum"),
    ),
    given=(Given(binary, "A mask is 0 or 1", {"M": lambda world, i, j: int(j <= i)}),),
    assumes=("Each query sees a key",),
    steps=(
        Step("The weights of a query add up to one", rows, algebra),
        Step("The loss depends on the output alone, with the gradient that is given", by_output, algebra),
        Step(
            "A value is read by every query of every head that shares it, so its gradient is their sum: `dV = P^T\\ dO`",
            by_value,
            Chain(using=(by_output,)),
        ),
        Step("A weight takes up one value: `dP = dO\\ V^T`", by_weight, Chain(using=(by_output,))),
        Step(
            "The row sum has two forms: over the output's entries, as defined, or over the keys. The first needs no weights",
            row_sum,
            algebra,
        ),
        Step(
            "A score moves the weights of its own row, and no other",
            jacobian,
            algebra,
        ),
        Step(
            "so the row sum is what the softmax's denominator sends back: `dS = P\\ (dP - D)`",
            by_score,
            Chain(using=(by_weight, jacobian, row_sum)),
        ),
        Step(
            "whose rows add up to zero, as a shift of all scores changes nothing",
            eq(total(dS[f, i, j], j), 0),
            Algebra(using=(row_sum, rows)),
        ),
        Step(
            "Where the mask is 0 so is the gradient: nothing passes a masked pair",
            eq((1 - M[i, j]) * dS[f, i, j], 0),
            Algebra(using=(binary,)),
        ),
        Step(
            "A bias is added to scores: it gathers the gradient of all that share it",
            by_bias,
            Chain(using=(by_score,)),
        ),
        Step("A soft cap has a slope, which the capped score tells", slope, algebra),
        Step("and which multiplies the gradient on its way back", by_raw, Chain(using=(by_score, slope))),
        Step(
            "Without a cap, which is one that grows beyond all scores, that slope is one",
            eq(Limit(1 - tanh(y / cap) ** 2, cap, oo), 1),
            scalars,
        ),
        Step(
            "A query gathers the keys: `dQ = s\\ dX\\ K`",
            by_query,
            Chain(using=(by_raw,)),
        ),
        Step(
            "A key gathers the queries of every head that shares it: `dK = s\\ dX^T Q`",
            by_key,
            Chain(using=(by_raw,)),
        ),
        Step("Beside a sink, the keys have but a part of the denominator", parted, same),
        Step("so the weights of a query add up to less than one", sink_rows, Algebra(using=(parted,))),
        Step("Weights, values and outputs are tied as before", sink_by_weight, algebra),
        Step("and the row sum, now of the output beside the sink, has its two forms", sink_row_sum, algebra),
        Step("The weights beside a sink have the Jacobian of those without", sink_jacobian, algebra),
        Step(
            "so the gradient by the scores has the same form",
            sink_by_score,
            Chain(using=(sink_by_weight, sink_jacobian, sink_row_sum)),
        ),
        Step(
            "Its rows no longer add up to zero: a part of the row sum remains, that of the sink's weight",
            eq(total(R[f, i, j] * (dP[f, i, j] - Ds[f, i]), j), T[f, i] * Ds[f, i]),
            Algebra(using=(sink_row_sum, sink_rows)),
        ),
        Step("The sink's score takes from every weight in proportion", sink_slope, algebra),
        Step(
            "and this is what the sink's own gradient takes up, from every query of its head: it is a key with the value zero",
            by_sink,
            Chain(using=(sink_by_weight, sink_slope, sink_row_sum)),
        ),
    ),
    ties=(
        Tie(
            "the forward pass, causal, keys and values shared",
            "gqa",
            attends,
            {"A[r t n]": P[f, i, j], "O[r t e]": O[f, i, u]},
            numbers={n: t, s: 1 / sqrt(d), M[i, j]: causal, B[i, j]: 0, cap: 10**9},
        ),
        Tie(
            "and with a soft cap, a bias and a sink",
            "gqa",
            attends | {"SB[t n]": B[i, j], "WSINK[r]": z[f]},
            {"A[r t n]": R[f, i, j], "O[r t e]": Os[f, i, u]},
            numbers={n: t, s: 1 / sqrt(d), M[i, j]: causal, cap: 2},
            options={"modifiers": ["softcap:cap=2", "score-bias", "sink"]},
        ),
        Tie(
            "the backward pass, as it follows from the forward one's equations",
            "gqa",
            attends,
            passed,
            numbers={n: t, s: 1 / sqrt(d), M[i, j]: causal, B[i, j]: 0, cap: 10**9},
            upstream={"O[r t e]": dO[f, i, u]},
        ),
        Tie(
            "and of a head that has keys and values of its own",
            "mha",
            {name.replace("r", "h"): entry for name, entry in attends.items()},
            {name.replace("r", "h"): entry for name, entry in passed.items()},
            numbers={n: t, r: 1, s: 1 / sqrt(d), M[i, j]: causal, B[i, j]: 0, cap: 10**9},
            upstream={"O[h t e]": dO[f, i, u]},
        ),
        Tie(
            "with a soft cap and a bias",
            "gqa",
            attends | {"SB[t n]": B[i, j]},
            passed | {"dL0[r t n]": dX[f, i, j], "dSB[t n]": Lambda((i, j), by_bias.rhs)},
            numbers={n: t, s: 1 / sqrt(d), M[i, j]: causal, cap: 2},
            options={"modifiers": ["softcap:cap=2", "score-bias"]},
            upstream={"O[r t e]": dO[f, i, u]},
        ),
        Tie(
            "and beside a sink",
            "gqa",
            attends | {"WSINK[r]": z[f]},
            {
                "D[r t]": Ds[f, i],
                "dL[r t n]": Lambda((f, i, j), sink_by_score.rhs),
                "dWSINK[r]": Lambda((f,), by_sink.rhs),
            },
            numbers={n: t, s: 1 / sqrt(d), M[i, j]: causal, B[i, j]: 0, cap: 10**9},
            options={"modifiers": ["sink"]},
            upstream={"O[r t e]": dO[f, i, u]},
        ),
    ),
    so="A backward kernel keeps the output and one number a row, the log-sum-exp, and recomputes the weights. It computes `D` "
    "from `dO` and `O`, which is work of the width of a value for each query and not of the number of keys; of a sink it "
    "needs nothing but `D` and the sink's weight. Grouped heads cost no other gradient, but a sum over the heads of a group: "
    "kernels either walk a group's heads together or add the parts up afterwards.",
)
