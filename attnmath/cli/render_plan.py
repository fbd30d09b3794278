"""How plans look: as text, JSON, annotations of a pull request, SARIF or JUnit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from attnmath.cli.junit import Case, document
from attnmath.cli.render import Row, as_json, columns, exact, note, page, scaled, strong
from attnmath.errors import printable

if TYPE_CHECKING:
    from attnmath.plans.checking import PlanResult
    from attnmath.plans.constraints import Check
    from attnmath.plans.latency import Range
    from attnmath.plans.logs import Explanation
    from attnmath.plans.replaying import Played
    from attnmath.plans.solving import Solution
    from attnmath.plans.tradeoffs import Tradeoffs
    from attnmath.plans.training_checks import TrainingResult
    from attnmath.plans.training_time import StepTime

    Result = PlanResult | TrainingResult


def checked(found: list[Result], errors: list[tuple[str, str]], format_: str) -> None:
    """All plans that could be checked, and what is wrong with the others."""
    if format_ == "json":
        from attnmath.plans.checking import SCHEMA

        documents = [r.to_dict() for r in found]
        refused = [{"file": path, "error": error} for path, error in errors]
        one = documents[0] if len(documents) == 1 and not errors else None
        as_json(one or {"schema": SCHEMA, "rows": documents, "errors": refused})
    elif format_ == "github":
        page(
            [line for r in found for line in _annotations(r)]
            + [_annotation("error", p, _line_of(e), "AM000 the plan reads", e) for p, e in errors]
        )
    elif format_ == "sarif":
        as_json(sarif(found, errors))
    elif format_ == "junit":
        page([junit(found, errors)])
    else:
        blocks = [check_lines(r) for r in found]
        page([line for k, block in enumerate(blocks) for line in ([""] * bool(k) + block)])
        for r in found:
            _notes(r)
    if format_ != "json" or not found:
        for _, error in errors:
            note(f"attnmath: {error}")


def check_lines(r: Result) -> list[str]:
    """The verdict, what takes the memory, and every check."""
    verdict = _verdict(r)
    m = r.memory_bytes
    rows: list[Row] = []
    for name in m.__struct_fields__[:-2]:
        v = getattr(m, name)
        if v or name in ("weights", "kv_cache", "activations"):
            rows.append(
                (
                    f"  {name.replace('_', ' ')}",
                    exact(v),
                    scaled(v, "bytes"),
                    f"{v / m.available:6.1%}",
                    r.made_of.get(name, ""),
                )
            )
    rows.append(("  total", exact(m.total), scaled(m.total, "bytes"), f"{m.total / m.available:6.1%}", ""))
    rows.append(("  of one GPU's", exact(m.available), scaled(m.available, "bytes"), "", ""))
    checks: list[Row] = [
        (
            f"  {'ok    ' if x.passed else 'unsure' if x.unsure else 'FAIL  '}  {x.id}",
            x.name,
            _told(x.value, x.unit),
            _told(x.limit, x.unit),
            _margin(x),
        )
        for x in r.checks
    ]
    failed = [x for x in r.checks if not x.passed]
    return [
        strong(f"{_path(r.file)}: {r.model} {verdict}"),
        "",
        strong("memory of the fullest GPU"),
        *columns(rows, (1, 2, 3)),
        "",
        *_middle(r),
        "",
        *columns([("  checks", "", "value", "limit", "margin"), *checks], (2, 3, 4)),
        *[line for x in failed for line in ("", strong(f"{x.id} {x.name}"), f"  why: {x.why}", f"  fix: {x.fix}")],
    ]


def _middle(r: Result) -> list[str]:
    """What a server's cache holds, or what a step of training takes."""
    if hasattr(r, "step"):
        return [strong("a step"), *_step(r.step)]
    return [strong("capacity"), *_capacity(r), *(["", strong("in time"), *_in_time(r)] if r.latency else [])]


