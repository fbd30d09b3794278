"""The keys of a plan file: a row each, with what it means, its default, and what it may be.

One table serves validation, `plan init`, the JSON Schema and the defaults that are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.plans.engines import ENGINES

REQUIRED = "required"


class Key(Struct, frozen=True):
    """A key: `text`, `name` (a text among `among`), `size` (whole, at least 1), `share` (0 < x <= 1), `margin` (0 <= x < 1),
    `number` (more than 0), `bytes` ("79.6GiB" or "80GB"). `example` stands in the commented file where there is no default.
    """

    kind: str
    default: Any
    meaning: str
    among: tuple[str, ...] = ()
    example: Any = None


SECTIONS: dict[str, dict[str, Key]] = {
    "": {
        "model": Key(
            "text",
            REQUIRED,
            "a preset, a config.json or its directory, or org/name in a hub's local cache",
            example="llama-3.1-70b",
        ),
    },
    "gpu": {
        "name": Key(
            "text", None, "an accelerator by name (attnmath gpus), or a TOML file of figures", example="h100-sxm"
        ),
        "count": Key("size", None, "how many there are [the product of the parallel sizes]", example=8),
        "memory": Key("bytes", None, "memory of one, as the driver shows it [the vendor's figure]", example="79.1GiB"),
    },
    "parallel": {
        "tensor": Key("size", 1, "ranks that share every layer"),
        "pipeline": Key("size", 1, "stages, a share of the layers each"),
        "data": Key("size", 1, "replicas, a share of the requests each"),
        "expert": Key("size", 1, "ranks that share the routed experts, among those of tensor and data"),
        "context": Key("size", 1, "ranks that share a sequence's cache"),
        "imbalance": Key("number", 1.0, "the busiest expert rank's tokens, over the mean"),
    },
    "dtype": {
        "weights": Key("text", None, "bf16, fp8, int8, int4/128, mxfp4, nvfp4 [as the config says]", example="fp8"),
        "kv": Key(
            "text", None, "how the cache is stored: bf16, fp8, int8, int4/64, q8_0 [as activations]", example="fp8"
        ),
        "activations": Key("text", None, "bf16, fp16 or fp32 [as the config says]", example="bf16"),
    },
    "engine": {
        "name": Key("name", "vllm", "whose meaning of its memory setting is taken", tuple(ENGINES)),
        "gpu_memory_utilization": Key("share", 0.9, "vllm: the share of the GPU's memory for all that the engine does"),
        "mem_fraction_static": Key("share", 0.88, "sglang: the share of the GPU's memory for weights and cache"),
        "free_gpu_memory_fraction": Key(
            "share", 0.9, "trtllm: the share of what weights and activations leave, for the cache"
        ),
        "max_num_seqs": Key("size", 256, "sequences that one replica runs at once, at most"),
        "max_num_batched_tokens": Key("size", 8192, "tokens of the largest chunk that is computed at once"),
        "block_size": Key("size", 16, "tokens in a page of the cache"),
        "windows": Key(
            "name", "kept", "what a windowed layer's cache holds: kept, the window; full, everything", ("kept", "full")
        ),
        "max_model_len": Key("size", None, "tokens of the longest request [prompt and output]", example=131072),
        "reserved": Key("bytes", None, "context, NCCL and graphs together, if measured [estimated]", example="1.5GiB"),
    },
    "workload": {
        "concurrency": Key("size", 1, "requests in flight, over all replicas"),
        "prompt_tokens": Key("size", 1024, "tokens of a prompt"),
        "output_tokens": Key("size", 256, "tokens that are made"),
        "rate_per_s": Key("number", None, "requests a second, instead of concurrency (not checked yet)", example=2.5),
        "trace": Key("text", None, "a CSV of requests (not checked yet)", example="requests.csv"),
    },
    "targets": {
        "memory_margin": Key("margin", 0.0, "the share of the memory that has to stay free"),
        "ttft_s": Key("number", None, "time to the first token (not checked yet)", example=2.0),
        "tpot_s": Key("number", None, "time of each further token (not checked yet)", example=0.05),
        "tokens_per_s": Key("number", None, "tokens a second over all replicas (not checked yet)", example=1000),
    },
    "price": {"gpu_hour_usd": Key("number", None, "price of one GPU for an hour (not used yet)", example=2.5)},
}
LATER = (
    "rate_per_s",
    "trace",
    "ttft_s",
    "tpot_s",
    "tokens_per_s",
)  # understood, and not checked before there is a time model
TITLES: Mapping[str, str] = {
    "gpu": "the accelerators",
    "parallel": "how the model is spread",
    "dtype": "how numbers are stored",
    "engine": "the server and its settings",
    "workload": "what it has to carry",
    "targets": "what it has to keep",
    "price": "what it costs",
}


def commented() -> str:
    """A plan file with every key, its meaning and its default.

    >>> commented().splitlines()[2][:23]
    'model = "llama-3.1-70b"'
    """
    lines = ["# A capacity plan: `attnmath plan check FILE` says whether it fits, and what to change if not.", ""]
    for section, keys in SECTIONS.items():
        lines += ["", f"[{section}]  # {TITLES[section]}"] if section else []
        width = max(len(_line(k, key)) for k, key in keys.items()) if section else 0
        lines += [f"{_line(k, key):<{width}}  # {key.meaning}" for k, key in keys.items()]
    return "\n".join(lines) + "\n"


STARTED = {"gpu.name", "gpu.count", "parallel.tensor", "workload.concurrency"}
START = {
    "parallel.tensor": 8,
    "workload.concurrency": 32,
    "workload.prompt_tokens": 4096,
    "workload.output_tokens": 512,
}


def _line(name: str, key: Key) -> str:
    where = next(s for s, keys in SECTIONS.items() if keys.get(name) is key)
    value = START.get(f"{where}.{name}", key.default if key.default not in (None, REQUIRED) else key.example)
    written = f'"{value}"' if isinstance(value, str) else str(value)
    foreign = name in {e.setting for k, e in ENGINES.items() if k != SECTIONS["engine"]["name"].default}
    given = (key.default is not None and not foreign) or f"{where}.{name}" in STARTED
    return f"{'' if given else '# '}{name} = {written}"
