"""Does training fit, and how long does it take: the verdict, every check, what takes the memory, and the step's time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from attnmath.models import Model
from attnmath.models.quantization import PLAIN
from attnmath.plans.checking import SCHEMA
from attnmath.plans.constraints import Check, divisions, fitting
from attnmath.plans.fields import keys_of
from attnmath.plans.reading import Plan
from attnmath.plans.servers import Spread
from attnmath.plans.training import Trainer, TrainingMemory, fullest, has_master, trainers
from attnmath.plans.training_steps import step_of
from attnmath.plans.training_time import StepTime


class TrainingResult(Struct, frozen=True):
    """What `plan check` answers of a training plan; `stage`: the pipeline stage that has the least memory left, from 1;
    `host_bytes`: what lies in the host's memory for each GPU.
    """

    file: str
    verdict: str
    checks: list[Check]
    memory_bytes: TrainingMemory
    made_of: dict[str, str]
    stage: int
    host_bytes: int
    step: StepTime
    values: dict[str, Any]
    assumed: dict[str, Any]
    notes: list[str]
    unchecked: list[str]
    model: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema plan-check` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}


def check_training(plan: Plan, model: Model | None = None) -> TrainingResult:
    """Every constraint of a training plan, with its value, limit, margin, reason and fix; and its step's time.

    >>> from attnmath.plans.reading import parse
    >>> r = check_training(parse('model = "gpt2"\\n[gpu]\\nname = "h100-sxm"\\n[training]\\nseq = 1024', "plan.toml"))
    >>> r.verdict, r.memory_bytes.optimizer == 8 * r.memory_bytes.weights // 2
    ('pass', True)
    """
    stages = trainers(plan, model)
    t = fullest(stages)
    checks = sorted(checks_of(t), key=lambda c: c.id)
    own = {f"{section}.{k}".lstrip(".") for section, keys in keys_of(True).items() for k in keys}
    values = {k: v for k, v in plan.values.items() if k in own}
    idle = set() if plan["training.lora_rank"] else {"training.lora_targets"}
    assumed = {k: v for k, v in values.items() if k not in plan.given and v is not None and k not in idle}
    assumed |= {} if "dtype.activations" in plan.given else {"dtype.activations": t.dtype}
    return TrainingResult(
        plan.path,
        "pass" if all(c.passed for c in checks) else "fail",
        checks,
        t.memory,
        t.made_of,
        t.stage + 1,
        t.host_bytes,
        step_of(plan, stages),
        values,
        assumed,
        _notes(plan, t),
        [],
        t.model.name,
    )


def fits_training(plan: Plan, model: Model | None = None) -> bool:
    """Whether every check passes.

    >>> from attnmath.plans.reading import parse
    >>> fits_training(parse('model = "gpt2"\\n[gpu]\\nmemory = "1GiB"\\n[training]', "plan.toml"))
    False
    """
    return all(c.passed for c in checks_of(fullest(trainers(plan, model))))


def checks_of(t: Trainer) -> Iterator[Check]:
    """What has to fit, to divide, and to be as long.

    >>> from attnmath.plans.reading import parse
    >>> text = 'model = "gpt2"\\n[gpu]\\nmemory = "80GB"\\n[dtype]\\nweights = "nf4"\\n[training]\\nseq = 2048'
    >>> [c.id for c in checks_of(fullest(trainers(parse(text, "plan.toml")))) if not c.passed]
    ['AM022']
    """
    plan, m = t.plan, t.memory
    margin = plan["targets.memory_margin"]
    limit = int(m.available * (1 - margin))
    parts = {n: getattr(m, n) for n in m.__struct_fields__[:-2]}
    most = max(parts, key=lambda n: parts[n])
    stage = f" of stage {t.stage + 1}" if t.rank.pipeline > 1 else ""
    yield fitting(
        "AM004",
        "all of it fits the GPU",
        m.total,
        limit,
        plan.at("targets.memory_margin", "gpu.memory", "gpu.name"),
        f"memory of one GPU{stage}{f', less the margin of {margin:.0%}' if margin else ''}; most of it is "
        f"{most.replace('_', ' ')}; what is gathered, context and NCCL are estimates",
        FIXES[most],
    )
    yield from divisions(Spread(plan, t.model, t.rank))
    yield from _shapes(t)


FIXES = {  # by what takes the most
    "weights": "training.zero_stage = 3, more tensor or pipeline ranks, or narrower weights beside a training.lora_rank",
    "gradients": 'training.zero_stage = 2, training.gradients = "bf16", or training.optimizer_in_backward',
    "optimizer": "training.zero_stage = 1 over more data ranks, a smaller training.optimizer, or training.offload",
    "master_weights": "training.zero_stage = 1 over more data ranks, or training.offload",
    "activations": 'training.recompute = "full", a smaller training.micro_batch, or training.sequence_parallel',
    "logits": 'training.loss = "chunked" or "fused", or a smaller training.micro_batch',
    "recomputed": "a smaller training.micro_batch, or more tensor ranks",
    "gathered": 'training.gathered = "module", or more tensor ranks',
    "buckets": "smaller buckets",
    "context": "a GPU with more memory",
    "nccl": "a GPU with more memory",
}


def _shapes(t: Trainer) -> Iterator[Check]:
    plan, seq, positions = t.plan, t.plan["training.seq"], t.model.positions
    if positions is not None:
        yield Check(
            "AM021",
            "the model was made for sequences as long",
            seq <= positions,
            seq,
            positions,
            "tokens",
            positions - seq,
            "max_position_embeddings of the config",
            f"a training.seq of at most {positions:,}",
            plan.at("training.seq"),
        )
    weights = plan["dtype.weights"]
    if weights is not None:
        learns = weights in PLAIN or plan["training.lora_rank"] > 0
        yield Check(
            "AM022",
            "weights are trained in 16 bits or more",
            learns,
            weights,
            "bf16, fp16, fp32",
            "",
            None,
            "narrower weights have no gradient; adapters beside them do",
            'a training.lora_rank, or dtype.weights = "bf16"',
            plan.at("dtype.weights"),
        )
    if plan["training.schedule"] == "interleaved":
        yield from _interleaved(t)
    if plan["training.sequence_parallel"]:
        yield Check(
            "AM025",
            "tensor ranks divide the tokens",
            not seq % t.rank.tensor,
            t.rank.tensor,
            seq,
            "",
            None,
            "with sequence parallelism each rank has a share of a sequence's tokens",
            f"a training.seq that {t.rank.tensor} divides",
            plan.at("training.seq", "parallel.tensor"),
        )


def _interleaved(t: Trainer) -> Iterator[Check]:
    plan, layers, p = t.plan, len(t.model.sequence), t.plan["parallel.pipeline"]
    parts, micro = p * plan["training.virtual_stages"], plan["training.accumulation"]
    yield Check(
        "AM023",
        "virtual stages divide the layers",
        not layers % parts,
        parts,
        layers,
        "",
        None,
        "stages x virtual stages take equal shares of the layers",
        "other training.virtual_stages or parallel.pipeline",
        plan.at("training.virtual_stages"),
    )
    yield Check(
        "AM024",
        "stages divide the micro-batches",
        not micro % p,
        p,
        micro,
        "",
        None,
        "an interleaved schedule runs as many micro-batches at a time as there are stages (arXiv:2104.04473, section 2.2.2)",
        f'a training.accumulation that {p} divides, or training.schedule = "1f1b"',
        plan.at("training.accumulation"),
    )


def _notes(plan: Plan, t: Trainer) -> list[str]:
    out = [x for x in t.model.left_out if "FLOPs" not in x]
    if plan["training.zero_stage"] in (1, 2) and plan["training.buckets"] is None and t.rank.data > 1:
        out.append("buckets of gradients on their way are not counted: frameworks differ; training.buckets adds them")
    if plan["training.recompute"] == "full" and t.memory.recomputed == 0 and t.memory.logits:
        out.append("a layer that runs again needs less than the loss, which is gone by then")
    if any(p.page == "cross" for p in t.model.pieces):
        out.append("the encoder's layers are never run again, and stand with the embedding on the first stage")
    if plan["training.optimizer"] == "adafactor" and t.rank.tensor > 1:
        out.append("Adafactor's rows and columns are counted whole on every tensor rank")
    if not has_master(plan, t.model, t.dtype) and t.dtype != "fp32" and plan["dtype.weights"] != "fp32":
        out.append("there is no copy of the weights in single precision")
    if plan["gpu.memory"] is None and plan["gpu.name"]:
        out.append("gpu.memory: the vendor's decimal figure; gpu.memory takes what the driver shows")
    return out
