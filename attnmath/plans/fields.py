"""The keys of a plan file: a row each, with what it means, its default, and what it may be.

One table serves validation, `plan init`, the JSON Schema and the defaults that are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.models.activations import COMPUTED_BY, RECOMPUTE
from attnmath.plans.engines import ENGINES
from attnmath.plans.optimizers import OPTIMIZERS
from attnmath.plans.recipes import ATTENTION, GATHERED, LORA_TARGETS, LOSSES, OFFLOAD, SCHEDULES

REQUIRED = "required"
WIDE = ("fp32", "bf16", "fp16")


class Key(Struct, frozen=True):
    """A key: `text`, `name` (a text among `among`), `size` (whole, at least 1), `count` (whole, at least 0), `share`
    (0 < x <= 1), `margin` (0 <= x < 1), `number` (more than 0), `flag`, `law` (see `workload.lengths`), `bytes` ("79.6GiB" or
    "80GB"). `example` stands in the commented file where there is no default.
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
        "prefill": Key("size", None, "of the replicas, those that only compute prompts, for the others", example=2),
        "network_bytes_per_s": Key(
            "number", 25e9, "what a replica sends to another, or a stage to the next node; in training, each GPU"
        ),
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
        "draft_tokens": Key("size", None, "tokens that are drafted and verified in a step, if any", example=4),
        "acceptance": Key("share", None, "the chance that a drafted token is accepted [0.7]", example=0.7),
        "draft_share": Key("share", None, "a step of the draft model, over one of the model [0.1]", example=0.1),
    },
    "workload": {
        "concurrency": Key("size", 1, "requests in flight, over all replicas"),
        "prompt_tokens": Key("size", 1024, "tokens of a prompt, the longest that has to fit"),
        "output_tokens": Key("size", 256, "tokens that are made, as many"),
        "prompt_law": Key("law", None, "how prompts vary, for time [all alike]", example="{ p50 = 500, p99 = 4000 }"),
        "output_law": Key("law", None, "how outputs vary, for time [all alike]", example="{ mean = 200, std = 150 }"),
        "burstiness": Key("number", 1.0, "deviation of times between arrivals over their mean, in a replay"),
        "prefix_hit_rate": Key("margin", 0.0, "the share of each prompt that the cache has already"),
        "rate_per_s": Key("number", None, "requests a second, at random times, instead of concurrency", example=2.5),
        "trace": Key(
            "text",
            None,
            "a file of requests, played through the replicas (attnmath plan replay)",
            example="requests.csv",
        ),
    },
    "targets": {
        "memory_margin": Key("margin", 0.0, "the share of the memory that has to stay free"),
        "ttft_s": Key("number", None, "mean time to the first token, at most", example=2.0),
        "tpot_s": Key("number", None, "mean time of each further token, at most", example=0.05),
        "tokens_per_s": Key("number", None, "output tokens a second over all replicas, at least", example=1000),
    },
    "training": {
        "optimizer": Key("name", "adamw", "which optimizer keeps what of each weight", tuple(OPTIMIZERS)),
        "optimizer_dtype": Key("name", "fp32", "how its states are stored, where its paper leaves that open", WIDE),
        "master_weights": Key("flag", None, "a copy of the weights in fp32 [if they are narrower]", example=True),
        "gradients": Key("name", None, "how gradients are stored [as activations]", WIDE, example="bf16"),
        "optimizer_in_backward": Key(
            "flag", False, "whether each weight's step runs as soon as it has its gradient, which frees that"
        ),
        "zero_stage": Key(
            "count", 0, "what data ranks share: 1 optimizer states, 2 gradients too, 3 weights too (FSDP)", example=3
        ),
        "gathered": Key("name", "layer", "what stage 3 gathers at once", tuple(GATHERED)),
        "offload": Key("name", "none", "what lies in the host's memory", tuple(OFFLOAD)),
        "lora_rank": Key("count", 0, "rank of the adapters that alone are trained (0: all weights are)"),
        "lora_targets": Key("name", "attention", "which projections have adapters", tuple(LORA_TARGETS)),
        "recompute": Key("name", "selective", "what the backward pass computes again", tuple(RECOMPUTE)),
        "attention": Key(
            "name", None, "its kernels [fused, but unfused where nothing is computed again]", tuple(ATTENTION), "fused"
        ),
        "computed_by": Key("name", "page", "whose code says what is kept", tuple(COMPUTED_BY)),
        "dropout": Key("margin", None, "a rate in place of the config's", example=0.1),
        "loss": Key("name", "logits", "what the loss keeps of the logits", tuple(LOSSES)),
        "micro_batch": Key("size", 1, "sequences that a replica runs at once"),
        "accumulation": Key("size", 1, "micro-batches of a replica in a step"),
        "seq": Key("size", 4096, "tokens of a sequence"),
        "sequence_parallel": Key(
            "flag", False, "whether tensor ranks share what is between matrix products by its tokens"
        ),
        "schedule": Key("name", "1f1b", "how pipeline stages take turns", tuple(SCHEDULES)),
        "virtual_stages": Key("size", 1, "parts that each stage's layers are cut into (interleaved)"),
        "buckets": Key("bytes", None, "buffers of gradients on their way, if known [not counted]", example="1GB"),
        "reserved": Key("bytes", None, "context and NCCL together, if measured [estimated]", example="1.5GiB"),
        "node_gpus": Key("size", 8, "GPUs that their own links join"),
        "overlap": Key("margin", 0.8, "the share of the data ranks' exchange that hides behind the passes"),
        "mfu": Key("share", None, "model FLOPs utilisation to assume, instead of the estimate of time", example=0.4),
        "tokens": Key("number", None, "tokens to train on, for days and money", example=1e12),
    },
    "price": {
        "gpu_hour_usd": Key("number", None, "price of one GPU for an hour", example=2.5),
        "gpu_power_w": Key("number", None, "power of one GPU under load [its thermal design power]", example=600),
    },
}
OF_SERVERS = (
    *("dtype.kv", "parallel.context", "parallel.prefill", "price.gpu_power_w"),
    *("targets.ttft_s", "targets.tpot_s", "targets.tokens_per_s"),
)
TITLES: Mapping[str, str] = {
    "gpu": "the accelerators",
    "parallel": "how the model is spread",
    "dtype": "how numbers are stored",
    "engine": "the server and its settings",
    "workload": "what it has to carry",
    "targets": "what it has to keep",
    "training": "how it is trained",
    "price": "what it costs",
}


