"""Prefill is bound by arithmetic, decoding by memory: intensity, ridge, and the batch at which it turns."""

from sympy import Derivative, Limit, Subs, oo

from attnmath.proving.checks import same, scalars, signs
from attnmath.proving.costs import read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import eq, gt, reals, sizes

b, g, r, d, n, t, v, w, s = sizes("b g r d n t v w s")
F_p, B_p, F_d, B_d, F_w, F_t, W, F_m, B_m = reals("F_p B_p F_d B_d F_w F_t W F_m B_m", positive=True)
peak, speed, ridge, more = reals("Pi beta rho e", positive=True)
turn, rows, ceiling, context = reals("T S I_b N", positive=True)
letters = {"b": b, "g": g, "h": g * r, "d": d, "t": t, "n": n}
one = {**letters, "t": 1}

PAGE = Derivation(
    name="prefill-and-decode",
    title=__doc__.rstrip("."),
    question="The same layer, the same weights: why does prefill keep an accelerator's matrix units busy while decoding waits "
    "for memory, and why does a larger batch mend it for the feed-forward layers but not for attention?",
    statement="A kernel is bound by arithmetic if it has more operations to the byte than the accelerator, whose number is the "
    "ridge. A prompt's attention has the more the longer the prompt; a new token's products with weights have the size of the "
    "batch; its attention has at most the size of a group of heads, whatever the batch.",
    source="the ridge: Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785; decoding: Shazeer 2019, "
    "arXiv:1911.02150, sections 2.4 and 3",
    notation=(
        (b, "sequences in the batch"),
        (g, "key heads"),
        (r, "query heads to a key head"),
        (d, "width of a head"),
        (n, "tokens of context"),
        (t, "tokens of a prompt"),
        (peak, "operations that the accelerator does in a second"),
        (speed, "bytes that its memory moves in a second"),
        (v, "inputs of a matrix of weights"),
        (w, "its outputs"),
        (s, "rows that it is multiplied with: tokens of all sequences"),
        (more, "any amount more"),
    ),
    assumes=(
        "all numbers are stored in 16 bits",
        "the model is as wide as its query heads together, values are as wide as keys",
        "memory and arithmetic overlap, and each runs at its peak",
        "each input is read once and each output written once, as a fused kernel does",
        "a matrix of weights is large enough: `\\rho (v + w) < v w`",
    ),
    lets=(
        Let(eq(ridge, peak / speed), "the ridge"),
        read_off(F_p, "gqa", "flops.matmul", letters, "products of a causal prefill"),
        read_off(B_p, "gqa", "hbm_bytes.compulsory", letters, "its bytes"),
        read_off(F_d, "gqa", "flops.matmul", one, "products of one new token with the cache", phase="decode"),
        read_off(B_d, "gqa", "hbm_bytes.compulsory", one, "their bytes", phase="decode"),
        read_off(W, "gqa", "parameters", letters, "weights of the projections"),
        read_off(F_t, "gqa", "flops.projections", letters, "products of a prompt with weights"),
        read_off(F_w, "gqa", "flops.projections", one, "products of one new token with weights", phase="decode"),
        Let(eq(turn, 2 * ridge * (1 + r) / r - 1), "the prompt at which prefill turns"),
        Let(eq(F_m, 2 * s * v * w), "operations of a product of `s` rows with `v` by `w` weights"),
        Let(eq(B_m, 2 * (v * w + s * v + s * w)), "its bytes: weights, rows in, rows out"),
        Let(eq(rows, ridge * v * w / (v * w - ridge * (v + w))), "the rows at which it turns"),
        Let(eq(ceiling, r * (n + d * g * (1 + r)) / (n + r)), "what batching ends at"),
        Let(eq(context, r * (d * g * (1 + r) - ridge) / (ridge - r)), "the context at which that is the ridge"),
    ),
    steps=(
        Step(
            "Operations take longer than bytes if there are more to the byte than the ridge",
            eq((F_p / peak) / (B_p / speed), (F_p / B_p) / ridge),
            same,
        ),
        Step(
            "A prompt has a quarter of its length a byte if each head has its own keys, and up to half if they share",
            eq(F_p / B_p, r * (t + 1) / (2 * (1 + r))),
            scalars,
        ),
        Step("so that they grow without bound", eq(Limit(B_p / F_p, t, oo), 0), scalars),
        Step("At `T` tokens they are the ridge", eq(Subs(F_p / B_p, t, turn), ridge), scalars),
        Step("and any longer prompt is bound by arithmetic", gt(Subs(F_p / B_p, t, turn + more), ridge), signs),
        Step(
            "One new token against its cache has fewer than `r` for each byte, however long the context",
            gt(r, F_d / B_d),
            signs,
        ),
        Step("and as many in any batch: each sequence brings its own cache", eq(Derivative(F_d / B_d, b), 0), scalars),
        Step(
            "so that wherever the ridge is above `r`, attention in decoding is bound by memory",
            gt(Subs(B_d / speed - F_d / peak, peak, speed * (r + more)), 0),
            signs,
        ),
        Step("A token is multiplied with each weight once, whatever the batch", eq(F_w, 2 * b * W), same),
        Step("so are all tokens of a prompt: it counts as a batch of `b t`", eq(F_t, t * F_w), same),
        Step(
            "Weights of 2 bytes are read once for the batch: the operations per byte are the batch, and it turns at the ridge",
            eq(Subs(F_w / peak, b, ridge), 2 * W / speed),
            scalars,
        ),
        Step(
            "With the rows themselves counted, a product takes as long to compute as to move at `S` rows",
            eq(Subs(F_m / peak, s, rows), Subs(B_m / speed, s, rows)),
            scalars,
        ),
        Step(
            "more than the ridge, the more so the narrower the matrix is",
            eq(1 / ridge - 1 / rows, 1 / v + 1 / w),
            scalars,
        ),
        Step(
            "More rows cannot bring it beyond `v w / (v + w)`, so a narrow matrix stays bound by memory in any batch",
            eq(Limit(F_m / B_m, s, oo), v * w / (v + w)),
            scalars,
        ),
        Step(
            "Of projections and attention together, a batch can bring no more than this",
            eq(Limit((F_w + F_d) / (2 * W + B_d), b, oo), ceiling),
            scalars,
        ),
        Step("Each token of context takes away from it", gt(-Derivative(ceiling, n), 0), signs),
        Step(
            "so that beyond `N` tokens no batch brings the layer to the ridge",
            eq(Subs(ceiling, n, context), ridge),
            scalars,
        ),
        Step("In the end the cache alone decides", eq(Limit(ceiling, n, oo), r), scalars),
    ),
    so="Batch to fill the matrix units, up to about the ridge in sequences (some 300 on an H100 in 16 bits). Past that, and in "
    "long contexts at once, only a smaller cache helps: larger groups, latents, windows, fewer bits. A piece of a prompt of "
    "about as many tokens as the ridge fills the arithmetic that decoding leaves idle.",
)
