"""Low rank: when Linformer's and Nyström attention are exact, and what they leave out."""

from mpmath import matrix
from sympy import Function, KroneckerDelta, exp

from attnmath.proving.checks import Algebra, Witness, algebra
from attnmath.proving.page import Derivation, Given, Let, Step
from attnmath.proving.terms import eq, indices, ne, reals, sizes, tensors, total

n, p, m, c, d, e = sizes("n p m c d e")
i, j, l = indices("i j l", n)
r, s = indices("r s", p)
a, b, g = indices("a b g", m)
(t,) = indices("t", c)
(h,) = indices("h", d)
(u,) = indices("u", e)
B, F, V, S, P, W, X, q, k, K, w, v, y = tensors("B F V S P W X q k K w v y")
T, M, N, C, R, U, L, inv, A, Z, f, core, rows, whole = tensors("T M N C R U L D A Z f f' f'' F'")
s1, s2, v1, v2 = reals("s_1 s_2 v_1 v_2")
share = reals("rho", positive=True)
row, column = (Function(x, integer=True, nonnegative=True) for x in ("lambda", "mu"))


def inverse(block):
    """The inverse of a matrix over the landmarks, by numbers: the model of a hypothesis."""

    def entry(world, first, second):
        size = range(int(world(m)))
        return (matrix([[world(block, {a: x, b: z}) for z in size] for x in size]) ** -1)[first, second]

    return entry


def mirrored(world, first, second):
    """Rows of a mirror image of the identity, which are orthonormal: I - 2 y y^T / |y|^2."""
    length = sum(world.entry("y", (x,)) ** 2 for x in range(int(world(n))))
    return int(first == second) - 2 * world.entry("y", (first,)) * world.entry("y", (second,)) / length


def own(world, first, second):
    """Any matrix whose landmark rows are those of the identity."""
    landmarks = [int(world(row(a), {a: x})) for x in range(int(world(m)))]
    return int(landmarks[second] == first) if first in landmarks else world.entry("y", (first, second))


def kept(x):
    """What is left of a row of weights after the projection, and brought back."""
    return total(W[i, r] * F[r, x], r)


def nystrom(columns, middle, landmark_rows):
    """The product of n x m, m x m and m x n."""
    return total(columns * middle * landmark_rows, a, b)


orthonormal = eq(total(F[r, j] * F[s, j], j), KroneckerDelta(r, s))
pooled = eq(k[r, t, h], w[r, h])
mean = eq(K[r, h], w[r, h])
right = eq(total(M[row(a), column(b)] * A[b, g], b), KroneckerDelta(a, g))
left = eq(total(A[a, b] * M[row(b), column(g)], b), KroneckerDelta(a, g))
themselves = eq(U[row(a), b], KroneckerDelta(a, b))
solved = eq(total(L[a, column(b)] * Z[b, g], b), KroneckerDelta(a, g))
landmark = eq(T[row(a), j], L[a, j])
exact = eq(nystrom(T[i, column(a)], Z[a, b], T[row(b), j]), T[i, j])
queries = eq(f[i], share * whole[i])
others = eq(core[a], share * rows[a])
enough, fits = n >= m, n >= p

