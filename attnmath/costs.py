"""`cost`: what a layer, or all attention layers of a model, costs; every number read off the equations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from attnmath import layers
from attnmath import modifiers as mods
from attnmath.errors import InputError, NoClosedForm, NoSchedule
from attnmath.keys import KEYS, UNTIMED, Reading, usual_form
from attnmath.language.formula import Formula, Point
from attnmath.language.letters import LETTERS
from attnmath.readings.count import recursive
from attnmath.readings.memory import caches_tokens, state_bits
from attnmath.readings.schedules import parse as schedule_of
from attnmath.request import PHASES, TRAIN, by_letter, check, check_texts, check_trainable, check_useful, plain
from attnmath.results import Conventions, Cost, FlopCounts, Fusion, LayerRun, StepCost, Traffic

if TYPE_CHECKING:
    from attnmath.hardware import Gpu

SCHEDULED = ("hbm_bytes.fused", "memory_bytes.fused")  # what a mask's tiles have to be counted for
ROUNDED = "each tensor's bytes are rounded up to whole ones"


def cost(
    variant: str | None = None,
    *,
    model: str | None = None,
    modifiers: Iterable[str | mods.Use] = (),
    phase: str = "prefill",
    mask: str | None = None,
    window: int | None = None,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    form: str | None = None,
    schedule: str | None = None,
    recompute: str | None = None,
    gpu: str | None = None,
    engine: str | None = None,
    l2: str = "cold",
    assume_ignored: Iterable[str] = (),
    formulas: bool = True,
    **sizes: int,
) -> Cost:
    """What one attention layer costs, or, with `model`, all attention layers of a model together.

    `sizes`: the options of the variant under their names, `seq=8192, heads=32, kv_heads=8` (tokens, counts, elements);
    `model`: a config.json or its directory; `modifiers`: as after --with; `dtype`, `kv_dtype`: how elements are stored;
    `schedule`: in which order and tiles the core is walked, a name (`flash-2`, `split-kv:z=16`) or loops (`b h t/64 n/64`);
    `recompute`: in training, what the backward pass computes again: none, selective (all of queries by keys) or full;
    `gpu`: a name or a TOML file, for a lower bound on time and an estimate of it; `engine`: whose kernels the estimate is
    of (vllm, sglang, trtllm, or ideal); `phase`: prefill, decode, or train, which is forward and backward. The result is
    in FLOPs, bytes and seconds; what was not given and had to be filled in stands in its `assumed`; `formulas` False
    leaves them out, for many rows. Raises InputError, naming the culprit, for anything that does not fit.

    >>> c = cost("gqa", seq=8192, heads=32, kv_heads=8)
    >>> c.flops.matmul, c.flops_by_convention.dense, c.kv_cache_bytes_per_token
    (549822922752, 1099511627776, 4096)
    >>> c.formulas["flops.matmul"]
    '2*b*h*t*d*(t + 1)'
    """
    given = {k.replace("_", "-"): plain(v) for k, v in sizes.items()}
    if len(given) < len(sizes):
        raise InputError("an option is given twice, once with - and once with _")
    texts = {"variant": variant, "model": model, "phase": phase, "mask": mask, "form": form, "gpu": gpu, "l2": l2}
    texts |= {"schedule": schedule, "engine": engine, "recompute": recompute}
    check_texts(texts | {"dtype": dtype, "kv_dtype": kv_dtype, "modifiers": modifiers})
    if window is not None:
        given["window"] = plain(window)
    check(given, phase, dtype, kv_dtype, l2, gpu, engine, (*PHASES, TRAIN))
    check_trainable(phase, recompute, {"engine": engine, "kv-dtype": kv_dtype})
    settings: dict[str, Any] = {"phase": phase, "dtype": dtype, "kv_dtype": kv_dtype, "formulas": formulas}
    settings |= {"engine": engine, "gpu_file": gpu, "recompute": recompute}
    settings["schedule"] = schedule_of(schedule) if schedule is not None else None
    accelerator = _gpu(gpu)
    if model is not None:
        if variant is not None or mask is not None or form is not None or list(modifiers):
            raise InputError(
                "--model says which layers there are: --variant, --with, --mask and --form have no use beside it"
            )
        return replace(_model_cost(model, given, settings, accelerator, l2, tuple(assume_ignored)), gpu_file=gpu)
    if list(assume_ignored):
        raise InputError("--assume-ignored has a use only with a --model")
    if variant is None:
        raise InputError("name a --variant, or a --model")
    layer = layers.build(variant, modifiers, mask, "window" in given)
    check_useful(layer, given)
    if kv_dtype is not None and not any(map(caches_tokens, layer.forms.values())):
        raise InputError(
            f"--kv-dtype has no use for {variant}: it caches no tokens, but a state, kept in float32 or as wide as --dtype"
        )
    return replace(_layer_cost(layer, given, settings, form, accelerator, l2), gpu_file=gpu)


def _gpu(name: str | None) -> Gpu | None:
    if name is None:
        return None
    from attnmath.hardware import get

    return get(name)


def _layer_cost(
    layer: layers.Layer,
    given: Mapping[str, int],
    settings: Mapping[str, Any],
    form: str | None,
    gpu: Gpu | None,
    l2: str,
) -> Cost:
    dtype = settings["dtype"] or "bf16"
    kv_dtype = settings["kv_dtype"] or dtype
    asked = by_letter(given, settings["phase"], layer.names)
    layer.variant.form(form)
    train = settings["phase"] == TRAIN
    chosen, misfits = (form, {}) if form is not None else usual_form(layer, asked, dtype, kv_dtype, train)
    page = layer.form(chosen)
    values, filled = layer.sizes(asked, page=page)
    layers.check_documents(layer.mask, values)
    at = Point({}, {"n": "t"} if "past" in layer.names else {})
    symbols, _ = layer.sizes(asked, at.symbol, page)
    own = (dtype, kv_dtype, settings["schedule"])
    again = settings["recompute"]
    numbers, formulas = (Reading(page, sizes, *own, train=train, recompute=again) for sizes in (values, symbols))
    n: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for key, row in KEYS.items():
        try:
            n[key] = row.read(numbers)
        except (NoClosedForm, NoSchedule) as error:
            if key not in SCHEDULED and not isinstance(error, NoSchedule):
                raise
            n[key], refused[key] = None, str(error)
    schedule = _schedule(numbers, settings, refused)

    def pick(prefix: str, *names: str) -> list[Any]:
        return [n[f"{prefix}.{x}"] for x in names]

    inputs = {_json(x): values[x] for x in values if x in LETTERS and LETTERS[x].option}
    masks = [pair for pair in page.sees if pair[0] == "t"]
    inputs |= {
        "mask": str(page.sees[layers.PAIR]) if masks == [layers.PAIR] else None,
        "dtype": dtype,
        "kv_dtype": kv_dtype,
        "schedule": schedule,
    }
    if train:
        inputs |= {"backward_schedule": numbers.walks[-1].schedule.label if schedule else None}
        inputs |= {"recompute": numbers.recomputes}
    assumed = {_json(x): values[x] for x in filled}
    assumed |= {"form": chosen} if form is None and len(layer.forms) > 1 else {}
    assumed |= {"schedule": schedule} if schedule and settings["schedule"] is None else {}
    assumed |= {"recompute": numbers.recomputes} if train and again is None else {}
    assumed |= {"dtype": dtype} if settings["dtype"] is None else {}
    assumed |= {"kv_dtype": kv_dtype} if settings["kv_dtype"] is None and not train else {}
    assumed |= {"state_dtype": "fp32"} if recursive(page) and state_bits(dtype) == 32 and not train else {}
    out = Cost(
        variant=layer.variant.name,
        with_=[str(u) for u in layer.uses],
        phase=settings["phase"],
        inputs=inputs,
        assumed=assumed,
        steps=[StepCost(s.name, str(s.equation), s.flops.total, s.exps, s.at_most) for s in numbers.steps],
        flops=FlopCounts(*pick("flops", *FlopCounts.__struct_fields__)),
        flops_by_convention=Conventions(*pick("flops_by_convention", "exact", "dense", "causal_half", "torch")),
        exps=n["exps"],
        parameters=n["parameters"],
        kv_cache_bytes=n["kv_cache_bytes"],
        kv_cache_bytes_per_token=n["kv_cache_bytes_per_token"],
        kv_cache_bytes_per_token_beyond_windows=n["kv_cache_bytes_per_token_beyond_windows"],
        state_bytes=n["state_bytes"],
        memory_bytes=Fusion(*pick("memory_bytes", "unfused", "fused")),
        hbm_bytes=Traffic(*pick("hbm_bytes", "compulsory", "fused", "unfused")),
        intensity=_intensity(n["flops.matmul"], Traffic(*pick("hbm_bytes", "compulsory", "fused", "unfused"))),
        form=chosen if len(layer.forms) > 1 else None,
        forms_left_out=misfits,
        refused=refused,
        upper_bounds=list(numbers.upper_bounds),
        source=layer.variant.source,
        readings=(numbers, formulas),
        **(_formulas(formulas) if settings["formulas"] else {}),
    )
    return _timed(out, [LayerRun(1, out)], gpu, settings, l2) if gpu else out


def _schedule(r: Reading, settings: Mapping[str, Any], refused: dict[str, str]) -> str | None:
    """The loops in the page's own indices; None, and why, where none walk its core. A schedule that was asked for has to."""
    try:
        return r.traffic.schedule.label
    except NoSchedule as error:
        if settings["schedule"] is not None:
            raise
        refused["hbm_bytes.fused"] = str(error)
        if r.train:
            refused["memory_bytes.fused"] = str(error)
        return None


