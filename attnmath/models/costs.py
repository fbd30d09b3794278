"""What a whole model weighs, caches and computes: `attnmath model`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from attnmath.errors import InputError, LanguageError, Unknown
from attnmath.keys import Reading
from attnmath.language.formula import Point
from attnmath.language.letters import LETTERS
from attnmath.models import Model, Piece, mtp_layers, read
from attnmath.models.activations import Activations, Training, activations, recompute_flops
from attnmath.models.caching import bidirectional, choosing, kept, reading
from attnmath.models.counting import Parameters, by_letter, layer_of, parameters
from attnmath.models.quantization import WeightBytes, weight_bytes
from attnmath.models.schema import ONCE, SOURCE, TEXT
from attnmath.readings.count import learned, recursive
from attnmath.readings.count import parameters as read_parameters

SCHEMA = "attnmath.model/1"
PAGE = 16  # tokens in a page of an engine's cache, vLLM's and SGLang's usual one on NVIDIA
ALLOCATIONS = ("ideal", "engine")
INDEX = "fp8"  # how an indexer's keys are stored


class Request(Struct, frozen=True):
    """Tokens: `seq` new ones of each of `batch` sequences, `context` seen by then, `source` of an encoder; `decode`: whether
    there were earlier steps; `train`: whether a backward pass follows.
    """

    batch: int
    seq: int
    context: int
    source: int
    decode: bool
    train: bool = False


class Cache(Struct, frozen=True):
    """Bytes that a layer keeps: per token of one sequence while no window is full, and when all are; at a context; those of
    keys that only choose others, apart; per source token; and states.
    """

    per_token: int = 0
    beyond_windows: int = 0
    at_context: int = 0
    indexer_per_token: int = 0
    indexer_at_context: int = 0
    per_source_token: int = 0
    recurrent: int = 0
    convolution: int = 0

    def __add__(self, more: Cache) -> Cache:
        return Cache(*(getattr(self, n) + getattr(more, n) for n in self.__struct_fields__))

    def __mul__(self, times: int) -> Cache:
        return Cache(*(getattr(self, n) * times for n in self.__struct_fields__))


class Work(Struct, frozen=True):
    """FLOPs of a block: all of them, products with learned weights, products of attention over the pairs that exist, and
    over all; `pairs`: the latter where queries meet keys, and not a state.
    """

    total: int = 0
    projections: int = 0
    matmul: int = 0
    dense: int = 0
    pairs: int = 0

    def __add__(self, more: Work) -> Work:
        return Work(*(getattr(self, n) + getattr(more, n) for n in self.__struct_fields__))

    def __sub__(self, less: Work) -> Work:
        return self + less * -1

    def __mul__(self, times: int) -> Work:
        return Work(*(getattr(self, n) * times for n in self.__struct_fields__))


def tokens_of(p: Piece, r: Request) -> dict[str, int] | None:
    """How many tokens a piece runs over in this step, by letter; None if that is not known, or it does not run.

    >>> tokens_of(Piece("mlp", "mlp", (), {"d-model": 8}, None, (), "tokens"), Request(2, 3, 7, 0, False))
    {'b': 2, 't': 3, 'n': 7}
    """
    if p.over == SOURCE:
        return None if r.decode else {"b": r.batch, "t": r.source, "n": r.source}
    if p.over == ONCE:
        return {"b": r.batch, "t": 1, "n": 1}
    if p.over != TEXT:
        return None
    if p.page == "cross":
        return {"b": r.batch, "t": r.seq, "n": r.source, "kept": r.source if r.decode else 0}
    return {"b": r.batch, "t": r.seq, "n": r.seq if bidirectional(p) else r.context}


def work(p: Piece, r: Request) -> Work:
    """What one block computes in this step; in training forward and backward.

    >>> norm = Piece("norm", "rms-norm", (), {"d-model": 64}, None, (), "tokens")
    >>> work(norm, Request(1, 2, 2, 0, False)).total
    516
    """
    forward, backward = passes(p, r)
    return forward + backward


def passes(p: Piece, r: Request) -> tuple[Work, Work]:
    """(what one block computes forward, what its gradient adds), the latter nothing but in training. Every tensor that is
    learned has a gradient, and so has whatever comes from the blocks below: tokens' numbers alone have none.

    Raises LanguageError, naming the operation, where there is no gradient.

    >>> linear = Piece("head", "head", (), {"d-model": 8, "vocab": 10}, None, (), "tokens")
    >>> [w.projections for w in passes(linear, Request(1, 3, 3, 0, False, train=True))]
    [480, 960]
    """
    tokens = tokens_of(p, r)
    if tokens is None or not tokens["t"]:
        return Work(), Work()
    x = reading(p, tokens, train=r.train)
    if not r.train:
        return _work(x), Work()
    forward = _work(Reading(x.page, x.sizes, x.dtype, x.kv_dtype))
    return forward, _work(x) - forward


def _work(x: Reading) -> Work:
    dense = int(x.dense.matmul)
    stateful = recursive(x.page) or any(i == "c" for e in x.page.equations for i in e.out.index)
    return Work(int(x.flops.total), int(x.flops.projections), int(x.flops.matmul), dense, 0 if stateful else dense)


def cache(p: Piece, r: Request, dtype: str, kv_dtype: str, index_dtype: str, engine: bool) -> Cache:
    """What one attention layer keeps at this context; `engine`: whole pages, windows not taken out.

    >>> gqa = Piece("attention", "gqa", (), {"heads": 4, "kv-heads": 2, "head-dim": 8, "d-model": 32}, None, (), "tokens")
    >>> cache(gqa, Request(1, 1, 100, 0, False), "bf16", "bf16", "fp8", True).at_context
    7168
    """
    context = -(-r.context // PAGE) * PAGE if engine else r.context
    found: dict[str, int] = {}

    def add(key: str, total: int) -> None:
        found[key] = found.get(key, 0) + total

    for k in kept(p, dtype, kv_dtype, index_dtype):
        whole = -(-k.bits // 8)
        if k.state:
            add(k.state, whole)
            continue
        per_token = -(-k.bits // (8 * k.every))
        if k.source:
            add("per_source_token", per_token)
            continue
        seen = context if engine or k.window is None else min(context, k.window)
        rows = -(-seen // k.every) if engine else seen // k.every
        add("indexer_per_token" if k.chooses else "per_token", per_token)
        add("indexer_at_context" if k.chooses else "at_context", -(-k.bits * rows * r.batch // 8))
        if not k.chooses and k.window is None:
            add("beyond_windows", per_token)
    return Cache(**found)


class StateBytes(Struct, frozen=True):
    """What a sequence keeps whatever its length, in bytes."""

    recurrent: int
    conv: int


class ModelFlops(Struct, frozen=True):
    """FLOPs of the step for the whole batch, in training forward and backward; None: not known, and of `backward`, that the
    step has no backward pass. `recompute`: what is computed a second time besides, which no convention counts.
    """

    forward: int | None = None
    forward_per_token: float | None = None
    backward: int | None = None
    by_part: dict[str, int] = {}
    by_convention: dict[str, int] = {}
    total: int | None = None
    total_per_token: float | None = None
    backward_by_part: dict[str, int] = {}
    recompute: int | None = None  # beside these


class ModelLayer(Struct, frozen=True, rename={"with_": "with"}):
    """A run of equal attention layers."""

    count: int
    variant: str
    with_: list[str]
    mask: str | None
    sizes: dict[str, int]


class ModelCost(Struct, frozen=True, rename={"class_": "class"}):
    """What `model` answers; integers are exact. Prints itself; `to_dict()` is the JSON document."""

    model: str
    family: str
    class_: str
    inputs: dict[str, Any]
    assumed: dict[str, Any]
    parameters: Parameters | None
    weight_bytes: WeightBytes | None
    layers: list[ModelLayer]
    kv_cache_bytes_per_token: int
    kv_cache_bytes_per_token_beyond_windows: int
    indexer_bytes_per_token: int
    cross_cache_bytes_per_source_token: int
    kv_cache_bytes: int
    state_bytes_per_sequence: StateBytes
    flops: ModelFlops
    activation_bytes: int | None = None  # what training keeps on one rank
    activations: Activations | None = None
    mfu: dict[str, float] | None = None
    gpu: str | None = None
    peak_flops_per_s: float | None = None  # of the GPU, which the MFU is a share of
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    formulas: dict[str, str] = field(default_factory=dict)
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema model` describes it."""
        from attnmath.results import document

        return {"schema": SCHEMA, **document(self)}

    def __str__(self) -> str:
        from attnmath.cli.render_model import model_text

        return model_text(self)


