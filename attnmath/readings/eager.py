"""A page as eager code of PyTorch computes it, operation by operation: the same function, with what its authors wrote down.

Root-mean-square norms and softmaxes are computed in single precision and cast back, and keys and values are copied for
each of the heads that share them. Neither changes a count; both change what a backward pass finds kept (`saved`).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from attnmath.errors import Unknown
from attnmath.language.modify import heads
from attnmath.language.rewrite import Names, times
from attnmath.language.syntax import Equation, Expr, Op, Program, Ref, letters, ops, refs, swap_refs, terms
from attnmath.readings.count import core, learned

GAINS = {
    "after": "the norm's result is cast back, then multiplied by the gain: LlamaRMSNorm in transformers",
    "inside": "the gain is cast up and multiplied in single precision, then the result cast back: GemmaRMSNorm in transformers",
}


def eager(page: Program, gain: str = "after", repeats: bool = True) -> Program:
    """The page with casts and copies written out. `gain`: where a norm's gain is multiplied (see `GAINS`); `repeats`:
    whether keys and values are copied for the heads that share them.

    >>> from attnmath import variants
    >>> made = eager(variants.get("gqa").program).defined
    >>> print(made["Kr"], made["A32"], made["A"], sep="; ")
    Kr[b n g r d] = K[b n g d]; A32[b g r t n] = softmax_n(upcast(L[b g r t n])); A[b g r t n] = downcast(A32[b g r t n])
    """
    if gain not in GAINS:
        raise Unknown("gain", gain, GAINS)
    names = Names(page.tensors)
    made = [x for e in page.equations for x in _norm(e, page, names, gain)]
    page = replace(page, equations=tuple(x for e in made for x in _softmax(e, names)))
    return _repeated(page, names) if repeats else page


def _norm(e: Equation, page: Program, names: Names, gain: str) -> Iterator[Equation]:
    """A root-mean-square norm, in single precision; any other equation as it is."""
    found = terms(e.alts[0]) if len(e.alts) == 1 else []
    roots = [(d, z) for _, num, den in found for d in den if (z := _of_itself(d)) in num] if len(found) == 1 else []
    if not roots or _centred(page, roots[0][1]):
        yield e
        return
    (root, z), (sign, num, den) = roots[0], found[0]
    wide = Ref(names.fresh(f"{z.name}32"), z.index)
    yield Equation(wide, (Op("upcast", (z,)),))
    root = swap_refs(root, lambda r: wide if r == z else r)
    normed: Expr = Op("/", (wide, root))
    rest = list(num)
    rest.remove(z)
    less = [d for d in den if _of_itself(d) != z]
    if not rest and not less and sign > 0:
        yield Equation(e.out, (Op("downcast", (normed,)),))
        return
    inside = gain == "inside"
    n = Ref(names.fresh(f"{e.out.name}N"), z.index)
    yield Equation(n, (normed if inside else Op("downcast", (normed,)),))
    for k, w in enumerate(rest):
        if inside and refs(w) and all(map(learned, refs(w))):
            gained = Ref(names.fresh(f"{refs(w)[0].name}32"), letters(w))
            yield Equation(gained, (swap_refs(w, lambda r: Op("upcast", (r,))),))
            rest[k] = gained
    x = times([n, *rest])
    x = Op("/", (x, times(less))) if less else x
    x = Op("neg", (x,)) if sign < 0 else x
    yield Equation(e.out, (Op("downcast", (x,)) if inside else x,))


def _of_itself(x: Expr) -> Ref | None:
    """z, of sqrt(mean(z * z) + eps)."""
    if not (isinstance(x, Op) and x.name == "sqrt"):
        return None
    mean = next((o for o in ops(x) if o.name == "mean"), None)
    square = mean.args[0] if mean else None
    if isinstance(square, Op) and square.name == "*" and square.args[0] == square.args[1]:
        z = square.args[0]
        return z if isinstance(z, Ref) else None
    return None


def _centred(page: Program, z: Ref) -> bool:
    """Whether a tensor's mean was subtracted: a layer norm, which is one operation and keeps its dtype."""
    made = page.defined.get(z.name)
    return made is not None and any(o.name == "mean" for a in made.alts for o in ops(a))


def _softmax(e: Equation, names: Names) -> Iterator[Equation]:
    x = e.alts[0] if len(e.alts) == 1 else None
    if not (isinstance(x, Op) and x.name == "softmax"):
        yield e
        return
    wide = Ref(names.fresh(f"{e.out.name}32"), e.out.index)
    yield Equation(wide, (Op("softmax", (Op("upcast", x.args[:1]), *x.args[1:]), x.over),))
    yield Equation(e.out, (Op("downcast", (wide,)),))


def _repeated(page: Program, names: Names) -> Program:
    """A copy of what several query heads share, one for each."""
    inside, own = core(page), heads(page).split()
    keys = {k for _, ks in page.sees for k in ks.split()}
    copies: dict[Ref, Ref] = {}
    out: list[Equation] = []

    def copied(r: Ref, left: Ref) -> Ref:
        lacks = [h for h in own if h in left.index and h not in letters(r)]
        if not lacks or not keys & set(r.index) or "t" in letters(r):
            return r
        if r not in copies:
            at = 1 + max(k for k, i in enumerate(r.index) if i in (*keys, *own))
            copies[r] = Ref(names.fresh(f"{r.name}r"), (*r.index[:at], *lacks, *r.index[at:]))
            out.append(Equation(copies[r], (r,)))
        return copies[r]

    for e in page.equations:
        if e in inside and set(own) <= set(letters(e.out)):
            out.append(Equation(e.out, tuple(swap_refs(a, lambda r, e=e: copied(r, e.out)) for a in e.alts)))  # type: ignore[misc]
        else:
            out.append(e)
    return replace(page, equations=tuple(out))