def _json(letter: str) -> str:
    return (LETTERS[letter].option or letter).replace("-", "_")


def _formulas(r: Reading) -> dict[str, Any]:
    """Every key's formula, and for those that hold only under conditions, the conditions."""
    found: dict[str, Any] = {}
    regime: dict[str, list[str]] = {}
    for key, row in KEYS.items():
        try:
            found |= {} if (formula := row.read(r)) is None else {key: formula}
        except NoSchedule:
            continue
        except NoClosedForm as error:  # the number stands, its formula does not exist
            regime[key] = [f"no formula: {error}"]
    regime |= {key: list(f.conditions) for key, f in found.items() if isinstance(f, Formula) and f.conditions}
    for key, f in found.items():
        whole = key in SCHEDULED and all(isinstance(b, int) and b % 8 == 0 for b in r.core.bits.values())
        if (
            KEYS[key].unit == "bytes"
            and not whole
            and _divides(f, by_letters=key.startswith("kv_cache_bytes_per_token"))
        ):
            regime.setdefault(key, []).append(ROUNDED)
    return {"formulas": {key: str(f) for key, f in found.items()}, "regime": regime}


def _divides(f: Any, by_letters: bool) -> bool:
    """Whether a formula may be no whole number: a token's share of a block, or bits that fill no bytes.

    The other denominators are numbers of chunks, which the sizes of a chunked form make whole.
    """
    return any(b != 1 or (by_letters and any(p < 0 for _, p in m)) for m, (_, b) in getattr(f, "terms", {}).items())


