"""What `cost` answers, as types: frozen, printable, and a JSON document by `to_dict()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from attnmath.errors import Unknown

SCHEMA = "attnmath.cost/1"


class StepCost(Struct, frozen=True):
    """One equation: its FLOPs and its exponentials."""

    name: str
    equation: str
    flops: int
    exps: int
    at_most: bool = False  # the data decide which pairs exist, so that it may be less


class FlopCounts(Struct, frozen=True):
    """FLOPs by what they belong to: total = projections + core + other, core = matmul + softmax; of them, what a backward
    pass does again, `recomputed`.
    """

    total: int
    projections: int
    core: int
    matmul: int
    softmax: int
    other: int
    recomputed: int = 0


class Conventions(Struct, frozen=True):
    """The matrix products under each named convention."""

    exact: int
    dense: int
    causal_half: int
    torch: int


class Fusion(Struct, frozen=True):
    """A number for the core run step by step, and in one kernel; None: not known."""

    unfused: int | float | None
    fused: int | float | None


class Traffic(Struct, frozen=True):
    """A number per kind of traffic; None: its reading does not exist yet."""

    compulsory: int | float | None
    fused: int | float | None
    unfused: int | float | None


class Measured(Struct, frozen=True):
    """A measured time of the core, and what it comes to; None: nothing was measured.

    `share_of_bound`: the lower bound over it; `mfu`: the share of the matrix units' peak; `hbm_bytes_per_s`: compulsory
    bytes over it.
    """

    time_s: float | None = None
    share_of_bound: float | None = None
    mfu: float | None = None
    hbm_bytes_per_s: float | None = None


class ErrorBand(Struct, frozen=True):
    """How wrong the estimate was on measured kernels: median and 90th percentile of |estimate / measured - 1|.

    `kernels`: how many were measured; `here`: on this accelerator, where otherwise the band is that of engines and
    accelerators that the constants were not fitted to.
    """

    median: float
    p90: float
    kernels: int
    here: bool


class KernelTime(Struct, frozen=True):
    """What an estimate is made of, seconds: `kernel_time_s` and `launch_time_s` add up to `time_s`.

    `busy`: the part of the kernel's time that each unit works; `binds`: the busiest, or launch; `assumed`: what had to be
    taken from elsewhere. Of a model's layers, their sums.
    """

    engine: str
    kernels: list[str]
    kernel_time_s: float
    launch_time_s: float
    binds: str
    busy: dict[str, float]
    assumed: list[str] = []


class LayerRun(Struct, frozen=True):
    """A run of equal layers of a model: the numbers of one of them."""

    count: int
    cost: Cost


class Cost(Struct, frozen=True, rename={"with_": "with"}):
    """What `cost` answers: FLOPs, bytes, seconds; integers are exact. Prints itself; `to_dict()` is the JSON document."""

    variant: str
    with_: list[str]
    phase: str
    inputs: dict[str, Any]
    assumed: dict[str, Any]
    steps: list[StepCost]
    flops: FlopCounts
    flops_by_convention: Conventions
    exps: int
    parameters: int
    kv_cache_bytes: int
    kv_cache_bytes_per_token: int
    kv_cache_bytes_per_token_beyond_windows: int
    state_bytes: int
    memory_bytes: Fusion
    hbm_bytes: Traffic
    intensity: Traffic
    gpu: str | None = None
    time_bound_s: Fusion = Fusion(None, None)
    time_s: float | None = None
    time_error_band: ErrorBand | None = None
    time_note: str = ""  # why there is no estimate
    estimate: KernelTime | None = None
    bound: str | None = None  # what binds the estimate, and where there is none, the bound
    time_bound_by: str | None = None
    ridge: float | None = None
    form: str | None = None
    forms_left_out: dict[str, str] = field(default_factory=dict)  # forms that the sizes do not fit, and why
    model: str | None = None
    layers: list[LayerRun] = field(default_factory=list)
    formulas: dict[str, str] = field(default_factory=dict)
    regime: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # keys without a number, and why
    upper_bounds: list[str] = field(default_factory=list)  # keys whose number the data can only make smaller
    source: str = ""
    l2: str = "cold"
    measured: Measured = Measured()
    gpu_file: str | None = None  # as it was asked for, where it is not a built-in name
    readings: Any = None  # (Reading of integers, Reading of symbols), for --explain

    def to_dict(self) -> dict[str, Any]:
        """The JSON document, as `attnmath schema cost` describes it."""
        return {"schema": SCHEMA, **document(self)}

    def __getitem__(self, key: str) -> Any:
        """A number by its key: `cost["flops.core"]`."""
        from attnmath.keys import DERIVED, KEYS

        settings = [f"inputs.{k}" for k in self.inputs]
        if key not in KEYS and key not in DERIVED and key not in settings:
            raise Unknown("key", str(key), [*KEYS, *DERIVED, *settings])
        value: Any = self
        for part in key.split("."):
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        return value

    def _repr_markdown_(self) -> str:
        from attnmath.cli.render import cost_markdown

        return "\n".join(cost_markdown([self]))

    def __str__(self) -> str:
        from attnmath.cli.render import cost_text

        return cost_text(self)


def document(x: Any) -> Any:
    """A result as plain data, as its JSON document shows it.

    >>> document(Fusion(1, None))
    {'unfused': 1, 'fused': None}
    """
    if isinstance(x, Struct):
        return {name.rstrip("_"): document(getattr(x, name)) for name in x.__struct_fields__ if not _hidden(x, name)}
    if isinstance(x, dict):
        return {k: document(v) for k, v in x.items()}
    return [document(v) for v in x] if isinstance(x, list) else x


def _hidden(x: Any, name: str) -> bool:
    return isinstance(x, Cost) and (
        name in ("gpu_file", "readings") or (name in ("model", "layers") and x.model is None)
    )
