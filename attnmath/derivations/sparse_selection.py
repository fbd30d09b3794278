"""Attention to selected keys: what it computes, what its indexer costs, and from which length on it wins."""

from sympy import Derivative, KroneckerDelta, Limit, Max, Rational, Subs, exp, oo, sqrt

from attnmath.proving.checks import Algebra, same, scalars, signs
from attnmath.proving.costs import apart, read_off
from attnmath.proving.page import Derivation, Given, Let, Step
from attnmath.proving.terms import eq, ge, gt, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

a, b, d, h, k, l, n, p, q, x, z = sizes("a b d h k l n p q x z")
j, i = indices("j i", n)
s, r = indices("s r", k)
(f,) = indices("f", a)
(g,) = indices("g", z)
(u,) = indices("u", l)
(v,) = indices("v", p)
Q, C, R, K, S, I, qI, kI, wI, T, m, O, P, Y, V = tensors("Q C Q_R K_R S I q_I k_I w_I T m O P Y V")
c, rho, A1, A2, Z1, Z2 = reals("c rho A_1 A_2 Z_1 Z_2")
N, w, y = reals("N w y", positive=True)
H, X, G, selecting_blocks, ns, nb, xb, best = reals("H X D E n_* N_* x_* w_*")
Wd, Ws, Vd, Vs, Bd, Bs, kd, ks = reals("W_d W_s V_d V_s B_d B_s kappa_d kappa_s")

LETTERS = {"a": a, "b": b, "d": d, "h": h, "k": k, "l": l, "p": p, "q": q, "z": z}
DECODE = {**LETTERS, "t": 1, "n": k + x}
PREFILL = {**LETTERS, "t": k + x}
BLOCKS = {"b": b, "d": d, "h": h, "t": 1, "n": N}
DEEPSEEK = ((a, z, h, l, p, k), (64, 128, 128, 512, 64, 2048))


def largest(world, rank):
    """The position of the key of this rank by the indexer's scores."""
    return sorted(range(int(world(n))), key=lambda key: -world.entry("I", (key,)))[rank]


def attended(score, value, over, weight=1):
    """The mean of values under the exponentials of scores."""
    return total(weight * exp(score) * value, over) / total(weight * exp(score), over)


TOP = {"T": largest}
holds_one = eq(total(KroneckerDelta(T[s], j), j), 1)
distinct = eq(KroneckerDelta(T[s], T[r]), KroneckerDelta(s, r))
INDEXER = total(wI[f] * Max(0, total(qI[f, g] * kI[j, g], g) / sqrt(z)), f)