def _largest(found: Iterable[int | None]) -> int | None:
    known = [x for x in found if x is not None]
    return max(known) if known else None


def _intensity(flops: int, traffic: Traffic) -> Traffic:
    return Traffic(*(flops / b if b else None for b in (traffic.compulsory, traffic.fused, traffic.unfused)))


def _timed(out: Cost, parts: list[LayerRun], gpu: Gpu, settings: Mapping[str, Any], l2: str) -> Cost:
    """The bounds on time and the estimate, a layer after the other; none for a page whose queries meet no keys."""
    dtype = settings["dtype"] or "bf16"
    if out.phase == TRAIN and out.hbm_bytes.compulsory is None:
        return replace(out, gpu=gpu.name, l2=l2, time_note=out.refused["hbm_bytes.compulsory"])
    if not all(part.cost.readings[0].core.equations for part in parts):
        return replace(out, gpu=gpu.name, l2=l2)
    from attnmath.hardware.roofline import bound, ridge

    fused, unfused, by_unit = 0.0, 0.0, {"tensor": 0.0, "exp": 0.0, "hbm": 0.0}
    for times, part in ((run.count, run.cost) for _, run in kinds(parts)):
        numbers: Reading = part.readings[0]
        sure = {s.name: not s.at_most for s in numbers.steps}  # the work that the data may spare is in no bound
        matmul = sum(s.flops.matmul for s in numbers.steps if sure[s.name])
        exps = part.exps if all(sure.values()) else 0
        whole = bound(gpu, dtype, matmul, exps, int(part.hbm_bytes.compulsory or 0), l2 == "warm")
        fused += times * whole.time_s
        by_unit[whole.binds] += times * whole.time_s
        work = {s.name: s for s in numbers.steps}
        for step in numbers.core.steps:
            own = [work[e.out.name] for e in step.equations if sure[e.out.name]]
            least = bound(
                gpu,
                dtype,
                sum(s.flops.matmul for s in own),
                sum(s.exps for s in own),
                numbers.core.step_bytes(step),
                l2 == "warm",
            )
            unfused += times * least.time_s
    binds = max(by_unit, key=lambda u: by_unit[u])
    timed = replace(
        out,
        gpu=gpu.name,
        l2=l2,
        time_bound_s=Fusion(unfused, fused),
        time_bound_by=binds,
        bound=binds,
        ridge=ridge(gpu, dtype),
    )
    return _estimated(timed, parts, gpu, settings)


