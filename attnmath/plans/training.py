"""What training takes of a GPU: weights, gradients, optimizer states, activations, the loss, and what is gathered for a while.

ZeRO's data ranks share states, then gradients, then weights (Rajbhandari et al. 2020, arXiv:1910.02054, section 5); tensor ranks
and pipeline stages as in `ranks.py`. Adapters of a low rank (LoRA: Hu et al. 2021, arXiv:2106.09685) are trained in place of
the weights beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from attnmath.language.syntax import letters
from attnmath.models import Model, Piece
from attnmath.models.activations import ADAPTED, Placed, Tensor, Training, placed
from attnmath.models.costs import Request, tokens_of
from attnmath.models.counting import SPLIT, layer_of
from attnmath.models.quantization import NARROWED, projections, recipe_of
from attnmath.plans.engines import CONTEXT, nccl_bytes
from attnmath.plans.optimizers import Weight, state_bytes
from attnmath.plans.ranks import Rank, Shard, cut, sharded, stages
from attnmath.plans.reading import Plan
from attnmath.plans.recipes import GATHERED, LORA_TARGETS, LOSSES, SCHEDULES
from attnmath.plans.servers import named, rank_of
from attnmath.readings.memory import bits


class TrainingMemory(Struct, frozen=True):
    """Bytes of the fullest GPU by what takes them, at the fullest moment of a step; `available` is all that one has."""

    weights: int
    gradients: int
    optimizer: int
    master_weights: int
    activations: int
    logits: int
    recomputed: int
    gathered: int
    buckets: int
    context: int
    nccl: int
    total: int
    available: int


class Learned(Struct, frozen=True):
    """What one rank of a stage has learned, by how many data ranks hold the same: `weights` and `states` in bytes, `trained`
    numbers; `largest`: bytes of its largest layer or tensor, and how many numbers of it are trained; `matrix`: numbers of the
    largest that is trained; `outside`: bytes of what stands outside of the layers, and of the largest block of it;
    `adapters`: how many matrices have one.
    """

    weights: Mapping[int, int]
    states: Mapping[int, int]
    trained: Mapping[int, int]
    largest: tuple[int, int]
    matrix: int
    outside: tuple[int, int]
    adapters: int


class Setup(Struct, frozen=True):
    """What all stages of a training plan have in common: `memory` of a GPU, and what is `kept` of a micro-batch."""

    plan: Plan
    model: Model
    rank: Rank
    dtype: str
    memory: int
    kept: Placed

    @property
    def lora(self) -> int:
        """Rank of the adapters; 0: all weights are trained."""
        return int(self.plan["training.lora_rank"])

    @property
    def element_bits(self) -> int:
        """Of what is computed with."""
        return int(bits(self.dtype))

    @property
    def gradient_bits(self) -> int:
        """Of a gradient as it is stored."""
        return int(bits(self.plan["training.gradients"] or self.dtype))


class Trainer(Struct, frozen=True):
    """One stage of a training plan: its layers, and what its GPU holds; `alive`: (how many parts of its layers, of how many,
    have activations at once); `host_bytes`: what lies in the host's memory for each GPU.
    """

    plan: Plan
    model: Model
    rank: Rank
    stage: int
    dtype: str
    layers: tuple[tuple[Piece, ...], ...]
    learned: Learned
    memory: TrainingMemory
    made_of: dict[str, str]
    alive: tuple[int, int]
    host_bytes: int

    @property
    def margin(self) -> int:
        """What is left of the GPU's memory; negative if it does not fit."""
        return self.memory.available - self.memory.total


def request_of(plan: Plan) -> Request:
    """The tokens of a micro-batch.

    >>> from attnmath.plans.reading import parse
    >>> request_of(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[training]\\nseq = 8', "p")).seq
    8
    """
    seq = plan["training.seq"]
    return Request(plan["training.micro_batch"], seq, seq, seq, False, True)


def training_of(plan: Plan) -> Training:
    """How a plan's model is trained, as its activations are read.

    >>> from attnmath.plans.reading import parse
    >>> training_of(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[training]\\nlora_rank = 8', "p")).trained
    'attention'
    """
    return Training(
        plan["training.recompute"],
        plan["training.computed_by"],
        plan["training.dropout"],
        plan["parallel.tensor"],
        plan["training.sequence_parallel"],
        LORA_TARGETS[plan["training.lora_targets"]] if plan["training.lora_rank"] else "all",
        is_fused(plan),
    )


def is_fused(plan: Plan) -> bool:
    """Whether one kernel runs attention: as the plan says, else unless everything is kept.

    >>> from attnmath.plans.reading import parse
    >>> is_fused(parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[training]\\nrecompute = "none"', "p"))
    False
    """
    said = plan["training.attention"]
    return plan["training.recompute"] != "none" if said is None else bool(said == "fused")


