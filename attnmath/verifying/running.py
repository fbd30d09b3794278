"""`verify`: laws tried on everything there is, or on what is named; the same cases for the same seed, on any machine."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from random import Random
from typing import Any

from msgspec import Struct

from attnmath.errors import AttnmathError, InputError, Unknown, together
from attnmath.verifying.cases import KINDS, draw
from attnmath.verifying.laws import LAWS, Compared
from attnmath.verifying.results import Failure, LawResult, Tried, Verdict, Verification

THOROUGH = 10  # times as many cases
MAX_CASES = 100_000  # of one subject
AT_ONCE = 8  # cases of a task: small, so that processes end at the same time, and soon where they are told to
Subject = tuple[str, str]  # (kind, name)


class Task(Struct, frozen=True):
    """Some of a subject's cases, under some laws; case k is that of seed + k."""

    kind: str
    name: str
    laws: tuple[str, ...]
    seed: int
    cases: tuple[int, ...]


def verify(
    names: Iterable[str] = (),
    laws: Iterable[str] = (),
    *,
    seed: int = 0,
    cases: int | None = None,
    thorough: bool = False,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Verification:
    """Try laws (all, if none is named) on subjects (all); `cases`: of each subject, by default as many as it has forms and
    sets of modifiers; `jobs`: processes, by default one per core; `progress` is told how many cases are done.

    Raises InputError for names that do not exist, and where nothing that is named has anything to compare.

    >>> found = verify(["mqa"], ["counts"], cases=1)
    >>> found.verdict, found.laws[0].subjects
    ('pass', 1)
    """
    began = time.perf_counter()
    if cases is not None and not 1 <= cases <= MAX_CASES:
        raise InputError(f"--cases {cases}: from 1 to {MAX_CASES:,}")
    chosen, subjects = selected(list(names), list(laws))
    tasks = list(_tasks(subjects, chosen, seed, cases, THOROUGH if thorough else 1))
    workers = min(jobs or os.cpu_count() or 1, len(tasks))
    done, every = 0, sum(len(t.cases) for t in tasks)
    found: dict[tuple[str, Subject], list[_Part]] = {}
    for task, parts in zip(tasks, _in_pool(tasks, workers) if workers > 1 else map(_try, tasks)):
        for law, part in parts.items():
            found.setdefault((law, (task.kind, task.name)), []).append(part)
        done += len(task.cases)
        progress(done, every)
    tried = [_tried(law, subject, parts) for (law, subject), parts in found.items()]
    failures = [f for (law, subject), parts in found.items() if (f := _failure(law, subject, parts))]
    rows = [_row(law, [x for x in tried if x.law == law]) for law in chosen]
    order = {law: k for k, law in enumerate(chosen)}
    if not any(r.comparisons for r in rows):
        raise InputError(
            f"nothing to compare: {_listed(chosen)} has nothing to say about {_listed(n for _, n in subjects)}"
        )
    kinds = dict.fromkeys(kind for kind, _ in subjects)
    return Verification(
        _verdict(rows),
        seed,
        thorough,
        {kind: [n for k, n in subjects if k == kind] for kind in kinds},
        rows,
        sorted(failures, key=lambda f: order[f.law]),
        sorted(tried, key=lambda x: order[x.law]),
        time.perf_counter() - began,
    )


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")


# -- what is tried


def selected(names: Sequence[str], laws: Sequence[str]) -> tuple[list[str], list[Subject]]:
    """(laws in the table's order, subjects in that of the kinds); a name stands for all that is called so.

    >>> selected(["window"], ["pairs"])
    (['pairs'], [('mask', 'window')])
    """
    known = [(kind, n) for kind, row in KINDS.items() for n in row.names()]
    errors = [
        str(Unknown("name", n, {n for _, n in known})) for n in dict.fromkeys(names) if n not in {m for _, m in known}
    ]
    errors += [str(Unknown("law", law, LAWS)) for law in dict.fromkeys(laws) if law not in LAWS]
    if errors:
        raise InputError(together(errors))
    chosen = [law for law in LAWS if law in laws or not laws]
    about = {kind for law in chosen for kind in LAWS[law].of}
    wanted = [s for s in known if s[1] in names or not names]
    for n in dict.fromkeys(names):
        kinds = [kind for kind, m in wanted if m == n]
        if not about & set(kinds):
            own = [law for law in LAWS if set(kinds) & set(LAWS[law].of)]
            errors.append(
                f"--law {', '.join(chosen)} says nothing about a {kinds[0]}, {n}; the laws that do are {', '.join(own)}"
            )
    if errors:
        raise InputError(together(errors))
    return chosen, [s for s in wanted if s[0] in about]


def _tasks(
    subjects: Iterable[Subject], laws: Sequence[str], seed: int, cases: int | None, times: int
) -> Iterator[Task]:
    for kind, name in subjects:
        own = tuple(law for law in laws if kind in LAWS[law].of)
        many = cases or KINDS[kind].turns(name) * times
        for at in range(0, many, AT_ONCE):
            yield Task(kind, name, own, seed, tuple(range(at, min(at + AT_ONCE, many))))


# -- trying


class _Part(Struct):
    """A law on some cases of a subject; `first`: the first that fails, as (seed, the case, what failed)."""

    cases: int = 0
    comparisons: int = 0
    error: float | None = None
    failed: int = 0
    time_s: float = 0.0
    first: tuple[int, str, Compared] | None = None


def _try(task: Task) -> dict[str, _Part]:
    """Every law of a task on every case; what raises fails."""
    parts = {law: _Part() for law in task.laws}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in task.cases:
            seed = task.seed + k
            due = [law for law in task.laws if k % LAWS[law].every == 0]
            try:
                case = draw(task.kind, task.name, seed)
            except Exception as error:
                for law in due:
                    _add(parts[law], [_raised(error)], seed, f"a {task.kind}, {task.name}, which cannot be drawn")
                continue
            for law in due:
                _one(parts[law], law, case, seed, f"{law} {task.kind} {task.name} {seed}")
    return parts


def _one(part: _Part, law: str, case: Any, seed: int, randomness: str) -> None:
    began, found = time.process_time(), list[Compared]()
    try:
        found.extend(LAWS[law].check(case, Random(randomness)))
    except Exception as error:  # nothing that a law asks of the package may go wrong
        found.append(_raised(error))
    part.time_s += time.process_time() - began
    _add(part, found, seed, case)


def _raised(error: Exception) -> Compared:
    return Compared("it can be computed", False, None, f"{type(error).__name__}: {error}", "no error")


def _add(part: _Part, found: Sequence[Compared], seed: int, case: Any) -> None:
    wrong = [c for c in found if not c.holds]
    part.cases += bool(found)
    part.comparisons += len(found)
    part.failed += bool(wrong)
    part.error = max((e for e in (part.error, *(c.error for c in found)) if e is not None), default=None)
    if wrong and part.first is None:
        part.first = (seed, str(case), wrong[0])


def _in_pool(tasks: Sequence[Task], workers: int) -> Iterator[dict[str, _Part]]:
    """Tasks in processes of their own, answered in order; an interrupt ends them all."""
    others = set(multiprocessing.active_children())
    with _deaf():
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        futures = [pool.submit(_try, task) for task in tasks]
    try:
        for future in futures:
            yield future.result()
    except BrokenProcessPool:
        raise AttnmathError("a process ended before its work was done; --jobs 1 needs no other process") from None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
            process.join()
        raise
    pool.shutdown()


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started here do not hear Ctrl-C: this one does, if only when they are there, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not hasattr(signal, "pthread_sigmask") or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
        signal.signal(signal.SIGINT, before)
        return
    from multiprocessing import resource_tracker

    heard: list[int] = []  # another thread may take what this one blocks, and a new process inherits the block alone
    resource_tracker.ensure_running()  # it lets signals through when it starts
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


# -- adding up


def _tried(law: str, subject: Subject, parts: Sequence[_Part]) -> Tried:
    counts = Counter[str]()
    for p in parts:
        counts.update(cases=p.cases, comparisons=p.comparisons, failed=p.failed)
    time_s = sum(p.time_s for p in parts)
    return Tried(
        law,
        *subject,
        counts["cases"],
        counts["comparisons"],
        _largest(p.error for p in parts),
        counts["failed"],
        time_s,
    )


def _largest(errors: Iterable[float | None]) -> float | None:
    return max((e for e in errors if e is not None), default=None)


def _failure(law: str, subject: Subject, parts: Sequence[_Part]) -> Failure | None:
    first = next((p.first for p in parts if p.first), None)
    if first is None:
        return None
    seed, case, c = first
    command = shlex.join(["attnmath", "verify", subject[1], "--law", law, "--seed", str(seed), "--cases", "1"])
    return Failure(law, *subject, seed, case, c.what, c.got, c.want, sum(p.failed for p in parts), command)


def _row(law: str, tried: Sequence[Tried]) -> LawResult:
    said = [x for x in tried if x.comparisons]
    failed = sum(x.failed for x in tried)
    return LawResult(
        law,
        LAWS[law].says,
        len(said),
        sum(x.cases for x in tried),
        sum(x.comparisons for x in tried),
        _largest(x.largest_error for x in tried),
        failed,
        sum(x.time_s for x in tried),
        "fail" if failed else "pass" if said else "none",
    )


def _verdict(rows: Iterable[LawResult]) -> Verdict:
    return "fail" if any(r.failed for r in rows) else "pass"
