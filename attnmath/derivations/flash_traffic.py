"""What FlashAttention moves: tiles, on-chip memory, and the least that any order of loops has to move."""

from sympy import Derivative, Limit, Rational, Subs, oo

from attnmath.proving.checks import Cited, scalars, signs
from attnmath.proving.costs import read_off, walked
from attnmath.proving.page import Derivation, Let, Step
from attnmath.proving.terms import eq, ge, gt, reals, sizes
from attnmath.readings.schedules import held, named

N, d, r, c, R, C = sizes("N d r c R C")
M, more, longer, kappa, excess = reals("M e x kappa y", positive=True)
F1, F2, U, L, need, cols, rows, cols_1, rows_1, G1, G2, c_0, M_0, bound, X, paper = reals(
    "F_1 F_2 U L E c_max r_max c_1 r_1 G_1 G_2 c_0 M_0 B X E_0", positive=True
)
letters = {"b": 1, "h": 1, "d": d, "t": r * R, "n": c * C}
whole = {"b": 1, "h": 1, "d": d, "t": N, "n": N}
tiles = {"t": r, "n": c}
tile, accumulators = held(named("flash-1"), r, c, d, d)
long = ((N, M), ((12 * d + 16 + more + longer) / d, 12 * d + 16 + more))  # N d > M, and M > 2 (6 d + 8)

