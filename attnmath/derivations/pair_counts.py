"""Pair counts: how many keys the queries of each mask see, in closed form."""

from sympy import KroneckerDelta, Sum, exp, floor

from attnmath.language.masks import MASKS
from attnmath.proving.checks import Cases, algebra
from attnmath.proving.costs import pairs, read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import AtMost, counts, eq, indices, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

n, t, w, k, c, s, m, b, h, g = sizes("n t w k c s m b h g")
p, u, l, r, x, y, v, z = counts("p u l r x y v z")
lengths = k1, k2, k3 = sizes("k_1 k_2 k_3")
i, j = counts("i j")
I, J, K = indices("i j f", n)
(rest,) = indices("rho", c)
(few,) = indices("a", w + 1)
(part,) = indices("q", w)
(e,) = indices("e", r)
C, T, B, W, P, F, H, A, N, D, U, G, Z = tensors("C T B W P F H A N D U G Z")
S, M, A_C, A_W, A_P = tensors("S M A_C A_W A_P")
d1, d2 = indices("x v", g)
exps, exps_past, exps_window = reals("X_0 X_1 X_2")


def mask(tensor, name, holds):
    """A mask of the table: 1 where the pair of query i and key j exists."""
    args = f"({', '.join(MASKS[name].args)})" if MASKS[name].args else ""
    shown = f"{name.replace('_', '-')}{args}".replace("k..", "k_1, k_2, k_3")
    return Let(eq(tensor[I, J], holds), f"the mask {shown}: {MASKS[name].meaning}")


def weights(tensor, under, name):
    """The softmax over the keys that a mask leaves, which a variant computes."""
    shown = under[I, J] * exp(S[I, J]) / total(under[I, K] * exp(S[I, K]), K)
    return Let(eq(tensor[I, J], shown), f"a softmax under the mask {name}")


def seen(under, new, keys, past=0):
    """The pairs that a mask has between `new` queries from position `past` on and the first `keys` keys."""
    return Sum(under[i, j], (j, 0, keys - 1), (i, past, past + new - 1))


def in_blocks(under, width):
    """The pairs of g blocks of so many tokens: query y of block x and key z of block v."""
    return Sum(under[width * x + y, width * v + z], (z, 0, width - 1), (v, 0, g - 1), (y, 0, width - 1), (x, 0, g - 1))


def cut(**at):
    """Summation by cases, the queries or the keys cut at these places."""
    names = {"i": i, "j": j, "v": v, "z": z, "y": y}
    return Cases(at=tuple((names[name], places) for name, places in at.items()))


def triangle(length):
    """1 + 2 + ... + length."""
    return length * (length + 1) / 2


document = AtMost(k1, I) + AtMost(k1 + k2, I)  # how many documents have ended before position i
other = document.xreplace({I: J})
after = k1 + k2 + k3
windowed, banded = w + u, l + r + 1 + u
long, short = 2 * r + 1 + u, r + 1 + e

