"""Recomputation: what the forward pass does not keep, the backward pass computes again, in the language.

    selective   tensors of queries by keys are made again from Q, K and what is kept, the softmax as A = exp(L - LSE) from
                one number a row, LSE, the logarithm of its sum of exponentials (Dao 2023, arXiv:2307.08691, section 3.1.1;
                Korthikanti et al. 2022, arXiv:2205.05198, section 5); the row sum D = sum_n(A dA) becomes sum_e(dO O)
    full        all that the backward pass reads is made again from the page's inputs, and nothing that it does not read
                (Chen et al. 2016, arXiv:1604.06174)

D may be summed elsewhere since what is linear in y, and all that reads it, has the same sum of its elements times its
cotangent as y: sum_n A dA = sum_e O dO for O = A V, through a dropout between them as well. Where a softmax's result is read
in another way, D stays as it is. A recursion is not made again but in full: each step would need all before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from attnmath.errors import Unknown
from attnmath.language.modify import prune
from attnmath.language.order import in_order
from attnmath.language.rewrite import Names
from attnmath.language.syntax import Equation, Expr, Num, Op, Program, Ref, digits, letters, refs, swap_refs, terms
from attnmath.readings.count import recursive, tables

if TYPE_CHECKING:
    from attnmath.readings.gradient import Gradient

RECOMPUTE = ("none", "selective", "full")
LOWEST = Op("neg", (Op("^", (Num(10), Num(30))),))  # what the largest score is at the least, in any precision


def recomputed(found: Gradient, cotangent: Mapping[str, str], how: str) -> Gradient:
    """A gradient that keeps less: `how` is none, selective or full, or several joined by +, the first first.

    `cotangent`: the name of the cotangent of each tensor of the forward page. Raises Unknown for another word.

    >>> from attnmath import variants
    >>> from attnmath.readings.gradient import gradient
    >>> page = prune(variants.get("mha").program, ["O"])
    >>> print(gradient(page, wrt=["Q", "K", "V"], recompute="selective").backward)
    dO[b t h e]
    Q[b t h d]
    K[b n h d]
    V[b n h e]
    LSE[b h t]
    O[b t h e]
    S[b h t n] = Q[b t h d] * K[b n h d]
    L[b h t n] = S[b h t n] / sqrt(d)
    A[b h t n] = exp(L[b h t n] - LSE[b h t])
    dA[b h t n] = dO[b t h e] * V[b n h e]
    D[b h t] = sum_e(dO[b t h e] * O[b t h e])
    dL[b h t n] = A[b h t n] * (dA[b h t n] - D[b h t])
    dS[b h t n] = dL[b h t n] / sqrt(d)
    dV[b n h e] = dO[b t h e] * A[b h t n]
    dK[b n h d] = dS[b h t n] * Q[b t h d]
    dQ[b t h d] = dS[b h t n] * K[b n h d]
    t sees n: causal
    """
    for word in how.split("+"):
        if word not in RECOMPUTE:
            raise Unknown("recomputation", word, RECOMPUTE, "recomputations")
        if word == "selective":
            found = _selective(found, cotangent)
        elif word == "full":
            found = _full(found)
    return found


def paired(page: Program) -> frozenset[str]:
    """The computed tensors that have both a query and a key; not those that say which keys are read.

    >>> from attnmath import variants
    >>> sorted(paired(variants.get("mha").program)), sorted(paired(variants.get("moba").program))
    (['A', 'L', 'S'], ['A', 'E', 'L', 'S'])
    """
    both = [{q, *k.split()} for q, k in page.sees]
    read = [r for e in page.equations for x in (e.out, *e.alts) for r in refs(x)]
    places = {p.name for r in read for i in r.index for p in refs(i)}
    free = tables(page)
    return frozenset(
        e.out.name
        for e in page.defined.values()
        if e.out.name not in places | free and any(b <= {p for d in letters(e.out) for p in digits(d)} for b in both)
    )


def _softmax(e: Equation) -> Op | None:
    """The softmax that an equation is, else None."""
    x = e.alts[0] if len(e.alts) == 1 else None
    return x if isinstance(x, Op) and x.name == "softmax" else None


def _selective(found: Gradient, cotangent: Mapping[str, str]) -> Gradient:
    """Without the tensors of queries by keys; a page with a recursion keeps what it kept."""
    page = found.forward
    if recursive(page):
        return found
    pairs, made = paired(page), page.defined
    need = _below(page, (n for n in found.kept if n in pairs), pairs)
    if not need:
        return found
    names = Names([*page.tensors, *found.backward.tensors])
    several = sum(n in need and _softmax(e) is not None for n, e in made.items()) > 1
    statistics: list[str] = []
    forward: list[Equation] = []
    again: list[Equation] = []
    for e in page.equations:
        x = _softmax(e) if e.alts and e.out.name in need else None
        if x is None:
            forward.append(e)
            again += [e] if e.out.name in need else []
            continue
        rows = tuple(i for i in e.out.index if str(i) not in x.over)
        sums = Ref(names.fresh(f"LSE{e.out.name}" if several else "LSE", f"LSE{e.out.name}"), rows)
        forward += _in_parts(e, x, sums, names)
        again.append(Equation(e.out, (Op("exp", (Op("-", (x.args[0], sums)),)),)))
        statistics.append(sums.name)
    back = [_row_sum(e, page, found, cotangent) for e in found.backward.equations if e.alts]
    statistics += [new.out.name for new in back if new not in found.backward.equations]
    return _rewritten(replace(found, forward=replace(page, equations=tuple(forward))), again, back, statistics)


def _in_parts(e: Equation, x: Op, sums: Ref, names: Names) -> list[Equation]:
    """A softmax as a kernel computes it: the largest score, numerators, their sum, quotients; and what is kept of it."""
    scores, sink = x.args[0], x.args[1] if len(x.args) > 1 else None
    top, whole = (Ref(names.fresh(f"{n}{e.out.name}"), sums.index) for n in ("TOP", "SUM"))
    numerators = Ref(names.fresh(f"EXP{e.out.name}"), e.out.index)
    total: Expr = Op("sum", (numerators,), x.over)
    if sink is not None:
        total = Op("+", (total, Op("exp", (Op("-", (sink, top)),))))
    else:  # the largest numerator is 1; of a row that sees no key, the sum is none
        total = Op("max2", (total, Num(1)))
    return [
        Equation(top, (Op("max2", (Op("max", (scores,), x.over), LOWEST if sink is None else sink)),)),
        Equation(numerators, (Op("exp", (Op("-", (scores, top)),)),)),
        Equation(whole, (total,)),
        Equation(e.out, (Op("/", (numerators, whole)),)),
        Equation(sums, (Op("+", (top, Op("log", (whole,)))),)),
    ]


def _row_sum(e: Equation, page: Program, found: Gradient, cotangent: Mapping[str, str]) -> Equation:
    """The sum over keys of a softmax times its cotangent, summed where the keys are gone, if it is one and can be."""
    x = e.alts[0]
    if not (isinstance(x, Op) and x.name == "sum" and isinstance(x.args[0], Op) and x.args[0].name == "*"):
        return e
    y, g = x.args[0].args
    if not (isinstance(y, Ref) and isinstance(g, Ref) and g.name == cotangent.get(y.name) and y.name in page.defined):
        return e
    end = _carried(y, e.out, x.over, page, found)
    if end is None or cotangent[end.name] not in found.backward.tensors:
        return e
    over = tuple(d for d in letters(end) if d not in letters(e.out))
    return Equation(e.out, (Op("sum", (Op("*", (Ref(cotangent[end.name], end.index), end)),), over),))


def _carried(y: Ref, rows: Ref, over: tuple[str, ...], page: Program, found: Gradient) -> Ref | None:
    """The first tensor without the keys whose elements times their cotangents sum up, row by row, to those of y; None if what
    reads y on the way is not linear in it, or not alone.
    """
    if _softmax(page.defined[y.name]) is None:
        return None
    for _ in page.defined:
        readers = [e for e in page.defined.values() if y.name in {r.name for r in e.reads}]
        if y.name in found.seeds or len(readers) != 1 or not _linear(readers[0], y):
            return None
        out = readers[0].out
        if not set(rows.index) <= set(out.index) or not all(
            isinstance(i, str) for i in out.index if str(i) not in over
        ):
            return None
        if not set(over) & set(map(str, out.index)):
            return out if set(letters(out)) > set(letters(rows)) else None
        y = out
    return None


def _linear(e: Equation, y: Ref) -> bool:
    """Whether each term is y itself, under its own indices, times what is not y."""
    parts = [(num, den) for a in e.alts for _, num, den in terms(a)]
    mine = [[x for x in num if x == y] for num, _ in parts]
    read = [[r for x in (*num, *den) for r in refs(x) if r.name == y.name] for num, den in parts]
    return all(len(m) == 1 == len(r) for m, r in zip(mine, read))


def _full(found: Gradient) -> Gradient:
    """Everything again from the page's inputs."""
    page, taken = found.forward, found.backward.defined
    need = _below(page, found.kept, page.defined)
    names = Names([*page.tensors, *found.backward.tensors])
    new = {n: names.fresh(f"{n}'") if n in taken else n for n in page.defined if n in need}

    def read(r: Ref) -> Ref:
        return Ref(new.get(r.name, r.name), r.index)

    again = [renamed_in(e, read) for e in page.equations if e.alts and e.out.name in need]
    back = [e for e in found.backward.equations if e.alts]
    out = _rewritten(found, again, back, [new[n] for n in found.statistics if n in new], {v: k for k, v in new.items()})
    first = prune(
        page, [n for n in page.defined if n not in found.statistics]
    )  # nobody reads what the second run makes
    return replace(out, forward=first, rerun=tuple(e.out.name for e in again))