def model(
    path: str,
    *,
    batch: int = 1,
    seq: int | None = None,
    context: int | None = None,
    source: int | None = None,
    phase: str = "prefill",
    dtype: str | None = None,
    kv_dtype: str | None = None,
    weight_dtype: str | None = None,
    index_dtype: str = INDEX,
    kv_alloc: str = ALLOCATIONS[0],
    with_mtp: bool = False,
    tokens_per_s: float | None = None,
    gpu: str | None = None,
    recompute: str | None = None,
    computed_by: str | None = None,
    dropout: float | None = None,
    tensor_parallel: int | None = None,
    sequence_parallel: bool = False,
    assume_ignored: Iterable[str] = (),
    assume_family: str | None = None,
) -> ModelCost:
    """What a model weighs, caches and computes, from its config.json; `phase`: prefill, decode, or train, which is forward
    and backward and caches nothing, but keeps activations.

    `path`: a config.json, its directory, a preset, or `org/name` in the local cache of a hub. `seq` new tokens of each of
    `batch` sequences, `context` seen by then (default: seq; both 1 if neither is given), `source`: tokens of an encoder;
    `weight_dtype`: how weights are stored (default: as the config says); `kv_alloc`: ideal, or as an engine allocates
    (whole pages of 16 tokens, windowed layers like the others). In training, `recompute` (none, selective, full) says what
    is not kept for the backward pass, `computed_by` (page, transformers) how layers are computed, `dropout` a rate in place of
    the config's, `tensor_parallel` and `sequence_parallel` how ranks share activations. The result is in parameters, bytes
    and FLOPs. Raises InputError, naming the culprit, for anything that is not understood.

    >>> import json, pathlib, tempfile
    >>> config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 32}
    >>> file = pathlib.Path(tempfile.mkdtemp(), "config.json")
    >>> _ = file.write_text(json.dumps(config))
    >>> model(str(file), seq=16).parameters.total
    108544
    """
    described = read(path, tuple(assume_ignored), assume_family, with_mtp)
    r = _request(described, batch, seq, context, source, phase)
    if kv_alloc not in ALLOCATIONS:
        raise Unknown("--kv-alloc", kv_alloc, ALLOCATIONS)
    if r.train:
        _check_trainable(
            {"kv-dtype": kv_dtype, "kv-alloc": kv_alloc != ALLOCATIONS[0], "index-dtype": index_dtype != INDEX}
        )
    training = _training(r, recompute, computed_by, dropout, tensor_parallel, sequence_parallel)
    settings = _dtypes(described, dtype, kv_dtype, weight_dtype)
    kept = _caches(described, r, settings, index_dtype, kv_alloc == "engine")
    counted = None if "parameters" in described.refused else parameters(described)
    flops, ungraded = model_flops(described, r, counted)
    if training and flops.backward is not None:
        flops = replace(flops, recompute=recompute_flops(described, lambda p: tokens_of(p, r), training))
    held = None
    if training and "flops" not in described.refused and "flops.backward" not in ungraded:
        held = activations(described, lambda p: tokens_of(p, r), settings["dtype"], training)
    peak = _peak(tokens_per_s, gpu, settings["dtype"])
    mfu = _mfu(flops, r, tokens_per_s, peak)
    at = kept.at_context + kept.indexer_at_context + kept.per_source_token * r.source * r.batch
    inputs = {"batch": r.batch, "seq": r.seq, "context": r.context, "source": r.source, "phase": phase, **settings}
    left_out = [*described.left_out, *_left_out(described, r, with_mtp)]
    return ModelCost(
        described.name,
        described.family,
        described.kind,
        inputs | {"index_dtype": index_dtype, "kv_alloc": kv_alloc},
        dict(described.assumed) | _assumed(described, r, source, dtype),
        counted,
        None if counted is None else weight_bytes(described, settings["weight_dtype"]),
        [ModelLayer(x.count, x.variant, list(x.uses), x.mask, dict(x.sizes)) for x in described.runs],
        kept.per_token,
        kept.beyond_windows,
        kept.indexer_per_token,
        kept.per_source_token,
        at,
        StateBytes(kept.recurrent, kept.convolution),
        flops,
        held.bytes if held else None,
        held,
        mfu=mfu,
        gpu=gpu,
        peak_flops_per_s=peak,
        left_out=left_out,
        notes=_notes(described, r, mfu, held),
        refused={**described.refused, **ungraded},
        formulas=formulas(described, r, settings),
        source=described.source,
    )