def trainers(plan: Plan, model: Model | None = None) -> list[Trainer]:
    """Every stage of a training plan; raises InputError as `servers` does, and where a block has no gradient.

    >>> from attnmath.plans.reading import parse
    >>> text = 'model = "llama-3.1-8b"\\n[gpu]\\nmemory = "80GB"\\n[parallel]\\ndata = 64\\n[training]\\nzero_stage = 1'
    >>> m = trainers(parse(text, "plan.toml"))[0].memory
    >>> m.weights, m.gradients, m.optimizer * 64 == 8 * 8_030_261_248
    (16060522496, 16060522496, True)
    """
    model, memory, dtype, _ = named(plan, model)
    rank = rank_of(plan)
    if rank.pipeline > len(model.sequence):
        rank = replace(rank, pipeline=1)  # AM010 says so
    request = request_of(plan)
    kept = placed(model, lambda p: tokens_of(p, request), dtype, training_of(plan))
    setup = Setup(plan, model, rank, dtype, memory, kept)
    out, at = [], 0
    for stage, pieces in enumerate(cut(model, rank.pipeline)):
        until = at + stages(len(model.sequence), rank.pipeline)[stage]
        out.append(_trainer(setup, stage, _learned(setup, pieces, model.inner[at:until]), range(at, until)))
        at = until
    return out


def fullest(found: Iterable[Trainer]) -> Trainer:
    """The stage that has the least memory left.

    >>> from attnmath.plans.reading import parse
    >>> text = 'model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[parallel]\\npipeline = 2\\n[training]\\nmicro_batch = 4'
    >>> fullest(trainers(parse(text, "p"))).stage
    1
    """
    return min(found, key=lambda t: t.margin)


# -- what is learned


class _Own(Struct, frozen=True):
    """One copy of a block on a rank: its tensors, and those of them, or beside them, that are trained, by their copies."""

    shards: list[Shard]
    trained: list[tuple[int, Weight]]
    adapters: list[Weight]

    @property
    def bytes(self) -> int:
        return sum(s.bytes for s in self.shards)

    @property
    def learns(self) -> int:
        return sum(w.numbers for _, w in self.trained)