PAGE = Derivation(
    name="flash-traffic",
    title=__doc__.rstrip("."),
    question="FlashAttention reads keys and values more than once and still moves less than attention that reads them once. How "
    "much does it move, which tiles should it take, when does it pay, and could another order of the loops do better?",
    statement="With keys in the outer loop, traffic is `\\Theta(N^2 d^2 / M)` for `M` bytes on the chip, at best with as many "
    "keys as fit beside one row of queries; with queries in the outer loop (FlashAttention-2) it is less by a constant. No exact "
    "algorithm does better than by a constant.",
    source="Dao et al. 2022, arXiv:2205.14135, theorem 2 and proposition 3; Dao 2023, arXiv:2307.08691, algorithm 1; Saha and Ye "
    "2024, arXiv:2402.07443",
    notation=(
        (N, "queries, and as many keys"),
        (d, "width of the head, of its values too"),
        (r, "rows of a tile: queries"),
        (c, "columns of a tile: keys"),
        (M, "bytes on the chip"),
        (more, "any amount more"),
        (longer, "any amount more"),
        (kappa, "the constant of the lower bound, in bytes"),
        (excess, "what an algorithm moves beyond it, which the theorem says is not negative"),
    ),
    assumes=(
        "one head of one sequence, no mask",
        "inputs and results are stored in 16 bits; scores, sums and results that come and go are kept in 32",
        "tiles divide the sequence: `r` and `c` divide `N`, and each loop has several turns",
        "shared memory and registers are one, and hold nothing else: one stage of tiles, no cache behind it",
        "tiles of any real size: what instructions take is rounded down from it",
        "the thinnest tile fits: `M > 6 d + 8`; the bound from above is for `M \\ge 12 d + 16` and sequences of `N d \\ge M`",
    ),
    lets=(
        Let(eq(R, N / r), "rows of tiles"),
        Let(eq(C, N / c), "columns of tiles"),
        walked(F1, "mha", "flash-1", tiles, letters, "bytes moved with keys in the outer loop"),
        walked(F2, "mha", "flash-2", tiles, letters, "bytes moved with queries in the outer loop"),
        read_off(U, "mha", "hbm_bytes.unfused", whole, "bytes moved with every equation on its own", mask="full"),
        read_off(L, "mha", "hbm_bytes.compulsory", whole, "inputs and results once", mask="full"),
        Let(
            eq(need, 2 * tile + 4 * accumulators),
            "bytes on the chip: tiles of Q, K, V in 16 bits; scores, results, sums in 32",
        ),
        Let(eq(cols, (M - r * (6 * d + 8)) / (4 * (d + r))), "the keys that fit beside `r` queries"),
        Let(eq(rows, (M - 4 * c * d) / (6 * d + 8 + 4 * c)), "the queries that fit beside `c` keys"),
        Let(eq(cols_1, (M - 6 * d - 8) / (4 * (d + 1))), "the keys that fit beside one query"),
        Let(eq(rows_1, (M - 4 * d) / (6 * d + 12)), "the queries that fit beside one key"),
        Let(eq(G1, 2 * N * d + 8 * N**2 * (5 * d + 8) * (d + 1) / (M - 6 * d - 8)), "the least with keys outside"),
        Let(eq(G2, 4 * N * d + 24 * N**2 * d * (d + 2) / (M - 4 * d)), "the least with queries outside"),
        Let(eq(c_0, (5 * d + 8) / 6), "the keys of a tile from which fusing pays"),
        Let(eq(M_0, (10 * d**2 + 44 * d + 40) / 3), "the bytes on the chip from which it pays"),
        Let(eq(paper, 2 * r * d + 2 * c * d + r * c), "numbers on the chip: Q, K, V, O and the scores of a tile"),
        Let(eq(bound, N**2 * d**2 / M), "the order of the traffic"),
        Let(eq(X, kappa * bound + excess), "what some exact algorithm moves"),
    ),
    steps=(
        Step(
            "Keys outside: keys and values once; queries, results and sums once for each column of tiles",
            eq(F1, 2 * N * d + 2 * N**2 * (5 * d + 8) / c),
            scalars,
        ),
        Step("The rows of a tile do not matter to it", eq(Derivative(F1, r), 0), scalars),
        Step("and more keys at a time always move less", gt(-Derivative(F1, c), 0), signs),
        Step("Beside `r` queries, `c_{max}` keys fill the chip", eq(Subs(need, c, cols), M), scalars),
        Step(
            "and every further query takes their room, so the best tile has one row of queries",
            gt(-Derivative(cols, r), 0),
            signs,
        ),
        Step("With it, and as many keys as fit, the traffic is `G_1`", eq(Subs(F1, c, cols_1), G1), scalars),
        Step(
            "That is more than `40 N^2 d^2 / M` on any chip that the tile fits",
            gt(Subs(G1 - 40 * bound, M, 6 * d + 8 + more), 0),
            signs,
        ),
        Step(
            "and, for a sequence that does not fit, no more than 418 of them: `\\Theta(N^2 d^2 / M)`",
            ge(Subs(418 * bound - G1, *long), 0),
            signs,
        ),
        Step(
            "The paper's own tile, `M / 4 d` keys by `d` queries, counted in numbers, fits with its scores where `M \\ge 8 d^2`",
            ge(Subs(M - Subs(paper, (r, c), (d, M / (4 * d))), M, 8 * d**2 + more), 0),
            signs,
        ),
        Step("Unfused, the scores are written and read three times over", eq(U, 8 * N * d + 12 * N**2), scalars),
        Step(
            "Fused, less is moved at any length if a tile has more than `c_0` keys",
            gt(Subs(U - F1, c, c_0 + more), 0),
            signs,
        ),
        Step(
            "and more in long sequences if it has fewer",
            gt(Subs(Limit((F1 - U) / N**2, N, oo), c, c_0 / (1 + more)), 0),
            signs,
        ),
        Step(
            "One row of queries and `c_0` keys take `M_0` bytes, so that this is the chip from which fusing pays",
            eq(Subs(need, (r, c), (1, c_0)), M_0),
            scalars,
        ),
        Step(
            "Queries outside: queries and results once; keys and values once for each row of tiles",
            eq(F2, 4 * N * d + 4 * N**2 * d / r),
            scalars,
        ),
        Step(
            "It beats the unfused one with a third of the width in rows already",
            gt(Subs(U - F2, r, Rational(1, 3) * d + more), 0),
            signs,
        ),
        Step("Beside `c` keys, `r_{max}` queries fill the chip", eq(Subs(need, r, rows), M), scalars),
        Step(
            "and every further key takes their room, so here the best tile has one column of keys",
            gt(-Derivative(rows, c), 0),
            signs,
        ),
        Step("With it, the traffic is `G_2`", eq(Subs(F2, r, rows_1), G2), scalars),
        Step(
            "In long sequences, keys outside move more than `5/3` of that on any chip: results that come and go are wide",
            gt(Subs(Limit(G1 / G2, N, oo), M, 6 * d + 8 + more), Rational(5, 3)),
            signs,
        ),
        Step(
            "In numbers, `M = N d` makes it `N d`, what inputs and results take alone: nothing is of lower order at every `M`",
            eq(Subs(bound, M, N * d), L / 8),
            scalars,
        ),
        Step(
            "For each `M` of at least `d^2` numbers, no exact algorithm moves less than a constant times it",
            ge(X, kappa * bound),
            Cited(
                source="Saha and Ye 2024, arXiv:2402.07443, which holds for fast matrix multiplication, too",
                reason="its proof counts communication of compressed matrices, not sums",
            ),
        ),
        Step(
            "so that FlashAttention moves at most `418 / \\kappa` times what any other has to",
            ge(Subs(418 * X / kappa - G1, *long), 0),
            signs,
        ),
    ),
    so="Give the chip to the operand that stays and stream the other in the thinnest tiles that keep the matrix units busy: keys "
    "that stay cost results that travel in 32 bits, which is why FlashAttention-2 turned the loops round. A wider head costs the "
    "square of its width; more on-chip memory repays in proportion; another exact algorithm cannot repay more than a constant.",
)