def _request(m: Model, batch: int, seq: int | None, context: int | None, source: int | None, phase: str) -> Request:
    """The sizes that are asked for, checked; every complaint at once."""
    from attnmath.errors import together
    from attnmath.request import PHASES, TRAIN, plain, size_error

    crosses = any(p.page == "cross" for p in m.pieces)
    given = {"batch": batch, "seq": seq, "context": context, "source": source}
    given = {k: plain(v) for k, v in given.items()}
    errors = [f"--{k}: {why}" for k, v in given.items() if v is not None and (why := size_error(v))]
    if phase not in (*PHASES, TRAIN):
        errors.append(str(Unknown("phase", phase, (*PHASES, TRAIN))))
    if source is not None and not crosses:
        errors.append(f"--source has a use for models with an encoder and a decoder; {m.family} has none")
    if errors:
        raise InputError(together(errors))
    asked, seen = given["seq"] or 1, given["context"] or given["seq"] or 1
    new = 1 if phase == "decode" and given["context"] is None else asked
    if seen < new:
        raise InputError(f"--context {seen:,} is less than --seq {new:,}: the context counts the new tokens too")
    encoded = (given["source"] or m.source_tokens or seen) if crosses else 0
    return Request(given["batch"] or 1, new, seen, encoded, phase == "decode", phase == TRAIN)


