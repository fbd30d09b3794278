"""Multi-head latent attention: absorbed is expanded, what a rotation breaks, and which is cheaper when."""

from sympy import Derivative, Integer, Limit, Rational, Subs, cos, exp, oo, pi, sin, sqrt

from attnmath.proving.checks import Algebra, Witness, algebra, scalars, signs, waves
from attnmath.proving.costs import apart, read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import counts, eq, gt, indices, ne, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

b, h, n, t, d, e, l, q, r, m, g, B = sizes("b h n t d e l q r m g B")
c, alpha, beta, gamma = counts("c alpha beta gamma")
(f,) = indices("f", h)
i, j, o = indices("i j o", n)
(a,) = indices("a", d)
(u,) = indices("u", e)
(k,) = indices("k", l)
(p,) = indices("p", r)
(w,) = indices("w", m)
(v,) = indices("v", 2 * r)
Q, C, K, V, S, A, O, Z, P, M = tensors("Q C K V S A O Z P M")
UK, UV, UR, WO = tensors("W^UK W^UV W^UR W^O")
QR, KR, KL, X, Y, X1, Y1, R, G = tensors("q^R k^R k^L x y x' y' R G")
(theta,) = tensors("theta")
phi, v0, v1 = reals("phi v_0 v_1")
Ca, Ce, Pa, Pe, Wa, We, N, Sa, Se = reals("C_a C_e P_a P_e W_a W_e N W'_a W'_e")
Fa, Fe, Ha, He, kl, kg, cs, ts = reals("F_a F_e H_a H_e kappa_l kappa_g c_* t_*")

LETTERS = {"b": b, "h": h, "d": d, "l": l, "p": 2 * r, "q": q, "t": t, "n": c + t}
ONE = {**LETTERS, "t": 1, "n": n}
SHARED = {**LETTERS, "b": 1, "t": B, "n": c + B}


def turned(even, odd, place):
    """A pair of coordinates, rotated by its angle times its token's place."""
    angle = place * theta[p]
    return even * cos(angle) - odd * sin(angle), even * sin(angle) + odd * cos(angle)


def by_distance(even, odd, key):
    """The products of a query's pairs and a key's, of which one is rotated by their distance."""
    angle = (i - j) * theta[p]
    along, across = even * key(0) + odd * key(1), even * key(1) - odd * key(0)
    return total(along * cos(angle), p) + total(across * sin(angle), p)


def read(name, key, form, letters, says, **options):
    """A cost of one form while tokens are added to a cache, read off."""
    return read_off(name, "mla", key, letters, says, form=form, phase="decode", **options)


q0, q1 = QR[f, i, 2 * p], QR[f, i, 2 * p + 1]
rotated = eq(R[f, i, j], by_distance(q0, q1, lambda odd: KR[j, 2 * p + odd]))
content = eq(total(Q[f, i, a] * K[f, j, a], a), total(Z[f, i, k] * C[j, k], k))
outputs = eq(O[f, i, u], total(P[f, i, k] * UV[k, f, u], k))
SOFTMAX = exp(S[f, i, j] / sqrt(d + 2 * r)) / total(exp(S[f, i, o] / sqrt(d + 2 * r)), o)
core = eq(Ca - Ce, 4 * (l - d) * N)
projected = eq(Pe - Pa, 4 * b * c * d * h * l)