def _estimated(out: Cost, parts: list[LayerRun], gpu: Gpu, settings: Mapping[str, Any]) -> Cost:
    """The estimate of the time model, or why there is none."""
    if out.phase == TRAIN:
        return replace(out, time_note=UNTIMED)
    from attnmath.hardware.constants import of_gpu
    from attnmath.hardware.estimates import DEFAULT_ENGINE, estimate, summed

    engine = settings["engine"] or DEFAULT_ENGINE
    found = []
    book = of_gpu(settings["gpu_file"])
    try:
        for times, part in ((run.count, run.cost) for _, run in kinds(parts)):
            least = part.time_bound_s.fused or (out.time_bound_s.fused if len(parts) == 1 else 0.0) or 0.0
            one = estimate(part.readings[0], gpu, engine, out.phase == "decode", out.l2 == "warm", least, book)
            found.append((times, one))
    except InputError as error:
        return replace(out, time_note=str(error))
    time_s, band, made = summed(found)
    assumed = out.assumed if settings["engine"] else {**out.assumed, "engine": engine}
    return replace(out, time_s=time_s, time_error_band=band, estimate=made, bound=made.binds, assumed=assumed)


def _all_regimes(runs: list[LayerRun]) -> dict[str, list[str]]:
    """The conditions of every run of layers, by key."""
    out: dict[str, list[str]] = {}
    for key, conditions in (item for r in runs for item in r.cost.regime.items()):
        out[key] = list(dict.fromkeys([*out.get(key, []), *conditions]))
    return out


def _over_layers(runs: list[LayerRun], key: str) -> str:
    """A model's formula: the layer's, times their number; of several kinds, each by the name of its first run."""
    if len(runs) == 1:
        return f"{runs[0].count}*{_bracketed(runs[0].cost.formulas[key])}"
    return " + ".join(f"{run.count}*layers[{k}].{key}" for k, run in kinds(runs))


def kinds(runs: list[LayerRun]) -> list[tuple[int, LayerRun]]:
    """Each kind of layer: the place of its first run, and all of its layers together.

    >>> kinds([])
    []
    """
    first = {id(run.cost): k for k, run in reversed(list(enumerate(runs)))}
    count = {of: sum(r.count for r in runs if id(r.cost) == of) for of in first}
    return [(k, LayerRun(count[of], runs[k].cost)) for of, k in sorted(first.items(), key=lambda item: item[1])]


def _bracketed(text: str) -> str:
    return f"({text})" if " " in text else text


