"""Which kernel an engine runs on which architecture, and how that kernel cuts a shape up: tables, no arithmetic.

A kernel's row says what its authors chose and its source shows: tiles, what shares a tile, how many blocks a processor holds,
in which order blocks start, whether keys are split. What nobody states (how fast its inner loop runs) is a constant, and
stands in `constants.toml` with the measurements it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from attnmath.errors import InputError, Unknown


class Tile(Struct, frozen=True):
    """Query rows and keys of one tile, for heads up to `head_dim` and values up to `v_head_dim` wide.

    `full_keys`: keys where no mask is (None: the same).
    """

    head_dim: int
    rows: int
    keys: int
    full_keys: int | None = None
    v_head_dim: int = 1024


class Kernel(Struct, frozen=True):
    """A family of attention kernels.

    `tiles`, `tiles8`: by head width, for 16-bit and for 8-bit queries; `paired_rows`: it also has tiles of twice the rows, two
    row tiles taking turns on the matrix unit, and the faster is taken; `decode_rows`: row tiles for one new token per
    sequence, of which the first that holds the group is taken (none: the tiles of prefill); `packed`: the query heads of a
    group share a tile; `resident`: blocks that a processor holds at once, if shared memory lets it; `longest_first`: the
    order in which blocks start; `asynchronous`: the matrix unit reads shared memory by itself, where otherwise every warp
    reads keys and values into registers; `split_prefill`: keys are split where the grid does not fill the processors;
    `pads`: head widths are padded to the next of these.
    """

    title: str
    source: str
    tiles: tuple[Tile, ...]
    tiles8: tuple[Tile, ...] = ()
    paired_rows: bool = False
    decode_rows: tuple[int, ...] = (64,)
    packed: bool = False
    resident: int = 1
    longest_first: bool = False
    asynchronous: bool = True
    split_prefill: bool = False
    slots: int = 1  # blocks per processor that the split heuristic wants to fill
    unsplit_blocks: int = 0  # a sequence of at most so many key tiles is not split
    least_part: int = 0  # keys that a part of a split sequence has at least
    unpacked_decode: tuple[str, ...] = ()  # where a decode step takes every query head on its own: window, mha, wide
    light_groups: int = 0  # groups below it run on a kernel without the matrix unit, several blocks to a processor
    reorders: bool = False  # a decode step copies grouped queries into the order of their keys' heads, and results back
    pads: tuple[int, ...] = ()
    paired_math: bool = False  # its softmax works on two FP32 numbers an instruction (PTX ISA, fma.rn.f32x2: sm_100 on)
    widest: int = 256  # heads that it has a kernel for
    latent: bool = False  # attends to one cached latent per token, whose first part is the value, too


FA = "Dao-AILab/flash-attention"
UNBOUNDED = 10**9
KERNELS: dict[str, Kernel] = {
    "flash-attention-2": Kernel(
        "FlashAttention-2 over a paged cache (the split-KV kernel)",
        f"{FA}, csrc/flash_attn/src/flash_fwd_launch_template.h, run_mha_fwd_splitkv_dispatch; Dao 2023, arXiv:2307.08691",
        (Tile(64, 64, 256), Tile(128, 64, 128), Tile(1024, 64, 64)),
        resident=2,
        asynchronous=False,
        slots=2,
        unpacked_decode=("window", "mha"),
        reorders=True,
        pads=(32, 64, 96, 128, 192, 256),
    ),
    "flash-attention-2-dense": Kernel(
        "FlashAttention-2",
        f"{FA}, csrc/flash_attn/src/flash_fwd_launch_template.h; Dao 2023, arXiv:2307.08691",
        (Tile(64, 128, 128), Tile(128, 128, 64), Tile(1024, 64, 64)),
        resident=2,
        asynchronous=False,
        pads=(32, 64, 96, 128, 192, 256),
    ),
    "flash-attention-3": Kernel(
        "FlashAttention-3",
        f"{FA}, hopper/tile_size.h; Shah et al. 2024, arXiv:2407.08608",
        (
            Tile(64, 192, 128, 192),
            Tile(96, 192, 144),
            Tile(128, 128, 128, 176),
            Tile(192, 128, 128, v_head_dim=128),
            Tile(192, 128, 112),
            Tile(256, 128, 80),
            Tile(1024, 64, 64),
        ),
        (Tile(64, 192, 160), Tile(128, 128, 224), Tile(192, 128, 160), Tile(1024, 128, 128)),
        packed=True,
        longest_first=True,
        split_prefill=True,
        unsplit_blocks=4,
        pads=(64, 96, 128, 192, 256),
    ),
    "flash-attention-3-latent": Kernel(
        "FlashAttention-3 over latents (key 576, value 512)",
        f"{FA}, hopper/tile_size.h (value width 512: 64 rows by 64 keys)",
        (Tile(1024, 64, 64),),
        packed=True,
        longest_first=True,
        latent=True,
        widest=576,
    ),
    "flash-attention-4": Kernel(
        "FlashAttention-4",
        "FlashAttention-4, arXiv:2603.05451: two tiles of 128 query rows take turns, 128 keys",
        (Tile(1024, 128, 128),),
        paired_math=True,
        paired_rows=True,
        longest_first=True,
        pads=(
            64,
            128,
            192,
            256,
        ),  # rows of 128 bytes: at width 80 it takes as long as at 128, whose printed peak it then has
    ),
    "flashinfer": Kernel(
        "FlashInfer's FlashAttention-2 template",
        "flashinfer-ai/flashinfer, include/flashinfer/attention/prefill.cuh, utils.cuh (FA2DetermineCtaTileQ); arXiv:2501.01005",
        (Tile(255, 128, 32), Tile(1024, 64, 16)),
        decode_rows=(16, 64, 128),
        packed=True,
        resident=2,
        longest_first=True,
        asynchronous=False,
        split_prefill=True,
        light_groups=4,
        widest=512,
        least_part=128,  # min_kv_chunk_size in include/flashinfer/attention/scheduler.cuh
    ),
    "fmha-v2": Kernel(
        "TensorRT-LLM's fmha_v2, warp-specialised for Hopper",
        "NVIDIA/TensorRT-LLM, cpp/kernels/fmha_v2 (64 rows a warpgroup, two warpgroups)",
        (Tile(64, 128, 256), Tile(128, 128, 128), Tile(1024, 128, 64)),
        pads=(32, 64, 96, 128, 192, 256),
    ),
    "fmha-v2-mma": Kernel(
        "TensorRT-LLM's fmha_v2 on mma.sync",
        "NVIDIA/TensorRT-LLM, cpp/kernels/fmha_v2 (flash kernels of 64 rows)",
        (Tile(64, 64, 128), Tile(128, 64, 64), Tile(1024, 64, 32)),
        resident=2,
        asynchronous=False,
        pads=(32, 64, 80, 96, 128, 160, 192, 256),
    ),
    "xqa": Kernel(
        "TensorRT-LLM's XQA; for groups above 32, its masked multi-head kernel",
        "NVIDIA/TensorRT-LLM, cpp/kernels/xqa/mha.cu (mma.sync; four warps of 64 keys)",
        (Tile(1024, 64, 256),),
        asynchronous=False,
        decode_rows=(16, 32, 64),
        unpacked_decode=("wide",),
        light_groups=2,
    ),
    "trtllm-gen": Kernel(
        "TensorRT-LLM's generated kernels for Blackwell",
        "NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/kernels/trtllmGenKernels (tiles of 128 or 2 x 128 rows by 128 keys)",
        (Tile(1024, 128, 128),),
        paired_math=True,
        paired_rows=True,
        decode_rows=(16, 32, 64),
        longest_first=True,
        pads=(64, 128, 192, 256),
        widest=512,
    ),
    "ideal": Kernel(
        "a kernel without overheads: 128 by 128 tiles, every unit at its data sheet's rate, all of them overlapping",
        "the roofline model with tiles and waves",
        (Tile(1024, 128, 128),),
        decode_rows=(16, 32, 64),
        packed=True,
        longest_first=True,
        split_prefill=True,
        widest=UNBOUNDED,
    ),
    "flash-mla": Kernel(
        "FlashMLA over latents (key 576, value 512)",
        "deepseek-ai/FlashMLA: 64 rows by 64 keys",
        (Tile(1024, 64, 64),),
        packed=True,
        latent=True,
        widest=576,
    ),
    "trtllm-gen-latent": Kernel(
        "TensorRT-LLM's generated kernels over latents (key 576, value 512)",
        "NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/kernels/trtllmGenKernels",
        (Tile(1024, 64, 128),),
        packed=True,
        latent=True,
        widest=576,
    ),
}

PHASES = {
    "prefill": "many new tokens a sequence, causal",
    "decode": "one new token a sequence, or a few",
    "encoder": "every token against every token, no cache written",
    "mla_prefill": "prefill of latent attention, expanded or absorbed",
    "mla_decode": "decode of latent attention, absorbed",
    "gemm": "a matrix product",
    "collective": "all-reduce and its kin within a node",
}
LIBRARIES = {
    "cublas-sync": "cuBLAS on Ampere and Ada, whose warps read shared memory for the matrix unit",
    "cublas-async": "cuBLAS on Hopper and Blackwell, whose matrix unit reads shared memory by itself",
    "nccl-nvlink-3": "NCCL over NVLink 3",
    "nccl-nvlink-4": "NCCL over NVLink 4",
    "nccl-nvlink-5": "NCCL over NVLink 5",
    "nccl-pcie": "NCCL over PCIe, through the host",
}

_SYNC = ("ampere", "ampere-ga10x", "ada", "blackwell-rtx")
_ASYNC = ("blackwell", "blackwell-ultra")


def _row(sync: str, hopper: str, blackwell: str) -> dict[str, str]:
    return {**dict.fromkeys(_SYNC, sync), "hopper": hopper, **dict.fromkeys(_ASYNC, blackwell)}


ENGINES: dict[str, dict[str, dict[str, str]]] = {  # engine -> phase -> architecture -> kernel
    "vllm": {
        "prefill": _row("flash-attention-2", "flash-attention-3", "trtllm-gen"),
        "decode": _row("flash-attention-2", "flash-attention-3", "trtllm-gen"),
        "encoder": _row("flash-attention-2-dense", "flash-attention-3", "flash-attention-4"),
        "mla_prefill": _row("flash-attention-2-dense", "flash-attention-3", "trtllm-gen"),
        "mla_decode": _row("", "flash-mla", "trtllm-gen-latent"),
    },
    "sglang": {
        "prefill": _row("flashinfer", "flash-attention-3", "trtllm-gen"),
        "decode": _row("flashinfer", "flash-attention-3", "trtllm-gen"),
        "encoder": _row("flash-attention-2-dense", "flash-attention-3", "flash-attention-4"),
        "mla_prefill": _row("flashinfer", "flash-attention-3-latent", "trtllm-gen"),
        "mla_decode": _row("", "flash-attention-3-latent", "trtllm-gen-latent"),
    },
    "trtllm": {
        "prefill": _row("fmha-v2-mma", "fmha-v2", "trtllm-gen"),
        "decode": _row("xqa", "xqa", "trtllm-gen"),
        "encoder": _row("fmha-v2-mma", "fmha-v2", "trtllm-gen"),
        "mla_prefill": _row("fmha-v2-mma", "fmha-v2", "trtllm-gen"),
        "mla_decode": _row("", "flash-mla", "trtllm-gen-latent"),
    },
}
TITLES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
IDEAL = "ideal"
EIGHT_BIT: Mapping[tuple[str, str], str] = {  # a cache in 8 bits goes elsewhere
    ("vllm", "flash-attention-2"): "flashinfer",
}


def library_of(architecture: str) -> str:
    """Which of cuBLAS's kinds of kernels an architecture runs.

    >>> library_of("hopper")
    'cublas-async'
    """
    return "cublas-sync" if architecture in _SYNC else "cublas-async"


def kernel_of(engine: str, phase: str, architecture: str, kv_bytes: float = 2.0, head_dim: int = 128) -> str:
    """The name of the kernel that an engine runs; Unknown or InputError, naming what is known, where there is none.

    `kv_bytes`: per element of the cache. `head_dim`: no kernel takes any width, and TensorRT-LLM's generated ones want
    multiples of 16.

    >>> kernel_of("vllm", "decode", "hopper")
    'flash-attention-3'
    """
    if engine == IDEAL:
        return IDEAL
    if engine not in ENGINES:
        raise Unknown("engine", engine, [*ENGINES, IDEAL], "engines")
    name = ENGINES[engine][phase].get(architecture, "")
    if not name:
        known = [a for a, k in ENGINES[engine][phase].items() if k]
        raise InputError(
            f"no {TITLES[engine]} kernel for {phase.replace('_', ' ')} is modelled on "
            f"{architecture or 'an accelerator without an architecture'}; known: {', '.join(known)}; "
            "--engine ideal needs none"
        )
    if kv_bytes < 2:
        name = EIGHT_BIT.get((engine, name), name)
    if name == "trtllm-gen" and phase == "encoder" and head_dim % 16:
        name = "fmha-v2-mma"
    if head_dim > KERNELS[name].widest:
        raise InputError(
            f"{name} has no kernel for heads {head_dim:,} wide, at most {KERNELS[name].widest}; --engine ideal needs none"
        )
    return name
