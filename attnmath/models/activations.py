"""What training keeps of a model: the tensors that each block's backward pass reads, on one rank.

A block's page is differentiated, and what its gradient reads of the forward pass is kept (`readings/saved.py`). Blocks of a
layer that read the same input keep it once. With tensor parallelism a tensor is shared by the axis that ranks divide, and
what has none is on every rank, or shared by its tokens (sequence parallelism: Korthikanti et al. 2022, arXiv:2205.05198,
section 4.2.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath.errors import InputError, Unknown, together
from attnmath.language.syntax import Program, Ref, letters
from attnmath.models import Model, Piece
from attnmath.models.caching import reading
from attnmath.models.counting import SPLIT, shards
from attnmath.models.quantization import projections
from attnmath.readings.count import count, learned
from attnmath.readings.count import total as total_of
from attnmath.readings.eager import eager
from attnmath.readings.gradient import gradient
from attnmath.readings.memory import bits
from attnmath.readings.saved import Saved, saved

RECOMPUTE = {
    "none": "everything that the backward pass reads is kept",
    "selective": "what each pair of query and key has is computed again: FlashAttention; Korthikanti et al. 2022, section 5",
    "full": "of each layer its input alone is kept, and the layer runs again: Chen et al. 2016, arXiv:1604.06174",
}
COMPUTED_BY = {
    "page": "the pages as they are: an operation keeps what its adjoint reads, in --dtype, sums of rows in single precision",
    "transformers": "eager code as in transformers 5.23.0: norms and softmaxes in single precision and cast back, keys copied "
    "for the heads that share them, unless attention is fused",
}
GAINS = {  # families whose layers keep exactly this in transformers, found by its hooks on saved tensors
    "after": (
        *("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "smollm3", "exaone4", "glm", "glm4"),
        *("starcoder2", "stablelm"),
    ),
    "inside": ("gemma", "gemma2", "gemma3_text"),
}
TRAINED = {  # what has a gradient of its own, and in which parts; elsewhere gradients pass through
    "all": "every tensor",
    "nothing": "no tensor: gradients pass through",
    "attention": "the projections of attention: what adapters beside them read",
    "projections": "the projections of attention and feed-forward layers",
}
ADAPTED: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "attention": ("attention",),
    "projections": ("attention", "mlp", "shared_experts"),
}
DROPOUTS = {  # fields, and what they drop: attention's weights, what a block adds, what an activation gives
    "weights": ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob"),
    "output": ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "residual_dropout", "resid_dropout", "dropout"),
    "inner": ("activation_dropout",),
}
EVERYWHERE = ("dropout_rate",)  # T5's: all three


class Training(Struct, frozen=True):
    """How a model is trained: `recompute` and `computed_by` by the tables above; `dropout`: a rate for all three places, None:
    what the config says; `tensor` ranks share each layer, `sequence_parallel` what is between their matrix products, too;
    `trained`: a row of TRAINED; `fused`: whether one kernel runs attention, so that no scores exist while it runs again.
    """

    recompute: str = "selective"
    computed_by: str = "page"
    dropout: float | None = None
    tensor: int = 1
    sequence_parallel: bool = False
    trained: str = "all"
    fused: bool = True

    def checked(self) -> Training:
        """Itself; InputError with every complaint."""
        errors = [
            str(Unknown(option, given, known))
            for option, given, known in (
                ("--recompute", self.recompute, RECOMPUTE),
                ("--computed-by", self.computed_by, COMPUTED_BY),
            )
            if given not in known
        ]
        rate, ranks = self.dropout, self.tensor
        if rate is not None and not (isinstance(rate, (int, float)) and 0 <= rate < 1):
            errors.append(f"--dropout {rate!r:.40}: a rate is at least 0 and below 1")
        if not (isinstance(ranks, int) and not isinstance(ranks, bool) and 1 <= ranks <= 2**20):
            errors.append(f"--tensor-parallel {ranks!r:.40}: a whole number of at least 1")
        if self.sequence_parallel and ranks == 1:
            errors.append("--sequence-parallel shares what tensor ranks do not: it needs --tensor-parallel")
        if errors:
            raise InputError(together(errors))
        return self


class Tensor(Struct, frozen=True):
    """A tensor that one layer keeps on one rank, in `count` layers; `kind` is explained by `saved.KINDS`."""

    part: str
    page: str
    tensor: str
    index: str
    kind: str
    bits: int
    bytes: int
    count: int


class Activations(Struct, frozen=True):
    """What training keeps on one rank. `layers`: (how many layers, bytes of each), what all layers share with each;
    `again_bytes`: what is there besides while one layer runs again; `tensors`: all of them.
    """

    recompute: str
    computed_by: str
    dropout: dict[str, float]
    tensor_parallel: int
    sequence_parallel: bool
    bytes: int
    by_part: dict[str, int]
    again_bytes: int
    layers: list[tuple[int, int]]
    tensors: list[Tensor]


def activations(m: Model, tokens_of: Any, dtype: str, training: Training) -> Activations:
    """What a model keeps in one step of training. `tokens_of`: how many tokens a block runs over, by letter, or None.

    Raises InputError where a block has no gradient, or where it is not known how it is computed.

    >>> from attnmath.models import read
    >>> llama, tokens = read("llama-3.1-8b"), {"b": 1, "t": 1024, "n": 1024}
    >>> for recompute in ("none", "selective", "full"):
    ...     how = Training(recompute, "transformers")
    ...     print(recompute, [(n, x // 1024) for n, x in activations(llama, lambda p: tokens, "bf16", how).layers])
    none [(32, 410120)]
    selective [(32, 201352)]
    full [(32, 8192)]
    """
    found = placed(m, tokens_of, dtype, training)
    rows: dict[tuple[Any, ...], tuple[Tensor, int]] = {}
    runs: list[tuple[int, int]] = []
    for group in (found.before, found.after, *found.layers):
        for x in group:
            key = (x.part, x.page, x.tensor, x.index, x.bits, x.bytes)
            rows[key] = x, x.count + rows.get(key, (x, 0))[1]
    for layer in found.layers:
        size = sum(x.bytes for x in layer)
        runs = [*runs[:-1], (runs[-1][0] + 1, size)] if runs and runs[-1][1] == size else [*runs, (1, size)]
    tensors = [replace(x, count=1 if x.kind == "table" else n) for x, n in rows.values()]
    parts: dict[str, int] = {}
    for x in tensors:
        parts[x.part] = parts.get(x.part, 0) + x.bytes * x.count
    return Activations(
        training.recompute,
        training.computed_by,
        dropouts(m, training.dropout),
        training.tensor,
        training.sequence_parallel,
        sum(parts.values()),
        parts,
        found.again_bytes,
        runs,
        tensors,
    )


class Placed(Struct, frozen=True):
    """What is kept, by where: before the layers, in each of them, after them; `again_bytes`: the most that one layer has
    besides while what is not kept of it is computed again.
    """

    before: tuple[Tensor, ...]
    layers: tuple[tuple[Tensor, ...], ...]
    after: tuple[Tensor, ...]
    again_bytes: int


def placed(m: Model, tokens_of: Any, dtype: str, training: Training) -> Placed:
    """What a model keeps on one rank, layer by layer; raises as `activations` does.

    >>> from attnmath.models import read
    >>> llama, tokens = read("llama-3.1-8b"), {"b": 1, "t": 1024, "n": 1024}
    >>> found = placed(llama, lambda p: tokens, "bf16", Training("full"))
    >>> len(found.layers), sum(x.bytes for x in found.layers[0]), [x.tensor for x in found.after]
    (32, 8388608, ['X', 'Ysqrt', 'X'])
    """
    training = training.checked()
    rates = dropouts(m, training.dropout)
    keeping = replace(training, recompute="none" if training.recompute == "none" else "selective")
    first, last = _outside(m)
    before, after = (
        tuple(replace(x, count=p.count) for p in pieces for x in _kept(m, p, tokens_of, dtype, keeping, rates, False))
        for pieces in (first, last)
    )
    layers, most = [], 0
    running = replace(
        keeping, recompute="selective" if training.fused else "none"
    )  # what there is while a layer runs again
    for layer in m.inner:
        found, there = (
            [x for p, again in _read_again(layer) for x in _kept(m, p, tokens_of, dtype, how, rates, again)]
            for how in (keeping, running)
        )
        if training.recompute == "full":
            found = [_input(layer, tokens_of, dtype, training)]
        if training.recompute != "none":
            kept = sum(x.bytes for x in found) if training.recompute == "selective" else 0
            most = max(most, sum(x.bytes for x in there) - kept)
        layers.append(tuple(found))
    return Placed(before, tuple(layers), after, most)


def dropouts(m: Model, rate: float | None) -> dict[str, float]:
    """The rate of each place that drops something: as asked for, else as the config says.

    >>> from attnmath.models import describe
    >>> gpt = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 10, "n_positions": 8, "resid_pdrop": 0.1}
    >>> dropouts(describe(gpt, "gpt2", "x"), None)
    {'output': 0.1}
    """
    if rate is not None:
        return dict.fromkeys(("weights", "output"), float(rate)) if rate else {}
    text = m.config.get("text_config")
    said = {**(text if isinstance(text, dict) else {}), **m.config}
    out = {}
    for place, fields in DROPOUTS.items():
        found = next((said[f] for f in (*fields, *EVERYWHERE) if said.get(f) is not None), 0)
        if isinstance(found, (int, float)) and not isinstance(found, bool) and 0 < found < 1:
            out[place] = float(found)
    return out


def _outside(m: Model) -> tuple[list[Piece], list[Piece]]:
    """The blocks before and after the layers of the last stack; all of them before, where there are no layers."""
    if not m.inner:
        return list(m.pieces), []
    before, after = m.edges
    last = m.sequence[-1]
    return [*m.sequence[0][:before]], [*(last[len(last) - after :] if after else ())]


def _read_again(layer: tuple[Piece, ...]) -> Iterator[tuple[Piece, bool]]:
    """Each block of a layer, and whether another one read its input before it: feed-forward blocks side by side, and, where
    one norm serves both, attention and these.
    """
    norms = sum(p.count for p in layer if p.part == "norm")
    mixers = [p for p in layer if p.part == "attention"]
    fed = [p for p in layer if p.part in ("mlp", "shared_experts", "experts")]
    seen: set[str] = set()
    for p in layer:
        side = "attention" if p in mixers else "mlp" if p in fed else ""
        if mixers and fed and norms == 1 and side:
            side = "both"
        yield p, bool(side) and side in seen and p.page != "cross"
        if side:
            seen.add(side)


def _kept(
    m: Model, p: Piece, tokens_of: Any, dtype: str, training: Training, rates: Mapping[str, float], again: bool
) -> list[Tensor]:
    """What one copy of a block keeps; `again`: without its input, which another one keeps."""
    tokens = tokens_of(p)
    if tokens is None or not tokens["t"]:
        return []
    gain = ""
    if training.computed_by == "transformers":
        gain = next((g for g, families in GAINS.items() if m.family in families), "")
        if not gain:
            known = ", ".join(sorted(f for fs in GAINS.values() for f in fs))
            raise InputError(
                f"--computed-by transformers: how it computes {m.family} is not known here; known: {known}"
            )
    dropped = in_training(p, rates)
    found = _saved(_Key(dropped, tuple(sorted(tokens.items())), dtype, training.recompute, gain, training.trained))
    return [_tensor(p, s, lengths, training) for s, lengths in found if not (again and s.tensor == "X")]


def in_training(p: Piece, rates: Mapping[str, float]) -> Piece:
    """A block as it is in training, with its dropouts.

    >>> in_training(Piece("mlp", "mlp", (), {"d-model": 8}, None, (), "tokens"), {"output": 0.5}).uses
    ('dropout:rate=0.5,on=Y',)
    """
    places = {"attention": {"weights": "", "output": "Y"}, "mlp": {"inner": "H", "output": "Y"}}.get(p.part, {})
    uses = []
    for place, on in places.items():
        if place in rates:
            uses.append(f"dropout:rate={rates[place]:.17g}" + (f",on={on}" if on else ""))
    return replace(p, uses=(*p.uses, *uses))


class _Key(Struct, frozen=True, eq=False):
    piece: Piece
    tokens: tuple[tuple[str, int], ...]
    dtype: str
    recompute: str
    gain: str
    trained: str = "all"

    def __hash__(self) -> int:
        return hash(repr(self))

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)


@lru_cache(512)
def _saved(key: _Key) -> tuple[tuple[Saved, dict[str, Any]], ...]:
    x = reading(key.piece, dict(key.tokens), key.dtype, key.dtype)
    page = eager(x.page, key.gain, key.recompute == "none") if key.gain else x.page
    wanted = differentiated(key.piece, page, key.trained)
    if wanted == ():
        return ()
    found = gradient(page, wrt=wanted or (), recompute=key.recompute)
    return tuple((s, dict(x.sizes)) for s in saved(found, x.sizes, key.dtype))


def differentiated(p: Piece, page: Program, trained: str) -> tuple[str, ...] | None:
    """The inputs of a block's page that have a gradient where a row of TRAINED is trained; None: all that can have one.

    >>> from attnmath import blocks
    >>> mlp = Piece("mlp", "mlp", (), {"d-model": 8}, None, (), "tokens")
    >>> [differentiated(mlp, blocks.get("mlp").program, x) for x in TRAINED]
    [None, ('X',), ('X',), ('X', 'WU', 'WD')]
    """
    if trained == "all":
        return None
    own = projections(p) if p.part in ADAPTED[trained] else {}
    return tuple(n for n in gradient(page).cotangents if not learned(Ref(n, ())) or n in own)


def _tensor(p: Piece, s: Saved, lengths: Mapping[str, Any], training: Training) -> Tensor:
    axes = [d for i in s.index for d in letters(i)]
    ways = shards(axes, lengths, training.tensor)
    if not set(axes) & set(SPLIT) and training.sequence_parallel and s.kind != "table":
        ways = training.tensor
    size: Any = s.bytes
    width: Any = s.bits
    return Tensor(
        p.part, p.page, s.tensor, " ".join(map(str, s.index)), s.kind, int(width), -(-int(size) // ways), p.count
    )


def _input(layer: tuple[Piece, ...], tokens_of: Any, dtype: str, training: Training) -> Tensor:
    """The input of a layer."""
    found = next((p, t) for p in layer if "d-model" in p.sizes and (t := tokens_of(p)) is not None)
    p, tokens = found
    numbers = tokens["b"] * tokens["t"] * p.sizes["d-model"]
    ways = training.tensor if training.sequence_parallel else 1
    width: Any = bits(dtype)
    return Tensor("layer", "", "X", "b t m", "given", int(width), -(-int(numbers * width) // (8 * ways)), 1)


def recompute_flops(m: Model, tokens_of: Any, training: Training) -> int:
    """FLOPs that recomputation adds: of `selective`, those of the equations that the backward pass computes again; of `full`,
    the forward pass of all layers (an engine may stop before a layer's last product, which nothing reads again).

    >>> from attnmath.models import read
    >>> llama, tokens = read("llama-3.1-8b"), {"b": 1, "t": 1024, "n": 1024}
    >>> [recompute_flops(llama, lambda p: tokens, Training(r)) // 10**9 for r in ("none", "selective", "full")]
    [0, 139, 14575]
    """
    if training.recompute == "none":
        return 0
    found = [p for layer in m.inner for p in layer] if training.recompute == "full" else list(m.pieces)
    total: Any = 0
    for p in found:
        tokens = tokens_of(p)
        if tokens is not None and tokens["t"]:
            total += _again(_Key(p, tuple(sorted(tokens.items())), "bf16", training.recompute, "")) * p.count
    return int(total)


@lru_cache(512)
def _again(key: _Key) -> int:
    """FLOPs that one copy of a block computes a second time."""
    x = reading(key.piece, dict(key.tokens), key.dtype, key.dtype)
    if key.recompute == "full":
        return int(x.flops.total)
    found = gradient(x.page, recompute=key.recompute)
    again = {found.renamed[n] for n in found.again}
    return int(total_of(s for s in count(found.together, x.sizes) if s.name in again).total)