def _model_cost(
    path: str, given: dict[str, int], settings: Mapping[str, Any], gpu: Gpu | None, l2: str, ignored: tuple[str, ...]
) -> Cost:
    """The attention layers of a model, summed; the config gives every size but the batch and the tokens."""
    from attnmath.models import read

    fixed = [k for k in given if k not in ("batch", "seq", "context")]
    if fixed:
        raise InputError(
            f"--{', --'.join(fixed)}: the model's config sets this; "
            "of the sizes, only --batch, --seq and --context are of use beside --model"
        )
    described = read(path, ignored)
    if why := described.refused.get("flops"):
        raise InputError(
            f"{described.name}: {why}; `attnmath model` says what it caches and how many parameters it has"
        )
    if any(run.variant == "cross" for run in described.runs):
        raise InputError(
            f"{described.name}: an encoder and a decoder see different numbers of tokens; `attnmath model` counts both, "
            "with --source"
        )
    runs = []
    known: dict[str, Cost] = {}  # equal layers that are not neighbours are counted once
    for run in described.runs:
        kind = repr((run.variant, run.uses, run.sizes, run.mask))
        if kind not in known:
            layer = layers.build(run.variant, run.uses, run.mask, "window" in run.sizes)
            known[kind] = _layer_cost(layer, {**given, **run.sizes}, settings, None, gpu, l2)
        runs.append(LayerRun(run.count, known[kind]))

    def summed(key: str) -> Any:
        values = [r.cost[key] for r in runs]
        return None if None in values else sum(r.count * v for r, v in zip(runs, values))

    def each(kind: type[Struct], prefix: str) -> Any:
        return kind(*(summed(f"{prefix}.{name}") for name in kind.__struct_fields__))

    first = runs[0].cost
    traffic, flops = each(Traffic, "hbm_bytes"), each(FlopCounts, "flops")
    own = ("batch", "seq", "context", "dtype", "kv_dtype")
    walks = list(dict.fromkeys(r.cost.inputs["schedule"] for r in runs))
    again = list(dict.fromkeys(r.cost.inputs.get("recompute") for r in runs))
    shared = {"recompute": again[0] if len(again) == 1 else None} if first.phase == TRAIN else {}
    together_ = Cost(
        variant=" + ".join(dict.fromkeys(r.cost.variant for r in runs)),
        with_=list(dict.fromkeys(u for r in runs for u in r.cost.with_)),
        phase=first.phase,
        inputs={
            "layers": sum(r.count for r in runs),
            **{k: first.inputs[k] for k in own},
            "schedule": walks[0] if len(walks) == 1 else None,
            **shared,
        },
        assumed={
            k: v
            for k, v in first.assumed.items()
            if k in (*own, "form") or (k == "schedule" and len(walks) == 1) or (k == "recompute" and shared.get(k))
        }
        | dict(described.assumed),
        steps=[],
        flops=flops,
        flops_by_convention=each(Conventions, "flops_by_convention"),
        exps=summed("exps"),
        parameters=summed("parameters"),
        kv_cache_bytes=summed("kv_cache_bytes"),
        kv_cache_bytes_per_token=summed("kv_cache_bytes_per_token"),
        kv_cache_bytes_per_token_beyond_windows=summed("kv_cache_bytes_per_token_beyond_windows"),
        state_bytes=summed("state_bytes"),
        memory_bytes=Fusion(*(_largest(r.cost[f"memory_bytes.{k}"] for r in runs) for k in ("unfused", "fused"))),
        hbm_bytes=traffic,
        intensity=_intensity(flops.matmul, traffic),
        regime=_all_regimes(runs),
        refused={k: why for r in runs for k, why in r.cost.refused.items()},
        forms_left_out={k: why for r in runs for k, why in r.cost.forms_left_out.items()},
        upper_bounds=list(dict.fromkeys(k for r in runs for k in r.cost.upper_bounds)),
        model=described.name,
        layers=runs,
        formulas={
            key: _over_layers(runs, key)
            for key in first.formulas
            if not key.startswith("memory") and all(key in r.cost.formulas for r in runs)
        },
        source=described.source,
    )
    return _timed(together_, runs, gpu, settings, l2) if gpu else together_
