"""What engines mean by their memory settings, in bytes, and what they keep beside weights and cache.

The estimates (context, NCCL, graphs) are from servers' own logs, and are labelled as estimates wherever they are shown.
"""

from __future__ import annotations

from msgspec import Struct

GIB = 2**30


class Used(Struct, frozen=True):
    """Bytes of one GPU by what takes them, the cache apart."""

    weights: int
    activations: int
    logits: int
    context: int
    nccl: int
    graphs: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.activations + self.logits + self.context + self.nccl + self.graphs


class Engine(Struct, frozen=True):
    """`setting`: its share of memory; `meaning`: what the share is of; `graphs`: bytes for captured graphs."""

    setting: str | None
    meaning: str
    graphs: int
    inside: bool  # whether graphs come out of the share, or out of what it leaves
    source: str


ENGINES: dict[str, Engine] = {
    "vllm": Engine(
        "gpu_memory_utilization",
        "the cache gets total x share - weights - activations - context (graphs come out of what is left)",
        GIB // 2,
        False,
        "vllm-project/vllm, vllm/v1/worker/gpu_worker.py, determine_available_memory",
    ),
    "sglang": Engine(
        "mem_fraction_static",
        "weights and cache get total x share; activations and graphs what is left",
        3 * GIB // 2,
        False,
        "sgl-project/sglang, python/sglang/srt/model_executor/model_runner.py, profile_max_num_token",
    ),
    "trtllm": Engine(
        "free_gpu_memory_fraction",
        "the cache gets the share of what weights, activations and context leave",
        GIB // 2,
        True,
        "NVIDIA/TensorRT-LLM, docs: memory usage; KvCacheConfig.free_gpu_memory_fraction",
    ),
    "llama.cpp": Engine(
        None,
        "the cache is allocated for the context that is asked for; no share",
        0,
        True,
        "ggml-org/llama.cpp, src/llama-kv-cache.cpp",
    ),
    "ideal": Engine(None, "all of the memory, and nothing beside weights, activations and cache", 0, True, "no engine"),
}
CONTEXT = (
    35 * GIB // 100
)  # vLLM prints 0.34 to 0.35 GiB of non-torch memory on one GPU (vllm-project/vllm#10517, #16570)
NCCL_PER_PEER = GIB // 4  # 0.74 GiB of non-torch memory on two GPUs, 2.1 on eight: a quarter of a GiB for each peer


def context_bytes(engine: str) -> int:
    """What a process needs on a GPU before it does anything: an estimate.

    >>> context_bytes("ideal")
    0
    """
    return 0 if engine == "ideal" else CONTEXT


def nccl_bytes(engine: str, peers: int) -> int:
    """Buffers for communication with so many other ranks: an estimate.

    >>> nccl_bytes("vllm", 7) == 7 * NCCL_PER_PEER, nccl_bytes("llama.cpp", 1)
    (True, 0)
    """
    return 0 if engine in ("ideal", "llama.cpp") else peers * NCCL_PER_PEER


def pool_bytes(engine: str, share: float, total: int, used: Used) -> int:
    """What the engine gives to its cache on one GPU; negative if there is not enough for the rest.

    >>> pool_bytes("vllm", 0.9, 100, Used(50, 10, 0, 5, 0, 20)), pool_bytes("sglang", 0.9, 100, Used(50, 10, 0, 5, 0, 20))
    (25, 35)
    >>> pool_bytes("trtllm", 0.9, 100, Used(50, 10, 0, 5, 0, 15)), pool_bytes("ideal", 1.0, 100, Used(50, 0, 0, 0, 0, 0))
    (18, 50)
    """
    if engine == "vllm":
        return int(total * share) - (used.total - used.graphs)
    if engine == "sglang":
        return int(total * share) - used.weights - used.context - used.nccl
    if engine == "trtllm":
        free = total - used.total
        return int(free * share) if free > 0 else free
    return total - used.total


def left_bytes(engine: str, total: int, used: Used, pool: int) -> int:
    """What stays free when the pool is taken: for graphs, or for activations; negative if these do not fit.

    >>> left_bytes("vllm", 100, Used(50, 10, 0, 5, 0, 20), 25)
    -10
    """
    return total - used.total - pool
