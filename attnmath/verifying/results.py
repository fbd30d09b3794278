"""What `verify` answers, as types: frozen, and a JSON document by `to_dict()`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

SCHEMA = "attnmath.verify/1"
Verdict = Literal["pass", "fail", "none"]  # none: there was nothing to compare


class Tried(Struct, frozen=True):
    """A law on one subject: how many cases had something to compare, how many comparisons, the largest error of those of
    floats, and how many cases failed.
    """

    law: str
    kind: str
    name: str
    cases: int
    comparisons: int
    largest_error: float | None
    failed: int
    time_s: float

    @property
    def verdict(self) -> Verdict:
        """Whether it holds."""
        return "fail" if self.failed else "pass" if self.comparisons else "none"


class Failure(Struct, frozen=True):
    """The first case of a subject that a law does not hold for; `command` repeats that case alone."""

    law: str
    kind: str
    name: str
    seed: int
    case: str
    what: str
    got: str
    want: str
    failed: int  # cases of this subject
    command: str


class LawResult(Struct, frozen=True):
    """A law over all subjects that it has something to say about."""

    name: str
    says: str
    subjects: int
    cases: int
    comparisons: int
    largest_error: float | None
    failed: int
    time_s: float  # of processors, all together
    verdict: Verdict


class Verification(Struct, frozen=True):
    """What `verify` answers: each law, what fails, and each law on each subject; `subjects`: names by kind."""

    verdict: Verdict
    seed: int
    thorough: bool
    subjects: dict[str, list[str]]
    laws: list[LawResult]
    failures: list[Failure]
    tried: list[Tried]
    time_s: float

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema verify` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}
