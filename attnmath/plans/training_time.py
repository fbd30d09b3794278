"""How long a step of training takes: a bound, and an estimate put together from what each layer launches.

A layer's products are timed as a library cuts them up, its fused attention as the forward kernel runs, passes over memory at
its bandwidth, sums over ranks as collectives. Micro-batches of the slowest stage follow each other, beside the pipeline's
bubble; then come what is left of the data ranks' exchange, and the optimizer. What is assumed is listed with the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.hardware import Gpu
from attnmath.hardware import get as get_gpu
from attnmath.hardware.collectives import COLLECTIVES, collective, links_of
from attnmath.hardware.constants import of_gpu
from attnmath.hardware.estimates import job, kernel_shape
from attnmath.hardware.gemm import Product as Gemm
from attnmath.hardware.gemm import gemm
from attnmath.hardware.kernels import library_of
from attnmath.hardware.machine import Machine, machine
from attnmath.keys import Reading
from attnmath.models import Model, Piece
from attnmath.models.activations import ADAPTED, differentiated, dropouts, in_training
from attnmath.models.caching import reading
from attnmath.models.costs import Request, tokens_of
from attnmath.models.counting import chosen, layer_of
from attnmath.models.quantization import projections
from attnmath.plans.ranks import Rank
from attnmath.readings.count import core
from attnmath.readings.gradient import gradient
from attnmath.readings.launches import Launches, Product, launches
from attnmath.readings.memory import bits

STREAM = 0.9  # of the data sheet's bandwidth, by passes over memory: what `constants.FIXED` has for streams of a cache
BACKWARD = 2.5  # of the forward pass's products, in a fused backward pass: five products for two (arXiv:2307.08691, section 3.1)
LOSS_BYTES = 16  # moved for each logit: read in 16 bits, written and read twice in 32, its gradient written in 16


class Seconds(Struct, frozen=True):
    """How long something takes, in seconds, by what runs: products, fused attention, passes over memory, sums over ranks."""

    products_s: float = 0.0
    attention_s: float = 0.0
    passes_s: float = 0.0
    collectives_s: float = 0.0

    def __add__(self, more: Seconds) -> Seconds:
        return Seconds(*(getattr(self, f) + getattr(more, f) for f in self.__struct_fields__))

    def __mul__(self, times: float) -> Seconds:
        return Seconds(*(getattr(self, f) * times for f in self.__struct_fields__))

    @property
    def time_s(self) -> float:
        """All of it, one after the other."""
        return self.products_s + self.attention_s + self.passes_s + self.collectives_s


class How(Struct, frozen=True, eq=False):  # a key by its identity
    """How layers are run: the accelerator, its numbers' dtype, the ranks, and what training keeps; `fused`: one kernel runs
    attention; `trained`: a row of `activations.TRAINED`, with adapters of rank `lora`; `node`: GPUs that links join, and
    `network`: bytes/s of each to another node; `imbalance`: the busiest expert rank's tokens, over the mean.
    """

    gpu: Gpu
    gpu_file: str
    dtype: str
    rank: Rank
    recompute: str
    fused: bool
    by_tokens: bool
    dropout: float | None
    trained: str = "all"
    lora: int = 0
    node: int = 8
    network: float = 25e9
    imbalance: float = 1.0

    @property
    def rates(self) -> Machine:
        """The accelerator's rates."""
        return machine(self.gpu, self.dtype)

    @property
    def hbm(self) -> float:
        """Bytes/s of passes over memory."""
        return STREAM * float(self.gpu.figure("hbm_bytes_per_s"))


