"""The JSON documents of the verbs, as types: the source of what `attnmath schema` prints; tests hold every example to it."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import schema

from attnmath.errors import Unknown
from attnmath.models.costs import ModelCost
from attnmath.plans.checking import PlanResult
from attnmath.plans.logs import Explanation
from attnmath.plans.replaying import Played
from attnmath.plans.solving import Solution
from attnmath.plans.tradeoffs import Tradeoffs
from attnmath.plans.training_checks import TrainingResult
from attnmath.results import Cost
from attnmath.rooflines import Roofline
from attnmath.tiling import Tiling
from attnmath.training_tiles import TrainingTiling
from attnmath.verifying.results import Verification


class CostDocument(Cost, frozen=True, kw_only=True):
    """`attnmath cost --json`: FLOPs, bytes and seconds; totals cover the batch; with a model, all its attention layers."""

    schema: Literal["attnmath.cost/1"]


class CostRows(Struct):
    """`attnmath cost --json` with several sizes: a row each."""

    schema: Literal["attnmath.cost/1"]
    rows: list[CostDocument]


class Compare(Struct):
    """`attnmath compare --json`: a row per variant and size."""

    schema: Literal["attnmath.compare/1"]
    rows: list[CostDocument]


class RooflineDocument(Roofline, frozen=True, kw_only=True):
    """`attnmath roofline --json`: an accelerator's roofs in FLOP/s and bytes/s, and the points under them."""

    schema: Literal["attnmath.roofline/1"]


class TileDocument(Tiling, frozen=True, kw_only=True):
    """`attnmath tile --json`: how a core is cut up, in tiles and bytes, and what it takes, in seconds."""

    schema: Literal["attnmath.tile/1"]


class TrainingTileDocument(TrainingTiling, frozen=True, kw_only=True):
    """`attnmath tile --phase train --json`: which tiles of both passes fit, in bytes."""

    schema: Literal["attnmath.tile-training/1"]


class TrainingTileRows(Struct):
    """`attnmath tile --phase train --json` with several sizes: a row each."""

    schema: Literal["attnmath.tile-training/1"]
    rows: list[TrainingTiling]


class TileRows(Struct):
    """`attnmath tile --json` with several sizes: a row each."""

    schema: Literal["attnmath.tile/1"]
    rows: list[Tiling]


class ModelDocument(ModelCost, frozen=True, kw_only=True, rename={"class_": "class"}):
    """`attnmath model --json`: parameters, bytes and FLOPs of a whole model; totals cover the batch."""

    schema: Literal["attnmath.model/1"]


class ModelRows(Struct):
    """`attnmath model --json` with several sizes: a row each."""

    schema: Literal["attnmath.model/1"]
    rows: list[ModelDocument]


class Preset(Struct):
    """A model by its name: the fields of its config, and where they come from."""

    name: str
    family: str
    source: str
    config: dict[str, Any]


class Presets(Struct):
    """`attnmath models --json`."""

    schema: Literal["attnmath.models/1"]
    models: list[Preset]


class PlanCheck(PlanResult, frozen=True, kw_only=True):
    """`attnmath plan check --json`: the verdict, every check, and bytes of the fullest GPU by what takes them."""

    schema: Literal["attnmath.plan/1"]


class TrainingCheck(TrainingResult, frozen=True, kw_only=True):
    """The same of a plan of training: bytes of the fullest GPU by what takes them, and the step's time."""

    schema: Literal["attnmath.plan/1"]


class Refused(Struct):
    """A plan without a verdict."""

    file: str
    error: str


class PlanChecks(Struct):
    """`attnmath plan check --json` of several plans, or of one that cannot be read."""

    schema: Literal["attnmath.plan/1"]
    rows: list[PlanCheck]
    errors: list[Refused]


class PlanSolve(Solution, frozen=True, kw_only=True):
    """`attnmath plan solve --json`: the largest plan that fits."""

    schema: Literal["attnmath.plan-solve/1"]


class PlanTradeoffs(Tradeoffs, frozen=True, kw_only=True):
    """`attnmath plan solve --for max-throughput --json`: the best point under the targets, and latency against throughput."""

    schema: Literal["attnmath.plan-tradeoffs/1"]


class PlanReplay(Played, frozen=True, kw_only=True):
    """`attnmath plan replay --json`: what came of playing a plan's requests."""

    schema: Literal["attnmath.plan-replay/1"]


