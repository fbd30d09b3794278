"""In which order equations run: each after what it reads; those that read each other together, step by step."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from attnmath.errors import LanguageError
from attnmath.language.syntax import Equation, Program, Ref, Shift, letters, refs

Loop = tuple[str, int]  # the index that a recursion steps along, and its direction


def ordered(program: Program) -> Iterator[tuple[list[Equation], Loop | None]]:
    """The equations in an order that can run, a recursion's together with the index it steps along.

    >>> from attnmath.language.parse import program
    >>> p = program("Y[t] = 2 * H[t]\\nH[t] = H[t-1] + X[t]")
    >>> [([e.out.name for e in group], loop) for group, loop in ordered(p)]
    [(['H'], ('t', 1)), (['Y'], None)]
    """
    made = program.defined
    reads = {n: [r.name for r in e.reads if r.name in made] for n, e in made.items()}
    for names in _components(reads):
        group = [e for n, e in made.items() if n in names]
        if len(group) == 1 and group[0].out.name not in reads[group[0].out.name]:
            yield group, None
            continue
        loop = _direction(group, program)
        yield _within_a_step(group, loop, program), loop


def in_order(program: Program) -> Program:
    """The same page with each equation after those that it reads.

    >>> from attnmath.language.parse import program
    >>> in_order(program("Y[t] = 2 * Z[t]\\nZ[t] = X[t]"))
    <Program of Z, Y>
    """
    inputs = [e for e in program.equations if not e.alts]
    return replace(program, equations=(*inputs, *(e for group, _ in ordered(program) for e in group)))


def _components(reads: dict[str, list[str]]) -> Iterator[set[str]]:
    """Strongly connected components, each after those it reads (Tarjan 1972), first-written first."""
    found: list[set[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(n: str) -> None:
        index[n] = low[n] = len(index)
        stack.append(n)
        for m in reads[n]:
            if m not in index:
                visit(m)
                low[n] = min(low[n], low[m])
            elif m in stack:
                low[n] = min(low[n], index[m])
        if low[n] == index[n]:
            at = stack.index(n)
            found.append(set(stack[at:]))
            del stack[at:]

    for n in reads:
        if n not in index:
            visit(n)
    return iter(found)


def _within_a_step(group: list[Equation], loop: Loop, program: Program) -> list[Equation]:
    """A recursion's equations, each after what it reads of the same step."""
    made = {e.out.name: e for e in group}

    def now(e: Equation) -> list[str]:
        own = (r for a in e.alts for r in refs(a) if r.name in made)
        return [r.name for r in own if loop not in _steps(made[r.name].out, r, e, program)]

    reads = {n: now(e) for n, e in made.items()}
    out: list[Equation] = []
    for names in _components(reads):
        if len(names) > 1 or any(n in reads[n] for n in names):
            raise LanguageError(
                f"{', '.join(sorted(names))} read each other within one step of {loop[0]}; one of them has to step"
            )
        out += [made[n] for n in names]
    return out


def _direction(group: list[Equation], program: Program) -> Loop:
    """Which index a recursion steps along: the one it shifts, or the one that a strict mask holds back."""
    made = {e.out.name: e for e in group}
    found: set[Loop] = set()
    for e in group:
        for r in (r for a in e.alts for r in refs(a) if r.name in made):
            found |= set(_steps(made[r.name].out, r, e, program))
    names = ", ".join(made)
    if not found:
        verb = "refers to itself" if len(made) == 1 else "refer to each other"
        raise LanguageError(f"{names} {verb} without a step such as [t-1], or a strict mask")
    if len(found) > 1:
        raise LanguageError(f"{names}: a recursion along {sorted(found)}; it takes one index and one direction")
    return found.pop()


def _steps(written: Ref, read: Ref, reader: Equation, program: Program) -> Iterator[Loop]:
    """The steps from where a tensor is written to where an equation reads it: a shift, or a mask from an index of the
    reader's own to the one it reads under.
    """
    for mine, its in zip(written.index, read.index):
        if isinstance(its, Shift) and all(isinstance(x, int) for _, x in its.by):
            moved = sum(sign * x for sign, x in its.by if isinstance(x, int))
            if moved:
                yield its.base, 1 if moved < 0 else -1
        elif isinstance(mine, str) and isinstance(its, str) and mine != its and mine in letters(reader.out):
            if (mine, its) in program.sees:
                yield mine, 1
            elif (its, mine) in program.sees:
                yield mine, -1