def keys_of(trains: bool) -> dict[str, dict[str, Key]]:
    """The keys that have a use in a plan of training, or of a server, by section.

    >>> [s for s in keys_of(True) if s not in keys_of(False)], "kv" in keys_of(True)["dtype"]
    (['training'], False)
    """
    others = ("engine", "workload") if trains else ("training",)
    unused = OF_SERVERS if trains else ()
    return {
        section: {k: key for k, key in keys.items() if f"{section}.{k}" not in unused}
        for section, keys in SECTIONS.items()
        if section not in others
    }


def commented(trains: bool = False) -> str:
    """A plan file with every key, its meaning and its default; of training, or of a server.

    >>> commented().splitlines()[2][:23], commented(trains=True).splitlines()[0]
    ('model = "llama-3.1-70b"', '# A training plan: `attnmath plan check FILE` says whether it fits and how long it takes.')
    """
    what = (
        "# A training plan: `attnmath plan check FILE` says whether it fits and how long it takes."
        if trains
        else "# A capacity plan: `attnmath plan check FILE` says whether it fits, and what to change if not."
    )
    lines = [what, ""]
    for section, keys in keys_of(trains).items():
        lines += ["", f"[{section}]  # {TITLES[section]}"] if section else []
        width = max(len(_line(k, key)) for k, key in keys.items()) if section else 0
        lines += [f"{_line(k, key):<{width}}  # {_told(key)}" for k, key in keys.items()]
    return "\n".join(lines) + "\n"


def _told(key: Key) -> str:
    """What a key means, and the names that it takes where that is not a list of engines."""
    few = key.among and key.among[0] not in ENGINES and not key.meaning.startswith(("what a windowed",))
    return f"{key.meaning}: {', '.join(key.among)}" if few else key.meaning


STARTED = {"gpu.name", "gpu.count", "parallel.tensor", "workload.concurrency"}
START = {
    "parallel.tensor": 8,
    "workload.concurrency": 32,
    "workload.prompt_tokens": 4096,
    "workload.output_tokens": 512,
    "training.zero_stage": 1,
    "training.micro_batch": 1,
}


def _line(name: str, key: Key) -> str:
    where = next(s for s, keys in SECTIONS.items() if keys.get(name) is key)
    value = START.get(f"{where}.{name}", key.default if key.default not in (None, REQUIRED) else key.example)
    written = (
        f'"{value}"'
        if isinstance(value, str) and key.kind != "law"
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
    foreign = name in {e.setting for k, e in ENGINES.items() if k != SECTIONS["engine"]["name"].default}
    given = (key.default is not None and not foreign) or f"{where}.{name}" in STARTED
    return f"{'' if given else '# '}{name} = {written}"