PAGE = Derivation(
    name="latent-attention",
    title=__doc__.rstrip("."),
    question="MLA caches one narrow latent a token and makes keys and values from it. Must a decoder then expand its whole "
    "cache for each new token? Why does the paper carry positions in a second, odd little key? And if the absorbed form is "
    "the same function, why does prefill not use it?",
    statement="Because keys and values are linear in the latent, their up-projections can be moved onto the query and behind "
    "the weighted sum. A rotation between the two moves with the distance and cannot be absorbed, so positions get "
    "coordinates of their own. Absorbed scores cost more for each pair, expanding costs for each cached token: absorb up to "
    "`d l / (l - d)` new queries on a context, expand beyond.",
    source="DeepSeek-AI 2024, DeepSeek-V2, arXiv:2405.04434, sections 2.1.2 (absorption), 2.1.3 (decoupled rotary embedding) "
    "and 2.1.4 (cache); rotary embedding: Su et al. 2021, arXiv:2104.09864, section 3.2.2",
    notation=(
        (h, "heads"),
        (n, "tokens, or keys of the context"),
        (d, "width of a head's keys without their position part; of its values too where costs are counted"),
        (e, "width of a head's values"),
        (l, "width of the latent"),
        (r, "pairs of coordinates in the part that carries the position"),
        (q, "width of the queries' latent"),
        (m, "width of the model"),
        (Q, "queries, the part without position"),
        (C, "cached latents"),
        (UK, "up-projection of the latent to keys"),
        (UV, "up-projection of the latent to values"),
        (UR, "an up-projection of the latent to keys that would be rotated, which MLA does not have"),
        (WO, "the output projection"),
        (QR, "queries, the part that carries the position, before rotation"),
        (KR, "the key's part that carries the position, before rotation, one for all heads"),
        (A, "weights, the softmax of the scores"),
        (theta, "the angles of the rotary embedding, one for each pair"),
        (phi, "one angle of rotation"),
        (v0, "what a query's pair and a key's give unrotated"),
        (v1, "what they give a quarter of a turn apart"),
        (b, "sequences in the batch"),
        (c, "cached tokens of each sequence"),
        (t, "new tokens of each sequence"),
        (B, "sequences that share one context, a new token each"),
        (g, "key heads of grouped-query attention"),
        (alpha, "any whole number from 0"),
        (beta, "likewise"),
        (gamma, "likewise"),
    ),
    lets=(
        Let(eq(K[f, j, a], total(C[j, k] * UK[k, f, a], k)), "keys, expanded"),
        Let(eq(Z[f, i, k], total(Q[f, i, a] * UK[k, f, a], a)), "absorbed queries"),
        Let(eq(X[f, i, p], turned(q0, q1, i)[0]), "a rotated query's even coordinates"),
        Let(eq(Y[f, i, p], turned(q0, q1, i)[1]), "its odd ones"),
        Let(eq(X1[j, p], turned(KR[j, 2 * p], KR[j, 2 * p + 1], j)[0]), "a rotated key's even coordinates"),
        Let(eq(Y1[j, p], turned(KR[j, 2 * p], KR[j, 2 * p + 1], j)[1]), "its odd ones"),
        Let(
            eq(R[f, i, j], total(X[f, i, p] * X1[j, p] + Y[f, i, p] * Y1[j, p], p)),
            "the part of a score that sees positions",
        ),
        Let(eq(S[f, i, j], total(Q[f, i, a] * K[f, j, a], a) + R[f, i, j]), "scores"),
        Let(eq(V[f, j, u], total(C[j, k] * UV[k, f, u], k)), "values, expanded"),
        Let(eq(O[f, i, u], total(A[f, i, j] * V[f, j, u], j)), "outputs of the heads"),
        Let(eq(P[f, i, k], total(A[f, i, j] * C[j, k], j)), "weighted sums of latents"),
        Let(
            eq(M[f, k, w], total(UV[k, f, u] * WO[f, u, w], u)),
            "the values' up-projection and the output projection as one",
        ),
        Let(eq(KL[j, v], total(C[j, k] * UR[k, v], k)), "a key's position part if the latent had to supply it"),
        Let(
            eq(G[f, i, j, k], by_distance(q0, q1, lambda odd: UR[k, 2 * p + odd])),
            "the absorbed query that it would take",
        ),
        read(Ca, "flops.matmul", "absorbed", LETTERS, "products of the absorbed core"),
        read(Ce, "flops.matmul", "expanded", LETTERS, "products of the expanded core"),
        read(N, "exps", "absorbed", LETTERS, "scores, one for each pair of a query and a key it sees, in each head"),
        read(Pa, "flops.projections", "absorbed", LETTERS, "projections, absorbed"),
        read(Pe, "flops.projections", "expanded", LETTERS, "projections, expanded"),
        apart(read(Wa, "flops.total", "absorbed", LETTERS, "all work, absorbed")),
        apart(read(We, "flops.total", "expanded", LETTERS, "all work, expanded")),
        apart(read(Sa, "flops.total", "absorbed", SHARED, "the same for queries that share one context", mask="full")),
        apart(read(Se, "flops.total", "expanded", SHARED, "likewise", mask="full")),
        read(Fa, "flops.matmul", "absorbed", ONE, "products of the core for one new token"),
        read(Fe, "flops.matmul", "expanded", ONE, "likewise"),
        read(Ha, "hbm_bytes.compulsory", "absorbed", ONE, "bytes that the core has to move for one new token"),
        read(He, "hbm_bytes.compulsory", "expanded", ONE, "likewise"),
        read(kl, "kv_cache_bytes_per_token", "absorbed", ONE, "cache a token"),
        read_off(kg, "gqa", "kv_cache_bytes_per_token", {"d": d, "g": g}, "cache a token"),
        Let(eq(ts, d * l / (l - d)), "new tokens at which the forms break even, however long the context"),
        Let(eq(cs, (l - d) * t * (t + 1) / (2 * (d * l - (l - d) * t))), "cached tokens at which they break even"),
    ),
    assumes=(
        "the latent is wider than a head (`l > d`)",
        "where costs are counted, every number has two bytes, values are as wide as keys, and the model as all its heads",
        "expanded keys and values are not kept: a cache that keeps them is that of multi-head attention",
    ),
    steps=(
        Step(
            "A key is linear in its latent, so its up-projection may as well be applied to the query: each score is then a "
            "product with the latent itself",
            content,
            algebra,
        ),
        Step(
            "So are the values: latents are summed with the weights, and the sum is projected up once, for each query and "
            "not for each key",
            outputs,
            algebra,
        ),
        Step(
            "That projection may be joined with the one that follows it",
            eq(total(O[f, i, u] * WO[f, u, w], f, u), total(P[f, i, k] * M[f, k, w], f, k)),
            Algebra(using=(outputs,)),
        ),
        Step(
            "Joining saves nothing where both widths are large: the joined matrix of queries and keys has `q l` entries a "
            "head, the two have `d (q + l)`",
            eq(q * l - d * (q + l), (q - d) * (l - d) - d**2),
            scalars,
        ),
        Step(
            "A rotation of query and key by their places leaves a score that depends on their distance",
            rotated,
            waves,
        ),
        Step(
            "If the rotated key came from the latent too, its score would be a product with the latent again, but of a query "
            "that is another one for each distance",
            eq(
                by_distance(q0, q1, lambda odd: KL[j, 2 * p + odd]),
                total(G[f, i, j, k] * C[j, k], k),
            ),
            algebra,
        ),
        Step(
            "At distances of one and of two, with one pair and a latent of width one, these queries differ: none serves all "
            "keys",
            ne(v0 * cos(phi) + v1 * sin(phi), v0 * cos(2 * phi) + v1 * sin(2 * phi)),
            Witness(at=((v0, 1), (v1, 0), (phi, pi / 2))),
        ),
        Step(
            "The mend: a part that is not rotated and absorbs, beside a narrow one that is rotated, cached after its "
            "rotation, and the same for all heads",
            eq(S[f, i, j], total(Z[f, i, k] * C[j, k], k) + total(X[f, i, p] * X1[j, p] + Y[f, i, p] * Y1[j, p], p)),
            Algebra(using=(content,)),
        ),
        Step(
            "The cache is as small as grouped-query attention's with `(l + 2r) / 2d` key heads would be",
            eq(Subs(kg, g, (l + 2 * r) / (2 * d)), kl),
            scalars,
        ),
        Step(
            "Now the costs, for `t` new tokens on `c` cached ones. An absorbed score and its share of the sum are `l` wide, "
            "not `d`",
            core,
            scalars,
        ),
        Step(
            "The expanded form makes keys and values of every cached token again; those of the new ones cost what absorption "
            "costs",
            projected,
            scalars,
        ),
        Step(
            "All else is the same in both, so that these two decide",
            eq(We - Wa, (Pe - Pa) - (Ca - Ce)),
            scalars,
        ),
        Step(
            "Without a cache, in prefill, the expanded form always does less",
            eq(Subs(We - Wa, c, 0), -2 * b * h * (l - d) * t * (t + 1)),
            scalars,
        ),
        Step(
            "Each cached token turns the balance towards absorbing by the same amount, as long as fewer than `t_*` are new",
            eq(Derivative(We - Wa, c), 4 * b * h * (l - d) * (ts - t)),
            scalars,
        ),
        Step(
            "so that for `t < t_*` absorbing is cheaper from this many cached tokens on, and for `t \\ge t_*` at no length",
            eq(Subs(We - Wa, c, cs), 0),
            scalars,
        ),
        Step(
            "For one new token that is at once: with heads at least two wide and a latent that is no narrower, the first "
            "cached token decides for absorbing",
            gt(Subs(We - Wa, (t, c, l, d), (1, 1 + alpha, 2 + beta + gamma, 2 + beta)), 0),
            signs,
        ),
        Step(
            "For the widths of DeepSeek-V2 and V3, absorbing pays up to 170 new tokens at a time",
            eq(Subs(ts, (d, l), (128, 512)), Rational(512, 3)),
            scalars,
        ),
        Step(
            "A batch of separate contexts does not move the balance: each sequence expands its own",
            eq(We - Wa, b * Subs(We - Wa, b, 1)),
            scalars,
        ),
        Step(
            "but sequences that share a context share its expansion: they break even as new tokens do, at `t_*` sequences",
            eq(Derivative(Se - Sa, c), 4 * h * (l - d) * (ts - B)),
            scalars,
        ),
        Step(
            "On a long context the absorbed core does this many operations for each byte it reads, because all heads read "
            "the same",
            eq(Limit(Fa / Ha, n, oo), 2 * h * (l + r) / (l + 2 * r)),
            scalars,
        ),
        Step(
            "and the expanded core about one, whatever the batch: to expand for one token is to be bound by memory",
            eq(Limit(Fe / He, n, oo), h * (d + r) / (d * h + r)),
            scalars,
        ),
    ),
    ties=tuple(
        Tie(
            f"scores, weights and outputs, {form}, with rotary positions",
            "mla",
            {
                "QC[h t d]": Q[f, i, a],
                "QR0[h t p]": QR[f, i, v],
                "kR0[t p]": KR[i, v],
                "C[n l]": C[j, k],
                "WUK[l h d]": UK[k, f, a],
                "WUV[l h e]": UV[k, f, u],
            },
            {"S[h t n]": S[f, i, j], "A[h t n]": A[f, i, j], "O[h t e]": O[f, i, u]} | more,
            numbers={A[f, i, j]: SOFTMAX, theta[p]: Integer(10000) ** (-p / r)},
            options={"form": form, "mask": "full", "modifiers": ("rope:layout=interleaved",)},
        )
        for form, more in (
            ("absorbed", {"Z[h t l]": Z[f, i, k], "P[h t l]": P[f, i, k]}),
            ("expanded", {"KC[h n d]": K[f, j, a], "V[h n e]": V[f, j, u]}),
        )
    ),
    so="Cache the latent and the small rotated key. Decode absorbed, as multi-query attention whose one key is the latent: "
    "then the core does hundreds of operations for each byte, and the number of heads fills the machine where no batch "
    "could. Prefill expanded. For a chunk of new tokens, or many sequences on one prompt, compare with `t_*`.",
)
