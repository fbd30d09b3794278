"""Online softmax: attention over blocks of keys, merged exactly."""

from sympy import Function, Max, Sum, exp, log

from attnmath.proving.checks import Algebra, Bijection, Induction, Recurrence, algebra, same
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import counts, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

N, c, e = sizes("N c e")
p, q, r = indices("p q r", N)
(i,) = indices("i", c)
(u,) = indices("u", e)
(j,) = indices("j", N * c)
t, b, g, n = counts("t b g n")
x, y, s, v, m, l, o, run, top, L, O, A, R, F, Z = tensors("x y s v m l o M B L O A R F Z")
m2, l2, o2, m3 = tensors("m' l' o' m''")
m0, nil, ref, G = reals("m_0 z mu G")
pi = Function("pi", integer=True, nonnegative=True)


def part(reference, first, last, value=1):
    """The sum over the keys from `first` up to `last`, exponentiated against a reference."""
    return Sum(exp(x[j] - reference) * value, (j, first, last - 1))


def seen(many, reference=0, value=1):
    """The sum over all keys of the first so many blocks."""
    return Sum(total(exp(s[p, i] - reference) * value, i), (p, 0, many - 1))


stands = eq(l[p] * exp(m[p]), total(exp(s[p, i]), i))
stands_o = eq(o[p, u] * exp(m[p]), total(exp(s[p, i]) * v[p, i, u], i))
block_max = Recurrence(
    g, eq(top[0, p], m0), eq(top[g + 1, p], Max(top[g, p], s[p, g])), "a block's largest score, key by key"
)
run_max = Recurrence(t, eq(run[0], m0), eq(run[t + 1], Max(run[t], top[c, t])), "the running reference")
run_sum = Recurrence(
    t,
    eq(L[0], 0),
    eq(L[t + 1], L[t] * exp(run[t] - run[t + 1]) + total(exp(s[t, i] - run[t + 1]), i)),
    "the running sum",
)
run_out = Recurrence(
    t,
    eq(O[0, u], 0),
    eq(O[t + 1, u], O[t, u] * exp(run[t] - run[t + 1]) + total(exp(s[t, i] - run[t + 1]) * v[t, i, u], i)),
    "the running output",
)
fold = eq(L[t], seen(t, run[t]))
fold_o = eq(O[t, u], seen(t, run[t], v[p, i, u]))
lse = eq(exp(F[p]), total(exp(s[p, i]), i))
lse_all = eq(exp(G), total(total(exp(s[p, i]), i), p))

