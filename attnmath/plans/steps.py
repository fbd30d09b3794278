"""How long one step of a server takes: the matrix products of its layers, attention, what runs between them, and what crosses
the links; a bound, and an estimate.

Everything is read off the blocks' pages: a term that sums over a learned tensor is a matrix product, the softmax over keys
is an attention kernel, the other equations of a block are one kernel that moves what they read and make. Products, kernels
and collectives are timed by `attnmath/hardware`. Ranks of a stage do the same work, each its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.hardware import Gpu
from attnmath.hardware.collectives import collective, links_of, wire_bytes
from attnmath.hardware.constants import built_in
from attnmath.hardware.estimates import Job, job, kernel_shape
from attnmath.hardware.gemm import Product, gemm
from attnmath.hardware.kernels import ENGINES as KERNELS_OF
from attnmath.hardware.kernels import IDEAL, library_of
from attnmath.hardware.machine import machine
from attnmath.hardware.timing import Shape
from attnmath.models import Piece
from attnmath.models.caching import bidirectional, reading
from attnmath.models.counting import shards
from attnmath.models.quantization import FORMATS, recipe_of
from attnmath.models.schema import TEXT
from attnmath.plans.curves import Curve, Surface
from attnmath.plans.load import Load
from attnmath.plans.ranks import cut
from attnmath.plans.servers import Server
from attnmath.plans.work import Matrix, Work, between, matrices
from attnmath.readings.memory import bits

# Nobody states the shares and times below: round numbers, chosen beside the figures that say `fitted` in
# benchmarks/plans/serving/published-figures.toml; what they are worth is written in accuracy.toml.
FAR = 4096  # a context at which the form of a step is chosen
HBM_SHARE = 0.9  # of the bandwidth, which kernels that only move reach
STREAM_SHARE = 0.82  # of the bandwidth, which products of few rows reach
STREAMED_ROWS = 32  # how few
STREAM_S = 3.0e-6  # the least that such a kernel takes
PRODUCT_SHARE = 0.55  # of the peak, for products on an accelerator that lacks figures
CORE_SHARE = 0.5  # of the peak, for a core that no kernel here is modelled for
NARROW = {"fp8": "fp8", "nvfp4": "fp4"}  # weights in these are multiplied with activations in the same
LINK_SHARE, LINK_S = 0.7, 12e-6  # of links that nobody measured here: share of their rate, and what a message takes
GAP_S = 1.5e-6  # between kernels of a captured graph
OVERHEAD_S = {  # of a step, and of each sequence in it, beside kernels: scheduling, sampling, copies to the host
    "vllm": (1.0e-3, 8e-6),
    "sglang": (0.7e-3, 6e-6),
    "trtllm": (0.5e-3, 6e-6),
    "llama.cpp": (0.3e-3, 0.0),
    "ideal": (0.0, 0.0),
}
PARTS = ("products", "experts", "attention", "between", "collectives", "head", "overhead")


class Time(Struct, frozen=True):
    """Seconds of one step: no step takes less than `bound_s`; `parts` add up to the estimate. `bound`: what the bound is by."""

    bound_s: float
    parts: Mapping[str, float]
    bound: str

    @property
    def time_s(self) -> float:
        """The estimate; never below the bound."""
        return max(sum(self.parts.values()), self.bound_s)


class Steps:
    """How long a replica's steps take: of all its stages, one after the other; exact figures at the points of a grid.

    Raises InputError, naming what is missing, where the accelerator has no figure that is needed.
    """

    def __init__(self, s: Server, gpu: Gpu) -> None:
        self.plan, self.model, self.rank, self.gpu = s.plan, s.model, s.rank, gpu
        self.dtype, self.kv_dtype = s.dtype, s.kv_dtype
        engine = str(s.plan["engine.name"])
        self.overhead_s, self.sequence_s = OVERHEAD_S[engine]
        self.engine = engine if engine in KERNELS_OF else IDEAL
        self.recipe = recipe_of(s.model, s.plan["dtype.weights"])
        self.width = float(bits(s.dtype)) / 8
        self.hbm_bytes_per_s = float(gpu.figure("hbm_bytes_per_s"))
        last = (float(gpu.figure(k)) for k in ("l2_bytes", "llc_bytes") if k in gpu.figures)
        self.kept_bytes = sum(last)  # of the last step, at the most
        self.assumed: dict[str, None] = {}
        self.coarse = self._is_coarse()
        self.stages = [self._stage(pieces) for pieces in cut(s.model, s.rank.pipeline)]
        self._linear = Curve(self._products_s)
        self._moved = Curve(self._between_s)
        self._routed = Curve(self._experts_s)
        self._sent = Curve(self._collectives_s)
        self._head = Curve(self._head_s)
        self._decoding = Surface(self._decode_s)
        self._prefilling = Surface(self._prefill_s)

    def _is_coarse(self) -> bool:
        """Whether the accelerator lacks figures that kernels are timed by: products then reach stated shares of its rates."""
        try:
            self.assumed |= dict.fromkeys(machine(self.gpu, self.dtype).assumed)
        except InputError as error:
            told = _one_line(error)
            self.assumed[
                f"{told}; products reach {PRODUCT_SHARE:.0%} of the peak, {STREAM_SHARE:.0%} of the bandwidth"
            ] = None
            return True
        return False

    # -- what there is

    def _stage(self, pieces: tuple[Piece, ...]) -> list[tuple[Work, int]]:
        counted: dict[str, tuple[Work, int]] = {}
        for p in pieces:
            if p.over != TEXT:
                continue
            key = repr((p.part, p.page, p.uses, tuple(p.sizes.items()), p.mask))
            if key in counted:
                work, n = counted[key]
                counted[key] = work, n + p.count
            else:
                counted[key] = self._work(p), p.count
        return list(counted.values())

    def _work(self, p: Piece) -> Work:
        if p.part == "embedding":
            return Work(p, (), 2 * self.width * p.sizes.get("d-model", 0), 1)
        x = reading(p, self._tokens(p, 1, FAR), self.dtype, self.kv_dtype)
        moved, kernels = between(x.page, x.sizes, self.rank.tensor, self.width)
        if p.part == "norm":  # with the residual, which it adds and hands on
            moved *= 2
        return Work(p, matrices(x, p, self.recipe, self.rank), moved, kernels, x if p.part == "attention" else None)

    def _tokens(self, p: Piece, new: int, context: int) -> dict[str, int]:
        return {"b": 1, "t": new, "n": new if bidirectional(p) else context}

    def _all(self) -> Iterable[tuple[Work, int]]:
        return ((w, n) for stage in self.stages for w, n in stage)

    # -- parts of a step, in seconds, over all stages

    def _products_s(self, tokens: float) -> float:
        return sum(
            n * self._product_s(a, tokens)
            for w, n in self._all()
            if w.piece.part != "head"
            for a in w.matrices
            if a.experts == 1
        )

    def _product_s(self, a: Matrix, tokens: float) -> float:
        return self._matrix_s(a, max(1.0, round(tokens * a.rows)), a.n * a.copies, a.stored_bytes) + self._gap_s

    def _matrix_s(self, a: Matrix, m: float, n: float, stored: float) -> float:
        """A library's product; of few rows, no slower than a kernel that streams the matrix once."""
        streamed_s = n * a.k * stored / (self.hbm_bytes_per_s * STREAM_SHARE)
        if self.coarse:
            flops_s = 2 * m * n * a.k / (float(self.gpu.tensor_rate(self._rate(a))) * PRODUCT_SHARE)
            return max(flops_s, streamed_s)
        found = _timed(self._job(a), m, n, a.k, self.width, stored)
        return min(found, max(streamed_s, STREAM_S)) if m <= STREAMED_ROWS and stored else found

    @property
    def _gap_s(self) -> float:
        return 0.0 if self.plan["engine.name"] == "ideal" else GAP_S

    def _job(self, a: Matrix) -> Job:
        """The library's product of matrices, its sizes to be filled in."""
        dtype = self._rate(a)
        if dtype not in self._jobs:
            kernel = library_of(self.gpu.architecture)
            constants, _ = built_in().of(kernel, "", "gemm")
            rates = machine(self.gpu, dtype)
            self._jobs[dtype] = Job(Product(0.0, 0.0, 0.0), self.gpu, "", "gemm", kernel, rates, constants)
        return self._jobs[dtype]

    @cached_property
    def _jobs(self) -> dict[str, Job]:
        return {}

    def _rate(self, a: Matrix) -> str:
        """The dtype that the matrix unit works in: the one of NARROW for what is stored so, where the accelerator has it; else
        that of activations.
        """
        narrow = NARROW.get(self.recipe.name, "")
        stored = a.stored_bytes < 1.2 * FORMATS[self.recipe.name].bits / 8 if narrow else False
        return narrow if stored and narrow in self.gpu.tensor_flop_per_s else self.dtype

    def _experts_s(self, tokens: float) -> float:
        """Of routed experts: those that some token goes through are read, and their rows are padded."""
        total = 0.0
        skew = float(self.plan["parallel.imbalance"])
        for w, n in self._all():
            for a in (a for a in w.matrices if a.experts > 1):
                total += n * skew * self._routed_s(a, tokens)
        return total

    def _routed_s(self, a: Matrix, tokens: float) -> float:
        ranks = self.rank.expert
        every = tokens * max(1.0, ranks / self.rank.tensor)  # data ranks bring theirs
        own = max(1.0, a.experts / ranks)
        used: float = own * (1 - (1 - a.active / a.experts) ** every)
        rows = every * a.active / ranks / max(used, 1e-9)
        padded = -(-rows // 16) * 16 if rows > 1 else 1.0
        n = a.n * (self.rank.tensor if ranks > 1 else 1)
        flops_s = self._matrix_s(a, max(1.0, padded * used), n, 0.0)
        read_s = used * n * a.k * a.stored_bytes / (self.hbm_bytes_per_s * HBM_SHARE)
        return max(flops_s, read_s) + self._gap_s

    def _between_s(self, tokens: float) -> float:
        moved = sum(n * w.moved_bytes for w, n in self._all()) * tokens
        kernels = sum(n * w.kernels for w, n in self._all())
        return moved / (self.hbm_bytes_per_s * HBM_SHARE) + kernels * self._gap_s * 2

    def _head_s(self, rows: float) -> float:
        return sum(n * self._product_s(a, rows) for w, n in self._all() if w.piece.part == "head" for a in w.matrices)

    def _decode_s(self, sequences: float, context: float) -> float:
        return sum(n * self._attention_s(w, sequences, 1.0, context) for w, n in self._all() if w.core)

    def _prefill_s(self, new: float, past: float) -> float:
        past = 0.0 if past <= 1 else past
        return sum(n * self._attention_s(w, 1.0, new, new + past) for w, n in self._all() if w.core)

    def _attention_s(self, w: Work, batch: float, new: float, context: float) -> float:
        found = self._kernel(w.piece, new == 1.0)
        if found is None:
            return self._core_s(w.piece, batch, new, context) + self._gap_s
        context = max(context, new)
        shape = replace(
            found.shape,
            batch=max(1.0, round(batch)),
            seq=round(new) + 0.0,
            context=max(round(context), round(new)) + 0.0,
        )
        return float(replace(found, shape=shape).times().kernel_s) + self._gap_s

    def _kernel(self, p: Piece, decodes: bool) -> Job | None:
        """The kernel of an attention layer on one rank; None, with a note, where none is modelled."""
        key = (repr(p), decodes)
        if key not in self._kernels:
            self._kernels[key] = self._find(p, decodes)
        return self._kernels[key]

    @cached_property
    def _kernels(self) -> dict[Any, Job | None]:
        return {}

    def _find(self, p: Piece, decodes: bool) -> Job | None:
        x = reading(p, self._tokens(p, 1 if decodes else FAR, FAR), self.dtype, self.kv_dtype)
        try:
            shape: Shape = kernel_shape(x)
            ways = self.rank.tensor
            shape = replace(shape, heads=shape.heads / min(ways, shape.heads), kv_heads=max(1.0, shape.kv_heads / ways))
            found = job(shape, self.gpu, self.engine, self.dtype, decodes)
        except InputError as error:
            self.assumed[
                f"{p.page}: {_one_line(error)}; its core reaches {CORE_SHARE:.0%} of the peak or {HBM_SHARE:.0%} of the bandwidth"
            ] = None
            return None
        self.assumed |= dict.fromkeys(found.assumed)
        return found

    def _core_s(self, p: Piece, batch: float, new: float, context: float) -> float:
        flops, moved = self._core(p, batch, new, context)
        rate = float(self.gpu.tensor_rate(self.dtype))
        return max(flops / (rate * CORE_SHARE), moved / (self.hbm_bytes_per_s * HBM_SHARE))

    def _core(self, p: Piece, batch: float, new: float, context: float) -> tuple[float, float]:
        """(FLOPs, bytes) of an attention core on one rank."""
        tokens = self._tokens(p, max(1, round(new)), max(round(context), round(new), 1))
        x = reading(p, {**tokens, "b": max(1, round(batch))}, self.dtype, self.kv_dtype)
        heads = shards(("h", "g"), x.sizes, self.rank.tensor)
        flops: Any = x.flops.core
        moved: Any = x.core.compulsory
        return float(flops) / heads, float(moved) / heads

    def _collectives_s(self, tokens: float) -> float:
        sent = [(kind, size * tokens, n) for kind, size, n in self._messages]
        return sum(n * self._collective_s(kind, ranks, size) for (kind, ranks), size, n in sent)

    @cached_property
    def _messages(self) -> list[tuple[tuple[str, int], float, int]]:
        """((collective, ranks), bytes for each token, how many in a step)."""
        wide = max((p.sizes.get("d-model", 0) for p in self.model.pieces), default=0) * self.width
        out: list[tuple[tuple[str, int], float, int]] = []
        routed = sum(n for w, n in self._all() if w.piece.part == "experts")
        if self.rank.tensor > 1:
            mixers = sum(n for w, n in self._all() if w.piece.part == "attention")
            fed = sum(n for w, n in self._all() if w.piece.part == "mlp")
            both = mixers + (fed + routed * (self.rank.expert == 1)) + 1
            out.append((("all_reduce", self.rank.tensor), wide, both))
        if self.rank.expert > 1 and routed:
            active = max(p.sizes["active"] for p in self.model.pieces if "active" in p.sizes)
            share = min(active, self.rank.expert) / self.rank.tensor
            out.append((("all_to_all", self.rank.expert), wide * share, 2 * routed))
        if self.rank.pipeline > 1:
            out.append((("send", 2), wide, self.rank.pipeline - 1))
        return out

    def _collective_s(self, kind: str, ranks: int, size: float) -> float:
        rate = float(self.gpu.figure("link_bytes_per_s"))
        try:
            links = links_of(self.gpu)
        except InputError as error:
            self.assumed[f"{error}; {LINK_SHARE:.0%} of the links' rate, and {LINK_S * 1e6:g} us"] = None
            sent = size if kind == "send" else float(wire_bytes(kind, ranks, size))
            return LINK_S + sent / (rate * LINK_SHARE)
        constants, _ = built_in().of(links, "", "collective")
        if kind == "send":
            return constants["launch_us"] * 1e-6 + size / (rate * constants["bulk_share"])
        return float(collective(kind, links, float(ranks), size, rate, constants)[0])

    # -- a step

    def __call__(self, load: Load) -> float:
        """Seconds of a step: the estimate."""
        return self.time(load).time_s

    def time(self, load: Load) -> Time:
        """A step's bound and estimate, by what takes the time."""
        if not load.tokens:
            return Time(0.0, {}, "")
        tokens, rows = float(load.tokens), load.decodes + (load.prompts if load.prefill_tokens else 0)
        micro = self.rank.pipeline if load.decodes >= self.rank.pipeline else 1  # micro-batches that keep stages busy
        each = tokens / micro
        parts = {
            "products": self._linear(each),
            "experts": self._routed(each),
            "attention": (self._decoding(load.decodes / micro, load.context) if load.decodes else 0.0)
            + (self._prompts_s(load, micro) if load.prefill_tokens else 0.0),
            "between": self._moved(each),
            "collectives": self._sent(each),
            "head": self._head(rows / micro),
            "overhead": self.overhead_s + self.sequence_s * load.decodes,
        }
        bounds = self.bounds(load)
        most = max(bounds, key=lambda k: bounds[k])
        return Time(bounds[most], parts, most)

    def _prompts_s(self, load: Load, micro: int) -> float:
        return load.prompts * self._prefilling(load.prefill_tokens / load.prompts / micro, load.prefill_past)

    def bounds(self, load: Load) -> dict[str, float]:
        """What no step beats: operations at the peak, bytes at the bandwidth, messages at the links' rate, each alone, with
        the work spread evenly over the ranks.
        """
        tokens = float(load.tokens)
        rows = load.decodes + (load.prompts if load.prefill_tokens else 0)
        flops = weights = 0.0
        for w, n in self._all():
            over = rows if w.piece.part == "head" else tokens
            for a in w.matrices:
                numbers = a.n * a.k * a.copies
                used = min(a.active, a.experts)  # all tokens may choose the same: no routing reads fewer
                flops += n * 2 * numbers * a.rows * over * a.active
                weights += n * numbers * used * a.stored_bytes / (self.rank.expert if a.experts > 1 else 1)
        rate = max(
            float(self.gpu.tensor_rate(d))
            for d in {self.dtype, *(self._rate(a) for w, _ in self._all() for a in w.matrices)}
        )
        attention = [self._cores(load)] if load.tokens else []
        flops += sum(f for f, _ in attention)
        moved = max(weights + sum(m for _, m in attention) - self.kept_bytes, 0.0)
        share = float(self.rank.pipeline)
        out = {"tensor": flops / rate / share, "hbm": moved / self.hbm_bytes_per_s / share}
        sent = sum(
            n * float(wire_bytes(kind, ranks, size * tokens))
            for (kind, ranks), size, n in self._messages
            if kind != "send"
        )
        if sent:
            out["link"] = sent / float(self.gpu.figure("link_bytes_per_s"))
        return out

    def _cores(self, load: Load) -> tuple[float, float]:
        key = (load.decodes, round(load.context), load.prefill_tokens, round(load.prefill_past), load.prompts)
        if key not in self._bounded:
            flops = moved = 0.0
            for w, n in self._all():
                if not w.core:
                    continue
                if load.decodes:
                    f, m = self._core(w.piece, load.decodes, 1, load.context)
                    flops, moved = flops + n * f, moved + n * m
                if load.prefill_tokens:
                    new = load.prefill_tokens / load.prompts
                    f, m = self._core(w.piece, load.prompts, new, new + load.prefill_past)
                    flops, moved = flops + n * f, moved + n * m
            self._bounded[key] = flops, moved
        return self._bounded[key]

    @cached_property
    def _bounded(self) -> dict[Any, tuple[float, float]]:
        return {}


def _one_line(error: InputError) -> str:
    return " ".join(str(error).split())


def _timed(found: Job, m: float, n: float, k: float, width: float, stored: float) -> float:
    """Seconds of a product's kernel."""
    return float(gemm(Product(m, n, k, width, stored), found.rates, found.constants, False).kernel_s)
