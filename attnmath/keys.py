"""The keys of `cost`: one row each, with what it means, its unit, where its convention comes from, and how it is read.

One table serves the numbers, the formulas, the text, `--explain` and the schema's descriptions. A row's `read` is
duck-typed: it takes a Reading of integers and gives a number, or a Reading of symbols and gives a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from attnmath.errors import InputError, NoSchedule
from attnmath.language.arith import Number, minimum
from attnmath.language.order import ordered
from attnmath.language.syntax import Program, ops
from attnmath.layers import Layer
from attnmath.readings.count import Flops, Space, Step, core, count, parameters, recursive, total, unmasked
from attnmath.readings.memory import Cached, Core, bits, caches, check_blocks, in_bytes, state_bits
from attnmath.readings.schedules import Schedule, region, usual
from attnmath.readings.traffic import Traffic

if TYPE_CHECKING:
    from attnmath.readings.gradient import Gradient
    from attnmath.readings.training import Training


class Reading:
    """One page at given sizes and dtypes, walked by a schedule (the usual one if none is given); what is asked for is read
    off it once. `at`: plain sizes, where those that are read are SymPy's. `train`: with the page of its gradient, and nothing
    cached; `recompute`: what its backward pass computes again: what a fused kernel has to, if nobody says, else nothing.
    """

    def __init__(
        self,
        page: Program,
        sizes: Mapping[str, Number],
        dtype: str,
        kv_dtype: str,
        schedule: Schedule | None = None,
        at: Mapping[str, int] | None = None,
        train: bool = False,
        recompute: str | None = None,
    ) -> None:
        self.page, self.sizes, self.dtype, self.kv_dtype = page, sizes, dtype, kv_dtype
        self.asked, self.at, self.train, self.recompute = schedule, at, train, recompute

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule that was asked for, or the usual one; in training, that of many tokens."""
        new = (self.at or self.sizes).get("t", 0)
        return self.asked or usual(self.page, 2 if self.train else getattr(new, "value", new))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reading) and all(
            getattr(self, n) == getattr(other, n)
            for n in ("page", "sizes", "dtype", "kv_dtype", "schedule", "train", "recompute")
        )

    @cached_property
    def recomputes(self) -> str:
        """What the backward pass computes again: what was asked for; else selective if the schedule fuses this core."""
        return self.recompute or ("selective" if self._fuses else "none")

    @cached_property
    def _fuses(self) -> bool:
        try:
            return bool(self.schedule.loops) and region(self.page).key is not None
        except NoSchedule:
            return False

    @cached_property
    def gradient(self) -> Gradient:
        """The page's gradient. A fused kernel makes its weights again even of what a second forward pass brings."""
        from attnmath.readings.gradient import gradient

        again = self.recomputes == "full" and self._fuses
        return gradient(self.page, recompute="selective+full" if again else self.recomputes)

    @cached_property
    def training(self) -> Training:
        """The passes of training; NoSchedule for a core whose backward pass none walks."""
        from attnmath.readings.training import Training

        return Training(self.gradient, self.sizes, self.dtype)

    @cached_property
    def program(self) -> Program:
        """What is computed: the page, in training with that of its gradient."""
        return self.gradient.together if self.train else self.page

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return count(self.program, self.sizes)

    @cached_property
    def flops(self) -> Flops:
        return total(self.steps)

    @cached_property
    def dense_steps(self) -> tuple[Step, ...]:
        """What dense code computes: every pair; a selection chooses no more than there are."""
        if not self.page.sees:
            return self.steps
        page, space = unmasked(self.program), Space(self.page, self.sizes)
        chosen = {x.over[1]: x.over[0] for e in page.equations for a in e.alts for x in ops(a) if x.name == "topk"}
        fewer = {k: minimum(self.sizes[k], space.elements((o,))) for k, o in chosen.items() if k in self.sizes}
        return count(page, {**self.sizes, **fewer})

    @cached_property
    def dense(self) -> Flops:
        return total(self.dense_steps)

    @cached_property
    def exps(self) -> Number:
        inside, found = {e.out.name for e in core(self.program)}, 0
        for s in self.steps:
            found = found + (s.exps if s.name in inside else 0)
        return found

    @cached_property
    def parameters(self) -> Number:
        return parameters(self.page, self.sizes)

    @cached_property
    def caches(self) -> tuple[Cached, ...]:
        return () if self.train else caches(self.page, self.sizes)

    @cached_property
    def recomputed(self) -> Flops:
        """The operations, among all, that the backward pass does a second time; a form's own for all it computes again."""
        if not self.train:
            return Flops()
        again = {self.gradient.renamed[n] for n in self.gradient.again}
        return total(s for s in self.steps if s.name in again)

    @cached_property
    def core(self) -> Core:
        """The fused region's tensors; in training those of all passes."""
        return self.training.whole if self.train else Core(self.page, self.sizes, self.dtype, self.kv_dtype)

    @property
    def passes(self) -> tuple[Core, ...]:
        """The tensors of each pass: of one, but in training."""
        return self.training.passes if self.train else (self.core,)

    @cached_property
    def walks(self) -> tuple[Traffic, ...]:
        """What the schedule moves, pass by pass; NoSchedule where it cannot walk this core."""
        if self.train:
            return self.training.walked(self.schedule, self.at)
        return (Traffic(self.core, self.schedule, self.at),)

    @cached_property
    def traffic(self) -> Traffic:
        """What the schedule moves in the forward pass; NoSchedule where it cannot walk this core."""
        return self.walks[0]

    @property
    def walked(self) -> bool:
        """Whether there is a schedule for this core."""
        try:
            return bool(self.traffic)
        except NoSchedule:
            return False

    @property
    def compulsory_bytes(self) -> Number:
        """Each pass's inputs and outputs once."""
        return self.training.compulsory if self.train else self.core.compulsory

    @property
    def fused_bytes(self) -> Number | None:
        """What the schedule's loops move; None if none walks this core."""
        if not self.walked:
            return None
        moved: Number = 0
        for walk in self.walks:
            moved = moved + walk.total
        return moved

    @property
    def fused_memory(self) -> Number | None:
        """Inputs, outputs, and what the schedule puts into memory beside them; unfused, every tensor while it lives."""
        if not self.schedule.loops:
            return self.core.peak
        if self.train:
            return self.training.memory(self.schedule, self.at) if self.walked else None
        return self.core.fused + self.traffic.extra_bytes if self.walked else self.core.fused

    def cache_parts(self, per_token: bool, beyond: bool = False) -> list[tuple[Cached, Number]]:
        """What grows with the context, in bytes by tensor: per token of one sequence, or all of it for the batch; `beyond`:
        only what goes on growing when every window is full.
        """
        width = bits(self.kv_dtype)
        check_blocks(self.caches, self.kv_dtype)
        return [
            (
                c,
                in_bytes(c.per_row * width, c.every)
                if per_token
                else in_bytes(c.per_row * c.rows * self.sizes["b"] * width),
            )
            for c in self.caches
            if c.rows is not None and not (beyond and c.capped)
        ]

    @cached_property
    def upper_bounds(self) -> tuple[str, ...]:
        """The keys that the data can only make smaller: those of steps that are counted from above."""
        loose = total(s for s in self.steps if s.at_most)
        found = [k for k in ("projections", "matmul", "softmax", "other") if not _is_zero(getattr(loose, k))]
        sums = [["core"] if {"matmul", "softmax"} & set(found) else [], ["total"] if found else []]
        keys = [f"flops.{k}" for k in (*found, *sums[0], *sums[1])]
        exact = ["flops_by_convention.exact"] if "matmul" in found else []
        return (*keys, *exact, *(["exps"] if any(s.at_most and s.exps for s in self.steps) else []))

    def cache_bytes(self, per_token: bool, beyond: bool = False) -> Number:
        """The sum of `cache_parts`."""
        found: Number = 0
        for _, part in self.cache_parts(per_token, beyond):
            found = found + part
        return found

    @property
    def state_bytes(self) -> Number:
        """What does not grow: states of a fixed number of steps."""
        found, states = 0, recursive(self.page)
        for c in self.caches:
            if c.rows is None:
                width = state_bits(self.dtype) if c.tensor in states else bits(self.dtype)
                found = found + in_bytes(c.per_row * self.sizes["b"] * width)
        return found


