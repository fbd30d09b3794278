"""Attention over many accelerators: rings and what hides them, exchange by heads, and key heads that run out."""

from sympy import Function, Subs, Sum, ceiling, exp

from attnmath.proving.checks import Algebra, Bijection, Induction, Recurrence, same, scalars
from attnmath.proving.costs import read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import counts, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

b, c, d, e, g, h, l, n, p, P, nu = sizes("b c d e g h l n p P nu")
q, s, t = counts("q s t")
(i,) = indices("i", c)
j, k = indices("j k", P)
(v,) = indices("v", P * c)
(u,) = indices("u", e)
x, y, S, V, m, r, z, w, a, o, O = tensors("x y S V m r z w a o O")
pi = Function("pi", integer=True, nonnegative=True)
F, W = reals("F W", positive=True)
f, f1, fn, B, A, R, U, E, cs = reals("f f_1 f_n B A R U E c_*")
kg, kl, G = reals("kappa_g kappa_l kappa_P")

BLOCK = {"b": b, "d": d, "g": g, "h": h, "t": c}
WHOLE = {**BLOCK, "t": P * c}
SPREAD = {**BLOCK, "t": n}


def visited(value=1, reference=0):
    """The sum over the keys of the blocks of the first t hops."""
    return Sum(total(exp(S[pi(s), i] - reference) * value, i), (s, 0, t - 1))


def everywhere(order, value=1):
    """The sum over the keys of all blocks, in this order."""
    return total(exp(S[order, i]) * value, k, i)


running = Recurrence(
    t,
    eq(a[0], 0),
    eq(a[t + 1], a[t] * exp(r[t] - r[t + 1]) + z[pi(t)] * exp(m[pi(t)] - r[t + 1])),
)
output = Recurrence(
    t,
    eq(o[0, u], 0),
    eq(o[t + 1, u], o[t, u] * exp(r[t] - r[t + 1]) + w[pi(t), u] * exp(m[pi(t)] - r[t + 1])),
)
summed = eq(a[t], visited(reference=r[t]))
gathered = eq(o[t, u], visited(V[pi(s), i, u], r[t]))

