"""What a server printed when it started, against what the plan says: every GiB of the difference has a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.files import read_text
from attnmath.plans.engines import ENGINES
from attnmath.plans.reading import Plan
from attnmath.plans.servers import Server, most_tokens, sequence_bytes, server

SCHEMA = "attnmath.plan-explain/1"
MAX_LOG_BYTES = 50_000_000
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
NUMBER = r"(\d[\d,]{0,20}(?:\.\d{1,9})?)"
SIZE = NUMBER + r"\s*([KMG]?i?B)"
SOME = r".{0,500}?"  # of the same line


class Line(Struct, frozen=True):
    """A pattern of an engine's log: what it says, and whether its GB are GiB; sizes are in bytes, others as they stand."""

    key: str
    pattern: str
    binary: bool = True


LOGS: dict[str, tuple[Line, ...]] = {
    "vllm": (
        Line("memory", rf"total_gpu_memory[=\s(]+{SIZE}"),
        Line("weights", rf"(?:[Mm]odel weights take|Loading model weights took|[Mm]odel loading took)\s+{SIZE}"),
        Line("peak_torch", rf"peak_torch_memory={SIZE}"),
        Line("activations", rf"activation peak memory takes\s+{SIZE}"),
        Line("context", rf"non_torch_memory(?:=|\s+takes\s+){SIZE}"),
        Line("pool", rf"(?:kv_cache_size=|reserved for KV Cache is\s+|Available KV cache memory:\s+){SIZE}"),
        Line("graphs", rf"Graph capturing finished in {SOME}took\s+{SIZE}"),
        Line("blocks", rf"GPU blocks:\s+{NUMBER}"),
        Line("tokens", rf"GPU KV cache size:\s+{NUMBER} tokens"),
        Line("max_model_len", rf"Maximum concurrency for {NUMBER} tokens"),
        Line("concurrency", rf"Maximum concurrency for [\d,]+ tokens per request:\s+{NUMBER}x"),
        Line("needed", rf"\({SIZE} KV cache is needed"),
    ),
    "sglang": (
        Line("weights", rf"Load weight end\.{SOME}mem usage={SIZE}"),
        Line("tokens", rf"KV Cache is allocated\.{SOME}#tokens:\s+{NUMBER}"),
        Line("k_pool", rf"KV Cache is allocated\.{SOME}K size:\s+{SIZE}"),
        Line("v_pool", rf"KV Cache is allocated\.{SOME}V size:\s+{SIZE}"),
        Line("pool", rf"KV Cache is allocated\.{SOME}KV size:\s+{SIZE}"),
        Line("graphs", rf"Capture cuda graph end\.{SOME}mem usage={SIZE}"),
    ),
    "trtllm": (
        Line("memory", rf"max tokens in paged kv cache:\s+total:\s+{SIZE}"),
        Line("weights", rf"Loaded engine size:\s+{SIZE}"),
        Line("pool", rf"Allocated\s+{SIZE}\s+for max tokens in paged KV cache"),
        Line("tokens", rf"max tokens in paged KV cache \({NUMBER}\)"),
        Line("pool", rf"Allocate\s+{NUMBER}\s+(b)ytes for k/v cache"),
        Line("tokens", rf"Using {NUMBER} tokens in paged KV cache"),
    ),
    "llama.cpp": (
        Line("weights", rf"(?:llm_)?load_tensors:{SOME}(?:model )?buffer size\s*=\s*{SIZE}", False),
        Line("pool", rf"KV self size\s*=\s*{SIZE}", False),
        Line("pool", rf"KV buffer size\s*=\s*{SIZE}", False),
        Line("activations", rf"compute buffer size\s*=\s*{SIZE}", False),
        Line("tokens", rf"n_ctx\s*=\s*{NUMBER}"),
    ),
}


class Difference(Struct, frozen=True):
    """A number of the log beside ours: `difference` is log - plan in `unit`; `of_cache`: how many bytes of the cache's
    difference it accounts for, None if it takes nothing from the cache; `why` the two differ.
    """

    what: str
    log: int | float
    plan: int | float
    unit: str
    difference: int | float
    of_cache: int | None
    why: str


