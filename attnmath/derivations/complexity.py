"""Operations, rounds and paths: self-attention, recurrence, convolution and restricted attention compared."""

from sympy import Limit, Subs, Sum, exp, log, oo

from attnmath.proving.checks import Cases, Induction, Recurrence, algebra, same, scalars, signs
from attnmath.proving.costs import read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import Partial, counts, eq, gt, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

n, d, w, c = sizes("n d w c")
k, t, s, x, u = counts("k t s x u")
i, j, l = indices("i j l", n)
(v,) = indices("v", d)
(a,) = indices("a", d)
S, P, V, O, X, W, Y, D, G, R, Q, H, q = tensors("S P V O X W Y D G R Q H q")
full, core, linear, gated, maps, filtered, windowed, wide = reals("F_s A A_l F_r F_4 F_c F_w F_n", positive=True)
n_0, K_c, K_w, more, z = reals("n_0 K_c K_w e z", positive=True)
m2, m3, b1, b2, b3 = reals("f_2 f_3 b_1 b_2 b_3")
one = {"b": 1, "h": 1, "g": 1, "d": d}
letters = {**one, "t": n}
longer = {**one, "t": w + u, "w": w}

rounds = Recurrence(
    t, eq(D[0], 0), eq(D[t + 1], D[t] + 1), "rounds before step `t` of a recurrence: each waits for the last"
)
halving = Recurrence(k, eq(G[0], 1), eq(G[k + 1], 2 * G[k]), "terms that are in one sum after `k` rounds of pairs")
reach = Recurrence(k, eq(R[0], 0), eq(R[k + 1], R[k] + c - 1), "how far `k` layers of a convolution reach")
dilated = Recurrence(k, eq(Q[0], 0), eq(Q[k + 1], Q[k] + (c - 1) * c**k), "and with places `c^k` apart in layer `k`")
state = Recurrence(t, eq(H[0], 0), eq(H[t + 1], z * H[t] + q[t]), "the state of a recurrence, one channel of it")