def usual_form(
    layer: Layer, asked: Mapping[str, Number], dtype: str, kv_dtype: str, train: bool = False
) -> tuple[str | None, dict[str, str]]:
    """The form that a kernel would take at these sizes, None if there is only one; and why other forms do not fit them.

    With several new tokens, a form that steps token by token is taken only if the sizes leave no other (a chunk has to
    divide them); of the rest, the one with the fewest FLOPs. Raises InputError if no form fits the sizes.

    >>> from attnmath import layers
    >>> usual_form(layers.build("mla"), {"t": 1, "n": 8192, "h": 128}, "bf16", "bf16")
    ('absorbed', {})
    """
    if len(layer.forms) == 1:
        return None, {}
    found, errors = fitting(layer, asked, dtype, kv_dtype, train)
    weights = {name: (stepwise, reading.flops.total) for name, (reading, stepwise) in found.items()}
    return min(weights, key=lambda name: weights[name]), {name: str(error) for name, error in errors.items()}


def fitting(
    layer: Layer, asked: Mapping[str, Number], dtype: str, kv_dtype: str, train: bool = False
) -> tuple[dict[str, tuple[Reading, Any]], dict[str, InputError]]:
    """Every form that fits the sizes: (its reading, whether it steps through several new tokens one by one); and what is
    wrong with the others. Raises InputError if no form fits. In arrays, what does not divide is NaN and no error.

    >>> from attnmath import layers
    >>> found, _ = fitting(layers.build("mla"), {"t": 1, "n": 8192, "h": 128}, "bf16", "bf16")
    >>> [(name, stepwise) for name, (_, stepwise) in found.items()]
    [('expanded', False), ('absorbed', False)]
    """
    found: dict[str, tuple[Reading, Any]] = {}
    errors: dict[str, InputError] = {}
    for name, page in layer.forms.items():
        try:
            sizes, _ = layer.sizes(asked, page=page)
            reading = Reading(page, sizes, dtype, kv_dtype, train=train)
            _ = reading.flops
            loops = any(loop and loop[0] == "t" for _, loop in ordered(page))
            found[name] = reading, (sizes.get("t", 1) != 1) & loops
        except InputError as error:
            errors[name] = error
    if not found:
        raise next(iter(errors.values()))
    return found, errors