PAGE = Derivation(
    name="sparse-selection",
    title=__doc__.rstrip("."),
    question="If a query attends to 2048 selected keys of 100,000, is that still attention, or something like it? The "
    "indexer that selects them looks at every key: what is saved then, from which length on, and what has been gained if it "
    "is still quadratic?",
    statement="Attending to selected keys is attending to all with the others masked; it differs from full attention by the "
    "weight left out. With an indexer of `X = a (z + 1)` multiplications a key, and `H = h (2l + p)` for attending to one, "
    "selecting `k` keys wins from `k H / (H - X)` keys on, and `H / X` times in the limit. The indexer's part stays "
    "quadratic, with `X` in place of `H`.",
    source="DeepSeek-AI 2025, DeepSeek-V3.2, arXiv:2512.02556, section 2.1; blocks: Lu et al. 2025 (MoBA), arXiv:2502.13189, "
    "section 2.2; Yuan et al. 2025 (NSA), arXiv:2502.11089, section 3.3",
    notation=(
        (n, "keys that the query may see"),
        (k, "keys that are selected"),
        (x, "keys that are not, at least one"),
        (T, "the key that each slot holds, those whose indexer's scores are the largest"),
        (S, "the query's scores, key by key"),
        (C, "the values, key by key (here latents, which are the keys too)"),
        (c, "by how much scores are lowered"),
        (Z1, "the sum of the exponentials of the selected keys"),
        (Z2, "that of the others"),
        (A1, "the sum of the selected keys' exponentials times their values"),
        (A2, "that of the others"),
        (a, "heads of the indexer"),
        (z, "width of the indexer's heads"),
        (h, "heads"),
        (l, "width of the latent"),
        (p, "width of the part that carries the position"),
        (b, "sequences"),
        (d, "width of a head, where keys and values are not latents"),
        (N, "keys that the query may see, a whole number of blocks"),
        (w, "keys in a block"),
        (y, "blocks that are selected, the query's own among them"),
    ),
    lets=(
        Let(eq(m[j], total(KroneckerDelta(T[s], j), s)), "how many slots hold a key"),
        Let(eq(O[u], attended(S[T[s]], C[T[s], u], s)), "attention to the selected keys, and to nothing else"),
        Let(eq(P[u], attended(S[j], C[j, u], j, m[j])), "attention to all keys, each exponential times `m`"),
        Let(eq(V[u], attended(S[j], C[j, u], j, 1 - m[j])), "attention to the keys that are not selected"),
        Let(eq(Y[u], attended(S[j], C[j, u], j)), "attention to all keys"),
        Let(eq(rho, total(m[j] * exp(S[j]), j) / total(exp(S[j]), j)), "the weight that the selected keys have in it"),
        Let(
            eq(H, h * (2 * l + p)), "multiplications to attend to a key: for its score and for its share of the output"
        ),
        Let(eq(X, a * (z + 1)), "multiplications of the indexer for a key"),
        read_off(Wd, "mla", "flops.matmul", DECODE, "dense, one new token", form="absorbed", phase="decode"),
        read_off(Ws, "dsa", "flops.matmul", DECODE, "sparse, one new token", phase="decode"),
        read_off(Vd, "mla", "flops.matmul", PREFILL, "dense, a prompt", form="absorbed"),
        apart(read_off(Vs, "dsa", "flops.matmul", PREFILL, "sparse, a prompt")),
        read_off(Bd, "mla", "hbm_bytes.compulsory", DECODE, "bytes, dense", form="absorbed", phase="decode"),
        read_off(Bs, "dsa", "hbm_bytes.compulsory", DECODE, "bytes, sparse", phase="decode"),
        read_off(kd, "mla", "kv_cache_bytes_per_token", LETTERS, "cache a token, dense"),
        read_off(ks, "dsa", "kv_cache_bytes_per_token", LETTERS, "cache a token, sparse"),
        read_off(
            G, "gqa", "flops.matmul", BLOCKS, "dense attention to `N` keys, one new token", phase="decode", mask="full"
        ),
        Let(
            eq(selecting_blocks, Subs(G, N, N / w - 1) / 2 + Subs(G, N, y * w)),
            "block selection: scores without values for the mean key of each earlier block, attention to `y` blocks",
        ),
        Let(eq(ns, k * H / (H - X)), "the length from which selecting keys wins"),
        Let(eq(xb, (k * z + a * (z + 1)) / (l + p - z)), "the unselected keys from which it reads less"),
        Let(eq(nb, w * (2 * w * y - 1) / (2 * w - 1)), "the length from which selecting blocks wins"),
        Let(eq(best, sqrt(N / (2 * y))), "the best length of a block"),
    ),
    given=(
        Given(holds_one, "each slot holds one of the keys", TOP, (ge(n, k),)),
        Given(distinct, "no two slots hold the same", TOP, (ge(n, k),)),
    ),
    assumes=(
        "there are at least as many keys as are selected, and at least one more where attention to the others is spoken of",
        "the indexer is narrower than attention (`X < H`, and `z < l + p`)",
        "an operation of the indexer counts as any other; in 8 bits, as it is deployed, it costs half",
    ),
    steps=(
        Step("So many keys are selected", eq(total(m[j], j), k), Algebra(using=(holds_one,))),
        Step(
            "each of them once, so that `m` is a mask of zeros and ones",
            eq(m[j] ** 2, m[j]),
            Algebra(using=(distinct,)),
        ),
        Step(
            "A sum over the slots is a sum over all keys under that mask",
            eq(total(exp(S[T[s]]), s), total(m[j] * exp(S[j]), j)),
            Algebra(using=(holds_one,)),
        ),
        Step(
            "so that gathering the selected keys and attending to them is attending to all keys with the others masked",
            eq(O[u], P[u]),
            Algebra(using=(holds_one,)),
        ),
        Step(
            "That is also what lowering the scores of the others without end comes to, as a kernel with a mask of minus "
            "infinity does",
            eq(Limit((A1 + exp(-c) * A2) / (Z1 + exp(-c) * Z2), c, oo), A1 / Z1),
            scalars,
        ),
        Step(
            "Full attention is a mean of what was selected and what was not, by their weights: the error is the weight left "
            "out, times how far the two are apart",
            eq(Y[u] - P[u], (1 - rho) * (V[u] - P[u])),
            Algebra(using=(holds_one,), of=("P", "V", "Y", "rho")),
            when=(gt(n, k),),
        ),
        Step(
            "Now the costs of one new token. All keys, densely, are `H` multiplications each",
            eq(Wd, 2 * b * H * (k + x)),
            same,
        ),
        Step(
            "With selection, all keys are `X` each, and the selected ones `H` more",
            eq(Ws, 2 * b * (X * (k + x) + H * k)),
            scalars,
        ),
        Step(
            "So selection saves from `n_*` keys on, the more the longer the context; if `X \\ge H`, never",
            eq(Wd - Ws, 2 * b * (H - X) * (k + x - ns)),
            scalars,
        ),
        Step(
            "That length is `k`, and more by the share that the indexer takes: it grows with both",
            eq(ns - k, k * X / (H - X)),
            scalars,
        ),
        Step(
            "With the sizes of DeepSeek-V3.2 it is 6 in a hundred beyond the 2048 selected keys",
            eq(Subs(ns, *DEEPSEEK), Rational(4456448, 2047)),
            scalars,
        ),
        Step(
            "What can be gained has an end: however long the context, no more than this",
            eq(Limit(Wd / Ws, x, oo), H / X),
            scalars,
        ),
        Step(
            "A prompt: the indexer sees every pair that dense attention saw, and attention itself is no longer quadratic",
            eq(Vs, b * X * (k + x) * (k + x + 1) + b * H * k * (k + 2 * x + 1)),
            scalars,
        ),
        Step(
            "so that the prompt's cost stays quadratic, with `X` where it was `H`",
            eq(Limit(Vs / Vd, x, oo), X / H),
            scalars,
        ),
        Step(
            "In bytes, one new token reads the indexer's key of every token and the latents of `k`: less than all latents "
            "from `x_*` unselected ones on",
            eq(Bd - Bs, 2 * b * (l + p - z) * (x - xb)),
            scalars,
        ),
        Step(
            "The cache does not shrink, since any key may be selected later: it grows by the indexer's keys",
            eq(ks - kd, 2 * z),
            scalars,
        ),
        Step(
            "Blocks: one mean key stands for `w` keys, so that the selection itself costs `1 / w` of the scores",
            eq(selecting_blocks, 2 * b * d * h * (N / w - 1 + 2 * w * y)),
            scalars,
        ),
        Step(
            "which wins from `N_*` keys on, about the `w y` that are attended to",
            eq(G - selecting_blocks, 2 * b * d * h * (2 * w - 1) * (N - nb) / w),
            scalars,
        ),
        Step(
            "Short blocks make many means, long blocks many keys; the cost is least where its slope is zero",
            eq(Subs(Derivative(selecting_blocks, w), w, best), 0),
            scalars,
        ),
        Step(
            "for it is curved upwards",
            gt(Derivative(selecting_blocks, w, 2), 0),
            signs,
        ),
        Step(
            "and there it grows with the root of the length: the prompt is then no longer quadratic, but no fixed `w` keeps "
            "that up",
            eq(Subs(selecting_blocks, w, best), 2 * b * d * h * (2 * sqrt(2 * N * y) - 1)),
            scalars,
        ),
    ),
    ties=(
        Tie(
            "the indexer's scores, and attention to the keys it selects",
            "dsa",
            {
                "qI[a z]": qI[f, g],
                "KI[n z]": kI[j, g],
                "wI[a]": wI[f],
                "Z[l]": Q[u],
                "C[n l]": C[j, u],
                "QR[p]": R[v],
                "KR[n p]": K[j, v],
            },
            {"I[n]": I[j], "P[l]": O[u]},
            numbers={
                n: 5,
                k: 3,
                I[j]: INDEXER,
                S[j]: (total(Q[u] * C[j, u], u) + total(R[v] * K[j, v], v)) / sqrt(4 + p),
            },
            options={"head_dim": 4, "top_k": 3},
        ),
    ),
    so="Select keys when contexts are many times `k`: at `k` itself nothing is saved, and the cache is the larger. What "
    "remains is the indexer, so make it narrow, few heads, few bits. Blocks make the choice cheaper and the reads "
    "contiguous, and choose more coarsely. Whether quality holds is whether the weight left out is small, which no count of "
    "operations can say.",
)
