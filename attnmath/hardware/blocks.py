"""What one thread block needs, and how many a processor holds: shared memory, registers, tensor memory, by architecture.

Rules as tables. Three instructions multiply matrices, and each has its own home for accumulators: mma.sync and wgmma keep
scores and results in registers, tcgen05 in tensor memory. Sources: PTX ISA (mma, wgmma.mma_async, tcgen05.mma, setmaxnreg);
FlashAttention-2, -3 and -4 for how kernels use them.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.hardware import Gpu

THREAD_REGISTERS = 255  # that one thread may have (CUDA C++ Programming Guide, technical specifications)
TENSOR_MEMORY = 512 * 128  # 32-bit cells of a processor: columns by lanes (PTX ISA; FlashAttention-4, arXiv:2603.05451)
WARP, WARPGROUP = 32, 128  # threads
WIDE = 256  # columns of results that one warpgroup holds


class Rules(Struct, frozen=True):
    """What an instruction asks of a tile.

    `rows`: it takes so many query rows at once; `stages`: pairs of key and value tiles in shared memory, from the fewest
    that let loads run beside arithmetic; `usual_stages`: what kernels take; `other_registers`: of a thread, for addresses,
    row maxima and sums, an assumption that all tiles of FlashAttention-3 agree with; `producer_registers`: of each thread
    of the warpgroup that only loads.
    """

    instruction: str
    rows: int
    stages: tuple[float, ...]
    usual_stages: float
    other_registers: int
    producer_registers: int = 0
    source: str = ""


RULES: dict[str, Rules] = {
    r.instruction: r
    for r in (
        Rules(
            "mma.sync",
            16,
            (1, 2, 3, 4),
            1,
            24,
            source="flash-attention, csrc/flash_attn/src/flash_fwd_launch_template.h: warps of 16 or 32 rows, one stage",
        ),
        Rules(
            "wgmma",
            64,
            (2, 3, 4),
            2,
            24,
            32,
            source="flash-attention, hopper/flash_fwd_kernel_sm90.h: warpgroups of 64 rows, one that loads, two stages",
        ),
        Rules(
            "tcgen05",
            128,
            (1, 1.5, 2, 3, 4),
            1.5,
            24,
            source="flash-attention, flash_attn/cute/flash_fwd_sm100.py: tiles of 128 rows, keys and values take turns on "
            "three buffers",
        ),
    )
}
INSTRUCTIONS = {  # of the newest kernels; older ones run mma.sync everywhere
    **dict.fromkeys(("turing", "ampere", "ampere-ga10x", "ada", "blackwell-rtx"), "mma.sync"),
    "hopper": "wgmma",
    **dict.fromkeys(("blackwell", "blackwell-ultra"), "tcgen05"),
}


class Limits(Struct, frozen=True):
    """Of one processor: bytes of shared memory, of it what one block may use, and 32-bit registers."""

    smem_bytes: int
    smem_block_bytes: int
    registers: int

    @property
    def reserved_bytes(self) -> int:
        """Of shared memory, what the system takes for each block: what one block may not use."""
        return self.smem_bytes - self.smem_block_bytes


class Sizes(Struct, frozen=True):
    """A tile of `rows` queries by `keys`, heads this wide, and how many pairs of key and value tiles are on their way.

    Bytes are per element; `latent`: values are part of the keys.
    """

    rows: int
    keys: int
    head_dim: int
    v_head_dim: int
    stages: float = 2.0
    q_bytes: float = 2.0
    kv_bytes: float = 2.0
    latent: bool = False


class Need(Struct, frozen=True):
    """What one thread block needs, and what there is.

    `warp_rows`: query rows of one warp; `registers`: of each thread that computes, of `register_limit`;
    `tensor_memory_bytes`: of accumulators that lie there; `weights_in`: where the softmax's result waits for the second
    product; `resident`: how many of it a processor holds at once; `misfits`: why it cannot run, empty if it can.
    """

    threads: int
    warp_rows: int
    smem_bytes: int
    registers: int
    register_limit: int
    tensor_memory_bytes: int
    weights_in: str
    resident: int
    misfits: tuple[str, ...] = ()


def rules_of(gpu: Gpu, asynchronous: bool) -> Rules:
    """The instruction that a kernel's products run on; InputError where no rules are known.

    >>> from attnmath.hardware import get
    >>> rules_of(get("h100-sxm"), True).rows
    64
    """
    if gpu.architecture not in INSTRUCTIONS:
        raise InputError(
            f"which blocks fit is modelled for {', '.join(INSTRUCTIONS)}; "
            f"{gpu.name} is {gpu.architecture or 'of no known architecture'}"
        )
    return RULES[INSTRUCTIONS[gpu.architecture] if asynchronous else "mma.sync"]


def limits_of(gpu: Gpu) -> Limits:
    """What a processor has; InputError naming every figure that is absent.

    >>> from attnmath.hardware import get
    >>> limits_of(get("h100-sxm"))
    Limits(smem_bytes=233472, smem_block_bytes=232448, registers=65536)
    """
    names = Limits.__struct_fields__
    if absent := [n for n in names if n not in gpu.figures]:
        raise InputError(f"{gpu.name} has no figure {', '.join(absent)}: no source was found for it")
    return Limits(*(int(gpu.figure(n)) for n in names))


def smem_bytes(s: Sizes, weights: bool = False, apart: bool = False) -> int:
    """Shared memory of a block: queries, and `stages` tiles of keys and values; results take their place at the end.

    `weights`: the softmax's result passes through it, too. `apart`: results have a place of their own, so that the next
    queries can come while they leave, as in FlashAttention-4.

    >>> smem_bytes(Sizes(128, 128, 128, 128)), smem_bytes(Sizes(256, 128, 128, 128, 1.5), apart=True)
    (163840, 229376)
    """
    wide = s.head_dim if s.latent else s.head_dim + s.v_head_dim
    held = s.rows * s.head_dim * s.q_bytes + s.stages * s.keys * wide * s.kv_bytes
    held += weights * s.rows * s.keys * s.q_bytes
    results = s.rows * s.v_head_dim * 2.0
    return ceil(held + results if apart else max(held, results))


def thread_registers(s: Sizes, threads: int, weights: bool = False) -> int:
    """Registers per thread of a tile's accumulators: results and scores in fp32; `weights` beside the next scores.

    What FlashAttention-2 says spills (256 by 64, head width 64, four warps):

    >>> thread_registers(Sizes(256, 64, 64, 64), 128)
    256
    """
    each = 1 + weights * s.q_bytes / 4
    return ceil(s.rows * (s.v_head_dim + s.keys * each) / threads)


def need(rules: Rules, limits: Limits, s: Sizes) -> Need:
    """What a block of this tile needs on this processor, and whether it fits.

    FlashAttention-3's own limit at head width 256, 80 keys (hopper/tile_size.h):

    >>> from attnmath.hardware import get
    >>> h100 = limits_of(get("h100-sxm"))
    >>> [need(RULES["wgmma"], h100, Sizes(128, keys, 256, 256)).misfits for keys in (80, 96)]
    [(), ('shared memory: 262,144 bytes, a block may use 232,448',)]
    """
    found = {"mma.sync": _of_warps, "wgmma": _of_warpgroups, "tcgen05": _in_tensor_memory}[rules.instruction](
        rules, limits, s
    )
    why = []
    if found.smem_bytes > limits.smem_block_bytes:
        why.append(f"shared memory: {found.smem_bytes:,} bytes, a block may use {limits.smem_block_bytes:,}")
    if found.registers > found.register_limit:
        why.append(f"registers: {found.registers} per thread, {found.register_limit} there are")
    elif not found.resident:
        why.append(f"registers: {found.registers} per thread of {found.threads}, a processor has {limits.registers:,}")
    if found.tensor_memory_bytes > 4 * TENSOR_MEMORY:
        why.append(f"tensor memory: {found.tensor_memory_bytes:,} bytes, {4 * TENSOR_MEMORY:,} there are")
    by_smem = limits.smem_bytes // (found.smem_bytes + limits.reserved_bytes)
    return replace(found, misfits=tuple(why), resident=0 if why else min(by_smem, found.resident))


def _of_warps(rules: Rules, limits: Limits, s: Sizes) -> Need:
    """Warps of 32 rows where a tile has 128 and registers hold them, else of 16; weights take their scores' place."""
    wide = 32 if s.rows >= 128 and s.rows % 32 == 0 else 16
    whole = replace(s, rows=-(-s.rows // rules.rows) * rules.rows)
    threads = registers = 0
    for warp_rows in dict.fromkeys((wide, 16)):
        threads = whole.rows // warp_rows * WARP
        registers = thread_registers(whole, threads) + rules.other_registers
        if registers <= THREAD_REGISTERS:
            break
    resident = limits.registers // (threads * -(-registers // 8) * 8)
    return Need(threads, warp_rows, smem_bytes(s), registers, THREAD_REGISTERS, 0, "registers", resident)


def _of_warpgroups(rules: Rules, limits: Limits, s: Sizes) -> Need:
    """A warpgroup for every 64 rows, more where results are wider than one holds, and one that loads.

    Weights wait in registers beside the next scores if these hold them, else in shared memory. One block takes all
    registers: those that compute have what the one that loads gives back (setmaxnreg).
    """
    whole = replace(s, rows=-(-s.rows // rules.rows) * rules.rows)
    groups = whole.rows // rules.rows * -(-s.v_head_dim // WIDE)
    threads = groups * WARPGROUP
    limit = min(THREAD_REGISTERS, (limits.registers // WARPGROUP - rules.producer_registers) // groups // 8 * 8)
    registers, kept = 0, True
    for kept in (True, False):
        registers = thread_registers(whole, threads, kept) + rules.other_registers
        if registers <= limit:
            break
    home = "registers" if kept else "shared memory"
    return Need(threads + WARPGROUP, 16, smem_bytes(s, not kept), registers, limit, 0, home, 1)


def _in_tensor_memory(rules: Rules, limits: Limits, s: Sizes) -> Need:
    """Scores and results in tensor memory, weights in their scores' place; of few rows the operands swap.

    A warpgroup of softmax for each tile of 128 rows, one that rescales, one that loads and issues. A thread takes its row
    of scores piece by piece: registers set no limit.
    """
    cells = s.rows * (s.keys + s.v_head_dim)
    threads = (-(-s.rows // rules.rows) + 2) * WARPGROUP
    resident = max(TENSOR_MEMORY // cells, 1)
    return Need(threads, 32, smem_bytes(s), 0, THREAD_REGISTERS, 4 * cells, "tensor memory", resident)
