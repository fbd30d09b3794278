"""`--explain`: a number's equation, the substitution, what it is made of, and where the convention comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from attnmath.costs import Cost
from attnmath.errors import Unknown
from attnmath.keys import DERIVED, KEYS, Reading
from attnmath.language.formula import Formula, render
from attnmath.language.letters import LETTERS, OPTIONS
from attnmath.readings.count import count, learned, unmasked

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
    """Every key that can be explained."""
    settings = [f"inputs.{k}" for k in cost.inputs]
    return [*KEYS, *DERIVED, *settings, "variant", "with", "phase", "form", "gpu"]


def _read(cost: Cost, key: str) -> Explanation:
    row = KEYS[key]
    if row.read is None:
        return Explanation(key, None, row.unit, row.meaning, "", "", (), (), row.source)
    numbers, symbols = cost.readings
    formula = row.read(symbols)
    shown = render(formula, numbers=True) if isinstance(formula, Formula) else str(formula)
    regime = tuple(cost.regime.get(key, ()))
    parts = tuple(p for p in _parts(key, numbers, cost) if p[1])
    return Explanation(key, cost[key], row.unit, row.meaning, str(formula), shown, regime, parts, row.source)


def _over_layers(cost: Cost, key: str) -> Explanation:
    """A model's number: each run of equal layers with its own formula and count."""
    row = KEYS[key]
    if row.read is None:
        return Explanation(key, None, row.unit, row.meaning, "", "", (), (), row.source)
    one = [_read(run.cost, key) for run in cost.layers]
    most = key.startswith("memory")
    join = (
        ("max(" + ", ".join(e.substitution for e in one) + ")")
        if most
        else " + ".join(f"{r.count}*({e.substitution})" for r, e in zip(cost.layers, one))
    )
    parts = tuple(
        (f"{r.count} x {r.cost.variant}: {e.formula}", e.value * (1 if most else r.count))
        for r, e in zip(cost.layers, one)
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
    return [(str(s.equation), getattr(s.flops, kind)) for s in r.steps]


def _by_convention(r: Reading, name: str) -> Iterable[Part]:
    steps = r.steps if name == "exact" else count(unmasked(r.page), r.sizes)
    share = 2 if name == "causal_half" else 1
    return [(str(s.equation), s.flops.matmul // share + (s.flops.projections if name == "torch" else 0)) for s in steps]


def _by_tensor(r: Reading, name: str) -> Iterable[Part]:
    if name == "compulsory":
        return [
            *((f"{n}, read", r.core.bytes([n], seen=True)) for n in r.core.inputs),
            *((f"{n}, written", r.core.bytes([n])) for n in r.core.outputs),
        ]
    return [(str(e), r.core.step_bytes(e)) for e in r.core.equations]


def _cached(r: Reading, _: str) -> Iterable[Part]:
    return [
        (
            f"{c.tensor}, {'a state' if c.tokens is None else f'{c.tokens:,} tokens'} of {c.per_token:,} elements",
            _bytes(c, r),
        )
        for c in r.caches
        if c.tokens is not None
    ]


def _bytes(c: Any, r: Reading) -> int:
    from attnmath.readings.memory import bits, in_bytes

    return int(in_bytes(c.per_token * c.tokens * r.sizes["b"] * bits(r.kv_dtype)))


def _weights(r: Reading, _: str) -> Iterable[Part]:
    space = r.core.space
    return [(str(x), space.elements(x.index)) for x in r.page.inputs.values() if learned(x)]


_PARTS: dict[str, Callable[[Reading, str], Iterable[Part]]] = {
    "flops": _by_equation,
    "flops_by_convention": _by_convention,
    "exps": lambda r, _: [(str(s.equation), s.exps) for s in r.steps],
    "parameters": _weights,
    "kv_cache_bytes": _cached,
    "hbm_bytes": _by_tensor,
}


def _derived(cost: Cost, key: str) -> Explanation:
    row = DERIVED[key]
    value = cost[key]
    parts: list[Part] = []
    shown, source = "", row.source
    if key.startswith("intensity") and value is not None:
        of = row.rule.split(" / ")
        shown = f"{cost[of[0]]} / {cost[of[1]]}"
    if cost.gpu and value is not None and not key.startswith("intensity"):
        from attnmath.hardware import get

        gpu, dtype = get(cost.gpu_file or cost.gpu), cost.inputs["dtype"]
        rates = {"tensor_flop_per_s": gpu.tensor_flop_per_s[dtype], "hbm_bytes_per_s": gpu.figures["hbm_bytes_per_s"]}
        rates |= {n: gpu.figures[n] for n in ("processors", "clock_hz", "exp_per_clock") if gpu.exp_rate}
        rates |= {"l2_bytes": gpu.figures["l2_bytes"]} if cost.l2 == "warm" else {}
        parts = [
            (f"{n}{f'.{dtype}' if n == 'tensor_flop_per_s' else ''} of {gpu.name}: {'; '.join(f.sources)}", f.value)
            for n, f in rates.items()
        ]
        shown = (
            _times(cost, gpu, dtype)
            if key in ("time_bound_s.fused", "bound")
            else f"{rates['tensor_flop_per_s'].value} / {rates['hbm_bytes_per_s'].value}"
            if key == "ridge"
            else ""
        )
    if value is None:
        source = source if not cost.gpu else "not known"
        source = source or row.rule
        shown = "" if cost.gpu or key.startswith("intensity") or key == "time_s" else "null: give a --gpu"
    return Explanation(key, value, row.unit, row.meaning, row.rule, shown, (), tuple(parts), source)


def _times(cost: Cost, gpu: Any, dtype: str) -> str:
    from attnmath.hardware.roofline import bound

    if cost.layers:
        return " + ".join(f"{r.count} x max({_terms(r.cost, bound, gpu, dtype)})" for r in cost.layers)
    return f"max({_terms(cost, bound, gpu, dtype)})"


def _terms(cost: Cost, bound: Any, gpu: Any, dtype: str) -> str:
    b = bound(gpu, dtype, cost.flops.matmul, cost.exps, cost.hbm_bytes.compulsory, cost.l2 == "warm")
    return ", ".join(
        f"{unit} {t:.4g} s" for unit, t in (("tensor", b.tensor_s), ("exp", b.exp_s), ("hbm", b.hbm_s)) if t is not None
    )


def _setting(cost: Cost, key: str) -> Explanation:
    """An input: what it means, and what it is if nobody says."""
    name = key.removeprefix("inputs.")
    if key not in keys(cost) and name not in cost.inputs:
        raise Unknown("key", key, keys(cost))
    if name in cost.inputs:
        letter = LETTERS.get(OPTIONS.get(name.replace("_", "-"), ""))
        meaning = (
            letter.meaning
            if letter
            else {
                "mask": "which key a query sees",
                "dtype": "how activations are stored",
                "kv_dtype": "how the cache is stored",
                "layers": "attention layers of the model",
            }.get(name, name)
        )
        how = "assumed" if name in cost.assumed else "given"
        default = letter.default if letter and isinstance(letter.default, (int, str)) else letter.why if letter else ""
        return Explanation(
            f"inputs.{name}", cost.inputs[name], "", meaning, f"default: {default}" if default else "", "", (), (), how
        )
    value = getattr(cost, "with_" if key == "with" else key)
    return Explanation(
        key,
        value,
        "",
        {
            "variant": "the attention variant",
            "with": "modifiers on it",
            "phase": "prefill or decode",
            "form": "which equations of the variant",
            "gpu": "the accelerator",
        }[key],
        "",
        "",
        (),
        (),
        cost.source,
    )