PAGE = Derivation(
    name="complexity",
    title=__doc__.rstrip("."),
    question="Self-attention takes `n^2` operations where a recurrence takes `n`. What does it buy with them, and do windows or "
    "convolutions get the same for less?",
    statement="For `n` positions of width `d`: self-attention takes `\\Theta(n^2 d)` operations, no rounds that wait for each "
    "other, and a path of one layer between any two; recurrence `\\Theta(n d^2)`, `n` and `n`; convolution by kernels of `c` "
    "places `\\Theta(c n d^2)`, none and `n / c`, or `\\log_c n` if dilated; windows of `w` keys `\\Theta(w n d)`, none and "
    "`n / w`.",
    source="Vaswani et al. 2017, arXiv:1706.03762, section 4 and table 1; scans: Blelloch 1990, CMU-CS-90-190",
    notation=(
        (n, "positions"),
        (d, "width, of one head and of the model"),
        (w, "width of a window"),
        (u, "positions beyond the first window"),
        (c, "width of a kernel, at least 2"),
        (k, "layers, or rounds"),
        (t, "steps of a recurrence"),
        (s, "an earlier step, or a place in a kernel"),
        (x, "any distance"),
        (more, "any amount more"),
        (S, "scores"),
        (V, "values"),
        (X, "inputs of a convolution"),
        (W, "its kernel"),
        (q, "inputs of a recurrence"),
        (z, "what a recurrence multiplies its state with"),
        *((m, f"factor of step {y}") for y, m in enumerate((m2, m3), 2)),
        *((m, f"input of step {y}") for y, m in enumerate((b1, b2, b3), 1)),
    ),
    assumes=(
        "one head, as wide as the model; one sequence",
        "sums are rounds of additions in pairs; everything that does not wait is done at once",
        "kernels have two places at least, windows two keys; weights of a softmax are positive",
        "a number of layers that comes out as a fraction is rounded up",
    ),
    lets=(
        read_off(full, "mha", "flops.matmul", letters, "products of causal attention"),
        read_off(core, "mha", "flops.core", letters, "all its operations"),
        read_off(
            linear, "linear-attention", "flops.core", letters, "all operations of a linear recurrence", form="recurrent"
        ),
        read_off(gated, "gated-deltanet", "flops.core", letters, "of the gated delta rule", form="recurrent"),
        read_off(maps, "mha", "flops.projections", letters, "products of four linear maps"),
        Let(eq(filtered, c * maps / 4), "products of a convolution: a linear map for each place of its kernel"),
        read_off(windowed, "sliding-window", "flops.matmul", longer, "products under a window, `w + u` positions"),
        read_off(wide, "mha", "flops.matmul", longer, "without the window"),
        Let(eq(n_0, d * (4 * d + 3) / (2 * d + 3) - 1), "where attention overtakes a linear recurrence"),
        Let(eq(P[i, j], exp(S[i, j]) / total(exp(S[i, l]), l)), "weights"),
        Let(eq(O[i, v], total(P[i, j] * V[j, v], j)), "results"),
        Let(eq(Y[i, v], Sum(W[s, a, v] * X[i + s, a], (a, 0, d - 1), (s, 0, c - 1))), "a convolution"),
        rounds,
        halving,
        reach,
        dilated,
        state,
        Let(eq(K_c, (n - 1) / (c - 1)), "layers of a convolution"),
        Let(eq(K_w, (w + u - 1) / (w - 1)), "layers of a window"),
    ),
    steps=(
        Step(
            "Causal self-attention: in long sequences `2 n^2 d` operations, half of what all pairs would take",
            eq(Limit(full / (n**2 * d), n, oo), 2),
            scalars,
        ),
        Step(
            "Recurrence: a state of `d` by `d` numbers is decayed, corrected and read at each position, `7 n d^2` in wide heads",
            eq(Limit(gated / (n * d**2), d, oo), 7),
            scalars,
        ),
        Step(
            "Convolution: a linear map for each of the `c` places of its kernel", eq(filtered, 2 * c * n * d**2), same
        ),
        Step(
            "Restricted attention: `4 w n d` in long sequences, where nearly all queries see a whole window",
            eq(Limit(windowed / (w * d * (w + u)), u, oo), 4),
            scalars,
        ),
        Step(
            "Attention takes as many operations as the simplest recurrence at `n_0` positions, about twice the width",
            eq(Subs(core, n, n_0), Subs(linear, n, n_0)),
            scalars,
        ),
        Step("and more beyond", gt(Subs(core - linear, n, n_0 + more), 0), signs),
        Step(
            "Rounds that wait for each other: a recurrence takes one a position",
            eq(D[t], t),
            Induction(recurrence=rounds),
        ),
        Step(
            "The other three read their inputs alone, so that nothing waits but sums; added in pairs, `k` rounds do `2^k` terms",
            eq(G[k], 2**k),
            Induction(recurrence=halving),
        ),
        Step("and `\\log_2 n` of them all `n`", eq(Subs(2**k, k, log(n) / log(2)), n), scalars),
        Step(
            "A linear recurrence can be had in as few, though with more operations: steps `h \\to f h + b` compose, and it does "
            "not matter which are put together first",
            eq(m3 * (m2 * b1 + b2) + b3, (m3 * m2) * b1 + (m3 * b2 + b3)),
            algebra,
        ),
        Step(
            "Paths: attention passes every value to every result at once, by its weight, however far it has come",
            eq(Partial(O[i, v], V[j, v]), P[i, j]),
            algebra,
        ),
        Step(
            "A convolution passes on what is `c - 1` places away",
            eq(Partial(Y[i, v], X[i + c - 1, a]), W[c - 1, a, v]),
            Cases(),
        ),
        Step("and nothing that is further", eq(Partial(Y[i, v], X[i + c + x, a]), 0), Cases()),
        Step("so that `k` layers of it reach `k (c - 1)` places", eq(R[k], k * (c - 1)), Induction(recurrence=reach)),
        Step(
            "and `n` positions are a path of `K_c` layers, about `n / c`; of windows of `w` keys, likewise",
            eq(Subs(k * (c - 1), k, K_c), n - 1),
            scalars,
        ),
        Step(
            "With places `c^k` apart in layer `k`, the reach multiplies",
            eq(Q[k], c**k - 1),
            Induction(recurrence=dilated),
        ),
        Step("and the path is `\\log_c n` layers", eq(Subs(c**k - 1, k, log(n) / log(c)), n - 1), scalars),
        Step(
            "In a recurrence, an input of step `s` has gone through every step since: the path is as long as the way",
            eq(H[t], Sum(z ** (t - 1 - s) * q[s], (s, 0, t - 1))),
            Induction(recurrence=state),
        ),
        Step(
            "Layers of windows that together reach all `w + u` positions take more than twice the operations of one full layer",
            eq(Limit(K_w * windowed / wide, u, oo), 2 * w / (w - 1)),
            scalars,
        ),
    ),
    ties=(
        Tie(
            "the result of attention",
            "mha",
            {"L[t n]": S[i, j], "V[n e]": V[j, v]},
            {"O[t e]": O[i, v]},
            options={"mask": "full"},
        ),
    ),
    so="Up to about twice the head's width in positions attention is the cheaper one as well. What the square buys is a path of "
    "one layer without waiting; windows get it back only over many layers, at no fewer operations if they have to reach across, "
    "so mix them with a few full layers. In decoding, rounds are forced on everybody, and a state of fixed size is what is left "
    "of the comparison.",
)
