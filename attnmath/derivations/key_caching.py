"""Why keys can be cached after they are rotated, and what breaks it."""

from typing import Any

from sympy import Lambda, Limit, Piecewise, Sum, cos, oo, pi, sin, sqrt

from attnmath.proving.checks import Cases, Witness, scalars, waves
from attnmath.proving.costs import read_off
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import AtMost, counts, eq, indices, ne, reals, sizes, tensors, total
from attnmath.proving.ties import Tie

t, h, N, kv, r, b = sizes("t h N g r b")
i, j, m, n = indices("i j m n", t)
(p,) = indices("p", h)
(a,) = indices("a", 2 * h)
(old,) = indices("j", t - 1)
c = counts("c")
Q1, Q2, K1, K2, x, y, xk, yk, A, B, S, F = tensors("Q1 Q2 K1 K2 x y x' y' A B S F")
theta, phi, u, v = tensors("theta phi u v")
R, M = reals("R M")


def turned(first: Any, second: Any, angle: Any) -> tuple[Any, Any]:
    """The two coordinates of a pair, turned by an angle."""
    return first * cos(angle) - second * sin(angle), first * sin(angle) + second * cos(angle)


def halves(first: Any, second: Any, *at: Any) -> Any:
    """A vector whose pairs' first entries come first, and then the second ones."""
    return Lambda((*(s for s in at if s.is_Symbol), a), Piecewise((first(a), a < h), (second(a - h), True)))


query = turned(Q1[i, p], Q2[i, p], m * theta[p])
key = turned(K1[j, p], K2[j, p], n * theta[p])
later = turned(Q1[i, p], Q2[i, p], m * phi[p])
wave = A[i, j, p] * cos((m - n) * theta[p]) + B[i, j, p] * sin((m - n) * theta[p])
astray = (m - n) * phi[p] + n * (phi[p] - theta[p])
moved = turned(xk[j, n, p], yk[j, n, p], c * theta[p])
mended = turned(xk[j, n, p], yk[j, n, p], n * (phi[p] - theta[p]))
anew = turned(K1[j, p], K2[j, p], n * phi[p])
frequencies = {theta[p]: 10000 ** (-p / h)}
letters = {"b": b, "g": kv, "r": r, "h": kv * r, "d": 2 * h, "n": N, "t": 1}
rope = {"mask": "full", "modifiers": ["rope"]}