def _in_time(r: PlanResult) -> list[str]:
    """Latency, throughput, the load at which the server stops keeping up, and money."""
    lat, put = r.latency, r.throughput
    assert lat
    assert put
    rows: list[Row] = [("", "bound", "estimate", "pessimistic", "")]

    def line(name: str, x: Range | None, unit: str, told: str = "") -> None:
        if x is not None:
            shown = (("-" if v is None else scaled(v, unit)) for v in (x.bound, x.estimate, x.pessimistic))
            rows.append((f"  {name}", *shown, told))

    waits = f"of it {scaled(lat.wait_s, 's')} waiting" if lat.wait_s else ""
    line("time to the first token", lat.ttft_s, "s", waits)
    line("time of each further token", lat.tpot_s, "s")
    line("time of a request", lat.e2e_s, "s")
    line("output tokens a second", put.output_tokens_per_s, "", f"{put.output_tokens_per_s_per_gpu:,.1f} a GPU")
    held = "" if put.in_flight is None else f"; {put.in_flight:,.4g} in flight"
    line(
        "requests a second, at most", put.saturation_per_s, "", f"busy {put.utilisation:.0%}{held}; {put.saturates_by}"
    )
    if put.usd_per_million_output_tokens is not None:
        rows.append(("  USD a million output tokens", "", f"{put.usd_per_million_output_tokens:,.4g}", "", ""))
    if put.joules_per_output_token is not None:
        rows.append(
            ("  joules an output token", "", f"{put.joules_per_output_token:,.4g}", "", "at its power, all the time")
        )
    total = sum(lat.step_s.values())
    parts = ", ".join(
        f"{k} {v / total:.0%}" for k, v in sorted(lat.step_s.items(), key=lambda i: -i[1]) if v > total / 200
    )
    took = f"  a step of tokens takes {scaled(total, 's')}: {parts}; its bound is {lat.limit}"
    return [*columns(rows, (1, 2, 3)), took, *_accuracy(r)]


def _accuracy(r: PlanResult) -> list[str]:
    of = r.accuracy.get("output_tokens_per_s")
    if of is None:
        return []
    far = f"{of.median:.0%} in the median, {of.p90:.0%} in nine of ten"
    return [f"  of {of.figures} published figures, estimates of tokens a second were off by {far}"]


def _path(file: str) -> str:
    """A path on one line, which no CI system takes for a command of its own."""
    return f"{'./' if file.startswith(':') else ''}{printable(file)}"


def _verdict(r: Result) -> str:
    failed = [x for x in r.checks if not x.passed]
    unchecked = f" (not checked: {', '.join(x.partition(':')[0] for x in r.unchecked)})" if r.unchecked else ""
    if r.verdict == "unsure":
        unsure = ", ".join(x.id for x in failed)
        return f"fits; unsure: {unsure}{unchecked}" if unsure else f"fits{unchecked}"
    if not failed:
        return f"fits{unchecked}"
    failed = [x for x in failed if not x.unsure]
    return "does not fit" if any(x.unit == "bytes" for x in failed) else f"fails {', '.join(x.id for x in failed)}"


def _capacity(r: PlanResult) -> list[str]:
    c = r.capacity
    one = "sequences of any length" if c.tokens is None else f"one sequence of {c.tokens:,} tokens"
    most = f" (the model was made for {c.max_context:,})" if c.max_context not in (None, c.tokens) else ""
    return [
        f"  cache {exact(c.pool_bytes)} bytes of each GPU = {c.pool}",
        f"  holds {one}{most}, or {c.max_concurrency:,} of the plan's requests at once over all replicas",
    ]


def _step(s: StepTime) -> list[str]:
    """How long a step takes and what of it, its shares of the peak, and what a budget of tokens comes to."""
    rows: list[Row] = [("  tokens", exact(s.tokens), "")]
    rows += [("  bound", scaled(s.bound_s, "s"), "FLOPs that are run, over the peak of all GPUs")] if s.bound_s else []
    if s.time_s is None:
        return columns([*rows, ("  estimate", "none", s.why_none)], (1,))
    of = f"; stage {s.slowest} is the slowest" if s.slowest and s.slowest > 1 else ""
    rows.append(("  estimate", scaled(s.time_s, "s"), f"{s.tokens_per_s:,.0f} tokens/s{of}"))
    rows += [
        (f"    {k.removesuffix('_s').replace('_', ' ')}", scaled(v, "s"), f"{v / s.time_s:6.1%}")
        for k, v in s.parts.items()
        if v
    ]
    shown = ", ".join(f"{k} {v:.1%}" for k, v in s.mfu.items() if k != "palm")
    rows += [("  MFU", f"{s.mfu['palm']:.1%}", f"of FLOPs as PaLM counts them; {shown}")] if shown else []
    rows += [("  HFU", f"{s.hfu:.1%}", "of FLOPs that are run, over the pairs that exist")] if s.hfu else []
    rows += [("  days", f"{s.days:,.2f}", "for the tokens that are asked for")] if s.days else []
    rows += [("  GPU-hours", f"{s.gpu_hours:,.0f}", "")] if s.gpu_hours else []
    rows += [("  USD", f"{s.usd:,.0f}", "at price.gpu_hour_usd")] if s.usd else []
    return columns(rows, (1,))