def renamed_in(e: Equation, f: Callable[[Ref], Ref]) -> Equation:
    """An equation with other names, on both sides.

    >>> from attnmath.language.parse import equation
    >>> print(renamed_in(equation("A[T[t]] = B[t]"), lambda r: Ref(r.name + "'", r.index)))
    A'[T'[t]] = B'[t]
    """
    out = swap_refs(e.out, f)
    assert isinstance(out, Ref), "a tensor under another name is one"
    return Equation(out, tuple(swap_refs(a, f) for a in e.alts))


def _below(page: Program, start: Iterable[str], among: Iterable[str]) -> set[str]:
    """The tensors `among` which those at the start are made of, with them."""
    among = set(among)
    need = {n for n in start if n in among}
    todo = list(need)
    while todo:
        more = {r.name for r in page.defined[todo.pop()].reads} & among - need
        need |= more
        todo += more
    return need


def _rewritten(
    found: Gradient,
    again: list[Equation],
    back: list[Equation],
    statistics: Iterable[str],
    names: Mapping[str, str] | None = None,
) -> Gradient:
    """The gradient with what is computed again put before the backward equations, which read of the forward page what is left.

    `names`: what the recomputed tensors are called on the forward page, where they are called otherwise.
    """
    page, old = found.forward, found.backward
    made = (*again, *back)
    dims = {n: d for n, d in page.dims.items() if n in {e.out.name for e in again}}
    dims |= {n: page.dims[o] for n, o in (names or {}).items() if o in page.dims}
    sees = {**page.sees, **old.sees}
    bare = prune(Program(made, sees, {**dims, **old.dims}), [*found.cotangents.values(), *found.past.values()])
    own = bare.defined
    read = {r.name for e in bare.equations for x in (e.out, *e.alts) for r in refs(x)} - set(own)
    handed = [e for e in old.equations if not e.alts and e.out.name not in page.tensors and e.out.name in read]
    inputs = [Equation(Ref(n, d), ()) for n, d in page.tensors.items() if n in read]
    whole = in_order(replace(bare, equations=(*handed, *inputs, *bare.equations)))
    made_again = {e.out.name: (names or {}).get(e.out.name, e.out.name) for e in again if e.out.name in own}
    stats = tuple(dict.fromkeys(n for n in (*found.statistics, *statistics)))
    return replace(found, backward=whole, again={**found.again, **made_again}, statistics=stats)
