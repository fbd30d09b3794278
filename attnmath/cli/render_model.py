"""How a whole model looks: as text, JSON, CSV or Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnmath.cli.render import Row, as_json, columns, csv, exact, markdown, note, page, pretty, scaled, strong

if TYPE_CHECKING:
    from attnmath.models.costs import ModelCost

SHOWN = (  # (key, label, unit); a label that is indented is a part of the one above
    ("parameters.total", "parameters", ""),
    ("parameters.active", "  active for a token", ""),
    ("parameters.embedding", "  embeddings and head", ""),
    ("weight_bytes.total", "weights", "bytes"),
    ("weight_bytes.scales", "  scales", "bytes"),
    ("kv_cache_bytes", "KV cache", "bytes"),
    ("kv_cache_bytes_per_token", "  per token", "bytes"),
    ("kv_cache_bytes_per_token_beyond_windows", "  beyond the windows", "bytes"),
    ("indexer_bytes_per_token", "  indexer, per token", "bytes"),
    ("cross_cache_bytes_per_source_token", "  per source token", "bytes"),
    ("state_bytes_per_sequence.recurrent", "recurrent state, per sequence", "bytes"),
    ("state_bytes_per_sequence.conv", "convolution state, per sequence", "bytes"),
    ("flops.forward_per_token", "FLOPs, forward, per token", "FLOP"),
    ("flops.forward", "FLOPs, forward", "FLOP"),
    ("flops.backward", "FLOPs, backward", "FLOP"),
    ("flops.total", "FLOPs, forward and backward", "FLOP"),
    ("flops.recompute", "FLOPs, computed again", "FLOP"),
    ("activation_bytes", "activations kept, on one rank", "bytes"),
)
TRAINING = ("flops.backward", "flops.total", "flops.recompute", "activation_bytes")


def models(found: list[ModelCost], format_: str) -> None:
    """One model, or a row for each size."""
    from attnmath.models.costs import SCHEMA

    if format_ == "json":
        documents = [m.to_dict() for m in found]
        as_json(documents[0] if len(found) == 1 else {"schema": SCHEMA, "rows": documents})
    elif format_ == "csv":
        csv([_flat(m) for m in found])
    elif format_ == "markdown":
        page(_markdown(found))
    else:
        for k, m in enumerate(found):
            page([*([""] if k else []), *model_lines(m)])
        notes(found[0])


def value(m: ModelCost, key: str) -> Any:
    """A number by its key, None where it is not known."""
    found: Any = m
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else getattr(found, part, None)
    return found


def model_text(m: ModelCost) -> str:
    """The text that a model prints as."""
    return "\n".join(model_lines(m))


def model_lines(m: ModelCost) -> list[str]:
    """A heading, the numbers with the formula beside each, layers and parts."""
    from attnmath.models.costs import CONVENTIONS
    from attnmath.request import TRAIN

    train = m.inputs["phase"] == TRAIN
    sizes = {k: m.inputs[k] for k in ("batch", "seq", "context", "source") if m.inputs[k]}
    shown = "  ".join(f"{k} {v:,}" for k, v in sizes.items())
    stored = f"weights {m.weight_bytes.dtype}, " if m.weight_bytes else ""
    kept = f"activations {m.inputs['dtype']}" if train else f"cache {m.inputs['kv_dtype']}"
    head = f"{m.model}  {m.class_ or m.family}  {m.inputs['phase']}  {shown}  {stored}{kept}"
    rows: list[Row] = []
    for key, label, unit in SHOWN:
        v = value(m, key)
        if v == 0 and (train or key not in ("kv_cache_bytes", "kv_cache_bytes_per_token")):
            continue
        if not train and key in TRAINING:  # the forward pass is all there is
            continue
        told = _why(m, key) if v is None else f"{v:,.1f}" if v != int(v) else exact(int(v))
        rows.append((label, told, _size(v, unit) if v is not None else "", pretty(m.formulas.get(key, ""))))
        parts = {
            "parameters.embedding": m.parameters and m.parameters.by_part,
            "flops.backward": m.flops.backward_by_part,
            "flops.total" if train else "flops.forward": m.flops.by_part,
            "activation_bytes": m.activations and m.activations.by_part,
        }.get(key)
        where = key.split(".")[0]
        rows += [
            (f"    {k}", exact(x), _size(x, unit), pretty(m.formulas.get(f"{where}.{k}", "")))
            for k, x in (parts or {}).items()
        ]
    for name, v in m.flops.by_convention.items():
        rows.append((f"  {name} convention", exact(v), scaled(v, "FLOP"), CONVENTIONS[name].of(train)))
    peak = f"of {scaled(m.peak_flops_per_s, 'FLOP')}/s, the peak of {m.gpu}" if m.peak_flops_per_s else ""
    rows += [(f"MFU, {name}", f"{share:.2%}", "", peak) for name, share in (m.mfu or {}).items()]
    layers = [(f"  {n} x", x.variant, " ".join(x.with_), _sizes(x)) for n, x in _kinds(m)]
    kept_ = _activations(m) if m.activations else []
    return [strong(head), "", *columns(rows, (1, 2)), "", strong("attention layers"), *columns(layers), *kept_]


def _activations(m: ModelCost) -> list[str]:
    """What training keeps, tensor by tensor."""
    from attnmath.models.activations import COMPUTED_BY, RECOMPUTE
    from attnmath.readings.saved import KINDS

    found, tokens = m.activations, m.inputs["batch"] * m.inputs["seq"]
    assert found
    ranks = f", one of {found.tensor_parallel} ranks{', tokens shared' * found.sequence_parallel}"
    head = f"activations  recompute {found.recompute}, as computed by {found.computed_by}"
    rows: list[Row] = [
        (f"  {n} x", "a layer", exact(size), scaled(size, "bytes"), f"{size / tokens:,.10g} bytes a token")
        for n, size in found.layers
    ]
    if found.again_bytes:
        again = scaled(found.again_bytes, "bytes")
        rows.append(("    1 x", "a layer that runs again", exact(found.again_bytes), again, "besides"))
    for x in found.tensors:
        told = f"{x.tensor}[{x.index}]"
        rows.append((f"  {x.count} x", f"{x.page or x.part} {told}", exact(x.bytes), f"{x.bits} bits", x.kind))
    kinds = dict.fromkeys(x.kind for x in found.tensors)
    legend: list[Row] = [(f"  {k}", KINDS[k]) for k in kinds]
    legend += [(f"  {found.recompute}", RECOMPUTE[found.recompute])]
    legend += [(f"  {found.computed_by}", COMPUTED_BY[found.computed_by])]
    return ["", strong(head + ranks * (found.tensor_parallel > 1)), *columns(rows, (0, 2, 3)), "", *columns(legend)]


def _size(v: int, unit: str) -> str:
    """A number in its usual size; parameters in millions and billions."""
    if unit:
        return scaled(v, unit)
    return f"{v / 1e9:.3g} billion" if v >= 1e9 else f"{v / 1e6:.3g} million" if v >= 1e6 else ""


def _why(m: ModelCost, key: str) -> str:
    return "refused" if key.split(".")[0] in ("parameters", "weight_bytes", "flops") and m.refused else "-"


def _kinds(m: ModelCost) -> list[tuple[int, Any]]:
    """Each kind of attention layer, and how many there are; their order is in the JSON document."""
    found: dict[str, tuple[int, Any]] = {}
    for x in m.layers:
        key = repr((x.variant, x.with_, x.mask, x.sizes))
        found[key] = found.get(key, (0, x))[0] + x.count, x
    return list(found.values())


def _sizes(x: Any) -> str:
    mask = f"mask {x.mask}, " if x.mask else ""
    return mask + ", ".join(f"{k} {v:,}" for k, v in x.sizes.items() if k != "d-model")


def notes(m: ModelCost) -> None:
    """To stderr: what was assumed, what is refused and why, what is left out."""
    if m.assumed:
        note("assumed: " + ", ".join(f"{k} {v}" for k, v in m.assumed.items()))
    for what, why in m.refused.items():
        note(f"refused: {what}: {why}")
    for text in m.left_out:
        note(f"left out: {text}" if not text.startswith("tie_") else f"note: {text}")
    for text in m.notes:
        note(f"note: {text}")
    for text in m.weight_bytes.notes if m.weight_bytes else ():
        note(f"weights: {text}")
    note(f"source: {m.source}")


def _flat(m: ModelCost) -> dict[str, Any]:
    parts = {f"parameters.{k}": v for k, v in (m.parameters.by_part if m.parameters else {}).items()}
    named = {f"flops.{k}": v for k, v in m.flops.by_convention.items()}
    return {"model": m.model, **m.inputs, **{key: value(m, key) for key, _, _ in SHOWN}, **parts, **named}


def _markdown(found: list[ModelCost]) -> list[str]:
    rows: list[Row] = [
        ("quantity", *(f"{m.model}, {m.inputs['seq']:,} of {m.inputs['context']:,}" for m in found), "unit")
    ]
    rows += [(label.strip(), *(exact(value(m, key)) for m in found), unit) for key, label, unit in SHOWN]
    return markdown(rows, range(1, len(found) + 1))