def _told(v: Any, unit: str) -> str:
    if v is None:
        return "-"
    return scaled(v, "bytes") if unit == "bytes" and isinstance(v, int) else f"{exact(v)} {unit}".strip()


def _margin(x: Check) -> str:
    if x.margin is None:
        return ""
    sign = "-" if x.margin < 0 else "+"
    return f"{sign}{scaled(abs(x.margin), 'bytes') if x.unit == 'bytes' else exact(abs(x.margin))}"


def _notes(r: Result) -> None:
    shown = {k: v for k, v in r.assumed.items() if not k.startswith(("targets.", "workload.trace"))}
    note(f"{_path(r.file)}: assumed: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
    for text in [*r.notes, *(f"assumed of time: {x}" for x in getattr(getattr(r, "step", None), "assumed", ()))]:
        note(f"{_path(r.file)}: note: {text}")
    for text in r.unchecked:
        note(f"{_path(r.file)}: not checked: {text}")


def _annotations(r: Result) -> list[str]:
    failed = [x for x in r.checks if not x.passed]
    if not failed:
        return [_annotation("notice", r.file, None, "plan", f"{r.model} {_verdict(r)}")]
    return [
        _annotation(
            "error",
            r.file,
            x.line,
            f"{x.id} {x.name}",
            f"{_told(x.value, x.unit)} of {_told(x.limit, x.unit)}; {x.why}; fix: {x.fix}",
        )
        for x in failed
    ]


def _annotation(level: str, path: str, line: int | None, title: str, message: str) -> str:
    """A workflow command of GitHub's; what would end it early, or a terminal would act on, is escaped."""
    where = f"file={_attribute(path)}" + (f",line={line}" if line else "")
    return f"::{level} {where},title={_attribute(title)}::{_escaped(message)}"


def _line_of(error: str) -> int | None:
    """The first line that an error names."""
    found = re.search(r"\bline (\d{1,9})\b", error)
    return int(found[1]) if found else None


def _escaped(text: str) -> str:
    return "%0A".join(printable(line) for line in text.replace("%", "%25").split("\n"))


def _attribute(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def sarif(found: list[Result], errors: list[tuple[str, str]]) -> dict[str, Any]:
    """The failed checks as a SARIF 2.1.0 log."""
    from attnmath import __version__

    rules = {x.id: x.name for r in found for x in r.checks if not x.passed} | (
        {"AM000": "the plan reads"} if errors else {}
    )
    results = [
        _result(
            x.id,
            f"{x.name}: {_told(x.value, x.unit)} of {_told(x.limit, x.unit)}; {x.why}; fix: {x.fix}",
            r.file,
            x.line,
        )
        for r in found
        for x in r.checks
        if not x.passed
    ]
    results += [_result("AM000", error, path, _line_of(error)) for path, error in errors]
    driver = {"name": "attnmath", "version": __version__, "rules": [{"id": k, "name": v} for k, v in rules.items()]}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _result(rule: str, text: str, path: str, line: int | None) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(path.replace("\\", "/"), errors="replace")}}
    if line:
        place["region"] = {"startLine": line}
    return {"ruleId": rule, "level": "error", "message": {"text": text}, "locations": [{"physicalLocation": place}]}


def junit(found: list[Result], errors: list[tuple[str, str]]) -> str:
    """A test suite for each plan, a test case for each check."""

    def case(x: Check) -> Case:
        told = f"{_told(x.value, x.unit)} of {_told(x.limit, x.unit)}"
        return Case(f"{x.id} {x.name}", None if x.passed else (told, f"why: {x.why}\nfix: {x.fix}"))

    suites = [(r.file, [case(x) for x in r.checks]) for r in found]
    suites += [(path, [Case("AM000 the plan reads", error=("no verdict", error))]) for path, error in errors]
    return document("attnmath plan check", suites)


def solution_lines(s: Solution) -> list[str]:
    """The answer, what binds, the runner-up and what would help."""
    changed = ", ".join(f"{k} = {exact(v)}" if v is not None else f"no {k}" for k, v in s.values.items())
    rows: list[Row] = [("  change", "then", "gain", "GPUs")]
    rows += [
        (f"  {c.change}", _answer(c.answer, s.unit), "" if c.gain is None else f"x {c.gain:g}", exact(c.gpus))
        for c in s.changes
    ]
    return [
        strong(f"{_path(s.file)}: {s.goal}: {_answer(s.answer, s.unit)}"),
        *([f"  with {changed}"] if changed else []),
        f"  tried {s.tried}",
        "",
        f"  binds      {f'{s.binds}, ' if s.binds else ''}{s.why}",
        f"  runner-up  {s.runner_up or 'none'}",
        "",
        *(columns(rows, (1, 2, 3)) if s.changes else ["  no single change that is tried here helps"]),
    ]


