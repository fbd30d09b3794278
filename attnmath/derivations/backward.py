"""The backward pass of attention: dV, dP, dS, dQ and dK, and the row sum D."""

from sympy import Derivative, KroneckerDelta, exp, tanh

from attnmath.proving.checks import Algebra, Chain, algebra, scalars
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import Partial, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

t, n, d, e, r, g = sizes("t n d e r g")
i, i2 = indices("i h", t)
j, l = indices("j l", n)
(a,) = indices("a", d)
(u,) = indices("u", e)
(c,) = indices("c", g)
f, f2 = indices("f m", r)
Q, K, V, B, S, P, O, dO, dP, dS, D = tensors("Q K V B S P O dO dP dS D")
s, L = reals("s L")
cap = reals("x", positive=True)

rows = eq(total(P[f, i, j], j), 1)
dp = eq(Partial(L, P[f, i, j]), dP[f, i, j])
jacobian = eq(
    Partial(P[f, i, j], S[f2, i2, l]),
    KroneckerDelta(f, f2) * KroneckerDelta(i, i2) * P[f, i, j] * (KroneckerDelta(j, l) - P[f, i, l]),
)
drow = eq(total(dP[f, i, j] * P[f, i, j], j), D[f, i])
do = eq(Partial(L, O[f, i, u]), dO[f, i, u])
ds = eq(Partial(L, S[f, i, j]), dS[f, i, j])

PAGE = Derivation(
    name="backward",
    title=__doc__.rstrip("."),
    question="?",
    statement="?",
    source="Dao et al. 2022, arXiv:2205.14135, appendix B.2 and B.4",
    notation=(
        (t, "queries"),
        (n, "keys"),
        (d, "width of a head's queries and keys"),
        (e, "width of a head's values"),
        (r, "query heads to a key head"),
        (Q, "queries"),
        (K, "keys"),
        (V, "values"),
        (B, "what is added to the scores"),
        (dO, "the loss's gradient by the output"),
        (s, "the factor of the scores"),
    ),
    lets=(
        Let(eq(S[f, i, j], s * total(Q[f, i, a] * K[j, a], a) + B[f, i, j]), "scores"),
        Let(eq(P[f, i, j], exp(S[f, i, j]) / total(exp(S[f, i, l]), l)), "weights"),
        Let(eq(O[f, i, u], total(P[f, i, j] * V[j, u], j)), "outputs"),
        Let(eq(L, total(dO[f, i, u] * O[f, i, u], f, i, u)), "the loss, to first order"),
        Let(eq(dP[f, i, j], total(dO[f, i, u] * V[j, u], u)), "gradient by weights"),
        Let(eq(D[f, i], total(dO[f, i, u] * O[f, i, u], u)), "row sum"),
        Let(eq(dS[f, i, j], P[f, i, j] * (dP[f, i, j] - D[f, i])), "gradient by scores"),
    ),
    steps=(
        Step("The weights of a row add up to one", rows, algebra),
        Step("dO", do, algebra),
        Step("dV", eq(Partial(L, V[j, u]), total(P[f, i, j] * dO[f, i, u], f, i)), Chain(using=(do,))),
        Step("dP", dp, Chain(using=(do,))),
        Step("D", eq(total(dP[f, i, j] * P[f, i, j], j), D[f, i]), algebra),
        Step("J", jacobian, algebra),
        Step("dS", ds, Chain(using=(dp, jacobian, drow))),
        Step("rows", eq(total(dS[f, i, j], j), 0), Algebra(using=(drow, rows))),
        Step("dQ", eq(Partial(L, Q[f, i, a]), s * total(dS[f, i, j] * K[j, a], j)), Chain(using=(ds,))),
        Step("dK", eq(Partial(L, K[j, a]), s * total(dS[f, i, j] * Q[f, i, a], f, i)), Chain(using=(ds,))),
    ),
)
_ = (Derivative, tanh, Algebra, scalars, Tie, rows, cap, c)