class Explanation(Struct, frozen=True):
    """What `plan explain` answers: `remainder_bytes` is what no line accounts for, None if the log has no cache or weights."""

    file: str
    log: str
    engine: str
    found: dict[str, float]
    differences: list[Difference]
    remainder_bytes: int | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-explain` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


def explain(plan: Plan, path: str) -> Explanation:
    """The log of a server's start against its plan. Raises InputError if the log has none of the lines that are understood.

    >>> import pathlib, tempfile
    >>> from attnmath.plans.reading import parse
    >>> log = pathlib.Path(tempfile.mkdtemp(), "server.log")
    >>> _ = log.write_text("Available KV cache memory: 3.81 GiB\\nGPU KV cache size: 31,232 tokens")
    >>> x = explain(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p"), str(log))
    >>> [(d.what, d.log) for d in x.differences if d.unit == "tokens"]
    [('tokens in the cache', 31232)]
    """
    text = read_text(path, MAX_LOG_BYTES, "a log of a server's start")
    engine = plan["engine.name"]
    found, notes = scan(text, engine)
    if not found:
        others = [e for e in LOGS if e != engine and scan(text, e)[0]]
        hint = f"; it reads like {others[0]}'s: set engine.name" if others else ""
        raise InputError(f"{path}: none of the lines that {engine} prints at its start{hint}")
    s = server(plan)
    parts = list(_parts(s, found))
    pool = list(_pool(s, found))
    remainder = None
    if pool and "weights" in found and ENGINES[engine].counts:
        remainder = int(pool[0].difference) - sum(d.of_cache or 0 for d in parts)
        silent = [what for what, key, *_ in _COMPARED if key not in _measured(found)]
        notes += [f"the log says nothing of {', '.join(silent)}: that is in what is left"] if silent else []
    if "memory" in found and abs(found["memory"] / s.memory - 1) > 1e-3:
        notes.append(f'the log shows gpu.memory = "{found["memory"] / 2**30:.2f}GiB"')
    return Explanation(plan.path, path, engine, found, parts + pool + list(_counts(s, found)), remainder, notes)


def scan(text: str, engine: str) -> tuple[dict[str, float], list[str]]:
    """What an engine's log says, sizes in bytes; of several ranks the first, of several buffers the sum; and what to know.

    >>> scan("Available KV cache memory: 8.00 GiB", "vllm")[0]
    {'pool': 8589934592}
    """
    found: dict[str, float] = {}
    notes: list[str] = []
    for line in LOGS.get(engine, ()):
        hits = re.findall(line.pattern, text)
        if not hits or (line.key in found):
            continue
        values = [_value(h, line.binary and engine != "llama.cpp") for h in hits]
        several = engine == "llama.cpp" and line.key in ("weights", "pool", "activations")
        found[line.key] = sum(values) if several and "KV self" not in line.pattern else values[0]
    if engine == "sglang" and "k_pool" in found:
        found["pool"] = found.pop("k_pool") + found.pop("v_pool", 0)
    if engine in ("sglang", "vllm") and re.search(r"\d GB\b", text):
        notes.append("GB in this log are 2^30 bytes")
    return found, notes


def _value(hit: Any, binary: bool) -> float:
    if isinstance(hit, str):
        number = float(hit.replace(",", ""))
        return int(number) if number == int(number) else number
    unit = hit[1].upper()
    scale = UNITS.get(unit if not binary or "I" in unit or unit == "B" else unit[0] + "IB", 1)
    return int(float(hit[0].replace(",", "").rstrip(".")) * scale)


_COMPARED: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("weights", "weights", ("weights",), "ranks, alignment and buffers that are no parameters"),
    ("activations and logits", "activations", ("activations", "logits"), "an estimate of ours; the log measures"),
    ("context and NCCL", "context", ("context", "nccl"), "an estimate of ours; the log measures"),
    ("graphs", "graphs", ("graphs",), "an estimate of ours; the log measures"),
)  # (what, key of the log, parts of what a plan's GPU holds, why they differ)


def _measured(found: Mapping[str, float]) -> Mapping[str, float]:
    """What the log says, with activations where it says them as a peak."""
    if "activations" not in found and {"peak_torch", "weights"} <= set(found):
        return {**found, "activations": found["peak_torch"] - found["weights"]}
    return found


def _parts(s: Server, found: Mapping[str, float]) -> Iterator[Difference]:
    """What comes before the cache, and what each difference takes from it, as the engine counts."""
    engine, share, log = ENGINES[s.plan["engine.name"]], _share(s), _measured(found)
    if "memory" in log:
        of_cache = int(share * (log["memory"] - s.memory)) if engine.counts else None
        yield _bytes("memory of the GPU", log["memory"], s.memory, of_cache, "what the driver shows against gpu.memory")
    for what, key, fields, why in _COMPARED:
        if key in log:
            ours, taken = sum(getattr(s.used, f) for f in fields), engine.counts.get(fields[0], 0.0)
            of_cache = -int((share if taken is None else taken) * (log[key] - ours))
            yield _bytes(what, log[key], ours, None if taken == 0.0 else of_cache, why)


def _pool(s: Server, found: Mapping[str, float]) -> Iterator[Difference]:
    """The cache, which an engine without a share allocates for the tokens that it is told."""
    if "pool" not in found:
        return
    if ENGINES[s.plan["engine.name"]].setting:
        yield _bytes("cache", found["pool"], s.pool, None, "what the lines above leave it")
    elif "tokens" in found:
        tokens = int(found["tokens"])
        ours = sum(sequence_bytes(s, tokens, paged=False))
        yield _bytes("cache", found["pool"], ours, None, f"{tokens:,} tokens, by our bytes a token")


def _counts(s: Server, found: Mapping[str, float]) -> Iterator[Difference]:
    """Tokens and requests that the log's cache holds, by our bytes a token."""
    plan = s.plan
    length = int(found.get("max_model_len") or plan["engine.max_model_len"] or s.request)
    if "pool" in found and ENGINES[plan["engine.name"]].setting:
        pool = int(found["pool"])
        ours = concurrency_of(s, pool, length)
        if "concurrency" in found:
            why = f"the log's cache over whole pages for {length:,} tokens"
            yield _row("requests of max_model_len at once", found["concurrency"], round(ours, 2), "requests", why)
        tokens = found.get("tokens") or (found["blocks"] * plan["engine.block_size"] if "blocks" in found else None)
        mine = int(ours * length) if s.held.states else most_tokens(s, pool)
        if tokens is not None and mine is not None:
            why = "whole pages of the log's cache, by our bytes a token"
            more = "concurrency x max_model_len: states take pages, too"
            yield _row("tokens in the cache", tokens, mine, "tokens", more if s.held.states else why)
    if "needed" in found:
        ours = sum(sequence_bytes(s, length, plan["engine.max_num_batched_tokens"]))
        yield _bytes(f"cache for one request of {length:,} tokens", found["needed"], ours, None, "whole pages")


def concurrency_of(s: Server, pool: int, tokens: int) -> float:
    """How many requests of so many tokens a pool holds, as vLLM prints it.

    >>> from attnmath.plans.reading import parse
    >>> s = server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p"))
    >>> round(concurrency_of(s, int(3.81 * 2**30), 20_000), 2)
    1.56
    """
    each = sum(sequence_bytes(s, tokens, s.plan["engine.max_num_batched_tokens"]))
    return pool / each if each else 0.0


def _share(s: Server) -> float:
    setting = ENGINES[s.plan["engine.name"]].setting
    return float(s.plan[f"engine.{setting}"]) if setting else 1.0


def _bytes(what: str, log: float, ours: float, of_cache: int | None, why: str) -> Difference:
    return Difference(what, int(log), int(ours), "bytes", int(log) - int(ours), of_cache, why)


def _row(what: str, log: float, ours: float, unit: str, why: str) -> Difference:
    return Difference(what, log, ours, unit, round(log - ours, 2), None, why)