PAGE = Derivation(
    name="context-parallelism",
    title=__doc__.rstrip("."),
    question="A context too long for one accelerator is cut into blocks. Does passing keys and values round a ring cost "
    "time, or can it hide behind the work? Why does exchanging heads instead stop at their number, and why does tensor "
    "parallelism beyond the number of key heads save no cache?",
    statement="A ring merges one block's partial result at each hop, in any order, exactly. A hop hides behind its block's "
    "work once a block has `(F / W) (g / h)` tokens, for `F` operations and `W` bytes a second. Exchanging heads moves `g P "
    "/ (g + h)` times less, but needs a head for each accelerator. Tensor parallelism divides the cache by the number of key "
    "heads and no further.",
    source="ring: Liu, Zaharia and Abbeel 2023, arXiv:2310.01889, section 3; balanced for causal masks: Brandon et al. 2023, "
    "arXiv:2311.09431; exchange by heads: Jacobs et al. 2023 (DeepSpeed-Ulysses), arXiv:2309.14509; tensor parallelism: "
    "Shoeybi et al. 2019 (Megatron-LM), arXiv:1909.08053, section 3",
    notation=(
        (P, "accelerators"),
        (c, "tokens of a block, which is what one accelerator holds"),
        (n, "tokens of the whole context"),
        (x, "the scores of one query against all keys"),
        (y, "the values of all keys"),
        (pi(t), "the block that an accelerator holds at hop t; its own comes first, its neighbours' follow"),
        (m, "what a block's scores are reduced by before they are exponentiated: their maximum, or any number"),
        (r, "likewise for all that was merged so far"),
        (t, "hops"),
        (F, "operations that an accelerator does in a second"),
        (W, "bytes that it sends, and receives, in a second"),
        (b, "sequences"),
        (h, "query heads"),
        (g, "key heads"),
        (d, "width of a head"),
        (e, "width of the values"),
        (l, "width of the latent of multi-head latent attention"),
        (p, "width of its rotated key"),
        (nu, "key heads of each accelerator, where they divide evenly"),
        (q, "any whole number from 0"),
    ),
    lets=(
        Let(eq(S[j, i], x[j * c + i]), "scores, block by block"),
        Let(eq(V[j, i, u], y[j * c + i, u]), "values, block by block"),
        Let(eq(z[j], total(exp(S[j, i] - m[j]), i)), "a block's sum"),
        Let(eq(w[j, u], total(exp(S[j, i] - m[j]) * V[j, i, u], i)), "a block's output, not yet divided by its sum"),
        running,
        output,
        Let(
            eq(O[u], total(exp(S[j, i]) * V[j, i, u], j, i) / total(exp(S[j, i]), j, i)),
            "attention over the whole context",
        ),
        read_off(f, "gqa", "flops.matmul", BLOCK, "work of one block's queries on one block's keys", mask="full"),
        read_off(f1, "gqa", "flops.matmul", BLOCK, "the same where each key has to be no later than the query"),
        read_off(fn, "gqa", "flops.matmul", WHOLE, "work of the whole context under a causal mask"),
        read_off(B, "gqa", "kv_cache_bytes", BLOCK, "bytes of one block's keys and values"),
        read_off(
            A, "gqa", "hbm_bytes.compulsory", SPREAD, "bytes of all queries, keys, values and outputs", mask="full"
        ),
        Let(eq(R, (P - 1) * Subs(B, c, n / P)), "bytes that an accelerator of a ring sends: every block but one"),
        Let(eq(cs, F * g / (W * h)), "the block at which work and sending take the same time"),
        Let(
            eq(U, (P - 1) / P**2 * Subs(A, g, P * ceiling(g / P))),
            "bytes that an accelerator sends when heads are exchanged: of its P-th of the tokens all but its own heads, a "
            "P-th again, where key heads are multiplied if there are fewer than accelerators",
        ),
        Let(eq(E, ceiling(h / P)), "query heads of the busiest accelerator, when heads are exchanged or split"),
        read_off(kg, "gqa", "kv_cache_bytes_per_token", SPREAD, "cache a token"),
        read_off(kl, "mla", "kv_cache_bytes_per_token", {"l": l, "p": p}, "cache a token"),
        Let(
            eq(G, Subs(kg, g, ceiling(g / P))),
            "cache a token and accelerator under tensor parallelism: whole key heads, all that its query heads need",
        ),
    ),
    assumes=(
        "an accelerator sends, receives and computes at the same time, at its peaks, and every number has two bytes",
        "the context divides evenly among the accelerators, and their number divides the query heads where heads are "
        "exchanged",
    ),
    steps=(
        Step(
            "A ring: each accelerator keeps its queries, and each hop brings the next block's keys and values. Merged hop by "
            "hop, its sum is that over all keys which came by",
            summed,
            Induction(recurrence=running),
        ),
        Step(
            "and so is its output before the division",
            gathered,
            Induction(recurrence=output),
        ),
        Step(
            "so that after any number of hops the quotient is attention over the blocks that came by: what was subtracted "
            "has gone",
            eq(o[t, u] / a[t], visited(V[pi(s), i, u]) / visited()),
            Algebra(using=(summed, gathered)),
        ),
        Step(
            "After all hops it is attention over the whole context, the same on every accelerator although each had another "
            "order",
            eq(everywhere(pi(k), V[pi(k), i, u]) / everywhere(pi(k)), O[u]),
            Bijection(pi=pi, size=P),
        ),
        Step(
            "For each byte of a block that arrives, this much work is to be done: it grows with the block, and with the "
            "query heads that share a key head",
            eq(f / B, c * h / g),
            same,
        ),
        Step(
            "The work on a block outlasts the sending of the next one exactly from `c_*` tokens on, whatever the width, the "
            "batch and the number of accelerators",
            eq(f / F - B / W, 4 * b * c * d * h * (c - cs) / F),
            scalars,
        ),
        Step(
            "With a key head for each query head, `312 \\times 10^{12}` operations and `300 \\times 10^9` bytes a second (an "
            "A100 on NVLink), that is about a thousand tokens",
            eq(Subs(cs, (g, h, F, W), (32, 32, 312 * 10**12, 300 * 10**9)), 1040),
            scalars,
        ),
        Step(
            "Under a causal mask each begins with its own block, a triangle; then the accelerator with the last block works "
            "on every hop and others wait. Of the time of all, this share is work: near half if they are many",
            eq(fn / (P * ((P - 1) * f + f1)), (P * c + 1) / (2 * P * c - c + 1)),
            scalars,
        ),
        Step(
            "If tokens are dealt out in turn, every hop is a triangle for everyone, with its diagonal at the most: no one "
            "waits, and a block has to be twice as long to hide its hop",
            eq(f1 / F - B / W, 2 * b * c * d * h * (c + 1 - 2 * cs) / F),
            scalars,
        ),
        Step(
            "The other way: exchange, so that each accelerator has all tokens of some heads, and back. Where key heads "
            "divide evenly it sends less than the ring as soon as `P > 1 + h / g`",
            eq(Subs(R / U, g, P * nu), P * (P * nu) / (P * nu + h)),
            scalars,
        ),
        Step(
            "and where key heads are fewer than accelerators, and sent to several, this many times less: with a single key "
            "head that is below one, and the ring is the better",
            eq(Subs(R / U, P, g + q), g * (g + q) / (g + q + h)),
            scalars,
        ),
        Step(
            "If the context grows with the accelerators, `c` tokens each, a ring sends ever more; the exchange stays below "
            "the queries, keys, values and outputs of those `c` tokens",
            eq(Subs(U, (g, n), (P * nu, c * P)), (1 - 1 / P) * Subs(A, (g, n), (P * nu, c))),
            scalars,
        ),
        Step(
            "But a head is the least that it can give out: from `h` accelerators on, more of them do nothing",
            eq(Subs(E, P, h + q), 1),
            scalars,
        ),
        Step(
            "Tensor parallelism gives out heads as well. While the accelerators divide the key heads they share the cache "
            "without waste",
            eq(Subs(P * G, g, P * nu), Subs(kg, g, P * nu)),
            scalars,
        ),
        Step(
            "From `g` accelerators on, each keeps a whole key head, and no less however many they are",
            eq(Subs(G, P, g + q), kg / g),
            scalars,
        ),
        Step(
            "Together they then keep each key head this many times",
            eq(Subs(P * G / kg, P, g + q), 1 + q / g),
            scalars,
        ),
        Step(
            "A latent serves all heads, so every accelerator keeps it whole: this many times what grouped-query attention "
            "keeps there",
            eq(kl / Subs(G, P, g + q), (l + p) / (2 * d)),
            scalars,
        ),
    ),
    ties=(
        Tie(
            "attention over the whole context, as the ring schedule computes it",
            "mha",
            {"L[n]": x[v], "V[n e]": y[v, u]},
            {"O[e]": O[u]},
            numbers={c: 2, P: 3},
            options={"mask": "full", "schedule": "ring:z=3,n=2"},
        ),
    ),
    so="Choose the ring when the blocks are long: its limit is `c_*`, and grouped heads lower it. Choose the exchange up to "
    "`h` accelerators; combine the two beyond, heads within a machine and rings between machines. For decoding, split the "
    "cache by context once tensor parallelism has used up the key heads: that divides every cache, the latent's too.",
)
