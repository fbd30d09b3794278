"""A plan put together: its model, its ranks, what each GPU of a stage holds, and what sequences take of its cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, printable, together
from attnmath.models import Model, presets
from attnmath.models import read as read_model
from attnmath.models.quantization import plain_dtype, recipe_of
from attnmath.plans.engines import ENGINES, Split, Used, context_bytes, nccl_bytes, split
from attnmath.plans.ranks import Held, Rank, activation_bytes, held, logits_bytes
from attnmath.plans.reading import Plan
from attnmath.readings.memory import blocks

ACTIVATIONS = ("bf16", "fp16", "fp32")
CACHES = (*ACTIVATIONS, "fp8", "int8", "int4")
CEILING = 10**12  # tokens or requests beyond which there is no limit


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
    """A plan's stages, of those alike the first; the model is read unless it is given. InputError names what is not understood.

    >>> from attnmath.plans.reading import parse
    >>> s = servers(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "plan.toml"))[0]
    >>> s.used.weights, s.held.rows[0].bytes
    (16060522496, 4096)
    """
    model, memory, dtype, kv_dtype = named(plan, model)
    rank = rank_of(plan)
    engine, chunk, reserved = plan["engine.name"], plan["engine.max_num_batched_tokens"], plan["engine.reserved"]
    if rank.pipeline > len(model.sequence):
        rank = Rank(rank.tensor, 1, rank.data, rank.expert)  # AM010 says so
    world = max(rank.tensor * rank.pipeline, rank.expert)
    activations = activation_bytes(model, rank, chunk, dtype)
    logits = logits_bytes(model, min(plan["engine.max_num_seqs"], chunk))
    parts = held(model, replace(rank, data=1), plan["dtype.weights"], dtype, kv_dtype)
    last = len(parts) - 1
    alike = {(id(part), stage == last): stage for stage, part in reversed([*enumerate(parts)])}
    out = []
    for stage in sorted(alike.values()):
        part = parts[stage]
        used = Used(
            part.weight_bytes,
            activations,
            logits if stage == last else 0,
            context_bytes(engine) if reserved is None else reserved,
            nccl_bytes(engine, world - 1) if reserved is None else 0,
            ENGINES[engine].graphs if reserved is None else 0,
        )
        out.append(Server(plan, model, rank, memory, dtype, kv_dtype, used, part, stage))
    return out


def rank_of(plan: Plan) -> Rank:
    """How a plan spreads its model.

    >>> from attnmath.plans.reading import parse
    >>> rank_of(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\ntensor = 2', "plan.toml")).tensor
    2
    """
    return Rank(plan["parallel.tensor"], plan["parallel.pipeline"], plan["parallel.data"], plan["parallel.expert"])


def server(plan: Plan, model: Model | None = None) -> Server:
    """The stage of a plan that the plan's load leaves the least of.

    >>> from attnmath.plans.reading import parse
    >>> server(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\npipeline = 2', "plan.toml")).stage
    1
    """
    return tightest(servers(plan, model))


def tightest(stages: list[Server]) -> Server:
    """The stage that the plan's load leaves the least of.

    >>> from attnmath.plans.reading import parse
    >>> plan = parse('model = "deepseek-v3"\\n[gpu]\\nmemory = "800GiB"\\n[parallel]\\npipeline = 2', "plan.toml")
    >>> tightest(servers(plan)).stage
    1
    """
    return min(stages, key=lambda s: (s.pool - needed(s, s.running, s.request), -s.used.total))


def named(plan: Plan, known: Model | None = None) -> tuple[Model, int, str, str]:
    """(model, memory of its GPU, dtypes of activations and cache); InputError for all at once, with their lines.

    >>> from attnmath.plans.reading import parse
    >>> named(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "plan.toml"))[1:]
    (8589934592, 'bf16', 'bf16')
    """
    errors: list[str] = []

    def found(key: str, read: Callable[[], Any]) -> Any:
        line = plan.at(key)
        try:
            return read()
        except InputError as error:
            errors.append(f"{f'line {line}: ' if line else ''}{key}: {error}")

    def dtype_of(name: str, among: tuple[str, ...], more: str = "") -> str:
        if name not in among and not (more and blocks(name)):
            raise InputError(f"unknown dtype {name[:40]!r}: the dtypes are {', '.join(among)}{more}")
        return name

    model = known or found("model", lambda: read_model(beside(plan, "model")))
    memory = found("gpu.name", lambda: _memory(plan))
    plain = plain_dtype(model.config) if model else "bf16"
    dtype = found(
        "dtype.activations",
        lambda: dtype_of(plan["dtype.activations"] or ("bf16" if plain == "fp32" else plain), ACTIVATIONS),
    )
    kv_dtype = found("dtype.kv", lambda: dtype_of(plan["dtype.kv"] or dtype or "bf16", CACHES, "; or q8_0, int4/64"))
    if model is not None:
        found("dtype.weights", lambda: recipe_of(model, plan["dtype.weights"]))
        if why := model.refused.get("parameters"):
            errors.append(f"line {plan.at('model')}: model: {why}")
    if errors:
        raise InputError(together(errors, f"{printable(plan.path)}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    return model, memory, dtype, kv_dtype


def beside(plan: Plan, key: str) -> str:
    """A file that the plan names, as seen from the plan's own folder, where there is one; else the name as it stands.

    >>> from attnmath.plans.reading import parse
    >>> beside(parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"', "plans/plan.toml"), "gpu.name")
    'h100-sxm'
    """
    here = os.path.join(os.path.dirname(plan.path), plan[key])
    return here if os.path.exists(here) and plan[key] not in presets.names() else str(plan[key])


def _memory(plan: Plan) -> int:
    if plan["gpu.memory"] is not None:
        return int(plan["gpu.memory"])
    from attnmath.hardware import get

    return int(get(beside(plan, "gpu.name")).figure("hbm_bytes"))


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
    """The largest number that fits, where each smaller one from 1 on does, too; 0 if none does, None if `ceiling` does.

    >>> most(lambda n: n * n <= 50), most(lambda n: True), most(lambda n: False), most(lambda n: n < 7, 9)
    (7, None, 0, 6)
    """
    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= ceiling and fits(high):
        low, high = high, high * 2
    if high > ceiling:
        if fits(ceiling):
            return None
        high = ceiling
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
