"""How training is set up: the words of a training plan, a row each, with what they come to and where that is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

KORTHIKANTI = "Korthikanti et al. 2022, arXiv:2205.05198"
ATTENTION = {
    "fused": "one kernel, FlashAttention's: Dao 2023, arXiv:2307.08691",
    "unfused": "two products and a softmax between them, whose scores go through memory",
}
LORA_TARGETS = {  # a row of `activations.TRAINED` each
    "attention": "attention",
    "all": "projections",
}
OFFLOAD = {  # ZeRO-Offload: Ren et al. 2021, arXiv:2101.06840; ZeRO-Infinity: Rajbhandari et al. 2021, arXiv:2104.07857
    "none": "nothing",
    "states": "optimizer states and master weights, in pages",
    "optimizer": "optimizer states, master weights and gradients",
    "parameters": "these, and the weights, but for those that are gathered",
}


class Loss(Struct, frozen=True):
    """What a loss keeps for each logit beside the head's input: `wide` bytes of single precision, and `narrow` tensors as wide as
    activations, of which `passing` are there for one of so many `chunks` of the tokens at a time, as single precision is.
    """

    meaning: str
    wide: float
    narrow: float = 0
    chunks: int = 1
    passing: float = 0
    source: str = ""

    def bytes(self, logits: int, element_bytes: float) -> int:
        """What it keeps of so many logits.

        >>> LOSSES["logits"].bytes(1000, 2), LOSSES["eager"].bytes(1000, 2), LOSSES["chunked"].bytes(1000, 2)
        (4000, 12000, 5000)
        """
        return int(logits * ((self.wide + self.passing * element_bytes) / self.chunks + self.narrow * element_bytes))


LOSSES: dict[str, Loss] = {
    "logits": Loss(
        "the logits in single precision, whose gradient takes their place", 4, source=f"{KORTHIKANTI}, section 4.3"
    ),
    "eager": Loss(
        "the logits, the same in single precision, their softmax, and the gradient of both",
        8,
        2,
        source="PyTorch 2, torch.nn.functional.cross_entropy of logits.float(): log_softmax keeps its result",
    ),
    "chunked": Loss(
        "the logits and their gradient, single precision for an eighth of the tokens at a time",
        8,
        2,
        8,
        source="torchtune 0.3, CEWithChunkedOutputLoss: eight chunks",
    ),
    "compiled": Loss(
        "the logits, and their gradient for an eighth of the tokens at a time; single precision stays in registers",
        0,
        1,
        8,
        1,
        "the same under torch.compile, which fuses the casts and sums of each chunk",
    ),
    "fused": Loss("none: Hsu et al. 2024, arXiv:2410.10989, section 3.2", 0, source="Liger Kernel"),
}


class Gathered(Struct, frozen=True):
    """What ZeRO's third stage has whole on a rank: so many times the weights, as they are stored, and the gradients of its
    largest unit; `layers`: units are whole layers, else single tensors; `root`: what stands outside of the layers is gathered
    all the time.
    """

    meaning: str
    weights: int
    gradients: int
    layers: bool
    root: bool
    source: str


GATHERED: dict[str, Gathered] = {
    "layer": Gathered(
        "a layer, the next one, and the first one's gradients; what is outside of the layers stays gathered",
        2,
        1,
        True,
        True,
        "PyTorch FSDP, BackwardPrefetch.BACKWARD_PRE; the root's parameters are not freed after its forward pass",
    ),
    "unit": Gathered(
        "a layer and the next one, or the embedding or the head with one, and a layer's gradients",
        2,
        1,
        True,
        False,
        "the same, embedding and head in units of their own: torchtune, custom_sharded_layers",
    ),
    "module": Gathered(
        "the weights and gradients of one matrix",
        1,
        1,
        False,
        False,
        "DeepSpeed, docs/code-docs/source/memory.rst: largest_layer_memory = 4 * largest_layer_params",
    ),
}


class Schedule(Struct, frozen=True):
    """How pipeline stages take turns. `alive`: layers' worth of micro-batches that a stage holds, in shares of its layers,
    from (its place from 0, stages, micro-batches, virtual stages); `bubble`: idle time over working time of a micro-batch.
    """

    meaning: str
    alive: Callable[[int, int, int, int], tuple[int, int]]
    bubble: Callable[[int, int], float]
    source: str


NARAYANAN = "Narayanan et al. 2021, arXiv:2104.04473"
SCHEDULES: Mapping[str, Schedule] = {
    "1f1b": Schedule(
        "one forward, one backward: the first stage holds as many micro-batches as there are stages",
        lambda at, p, m, v: (min(m, p - at), 1),
        lambda p, v: p - 1,
        f"{NARAYANAN}, section 2.2.1",
    ),
    "interleaved": Schedule(
        "the same over virtual stages: L (1 + (p - 1) / (p v)) layers' worth on the first stage",
        lambda at, p, m, v: (min(m * v, 2 * (p - at - 1) + (v - 1) * p + 1), v),
        lambda p, v: (p - 1) / v,
        f"{NARAYANAN}, section 2.2.2; {KORTHIKANTI}, section 4.2.3",
    ),
    "gpipe": Schedule(
        "all forward, then all backward: every stage holds all micro-batches",
        lambda at, p, m, v: (m, 1),
        lambda p, v: p - 1,
        "Huang et al. 2019, arXiv:1811.06965, section 2.3",
    ),
}