def _training(
    r: Request,
    recompute: str | None,
    computed_by: str | None,
    dropout: float | None,
    tensor_parallel: Any,
    sequence_parallel: bool,
) -> Training | None:
    """How the model is trained, checked; None if it is not."""
    if not r.train:
        given = {
            "recompute": recompute,
            "computed-by": computed_by,
            "dropout": dropout is not None,
            "tensor-parallel": tensor_parallel is not None,
            "sequence-parallel": sequence_parallel,
        }
        if idle := [f"--{k}" for k, v in given.items() if v]:
            raise InputError(f"{', '.join(idle)}: of use with --phase train alone")
        return None
    usual = Training()
    return Training(
        recompute or usual.recompute,
        computed_by or usual.computed_by,
        dropout,
        usual.tensor if tensor_parallel is None else tensor_parallel,
        sequence_parallel,
    ).checked()


def _check_trainable(given: Mapping[str, Any]) -> None:
    """Refuse what says how a cache is kept."""
    if idle := [f"--{k}" for k, v in given.items() if v]:
        raise InputError(f"{', '.join(idle)}: of no use with --phase train, which caches nothing")


def _dtypes(m: Model, dtype: str | None, kv_dtype: str | None, weight_dtype: str | None) -> dict[str, Any]:
    """Dtypes that are asked for, or that follow."""
    from attnmath.models.quantization import plain_dtype, recipe_of
    from attnmath.readings.memory import BITS, BLOCKS, blocks

    plain = plain_dtype(m.config)
    dtype = dtype or (plain if plain != "fp32" else "bf16")
    if dtype not in BITS:
        raise Unknown("dtype", dtype, BITS)
    kv_dtype = kv_dtype or dtype
    if kv_dtype not in BITS and not blocks(kv_dtype):
        raise Unknown("kv-dtype", kv_dtype, [*BITS, *BLOCKS])
    try:
        recipe_of(m, weight_dtype)
    except InputError as error:
        raise InputError(f"{m.name}: {error}") from None
    return {"dtype": dtype, "kv_dtype": kv_dtype, "weight_dtype": weight_dtype}