PAGE = Derivation(
    name="pair-counts",
    title=__doc__.rstrip("."),
    question="A causal mask halves the work, nearly; a window of 4,096 makes it linear, nearly. How many pairs of query and key "
    "are there exactly, with a past or without, under each mask, and is that what a cost model counts?",
    statement="Every mask of the table has a closed form, a polynomial on each side of the places where a window fills or a "
    "prefix ends. Each right side below is what the table of masks counts with symbols for sizes; each left side adds up "
    "the mask itself, pair by pair.",
    source="the table of masks, attnmath/language/masks.py; `[j \\le i]`, 1 where it holds and else 0, is Iverson's bracket: "
    "Knuth 1992, arXiv:math/9205211",
    notation=(
        (n, "positions of a sequence"),
        (t, "new queries"),
        (p, "earlier tokens, whose keys are in the cache"),
        (i, "position of a query"),
        (j, "position of a key"),
        (w, "width of a window"),
        (k, "keys that everyone sees"),
        (c, "tokens in a chunk"),
        (r, "keys that are seen on the right"),
        (l, "keys that are seen on the left"),
        (s, "stride"),
        (m, "tokens in a block"),
        (g, "how many chunks, strides, blocks or documents"),
        (u, "how many more, any number"),
        (few, "new queries, no more than the window is wide"),
        (part, "earlier tokens, fewer than the window is wide"),
        (e, "how many more than `r + 1` positions there are, fewer than `r`"),
        (rest, "tokens of a chunk that is not full"),
        (x, "block of the query"),
        (y, "place of the query in its block"),
        (v, "block of the key"),
        (z, "place of the key in its block"),
        *zip(lengths, ("length of the first document", "of the second", "of the third")),
        (b, "sequences in the batch"),
        (h, "heads"),
        (S, "scores"),
        (M, "lengths of `g` documents"),
    ),
    lets=(
        mask(C, "causal", AtMost(J, I)),
        mask(T, "causal_top_left", AtMost(J, I - p)),
        mask(B, "before", AtMost(J, I - 1)),
        mask(W, "window", AtMost(J, I) * AtMost(I - w + 1, J)),
        mask(P, "prefix", AtMost(J, I) + AtMost(I + 1, J) * AtMost(J, k - 1)),
        mask(F, "first", AtMost(J, k - 1)),
        mask(H, "chunked", AtMost(J, I) * KroneckerDelta(floor(I / c), floor(J / c))),
        mask(A, "around", AtMost(I - r, J) * AtMost(J, I + r)),
        mask(N, "band", AtMost(I - l, J) * AtMost(J, I + r)),
        mask(D, "dilated", KroneckerDelta(I - s * floor(I / s), J - s * floor(J / s))),
        mask(U, "documents", KroneckerDelta(document, other)),
        mask(G, "blocks", AtMost(m * (J + 1), I + 1)),
        mask(Z, "blocks_before", AtMost(m * (J + 1), I)),
        weights(A_C, C, "causal"),
        weights(A_W, W, "window(w)"),
        weights(A_P, P, "prefix(k)"),
        read_off(exps, "mha", "exps", {"b": b, "h": h, "t": t}, "exponentials without a past", mask="causal"),
        read_off(
            exps_past,
            "mha",
            "exps",
            {"b": b, "h": h, "t": t, "n": p + t},
            "exponentials after `p` tokens",
            mask="causal",
            phase="decode",
        ),
        read_off(
            exps_window,
            "sliding-window",
            "exps",
            {"b": b, "h": h, "t": 1, "n": w + u + 1, "w": w},
            "exponentials of one new token behind a full window",
            phase="decode",
        ),
    ),
    steps=(
        Step(
            "Full: every query sees the new keys and those before them",
            eq(Sum(1, (j, 0, p + t - 1), (i, p, p + t - 1)), pairs("full", t, p + t, p)),
            algebra,
        ),
        Step(
            "Causal: the query at position `i` sees `i + 1` keys, so `t` of them, behind `p` earlier ones, see a trapezium",
            eq(seen(C, t, p + t, p), pairs("causal", t, p + t, p)),
            cut(j=(i + 1,)),
        ),
        Step(
            "Causal-top-left: the first new query sees the first key alone, whatever came before",
            eq(seen(T, t, p + t, p), pairs("causal-top-left", t, p + t, p)),
            cut(j=(i - p + 1,)),
        ),
        Step(
            "Before: a strict mask leaves each query one key fewer than the causal one, and the first none",
            eq(seen(B, t, t), pairs("before", t, t)),
            cut(j=(i,)),
        ),
        Step(
            "With a past of `p + 1` tokens it leaves what the causal one has with a past of `p`",
            eq(seen(B, t, p + 1 + t, p + 1), pairs("before", t, p + 1 + t, p + 1)),
            cut(j=(i,)),
        ),
        Step(
            "Window: of `w + u` positions the first `w` see a triangle, the others `w` keys each",
            eq(seen(W, windowed, windowed), pairs("window(w)", windowed, windowed, w=w, written=triangle(w) + u * w)),
            cut(i=(w,), j=(i - w + 1, i + 1)),
        ),
        Step(
            "Behind a past that fills the window, every new query sees `w` keys, and the context is out of the count",
            eq(seen(W, t, w + u + t, w + u), pairs("window(w)", t, w + u + t, w + u, w=w)),
            cut(j=(i - w + 1, i + 1)),
        ),
        Step(
            "Behind a past of `q` tokens, fewer than the window is wide, the triangle has lost its tip",
            eq(
                seen(W, windowed - part, windowed, part),
                pairs(
                    "window(w)",
                    windowed - part,
                    windowed,
                    part,
                    w=w,
                    known=((part, 0, w),),
                    written=triangle(w) - triangle(part) + u * w,
                ),
            ),
            cut(i=(w,), j=(i - w + 1, i + 1)),
        ),
        Step(
            "A window that is at least as wide as the sequence is the causal mask",
            eq(seen(W, few, few), pairs("window(w)", few, few, w=w, known=((few, 0, w + 1),))),
            cut(j=(i + 1,)),
        ),
        Step(
            "Prefix: the first `k` queries see `k` keys each, the others what a causal mask shows them",
            eq(seen(P, k + u, k + u), pairs("prefix(k)", k + u, k + u, k=k, written=triangle(k + u) + triangle(k - 1))),
            cut(i=(k,), j=(k, i + 1)),
        ),
        Step(
            "Once the prefix has passed, new queries see what they see under a causal mask",
            eq(seen(P, t, k + u + t, k + u), pairs("prefix(k)", t, k + u + t, k + u, k=k)),
            cut(j=(k, i + 1)),
        ),
        Step(
            "First: of `k + u` keys, each query sees the first `k`",
            eq(seen(F, t, k + u, p), pairs("first(k)", t, k + u, p, k=k)),
            cut(j=(k,)),
        ),
        Step(
            "Chunked: a triangle in each of `g` whole chunks",
            eq(in_blocks(H, c), pairs("chunked(c)", c * g, c * g, c=c)),
            cut(v=(x, x + 1), z=(y + 1,)),
        ),
        Step(
            "A further chunk that is not full has a triangle of its own, which no earlier key is in",
            eq(
                Sum(H[c * g + y, c * v + z], (z, 0, c - 1), (v, 0, g - 1), (y, 0, rest - 1))
                + Sum(H[c * g + y, c * g + z], (z, 0, rest - 1), (y, 0, rest - 1)),
                pairs("chunked(c)", rest, c * g + rest, c * g, c=c, known=((rest, 0, c),)),
            ),
            cut(z=(y + 1,)),
        ),
        Step(
            "Around: a square of positions without the two corners that are further than `r` away",
            eq(seen(A, long, long), pairs("around(r)", long, long, r=r, written=long**2 - 2 * triangle(r + u))),
            cut(i=(r, r + u + 1), j=(i - r, i + r + 1)),
        ),
        Step(
            "and so it is where the middle queries see everything, since the corners still do not meet",
            eq(
                seen(A, short, short),
                pairs("around(r)", short, short, r=r, known=((e, 0, r),), written=short**2 - 2 * triangle(e)),
            ),
            cut(i=(e + 1, r), j=(i - r, i + r + 1)),
        ),
        Step(
            "Band: likewise, each side without its own corner, if the sequence is longer than both sides together",
            eq(
                seen(N, banded, banded),
                pairs("band(l, r)", banded, banded, l=l, r=r, written=banded**2 - triangle(r + u) - triangle(l + u)),
            ),
            cut(i=(l, l + u + 1), j=(i - l, i + r + 1)),
        ),
        Step(
            "Dilated: of `g` whole strides, each of the `s` residues has `g` queries and `g` keys",
            eq(in_blocks(D, s), pairs("dilated(s)", s * g, s * g, s=s)),
            cut(z=(y, y + 1)),
        ),
        Step(
            "Under a causal mask, each residue has a triangle of its own",
            eq(
                Sum(
                    D[s * x + y, s * v + z] * C[s * x + y, s * v + z],
                    (z, 0, s - 1),
                    (v, 0, g - 1),
                    (y, 0, s - 1),
                    (x, 0, g - 1),
                ),
                pairs("causal & dilated(s)", s * g, s * g, s=s),
            ),
            cut(v=(x, x + 1), z=(y, y + 1)),
        ),
        Step(
            "Documents: three of them, packed one after the other, are three squares",
            eq(seen(U, after, after), pairs("documents(k1, k2, k3)", after, after, k1=k1, k2=k2, k3=k3)),
            cut(i=(k1, k1 + k2), j=(k1, k1 + k2)),
        ),
        Step(
            "and under a causal mask three triangles",
            eq(
                Sum(U[i, j] * C[i, j], (j, 0, after - 1), (i, 0, after - 1)),
                pairs(
                    "causal & documents(k1, k2, k3)",
                    after,
                    after,
                    k1=k1,
                    k2=k2,
                    k3=k3,
                    written=sum(map(triangle, lengths)),
                ),
            ),
            cut(i=(k1, k1 + k2), j=(k1, k1 + k2, i + 1)),
        ),
        Step(
            "However many there are, a query and a key meet if their document is one: squares add up",
            eq(total(M[d1] * M[d2] * KroneckerDelta(d1, d2), d1, d2), total(M[d1] ** 2, d1)),
            algebra,
        ),
        Step(
            "Blocks: of `g` blocks of `m` tokens, the last query of a block sees it, and the others see those before it",
            eq(
                Sum(G[m * x + y, j], (j, 0, g - 1), (y, 0, m - 1), (x, 0, g - 1)),
                pairs("blocks(m)", m * g, g, m=m, written=m * triangle(g - 1) + g),
            ),
            cut(y=(m - 1,), j=(x, x + 1)),
        ),
        Step(
            "Blocks-before: every query sees the blocks before its own",
            eq(
                Sum(Z[m * x + y, j], (j, 0, g - 1), (y, 0, m - 1), (x, 0, g - 1)),
                pairs("blocks-before(m)", m * g, g, m=m),
            ),
            cut(j=(x,)),
        ),
        Step(
            "An exponential is taken for each pair, head and sequence: without a past",
            eq(exps, b * h * seen(C, t, t)),
            cut(j=(i + 1,)),
        ),
        Step("and with one", eq(exps_past, b * h * seen(C, t, p + t, p)), cut(j=(i + 1,))),
        Step(
            "and behind a full window, as many for each token as the window is wide",
            eq(exps_window, b * h * seen(W, 1, w + u + 1, w + u)),
            cut(j=(i - w + 1, i + 1)),
        ),
    ),
    ties=tuple(
        Tie(
            f"the weights under {text}",
            "mha",
            {"L[t n]": S[I, J]},
            {"A[t n]": tensor[I, J]},
            numbers=numbers,
            options={"mask": text},
        )
        for tensor, text, numbers in (
            (A_C, "causal", {}),
            (A_W, "window(2)", {w: 2}),
            (A_P, "prefix(2)", {k: 2}),
        )
    ),
    so="A causal mask does not halve the work but leaves `(n + 1) / 2 n` of it. Count pairs and not squares: at 1,024 positions "
    "a window of 512 has three quarters of the causal mask's pairs, not half; in decoding, only what bounds the keys of one "
    "query (a window, a chunk, a prefix alone) makes a token's cost independent of the context.",
)