def exchange_s(how: How, name: str, ranks: int, stride: int, message_bytes: float) -> float:
    """Seconds of a collective among so many ranks, each `stride` GPUs from the next: over links within a node; beyond it as a
    ring through as many network cards as the group has GPUs in a node, at their stated rate.

    >>> h100 = How(get_gpu("h100-sxm"), "h100-sxm", "bf16", Rank(8), "none", True, False, None)
    >>> 1e-4 < exchange_s(h100, "all_reduce", 8, 1, 2**26) < 1e-3
    True
    >>> exchange_s(h100, "all_gather", 2, 8, 50e9), exchange_s(h100, "all_gather", 16, 1, 50e9)
    (1.0, 0.234375)
    """
    if ranks == 1 or not message_bytes:
        return 0.0
    rate = float(how.gpu.figure("link_bytes_per_s"))
    if ranks * stride > how.node:
        through = min(rate, how.network * max(1, how.node // stride))
        return float(COLLECTIVES[name].sent_bytes(ranks, message_bytes)) / through
    links = links_of(how.gpu)
    constants, _ = of_gpu(how.gpu_file).of(links, "", "collective")
    return float(collective(name, links, float(ranks), float(message_bytes), rate, constants)[0])


def products_s(how: How, found: Iterable[Product]) -> float:
    """Seconds of matrix products, one after the other; none faster than large ones are for long.

    >>> h100 = How(get_gpu("h100-sxm"), "h100-sxm", "bf16", Rank(1), "none", True, False, None)
    >>> 1.1e-3 < products_s(h100, [Product(("Y",), 8192, 8192, 8192, 1, False)]) < 2e-3
    True
    """
    return sum(_gemm(how.gpu_file, how.dtype, *map(float, (p.m, p.n, p.k, p.copies))) for p in found)


@lru_cache(4096)
def _gemm(gpu: str, dtype: str, m: float, n: float, k: float, copies: float) -> float:
    found = get_gpu(gpu)
    constants, _ = of_gpu(gpu).of(library_of(found.architecture), "", "gemm")
    rates, product = machine(found, dtype), Gemm(m, n, k, bits(dtype) / 8, copies=copies)
    sustained_s = product.flops / (rates.sustained * found.tensor_rate(dtype))
    return max(float(gemm(product, rates, constants, False).time_s), float(sustained_s))


class BlockTime(Struct, frozen=True):
    """Seconds of one copy of a block, forward and backward; the latter has what is computed again."""

    forward: Seconds
    backward: Seconds

    def __add__(self, more: BlockTime) -> BlockTime:
        return BlockTime(self.forward + more.forward, self.backward + more.backward)

    def __mul__(self, times: float) -> BlockTime:
        return BlockTime(self.forward * times, self.backward * times)


NOTHING = BlockTime(Seconds(), Seconds())


def layer_time(pieces: Iterable[Piece], r: Request, how: How, model: Model, again: bool = True) -> BlockTime:
    """Seconds of the blocks of a layer, or of others, on one rank; `again`: whether full recomputation runs them twice.

    Raises InputError where no kernel that is modelled runs a block's attention, or the accelerator lacks a figure.

    >>> from attnmath.models import read
    >>> llama = read("llama-3.1-8b")
    >>> h100 = How(get_gpu("h100-sxm"), "h100-sxm", "bf16", Rank(1), "selective", True, False, None)
    >>> t = layer_time(llama.inner[0], Request(1, 4096, 4096, 0, False, True), h100, llama)
    >>> 1.9 < t.backward.time_s / t.forward.time_s < 2.3
    True
    """
    total = NOTHING
    rates = dropouts(model, how.dropout)
    for p in pieces:
        tokens = tokens_of(p, r)
        if tokens is not None and tokens["t"]:
            one = replace(p, count=1)
            total = total + _block(_Key(how, in_training(one, rates), one, tuple(tokens.items()))) * p.count
    if again and how.recompute == "full":
        total = BlockTime(total.forward, total.backward + total.forward)
    return total


class _Key(Struct, frozen=True, eq=False):
    """A block as it is trained, and as its kernel sees it, without dropout, over so many tokens."""

    how: How
    trained: Piece
    plain: Piece
    tokens: tuple[tuple[str, int], ...]

    def __hash__(self) -> int:
        return hash((id(self.how), repr(self.trained), self.tokens))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _Key) and self.how is other.how and self.tokens == other.tokens
        return same and repr(self.trained) == repr(other.trained)  # type: ignore[attr-defined]


@lru_cache(256)
def _block(key: _Key) -> BlockTime:
    how, p, tokens = key.how, key.trained, key.tokens
    element = bits(how.dtype) / 8
    x = reading(p, dict(tokens), how.dtype, how.dtype)
    ways = shared_axes(x.sizes, how.rank, p)
    sizes = {d: _share(n, ways.get(d, 1)) for d, n in x.sizes.items()}
    kept = "none" if how.recompute == "none" or (how.recompute == "full" and not how.fused) else "selective"
    wrt = differentiated(p, x.page, "all" if how.trained == "all" else "nothing")
    found = gradient(x.page, wrt=wrt or (), recompute=kept) if wrt != () else None
    page = found.together if found else x.page
    new = set(found.renamed.values()) if found else set()
    inside = {e.out.name for e in core(page)} if how.fused and p.part == "attention" else set()
    by_tokens = how.rank.tensor if how.by_tokens else 1
    outside = [n for n in page.defined if n not in inside]
    run = [
        launches(page, sizes, element, [n for n in outside if (n in new) is after], ways, by_tokens)
        for after in (False, True)
    ]
    kernel_s = _attention(how, key.plain, dict(tokens), ways) if p.part == "attention" else 0.0
    beside = _adapters(how, key.plain, dict(tokens)) if how.lora and how.trained != "all" else ((), ())
    busiest = how.imbalance if p.part == "experts" and how.rank.expert > 1 else 1.0
    forward, backward = (
        Seconds(
            busiest * products_s(how, (*part.products, *more)),
            share * kernel_s if inside else 0.0,
            float(part.pass_bytes + _residual(p, part, sizes, element) / by_tokens) / how.hbm,
            _sums(how, p, float(part.summed_bytes), dict(tokens), element),
        )
        for part, more, share in zip(run, beside, (1.0, BACKWARD if found else 0.0))
    )
    return BlockTime(forward, backward)


def _share(n: Any, ways: int) -> Any:
    return n if ways == 1 else n / ways if n % ways else n // ways


def shared_axes(sizes: Mapping[str, Any], rank: Rank, p: Piece) -> dict[str, int]:
    """How many tensor ranks share each axis of a block; a head that fewer than all have is held by several.

    >>> from attnmath.models import read
    >>> llama = read("llama-3.1-8b")
    >>> shared_axes({"g": 8, "r": 4, "d": 128}, Rank(16), llama.inner[0][0])
    {'g': 8, 'r': 2}
    """
    tensor, out = rank.tensor, {}
    for d in ("h", "g", "group"):
        if d in sizes:
            out[d] = min(tensor, sizes[d])
    if "g" in out and "r" in sizes:
        out["r"] = max(1, min(tensor // out["g"], sizes["r"]))
    experts = rank.expert if p.part == "experts" else 1
    out |= {"ffn": max(1, tensor // experts), "vocab": tensor}
    if experts > 1:
        out["active"] = tensor // out["ffn"]  # the rest of the tensor ranks share what tokens have chosen
    return {d: ways for d, ways in out.items() if d in sizes and ways > 1}


def _attention(how: How, p: Piece, tokens: dict[str, int], ways: Mapping[str, int]) -> float:
    """Seconds of the forward kernel of fused attention, at the sizes of one rank; what has none, a recursion or a selection,
    is no row of products and passes either.
    """
    x = reading(p, tokens, how.dtype, how.dtype)
    own = {d: _share(n, ways.get(d, 1)) for d, n in x.sizes.items()}
    try:
        shape = kernel_shape(Reading(x.page, own, how.dtype, how.dtype))
        return float(job(shape, how.gpu, "vllm", how.dtype, book=of_gpu(how.gpu_file)).times().kernel_s)
    except InputError as error:
        raise InputError(f"{p.page}: {error}") from None


def _residual(p: Piece, part: Launches, sizes: Mapping[str, Any], element: float) -> float:
    """Bytes of adding what a block made to what it was given; where a pass ends the block, that pass does it."""
    if p.part not in ("attention", "mlp", "experts", "shared_experts") or "m" not in sizes:
        return 0.0
    ends = bool(part.passes) and part.passes[-1].of[-1] == "Y"
    return float((1 if ends else 3) * sizes["b"] * sizes["t"] * sizes["m"] * element)


def _sums(how: How, p: Piece, summed_bytes: float, tokens: dict[str, int], element: float) -> float:
    """Seconds of the sums over tensor ranks, and of the experts' exchange of tokens."""
    tensor, expert = how.rank.tensor, how.rank.expert
    names = ("reduce_scatter", "all_gather") if how.by_tokens else ("all_reduce",)
    total = sum(exchange_s(how, n, tensor, 1, summed_bytes) for n in names)
    if p.part == "experts" and expert > 1:
        message = tokens["b"] * tokens["t"] * p.sizes["active"] * p.sizes["d-model"] * element / tensor
        total += 2 * exchange_s(how, "all_to_all", expert, 1, message)
    if p.page == "embedding" and tensor > 1 and p.sizes.get("vocab"):
        total += exchange_s(how, "all_reduce", tensor, 1, tokens["b"] * tokens["t"] * p.sizes["d-model"] * element)
    return total


def _adapters(how: How, p: Piece, tokens: dict[str, int]) -> tuple[tuple[Product, ...], tuple[Product, ...]]:
    """The products of the adapters of a block, forward and backward: each of two matrices, its input's and its own gradient."""
    if p.part not in ADAPTED[how.trained]:
        return (), ()
    n, r = tokens["b"] * tokens["t"], how.lora
    forward, backward = [], []
    for copies, outs, ins in projections(p).values():
        wide = (ins, max(1, outs // how.rank.tensor))
        forward += [Product(("A",), n, r, wide[0], copies, False), Product(("B",), n, wide[1], r, copies, False)]
        backward += [Product(("dA",), r, wide[0], n, copies, False), Product(("dB",), wide[1], r, n, copies, False)]
        backward += [Product(("dXA",), n, r, wide[1], copies, False), Product(("dX",), n, wide[0], r, copies, False)]
    return tuple(forward), tuple(backward)


def routed(model: Model) -> bool:
    """Whether a model has routed experts.

    >>> from attnmath.models import read
    >>> routed(read("llama-3.1-8b")), routed(read("gpt-oss-20b"))
    (False, True)
    """
    return any(chosen(layer_of(p).form()) for p in model.pieces if p.part == "experts")


# -- a step


class StepTime(Struct, frozen=True):
    """What a step of training takes. `bound_s`: what no machine of these peaks beats; `time_s`: the estimate, made of `parts`,
    None where `why_none` says why; `slowest`: the stage that the others wait for; rates and shares follow from the time.

    `mfu`: model FLOPs over the peak, under each convention; `hfu`: those that are run, over pairs that exist.
    """

    tokens: int
    bound_s: float | None
    time_s: float | None
    parts: dict[str, float]
    slowest: int | None
    flops: int | None
    run_flops: int | None
    mfu: dict[str, float]
    hfu: float | None
    tokens_per_s: float | None
    assumed: list[str]
    why_none: str = ""
    days: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None


class Stage(Struct, frozen=True):
    """One stage of a step: seconds of its blocks for a micro-batch, of passing on to the next one, of the data ranks' exchange
    in a step, and of the optimizer; `behind_both`: whether the exchange may hide behind both passes, or the backward one alone.
    """

    blocks: BlockTime
    passing_s: float
    exchange_s: float
    optimizer_s: float
    behind_both: bool = False

    @property
    def hides_s(self) -> float:
        """What of a micro-batch an exchange may hide behind."""
        return self.blocks.backward.time_s + (self.blocks.forward.time_s if self.behind_both else 0.0)

    @property
    def micro_s(self) -> float:
        """A micro-batch, both ways."""
        return self.blocks.forward.time_s + self.blocks.backward.time_s + self.passing_s


def put_together(
    stages: list[Stage], micro_batches: int, bubble: float, overlap: float
) -> tuple[float, dict[str, float], int]:
    """(seconds of a step, what they are made of, the slowest stage): every micro-batch of the slowest stage, the bubble at the
    mean of all, and what the passes do not hide of the exchange.

    >>> one = Stage(BlockTime(Seconds(1.0), Seconds(2.0)), 0.0, 1.0, 0.5)
    >>> put_together([one, one], 8, 1.0, 0.5)[0]
    28.0
    """
    slowest = max(range(len(stages)), key=lambda k: stages[k].micro_s)
    s = stages[slowest]
    mean = sum(x.micro_s for x in stages) / len(stages)
    exchange = max(x.exchange_s for x in stages)
    hidden = min(overlap * exchange, micro_batches * s.hides_s)
    parts = {
        f"{direction}_{f}": micro_batches * getattr(found, f)
        for direction, found in (("forward", s.blocks.forward), ("backward", s.blocks.backward))
        for f in Seconds.__struct_fields__
    }
    parts |= {"passing_s": micro_batches * s.passing_s, "bubble_s": bubble * mean, "exchange_s": exchange - hidden}
    parts["optimizer_s"] = max(x.optimizer_s for x in stages)
    return sum(parts.values()), parts, slowest
