"""A training plan's step: its stages timed and put together, its bound, its utilisation, and what a budget of tokens takes."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from attnmath.errors import InputError
from attnmath.hardware import get as get_gpu
from attnmath.models.activations import recompute_flops
from attnmath.models.costs import model_flops, passes, tokens_of
from attnmath.models.counting import parameters
from attnmath.plans.ranks import cut
from attnmath.plans.reading import Plan
from attnmath.plans.recipes import SCHEDULES
from attnmath.plans.servers import beside
from attnmath.plans.training import Trainer, has_master, is_fused, request_of, training_of
from attnmath.plans.training_time import (
    BACKWARD,
    LOSS_BYTES,
    STREAM,
    BlockTime,
    How,
    Seconds,
    Stage,
    StepTime,
    exchange_s,
    layer_time,
    put_together,
    routed,
)
from attnmath.readings.memory import bits

LOST = "launches, falling clocks and the framework cost nothing: published steps of Megatron-LM took 4 to 14 % longer than this, "
LOST += "those of FSDP and DDP with fused attention 9 to 59 % (benchmarks/plans.py)"


class Flops(Struct, frozen=True):
    """FLOPs of a step over all replicas: `exact`, of matrix products over the pairs that exist; `again`: computed once more;
    by convention, where all weights are trained.
    """

    exact: int
    again: int
    by_convention: dict[str, int]


def step_of(plan: Plan, stages: list[Trainer]) -> StepTime:
    """What a step of a training plan takes.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.training import trainers
    >>> text = 'model = "llama-3.1-8b"\\n[gpu]\\nname = "h100-sxm"\\n[training]\\nseq = 4096\\nlora_rank = 16'
    >>> plan = parse(text, "plan.toml")
    >>> s = step_of(plan, trainers(plan))
    >>> 0.1 < s.bound_s < s.time_s < 0.5, s.mfu
    (True, {})
    """
    t, r = stages[0], request_of(plan)
    tokens = r.batch * r.seq * plan["training.accumulation"] * t.rank.data
    world = t.rank.tensor * t.rank.pipeline * t.rank.data
    flops = flops_of(plan, t)
    if plan["gpu.name"] is None:
        return _answer(
            plan, tokens, world, flops, None, None, why="gpu.name says no accelerator, whose rates time needs"
        )
    gpu = get_gpu(beside(plan, "gpu.name"))
    try:
        peak = float(gpu.tensor_rate(t.dtype))
    except InputError as error:
        return _answer(plan, tokens, world, flops, None, None, why=str(error))
    bound_s = (flops.exact + flops.again) / (world * peak)
    if plan["training.mfu"]:
        counted = flops.by_convention.get("palm", flops.exact)
        time_s = counted / (world * peak * plan["training.mfu"])
        assumed = [f"an MFU of {plan['training.mfu']:.0%}, which the plan states, of FLOPs as PaLM counts them"]
        return _answer(plan, tokens, world, flops, peak, bound_s, time_s, {"stated_s": time_s}, None, assumed)
    if plan["training.offload"] != "none":
        why = "what is offloaded moves over a bus to the host, of which no figure is here"
        return _answer(plan, tokens, world, flops, peak, bound_s, why=why)
    try:
        how = how_of(plan, t)
        timed = [timed_stage(plan, x, how) for x in stages]
    except InputError as error:
        return _answer(plan, tokens, world, flops, peak, bound_s, why=str(error))
    bubble = SCHEDULES[plan["training.schedule"]].bubble(t.rank.pipeline, plan["training.virtual_stages"])
    found = put_together(timed, plan["training.accumulation"], bubble, plan["training.overlap"])
    time_s = max(found[0], bound_s)
    return _answer(plan, tokens, world, flops, peak, bound_s, time_s, found[1], found[2], _assumed(plan, t, how))


def how_of(plan: Plan, t: Trainer) -> How:
    """How a plan's layers are run.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.training import trainers
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"\\n[training]\\nrecompute = "none"', "p")
    >>> how_of(plan, trainers(plan)[0]).fused
    False
    """
    path = beside(plan, "gpu.name")
    return How(
        get_gpu(path),
        path,
        t.dtype,
        t.rank,
        plan["training.recompute"],
        is_fused(plan),
        plan["training.sequence_parallel"],
        plan["training.dropout"],
        training_of(plan).trained,
        plan["training.lora_rank"],
        plan["training.node_gpus"],
        plan["parallel.network_bytes_per_s"],
        plan["parallel.imbalance"],
    )


def flops_of(plan: Plan, t: Trainer) -> Flops:
    """FLOPs of a step of a plan, over all replicas.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.training import trainers
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nmemory = "80GB"\\n[training]\\nseq = 1024', "p")
    >>> f = flops_of(plan, trainers(plan)[0])
    >>> f.exact == f.by_convention["exact"], f.again // 10**9
    (True, 9)
    """
    r, times = request_of(plan), plan["training.accumulation"] * t.rank.data
    again = recompute_flops(t.model, lambda p: tokens_of(p, r), training_of(plan)) * times
    if not plan["training.lora_rank"]:
        counted = model_flops(t.model, r, parameters(t.model))[0].by_convention
        return Flops(counted["exact"] * times, again, {k: n * times for k, n in counted.items()})
    exact = 0
    for (
        p
    ) in t.model.pieces:  # weights that are not trained have no gradient: half of what projections' backward pass is
        forward, backward = passes(p, r)
        exact += p.count * (forward.projections + forward.matmul + backward.projections // 2 + backward.matmul)
    return Flops(exact * times, again, {})


def timed_stage(plan: Plan, t: Trainer, how: How) -> Stage:
    """Seconds of one stage; raises as `layer_time` does.

    >>> from attnmath.plans.reading import parse
    >>> from attnmath.plans.training import trainers
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"\\n[training]\\nseq = 1024', "p")
    >>> t = trainers(plan)[0]
    >>> timed_stage(plan, t, how_of(plan, t)).exchange_s
    0.0
    """
    r, rank, pieces = request_of(plan), t.rank, cut(t.model, t.rank.pipeline)[t.stage]
    inside = [p for layer in t.layers for p in layer]
    known = {id(p) for p in inside}
    last = t.stage == rank.pipeline - 1
    beside_layers = [
        p
        for p in pieces
        if id(p) not in known and not (t.stage and p.part == "embedding")  # a tied head's weights
    ]
    blocks = layer_time(inside, r, how, t.model) + layer_time(beside_layers, r, how, t.model, again=False)
    if last:
        vocab = next((p.sizes["vocab"] for p in t.model.pieces if p.page == "head"), 0)
        half = Seconds(passes_s=LOSS_BYTES / 2 * r.batch * r.seq * vocab / rank.tensor / how.hbm)
        blocks = blocks + BlockTime(half, half)
    width = max(p.sizes.get("d-model", 0) for p in t.model.pieces)
    message = (
        r.batch * r.seq * width * bits(t.dtype) / 8 / rank.tensor
    )  # each sends a part: arXiv:2104.04473, section 4.1
    beyond = rank.tensor * rank.pipeline > how.node
    rate = how.network if beyond else float(how.gpu.figure("link_bytes_per_s")) if rank.pipeline > 1 else 1.0
    passing = 2 * plan["training.virtual_stages"] * message / rate if rank.pipeline > 1 else 0.0
    both = plan["training.zero_stage"] == 3  # its weights are gathered in either
    return Stage(blocks, passing, _exchange(plan, t, how), _optimizer(plan, t, how), both)


def _exchange(plan: Plan, t: Trainer, how: How) -> float:
    """Seconds of the data ranks' exchange in a step: sums of gradients, and weights that ZeRO's ranks gather."""
    stage, micro = plan["training.zero_stage"], plan["training.accumulation"]
    width = bits(plan["training.gradients"] or t.dtype) / 8
    stride, total = t.rank.tensor, 0.0  # tensor ranks are neighbours, and data ranks come next
    for copies, numbers in t.learned.trained.items():
        ranks, gradients = copies, numbers * width
        if stage == 0:
            total += exchange_s(how, "all_reduce", ranks, stride, gradients)
            continue
        times = micro if stage >= 2 else 1
        total += times * exchange_s(how, "reduce_scatter", ranks, stride, gradients)
        if stage < 3:
            total += exchange_s(how, "all_gather", ranks, stride, numbers * bits(t.dtype) / 8)
    if stage == 3:
        for copies, size in t.learned.weights.items():
            total += 2 * micro * exchange_s(how, "all_gather", copies, stride, size)
    return total


def _optimizer(plan: Plan, t: Trainer, how: How) -> float:
    """Seconds of the optimizer's step: what it reads and writes of its share, over the bandwidth of memory."""

    def share(table: Mapping[int, int]) -> float:  # from the first stage of ZeRO on, the step is shared
        return sum(n / (copies if plan["training.zero_stage"] else 1) for copies, n in table.items())

    master = 8 if has_master(plan, t.model, t.dtype) else 0  # read and written
    each: float = bits(plan["training.gradients"] or t.dtype) / 8 + bits(t.dtype) / 8 + master
    return (share(t.learned.trained) * each + 2 * share(t.learned.states)) / how.hbm


