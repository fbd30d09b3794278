"""Does a plan fit: the verdict, what takes the memory, and what the cache holds."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.models import Model
from attnmath.plans.constraints import Check, divisions, memory_checks, shape_checks
from attnmath.plans.engines import ENGINES
from attnmath.plans.fields import keys_of
from attnmath.plans.latency import Accuracy, Latency, Throughput, Timed, timed
from attnmath.plans.reading import Plan
from attnmath.plans.servers import (
    Server,
    Spread,
    most,
    most_tokens,
    named,
    needed,
    rank_of,
    sequence_bytes,
    servers,
    tightest,
)
from attnmath.plans.targets import target_checks

if TYPE_CHECKING:
    from attnmath.plans.training_checks import TrainingResult

SCHEMA = "attnmath.plan/1"


class Memory(Struct, frozen=True):
    """Bytes of the fullest GPU by what takes them; `available` is all that one has."""

    weights: int
    kv_cache: int
    state: int
    activations: int
    logits: int
    context: int
    nccl: int
    graphs: int
    fragmentation: int
    total: int
    available: int


class Capacity(Struct, frozen=True):
    """What the cache of a replica holds: bytes on one GPU, how the engine comes to them, tokens of one long sequence (None:
    no limit), the longest request that the model was made for, too, and how many of the plan's requests at once, of all
    replicas.
    """

    pool_bytes: int
    pool: str
    tokens: int | None
    max_context: int | None
    max_concurrency: int


class PlanResult(Struct, frozen=True):
    """What `plan check` answers; `latency` and `throughput` None where nothing is known of time, which `unchecked` explains
    for whatever was asked.
    """

    file: str
    verdict: str
    checks: list[Check]
    memory_bytes: Memory
    made_of: dict[str, str]
    capacity: Capacity
    values: dict[str, Any]
    assumed: dict[str, Any]
    notes: list[str]
    unchecked: list[str]
    throughput: Throughput | None = None
    latency: Latency | None = None
    model: str = ""
    formula: str = ""
    accuracy: dict[str, Accuracy] = {}

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-check` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


def verdict(plan: Plan, model: Model | None = None) -> PlanResult | TrainingResult:
    """What `plan check` answers, of a server's plan or of one of training.

    >>> from attnmath.plans.reading import parse
    >>> verdict(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[training]\\nseq = 64', "plan.toml")).verdict
    'pass'
    """
    if plan.trains:
        from attnmath.plans.training_checks import check_training

        return check_training(plan, model)
    return check(plan, model)


def check(plan: Plan, model: Model | None = None) -> PlanResult:
    """Every constraint of a server's plan, with its value, limit, margin, reason and fix.

    >>> from attnmath.plans.reading import parse
    >>> r = check(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "80GB"', "plan.toml"))
    >>> r.verdict, r.memory_bytes.weights
    ('pass', 16060522496)
    """
    stages, time, why = _at_load(plan, servers(plan, model))
    found = {s.stage: list(memory_checks(s)) for s in stages}
    failed = {k: sum(not c.passed for c in checks) for k, checks in found.items()}
    s = tightest([s for s in stages if failed[s.stage] == max(failed.values())])
    checks = sorted([*found[s.stage], *shape_checks(s)], key=lambda c: c.id)
    if time:
        checks = sorted([*checks, *target_checks(plan, time)], key=lambda c: c.id)
    own = keys_of(False)
    assumed = {k: v for k, v in plan.values.items() if k not in plan.given and v is not None and _used(plan, k)}
    assumed = {k: v for k, v in assumed.items() if k.rpartition(".")[0] in own}
    assumed |= {"dtype.kv": s.kv_dtype} if "dtype.kv" not in plan.given else {}
    return PlanResult(
        plan.path,
        _verdict(checks, bool(why and _asked(plan))),
        checks,
        _memory_of(s),
        _made_of(s),
        _capacity(s, stages),
        {k: v for k, v in plan.values.items() if k.rpartition(".")[0] in own},
        assumed,
        [*_notes(s), *_notes_of(time, why)],
        [f"{k}: {why}" for k in _asked(plan)] if why else [],
        time.throughput if time else None,
        time.latency if time else None,
        s.model.name,
        time.formula if time else "",
        time.accuracy if time else {},
    )


def _notes_of(time: Timed | None, why: str) -> list[str]:
    if time is None:
        return [f"in time: not known: {why}"]
    return [*time.notes, *(f"in time: assumed: {x}" for x in time.assumed)]


IN_TIME = ("workload.rate_per_s", "workload.trace", "targets.ttft_s", "targets.tpot_s", "targets.tokens_per_s")


def _asked(plan: Plan) -> list[str]:
    """What the plan asks for that only time can answer."""
    return [k for k in IN_TIME if plan[k] is not None]


def _timed(plan: Plan, stages: list[Server]) -> tuple[Timed | None, str]:
    """(latency and throughput, why there are none)."""
    if plan["workload.trace"] is not None:
        return None, "a trace is played through the replicas by `attnmath plan replay`"
    try:
        return timed(stages), ""
    except InputError as error:
        return None, str(error)


def _at_load(plan: Plan, stages: list[Server]) -> tuple[list[Server], Timed | None, str]:
    """(stages with as many requests as the plan's rate leaves in flight, latency and throughput, why there are none)."""
    time, why = _timed(plan, stages)
    if time and plan["workload.rate_per_s"] is not None and time.throughput.in_flight:
        stages = servers(plan.changed(workload__concurrency=math.ceil(time.throughput.in_flight)), stages[0].model)
    return stages, time, why


def _verdict(checks: list[Check], unanswered: bool) -> str:
    failed = [c for c in checks if not c.passed]
    if any(not c.unsure for c in failed):
        return "fail"
    return "unsure" if failed or unanswered else "pass"


def fits(plan: Plan, model: Model | None = None, in_time: bool = True) -> bool:
    """Whether every check passes; `in_time`: those of targets among them.

    >>> from attnmath.plans.reading import parse
    >>> fits(parse('model = "gpt2"\\n[gpu]\\nmemory = "1GiB"', "plan.toml"))
    False
    """
    stages, time = servers(plan, model), None
    if not all(c.passed for c in shape_checks(stages[0])):
        return False
    if in_time and _asked(plan) and all(needed(x, 1, x.request) <= x.pool for x in stages):
        stages, time, why = _at_load(plan, stages)
        if time is None:
            raise InputError(f"{plan.path}: {', '.join(_asked(plan))}: {why}")
    if not all(c.passed for s in stages for c in memory_checks(s)):
        return False
    return time is None or all(c.passed for c in target_checks(plan, time))


def spread_fits(plan: Plan, model: Model | None = None) -> bool:
    """Whether the ranks divide what they have to, whatever the memory.

    >>> from attnmath.plans.reading import parse
    >>> spread_fits(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\ntensor = 5', "plan.toml"))
    False
    """
    s = Spread(plan, model or named(plan)[0], rank_of(plan))
    return all(c.passed for c in divisions(s))


def _memory_of(s: Server) -> Memory:
    need, running, u = needed(s, s.running, s.request), s.running, s.used
    state = running * sequence_bytes(s, s.request, paged=False)[1]
    cache = needed(s, running, s.request, paged=False) - state
    return Memory(
        u.weights,
        cache,
        state,
        u.activations,
        u.logits,
        u.context,
        u.nccl,
        u.graphs,
        need - cache - state,
        u.total + need,
        s.memory,
    )


def _capacity(s: Server, stages: list[Server]) -> Capacity:
    """What every stage holds; bytes are those of one."""
    seqs, positions = s.plan["engine.max_num_seqs"], s.model.positions
    lengths = [most_tokens(x, max(x.pool, 0)) for x in stages]
    tokens = min((n for n in lengths if n is not None), default=None)
    counts = [most(partial(_holds, x), seqs) for x in stages]
    known = [x for x in (tokens, positions) if x is not None]
    rest = f"{s.split.of:,} - {s.split.taken:,}"
    return Capacity(
        max(s.pool, 0),
        f"({rest}) x {s.split.share:g}" if s.split.share != 1 else rest,
        tokens,
        min(known) if known else None,
        min((n for n in counts if n is not None), default=seqs) * s.rank.data,
    )


def _holds(s: Server, requests: int) -> bool:
    return needed(s, requests, s.request) <= max(s.pool, 0)


def _made_of(s: Server) -> dict[str, str]:
    """How each number of the memory comes about."""
    plan, chunk = s.plan, s.plan["engine.max_num_batched_tokens"]
    parts = sorted(s.held.weights.items(), key=lambda item: -item[1])
    rows = min(plan["engine.max_num_seqs"], chunk)
    estimate = "measured: engine.reserved" if plan["engine.reserved"] is not None else "estimate, from servers' logs"
    each = sequence_bytes(s, s.request, paged=False)
    windows = any(r.window is not None for r in s.held.rows) and plan["engine.windows"] == "kept"
    more = f", and {chunk:,} tokens more in windowed layers for one" if windows else ""
    requests = f"{s.running:,} request{'s' * (s.running > 1)}"
    more += f", and {s.source:,} of the encoder" if s.crosses else ""
    return {
        "weights": ", ".join(f"{k} {v:,}" for k, v in parts),
        "kv_cache": f"{requests} x {s.request:,} tokens: {each[0]:,} bytes each{more}",
        "state": f"{requests}: {each[1]:,} bytes each",
        "activations": f"estimate: {chunk:,} tokens through the widest layer, {s.used.activations // chunk:,} bytes each",
        "logits": f"estimate: {rows:,} sequences x vocabulary x 8 bytes",
        "context": estimate,
        "nccl": f"{estimate}: a quarter of a GiB for each other rank, of a node's",
        "graphs": estimate,
        "fragmentation": "pages that are not full, and states padded to pages",
    }


def _used(plan: Plan, key: str) -> bool:
    """Whether a default has a use for the plan's engine."""
    settings = {e.setting for e in ENGINES.values()} - {ENGINES[plan["engine.name"]].setting}
    return key.rpartition(".")[2] not in settings


def _notes(s: Server) -> list[str]:
    copies = max((r.copies for r in s.held.rows), default=1)
    out = [x for x in s.model.left_out if "FLOPs" not in x]
    if copies > 1:
        latent = any(p.page in ("mla", "dsa", "csa", "hca", "shared-window") for p in s.model.pieces)
        why = "one latent serves all heads" if latent else "there are fewer key/value heads than tensor ranks"
        out.append(f"the cache is held {copies} times: {why}")
    if s.plan["gpu.memory"] is None and s.plan["gpu.name"]:
        out.append(
            "gpu.memory: the vendor's decimal figure; the driver shows another (81,559 MiB on an H100 of 80 GB, "
            "modal-labs/modal-client#2797, 6 % more), and gpu.memory takes that one: nvidia-smi, or the server's log, has it"
        )
    if any(k.chooses for p in s.model.pieces for k in _choosing(p)):
        out.append("an indexer's keys are counted in fp8, with a scale of four bytes each")
    if s.plan["engine.reserved"] is None and s.plan["engine.name"] != "ideal":
        out.append("context, NCCL and graphs are estimates from servers' logs; engine.reserved replaces them")
    if any(p.part == "vision" for p in s.model.pieces):
        out.append("the tower's weights are counted, its activations and its tokens are not")
    return out


def _choosing(p: Any) -> list[Any]:
    from attnmath.models.caching import kept

    return kept(p, "bf16", "bf16") if p.page in ("dsa", "csa", "msa") else []