class PlanExplain(Explanation, frozen=True, kw_only=True):
    """`attnmath plan explain --json`: a server's log against a plan."""

    schema: Literal["attnmath.plan-explain/1"]


class VerifyDocument(Verification, frozen=True, kw_only=True):
    """`attnmath verify --json`: each law, what fails and how to repeat it, and each law on each subject."""

    schema: Literal["attnmath.verify/1"]


class Part(Struct):
    """An equation or a tensor, and its share."""

    what: str
    value: float


class Explain(Struct):
    """`attnmath cost --explain KEY --json`: one number traced."""

    schema: Literal["attnmath.explain/1"]
    key: str
    value: Any
    unit: str
    meaning: str
    formula: str
    substitution: str
    source: str
    regime: list[str]
    parts: list[Part]


class Form(Struct):
    """One set of equations, in the language and in LaTeX."""

    name: str
    text: list[str]
    latex: list[str]
    tensors: dict[str, list[str]]


class Legend(Struct):
    """What a letter stands for."""

    letter: str
    printed: str
    meaning: str
    set_by: str


class Equations(Struct, rename={"with_": "with"}):
    """`attnmath equations --json`."""

    schema: Literal["attnmath.equations/1"]
    variant: str
    with_: list[str]
    title: str
    source: str
    about: str
    backward: bool
    forms: list[Form]
    legend: list[Legend]


class Name(Struct):
    """What a letter of a derivation means."""

    text: str
    latex: str
    meaning: str


class Definition(Struct):
    """What a name of a derivation stands for: its equations, in text and in the lines of LaTeX's `aligned`."""

    text: list[str]
    latex: list[list[str]]
    meaning: str


class Hypothesis(Struct):
    """What a derivation assumes."""

    text: str
    latex: list[str]
    meaning: str


class ProofStep(Struct):
    """A step: what it says, how far it was shown to hold, by what, and from which earlier steps or hypotheses."""

    number: int
    says: str
    text: str
    latex: list[str]
    level: Literal["proved for all sizes", "proved at sizes", "tested numerically", "cited"]
    check: str
    rules: list[str]
    uses: list[int | str]


class ProofTie(Struct):
    """Names of a derivation that were compared with what a variant computes: the largest difference, over all entries."""

    says: str
    variant: str
    tensors: list[str]
    entries: int
    shapes: int
    seed: int
    error: float


class Derive(Struct):
    """`attnmath derive --json`: a derivation whose every step was checked. Formulas in sentences stand in backticks."""

    schema: Literal["attnmath.derive/1"]
    name: str
    title: str
    question: str
    statement: str
    source: str
    notation: list[Name]
    definitions: list[Definition]
    hypotheses: list[Hypothesis]
    assumes: list[str]
    steps: list[ProofStep]
    ties: list[ProofTie]
    so: str
    levels: dict[str, int]


class DerivationRow(Struct):
    """What a derivation asks and states."""

    name: str
    title: str
    source: str
    question: str
    statement: str


class Derivations(Struct):
    """`attnmath derivations --json`."""

    schema: Literal["attnmath.derivations/1"]
    derivations: list[DerivationRow]


class Variant(Struct):
    """A variant, its forms and the options that set its sizes."""

    name: str
    title: str
    source: str
    about: str
    forms: list[str]
    options: list[str]
    equations: dict[str, list[str]]
    tensors: dict[str, list[str]]


class Variants(Struct):
    """`attnmath variants --json`."""

    schema: Literal["attnmath.variants/1"]
    variants: list[Variant]


class Modifier(Struct):
    """A modifier; `options` with their defaults."""

    name: str
    title: str
    about: str
    source: str
    options: dict[str, Any]


class Modifiers(Struct):
    """`attnmath modifiers --json`."""

    schema: Literal["attnmath.modifiers/1"]
    modifiers: list[Modifier]


class NamedMask(Struct):
    """A mask by its name; `sizes` are the arguments it takes, `keys` what a key stands for."""

    name: str
    sizes: list[str]
    meaning: str
    latex: str
    keys: Literal["tokens", "blocks"]


class Masks(Struct):
    """`attnmath masks --json`."""

    schema: Literal["attnmath.masks/1"]
    masks: list[NamedMask]


class NamedSchedule(Struct):
    """A schedule: its loops from the outermost to the innermost, and what its tiles keep on the chip."""

    name: str
    loops: str
    meaning: str
    on_chip: str
    source: str