def _caches(m: Model, r: Request, settings: Mapping[str, Any], index_dtype: str, engine: bool) -> Cache:
    total = Cache()
    for p in m.pieces if not r.train else ():
        if p.part == "attention":
            total = total + cache(p, r, settings["dtype"], settings["kv_dtype"], index_dtype, engine) * p.count
    return total


class Convention(Struct, frozen=True):
    """What a convention counts of a forward pass, what of a step of training, and where it comes from."""

    forward: str
    train: str
    source: str = ""

    def of(self, train: bool) -> str:
        """What it counts in this phase."""
        return self.train if train else self.forward


CONVENTIONS = {
    "exact": Convention(
        "every matrix product, attention over the pairs that its masks allow; a multiply-add is 2",
        "every matrix product of both passes, attention over the pairs that its masks allow; a multiply-add is 2",
    ),
    "dense": Convention(DENSE := "the same with every query against every key", DENSE),
    "causal_half": Convention(HALF := "the same with half of them", HALF, "dense attention / 2"),
    "torch": Convention(
        TORCH := "PyTorch, torch/utils/flop_counter.py",
        TORCH,
        "every matrix product, masks ignored; in training autograd's too, of a loss that depends on all that the model answers",
    ),
    "palm": Convention(
        "2 N + 4 L H Q T a token (a third of 6 N + 12 L H Q T), N active parameters",
        "6 N + 12 L H Q T a token, N active parameters",
        "Chowdhery et al. 2022, arXiv:2204.02311, appendix B; the second term is of layers in which queries meet keys, at "
        "their own widths",
    ),
    "megatron": Convention(
        "24 B s l h^2 (1 + s / 6 h) + 2 B s h V",
        "72 B s l h^2 (1 + s / 6 h) + 6 B s h V",
        "Narayanan et al. 2021, arXiv:2104.04473, section 5.1, without its recomputation; right for multi-head attention and "
        "a feed-forward layer four times as wide",
    ),
    "6n": Convention(
        "2 N a token (a third of 6 N), N parameters without embeddings",
        "6 N a token, N parameters without embeddings",
        "Kaplan et al. 2020, arXiv:2001.08361, section 2.1; active ones where experts are chosen",
    ),
}


