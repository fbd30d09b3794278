"""Weights in bytes: which tensors are stored narrower, and what their scales take.

Quantisers narrow the projections of attention and feed-forward layers; embeddings, heads, norms, biases, routers and
convolutions stay as they are. A config's own `quantization_config` says how, and what it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from attnmath.errors import InputError, Unknown
from attnmath.language.syntax import Ref, letters, terms
from attnmath.models import Model, Piece
from attnmath.models.counting import by_letter, chosen, layer_of, weights
from attnmath.models.schema import PARTS

PLAIN = {"fp32": 32, "float32": 32, "bf16": 16, "bfloat16": 16, "fp16": 16, "float16": 16}
NARROWED = ("attention", "mlp", "shared_experts", "experts")


class Format(Struct, frozen=True):
    """How a projection is stored: `bits` a number; a scale of `scale_bits`, and a zero point of `zero_bits`, for each tile of
    `rows` outputs by `columns` inputs (0: all of them); `tensor_bits` more for each tensor.
    """

    bits: int
    scale_bits: int = 0
    rows: int = 1
    columns: int = 0
    zero_bits: int = 0
    tensor_bits: int = 0
    source: str = ""


GPTQ = "Frantar et al. 2022, arXiv:2210.17323, section 3; AutoGPTQ: FP16 scales and packed zero points a group"
FORMATS: dict[str, Format] = {
    "bf16": Format(16),
    "fp16": Format(16),
    "fp32": Format(32),
    "fp8": Format(
        8, 32, 128, 128, source="DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.2: FP32 scales of 128 x 128 tiles"
    ),
    "int8": Format(8, 32, 1, 0, source="a scale per output channel: Dettmers et al. 2022, arXiv:2208.07339, section 2"),
    "int4": Format(4, 16, 1, 128, zero_bits=4, source=GPTQ),
    "mxfp4": Format(
        4, 8, 1, 32, source="OCP Microscaling Formats (MX) Specification v1.0, 2023: blocks of 32, scales E8M0"
    ),
    "nvfp4": Format(
        4,
        8,
        1,
        16,
        tensor_bits=64,
        source="NVIDIA 2025, arXiv:2509.25149: blocks of 16, scales E4M3, FP32 scales a tensor",
    ),
    "nf4": Format(
        4, 32, 1, 64, source="Dettmers et al. 2023, arXiv:2305.14314, section 3: FP32 scales of blocks of 64"
    ),
}


class WeightBytes(Struct, frozen=True):
    """Bytes of the weights, scales among them; `plain_dtype`: of what is not narrowed."""

    total: int
    scales: int
    dtype: str
    plain_dtype: str
    by_part: dict[str, int]
    narrowed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Recipe(Struct, frozen=True):
    """What is stored how: a format for the projections of each of some parts, a plain one for the rest."""

    name: str
    formats: Mapping[str, Format]
    plain: str
    notes: tuple[str, ...] = ()


def narrowing(name: str, f: Format, parts: Iterable[str], plain: str, notes: Iterable[str] = ()) -> Recipe:
    """One format for all of these parts.

    >>> sorted(narrowing("int8", FORMATS["int8"], ("mlp",), "bf16").formats)
    ['mlp']
    """
    return Recipe(name, dict.fromkeys(parts, f), plain, tuple(notes))


def projections(p: Piece) -> dict[str, tuple[int, int, int]]:
    """(copies, outputs, inputs) of each learned matrix of a piece: a tensor that a term sums over.

    >>> projections(Piece("mlp", "linear", (), {"d-model": 8, "out": 3}, None, (), "tokens"))
    {'WY': (1, 3, 8)}
    """
    layer = layer_of(p)
    page = layer.form()
    sizes, _ = layer.sizes(by_letter(p), page=page)
    some = chosen(page)
    out: dict[str, tuple[int, int, int]] = {}
    for e in page.equations:
        for r in (f for a in e.alts for _, num, _ in terms(a) for f in num if isinstance(f, Ref)):
            own = page.inputs.get(r.name)
            if own is None or not r.name.startswith("W") or any(str(i).startswith("tap") for i in own.index):
                continue
            left, axis = set(letters(e.out)), some.get(r.name, ("", ""))[0]
            copies = ins = outs = 1
            for i in own.index:
                width = int(sizes[str(i)])
                if str(i) == axis:
                    copies *= width
                elif str(i) in left:
                    outs *= width
                else:
                    ins *= width
            if ins > 1 and outs > 1:
                out.setdefault(r.name, (copies, outs, ins))
    return out


def stored_bits(f: Format, copies: int, outputs: int, inputs: int) -> tuple[int, int]:
    """(bits of the numbers, bits of their scales) of `copies` matrices.

    >>> stored_bits(FORMATS["fp8"], 1, 256, 200)
    (409600, 128)
    """
    tiles = -(-outputs // (f.rows or outputs)) * -(-inputs // (f.columns or inputs))
    scales = tiles * (f.scale_bits + f.zero_bits) + f.tensor_bits
    return copies * outputs * inputs * f.bits, copies * scales if f.scale_bits else 0


class Stored(Struct, frozen=True):
    """One learned tensor of so many `numbers` as it is stored: `axes` and their lengths, for whoever shares it among ranks."""

    name: str
    part: str
    numbers: int
    bits: int
    scale_bits: int
    axes: tuple[str, ...]
    lengths: dict[str, int]


def stored(p: Piece, recipe: Recipe) -> list[Stored]:
    """How each tensor of one copy of a piece is stored; what routes is no expert.

    >>> norm = Piece("norm", "rms-norm", (), {"d-model": 64}, None, (), "tokens")
    >>> [(t.name, t.bits) for t in stored(norm, narrowing("fp8", FORMATS["fp8"], NARROWED, "bf16"))]
    [('WN', 1024)]
    """
    layer = layer_of(p)
    page = layer.form()
    sizes, _ = layer.sizes(by_letter(p), page=page)
    lengths = {k: v for k, v in sizes.items() if isinstance(v, int)}
    narrow = projections(p) if p.part in recipe.formats else {}
    some, out = chosen(page), []
    for name, (whole, _) in weights(p).items():
        part = "router" if p.part == "experts" and name not in some else p.part
        bits, scales = whole * PLAIN[recipe.plain], 0
        if name in narrow and part in recipe.formats:
            bits, scales = stored_bits(recipe.formats[part], *narrow[name])
        out.append(Stored(name, part, whole, bits, scales, tuple(map(str, page.inputs[name].index)), lengths))
    return out


def weight_bytes(model: Model, dtype: str | None = None) -> WeightBytes:
    """What the weights take, as the config says, or with projections stored as `dtype`.

    >>> from attnmath.models import describe
    >>> llama = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 10, "intermediate_size": 16}
    >>> weight_bytes(describe(llama, "llama", "x"), "bf16").total
    1648
    """
    recipe = recipe_of(model, dtype)
    parts = dict.fromkeys(PARTS, 0)
    scales = 0
    for p in model.pieces:
        for t in stored(p, recipe):
            parts[t.part] += p.count * -(-(t.bits + t.scale_bits) // 8)
            scales += p.count * -(-t.scale_bits // 8)
    return WeightBytes(
        sum(parts.values()),
        scales,
        recipe.name,
        recipe.plain,
        {k: v for k, v in parts.items() if v},
        [x for x in recipe.formats if parts[x]],
        list(recipe.notes),
    )


def plain_dtype(config: Mapping[str, Any]) -> str:
    """How a config says its weights are stored; bf16 if it does not.

    >>> plain_dtype({"torch_dtype": "float16"}), plain_dtype({})
    ('fp16', 'bf16')
    """
    return said_dtype(config) or "bf16"


def said_dtype(config: Mapping[str, Any]) -> str | None:
    """The dtype that a config says its weights have; None if it says none that is understood.

    >>> said_dtype({"dtype": "torch.float32"}), said_dtype({"torch_dtype": "auto"})
    ('fp32', None)
    """
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    said = next((c[k] for c in (config, inner) for k in ("torch_dtype", "dtype") if c.get(k)), None)
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    name = names.get(str(said).removeprefix("torch."), str(said))
    return name if name in PLAIN else None


def recipe_of(model: Model, dtype: str | None) -> Recipe:
    """The recipe that is asked for, else the config's own, else all weights in its plain dtype.

    >>> from attnmath.models import read
    >>> recipe_of(read("gpt-oss-20b"), None).formats["experts"].bits
    4
    """
    plain = plain_dtype(model.config)
    if dtype is not None:
        if dtype in ("bf16", "fp16", "fp32"):
            return Recipe(dtype, {}, dtype)
        return narrowing(dtype, format_of(dtype), NARROWED, plain if plain != "fp32" else "bf16")
    text = model.config.get("text_config")
    said = model.config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if not said:
        return Recipe(plain, {}, plain)
    if not isinstance(said, dict):
        raise InputError("quantization_config is no object")
    return _configured(said, plain, model)


def format_of(name: str) -> Format:
    """A format by name, or with its group: `int4/64`.

    >>> format_of("int4/32").columns
    32
    """
    from msgspec.structs import replace

    base, slash, group = name.partition("/")
    if base not in FORMATS or (slash and not (group.isdigit() and 0 < int(group[:9]) < 2**20)):
        raise Unknown("dtype of weights", name, [*FORMATS, "int4/64"])
    return replace(FORMATS[base], columns=int(group)) if slash else FORMATS[base]


def _configured(said: Mapping[str, Any], plain: str, model: Model) -> Recipe:
    """What a quantization_config describes; InputError for a method that is not understood."""
    from msgspec.structs import replace

    method = str(said.get("quant_method") or said.get("quant_algo") or "").lower()
    notes: list[str] = []
    left = _left(said, len(model.sequence), notes)
    parts = tuple(p for p in NARROWED if p not in left)
    if method in ("fp8", "fbgemm_fp8"):
        tile = said.get("weight_block_size")
        if tile is not None and not (isinstance(tile, list) and len(tile) == 2 and all(map(_size, tile))):
            raise InputError(f"quantization_config.weight_block_size is {str(tile)[:40]}; expected two sizes")
        f = replace(FORMATS["fp8"], rows=tile[0], columns=tile[1]) if tile else Format(8, 32, 1, 0)
        if said.get("scale_fmt") == "ue8m0":
            notes.append("scales are powers of two (ue8m0), stored in four bytes each")
        recipe = narrowing("fp8", f, parts, plain, notes)
        if (said.get("expert_dtype") or model.config.get("expert_dtype")) == "fp4":
            own = {**recipe.formats, "experts": FORMATS["mxfp4"]}
            return replace(
                recipe, formats=own, notes=(*notes, "expert_dtype is fp4: routed experts are counted as mxfp4")
            )
        return recipe
    if method == "mxfp4":
        return narrowing("mxfp4", FORMATS["mxfp4"], tuple(p for p in parts if p != "attention"), plain, notes)
    if method in ("awq", "gptq"):
        group, wide = said.get("group_size", 128), said.get("bits", 4)
        columns = 0 if group == -1 else group
        if not ((columns == 0 or _size(columns)) and _size(wide) and wide in (2, 3, 4, 8)):
            raise InputError(
                f"quantization_config: bits {str(wide)[:20]} in groups of {str(group)[:20]} are not understood"
            )
        return narrowing(f"int{wide}", Format(wide, 16, 1, columns, wide), parts, plain, notes)
    if method == "bitsandbytes":
        name = "nf4" if said.get("load_in_4bit") else "int8"
        if said.get("bnb_4bit_use_double_quant"):
            notes.append("scales are quantised once more (double quantisation); they are counted before that")
        return narrowing(name, FORMATS[name], parts, plain, notes)
    if method in ("compressed-tensors", "modelopt"):
        return _groups(said, parts, plain, notes)
    raise InputError(
        f"quantization_config.quant_method {method!r:.40} is not understood; understood are fp8, mxfp4, awq, gptq, "
        "bitsandbytes, compressed-tensors and modelopt; --weight-dtype says it for you"
    )


def _size(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 < x < 2**20


def _groups(said: Mapping[str, Any], parts: tuple[str, ...], plain: str, notes: list[str]) -> Recipe:
    """compressed-tensors and ModelOpt: one group of weights, its bits and its scales."""
    found = said.get("config_groups") or {}
    own = [g.get("weights") for g in found.values() if isinstance(g, dict)] if isinstance(found, dict) else []
    algo = str(said.get("quant_algo", "")).lower()
    if algo in ("fp8", "nvfp4", "int8", "int4_awq", "w4a16_awq"):
        name = {"int4_awq": "int4", "w4a16_awq": "int4"}.get(algo, algo)
        f = Format(8, 32, 0, 0) if name == "fp8" else FORMATS[name]
        return narrowing(name, f, parts, plain, notes)
    if len(own) != 1 or not isinstance(own[0], dict):
        raise InputError("quantization_config: one group of weights is understood; --weight-dtype says it for you")
    w = own[0]
    targets = next(g.get("targets") for g in found.values() if isinstance(g, dict))
    if targets not in (None, ["Linear"]):
        raise InputError(
            f"quantization_config.targets {str(targets)[:60]}: Linear is understood; --weight-dtype says it for you"
        )
    wide, kind, by, group = w.get("num_bits"), w.get("type"), w.get("strategy"), w.get("group_size")
    if wide == 4 and kind == "float":
        names = {16: "nvfp4", 32: "mxfp4"}
        if group not in names:
            raise InputError(f"quantization_config: 4-bit floats in groups of {str(group)[:20]} are not understood")
        return narrowing(names[group], FORMATS[names[group]], parts, plain, notes)
    tile = w.get("block_structure") or [128, 128]
    tiles = {
        "tensor": (0, 0),
        "channel": (1, 0),
        "group": (1, group),
        "block": tuple(tile) if isinstance(tile, list) else (),
    }
    shape = tiles.get(by, ()) if isinstance(by, str) else ()
    if wide not in (4, 8) or len(shape) != 2 or not all(x == 0 or _size(x) for x in shape):
        raise InputError(
            f"quantization_config: {str(wide)[:20]} bits by {str(by)[:20]} are not understood; --weight-dtype says it"
        )
    rows, columns = shape
    name = f"{'fp' if kind == 'float' else 'int'}{wide}"
    f = Format(wide, 16, rows, columns, 0 if w.get("symmetric", True) else wide)
    return narrowing(name, f, parts, plain, notes)


NEVER = (
    r"lm_head|embed|norm|router|gate$|gate\b|visual|vision|e_score|score|multi_modal|mtp|^head"  # never narrowed anyway
)
LEFT = {  # words in the names of modules that are left as they are, and the part they stand for
    r"self_attn|attention|attn": "attention",
    r"shared_expert": "shared_experts",
    r"experts": "experts",
    r"^mlp$|\.mlp$|mlp\.(gate|up|down)_proj": "mlp",
}


def _names(said: Mapping[str, Any]) -> list[str]:
    """The modules that a config leaves as they are; InputError if that is no list of names."""
    found: list[str] = []
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        own = said.get(key) or []
        if not isinstance(own, list) or not all(isinstance(n, str) for n in own):
            raise InputError(f"quantization_config.{key} is {str(own)[:40]}; expected a list of names")
        found += own
    return found


def _left(said: Mapping[str, Any], layers: int, notes: list[str]) -> set[str]:
    """The parts that a config leaves as they are, by the names of their modules; a part whose layers are listed one by one is
    left if all are.
    """
    found: set[str] = set()
    listed: dict[str, set[int]] = {}
    for n in _names(said):
        if re.search(NEVER, n):
            continue
        part = next((p for pattern, p in LEFT.items() if re.search(pattern, n)), None)
        number = re.search(r"layers\.(\d{1,6})\b", n)
        if number and part:
            listed.setdefault(part, set()).add(int(number[1]))
        elif part:
            found.add(part)
        else:
            notes.append(f"{n[:60]} is left out of it, which is not understood here")
    for part, numbers in listed.items():
        if len(numbers) >= layers:
            found.add(part)
        else:
            notes.append(
                f"{part} is left out of it in {len(numbers)} of {layers} layers; it is counted as narrowed in all"
            )
    return found