def _is_zero(x: Number) -> bool:
    return isinstance(x, int) and x == 0


class Key(Struct, frozen=True):
    """One number of `cost`; `read` gives None where there is none for this page, and the number is null."""

    unit: str
    meaning: str
    read: Callable[[Reading], Number | None]
    source: str = "read off the variant's equations"
    sums: tuple[str, ...] = ()  # the keys it is the sum of


UNTIMED = "backward kernels have no model here; the bound is of both passes"
MAC = "a multiply-add is 2 FLOP"
FA2 = "Dao 2023, FlashAttention-2, arXiv:2307.08691, section 4.1"
KEYS: dict[str, Key] = {
    "flops.total": Key(
        "FLOP",
        "all floating-point operations of the layer",
        lambda r: r.flops.total,
        MAC,
        ("flops.projections", "flops.core", "flops.other"),
    ),
    "flops.projections": Key("FLOP", "products with learned weights", lambda r: r.flops.projections, MAC),
    "flops.core": Key(
        "FLOP",
        "the fused region, where queries meet keys",
        lambda r: r.flops.core,
        MAC,
        ("flops.matmul", "flops.softmax"),
    ),
    "flops.matmul": Key(
        "FLOP",
        "matrix products between queries, keys and values, over the pairs that the mask allows",
        lambda r: r.flops.matmul,
        MAC,
    ),
    "flops.softmax": Key(
        "FLOP",
        "element-wise work of the fused region: scaling and softmax over the allowed pairs; decays, outer products, selection",
        lambda r: r.flops.softmax,
        "the table of operations: 1 to scale; softmax 5 (compare, subtract, exponential, add, divide)",
    ),
    "flops.other": Key(
        "FLOP",
        "what lies outside both: rotary, norms, biases, gates, convolutions, compression",
        lambda r: r.flops.other,
        "the table of operations; a rotation is counted as 8 a pair (a 2x2 product in multiply-adds), of which 6 are real",
    ),
    "flops.recomputed": Key(
        "FLOP",
        "of all of these, in training, what the backward pass does again since the forward pass does not keep it",
        lambda r: r.recomputed.total,
        "Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B: hardware FLOPs less model FLOPs",
    ),
    "flops_by_convention.exact": Key("FLOP", "flops.matmul: the pairs that exist", lambda r: r.flops.matmul, MAC),
    "flops_by_convention.dense": Key(
        "FLOP",
        "the same with every query against every key, masks ignored",
        lambda r: r.dense.matmul,
        f"{FA2}: 4 x seqlen^2 x head dim x heads",
    ),
    "flops_by_convention.causal_half": Key(
        "FLOP",
        "dense / 2, as kernels' causal benchmarks report",
        lambda r: r.dense.matmul / 2 if not isinstance(r.dense.matmul, int) else r.dense.matmul // 2,
        f"{FA2}: the dense count divided by 2 for a causal mask",
    ),
    "flops_by_convention.torch": Key(
        "FLOP",
        "every matrix product of the layer, masks ignored",
        lambda r: r.dense.matmul + r.dense.projections,
        "PyTorch, torch/utils/flop_counter.py: 2 m n k per product, element-wise work not counted",
    ),
    "exps": Key(
        "exponentials",
        "exponentials inside the fused region: of a softmax, one per allowed pair and head",
        lambda r: r.exps,
    ),
    "parameters": Key("parameters", "learned numbers of the layer", lambda r: r.parameters),
    "kv_cache_bytes": Key(
        "bytes",
        "what is read before the new tokens, at the end of this step, for the batch; capped by a window",
        lambda r: r.cache_bytes(False),
    ),
    "kv_cache_bytes_per_token": Key(
        "bytes", "the cache's growth by one token of one sequence, no window full yet", lambda r: r.cache_bytes(True)
    ),
    "kv_cache_bytes_per_token_beyond_windows": Key(
        "bytes",
        "the same once every window is full: what goes on growing with the context",
        lambda r: r.cache_bytes(True, True),
    ),
    "state_bytes": Key("bytes", "what a step remembers that does not grow with the context", lambda r: r.state_bytes),
    "memory_bytes.unfused": Key(
        "bytes",
        "peak of live tensors of the core if its equations run one by one, its inputs held throughout",
        lambda r: r.core.peak,
    ),
    "memory_bytes.fused": Key(
        "bytes",
        "peak of live tensors of the core under the schedule: inputs, outputs, and results that come and go",
        lambda r: r.fused_memory,
    ),
    "hbm_bytes.compulsory": Key(
        "bytes",
        "the core's inputs and outputs once each, of keys and values what some query sees: no kernel moves less",
        lambda r: r.compulsory_bytes,
    ),
    "hbm_bytes.fused": Key(
        "bytes",
        "what the schedule's loops move with no cache behind them",
        lambda r: r.fused_bytes,
        "a block is loaded once per turn of all loops down to the innermost that indexes it, over the mask's tiles",
    ),
    "hbm_bytes.unfused": Key(
        "bytes",
        "every equation of the core on its own: intermediates are written and read again",
        lambda r: r.core.unfused,
    ),
}