PAGE = Derivation(
    name="online-softmax",
    title=__doc__.rstrip("."),
    question="A softmax needs the sum over all keys before it can divide, so how can a kernel that never sees more than one "
    "block of keys return exact attention, in whatever order the blocks come and on however many processors they lie?",
    statement="A block's partial result is three things: a reference `m`, the sum `l` of the exponentials of scores less `m`, "
    "and the sum `o` of the same times values. Merging two is associative and commutative, has a neutral element, and gives "
    "the partial result of both blocks together. So any order and any tree of merges ends in the same `o / l`: attention over "
    "all keys. FlashAttention, memory-efficient attention, split-KV decoding and ring attention are four such orders.",
    source="Milakov and Gimelshein 2018, arXiv:1805.02867, section 3; Rabe and Staats 2021, arXiv:2112.05682, section 2; "
    "Dao et al. 2022, arXiv:2205.14135, section 3.1; Liu, Zaharia and Abbeel 2023, arXiv:2310.01889, algorithm 1",
    notation=(
        (N, "how many blocks of keys there are"),
        (c, "keys in a block"),
        (e, "width of the values"),
        (n, "how many keys there are, where they are in two parts of any length"),
        (b, "where the first of the two ends"),
        (x, "the scores of one query, key by key"),
        (y, "the values, key by key"),
        (m, "a block's reference, any number; a kernel takes the block's largest score"),
        (m0, "what a reference starts from, any number; a kernel takes one below all scores"),
        (ref, "a reference common to all blocks, any number"),
        (t, "how many blocks have come by"),
        (g, "how many keys of a block have come by"),
        (pi, "the order in which blocks arrive, a permutation"),
    ),
    assumes=(
        "sums and exponentials are exact: what a reference changes is rounding and overflow, never the value",
        "a key that the query may not see has the score minus infinity, so its exponential is 0; at least one key is seen",
    ),
    lets=(
        Let(eq(s[p, i], x[p * c + i]), "scores in blocks"),
        Let(eq(v[p, i, u], y[p * c + i, u]), "values in blocks"),
        Let(eq(l[p], total(exp(s[p, i] - m[p]), i)), "a block's sum"),
        Let(eq(o[p, u], total(exp(s[p, i] - m[p]) * v[p, i, u], i)), "a block's output, not yet divided"),
        Let(eq(A[q, u], seen(q, 0, v[p, i, u]) / seen(q)), "attention over the first `q` blocks, as it is defined"),
        Let(eq(m2[p, q], Max(m[p], m[q])), "two blocks merged: their reference"),
        Let(eq(l2[p, q], l[p] * exp(m[p] - m2[p, q]) + l[q] * exp(m[q] - m2[p, q])), "their sum"),
        Let(eq(o2[p, q, u], o[p, u] * exp(m[p] - m2[p, q]) + o[q, u] * exp(m[q] - m2[p, q])), "their output"),
        Let(eq(m3[p, q, r], Max(m[p], m[q], m[r])), "the largest of three references"),
        Let(eq(nil, 0), "the sum, and the output, of a block without keys"),
        block_max,
        run_max,
        run_sum,
        run_out,
        Let(eq(R[u], O[N, u] / L[N]), "what is returned after the last block"),
        Let(eq(F[p], m[p] + log(l[p])), "a block's log-sum-exp"),
        Let(eq(Z[p, u], o[p, u] / l[p]), "attention over one block alone"),
        Let(eq(G, log(total(exp(F[p]), p))), "the log-sum-exp of the blocks' log-sum-exps"),
    ),
    steps=(
        Step("A partial result stands for a sum that does not depend on its reference", stands, algebra),
        Step("nor does what its output stands for", stands_o, algebra),
        Step(
            "Merging brings two of them to one reference and adds, so it is exact: it stands for both blocks' keys",
            eq(l2[p, q] * exp(m2[p, q]), total(exp(s[p, i]), i) + total(exp(s[q, i]), i)),
            algebra,
        ),
        Step(
            "and for their values",
            eq(
                o2[p, q, u] * exp(m2[p, q]),
                total(exp(s[p, i]) * v[p, i, u], i) + total(exp(s[q, i]) * v[q, i, u], i),
            ),
            algebra,
        ),
        Step(
            "The parts may be of any length: keys split anywhere, each part against a reference of its own, make the whole",
            eq(part(m[p], 0, b) * exp(m[p] - ref) + part(m[q], b, n) * exp(m[q] - ref), part(ref, 0, n)),
            algebra,
            when=(n >= b,),
        ),
        Step("Merging does not depend on which block comes first", eq(l2[p, q], l2[q, p]), same),
        Step("neither does its output", eq(o2[p, q, u], o2[q, p, u]), same),
        Step(
            "Of three blocks it is the same which two are merged first, for the reference",
            eq(Max(m2[p, q], m[r]), Max(m[p], m2[q, r])),
            same,
        ),
        Step(
            "for the sum, here against the largest reference of the three",
            eq(
                l2[p, q] * exp(m2[p, q] - m3[p, q, r]) + l[r] * exp(m[r] - m3[p, q, r]),
                l[p] * exp(m[p] - m3[p, q, r]) + l2[q, r] * exp(m2[q, r] - m3[p, q, r]),
            ),
            algebra,
        ),
        Step(
            "and for the output",
            eq(
                o2[p, q, u] * exp(m2[p, q] - m3[p, q, r]) + o[r, u] * exp(m[r] - m3[p, q, r]),
                o[p, u] * exp(m[p] - m3[p, q, r]) + o2[q, r, u] * exp(m2[q, r] - m3[p, q, r]),
            ),
            algebra,
        ),
        Step(
            "A block without keys is neutral, whatever its reference: what it is merged into stands for what it did before",
            eq(
                (l[p] * exp(m[p] - Max(m[p], m0)) + nil * exp(m0 - Max(m[p], m0))) * exp(Max(m[p], m0)),
                l[p] * exp(m[p]),
            ),
            algebra,
        ),
        Step(
            "FlashAttention merges block after block into one running result; after `t` blocks its sum is that of all their keys",
            fold,
            Induction(recurrence=run_sum),
        ),
        Step("and its output that of all their values", fold_o, Induction(recurrence=run_out)),
        Step(
            "so that dividing once, at the end, gives attention over all blocks that have come by",
            eq(O[t, u] / L[t], A[t, u]),
            Algebra(using=(fold, fold_o)),
            when=(t > 0,),
        ),
        Step(
            "Memory-efficient attention computes all blocks apart and merges them together, against any reference",
            eq(total(o[p, u] * exp(m[p] - ref), p) / total(l[p] * exp(m[p] - ref), p), A[N, u]),
            algebra,
        ),
        Step("Split-KV decoding keeps `l` and `m` of each part as one number, its log-sum-exp", lse, algebra),
        Step("these merge by a log-sum-exp into that of all keys", lse_all, Algebra(using=(lse,))),
        Step(
            "and the parts' finished outputs are averaged with a softmax of their log-sum-exps as weights",
            eq(total(exp(F[p] - G) * Z[p, u], p), A[N, u]),
            algebra,
        ),
        Step(
            "Ring attention passes blocks round, so every processor meets them in an order of its own: a sum does not see it",
            eq(
                total(o[pi(p), u] * exp(m[pi(p)] - ref), p) / total(l[pi(p)] * exp(m[pi(p)] - ref), p),
                A[N, u],
            ),
            Bijection(pi=pi, size=N),
        ),
    ),
    ties=(
        Tie(
            "the output of the running recurrence",
            "mha",
            {"L[n]": x[j], "V[n e]": y[j, u]},
            {"O[e]": R[u]},
            options={"mask": "full"},
        ),
        Tie(
            "the running reference, sum and output, block by block, as the schedule has them",
            "mha",
            {"L[n]": x[j], "V[n e]": y[j, u]},
            {"TOPA[tile]": run[t + 1], "SUMA[tile]": L[t + 1], "RUNO[tile e]": O[t + 1, u], "O[e]": R[u]},
            sizes={"tile": N},
            numbers={c: 2, m0: -1000000},
            options={"mask": "full", "schedule": "flash-2:n=2"},
        ),
        Tie(
            "attention over parts that run at once",
            "mha",
            {"L[n]": x[j], "V[n e]": y[j, u]},
            {"O[e]": R[u]},
            numbers={c: 2, N: 3},
            options={"mask": "full", "schedule": "split-kv:z=3,n=2"},
        ),
    ),
    so="A kernel may hold one block of scores at a time and never write them, and what it returns is attention, not an "
    "approximation. Keys may be cut wherever memory or processors ask for it: one more merge costs one exponential and one "
    "product for each output channel, however many keys it stands for.",
)
