"""What a server printed when it started, against what the plan says: every GiB of the difference has a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, printable
from attnmath.files import read_text
from attnmath.plans.engines import ENGINES
from attnmath.plans.reading import Plan
from attnmath.plans.servers import Server, most_tokens, sequence_bytes, server

SCHEMA = "attnmath.plan-explain/1"
MAX_LOG_BYTES = 20_000_000
UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
NUMBER = r"(\d[\d,]{0,20}(?:\.\d{1,9})?)"
SIZE = NUMBER + r"\s{0,9}([KMG]?i?B)\b"
SOME = r".{0,500}?"  # of the same line
MAX_LINE = 1000  # characters of a line that are read


class Line(Struct, frozen=True):
    """A pattern of an engine's log, `start` up to its first place in a line, and `rest` behind that; sizes are in
    bytes, numbers are as they stand. `of`: which of several ranks' numbers counts, "least", "most", or
    "device": the most of any device, whose name comes first, its buffers together.
    """

    key: str
    start: str
    rest: str
    of: str = "most"


LOGS: dict[str, tuple[Line, ...]] = {
    "vllm": (
        Line("memory", "total_gpu_memory", rf"[=\s(]{{1,9}}{SIZE}", "least"),
        Line(
            "weights", "(?:[Mm]odel weights take|Loading model weights took|[Mm]odel loading took)", rf"\s{{1,9}}{SIZE}"
        ),
        Line("peak_torch", "peak_torch_memory=", SIZE),
        Line("activations", "activation peak memory takes", rf"\s{{1,9}}{SIZE}"),
        Line("context", "non_torch_memory", rf"(?:=|\s{{1,9}}takes\s{{1,9}}){SIZE}"),
        Line(
            "pool",
            "(?:kv_cache_size=|reserved for KV Cache is|Available KV cache memory:|available KV cache memory \\()",
            rf"\s{{0,9}}(-?){SIZE}",
            "least",
        ),
        Line("graphs", "Graph capturing finished in", rf"{SOME}took\s{{1,9}}{SIZE}"),
        Line("blocks", "# (?:GPU|CUDA|cuda) blocks:", rf"\s{{1,9}}{NUMBER}", "least"),
        Line("blocks", "GPU blocks:", rf"\s{{1,9}}{NUMBER}", "least"),
        Line("tokens", "GPU KV cache size:", rf"\s{{1,9}}{NUMBER} tokens", "least"),
        Line("max_model_len", "Maximum concurrency for", rf"\s{{1,9}}{NUMBER} tokens"),
        Line(
            "concurrency", r"Maximum concurrency for [\d,]{1,20} tokens per request:", rf"\s{{1,9}}{NUMBER}x", "least"
        ),
        Line("max_model_len", r"max seq len \(", rf"{NUMBER}\)"),
        Line("needed", r"(?=\([\d.,]{1,20} [KMG]iB KV cache is needed)", rf"\({SIZE}"),
    ),
    "sglang": (
        Line("weights", r"Load weight end\.", rf"{SOME}mem usage={SIZE}"),
        Line("tokens", r"KV Cache is allocated\.", rf"{SOME}#tokens:\s{{1,9}}{NUMBER}", "least"),
        Line("k_pool", r"KV Cache is allocated\.", rf"{SOME}K size:\s{{1,9}}{SIZE}", "least"),
        Line("v_pool", r"KV Cache is allocated\.", rf"{SOME}V size:\s{{1,9}}{SIZE}", "least"),
        Line("pool", r"KV Cache is allocated\.", rf"{SOME}KV size:\s{{1,9}}{SIZE}", "least"),
        Line("graphs", r"Capture cuda graph end\.", rf"{SOME}mem usage={SIZE}"),
    ),
    "trtllm": (
        Line("memory", "max tokens in paged kv cache:", rf"\s{{1,9}}total:\s{{1,9}}{SIZE}", "least"),
        Line("free", "max tokens in paged kv cache:", rf"{SOME}available:\s{{1,9}}{SIZE}", "least"),
        Line("weights", "Loaded engine size:", rf"\s{{1,9}}{SIZE}"),
        Line("pool", "Allocated", rf"\s{{1,9}}{SIZE}\s{{1,9}}for max tokens in paged KV cache", "least"),
        Line("tokens", r"max tokens in paged KV cache \(", rf"{NUMBER}\)", "least"),
        Line("pool", "Allocate", rf"\s{{1,9}}{NUMBER}\s{{1,9}}(b)ytes for k/v cache", "least"),
        Line("tokens", "Using", rf"\s{{1,9}}{NUMBER} tokens in paged KV cache", "least"),
    ),
    "llama.cpp": (
        Line(
            "weights",
            "load_tensors:",
            rf"\s{{1,20}}(\S{{1,40}}) (?:model )?buffer size\s{{0,9}}=\s{{0,9}}{SIZE}",
            "device",
        ),
        Line("pool", "llama_\\w{1,30}:", rf"\s{{1,20}}(\S{{1,40}}) KV buffer size\s{{0,9}}=\s{{0,9}}{SIZE}", "device"),
        Line("pool", "KV self size", rf"\s{{0,9}}=\s{{0,9}}{SIZE}"),
        Line(
            "activations",
            "llama_\\w{1,30}:",
            rf"\s{{1,20}}(\S{{1,40}}) compute buffer size\s{{0,9}}= {{0,9}}{SIZE}",
            "device",
        ),
        Line("tokens", "n_ctx", rf"\s{{0,20}}=\s{{0,9}}{NUMBER}"),
    ),
}
HOST = ("CPU", "Host", "host")  # buffers of llama.cpp that are on no GPU


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
    if plan.trains:
        raise InputError(
            f"{printable(plan.path)} is a plan of training; a server's log is explained by a plan of a server"
        )
    text = read_text(path, MAX_LOG_BYTES, "a log of a server's start", strict=False)
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
        told, counts = _measured(found), ENGINES[engine].counts
        counted = [(what, key) for what, key, (f, *_), _ in _COMPARED if f in counts and key != "rest"]
        silent = [what for what, key in [("gpu.memory", "memory"), *counted] if key not in told and "rest" not in told]
        notes += [f"the log says nothing of {', '.join(silent)}: that is in what is left"] if silent else []
    if "memory" in found and abs(found["memory"] / s.memory - 1) > 1e-3:
        notes.append(f'the log shows gpu.memory = "{found["memory"] / 2**30:.2f}GiB"')
    return Explanation(plan.path, path, engine, found, parts + pool + list(_counts(s, found)), remainder, notes)


def scan(text: str, engine: str) -> tuple[dict[str, float], list[str]]:
    """What an engine's log says, sizes in bytes, of several ranks those of the one that decides; and what to know.

    >>> scan("Available KV cache memory: 8.00 GiB", "vllm")[0]
    {'pool': 8589934592}
    """
    text = "\n".join(re.sub(r"\x1b\[[0-9;]{0,20}m", "", row[: 4 * MAX_LINE])[:MAX_LINE] for row in text.splitlines())
    found: dict[str, float] = {}
    notes: list[str] = []
    for line in LOGS.get(engine, ()):
        if line.key in found:
            continue
        hits = re.findall(rf"^(?>.*?{line.start}){line.rest}", text, re.MULTILINE | re.ASCII)
        if line.of == "device":
            hits = [h for h in hits if not any(x in h[0] for x in HOST)]
        values = _of_devices(hits) if line.of == "device" else [_value(h) for h in hits]
        if values:
            found[line.key] = min(values) if line.of == "least" else max(values)
        if len(set(values)) > 1:
            what = "devices" if line.of == "device" else "ranks, or starts,"
            notes.append(
                f"{line.key}: {len(set(values))} {what} differ; the {line.of.replace('device', 'most')} is taken"
            )
    if engine == "sglang" and "k_pool" in found:
        found["pool"] = found.pop("k_pool") + found.pop("v_pool", 0)
    if engine in ("sglang", "vllm") and re.search(r"\d GB\b", text):
        notes.append("GB in this log are 2^30 bytes")
    return found, notes


def _of_devices(hits: list[tuple[str, ...]]) -> list[float]:
    """Bytes of each device, its buffers together."""
    devices: dict[str, float] = {}
    for device, *hit in hits:
        devices[device] = devices.get(device, 0) + _value(tuple(hit))
    return list(devices.values())


def _value(hit: str | tuple[str, ...]) -> float:
    """A number, or a size in bytes; with a sign before it."""
    if isinstance(hit, str):
        number = float(hit.replace(",", ""))
        return int(number) if number == int(number) else number
    *sign, figure, unit = hit
    scale = UNITS["B" if unit.upper() == "B" else unit[0].upper() + "IB"]  # engines print GB and mean GiB
    return int(float(figure.replace(",", "")) * scale) * (-1 if "-" in sign else 1)


_COMPARED: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("weights", "weights", ("weights",), "ranks, alignment and buffers that are no parameters"),
    ("activations and logits", "activations", ("activations", "logits"), "an estimate of ours; the log measures"),
    ("context and NCCL", "context", ("context", "nccl"), "an estimate of ours; the log measures"),
    ("graphs", "graphs", ("graphs",), "an estimate of ours; the log measures"),
    (
        "all the rest",
        "rest",
        ("activations", "logits", "context", "nccl", "graphs"),
        "estimates of ours; the log measures",
    ),
)  # (what, key of the log, parts of what a plan's GPU holds, why they differ)


def _measured(found: Mapping[str, float]) -> Mapping[str, float]:
    """What the log says, with what it says otherwise: activations as a peak, the rest of what is gone before the cache."""
    out = dict(found)
    if "activations" not in out and {"peak_torch", "weights"} <= set(out):
        out["activations"] = out["peak_torch"] - out["weights"]
    if {"memory", "free", "weights"} <= set(out):
        out["rest"] = out["memory"] - out["free"] - out["weights"]
    return out


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
        tokens = _tokens(s, found)
        mine = int(ours * length) if s.held.states else most_tokens(s, pool)
        if tokens is not None and mine is not None:
            why = "whole pages of the log's cache, by our bytes a token"
            more = "concurrency x max_model_len: states take pages, too"
            yield _row("tokens in the cache", tokens, mine, "tokens", more if s.held.states else why)
    elif (tokens := _tokens(s, found)) is not None and ENGINES[plan["engine.name"]].setting:
        mine = most_tokens(s, max(s.pool, 0))
        if mine is not None:
            yield _row("tokens in the cache", tokens, mine, "tokens", "the plan's cache, by our bytes a token")
    if "needed" in found:
        ours = sum(sequence_bytes(s, length, plan["engine.max_num_batched_tokens"]))
        yield _bytes(f"cache for one request of {length:,} tokens", found["needed"], ours, None, "whole pages")


def _tokens(s: Server, found: Mapping[str, float]) -> float | None:
    if "tokens" in found:
        return found["tokens"]
    return found["blocks"] * s.plan["engine.block_size"] if "blocks" in found else None


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