def formulas(m: Model, r: Request, settings: Mapping[str, Any]) -> dict[str, str]:
    """The formula of a layer's parameters, by part, and of what a token leaves in its cache, with the letters' values and how
    many such layers there are; read off the same pages, fed with symbols.

    >>> from attnmath.models import read
    >>> one = Request(1, 1, 1, 0, False)
    >>> formulas(read("llama-3.1-8b"), one, {"dtype": "bf16", "kv_dtype": "bf16"})["kv_cache_bytes_per_token"]
    '32 x 4*g*d, g 8, d 128'
    """
    found: dict[str, list[str]] = {}
    for p in m.pieces:
        layer, at = layer_of(p), Point()
        tokens = tokens_of(p, Request(1, 1, max(r.context, 1), max(r.source, 1), False)) or {"b": 1, "t": 1}
        symbols, _ = layer.sizes(
            {k: v for k, v in by_letter(p, **tokens).items() if k not in layer.local}, at.symbol, layer.form()
        )
        page = layer.form()
        for k in layer.local:
            if k not in LETTERS and isinstance(symbols.get(k), int):
                symbols[k] = at.symbol(k, symbols[k])
        if not p.shares and p.part != "experts":
            found.setdefault(f"parameters.{p.part}", []).append(_told(p.count, read_parameters(page, symbols), at))
        if p.part == "attention" and p.over == TEXT and p.page != "cross" and not (r.train or bidirectional(p)):
            x = Reading(page, symbols, settings["dtype"], settings["kv_dtype"])
            only, kept = choosing(page), 0
            for cached, part in x.cache_parts(True):
                kept = kept if cached.tensor in only else kept + part
            if not isinstance(kept, int):
                found.setdefault("kv_cache_bytes_per_token", []).append(_told(p.count, kept, at))
    return {k: "; ".join(v) for k, v in found.items() if len(v) <= 4}


def _told(count: int, f: Any, at: Point) -> str:
    text = str(f)
    used = [n for n in at.values if re.search(rf"(?<![\w']){re.escape(n)}(?![\w'])", text)]
    body = f"({text})" if " " in text and count > 1 else text
    return ", ".join([f"{count} x {body}" if count > 1 else body, *(f"{n} {at.values[n]:,}" for n in used)])


def model_flops(m: Model, r: Request, counted: Parameters | None) -> tuple[ModelFlops, dict[str, str]]:
    """(FLOPs of the step, why there are none of its backward pass); none where the model's attention is no variant here.

    >>> llama = read("llama-3.1-8b")
    >>> model_flops(llama, Request(1, 1024, 1024, 0, False, train=True), parameters(llama))[0].total // 10**9
    46951
    """
    if "flops" in m.refused or counted is None:
        return ModelFlops(), {}
    try:
        found = [(p, passes(p, r)) for p in m.pieces]
    except LanguageError as error:
        known, _ = model_flops(m, replace(r, train=False), counted)
        why = f"{error}; the model has no gradient"
        return ModelFlops(known.forward, known.forward_per_token), {"flops.backward": why}
    forward = sum((w * p.count for p, (w, _) in found), Work())
    backward = sum((w * p.count for p, (_, w) in found), Work())
    total, tokens = forward + backward, r.batch * r.seq
    return ModelFlops(
        forward.total,
        forward.total / tokens,
        backward.total if r.train else None,
        _by_part((p, a + b) for p, (a, b) in found),
        _by_convention(m, r, counted, total, forward.pairs),
        total.total,
        total.total / tokens,
        _by_part((p, b) for p, (_, b) in found),
    ), {}


def _by_part(found: Iterable[tuple[Piece, Work]]) -> dict[str, int]:
    """FLOPs by part, of (block, what each of its kind computes)."""
    parts: dict[str, int] = {}
    for p, each in found:
        if each.total:
            parts[p.part] = parts.get(p.part, 0) + each.total * p.count
    return parts


def _by_convention(m: Model, r: Request, counted: Parameters, total: Work, pairs: int) -> dict[str, int]:
    """The step under each convention; those that know a model by its size alone take training for three forward passes."""
    tokens, times = r.batch * r.seq, 3 if r.train else 1
    named = {
        "exact": total.projections + total.matmul,
        "dense": total.projections + total.dense,
        "causal_half": total.projections + total.dense // 2,
        "torch": total.projections + total.dense,
        "palm": times * (tokens * 2 * counted.active + pairs),
        "6n": times * tokens * 2 * (counted.active - counted.embedding),
    }
    attention = [p for p in m.pieces if p.part == "attention" and p.over == TEXT]
    wide = attention[0].sizes.get("d-model") if attention else None
    vocab = next((p.sizes["vocab"] for p in m.pieces if p.page == "head"), 0)
    if wide:
        layers = sum(p.count for p in attention)
        own = 24 * layers * wide**2 + 4 * layers * wide * r.context + 2 * wide * vocab
        named["megatron"] = times * tokens * own
    return {k: named[k] for k in CONVENTIONS if k in named}