def _learned(setup: Setup, pieces: tuple[Piece, ...], layers: tuple[tuple[Piece, ...], ...]) -> Learned:
    """What a rank of a stage has learned."""
    plan, rank, lora, targets = setup.plan, setup.rank, setup.lora, training_of(setup.plan).trained
    recipe = recipe_of(setup.model, _stored_as(setup))
    optimizer, width = plan["training.optimizer"], int(bits(plan["training.optimizer_dtype"]))
    known: dict[str, _Own] = {}

    def own(p: Piece) -> _Own:
        key = repr((p.part, p.page, p.uses, p.sizes, p.shares))
        if key not in known:
            shards = sharded(p, rank, recipe)
            beside = _adapters(p, rank, lora) if lora and p.part in ADAPTED[targets] else []
            trained = [(rank.data, w) for w in beside] if lora else [(s.copies, _weight(p, s)) for s in shards]
            known[key] = _Own(shards, trained, beside)
        return known[key]

    weights, states, trained = (dict.fromkeys((rank.data,), 0) for _ in range(3))
    for p in pieces:
        for s in own(p).shards:
            weights[s.copies] = weights.get(s.copies, 0) + s.bytes * p.count
        for copies, w in own(p).trained:
            trained[copies] = trained.get(copies, 0) + w.numbers * p.count
            states[copies] = states.get(copies, 0) + state_bytes(optimizer, w, width) * p.count
    if lora:
        weights[rank.data] += trained[rank.data] * setup.element_bits // 8
    alike = {repr(layer): layer for layer in layers}
    sizes = {key: sum(own(p).bytes * p.count for p in layer) for key, layer in alike.items()}
    learns = {key: sum(own(p).learns * p.count for p in layer) for key, layer in alike.items()}
    inside = {id(p) for layer in layers for p in layer}
    beside = [own(p).bytes * p.count for p in pieces if id(p) not in inside]
    outside = sum(beside), max(beside, default=0)
    if GATHERED[plan["training.gathered"]].layers and layers:
        largest = max((sizes[key], learns[key]) for key in alike)
    else:
        largest = max(((s.bytes, 0 if lora else s.numbers) for x in known.values() for s in x.shards), default=(0, 0))
    matrix = max((w.numbers for x in known.values() for _, w in x.trained), default=0)
    adapted = sum(len(own(p).adapters) // 2 * p.count for p in pieces)
    return Learned(weights, states, trained, largest, matrix, outside, adapted)


def _stored_as(setup: Setup) -> str | None:
    """How weights are stored: as asked for, or as quantised adapters' bases come; else as what is computed with them."""
    asked = setup.plan["dtype.weights"]
    if asked or (setup.lora and setup.model.config.get("quantization_config")):
        return None if asked is None else str(asked)
    return setup.dtype


def _weight(p: Piece, s: Shard) -> Weight:
    """A tensor's share of a rank as an optimizer sees it: a matrix where two or more axes are left."""
    t = s.tensor
    found = projections(p).get(t.name)
    if found is None and len(t.axes) > 1:
        rows = int(t.lengths.get(t.axes[0], 1))
        found = (1, rows, t.numbers // rows)
    copies, rows, columns = found or (1, 1, t.numbers)
    hidden = found is not None and p.part in (*NARROWED, "connections") and p.page != "head"
    return Weight(s.numbers, copies, rows, columns, hidden)


def _adapters(p: Piece, rank: Rank, lora: int) -> list[Weight]:
    """The two matrices beside each projection, A (rank by inputs) and B (outputs by rank), on one rank: that of the side that
    ranks share is shared with it.
    """
    page, out = layer_of(p).form(), []
    for name, (copies, outs, ins) in projections(p).items():
        axes = page.inputs[name].index
        split = next((str(i) for i in axes if str(i) in SPLIT), None)
        reads = next(e for e in page.defined.values() if name in [r.name for r in e.reads])
        across = split is not None and split in letters(reads.out)
        by_in, by_out = (rank.tensor if split and not across else 1, rank.tensor if across else 1)
        for rows, columns, ways in ((lora, ins, by_in), (outs, lora, by_out)):
            n = -(-rows * columns // ways)
            out.append(Weight(copies * n, copies, rows, columns, True))
    return out


# -- what it takes


def _trainer(setup: Setup, stage: int, learned: Learned, layers: range) -> Trainer:
    plan, rank = setup.plan, setup.rank
    held, host = _states(setup, learned)
    schedule, last = SCHEDULES[plan["training.schedule"]], stage == rank.pipeline - 1
    alive = schedule.alive(stage, rank.pipeline, plan["training.accumulation"], plan["training.virtual_stages"])
    logits = LOSSES[plan["training.loss"]].bytes(_logits(setup), setup.element_bits / 8) if last else 0
    again = setup.kept.again_bytes
    logits, again = (logits, 0) if logits > again else (0, again)  # the loss is gone when a layer runs again
    reserved, ranks = plan["training.reserved"], rank.tensor * rank.pipeline * rank.data
    parts = (
        *held,
        _activations(setup, learned, layers, alive, stage),
        logits,
        again,
        _gathered(setup, learned),
        plan["training.buckets"] or 0,
        CONTEXT if reserved is None else reserved,
        nccl_bytes("vllm", min(ranks, plan["training.node_gpus"]) - 1) if reserved is None else 0,
    )
    memory = TrainingMemory(*parts, sum(parts), setup.memory)
    own = setup.model.inner[layers.start : layers.stop]
    made = _made_of(setup, learned, alive)
    return Trainer(plan, setup.model, rank, stage, setup.dtype, own, learned, memory, made, alive, host)


def _states(setup: Setup, learned: Learned) -> tuple[tuple[int, int, int, int], int]:
    """(bytes of weights, gradients, optimizer states and master weights on a GPU, those of them in the host's memory)."""
    plan, offload = setup.plan, setup.plan["training.offload"]

    def shared(table: Mapping[int, int], since: int, times: int = 1, over: int = 1) -> int:
        ways = {copies: copies if plan["training.zero_stage"] >= since else 1 for copies in table}
        return sum(-(-n * times // (over * ways[copies])) for copies, n in table.items())

    gradients = shared(learned.trained, 2, setup.gradient_bits, 8)
    if plan["training.optimizer_in_backward"]:
        gradients = -(-learned.matrix * setup.gradient_bits // 8)
    master = shared(learned.trained, 1, 4) if has_master(plan, setup.model, setup.dtype) else 0
    held = {
        "weights": shared(learned.weights, 3),
        "gradients": gradients,
        "states": shared(learned.states, 1),
        "master": master,
    }
    left = [0 if offload in AWAY[name] else size for name, size in held.items()]
    return (left[0], left[1], left[2], left[3]), sum(held.values()) - sum(left)


AWAY = {  # with which training.offload it lies in the host's memory
    "weights": ("parameters",),
    "gradients": ("parameters", "optimizer"),
    "states": ("parameters", "optimizer", "states"),
    "master": ("parameters", "optimizer", "states"),
}


def has_master(plan: Plan, model: Model, dtype: str) -> bool:
    """Whether there is a copy of the weights in single precision: as the plan says, else if they are narrower.

    >>> from attnmath.models import read
    >>> from attnmath.plans.reading import parse
    >>> plan = parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"\\n[training]', "p")
    >>> has_master(plan, read("gpt2"), "bf16"), has_master(plan, read("gpt2"), "fp32")
    (True, False)
    """
    said = plan["training.master_weights"]
    return bool(said) if said is not None else (plan["dtype.weights"] or dtype) != "fp32"


def _gathered(setup: Setup, learned: Learned) -> int:
    """What the third stage has whole for a while; the same where weights come from the host."""
    plan = setup.plan
    if plan["training.zero_stage"] < 3 or (plan["parallel.data"] == 1 and plan["training.offload"] != "parameters"):
        return 0
    row, (whole, trained), (outside, most) = GATHERED[plan["training.gathered"]], learned.largest, learned.outside
    beside = outside if row.root else most - whole if row.layers and most > whole else 0
    return row.weights * whole + beside + row.gradients * trained * setup.gradient_bits // 8


def _logits(setup: Setup) -> int:
    """How many logits a rank has of a micro-batch: ranks share the vocabulary."""
    vocab = next((p.sizes["vocab"] for p in setup.model.pieces if p.page == "head"), 0)
    return int(setup.plan["training.micro_batch"] * setup.plan["training.seq"]) * -(-vocab // setup.rank.tensor)


def _activations(setup: Setup, learned: Learned, layers: range, alive: tuple[int, int], stage: int) -> int:
    """What a stage keeps for its backward passes: its layers by how many micro-batches are on their way, and, of one, what the
    first stage has before them and the last one after them.
    """
    plan, kept = setup.plan, setup.kept
    many, parts = alive
    inner = kept.layers[layers.start : layers.stop]
    found = sum(_bytes(layer) for layer in inner) * many // parts + _tables(inner)
    beside = 0
    if setup.lora and plan["training.recompute"] != "full":
        beside = learned.adapters * setup.lora * setup.element_bits // 8
        beside *= plan["training.micro_batch"] * plan["training.seq"] * many // parts
    before = _bytes(kept.before) * many // parts + _tables([kept.before]) if stage == 0 else 0
    after = _bytes(kept.after) + _tables([kept.after]) if stage == setup.rank.pipeline - 1 else 0
    return found + beside + before + after


def _bytes(found: Iterable[Tensor]) -> int:
    return sum(x.bytes * x.count for x in found if x.kind != "table")


def _tables(layers: Iterable[Iterable[Tensor]]) -> int:
    """Tables of positions are one for all layers."""
    return sum({(x.page, x.tensor, x.bytes): x.bytes for layer in layers for x in layer if x.kind == "table"}.values())


def _made_of(setup: Setup, learned: Learned, alive: tuple[int, int]) -> dict[str, str]:
    """How each number of the memory comes about."""
    plan, lora, gradient = setup.plan, setup.lora, setup.gradient_bits
    stage, numbers = plan["training.zero_stage"], sum(learned.trained.values())
    ranks = " x ".join(f"{c:,}" for c in sorted(learned.trained) if c > 1)

    def over(since: int) -> str:
        return f" / {ranks} data ranks" if stage >= since and ranks else ""

    what = f"{numbers:,} numbers of {'adapters' if lora else 'weights'}"
    many, parts = alive
    estimate = "estimate, from servers' logs" if plan["training.reserved"] is None else "measured: training.reserved"
    in_backward = plan["training.optimizer_in_backward"]
    share = f"{many} micro-batch{'es' * (many > 1)}" if parts == 1 else f"{many} of {parts} parts of a micro-batch"
    row = GATHERED[plan["training.gathered"]]
    return {
        "weights": f"as stored{over(3)}" + (", adapters among them" if lora else ""),
        "gradients": f"of the largest matrix, {gradient // 8} bytes each"
        if in_backward
        else f"{what} x {gradient // 8} bytes{over(2)}",
        "optimizer": f"{plan['training.optimizer']}: {sum(learned.states.values()):,} bytes{over(1)}",
        "master_weights": f"{what} x 4 bytes{over(1)}",
        "activations": f"recompute {plan['training.recompute']}; {share} of {plan['training.micro_batch']} x "
        f"{plan['training.seq']:,} tokens on their way",
        "logits": f"loss {plan['training.loss']}: {LOSSES[plan['training.loss']].meaning}",
        "recomputed": "what one layer has besides while it is computed again; the loss is gone by then",
        "gathered": f"estimate: {row.meaning}",
        "buckets": "training.buckets",
        "context": estimate,
        "nccl": f"{estimate}: a quarter of a GiB for each other rank, of a node's",
    }
