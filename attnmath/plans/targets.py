"""The targets of a server's plan: a check each, that passes on the pessimistic end of the estimate, cannot pass on the bound,
and is unsure in between.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnmath.plans.constraints import Check
from attnmath.plans.latency import Range, Timed
from attnmath.plans.reading import Plan


def target_checks(plan: Plan, t: Timed) -> Iterator[Check]:
    """Every target in time that the plan states, and whether the server keeps up with a stated rate.

    >>> from attnmath.plans.latency import timed
    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.servers import servers
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"\\n[targets]\\ntpot_s = 1e-6', "plan.toml")
    >>> [(c.id, c.passed, c.unsure) for c in target_checks(plan, timed(servers(plan)))]
    [('AM018', False, False)]
    """
    if (rate := plan["workload.rate_per_s"]) is not None:
        yield _at_least(
            "AM016",
            "the server keeps up with the rate",
            t.throughput.saturation_per_s,
            rate,
            "requests/s",
            f"limited by {t.throughput.saturates_by}; the rate is {t.throughput.utilisation:.0%} of what it can",
            "more replicas (parallel.data), faster GPUs, or a smaller rate",
            plan.at("workload.rate_per_s"),
        )
    lat = t.latency
    for id_, key, name, found, fix in (
        (
            *("AM017", "ttft_s", "the first token comes in time", lat.ttft_s),
            "shorter prompts, a higher workload.prefix_hit_rate, more tensor ranks, or more replicas",
        ),
        (
            *("AM018", "tpot_s", "further tokens come in time", lat.tpot_s),
            "fewer requests at once on each replica, more tensor ranks, narrower weights or cache",
        ),
    ):
        if (limit := plan[f"targets.{key}"]) is not None and found is not None:
            yield _at_most(id_, name, found, limit, f"mean; {t.formula}", fix, plan.at(f"targets.{key}"))
    if (limit := plan["targets.tokens_per_s"]) is not None:
        yield _at_least(
            "AM019",
            "enough tokens a second",
            t.throughput.output_tokens_per_s,
            limit,
            "tokens/s",
            "output tokens over all replicas, under the plan's load",
            "more requests at once (workload.concurrency), more replicas, narrower weights or cache",
            plan.at("targets.tokens_per_s"),
        )


def _at_most(id_: str, name: str, r: Range, limit: float, why: str, fix: str, line: int | None) -> Check:
    if r.estimate is None or r.pessimistic is None:
        return Check(
            id_, name, False, None, limit, "s", None, "the server does not keep up: it has no steady state", fix, line
        )
    passed, possible = r.pessimistic <= limit, r.bound is None or r.bound <= limit
    return Check(
        id_,
        name,
        passed,
        r.estimate,
        limit,
        "s",
        limit - r.estimate,
        f"{_between(r, 's')}; {why}",
        fix,
        line,
        possible and not passed,
    )


def _at_least(id_: str, name: str, r: Range, limit: float, unit: str, why: str, fix: str, line: int | None) -> Check:
    estimate, pessimistic = r.estimate or 0.0, r.pessimistic or 0.0
    passed, possible = pessimistic >= limit, r.bound is None or r.bound >= limit
    return Check(
        id_,
        name,
        passed,
        estimate,
        limit,
        unit,
        estimate - limit,
        f"{_between(r, unit)}; {why}",
        fix,
        line,
        possible and not passed,
    )


def _between(r: Range, unit: str) -> str:
    bound = "unknown" if r.bound is None else f"{r.bound:.4g}"
    return f"bound {bound}, estimate {r.estimate:.4g}, pessimistic end {r.pessimistic:.4g} {unit}"