class Schedules(Struct):
    """`attnmath schedules --json`."""

    schema: Literal["attnmath.schedules/1"]
    schedules: list[NamedSchedule]


class Figure(Struct):
    """A figure; `measured` says that programs reach it, and not that the vendor states it."""

    value: float
    unit: str
    meaning: str
    measured: bool
    sources: list[str]
    note: str


class Gpu(Struct):
    """An accelerator with its figures, each with its sources; texts that nobody states are empty."""

    name: str
    title: str
    vendor: str
    architecture: str
    compute_capability: str
    link: str
    figures: dict[str, Figure]


class Gpus(Struct):
    """`attnmath gpus --json`."""

    schema: Literal["attnmath.gpus/1"]
    gpus: list[Gpu]


class FileFigure(Struct, forbid_unknown_fields=True):
    """A figure in a GPU file: a value, and a source: words, a key of [sources], or several that agree."""

    value: float
    source: str | list[str]
    note: str | UnsetType = UNSET


class CalibratedKernel(Struct):
    """Median and 90th percentile of |estimate / measured - 1|: before the fit, after it, and on rows left out of it."""

    kernel: str
    engine: str
    phase: str
    rows: int
    before: tuple[float, float]
    after: tuple[float, float]
    left_out: tuple[float, float]


class FittedConstants(Struct):
    """The constants of a kernel or of an engine in a phase, by name; `attnmath/hardware/constants.py` says what they are."""

    of: str
    phase: str
    values: dict[str, float]


class Calibrate(Struct):
    """`attnmath gpus calibrate --json`."""

    schema: Literal["attnmath.calibrate/1"]
    gpu: str
    name: str
    kernels: list[CalibratedKernel]
    constants: list[FittedConstants]


class FileArchitecture(Struct, forbid_unknown_fields=True):
    """A table [architectures.NAME] of a GPU file: what every processor has."""

    compute_capability: str | UnsetType = UNSET
    fp32_lanes: FileFigure | UnsetType = UNSET
    exp_per_clock: FileFigure | UnsetType = UNSET
    smem_bytes: FileFigure | UnsetType = UNSET
    smem_block_bytes: FileFigure | UnsetType = UNSET
    smem_bytes_per_clock: FileFigure | UnsetType = UNSET
    registers: FileFigure | UnsetType = UNSET
    l2_partitions: FileFigure | UnsetType = UNSET


class FileGpu(Struct, forbid_unknown_fields=True):
    """A table of a GPU file; hbm_bytes_per_s and at least one matrix rate are required.

    `architecture` is a built-in one or one of the file; what its processors have may be said here too.
    """

    hbm_bytes_per_s: FileFigure
    tensor_flop_per_s: dict[str, FileFigure]
    title: str | UnsetType = UNSET
    vendor: str | UnsetType = UNSET
    architecture: str | UnsetType = UNSET
    link: str | UnsetType = UNSET
    processors: FileFigure | UnsetType = UNSET
    clock_hz: FileFigure | UnsetType = UNSET
    max_clock_hz: FileFigure | UnsetType = UNSET
    hbm_bytes: FileFigure | UnsetType = UNSET
    l2_bytes: FileFigure | UnsetType = UNSET
    l2_bytes_per_s: FileFigure | UnsetType = UNSET
    llc_bytes: FileFigure | UnsetType = UNSET
    link_bytes_per_s: FileFigure | UnsetType = UNSET
    power_w: FileFigure | UnsetType = UNSET
    fp32_lanes: FileFigure | UnsetType = UNSET
    exp_per_clock: FileFigure | UnsetType = UNSET
    smem_bytes: FileFigure | UnsetType = UNSET
    smem_block_bytes: FileFigure | UnsetType = UNSET
    smem_bytes_per_clock: FileFigure | UnsetType = UNSET
    registers: FileFigure | UnsetType = UNSET
    l2_partitions: FileFigure | UnsetType = UNSET
    sustained_tensor_fraction: FileFigure | UnsetType = UNSET