PAGE = Derivation(
    name="key-caching",
    title=__doc__.rstrip("."),
    question="A score depends on how far a key is from the query, and that distance grows with every token. Why is the rotated "
    "key in the cache right all the same, for queries that did not exist when it was rotated? And when is it not?",
    statement="A wave in the distance is a product of a part of the query's position and one of the key's. The key's part is "
    "final when the key is made. It stays right as long as every key was turned with the frequencies that the query is turned "
    "with: a rescaling that follows the length of the context breaks it.",
    source="Su et al. 2021, arXiv:2104.09864, section 3.2.2; frequencies that change with the context: Peng et al. 2023, "
    "arXiv:2309.00071, section 3.3",
    notation=(
        (t, "tokens, the last of which is the one that is decoded"),
        (h, "pairs of entries: half of a head's width"),
        (Q1, "queries before they are turned, the first entry of each pair"),
        (Q2, "and the second"),
        (K1, "keys, likewise"),
        (K2, "and the second"),
        (theta, "the frequency of each pair"),
        (phi, "other frequencies, of a context that has grown"),
        (c, "by how many places a key is moved"),
        (F, "what a query sums over its keys: an exponential, or an exponential times a value"),
        (N, "keys in the context"),
        (b, "sequences"),
        (kv, "key heads"),
        (r, "query heads to a key head"),
    ),
    lets=(
        Let(eq(A[i, j, p], Q1[i, p] * K1[j, p] + Q2[i, p] * K2[j, p]), "the product of two pairs"),
        Let(eq(B[i, j, p], Q1[i, p] * K2[j, p] - Q2[i, p] * K1[j, p]), "the area between them"),
        Let(
            eq(S[i, j, m, n], total(wave, p)),
            "the score of query `i` at `m` with key `j` at `n`: waves in the distance",
        ),
        Let(eq(x[i, m, p], query[0]), "the query turned to its position, first entries"),
        Let(eq(y[i, m, p], query[1]), "second entries"),
        Let(eq(xk[j, n, p], key[0]), "what is cached: the key turned to its own position, first entries"),
        Let(eq(yk[j, n, p], key[1]), "second entries"),
        Let(eq(u[i, m, p], later[0]), "the query turned with other frequencies, first entries"),
        Let(eq(v[i, m, p], later[1]), "second entries"),
        read_off(
            R, "gqa", "flops.other", letters, "the work of turning one key", phase="decode", modifiers=["rope:on=k"]
        ),
        read_off(M, "gqa", "flops.matmul", letters, "the products of one query with the context", phase="decode"),
    ),
    steps=(
        Step(
            "A causal query sums over the keys up to its own place and no others, so what comes later changes no key and no "
            "value, in any layer: there is something to keep",
            eq(total(AtMost(j, i) * F[i, j], j), Sum(F[i, j], (j, 0, i))),
            Cases(at=((j, (i + 1,)),)),
        ),
        Step(
            "The product of a query and a key, each turned to its own place, is a wave in their distance",
            eq(x[i, m, p] * xk[j, n, p] + y[i, m, p] * yk[j, n, p], wave),
            waves,
        ),
        Step(
            "so a score, which knows the distance alone, factorises: into a part of the query's place, and of the key's own",
            eq(S[i, j, m, n], total(x[i, m, p] * xk[j, n, p] + y[i, m, p] * yk[j, n, p], p)),
            waves,
        ),
        Step(
            "The key's part has the length that the key had: what goes by lengths may be done before or after",
            eq(total(xk[j, n, p] ** 2 + yk[j, n, p] ** 2, p), total(K1[j, p] ** 2 + K2[j, p] ** 2, p)),
            waves,
        ),
        Step(
            "Nothing is lost in it: turned back, it is the key",
            eq(turned(xk[j, n, p], yk[j, n, p], -n * theta[p])[0], K1[j, p]),
            waves,
        ),
        Step(
            "To move a cached key by `c` places, say because a prompt is put elsewhere, it is turned once more; the key as it "
            "was is not needed",
            eq(moved[0], xk[j, n + c, p]),
            waves,
        ),
        Step("in both its entries", eq(moved[1], yk[j, n + c, p]), waves),
        Step(
            "What breaks it: a query turned with other frequencies than the cached keys. The angle is then not the distance's "
            "alone, but grows with the key's place",
            eq(
                u[i, m, p] * xk[j, n, p] + v[i, m, p] * yk[j, n, p],
                A[i, j, p] * cos(astray) + B[i, j, p] * sin(astray),
            ),
            waves,
        ),
        Step(
            "so that a shift of both places is seen",
            ne(cos((m + c) * phi[p] - (n + c) * theta[p]), cos(m * phi[p] - n * theta[p])),
            Witness(at=((m, 0), (n, 0), (c, 1), (theta[p], 0), (phi[p], pi))),
        ),
        Step(
            "To mend it, each key has to be turned by an angle of its own, every time that the frequencies change",
            eq(mended[0], anew[0]),
            waves,
        ),
        Step("in both its entries", eq(mended[1], anew[1]), waves),
        Step(
            "When they change with every token, all keys are turned at every step: beside the products of a long context that "
            "is work of one part in `r`, as much again where every head has keys of its own",
            eq(Limit(N * R / M, N, oo), 1 / r),
            scalars,
        ),
    ),
    ties=(
        Tie(
            "prefill: the scores of all tokens at once",
            "mha",
            {
                "Q0[t d]": halves(lambda a: Q1[i, a], lambda a: Q2[i, a], i),
                "k0[t d]": halves(lambda a: K1[j, a], lambda a: K2[j, a], j),
            },
            {"L[t n]": Lambda((i, j), S[i, j, i, j] / sqrt(2 * h))},
            numbers=frequencies,
            options=rope,
        ),
        Tie(
            "decode: those of the last token, with the keys before it as the page turns them in the cache",
            "mha",
            {
                "Q0[d]": halves(lambda a: Q1[t - 1, a], lambda a: Q2[t - 1, a]),
                "k0[d]": halves(lambda a: K1[t - 1, a], lambda a: K2[t - 1, a]),
            },
            {"L[n]": Lambda((j,), S[t - 1, j, t - 1, j] / sqrt(2 * h))},
            numbers=frequencies,
            cache={"k[t d]": halves(lambda a: xk[old, old, a], lambda a: yk[old, old, a], old)},
            options=rope,
        ),
    ),
    so="Rotate, then cache: one rotation for each key ever made. Scalings that are fixed beforehand (linear, YaRN, Llama 3's) "
    "are fine, since all keys were turned with them; those that follow the length of the context (dynamic NTK) are not: cache "
    "such keys before the rotation, or turn the cache again. A cached prompt may be used at another place if its keys are "
    "turned on by the difference; ALiBi, which touches scores alone, never turns a key.",
)
