"""`--explain`: a number's equation, the substitution, what it is made of, and where the convention comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from attnmath.costs import kinds
from attnmath.errors import NoClosedForm, Unknown
from attnmath.hardware import Figure, Gpu, get
from attnmath.hardware.roofline import bound
from attnmath.keys import DERIVED, KEYS, Reading
from attnmath.language.formula import Formula, render
from attnmath.language.letters import LETTERS, OPTIONS
from attnmath.readings.count import core, learned
from attnmath.readings.memory import Cached, Core, blocks
from attnmath.results import Cost

Part = tuple[str, int | float]  # an equation or a tensor, and its share


class Explanation(Struct, frozen=True):
    """One number, traced: `parts` add up to the value where it is a sum."""

    key: str
    value: Any
    unit: str
    meaning: str
    formula: str
    substitution: str
    regime: tuple[str, ...]
    parts: tuple[Part, ...]
    source: str


def explain(cost: Cost, key: str) -> Explanation:
    """The explanation of one key of a cost; Unknown, with the nearest keys, if there is none.

    >>> from attnmath import cost
    >>> e = explain(cost("mha", seq=4, heads=2, head_dim=8), "flops.matmul")
    >>> e.value, e.formula, e.substitution
    (640, '2*b*h*t*d*(t + 1)', '2*1*2*4*8*(4 + 1)')
    """
    if key in KEYS:
        return _over_layers(cost, key) if cost.layers else _read(cost, key)
    if key in DERIVED:
        return _derived(cost, key)
    return _setting(cost, key)


def keys(cost: Cost) -> list[str]:
    """Every key that can be explained.

    >>> from attnmath import cost
    >>> "flops.core" in keys(cost("mha", seq=4, heads=2))
    True
    """
    settings = [f"inputs.{k}" for k in cost.inputs]
    return [*KEYS, *DERIVED, *settings, "variant", "with", "phase", "form", "gpu"]


def _read(cost: Cost, key: str) -> Explanation:
    row = KEYS[key]
    if cost[key] is None:
        return Explanation(key, None, row.unit, row.meaning, "", cost.refused.get(key, ""), (), (), row.source)
    numbers, symbols = cost.readings
    try:
        formula = row.read(symbols)
        shown = render(formula, numbers=True) if isinstance(formula, Formula) else str(formula)
    except NoClosedForm:  # the regime says why; the count stands
        formula, shown = "none", "counted"
    regime = tuple(cost.regime.get(key, getattr(formula, "conditions", ())))
    parts = tuple(p for p in _parts(key, numbers, cost) if p[1])
    return Explanation(
        key, cost[key], row.unit, row.meaning, str(formula), shown, regime, parts, _convention(key, cost)
    )


def _convention(key: str, cost: Cost) -> str:
    """Where a key's number comes from; of a cache in blocks, how they are stored."""
    if key == "hbm_bytes.fused":
        walks = [w.schedule for w in cost.readings[0].walks if w.schedule.loops] or [cost.readings[0].schedule]
        said = [text for walk in dict.fromkeys(walks) for text in (walk.label, walk.meaning, walk.source)]
        return "; ".join(filter(None, (KEYS[key].source, *said)))
    stored = blocks(str(cost.inputs.get("kv_dtype"))) if key.startswith("kv_cache") else None
    if not stored:
        return KEYS[key].source
    scales = f"{stored.bits} bits each and a scale of {stored.scale_bits} for each {stored.block}"
    return f"{KEYS[key].source}; {cost.inputs['kv_dtype']}: {scales}" + (f" ({stored.source})" if stored.source else "")


def _over_layers(cost: Cost, key: str) -> Explanation:
    """A model's number: each run of equal layers with its own formula and count."""
    row = KEYS[key]
    if cost[key] is None:
        return Explanation(key, None, row.unit, row.meaning, "", cost.refused.get(key, ""), (), (), row.source)
    layers = [run for _, run in kinds(cost.layers)]
    one = [_read(run.cost, key) for run in layers]
    most = key.startswith("memory")
    join = (
        ("max(" + ", ".join(e.substitution for e in one) + ")")
        if most
        else " + ".join(f"{r.count}*({e.substitution})" for r, e in zip(layers, one))
    )
    parts = tuple(
        (f"{r.count} x {r.cost.variant}: {e.formula}", e.value * (1 if most else r.count)) for r, e in zip(layers, one)
    )
    formula = "the largest of the layers'" if most else cost.formulas[key]
    return Explanation(
        key,
        cost[key],
        row.unit,
        row.meaning,
        formula,
        join,
        tuple(dict.fromkeys(c for e in one for c in e.regime)),
        parts,
        row.source,
    )


def _parts(key: str, r: Reading, cost: Cost) -> Iterable[Part]:
    """What a number is the sum of: keys, equations or tensors."""
    if KEYS[key].sums:
        return [(k, cost[k]) for k in KEYS[key].sums]
    group, _, name = key.partition(".")
    if group in _PARTS:
        return _PARTS[group](r, name)
    return ()