SCHEMAS: dict[str, tuple[type, ...]] = {  # the documents that a name stands for
    "cost": (CostDocument, CostRows),
    "compare": (Compare,),
    "roofline": (RooflineDocument,),
    "tile": (TileDocument, TileRows, TrainingTileDocument, TrainingTileRows),
    "explain": (Explain,),
    "equations": (Equations,),
    "derive": (Derive,),
    "derivations": (Derivations,),
    "variants": (Variants,),
    "modifiers": (Modifiers,),
    "masks": (Masks,),
    "schedules": (Schedules,),
    "model": (ModelDocument, ModelRows),
    "models": (Presets,),
    "plan": (),
    "plan-check": (PlanCheck, TrainingCheck, PlanChecks),
    "plan-solve": (PlanSolve,),
    "plan-tradeoffs": (PlanTradeoffs,),
    "plan-replay": (PlanReplay,),
    "plan-explain": (PlanExplain,),
    "sweep": (),
    "verify": (VerifyDocument,),
    "gpus": (Gpus,),
    "gpus-calibrate": (Calibrate,),
    "gpu-file": (FileGpu, FileArchitecture),
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a verb's output or of a file; Unknown, with the nearest names, if there is none.

    >>> json_schema("gpus")["$ref"]
    '#/$defs/Gpus'
    """
    if name not in SCHEMAS:
        raise Unknown("schema", name, SCHEMAS)
    if name == "plan":
        return plan_schema()
    if name == "sweep":
        return sweep_schema()
    parts = [schema(x) for x in SCHEMAS[name]]
    defs = {k: v for p in parts for k, v in p["$defs"].items()}
    for own in defs.values():
        for hidden in ("readings", "gpu_file"):
            own.get("properties", {}).pop(hidden, None)
    if name == "plan-check":
        rows = {"anyOf": [{"$ref": "#/$defs/PlanCheck"}, {"$ref": "#/$defs/TrainingCheck"}]}
        defs["PlanChecks"]["properties"]["rows"]["items"] = rows
    if name == "gpu-file":  # any name for a table of figures, but for the sources
        own = {
            "sources": {"type": "object", "additionalProperties": {"type": "string"}},
            "architectures": {"type": "object", "additionalProperties": {"$ref": "#/$defs/FileArchitecture"}},
        }
        gpu = {"$ref": "#/$defs/FileGpu"}
        return {"type": "object", "properties": own, "additionalProperties": gpu, "$defs": defs}
    either = parts[0] if len(parts) == 1 else {"anyOf": [{"$ref": p["$ref"]} for p in parts]}
    return {**either, "$defs": defs}


def sweep_schema() -> dict[str, Any]:
    """A row of a sweep's table: the columns that are read, which a table may lack, and those that are added.

    >>> sweep_schema()["$defs"]["SweepRow"]["properties"]["time_s"]["type"]
    ['number', 'null']
    """
    from attnmath.sweeping.columns import ADDED, COLUMNS, NAMES

    rows: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        kinds = ["string", "null"] if name in NAMES else ["integer", "string", "null"]
        default = f" [{column.default}]" if column.default else ""
        rows[name] = {"type": kinds, "description": f"{column.meaning}{default}"}
    for name, added in ADDED.items():
        unit = f", {added.unit}" if added.unit else ""
        rows[name] = {"type": [added.type, "null"], "description": f"added{unit}: {added.meaning}"}
    row = {"type": "object", "properties": rows, "required": list(ADDED), "additionalProperties": True}
    return {"$ref": "#/$defs/SweepRow", "$defs": {"SweepRow": {"title": "SweepRow", **row}}}


KINDS: dict[str, dict[str, Any]] = {  # of a plan's keys
    "text": {"type": "string", "minLength": 1},
    "name": {"type": "string"},
    "size": {"type": "integer", "minimum": 1},
    "count": {"type": "integer", "minimum": 0},
    "flag": {"type": "boolean"},
    "law": {"type": ["integer", "object"]},
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "margin": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "number": {"type": "number", "exclusiveMinimum": 0},
    "bytes": {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[KMGTkmgt]?[iI]?[bB]\s*$"},
}


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of a plan file, made from the table of its keys.

    >>> plan_schema()["required"]
    ['model']
    """
    from attnmath.plans.fields import REQUIRED, SECTIONS

    def table(section: str) -> dict[str, Any]:
        keys = {
            name: {
                **KINDS[key.kind],
                "description": key.meaning,
                **({"enum": list(key.among)} if key.among else {}),
                **({"default": key.default} if key.default not in (None, REQUIRED) else {}),
            }
            for name, key in SECTIONS[section].items()
        }
        required = [name for name, key in SECTIONS[section].items() if key.default == REQUIRED]
        return {"type": "object", "properties": keys, "required": required, "additionalProperties": False}

    whole = table("")
    whole["properties"] |= {section: table(section) for section in SECTIONS if section}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A capacity plan", **whole}
