"""Modifiers: a few lines of the same language, put behind the tensors that they name.

    T[..] <- f(T[..])     everything that read T reads the result from now on; a later modifier stacks on it
    T[..] =  ...          T is defined anew
    N[..] =  ...          a new tensor
    t sees n: window(w)   masks intersect

`..` stands for the leading indices of that tensor that the line does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from attnmath.errors import LanguageError, nearest
from attnmath.language.masks import both
from attnmath.language.order import in_order
from attnmath.language.parse import lines
from attnmath.language.syntax import Equation, Expr, Index, Program, Ref, check, named_axes, refs, swap_refs


def apply(program: Program, text: str, where: str = "") -> Program:
    """The program with a modifier's lines worked in, and without what nothing reads any more.

    >>> from attnmath.language.parse import program
    >>> p = program("L[t n] = Q[t d] * K[n d]\\nA[t n] = softmax_n L[t n]")
    >>> print(apply(p, "L[..] <- 5 * L[..]"))
    L0[t n] = Q[t d] * K[n d]
    L[t n] = 5 * L0[t n]
    A[t n] = softmax_n(L[t n])
    """
    changes, masks = lines(text, where)
    equations, sees, dims, output = list(program.equations), dict(program.sees), dict(program.dims), program.output
    fresh: list[str] = []  # new tensors: they stand right before the next line that changes an old one
    for line in changes:
        tensors = Program(tuple(equations), {}, dims).tensors
        e = _spelled_out(line, tensors)
        at = {x.out.name: n for n, x in enumerate(equations) if x.alts}
        name = e.out.name
        if name not in at and not e.update:
            equations.insert(max((at[r.name] + 1 for a in e.alts for r in refs(a) if r.name in at), default=0), e)
            fresh.append(name)
            continue
        if name not in at:
            raise LanguageError(f"`{line}` modifies {name}, which is not defined here: {nearest(name, at, 'tensors')}")
        if e.update:
            before, after = _behind(equations[at[name]], e, tensors)
            equations[at[name] : at[name] + 1] = before, after
            dims |= {before.out.name: tensors[name], name: tensors[name]}
            fresh = [x for n in fresh for x in ((before.out.name, n) if n == name else (n,))]
        else:
            equations[at[name]] = e
        if name not in fresh:
            equations, fresh = _moved(equations, fresh, before.out.name if e.update else name), []
    for pair, mask in masks.items():
        sees[pair] = both(sees[pair], mask) if pair in sees else mask
    return in_order(named_axes(check(prune(Program(tuple(equations), sees, dims), (output,)))))


def _moved(equations: list[Equation], names: list[str], target: str) -> list[Equation]:
    """The equations with those of some names put right before another one."""
    rest = [e for e in equations if e.out.name not in names]
    at = next(n for n, e in enumerate(rest) if e.out.name == target and e.alts)
    return [*rest[:at], *(e for n in names for e in equations if e.out.name == n), *rest[at:]]


def _behind(old: Equation, new: Equation, taken: Mapping[str, object]) -> tuple[Equation, Equation]:
    """The old definition under a new name, and the rewrite that reads it under that name."""
    name = old.out.name
    before = next(n for n in (f"{name}{k}" for k in range(100)) if n not in taken)
    first = Equation(Ref(before, old.out.index), tuple(_renamed(a, name, before) for a in old.alts))
    return first, Equation(new.out, tuple(_renamed(a, name, before) for a in new.alts))


def _renamed(x: Expr, old: str, new: str) -> Expr:
    return swap_refs(x, lambda r: Ref(new, r.index) if r.name == old else r)


def _spelled_out(e: Equation, tensors: Mapping[str, tuple[Index, ...]]) -> Equation:
    """`..` replaced by the leading indices that the tensor has."""

    def full(r: Ref) -> Ref:
        if ".." not in r.index:
            return r
        if r.index.index("..") or r.index.count("..") > 1:
            raise LanguageError(f"{r}: '..' stands first, for the leading indices")
        axes = tensors.get(r.name, tensors.get(e.out.name) if r.name == e.out.name else None)
        if axes is None:
            raise LanguageError(f"{r}: '..' needs a tensor that exists: {nearest(r.name, tensors, 'tensors')}")
        named = r.index[1:]
        if len(named) > len(axes):
            raise LanguageError(f"{r}: {r.name} has {len(axes)} indices, {Ref(r.name, axes)}")
        return Ref(r.name, (*axes[: len(axes) - len(named)], *named))

    return Equation(full(e.out), tuple(swap_refs(a, full) for a in e.alts), e.update)


def prune(program: Program, outputs: Iterable[str]) -> Program:
    """Without the equations that the outputs do not stand on.

    >>> from attnmath.language.parse import program
    >>> prune(program("A[t] = X[t]\\nB[t] = X[t]"), ("B",))
    <Program of B>
    """
    made, need, todo = program.defined, set(outputs), list(outputs)
    while todo:
        e = made.get(todo.pop())
        for r in e.reads if e else ():
            if r.name not in need:
                need.add(r.name)
                todo.append(r.name)
    return replace(program, equations=tuple(e for e in program.equations if e.out.name in need))


def heads(program: Program) -> str:
    """The letters that count heads here: those of the scores that are neither batch nor tokens.

    >>> from attnmath import variants
    >>> heads(variants.get("gqa").program)
    'g r'
    """
    pairs = {i for pair in program.sees for i in pair}
    for index in program.tensors.values():
        if pairs and pairs <= set(index):
            return " ".join(str(i) for i in index if i not in {"b", *pairs})
    return ""