PAGE = Derivation(
    name="low-rank",
    title=__doc__.rstrip("."),
    question="Linformer projects keys and values to a fixed number, Nyström attention goes through a few landmarks. When is that "
    "the same function as attention, and what is lost otherwise?",
    statement="A matrix whose rows lie in the range of a projection passes through it unharmed; of any other, what is lost is "
    "what lies outside, on both sides of the product. The Nyström product through `m` landmarks is exact on their rows and "
    "columns, and everywhere if the rank is `m`. Both statements are about the matrix before the softmax's division: projected "
    "scores under a softmax are exact only where the keys of a pool agree.",
    source="Wang et al. 2020, arXiv:2006.04768, section 4; Xiong et al. 2021, arXiv:2102.03902, section 3",
    notation=(
        (n, "keys, and queries"),
        (p, "projected keys, or pools of keys"),
        (c, "keys in a pool"),
        (m, "landmarks"),
        (d, "width of queries and keys"),
        (e, "width of values"),
        (P, "any matrix of weights, of queries and keys"),
        (B, "the coefficients of weights that are made of the projection's rows"),
        (F, "the projection, of `p` rows"),
        (V, "the values"),
        (q, "a query"),
        (k, "keys in pools"),
        (w, "what the keys of a pool all are"),
        (v, "values in pools"),
        (s1, "a score"),
        (s2, "another"),
        (v1, "a value"),
        (v2, "another"),
        (M, "any matrix of queries and keys: before the division, exponentials of scores"),
        (row, "which queries are landmarks"),
        (column, "which keys are"),
        (A, "the inverse of the landmarks' block of `M`"),
        (L, "`m` rows"),
        (U, "how every row is made of them"),
        (Z, "the inverse of their landmark columns"),
        (whole, "the sum of a row of `T` over all keys"),
        (f, "what a query's row sums to over the landmark keys"),
        (rows, "the sum of a landmark's row over all keys"),
        (core, "and over the landmark keys"),
        (share, "one share, the same for all rows"),
    ),
    assumes=("there are no more landmarks, and no more projected keys, than keys", "sums of rows are not zero"),
    lets=(
        Let(eq(X[i, j], total(B[i, r] * F[r, j], r)), "weights whose rows lie in the projection's range: rank `p`"),
        Let(eq(W[i, r], total(P[i, j] * F[r, j], j)), "any weights, projected"),
        Let(eq(N[i, j], P[i, j] - kept(j)), "what the projection leaves out of them"),
        Let(eq(K[r, h], total(k[r, t, h], t) / c), "Linformer's projection by pools: their mean keys"),
        Let(eq(S[r], total(q[h] * K[r, h], h)), "the scores of the pools"),
        Let(
            eq(R[i, j], M[i, j] - nystrom(M[i, column(a)], A[a, b], M[row(b), j])),
            "what the Nyström product leaves out",
        ),
        Let(eq(T[i, j], total(U[i, a] * L[a, j], a)), "a matrix of rank `m`, made of its landmark rows"),
    ),
    given=(
        Given(orthonormal, "the projection's rows are orthonormal", {"F": mirrored}, when=(fits,)),
        Given(pooled, "the keys of a pool are equal", {"k": lambda world, x, _, z: world.entry("w", (x, z))}),
        Given(
            right,
            "the landmarks' block of `M` has an inverse",
            {"A": inverse(M[row(a), column(b)])},
            when=(enough,),
        ),
        Given(left, "which is one from both sides", {"A": inverse(M[row(a), column(b)])}, when=(enough,)),
        Given(themselves, "a landmark row is made of itself", {"U": own}, when=(enough,)),
        Given(
            solved,
            "the landmark rows and columns of `T` have an inverse",
            {"Z": inverse(L[a, column(b)])},
            when=(enough,),
        ),
        Given(
            queries,
            "landmarks take the same share of every query's row",
            {"f": lambda world, x: world(share) * world.entry("F'", (x,))},
        ),
        Given(
            others,
            "and of every landmark's",
            {"f'": lambda world, x: world(share) * world.entry("f''", (x,))},
        ),
    ),
    steps=(
        Step(
            "Weights in the projection's range meet projected values as they meet the values: nothing is lost",
            eq(
                total(total(X[i, j] * F[r, j], j) * total(F[r, l] * V[l, u], l), r),
                total(X[i, j] * V[j, u], j),
            ),
            Algebra(using=(orthonormal,)),
            when=(fits,),
        ),
        Step(
            "Of any other weights the squares divide into what is kept and what is left out (Pythagoras)",
            eq(total(P[i, j] ** 2, j), total(W[i, r] ** 2, r) + total(N[i, j] ** 2, j)),
            Algebra(using=(orthonormal,)),
            when=(fits,),
        ),
        Step(
            "and the output is off by what was left out, times the values",
            eq(
                total(W[i, r] * total(F[r, j] * V[j, u], j), r),
                total(P[i, j] * V[j, u], j) - total(N[i, j] * V[j, u], j),
            ),
            algebra,
        ),
        Step(
            "of which only what the projection leaves out of them counts: values within its range forgive the rest",
            eq(
                total(N[i, j] * V[j, u], j),
                total(N[i, j] * (V[j, u] - total(F[r, j] * total(F[r, l] * V[l, u], l), r)), j),
            ),
            Algebra(using=(orthonormal,)),
            when=(fits,),
        ),
        Step(
            "Linformer, though, projects keys before the softmax. By pools of equal keys, their mean is each of them",
            mean,
            Algebra(using=(pooled,)),
        ),
        Step(
            "so that a softmax over pools, of the pools' mean values, is attention over all keys",
            eq(
                total(exp(S[r]) * total(v[r, t, u], t) / c, r) / total(exp(S[r]), r),
                total(exp(total(q[h] * k[r, t, h], h)) * v[r, t, u], r, t)
                / total(exp(total(q[h] * k[r, t, h], h)), r, t),
            ),
            Algebra(using=(mean, pooled)),
        ),
        Step(
            "A pool of two keys that differ is not: one pool has the weight 1, and its mean value, whatever the scores",
            ne((exp(s1) * v1 + exp(s2) * v2) / (exp(s1) + exp(s2)), (v1 + v2) / 2),
            Witness(at=((s1, 1), (s2, 0), (v1, 1), (v2, 0))),
        ),
        Step(
            "Nyström: of any matrix, nothing is left out of the landmarks' rows",
            eq(R[row(g), j], 0),
            Algebra(using=(right,)),
            when=(enough,),
        ),
        Step(
            "nor of their columns; elsewhere what is left out is the Schur complement of their block",
            eq(R[i, column(g)], 0),
            Algebra(using=(left,)),
            when=(enough,),
        ),
        Step(
            "A matrix of rank `m` is made of `m` rows, and these are its own at the landmarks",
            landmark,
            Algebra(using=(themselves,)),
            when=(enough,),
        ),
        Step(
            "so the product of its landmark columns, the inverse of its landmarks' block and its landmark rows is all of it",
            exact,
            Algebra(using=(landmark, solved)),
            when=(enough,),
        ),
        Step(
            "Applied to values from the right, no matrix is larger than `n` by `m`: the cost is linear in the keys",
            eq(
                total(nystrom(M[i, column(a)], A[a, b], M[row(b), j]) * V[j, u], j),
                total(M[i, column(a)] * total(A[a, b] * total(M[row(b), j] * V[j, u], j), b), a),
            ),
            algebra,
            when=(enough,),
        ),
        Step(
            "Nyström attention divides each of the three by its own sums of rows: the inverse then carries the block's",
            eq(
                total(L[a, column(b)] / core[a] * Z[b, g] * core[g], b),
                KroneckerDelta(a, g),
            ),
            Algebra(using=(solved,)),
            when=(enough,),
        ),
        Step(
            "so that it returns the softmax of a matrix of rank `m` where landmarks take the same share of every row",
            eq(
                nystrom(T[i, column(a)] / f[i], Z[a, b] * core[b], T[row(b), j] / rows[b]),
                T[i, j] / whole[i],
            ),
            Algebra(using=(queries, others, landmark, solved)),
            when=(enough,),
        ),
    ),
    so="Neither method is attention at a lower price: each is exact for matrices of low rank, and weights that single out "
    "another key for every query have full rank. No projection to `p` rows leaves out less than the squares of the singular "
    "values beyond the first `p` (Eckart and Young 1936). Causal masks do not fit either: a projected key mixes positions.",
)