class Derived(Struct, frozen=True):
    """A number that is computed from other keys and the accelerator's figures; `rule` says how."""

    unit: str
    meaning: str
    rule: str
    source: str = ""


ROOFLINE = "Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785"
TIME_MODEL = "attnmath/hardware/timing.py, its constants fitted to NVIDIA aiconfigurator's measurements"
DERIVED: dict[str, Derived] = {
    "intensity.compulsory": Derived(
        "FLOP/byte",
        "arithmetic intensity over the traffic of that name",
        "flops.matmul / hbm_bytes.compulsory",
        ROOFLINE,
    ),
    "intensity.fused": Derived(
        "FLOP/byte", "arithmetic intensity over the traffic of that name", "flops.matmul / hbm_bytes.fused", ROOFLINE
    ),
    "intensity.unfused": Derived(
        "FLOP/byte", "arithmetic intensity over the traffic of that name", "flops.matmul / hbm_bytes.unfused", ROOFLINE
    ),
    "ridge": Derived(
        "FLOP/byte",
        "the intensity above which matrix products bind and not memory",
        "tensor_flop_per_s / hbm_bytes_per_s",
        ROOFLINE,
    ),
    "time_bound_s.fused": Derived(
        "s",
        "lower bound on the core's time in this form: the slowest unit at its peak rate",
        "max(flops.matmul / tensor_flop_per_s, exps / exp_rate, hbm_bytes.compulsory / hbm_bytes_per_s)",
        ROOFLINE,
    ),
    "time_bound_s.unfused": Derived(
        "s",
        "lower bound if the core's equations run one by one: the sum of each one's bound",
        "sum over the core's equations of max(their matmul / tensor_flop_per_s, exps / exp_rate, bytes / hbm_bytes_per_s)",
        ROOFLINE,
    ),
    "time_bound_by": Derived("", "the unit that sets time_bound_s.fused", "the largest of its terms", ROOFLINE),
    "time_s": Derived(
        "s",
        "estimate of the core's time as an engine's kernel runs it; never below the bound; with an error band",
        "kernel_time_s + launch_time_s",
        TIME_MODEL,
    ),
    "bound": Derived(
        "",
        "what binds the estimate: the busiest unit, or launch; where there is no estimate, the bound's unit",
        "the largest of tensor, exp, fp32, smem, l2 and hbm; launch if that takes longer than the kernel",
        TIME_MODEL,
    ),
    "measured.time_s": Derived("s", "the measured time of the core alone, without projections", "given by --measured"),
    "measured.share_of_bound": Derived(
        "",
        "the lower bound over the measured time; above 1 a count, a figure or the measurement is wrong, or caches were warm",
        "time_bound_s.fused / measured.time_s",
        ROOFLINE,
    ),
    "measured.mfu": Derived(
        "",
        "model FLOPs utilisation: the share of the matrix units' peak that the core's matrix products came to",
        "flops.matmul / measured.time_s / tensor_flop_per_s",
        "Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B; here of the core, over the pairs that the mask allows",
    ),
    "measured.hbm_bytes_per_s": Derived(
        "bytes/s",
        "the bytes that any kernel has to move, over the measured time; what was moved in fact may be more",
        "hbm_bytes.compulsory / measured.time_s",
        ROOFLINE,
    ),
}
