"""Grouped heads: MHA, GQA and MQA as one family, their caches, and when the cache outweighs the weights."""

from sympy import Derivative, Limit, Subs, exp, floor, oo, sqrt

from attnmath.proving.checks import Cases, same, scalars, signs
from attnmath.proving.costs import read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import eq, gt, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

b, g, r, d, n, t, s = sizes("b g r d n t s")
h = g * r
i, i2 = indices("i w", t)
j, l = indices("j l", n)
(a,) = indices("a", d)
(u,) = indices("u", d)
(x,) = indices("x", g)
(y,) = indices("y", r)
(f,) = indices("f", h)
Q, K, V, P, O, QH, KH, VH, PH, OH = tensors("Q K V P O Q_H K_H V_H P_H O_H")
cache, cache_mha, cache_mqa, work, work_mha, moved, several, moved_several, weights = reals(
    "C C_A C_Q F F_A B F_t B_t W", positive=True
)
context, other, more, dense = reals("N N_L e L", positive=True)
letters = {"b": b, "g": g, "h": h, "d": d, "n": n}
one = {**letters, "t": 1}


PAGE = Derivation(
    name="grouped-heads",
    title=__doc__.rstrip("."),
    question="What is it that grouped heads save, what do they leave as it was, and from which context on does it matter: when "
    "does reading the cache take longer than reading the weights?",
    statement="Multi-head and multi-query attention are the two ends of one family. A group of `r` query heads to a key head "
    "makes the cache `r` times smaller, and the products for one new token `r` times as many for each byte; from "
    "`d g r (1 + r) / b` tokens of context on, a layer of attention reads more cache than weights.",
    source="Ainslie et al. 2023, arXiv:2305.13245, section 2.2; Shazeer 2019, arXiv:1911.02150, sections 2 and 3",
    notation=(
        (b, "sequences in the batch"),
        (g, "key heads"),
        (r, "query heads to a key head; there are `g r` query heads"),
        (d, "width of a head"),
        (n, "tokens of context"),
        (t, "new tokens"),
        (Q, "queries, by key head and place in its group"),
        (K, "keys, by key head"),
        (V, "values, by key head"),
        (dense, "weights that a layer reads for each step, the feed-forward ones included"),
        (more, "any context that is longer by this much"),
    ),
    assumes=(
        "all numbers are stored in 16 bits",
        "the model is as wide as its query heads together, values are as wide as keys",
        "each weight, key and value is read once for the batch, as a fused kernel does",
    ),
    lets=(
        Let(
            eq(
                P[x, y, i, j],
                exp(total(Q[x, y, i, a] * K[x, j, a], a) / sqrt(d))
                / total(exp(total(Q[x, y, i, a] * K[x, l, a], a) / sqrt(d)), l),
            ),
            "weights of query head `y` of group `x`",
        ),
        Let(eq(O[x, y, i, u], total(P[x, y, i, j] * V[x, j, u], j)), "and its result"),
        Let(eq(QH[f, i, a], Q[floor(f / r), f - r * floor(f / r), i, a]), "the query heads in one row, group by group"),
        Let(eq(KH[f, j, a], K[floor(f / r), j, a]), "keys, repeated for each head of a group"),
        Let(eq(VH[f, j, u], V[floor(f / r), j, u]), "values, repeated likewise"),
        Let(
            eq(
                PH[f, i, j],
                exp(total(QH[f, i, a] * KH[f, j, a], a) / sqrt(d))
                / total(exp(total(QH[f, i, a] * KH[f, l, a], a) / sqrt(d)), l),
            ),
            "weights of multi-head attention",
        ),
        Let(eq(OH[f, i, u], total(PH[f, i, j] * VH[f, j, u], j)), "and its result"),
        read_off(cache, "gqa", "kv_cache_bytes", letters, "the cache", phase="decode"),
        read_off(
            cache_mha, "mha", "kv_cache_bytes", letters, "of as many heads, each with its own keys", phase="decode"
        ),
        read_off(cache_mqa, "mqa", "kv_cache_bytes", letters, "of one shared key head", phase="decode"),
        read_off(work, "gqa", "flops.matmul", one, "products for one new token", phase="decode"),
        read_off(work_mha, "mha", "flops.matmul", one, "of as many heads, each with its own keys", phase="decode"),
        read_off(moved, "gqa", "hbm_bytes.compulsory", one, "bytes for one new token", phase="decode"),
        read_off(several, "gqa", "flops.matmul", {**letters, "t": t}, "products for `t` new tokens", phase="decode"),
        read_off(moved_several, "gqa", "hbm_bytes.compulsory", {**letters, "t": t}, "bytes for them", phase="decode"),
        read_off(weights, "gqa", "parameters", letters, "weights of the four projections"),
        Let(eq(context, d * h * (1 + r) / b), "the context at which both are read alike"),
        Let(eq(other, dense / (2 * b * d * g)), "likewise, if `L` weights are read in all"),
    ),
    steps=(
        Step(
            "Grouped attention is multi-head attention whose keys and values are repeated for each head of a group",
            eq(OH[r * x + y, i, u], O[x, y, i, u]),
            Cases(),
        ),
        Step(
            "so that with groups of one, its cache is that of multi-head attention",
            eq(Subs(cache, r, 1), Subs(cache_mha, r, 1)),
            scalars,
        ),
        Step("and with one group that of multi-query attention", eq(Subs(cache, g, 1), cache_mqa), scalars),
        Step("In between, the cache is smaller by the size of a group", eq(cache_mha / cache, r), same),
        Step("while the products are those of multi-head attention: sharing keys saves none", eq(work, work_mha), same),
        Step(
            "For one new token, each byte serves `r n / (n + r)` operations, whatever batch, width and number of key heads",
            eq(work / moved, r * n / (n + r)),
            same,
        ),
        Step("In a long context these are `r` operations to the byte", eq(Limit(work / moved, n, oo), r), scalars),
        Step("and never more", gt(r, work / moved), signs),
        Step("A larger group always serves more operations with a byte", gt(Derivative(work / moved, r), 0), signs),
        Step(
            "Several new tokens of one sequence count as a larger group: in a long context, `t` of them make it `t r`",
            eq(Limit(several / moved_several, n, oo), r * t),
            scalars,
        ),
        Step(
            "At a context of `d g r (1 + r) / b` tokens, the cache is as large as the weights of the projections, 2 bytes each",
            eq(Subs(cache, n, context), 2 * weights),
            scalars,
        ),
        Step("and beyond it more", gt(Subs(cache, n, context + more), 2 * weights), signs),
        Step(
            "If a layer reads `L` weights in all, the cache takes over when it holds `L` numbers",
            eq(Subs(cache, n, other), 2 * dense),
            scalars,
        ),
    ),
    ties=(
        Tie(
            "the result of grouped heads",
            "gqa",
            {"Q[g r t d]": Q[x, y, i, a], "K[g n d]": K[x, j, a], "V[g n e]": V[x, j, u]},
            {"O[g r t e]": O[x, y, i, u]},
            options={"mask": "full"},
        ),
        Tie(
            "the result of multi-head attention",
            "mha",
            {"Q[h t d]": QH[f, i, a], "K[h n d]": KH[f, j, a], "V[h n e]": VH[f, j, u]},
            {"O[h t e]": OH[f, i, u]},
            options={"mask": "full"},
        ),
    ),
    so="Choose the group for decoding: memory traffic falls by `r` while the arithmetic stays, until `r` times the new tokens "
    "come near the accelerator's ridge. A batch multiplies the cache and not the weights: 64 sequences of 4,096 tokens load "
    "memory as one of 262,144 does.",
)
