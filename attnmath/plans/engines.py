"""What engines mean by their memory settings, in bytes, and what they keep beside weights and cache.

The estimates (context, NCCL, graphs) are from servers' own logs, and are labelled as estimates wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


class Split(Struct, frozen=True):
    """How an engine comes to its cache: `taken` of `of` bytes are gone before it, and it gets `share` of the rest."""

    taken: int
    of: int
    share: float = 1.0

    @property
    def pool(self) -> int:
        """Bytes of the cache on one GPU; negative if the rest does not fit."""
        rest = self.of - self.taken
        return int(rest * self.share) if rest > 0 else rest


class Engine(Struct, frozen=True):
    """`setting`: its share of memory; `meaning`: what the share is of; `graphs`: bytes for captured graphs, an estimate;
    `split`: from the share, the GPU's memory and what is used; `counts`: which parts of what is used come off the cache, and
    what a byte of each takes from it (None: the share); `whole_heads`: whether tensor ranks share each layer's heads;
    `vocabulary_page`: what the vocabulary is padded to a multiple of, None: to whatever the ranks divide.
    """

    setting: str | None
    meaning: str
    graphs: int
    split: Callable[[float, int, Used], Split]
    counts: Mapping[str, float | None]
    source: str
    whole_heads: bool = True
    vocabulary_page: int | None = None


_ALL = ("weights", "activations", "logits", "context", "nccl")
ENGINES: dict[str, Engine] = {
    "vllm": Engine(
        "gpu_memory_utilization",
        "the cache gets total x share - weights - activations - context; graphs come out of what is left",
        GIB // 2,
        lambda share, total, u: Split(u.total - u.graphs, int(total * share)),
        dict.fromkeys(_ALL, 1.0),
        "vllm-project/vllm, vllm/v1/worker/gpu_worker.py, determine_available_memory; vocab_parallel_embedding.py",
        vocabulary_page=64,
    ),
    "sglang": Engine(
        "mem_fraction_static",
        "weights and cache get (total - context) x share; activations and graphs what is left",
        3 * GIB // 2,
        lambda share, total, u: Split(u.weights, int((total - u.context - u.nccl) * share)),
        {"weights": 1.0, "context": None, "nccl": None},
        "sgl-project/sglang, python/sglang/srt/model_executor/model_runner.py, profile_max_num_token",
        vocabulary_page=64,
    ),
    "trtllm": Engine(
        "free_gpu_memory_fraction",
        "the cache gets the share of what weights, activations, context and graphs leave",
        GIB // 2,
        lambda share, total, u: Split(u.total, total, share),
        dict.fromkeys((*_ALL, "graphs"), None),
        "NVIDIA/TensorRT-LLM, docs: memory usage; KvCacheConfig.free_gpu_memory_fraction",
    ),
    "llama.cpp": Engine(
        None,
        "the cache is allocated for the context that is asked for; there is no share",
        0,
        lambda share, total, u: Split(u.total, total),
        {},
        "ggml-org/llama.cpp, src/llama-kv-cache.cpp",
        whole_heads=False,
    ),
    "ideal": Engine(
        None,
        "all of the memory, and nothing beside weights, activations and cache",
        0,
        lambda share, total, u: Split(u.total, total),
        {},
        "no engine",
    ),
}
CONTEXT = (
    35 * GIB // 100
)  # vLLM prints 0.34 to 0.35 GiB of non-torch memory on one GPU (vllm-project/vllm#10517, #16570)
NCCL_PER_PEER = GIB // 4  # 0.74 GiB of non-torch memory on two GPUs, 2.1 on eight: a quarter of a GiB for each peer
NCCL_PEERS = 7  # those of a node; nothing was found that says more for ranks beyond it


def context_bytes(engine: str) -> int:
    """What a process needs on a GPU before it does anything: an estimate.

    >>> context_bytes("ideal")
    0
    """
    return 0 if engine == "ideal" else CONTEXT


def nccl_bytes(engine: str, peers: int) -> int:
    """Buffers for communication with so many other ranks, those of a node at most: an estimate.

    >>> nccl_bytes("vllm", 7) == 7 * NCCL_PER_PEER, nccl_bytes("llama.cpp", 1)
    (True, 0)
    """
    return 0 if engine in ("ideal", "llama.cpp") else min(peers, NCCL_PEERS) * NCCL_PER_PEER


def split(engine: str, share: float, total: int, used: Used) -> Split:
    """How an engine comes to its cache on one GPU.

    >>> u = Used(50, 10, 0, 5, 0, 20)
    >>> split("vllm", 0.9, 100, u).pool, split("sglang", 0.8, 100, u).pool, split("trtllm", 0.8, 100, u).pool
    (25, 26, 12)
    """
    return ENGINES[engine].split(share, total, used)
