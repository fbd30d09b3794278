"""Does a plan fit: memory by what takes it, what divides, what is the longest and the most that does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, together
from attnmath.models import Model, presets
from attnmath.models import read as read_model
from attnmath.models.quantization import plain_dtype, recipe_of
from attnmath.plans.engines import ENGINES, Split, Used, context_bytes, nccl_bytes, split
from attnmath.plans.ranks import Held, Rank, activation_bytes, held, logits_bytes
from attnmath.plans.reading import Plan
from attnmath.readings.memory import BITS, blocks

SCHEMA = "attnmath.plan/1"
VOCAB_PAGE = 64  # vllm-project/vllm, vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE; SGLang has the same
CEILING = 10**12  # tokens or requests beyond which there is no limit


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


class Spread(Struct, frozen=True):
    """A plan, its model, and its ranks: all that divides, and what is asked for."""

    plan: Plan
    model: Model
    rank: Rank

    @property
    def crosses(self) -> bool:
        """Whether there is an encoder beside the decoder."""
        return any(p.page == "cross" for p in self.model.pieces)

    @property
    def source(self) -> int:
        """Tokens of the encoder: as many as it always makes, else the prompt's."""
        return int(self.model.source_tokens or self.plan["workload.prompt_tokens"])

    @property
    def request(self) -> int:
        """Tokens of the plan's request in the decoder's cache, at its end."""
        output = int(self.plan["workload.output_tokens"])
        return output if self.crosses else output + int(self.plan["workload.prompt_tokens"])

    @property
    def running(self) -> int:
        """Requests that a replica runs at once."""
        share = -(-int(self.plan["workload.concurrency"]) // self.rank.data)
        return min(share, int(self.plan["engine.max_num_seqs"]))


class Server(Spread, frozen=True):
    """One stage of a plan put together: what one of its GPUs holds beside the cache."""

    memory: int
    dtype: str
    kv_dtype: str
    used: Used
    held: Held
    stage: int

    @property
    def split(self) -> Split:
        """How the engine comes to its cache."""
        name = self.plan["engine.name"]
        setting = ENGINES[name].setting
        return split(name, self.plan[f"engine.{setting}"] if setting else 1.0, self.memory, self.used)

    @property
    def pool(self) -> int:
        """Bytes of the cache on one GPU; negative if there is no room for the rest."""
        return self.split.pool


def servers(plan: Plan, model: Model | None = None) -> list[Server]:
    """A plan's stages, its model read, unless it is given, and its memory counted; InputError names what is not understood.

    >>> from attnmath.plans.reading import parse
    >>> s = servers(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "plan.toml"))[0]
    >>> s.used.weights, s.held.rows[0].bytes
    (16060522496, 4096)
    """
    model, memory, dtype, kv_dtype = _named(plan, model)
    rank = _rank(plan)
    engine, chunk, reserved = plan["engine.name"], plan["engine.max_num_batched_tokens"], plan["engine.reserved"]
    if rank.pipeline > len(model.sequence):
        rank = Rank(rank.tensor, 1, rank.data, rank.expert)  # AM010 says so
    world = max(rank.tensor * rank.pipeline, rank.expert)
    activations = activation_bytes(model, rank, chunk, dtype)
    logits = logits_bytes(model, min(plan["engine.max_num_seqs"], chunk))
    parts = held(model, replace(rank, data=1), plan["dtype.weights"], dtype, kv_dtype)
    out = []
    for stage, part in enumerate(parts):
        used = Used(
            part.weight_bytes,
            activations,
            logits if stage == len(parts) - 1 else 0,
            context_bytes(engine) if reserved is None else reserved,
            nccl_bytes(engine, world - 1) if reserved is None else 0,
            ENGINES[engine].graphs if reserved is None else 0,
        )
        out.append(Server(plan, model, rank, memory, dtype, kv_dtype, used, part, stage))
    return out


def _rank(plan: Plan) -> Rank:
    return Rank(plan["parallel.tensor"], plan["parallel.pipeline"], plan["parallel.data"], plan["parallel.expert"])


def server(plan: Plan, model: Model | None = None) -> Server:
    """The stage of a plan that the plan's load leaves the least of.

    >>> from attnmath.plans.reading import parse
    >>> server(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\npipeline = 2', "plan.toml")).stage
    1
    """
    return _tightest(servers(plan, model))


def _tightest(stages: list[Server]) -> Server:
    return min(stages, key=lambda s: (s.pool - needed(s, s.running, s.request), -s.used.total))


def _named(plan: Plan, known: Model | None = None) -> tuple[Model, int, str, str]:
    """(model, memory of its GPU, dtypes of activations and cache); InputError for all at once, with their lines."""
    errors: list[str] = []

    def found(key: str, read: Callable[[], Any]) -> Any:
        line = plan.at(key)
        try:
            return read()
        except InputError as error:
            errors.append(f"{f'line {line}: ' if line else ''}{key}: {error}")

    def dtype_of(key: str, name: str) -> str:
        if name not in BITS and not (key == "dtype.kv" and blocks(name)):
            more = "; or q8_0, mxfp4, nvfp4, int4/64" if key == "dtype.kv" else ""
            raise InputError(f"unknown dtype {name[:40]!r}: the dtypes are {', '.join(BITS)}{more}")
        return name

    model = known or found("model", lambda: read_model(_beside(plan, "model")))
    memory = found("gpu.name", lambda: _memory(plan))
    plain = plain_dtype(model.config) if model else "bf16"
    dtype = found(
        "dtype.activations", lambda: dtype_of("", plan["dtype.activations"] or ("bf16" if plain == "fp32" else plain))
    )
    kv_dtype = found("dtype.kv", lambda: dtype_of("dtype.kv", plan["dtype.kv"] or dtype or "bf16"))
    if model is not None:
        found("dtype.weights", lambda: recipe_of(model, plan["dtype.weights"]))
        if why := model.refused.get("parameters"):
            errors.append(f"line {plan.at('model')}: model: {why}")
    if errors:
        raise InputError(together(errors, f"{plan.path}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    return model, memory, dtype, kv_dtype


def _beside(plan: Plan, key: str) -> str:
    """A file that the plan names, as seen from the plan's own folder, where there is one; else the name as it stands."""
    here = os.path.join(os.path.dirname(plan.path), plan[key])
    return here if os.path.exists(here) and plan[key] not in presets.names() else str(plan[key])


def _memory(plan: Plan) -> int:
    if plan["gpu.memory"] is not None:
        return int(plan["gpu.memory"])
    from attnmath.hardware import get

    return int(get(_beside(plan, "gpu.name")).figure("hbm_bytes"))


def sequence_bytes(s: Server, tokens: int, chunk: int = 1, paged: bool = True) -> tuple[int, int]:
    """(cache, state) bytes that one sequence of so many tokens takes on one GPU while `chunk` of them are computed.

    In whole pages of the engine's, unless `paged` is False. A windowed layer keeps the window before the chunk, and one page
    more, or everything (engine.windows = "full"). vLLM gives layers with a state and layers with a cache pages of one size,
    two for each state (vllm-project/vllm, vllm/v1/kv_cache_interface.py, SlidingWindowSpec and MambaSpec; cache mode align).

    >>> from attnmath.plans.reading import parse
    >>> sequence_bytes(server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p")), 100)
    (14680064, 0)
    """
    engine = s.plan["engine.name"]
    page = s.plan["engine.block_size"] if paged and engine != "ideal" else 1
    row = max((-(-r.bytes // r.every) for r in s.held.rows), default=0)
    largest = max(s.held.states, default=0)
    shared = engine == "vllm" and paged and largest and row
    if shared:
        page = -(-largest // (row * page)) * page
    cache = 0
    for r in s.held.rows:
        seen = s.source if r.source else tokens
        if r.window is not None and s.plan["engine.windows"] == "kept":
            seen = min(seen, r.window - 1 + min(chunk, seen) + (page if page > 1 else 0))
        rows = seen // r.every if page == 1 else -(-(-(-seen // page) * page) // r.every)
        cache += r.count * r.bytes * rows
    state = len(s.held.states) * 2 * page * row if shared else sum(s.held.states)
    return cache, state


def needed(s: Server, running: int, tokens: int, paged: bool = True) -> int:
    """Bytes of cache and state on one GPU for so many requests at once, of which one is in its largest chunk.

    >>> from attnmath.plans.reading import parse
    >>> needed(server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p")), 3, 100)
    44040192
    """
    chunk = s.plan["engine.max_num_batched_tokens"]
    first, rest = (sum(sequence_bytes(s, tokens, c, paged)) for c in (chunk, 1))
    return first + (running - 1) * rest


def most(fits: Callable[[int], bool], ceiling: int = CEILING) -> int | None:
    """The largest number that fits, of those from 1 on where each smaller one fits, too; 0 if none does, None if all do.

    >>> most(lambda n: n * n <= 50), most(lambda n: True), most(lambda n: False)
    (7, None, 0)
    """
    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, high * 2
        if high > ceiling:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def most_tokens(s: Server, pool: int) -> int | None:
    """The longest sequence that a pool holds; None if there is no limit.

    >>> from attnmath.plans.reading import parse
    >>> most_tokens(server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p")), 131072 * 1000)
    992
    """
    return most(lambda n: needed(s, 1, n) <= pool)


def check(plan: Plan, model: Model | None = None) -> PlanResult:
    """Every constraint of a plan, with its value, limit, margin, reason and fix.

    >>> from attnmath.plans.reading import parse
    >>> r = check(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "80GB"', "plan.toml"))
    >>> r.verdict, r.memory_bytes.weights
    ('pass', 16060522496)
    """
    stages = servers(plan, model)
    found = {s.stage: list(_memory_checks(s)) for s in stages}
    failed = {k: sum(not c.passed for c in checks) for k, checks in found.items()}
    s = _tightest([s for s in stages if failed[s.stage] == max(failed.values())])
    checks = sorted([*found[s.stage], *_shape_checks(s)], key=lambda c: c.id)
    assumed = {k: v for k, v in plan.values.items() if k not in plan.given and v is not None and _used(plan, k)}
    assumed |= {"dtype.kv": s.kv_dtype} if "dtype.kv" not in plan.given else {}
    return PlanResult(
        plan.path,
        "pass" if all(c.passed for c in checks) else "fail",
        checks,
        _memory_of(s),
        _made_of(s),
        _capacity(s),
        dict(plan.values),
        assumed,
        _notes(s),
        plan.unchecked,
        model=s.model.name,
    )


def fits(plan: Plan, model: Model | None = None) -> bool:
    """Whether every check passes.

    >>> from attnmath.plans.reading import parse
    >>> fits(parse('model = "gpt2"\\n[gpu]\\nmemory = "1GiB"', "plan.toml"))
    False
    """
    stages = servers(plan, model)
    return all(c.passed for c in _shape_checks(stages[0])) and all(c.passed for s in stages for c in _memory_checks(s))


def spread_fits(plan: Plan, model: Model | None = None) -> bool:
    """Whether the ranks divide what they have to, whatever the memory.

    >>> from attnmath.plans.reading import parse
    >>> spread_fits(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\ntensor = 5', "plan.toml"))
    False
    """
    s = Spread(plan, model or _named(plan)[0], _rank(plan))
    return all(c.passed for make in (_heads, _widths, _experts, _counts) for c in make(s))


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


def _capacity(s: Server) -> Capacity:
    pool, plan = max(s.pool, 0), s.plan
    at, tokens = s.split, most_tokens(s, pool)
    each = most(lambda n: needed(s, n, s.request) <= pool, plan["engine.max_num_seqs"])
    positions = s.model.positions
    known = [x for x in (tokens, positions) if x is not None]
    rest = f"{at.of:,} - {at.taken:,}"
    return Capacity(
        pool,
        f"({rest}) x {at.share:g}" if at.share != 1 else rest,
        tokens,
        min(known) if known else None,
        min(plan["engine.max_num_seqs"] if each is None else each, plan["engine.max_num_seqs"]) * s.rank.data,
    )


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
    return {
        "weights": ", ".join(f"{k} {v:,}" for k, v in parts),
        "kv_cache": f"{requests} x {s.request:,} tokens: {each[0]:,} bytes each{more}",
        "state": f"{requests}: {each[1]:,} bytes each",
        "activations": f"estimate: {chunk:,} tokens through the widest layer, {s.used.activations // chunk:,} bytes each",
        "logits": f"estimate: {rows:,} sequences x vocabulary x 8 bytes",
        "context": estimate,
        "nccl": f"{estimate}: {max(s.rank.tensor * s.rank.pipeline, s.rank.expert) - 1} peers",
        "graphs": estimate,
        "fragmentation": "pages that are not full, and states padded to pages",
    }


def _used(plan: Plan, key: str) -> bool:
    """Whether a default has a use for the plan's engine."""
    settings = {e.setting for e in ENGINES.values()} - {ENGINES[plan["engine.name"]].setting}
    return key.rpartition(".")[2] not in settings


def _bytes(id_: str, name: str, value: int, limit: int, line: int | None, why: str, fix: str) -> Check:
    return Check(id_, name, value <= limit, value, limit, "bytes", limit - value, why, fix, line)


def _memory_checks(s: Server) -> Iterator[Check]:
    """What has to fit on one GPU of a stage."""
    plan, engine, at = s.plan, ENGINES[s.plan["engine.name"]], s.split
    setting = f"engine.{engine.setting}" if engine.setting else ""
    stage = f" of stage {s.stage + 1}" if s.rank.pipeline > 1 else ""
    told = f"{setting} = {plan[setting]:g}: {engine.meaning}" if setting else engine.meaning
    pool, longest = max(s.pool, 0), plan["engine.max_model_len"] or s.request
    gpu = plan.at(setting, "gpu.memory", "gpu.name")
    yield _bytes(
        "AM001",
        f"what comes before the cache fits{stage}",
        at.taken,
        at.of,
        gpu,
        told,
        "more tensor or pipeline ranks, narrower weights (dtype.weights), or a smaller engine.max_num_batched_tokens",
    )
    one = needed(s, 1, longest)
    yield _bytes(
        "AM002",
        "the longest request fits",
        one,
        pool,
        plan.at("engine.max_model_len", "workload.prompt_tokens"),
        f"{longest:,} tokens of one sequence take {one:,} bytes of cache and state on a GPU{stage}",
        "a shorter engine.max_model_len, a narrower cache (dtype.kv), or more ranks",
    )
    need = needed(s, s.running, s.request)
    yield _bytes(
        "AM003",
        "the requests fit at once",
        need,
        pool,
        plan.at("workload.concurrency"),
        f"{s.running:,} of {s.request:,} tokens on each replica, at their longest",
        "fewer requests at once, more replicas (parallel.data), a narrower cache (dtype.kv), or more memory for it",
    )
    yield from _whole(s, need, pool, told, gpu)


def _whole(s: Server, need: int, pool: int, told: str, gpu: int | None) -> Iterator[Check]:
    """All that a GPU holds, against all that it has, less the margin that is asked for."""
    plan, setting = s.plan, ENGINES[s.plan["engine.name"]].setting
    margin = plan["targets.memory_margin"]
    limit = int(s.memory * (1 - margin))
    less = f", less the margin of {margin:.0%}" if margin else ""
    yield _bytes(
        "AM004",
        "all of it fits the GPU",
        s.used.total + need,
        limit,
        plan.at("targets.memory_margin", "gpu.memory", "gpu.name"),
        f"memory of one GPU{less}; context, NCCL, graphs and activations are estimates",
        "a GPU with more memory, more ranks, narrower weights or cache, or a smaller margin",
    )
    if setting:
        yield _bytes(
            "AM005",
            "what the engine takes fits the GPU",
            s.used.total + pool,
            limit,
            plan.at(f"engine.{setting}", "targets.memory_margin") or gpu,
            f"{told}; it takes its whole cache at its start{less}",
            f"a smaller engine.{setting}",
        )


def _shape_checks(s: Spread) -> Iterator[Check]:
    """What has to divide, and what the model and the engine were made for."""
    yield from _heads(s)
    yield from _widths(s)
    yield from _experts(s)
    yield from _counts(s)
    yield from _lengths(s)


def _divides(
    id_: str, name: str, value: int, numbers: list[int], bad: list[int], why: str, fix: str, line: int | None
) -> Check:
    shown = ", ".join(map(str, bad or numbers)) or "none"
    return Check(id_, name, not bad, value, shown, "", None, why, fix, line)


def _heads(s: Spread) -> Iterator[Check]:
    tensor, line = s.rank.tensor, s.plan.at("parallel.tensor")
    attention = [p for p in s.model.pieces if p.part == "attention"]
    heads = sorted({p.sizes["heads"] for p in attention if "heads" in p.sizes})
    bad = [n for n in heads if n % tensor]
    if heads:
        fix = f"a parallel.tensor of {_divisors(heads)}"
        yield _divides(
            "AM006", "tensor ranks divide the query heads", tensor, heads, bad, "each rank takes whole heads", fix, line
        )
    groups = sorted({p.sizes["kv-heads"] for p in attention if "kv-heads" in p.sizes})
    bad = [n for n in groups if n % tensor and tensor % n]
    if groups:
        held_by = [f"{n} heads on {tensor // n} ranks each" for n in groups if tensor > n and not tensor % n]
        why = f"whole key/value heads: {', '.join(held_by) or 'each on one rank'}"
        fix = f"a parallel.tensor of {_divisors(groups)}, or a multiple of {max(groups)}"
        yield _divides("AM007", "tensor ranks share the key/value heads", tensor, groups, bad, why, fix, line)


def _widths(s: Spread) -> Iterator[Check]:
    """Feed-forward layers are cut across; where experts are whole on a rank, theirs are not."""
    tensor, line = s.rank.tensor, s.plan.at("parallel.tensor")
    whole = s.rank.expert >= tensor and s.rank.expert > 1
    cut = {p.part: p.sizes["ffn"] for p in s.model.pieces if "ffn" in p.sizes and p.part != "vision"}
    widths = sorted({n for part, n in cut.items() if not (whole and part == "experts")})
    bad = [n for n in widths if n % tensor]
    if widths:
        fix = f"a parallel.tensor of {_divisors(widths)}"
        why = "each rank takes a share of every feed-forward layer"
        yield _divides("AM008", "tensor ranks divide the feed-forward widths", tensor, widths, bad, why, fix, line)
    vocab = sorted({p.sizes["vocab"] for p in s.model.pieces if p.page == "head"})
    if vocab:
        bad = [n for n in vocab if -(-n // VOCAB_PAGE) * VOCAB_PAGE % tensor]
        fix = f"a parallel.tensor that divides {', '.join(str(-(-n // VOCAB_PAGE) * VOCAB_PAGE) for n in vocab)}"
        why = f"each rank takes a share of the vocabulary, which engines pad to a multiple of {VOCAB_PAGE}"
        yield _divides("AM015", "tensor ranks divide the padded vocabulary", tensor, vocab, bad, why, fix, line)
    formats = recipe_of(s.model, s.plan["dtype.weights"]).formats
    tiled = {
        n: f.rows
        for part, n in cut.items()
        if (f := formats.get(part)) and f.rows > 1 and not (whole and part == "experts")
    }
    bad = sorted(n for n, tile in tiled.items() if n % tensor == 0 and n // tensor % tile)
    if tiled:
        tile = max(tiled.values())
        yield _divides(
            "AM014",
            "tensor ranks take whole tiles of quantised weights",
            tensor,
            sorted(tiled),
            bad,
            f"a scale for each {tile} x {tile} weights: each rank takes a multiple of {tile} (vllm-project/vllm#17569)",
            f"a parallel.tensor of {_divisors([n // tile for n in tiled])}, or whole experts (parallel.expert)",
            line,
        )


def _experts(s: Spread) -> Iterator[Check]:
    ranks = s.rank.expert
    if ranks == 1:
        return
    experts = sorted({p.sizes["expert"] for p in s.model.pieces if "expert" in p.sizes})
    bad = [n for n in experts if n % ranks]
    why = "each rank takes a share of the routed experts" if experts else "the model has no routed experts"
    fix = f"a parallel.expert of {_divisors(experts)}" if experts else "parallel.expert = 1"
    line = s.plan.at("parallel.expert")
    yield _divides("AM009", "expert ranks divide the experts", ranks, experts, bad if experts else [0], why, fix, line)


def _counts(s: Spread) -> Iterator[Check]:
    plan, layers = s.plan, len(s.model.sequence)
    pipeline = plan["parallel.pipeline"]
    yield Check(
        "AM010",
        "pipeline stages have layers",
        pipeline <= layers,
        pipeline,
        layers,
        "",
        layers - pipeline,
        f"{layers} layers over {pipeline} stage{'s' * (pipeline > 1)}",
        "a smaller parallel.pipeline",
        plan.at("parallel.pipeline"),
    )
    product = s.rank.tensor * pipeline * s.rank.data
    count = plan["gpu.count"] or product
    yield Check(
        "AM011",
        "the ranks are as many as the GPUs",
        product == count,
        product,
        count,
        "",
        count - product,
        f"tensor {s.rank.tensor} x pipeline {pipeline} x data {s.rank.data} = {product}",
        f"gpu.count = {product}, or other parallel sizes",
        plan.at("gpu.count", "parallel.tensor"),
    )


def _lengths(s: Spread) -> Iterator[Check]:
    plan, positions = s.plan, s.model.positions
    longest = plan["engine.max_model_len"] or s.request
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
            f"requests and an engine.max_model_len of at most {positions:,}",
            plan.at("engine.max_model_len", "workload.prompt_tokens"),
        )
    share, seqs = -(-plan["workload.concurrency"] // s.rank.data), plan["engine.max_num_seqs"]
    yield Check(
        "AM013",
        "the engine runs as many at once",
        share <= seqs,
        share,
        seqs,
        "requests",
        seqs - share,
        f"{plan['workload.concurrency']:,} requests over {s.rank.data} replica{'s' * (s.rank.data > 1)}; more than "
        "engine.max_num_seqs wait",
        f"engine.max_num_seqs = {share}, or more replicas",
        plan.at("engine.max_num_seqs", "workload.concurrency"),
    )


def _divisors(numbers: list[int]) -> str:
    from math import gcd

    common = 0
    for n in numbers:
        common = gcd(common, n)
    return ", ".join(str(d) for d in range(1, min(common, 64) + 1) if common % d == 0)


def _notes(s: Server) -> list[str]:
    copies = max((r.copies for r in s.held.rows), default=1)
    out = [x for x in s.model.left_out if "FLOPs" not in x]
    if copies > 1:
        latent = any(p.page in ("mla", "dsa", "csa", "hca", "shared-window") for p in s.model.pieces)
        why = "one latent serves all heads" if latent else "there are fewer key/value heads than tensor ranks"
        out.append(f"the cache is held {copies} times: {why}")
    if s.plan["gpu.memory"] is None and s.plan["gpu.name"]:
        out.append(
            "gpu.memory: the vendor's decimal figure; nvidia-smi shows more on some (81,559 MiB on an H100 of 80 GB, "
            'modal-labs/modal-client#2797), and gpu.memory = "81559MiB" takes it'
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