def _by_equation(r: Reading, kind: str) -> Iterable[Part]:
    if kind == "recomputed":
        return _again(r)
    return [(str(s.equation), getattr(s.flops, kind)) for s in r.steps]


def _by_convention(r: Reading, name: str) -> Iterable[Part]:
    steps = r.steps if name == "exact" else r.dense_steps
    share = 2 if name == "causal_half" else 1
    return [(str(s.equation), s.flops.matmul // share + (s.flops.projections if name == "torch" else 0)) for s in steps]


def _by_tensor(r: Reading, name: str) -> Iterable[Part]:
    if name == "compulsory":
        return [part for one in r.passes for part in _once(one)]
    if name == "fused":
        return [part for walk in r.walks for part in walk.parts]
    return [(str(step), r.core.step_bytes(step)) for step in r.core.steps]


def _once(one: Core) -> Iterable[Part]:
    return [
        *((f"{n}, read", one.bytes([n])) for n in one.inputs),
        *((f"{n}, written", one.bytes([n])) for n in one.outputs),
        *(
            (f"{c.tensor}, the state, {'read and ' if known else ''}written", part)
            for c, part, known in one.state_parts
        ),
    ]


def _again(r: Reading) -> Iterable[Part]:
    again = {r.gradient.renamed[n] for n in r.gradient.again} if r.train else set()
    return [(str(s.equation), s.flops.total) for s in r.steps if s.name in again]


def _cached(r: Reading, _: str) -> Iterable[Part]:
    return [(f"{c.tensor}, {c.rows:,} {_kind(c)} of {c.per_row:,} elements", part) for c, part in r.cache_parts(False)]


def _cached_per_token(r: Reading, _: str) -> Iterable[Part]:
    def share(c: Cached) -> str:
        return "" if c.every == 1 else f", for {c.every} tokens"

    return [(f"{c.tensor}, {c.per_row:,} elements{share(c)}", part) for c, part in r.cache_parts(True)]


def _cached_beyond(r: Reading, _: str) -> Iterable[Part]:
    return [(f"{c.tensor}, {c.per_row:,} elements", part) for c, part in r.cache_parts(True, True)]


def _kind(c: Cached) -> str:
    return "tokens" if c.every == 1 else f"blocks of {c.every} tokens,"


def _weights(r: Reading, _: str) -> Iterable[Part]:
    space = r.core.space
    return [(str(x), space.elements(x.index)) for x in r.page.inputs.values() if learned(x)]


def _exps(r: Reading, _: str) -> Iterable[Part]:
    inside = {e.out.name for e in core(r.program)}
    return [(str(s.equation), s.exps) for s in r.steps if s.name in inside]


_PARTS: dict[str, Callable[[Reading, str], Iterable[Part]]] = {
    "flops": _by_equation,
    "flops_by_convention": _by_convention,
    "exps": _exps,
    "parameters": _weights,
    "kv_cache_bytes": _cached,
    "kv_cache_bytes_per_token": _cached_per_token,
    "kv_cache_bytes_per_token_beyond_windows": _cached_beyond,
    "hbm_bytes": _by_tensor,
}


def _derived(cost: Cost, key: str) -> Explanation:
    """A number computed from other keys and the accelerator's figures."""
    row, value = DERIVED[key], cost[key]
    if value is None and key.startswith("measured"):
        return Explanation(key, None, row.unit, row.meaning, row.rule, "null: give --measured", (), (), row.source)
    if value is None:
        shown = "null: give a --gpu" if cost.gpu is None and not key.startswith(("intensity", "time_s")) else ""
        return Explanation(key, None, row.unit, row.meaning, row.rule, shown, (), (), row.source)
    if key.startswith("intensity"):
        flops, moved = (cost[part] for part in row.rule.split(" / "))
        return Explanation(key, value, row.unit, row.meaning, row.rule, f"{flops} / {moved}", (), (), row.source)
    gpu = get(cost.gpu_file or cost.gpu or "")
    if key.startswith("measured"):
        shown, sources = _measured(cost, gpu, row.rule)
        return Explanation(key, value, row.unit, row.meaning, row.rule, shown, (), sources, row.source)
    if key in ("time_s", "bound"):
        return _estimated(cost, key)
    figures = _figures(cost, gpu)
    parts = tuple((f"{name} of {gpu.name}: {'; '.join(f.sources)}", f.value) for name, f in figures.items())
    rate, bandwidth, *_ = (f.value for f in figures.values())
    terms = " + ".join(f"{run.count} x {_terms(run.cost, gpu)}" for _, run in kinds(cost.layers)) or _terms(cost, gpu)
    shown = {"ridge": f"{rate} / {bandwidth}", "time_bound_s.unfused": ""}.get(key, terms)
    return Explanation(key, value, row.unit, row.meaning, row.rule, shown, (), parts, row.source)


def _estimated(cost: Cost, key: str) -> Explanation:
    """The estimate, or what binds it: the kernel and launches, and the constants that it stands on."""
    row, value, e = DERIVED[key], cost[key], cost.estimate
    if e is None:
        shown = f"max of the bound's terms: {cost.time_bound_by}" if key == "bound" else f"null: {cost.time_note}"
        return Explanation(key, value, row.unit, row.meaning, row.rule, shown, (), (), row.source)
    if key == "bound":
        busy = tuple((f"{unit}, part of the kernel's time", share) for unit, share in e.busy.items())
        return Explanation(key, value, row.unit, row.meaning, row.rule, "", (), busy, row.source)
    constants = tuple((f"{n} of {k}", v) for k in e.kernels for n, v in _constants(cost, k).items())
    shown = f"{e.kernel_time_s!r} + {e.launch_time_s!r}"
    return Explanation(key, value, row.unit, row.meaning, row.rule, shown, (), constants, row.source)


def _constants(cost: Cost, kernel: str) -> dict[str, float]:
    """The constants of a kernel that an estimate was made with, by name and unit."""
    from attnmath.hardware.constants import ENGINE, KERNEL, SHARED, of_gpu
    from attnmath.hardware.estimates import kernel_shape, phase_of

    parts = [run.cost for run in cost.layers] or [cost]
    assert cost.estimate is not None
    phase = phase_of(kernel_shape(parts[0].readings[0]), cost.phase == "decode")
    values, _ = of_gpu(cost.gpu_file).of(kernel, cost.estimate.engine, phase)
    meanings = {**KERNEL, **ENGINE, **SHARED}
    return {f"{k}, {meanings[k].unit}": v for k, v in values.items() if k in meanings}


def _measured(cost: Cost, gpu: Gpu, rule: str) -> tuple[str, tuple[Part, ...]]:
    """A measured number's rule with the values put in, and the figure in it."""
    *own, last = rule.split(" / ")
    if not own:
        return "", ()
    if last != "tensor_flop_per_s":
        return " / ".join(repr(cost[k]) for k in (*own, last)), ()
    dtype = cost.inputs["dtype"]
    rate = gpu.tensor_flop_per_s[dtype]
    part = f"{last}.{dtype} of {gpu.name}: {'; '.join(rate.sources)}", rate.value
    return " / ".join([*(repr(cost[k]) for k in own), repr(rate.value)]), (part,)


def _figures(cost: Cost, gpu: Gpu) -> dict[str, Figure]:
    """The figures that a bound stands on: the matrix rate, the bandwidth, and what the other terms take."""
    dtype = cost.inputs["dtype"]
    names = [
        *(n for n in ("processors", "clock_hz", "max_clock_hz", "exp_per_clock") if gpu.exp_rate and n in gpu.figures),
        *(["l2_bytes"] * (cost.l2 == "warm" and "l2_bytes" in gpu.figures)),
    ]
    first = {
        f"tensor_flop_per_s.{dtype}": gpu.tensor_flop_per_s[dtype],
        "hbm_bytes_per_s": gpu.figures["hbm_bytes_per_s"],
    }
    return first | {n: gpu.figures[n] for n in names}


def _terms(cost: Cost, gpu: Gpu) -> str:
    moved = int(cost.hbm_bytes.compulsory or 0)
    b = bound(gpu, cost.inputs["dtype"], cost.flops.matmul, cost.exps, moved, cost.l2 == "warm")
    terms = (("tensor", b.tensor_s), ("exp", b.exp_s), ("hbm", b.hbm_s))
    return f"max({', '.join(f'{unit} {t:.4g} s' for unit, t in terms if t is not None)})"


SETTINGS = {
    "inputs.mask": "which key a query sees",
    "inputs.dtype": "how activations are stored and multiplied",
    "inputs.kv_dtype": "how the cache is stored",
    "inputs.schedule": "in which order and tiles the core is walked: loops from the outermost, an index and its tile each",
    "inputs.backward_schedule": "the same of the backward pass",
    "inputs.recompute": "what the backward pass computes again: none, selective (what has a query and a key), or full",
    "inputs.layers": "attention layers of the model",
    "variant": "the attention variant",
    "with": "the modifiers on it, in order",
    "phase": "prefill: new tokens; decode: one new token per sequence, unless --context is given",
    "form": "which of the variant's equivalent sets of equations",
    "gpu": "the accelerator",
}


def _setting(cost: Cost, key: str) -> Explanation:
    """What was given or assumed: what it means, and what it is if nobody says."""
    key = f"inputs.{key}" if key in cost.inputs else key
    if key not in keys(cost):
        raise Unknown("key", key, keys(cost))
    if not key.startswith("inputs."):
        return Explanation(
            key, getattr(cost, "with_" if key == "with" else key), "", SETTINGS[key], "", "", (), (), cost.source
        )
    name = key.removeprefix("inputs.")
    letter = LETTERS.get(OPTIONS.get(name.replace("_", "-"), ""))
    default = (letter.why or ("" if callable(letter.default) else letter.default)) if letter else ""
    meaning = letter.meaning if letter else SETTINGS[key]
    how = "assumed" if name in cost.assumed else "given"
    return Explanation(key, cost.inputs[name], "", meaning, f"default: {default}" if default else "", "", (), (), how)