def tradeoff_lines(t: Tradeoffs) -> list[str]:
    """The best point, and latency against throughput."""
    rows: list[Row] = [
        ("  tensor x data", "at once", "first token", "each token", "tokens/s", "a GPU", "USD/million", "")
    ]
    for p in t.front:
        price = p.usd_per_million_output_tokens
        rows.append(
            (
                f"  {p.tensor} x {p.data}",
                exact(p.concurrency),
                scaled(p.ttft_s, "s"),
                scaled(p.tpot_s, "s"),
                f"{p.output_tokens_per_s:,.0f}",
                f"{p.output_tokens_per_s_per_gpu:,.0f}",
                "-" if price is None else f"{price:,.3g}",
                ("best" if p == t.best else "") if p.meets else "misses a target",
            )
        )
    told = "nothing that was tried meets the targets"
    if t.best:
        changed = ", ".join(f"{k} = {exact(v)}" for k, v in t.values.items())
        told = f"{t.best.output_tokens_per_s:,.0f} tokens/s with {changed}"
    return [
        strong(f"{_path(t.file)}: {t.goal}: {told}"),
        f"  {t.meaning}; {t.tried} ways tried",
        "",
        strong("latency against throughput, estimates"),
        *columns(rows, (1, 2, 3, 4, 5, 6)),
    ]


def played_lines(p: Played) -> list[str]:
    """Percentiles, rates and queues."""
    r = p.replay
    rows: list[Row] = [("", "mean", "p50", "p90", "p99")]
    quantiles = (
        ("time to the first token", r.ttft_s),
        ("time of each further token", r.tpot_s),
        ("time of a request", r.e2e_s),
        ("of it waiting", r.queue_s),
    )
    rows += [
        (f"  {name}", *(scaled(getattr(q, k), "s") for k in ("mean_s", "p50_s", "p90_s", "p99_s")))
        for name, q in quantiles
        if q is not None
    ]
    verdict = "targets met" if p.met and all(p.met.values()) else "targets missed" if p.met else "played"
    grows = "; the queue grows: the server does not keep up" if r.growing else ""
    counts: list[Row] = [
        ("  requests a second", f"{r.rate_per_s:,.4g}", f"{r.refused:,} that no cache holds" if r.refused else ""),
        ("  output tokens a second", f"{r.output_tokens_per_s:,.5g}", ""),
        ("  busy", f"{r.utilisation:.1%}", f"{r.decodes:,.1f} sequences get a token in a step"),
        ("  in flight", f"{r.in_flight:,.4g}", f"{r.waiting:,.4g} of them waiting, {r.longest_queue:,} at the most"),
        ("  steps", exact(r.steps), f"{r.preemptions:,} requests were put back" if r.preemptions else ""),
    ]
    missed = [
        f"  {k}: {'met' if ok else 'missed'}, {p.error.get(k, 0):.0%} of error counted in" for k, ok in p.met.items()
    ]
    return [
        strong(f"{_path(p.file)}: {p.model} {verdict}{grows}"),
        f"  {p.load}",
        "",
        *columns(rows, (1, 2, 3, 4)),
        "",
        *columns(counts, (1,)),
        *missed,
    ]


def _answer(answer: int | None, unit: str) -> str:
    return "no limit" if answer is None else f"{answer:,} {unit.removesuffix('s') if answer == 1 else unit}"


def explanation_lines(x: Explanation) -> list[str]:
    """A row for each number of the log, and what of the cache's difference each accounts for."""
    rows: list[Row] = [("  what", "log", "plan", "log - plan", "of the cache", "why")]
    rows += [
        (
            f"  {d.what}",
            *(_signed(v, d.unit) for v in (d.log, d.plan, d.difference)),
            "" if d.of_cache is None else _signed(d.of_cache, "bytes"),
            d.why,
        )
        for d in x.differences
    ]
    left = (
        []
        if x.remainder_bytes is None
        else ["", f"  left of the cache's difference: {_signed(x.remainder_bytes, 'bytes')}"]
    )
    return [
        strong(f"{_path(x.log)}: {x.engine}, against {_path(x.file)}"),
        "",
        *columns(rows, (1, 2, 3, 4)),
        *left,
        *(["", *(f"  {n}" for n in x.notes)] if x.notes else []),
    ]


def _signed(v: float, unit: str) -> str:
    if unit != "bytes":
        return f"{v:,}"
    return scaled(v, "bytes") if v >= 0 else f"-{scaled(-v, 'bytes')}"