def _peak(rate: float | None, gpu: str | None, dtype: str) -> float | None:
    """The peak of the GPU that a rate was measured on."""
    if rate is None and gpu is None:
        return None
    if gpu is None:
        raise InputError("--tokens-per-s needs a --gpu, whose peak it is measured against")
    if rate is None:
        raise InputError("--gpu has a use for --tokens-per-s alone, a rate that was measured on it")
    if not (isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 < rate < 1e15):
        raise InputError(f"--tokens-per-s {rate!r:.40}: a rate is a number of more than 0")
    from attnmath.hardware import get

    return float(get(gpu).tensor_rate(dtype))


def _mfu(flops: ModelFlops, r: Request, rate: float | None, peak: float | None) -> dict[str, float] | None:
    """The share of the peak that a measured rate is, under each convention."""
    if rate is None or peak is None:
        return None
    tokens = r.batch * r.seq
    return {k: rate * v / tokens / peak for k, v in flops.by_convention.items()}


def _assumed(m: Model, r: Request, source: int | None, dtype: str | None) -> dict[str, Any]:
    """What was neither asked for nor said by the config."""
    from attnmath.models.quantization import said_dtype

    out: dict[str, Any] = {}
    if dtype is None and said_dtype(m.config) is None:
        out["dtype"] = "bf16"
    if r.source and source is None:
        out["source"] = r.source
    return out


def _notes(m: Model, r: Request, mfu: Mapping[str, float] | None, held: Activations | None) -> list[str]:
    """What a reader of the numbers has to know."""
    out = []
    if held and any(p.page == "head" for p in m.pieces):
        numbers = r.batch * r.seq * next(p.sizes["vocab"] for p in m.pieces if p.page == "head")
        out.append(f"activations end at the logits: a loss keeps these as well, or their softmax, {numbers:,} numbers")
    if m.positions is not None and r.context > m.positions:
        out.append(f"a context of {r.context:,} is longer than the {m.positions:,} positions that the config names")
    if over := [k for k, share in (mfu or {}).items() if share > 1]:
        out.append(f"an MFU of more than 100 % ({', '.join(over)}): the rate, its --seq or the --gpu cannot be right")
    return out


def _left_out(m: Model, r: Request, with_mtp: bool) -> list[str]:
    """What stands in the config and is not counted here."""
    mtp = mtp_layers(m.config)
    out = (
        [f"{mtp} layer{'s' * (mtp > 1)} for multi-token prediction (--with-mtp counts them)"]
        if mtp and not with_mtp
        else []
    )
    seen = sorted({p.part for p in m.pieces if p.over not in (TEXT, SOURCE, ONCE)} & {"vision", "audio"})
    out += [f"the FLOPs of {x}: how many patches or frames there are is not stated" for x in seen]
    if r.train and "flops" not in m.refused:
        out.append("the loss, sums of gradients where blocks meet (residuals, tied weights) and the optimizer's step")
        out += [f"training what only chooses, which no gradient reaches: {x}" for x in _unreached(m)]
    return out


def _unreached(m: Model) -> list[str]:
    """The learned tensors that the result depends on through a selection alone, by page."""
    pages = {p.page: layer_of(p).form() for p in m.pieces if p.part == "attention" and p.over == TEXT}
    found = {
        name: sorted(n for n in choosing(x) if n in x.inputs and learned(x.inputs[n])) for name, x in pages.items()
    }
    return [f"{', '.join(names)} of {page}" for page, names in found.items() if names]
