"""How a verification looks: as text, JSON or JUnit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnmath.cli.junit import Case, document
from attnmath.cli.render import Row, as_json, columns, exact, page, strong
from attnmath.errors import printable

if TYPE_CHECKING:
    from attnmath.verifying.results import Failure, Verification

SAID = {"pass": "holds", "fail": "FAILS", "none": "-"}


def verified(v: Verification, format_: str) -> None:
    """A table of laws, and failures in full."""
    if format_ == "json":
        as_json(v.to_dict())
    elif format_ == "junit":
        page([junit(v)])
    else:
        page(lines(v))


def lines(v: Verification) -> list[str]:
    """A row for each law, what it was tried on, and what fails, with the command that repeats it."""
    head = ("law", "subjects", "cases", "comparisons", "largest error", "seconds", "", "")
    rows: list[Row] = [head]
    rows += [
        (
            law.name,
            exact(law.subjects),
            exact(law.cases),
            exact(law.comparisons),
            "" if law.largest_error is None else f"{law.largest_error:.1e}",
            f"{law.time_s:.1f}",
            SAID[law.verdict],
            law.says,
        )
        for law in v.laws
    ]
    table = columns(rows, (1, 2, 3, 4, 5))
    broken = [law.name for law in v.laws if law.verdict == "fail"]
    about = ", ".join(_some(kind, names) for kind, names in v.subjects.items())
    verdict = f"does not hold: {', '.join(broken)}" if broken else "all of it holds"
    return [
        strong(table[0]),
        *table[1:],
        *(line for f in v.failures for line in ("", *_failure(f))),
        "",
        f"{strong(verdict)}; {about}; seed {v.seed}{', thorough' if v.thorough else ''}; {v.time_s:.1f} s",
    ]


def _some(kind: str, names: list[str]) -> str:
    return f"{kind} {', '.join(names)}" if len(names) < 4 else f"{len(names)} {kind}s"


def _failure(f: Failure) -> list[str]:
    told = [("case", f.case), ("of", f.what), ("is", f.got), ("not", f.want), ("repeat", f.command)]
    rows = [(f"  {k}", printable(v)) for k, v in told if v]
    return [strong(f"{f.law} fails on {f.failed} case{'s' * (f.failed != 1)} of {f.kind} {f.name}"), *columns(rows)]


def junit(v: Verification) -> str:
    """A test suite for each law, a test case for each subject; nothing to compare is skipped."""
    wrong = {(f.law, f.kind, f.name): f for f in v.failures}

    def case(law: str, kind: str, name: str, time_s: float, said: bool) -> Case:
        f = wrong.get((law, kind, name))
        failure = (f"{f.what}: {f.got}, not {f.want}", "\n".join(_failure(f)[1:])) if f else None
        return Case(f"{kind} {name}", failure, time_s=time_s, skipped=not said)

    suites = [
        (
            law.name,
            [case(law.name, x.kind, x.name, x.time_s, bool(x.comparisons)) for x in v.tried if x.law == law.name],
        )
        for law in v.laws
    ]
    return document(f"attnmath verify --seed {v.seed}", suites)
