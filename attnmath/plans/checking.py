"""Does a plan fit: memory by what takes it, what divides, what is the longest and the most that does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, together
from attnmath.models import Model, presets
from attnmath.models import read as read_model
from attnmath.models.quantization import plain_dtype
from attnmath.plans.engines import ENGINES, Used, context_bytes, left_bytes, nccl_bytes, pool_bytes
from attnmath.plans.ranks import LayerCache, Rank, activation_bytes, layer_caches, logits_bytes, weight_bytes
from attnmath.plans.reading import Plan
from attnmath.readings.memory import BITS, blocks

SCHEMA = "attnmath.plan/1"


class Check(Struct, frozen=True):
    """One constraint: `margin` is limit - value where both are numbers, in `unit`; `fix` says what would help."""

    id: str
    name: str
    passed: bool
    value: int | float | str | None
    limit: int | float | str | None
    unit: str
    margin: int | float | None
    why: str
    fix: str
    line: int | None = None


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
    """What the cache of one replica holds: bytes on one GPU, tokens of one long sequence, the longest request, and how many of
    the plan's requests at once.
    """

    pool_bytes: int
    tokens: int
    max_context: int
    max_concurrency: int


class PlanResult(Struct, frozen=True):
    """What `plan check` answers."""

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
    throughput: None = None
    latency: None = None
    model: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-check` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


class Server(Struct, frozen=True):
    """A plan put together: the model, how it is spread, and what one GPU holds beside the cache."""

    plan: Plan
    model: Model
    rank: Rank
    memory: int
    dtype: str
    kv_dtype: str
    used: Used
    weights: dict[str, int]
    caches: tuple[LayerCache, ...]
    notes: tuple[str, ...] = ()

    @property
    def pool(self) -> int:
        """Bytes of the cache on one GPU; negative if there is no room for the rest."""
        name = self.plan["engine.name"]
        setting = ENGINES[name].setting
        return pool_bytes(name, self.plan[f"engine.{setting}"] if setting else 1.0, self.memory, self.used)


@lru_cache(64)
def _model(name: str) -> Model:
    return read_model(name)


def server(plan: Plan) -> Server:
    """A plan with its model read and its memory counted; InputError names what is not understood.

    >>> from attnmath.plans.reading import parse
    >>> s = server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "plan.toml"))
    >>> s.used.weights, s.caches[0].row
    (16060522496, 4096)
    """
    model, memory = _named(plan)
    rank = Rank(plan["parallel.tensor"], plan["parallel.pipeline"], plan["parallel.data"], plan["parallel.expert"])
    plain = plain_dtype(model.config)
    dtype = plan["dtype.activations"] or (plain if plain != "fp32" else "bf16")
    kv_dtype = plan["dtype.kv"] or dtype
    if dtype not in BITS or (kv_dtype not in BITS and not blocks(kv_dtype)):
        known = ", ".join(BITS)
        raise InputError(
            f"{plan.path}: dtype {dtype} or {kv_dtype} is not known; known are {known}, and q8_0, int4/64 for the cache"
        )
    parts = weight_bytes(model, rank, plan["dtype.weights"])
    engine = plan["engine.name"]
    chunk = plan["engine.max_num_batched_tokens"]
    rows = min(plan["engine.max_num_seqs"], chunk)
    reserved = plan["engine.reserved"]
    peers = rank.tensor * rank.pipeline - 1
    used = Used(
        sum(parts.values()),
        activation_bytes(model, rank, chunk, dtype),
        logits_bytes(model, rank, rows),
        context_bytes(engine) if reserved is None else reserved,
        nccl_bytes(engine, peers) if reserved is None else 0,
        ENGINES[engine].graphs if reserved is None else 0,
    )
    caches = tuple(layer_caches(model, rank, dtype, kv_dtype))
    notes = tuple(x for x in model.left_out if "multi-token" in x or "vision_config" in x)
    return Server(plan, model, rank, memory, dtype, kv_dtype, used, parts, caches, notes)


def _named(plan: Plan) -> tuple[Model, int]:
    """The plan's model and the memory of its GPU; InputError for both at once, with their lines."""
    errors: list[str] = []

    def found(key: str, read: Callable[[], Any]) -> Any:
        line = plan.at(key)
        try:
            return read()
        except InputError as error:
            errors.append(f"{f'line {line}: ' if line else ''}{key}: {error}")

    model = found("model", lambda: _model(_beside(plan, "model")))
    memory = found("gpu.name", lambda: _memory(plan))
    if model is not None and (why := model.refused.get("parameters")):
        errors.append(f"line {plan.at('model')}: model: {why}")
    if errors:
        raise InputError(together(errors, f"{plan.path}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    return model, memory


def _beside(plan: Plan, key: str) -> str:
    """A file that the plan names, as seen from the plan's own folder, where there is one; else the name as it stands."""
    here = os.path.join(os.path.dirname(plan.path), plan[key])
    return here if os.path.exists(here) and plan[key] not in presets.names() else str(plan[key])


def _memory(plan: Plan) -> int:
    if plan["gpu.memory"] is not None:
        return int(plan["gpu.memory"])
    from attnmath.hardware import get

    return int(get(_beside(plan, "gpu.name")).figure("hbm_bytes"))


def sequence_bytes(s: Server, tokens: int) -> tuple[int, int]:
    """(cache, state) bytes that one sequence of so many tokens takes on one GPU, in whole pages of the engine's.

    A windowed layer keeps its window and the page that is being filled, or everything (engine.windows = "full"). vLLM gives
    layers with a state and layers with a cache pages of one size, two for each state (vllm-project/vllm,
    vllm/v1/core/kv_cache_utils.py, unify_hybrid_kv_cache_specs; the two are read off servers' logs).

    >>> from attnmath.plans.reading import parse
    >>> sequence_bytes(server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p")), 100)
    (14680064, 0)
    """
    engine = s.plan["engine.name"]
    page = s.plan["engine.block_size"] if engine != "ideal" else 1
    stateful = max((c.state for c in s.caches), default=0)
    row = max((-(-c.row // c.every) for c in s.caches), default=0)
    shared = engine == "vllm" and stateful and row
    if shared:
        page = -(-stateful // (row * page)) * page
    cache = state = 0
    for c in s.caches:
        seen = s.plan["workload.prompt_tokens"] if c.source else tokens
        spare = page if page > 1 else 0
        kept = seen if c.window is None or s.plan["engine.windows"] == "full" else min(seen, c.window + spare)
        whole = -(-kept // page) * page
        cache += c.count * c.row * -(-whole // c.every)
        state += c.count * (2 * page * row if shared and c.state else c.state)
    return cache, state


def most(fits: Callable[[int], bool], ceiling: int = 10**12) -> int:
    """The largest number that fits, of those from 1 on where each smaller one fits, too; 0 if none does.

    >>> most(lambda n: n * n <= 50)
    7
    """
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= ceiling and fits(high):
        low, high = high, high * 2
    while high - low > 1 and low < ceiling:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return min(low, ceiling)


def most_tokens(s: Server, pool: int, sequences: int = 1) -> int:
    """The longest context that so many sequences fit into a pool with; 0 if none does.

    >>> from attnmath.plans.reading import parse
    >>> most_tokens(server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p")), 131072 * 1000)
    992
    """
    return most(lambda n: sequences * sum(sequence_bytes(s, n)) <= pool)


def check(plan: Plan) -> PlanResult:
    """Every constraint of a plan, with its value, limit, margin, reason and fix.

    >>> from attnmath.plans.reading import parse
    >>> r = check(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "80GB"', "plan.toml"))
    >>> r.verdict, r.memory_bytes.weights
    ('pass', 16060522496)
    """
    s = server(plan)
    tokens = plan["workload.prompt_tokens"] + plan["workload.output_tokens"]
    share = -(-plan["workload.concurrency"] // s.rank.data)
    running = min(share, plan["engine.max_num_seqs"])
    cache, state = sequence_bytes(s, tokens)
    pool = s.pool
    need = running * (cache + state)
    ideal = sum(c.count * c.row * -(-min(tokens, c.window or tokens) // c.every) for c in s.caches if not c.source)
    fragmentation = max(0, running * (cache - ideal)) if plan["engine.name"] != "ideal" else 0
    u = s.used
    total = u.total + need
    memory = Memory(
        u.weights,
        need - running * state - fragmentation,
        running * state,
        u.activations,
        u.logits,
        u.context,
        u.nccl,
        u.graphs,
        fragmentation,
        total,
        s.memory,
    )
    longest = plan["engine.max_model_len"] or tokens
    per_sequence = cache + state
    capacity = Capacity(
        max(pool, 0),
        most_tokens(s, max(pool, 0)),
        min(most_tokens(s, max(pool, 0)), _positions(s.model) or 10**12),
        max(pool, 0) // per_sequence * s.rank.data if per_sequence else plan["engine.max_num_seqs"] * s.rank.data,
    )
    checks = [*_memory_checks(s, memory, pool, need, longest, running), *_shape_checks(s, share, tokens)]
    given = plan.given
    assumed = {k: v for k, v in plan.values.items() if k not in given and v is not None and _used(plan, k)}
    assumed |= {"dtype.kv": s.kv_dtype} if "dtype.kv" not in given else {}
    return PlanResult(
        plan.path,
        "pass" if all(c.passed for c in checks) else "fail",
        checks,
        memory,
        _made_of(s, running, tokens, cache),
        capacity,
        dict(plan.values),
        assumed,
        [*_notes(s, share), *s.notes],
        plan.unchecked,
        model=s.model.name,
    )


def _made_of(s: Server, running: int, tokens: int, cache: int) -> dict[str, str]:
    """How each number of the memory comes about."""
    plan, chunk = s.plan, s.plan["engine.max_num_batched_tokens"]
    parts = sorted(s.weights.items(), key=lambda item: -item[1])
    rows = min(plan["engine.max_num_seqs"], chunk)
    estimate = "measured: engine.reserved" if plan["engine.reserved"] is not None else "estimate, from servers' logs"
    peers = s.rank.tensor * s.rank.pipeline - 1
    return {
        "weights": ", ".join(f"{k} {v:,}" for k, v in parts),
        "kv_cache": f"{running:,} requests x {tokens:,} tokens: {cache:,} bytes each",
        "state": f"{running:,} requests",
        "activations": f"estimate: {chunk:,} tokens through the widest layer, {s.used.activations // chunk:,} bytes each",
        "logits": f"estimate: {rows:,} sequences x vocabulary x 8 bytes",
        "context": estimate,
        "nccl": f"{estimate}: {peers} peers",
        "graphs": estimate,
        "fragmentation": "pages that are not full",
    }


def _used(plan: Plan, key: str) -> bool:
    """Whether a default has a use for the plan's engine."""
    settings = {e.setting for e in ENGINES.values()} - {ENGINES[plan["engine.name"]].setting}
    return key.rpartition(".")[2] not in settings


def _positions(model: Model) -> int | None:
    """The longest context that the config names."""
    text = model.config.get("text_config")
    for c in (model.config, text if isinstance(text, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "model_max_length", "max_target_positions"):
            if isinstance(c.get(key), int) and not isinstance(c.get(key), bool):
                return int(c[key])
    return None


def _memory_checks(s: Server, m: Memory, pool: int, need: int, longest: int, running: int) -> Iterable[Check]:
    plan, engine = s.plan, ENGINES[s.plan["engine.name"]]
    setting = f"engine.{engine.setting}" if engine.setting else None
    margin = plan["targets.memory_margin"]
    limit = int(m.available * (1 - margin))
    less = f", less the margin of {margin:.0%}" if margin else ""
    told = f"engine.{engine.setting} = {plan[setting]:g}: {engine.meaning}" if setting else engine.meaning
    tokens = plan["workload.prompt_tokens"] + plan["workload.output_tokens"]
    beside = s.used.total - s.used.graphs if plan["engine.name"] == "vllm" else s.used.total
    room = pool + beside if plan["engine.name"] != "trtllm" else m.available
    yield _bytes(
        "AM001",
        "weights and activations fit",
        beside,
        max(room, 0),
        plan.at(setting or "", "gpu.memory", "gpu.name"),
        told,
        "more tensor or pipeline ranks, narrower weights (dtype.weights), or a smaller engine.max_num_batched_tokens",
    )
    cache, state = sequence_bytes(s, longest)
    yield _bytes(
        "AM002",
        f"one request of {longest:,} tokens fits",
        cache + state,
        max(pool, 0),
        plan.at("engine.max_model_len", "workload.prompt_tokens"),
        f"{cache + state:,} bytes of cache and state on a GPU for one sequence",
        "a shorter engine.max_model_len, a narrower cache (dtype.kv), or more ranks",
    )
    yield _bytes(
        "AM003",
        f"{running:,} requests at once fit",
        need,
        max(pool, 0),
        plan.at("workload.concurrency"),
        f"{running:,} requests of {tokens:,} tokens on each replica, at their longest",
        "fewer requests at once, more replicas (parallel.data), a narrower cache (dtype.kv), or more memory for it",
    )
    yield _bytes(
        "AM004",
        "all of it fits the GPU",
        m.total,
        limit,
        plan.at("targets.memory_margin", "gpu.memory", "gpu.name"),
        f"memory of one GPU{less}; context, NCCL, graphs and activations are estimates",
        "a GPU with more memory, more ranks, narrower weights or cache, or a smaller margin",
    )
    if setting:
        left = left_bytes(plan["engine.name"], m.available, s.used, max(pool, 0))
        yield Check(
            "AM005",
            "what the engine leaves is enough",
            left >= 0,
            s.used.total + max(pool, 0),
            m.available,
            "bytes",
            left,
            f"{told}; graphs and activations beside it are estimates",
            f"a smaller {setting}",
            plan.at(setting),
        )


def _bytes(id_: str, name: str, value: int, limit: int, line: int | None, why: str, fix: str) -> Check:
    return Check(id_, name, value <= limit, value, limit, "bytes", limit - value, why, fix, line)


def _shape_checks(s: Server, share: int, tokens: int) -> Iterable[Check]:
    plan, tensor = s.plan, s.rank.tensor
    attention = [p for p in s.model.pieces if p.part == "attention" and "heads" in p.sizes]
    for name, key in (("query heads", "heads"), ("key/value heads", "kv-heads")):
        counts = sorted({p.sizes[key] for p in attention if key in p.sizes})
        bad = [n for n in counts if n % tensor and (key == "heads" or tensor % n)]
        what = ", ".join(map(str, bad or counts))
        if counts:
            yield Check(
                "AM006" if key == "heads" else "AM007",
                f"tensor ranks divide the {name}",
                not bad,
                tensor,
                what,
                "",
                None,
                f"{what} {name} over {tensor} ranks"
                + (
                    f"; {what} heads are held by several ranks each"
                    if key == "kv-heads" and any(n < tensor for n in counts)
                    else ""
                ),
                f"a parallel.tensor of {_divisors(counts)}",
                plan.at("parallel.tensor"),
            )
    widths = sorted({p.sizes["ffn"] for p in s.model.pieces if "ffn" in p.sizes and p.part != "vision"})
    bad = [n for n in widths if n % tensor]
    if widths:
        yield Check(
            "AM008",
            "tensor ranks divide the feed-forward widths",
            not bad,
            tensor,
            ", ".join(map(str, bad or widths)),
            "",
            None,
            "each rank takes a share of every feed-forward layer",
            f"a parallel.tensor of {_divisors(widths)}",
            plan.at("parallel.tensor"),
        )
    experts = sorted({p.sizes["expert"] for p in s.model.pieces if "expert" in p.sizes})
    if s.rank.expert > 1:
        bad = [n for n in experts if n % s.rank.expert]
        yield Check(
            "AM009",
            "expert ranks divide the experts",
            bool(experts) and not bad,
            s.rank.expert,
            ", ".join(map(str, experts)) or "none",
            "",
            None,
            "the model has no routed experts" if not experts else "each rank takes a share of the routed experts",
            f"a parallel.expert of {_divisors(experts)}" if experts else "parallel.expert = 1",
            plan.at("parallel.expert"),
        )
    layers = sum(p.count for p in attention)
    yield Check(
        "AM010",
        "pipeline stages have layers",
        s.rank.pipeline <= layers,
        s.rank.pipeline,
        layers,
        "layers",
        layers - s.rank.pipeline,
        f"{layers} attention layers over {s.rank.pipeline} stages, {-(-layers // s.rank.pipeline)} on the fullest",
        "a smaller parallel.pipeline",
        plan.at("parallel.pipeline"),
    )
    product = tensor * s.rank.pipeline * s.rank.data
    count = plan["gpu.count"] or product
    yield Check(
        "AM011",
        "the ranks are as many as the GPUs",
        product == count,
        product,
        count,
        "GPUs",
        count - product,
        f"tensor {tensor} x pipeline {s.rank.pipeline} x data {s.rank.data} = {product}",
        f"gpu.count = {product}, or other parallel sizes",
        plan.at("gpu.count", "parallel.tensor"),
    )
    positions = _positions(s.model)
    longest = plan["engine.max_model_len"] or tokens
    if positions is not None:
        yield Check(
            "AM012",
            "the model was made for requests as long",
            longest <= positions,
            longest,
            positions,
            "tokens",
            positions - longest,
            "max_position_embeddings of the config",
            f"an engine.max_model_len of at most {positions}",
            plan.at("engine.max_model_len", "workload.prompt_tokens"),
        )
    most = plan["engine.max_num_seqs"]
    yield Check(
        "AM013",
        "the engine runs as many at once",
        share <= most,
        share,
        most,
        "requests",
        most - share,
        f"{plan['workload.concurrency']:,} requests over {s.rank.data} replicas; more than engine.max_num_seqs wait",
        f"engine.max_num_seqs = {share}, or more replicas",
        plan.at("engine.max_num_seqs", "workload.concurrency"),
    )


def _divisors(numbers: list[int]) -> str:
    from math import gcd

    common = 0
    for n in numbers:
        common = gcd(common, n)
    found = [d for d in range(1, min(common, 64) + 1) if common % d == 0]
    return ", ".join(map(str, found))


def _notes(s: Server, share: int) -> list[str]:
    copies = max((c.copies for c in s.caches), default=1)
    out = []
    if copies > 1:
        latent = any(p.page in ("mla", "dsa", "csa", "hca", "shared-window") for p in s.model.pieces)
        why = "the latent is one for all heads" if latent else "there are fewer key/value heads than tensor ranks"
        out.append(f"the cache is held {copies} times: {why}")
    if s.plan["gpu.memory"] is None and s.plan["gpu.name"]:
        out.append("gpu.memory: the vendor's figure in decimal bytes; the driver shows somewhat more")
    if s.plan["engine.reserved"] is None and s.plan["engine.name"] != "ideal":
        out.append("context, NCCL and graphs are estimates from servers' logs; engine.reserved replaces them")
    del share
    return out


def read(path: str) -> Plan:
    """A plan from its file; see `attnmath.plans.reading`.

    >>> read("no-such-file.toml")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: no-such-file.toml: No such file or directory
    """
    from attnmath.plans.reading import read as from_file

    return from_file(path)