def _assumed(plan: Plan, t: Trainer, how: How) -> list[str]:
    """What the estimate takes for granted."""
    out = [LOST, *how.rates.assumed, "element-wise work between two matrix products runs as one pass over memory"]
    out.append(f"passes over memory reach {STREAM:.0%} of the data sheet's bandwidth")
    if how.fused:
        out.append(
            f"a fused backward pass takes {BACKWARD:g} times its forward pass: {BACKWARD:g} times the FLOPs at its rate"
        )
    if t.rank.data > 1:
        both = "both passes" if plan["training.zero_stage"] == 3 else "the backward pass"
        out.append(f"{plan['training.overlap']:.0%} of the data ranks' exchange hides behind {both}")
    if max(t.rank.tensor * t.rank.data, t.rank.tensor * t.rank.pipeline) > how.node:
        out.append(f"a GPU sends {how.network / 1e9:g} GB/s to another node, at that rate, with no start-up time")
    if t.rank.tensor > 1:
        out.append("sums over tensor ranks hide behind nothing")
    if routed(t.model):
        out.append(
            f"the busiest expert rank has {plan['parallel.imbalance']:g} times the mean's tokens, and one product those of all "
            "its experts"
        )
    if plan["training.optimizer"] == "muon":
        out.append("the products that make Muon's update orthogonal are not counted")
    return out


def _answer(
    plan: Plan,
    tokens: int,
    world: int,
    flops: Flops,
    peak: float | None,
    bound_s: float | None,
    time_s: float | None = None,
    parts: dict[str, float] | None = None,
    slowest: int | None = None,
    assumed: list[str] | None = None,
    why: str = "",
) -> StepTime:
    """The step's time as rates, shares of the peak, days and money."""
    whole = (peak or 0.0) * world * (time_s or 0.0)
    budget, price = plan["training.tokens"], plan["price.gpu_hour_usd"]
    total_s = budget / tokens * time_s if budget and time_s else None
    hours = total_s * world / 3600 if total_s else None
    return StepTime(
        tokens,
        bound_s,
        time_s,
        parts or {},
        None if slowest is None else slowest + 1,
        flops.exact,
        flops.exact + flops.again,
        {k: n / whole for k, n in flops.by_convention.items()} if whole else {},
        (flops.exact + flops.again) / whole if whole else None,
        tokens / time_s if time_s else None,
        assumed or [],
        why,
        total_s / 86400 if total_s else None,
        hours,
        hours * price if hours and price else None,
    )
