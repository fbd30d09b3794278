"""What a server printed when it started, against what the plan says: every GiB of the difference has a name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.files import read_text
from attnmath.plans.checking import Server, most_tokens, server
from attnmath.plans.reading import Plan

SCHEMA = "attnmath.plan-explain/1"
MAX_LOG_BYTES = 50_000_000
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SIZE = r"([\d.,]+)\s*([KMG]?i?B)"


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
        Line("graphs", rf"Graph capturing finished in .*?took\s+{SIZE}"),
        Line("blocks", r"GPU blocks:\s+([\d,]+)"),
        Line("tokens", r"GPU KV cache size:\s+([\d,]+) tokens"),
        Line("max_model_len", r"Maximum concurrency for ([\d,]+) tokens"),
        Line("concurrency", r"Maximum concurrency for [\d,]+ tokens per request:\s+([\d.]+)x"),
        Line("needed", rf"\({SIZE} KV cache is needed"),
    ),
    "sglang": (
        Line("weights", rf"Load weight end\..*?mem usage={SIZE}"),
        Line("tokens", r"KV Cache is allocated\..*?#tokens:\s+([\d,]+)"),
        Line("k_pool", rf"KV Cache is allocated\..*?K size:\s+{SIZE}"),
        Line("v_pool", rf"KV Cache is allocated\..*?V size:\s+{SIZE}"),
        Line("pool", rf"KV Cache is allocated\..*?KV size:\s+{SIZE}"),
        Line("graphs", rf"Capture cuda graph end\..*?mem usage={SIZE}"),
        Line("left", rf"Memory pool end\. avail mem={SIZE}"),
    ),
    "trtllm": (
        Line("memory", rf"max tokens in paged kv cache:\s+total:\s+{SIZE}"),
        Line("free", rf"max tokens in paged kv cache:.*?available:\s+{SIZE}"),
        Line("weights", rf"Loaded engine size:\s+{SIZE}"),
        Line("pool", rf"Allocated\s+{SIZE}\s+for max tokens in paged KV cache"),
        Line("tokens", r"max tokens in paged KV cache \(([\d,]+)\)"),
        Line("pool", r"Allocate\s+([\d,]+)\s+(b)ytes for k/v cache"),
        Line("tokens", r"Using ([\d,]+) tokens in paged KV cache"),
    ),
    "llama.cpp": (
        Line("weights", rf"(?:llm_)?load_tensors:.*?(?:model )?buffer size\s*=\s*{SIZE}", False),
        Line("pool", rf"KV self size\s*=\s*{SIZE}", False),
        Line("pool", rf"KV buffer size\s*=\s*{SIZE}", False),
        Line("activations", rf"compute buffer size\s*=\s*{SIZE}", False),
        Line("tokens", r"n_ctx\s*=\s*(\d+)"),
    ),
}


class Difference(Struct, frozen=True):
    """A number of the log beside ours: `bytes` or `tokens`; `why` the difference."""

    what: str
    log: int | float
    plan: int | float
    unit: str
    difference: int | float
    why: str


class Explanation(Struct, frozen=True):
    """What `plan explain` answers: `remainder` is what no line attributes."""

    file: str
    log: str
    engine: str
    found: dict[str, float]
    differences: list[Difference]
    remainder_bytes: int
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
    rows = list(_rows(s, found))
    pool = next((d.difference for d in rows if d.what == "cache"), 0)
    parts = sum(
        d.difference
        for d in rows
        if d.what in ("memory of the GPU, the engine's share", "weights", "activations and logits", "context and NCCL")
    )
    whole = [d.what for d in rows if d.unit == "bytes"]
    remainder = int(pool) - int(parts) if "cache" in whole and "weights" in whole else 0
    return Explanation(plan.path, path, engine, found, rows, remainder, notes)


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


def _rows(s: Server, found: Mapping[str, float]) -> Any:
    """Each number of the log beside the plan's."""
    plan, used = s.plan, s.used
    memory = found.get("memory")
    if memory is not None:
        share = _share(s)
        yield _bytes_row(
            "memory of the GPU, the engine's share",
            memory * share,
            s.memory * share,
            "what the driver shows against gpu.memory",
        )
    if "weights" in found:
        yield _bytes_row(
            "weights", found["weights"], used.weights, "ranks, alignment and buffers that are no parameters", sign=-1
        )
    measured = found.get("activations")
    if measured is None and "peak_torch" in found and "weights" in found:
        measured = found["peak_torch"] - found["weights"]
    if measured is not None:
        yield _bytes_row(
            "activations and logits",
            measured,
            used.activations + used.logits,
            "an estimate of ours; the log measures",
            sign=-1,
        )
    if "context" in found:
        yield _bytes_row(
            "context and NCCL",
            found["context"],
            used.context + used.nccl,
            "an estimate of ours; the log measures",
            sign=-1,
        )
    if "pool" in found:
        yield _bytes_row("cache", found["pool"], s.pool, "what the lines above leave it")
    tokens = found.get("tokens") or (found["blocks"] * plan["engine.block_size"] if "blocks" in found else None)
    if "pool" in found:
        length = int(found.get("max_model_len") or plan["engine.max_model_len"] or _request(plan))
        ours = concurrency_of(s, int(found["pool"]), length)
        if "concurrency" in found:
            yield Difference(
                "requests of max_model_len at once",
                found["concurrency"],
                round(ours, 2),
                "requests",
                round(found["concurrency"] - ours, 2),
                f"the log's cache over whole pages for {length:,} tokens",
            )
        if tokens is not None:
            stateful = any(c.state for c in s.caches)
            mine = int(ours * length) if stateful else most_tokens(s, int(found["pool"]))
            why = (
                "concurrency x max_model_len: states take pages, too"
                if stateful
                else "whole pages of the log's cache, by our bytes a token"
            )
            yield Difference("tokens in the cache", tokens, mine, "tokens", tokens - mine, why)
    if "needed" in found:
        length = int(plan["engine.max_model_len"] or _request(plan))
        cache, state = _sequence(s, length)
        yield _bytes_row(f"cache for one request of {length:,} tokens", found["needed"], cache + state, "whole pages")
    if "graphs" in found:
        yield _bytes_row("graphs", found["graphs"], used.graphs, "an estimate of ours; the log measures", sign=-1)


def _sequence(s: Server, tokens: int) -> tuple[int, int]:
    from attnmath.plans.checking import sequence_bytes

    return sequence_bytes(s, tokens)


def concurrency_of(s: Server, pool: int, tokens: int) -> float:
    """How many requests of so many tokens a pool holds, as vLLM prints it.

    >>> from attnmath.plans.reading import parse
    >>> s = server(parse('model = "llama-3.1-8b"\\n[gpu]\\nmemory = "24GiB"', "p"))
    >>> round(concurrency_of(s, int(3.81 * 2**30), 20_000), 2)
    1.56
    """
    each = sum(_sequence(s, tokens))
    return pool / each if each else 0.0


def _request(plan: Plan) -> int:
    return int(plan["workload.prompt_tokens"] + plan["workload.output_tokens"])


def _share(s: Server) -> float:
    from attnmath.plans.engines import ENGINES

    setting = ENGINES[s.plan["engine.name"]].setting
    return float(s.plan[f"engine.{setting}"]) if setting and s.plan["engine.name"] in ("vllm", "sglang") else 1.0


def _bytes_row(what: str, log: float, ours: float, why: str, sign: int = 1) -> Difference:
    return Difference(what, int(log), int(ours), "bytes", sign * (int(log) - int(ours)), why)
