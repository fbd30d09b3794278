"""The time model's constants: what each means, what physics allows, and the values that measurements gave.

`constants.toml` is the one list of values; `attnmath gpus calibrate` writes a file of the same form from one's own timings. No
constant belongs to a shape, and none to an accelerator: what an accelerator is stands in its data sheet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown, together
from attnmath.files import parse_toml, read_text, read_toml
from attnmath.hardware.kernels import ENGINES, IDEAL, KERNELS, LIBRARIES, PHASES

BUILT_IN = os.path.join(os.path.dirname(__file__), "constants.toml")


class Meaning(Struct, frozen=True):
    """One constant: its unit, what it is, and the range that physics allows."""

    unit: str
    meaning: str
    low: float
    high: float


LAUNCH = Meaning("us", "launches of the attention kernel and of those around it, in a captured graph", 0.5, 60.0)
KERNEL: dict[str, Meaning] = {  # one value per kernel and phase
    "mma_efficiency": Meaning("of large GEMMs", "rate of the matrix unit inside the tile loop", 0.1, 1.4),
    "overlap": Meaning("1", "part of the shorter of matrix and scalar work that the longer one hides", 0.0, 1.0),
    "block_cycles": Meaning("cycles", "a thread block's prologue and epilogue", 50.0, 20_000.0),
    "tile_cycles": Meaning("cycles", "barriers and bookkeeping of one pair of tiles", 0.0, 3_000.0),
    "exposed": Meaning("1", "part of the queries' and results' transfer that arithmetic does not hide", 0.0, 1.0),
    "hbm_efficiency": Meaning("of the data sheet", "bandwidth that a stream of keys and values reaches", 0.4, 1.0),
    "combine_us": Meaning("us", "starting to join the parts of split keys", 0.0, 30.0),
    "part_cycles": Meaning("cycles", "reading one part of split keys more", 0.0, 800.0),
    "launch_us": LAUNCH,
    "stage_bytes_per_clock": Meaning(
        "bytes/clock", "what a block of a matrix product loads into shared memory", 16, 128
    ),
    "step_us": Meaning("us", "one step of a ring in the low-latency protocols", 0.05, 5.0),
    "latent_share": Meaning("of the links", "rate of the low-latency protocols", 0.02, 0.9),
    "bulk_us": Meaning("us", "setting up the bulk protocol", 1.0, 80.0),
    "bulk_share": Meaning("of the links", "rate of the bulk protocol", 0.1, 1.1),
}
ENGINE: dict[str, Meaning] = {  # one value per engine and phase: what runs around the attention kernel
    "launch_us": LAUNCH,
    "write_bytes_per_clock": Meaning(
        "bytes/clock", "what a processor moves in the pass that writes the cache", 2.0, 64.0
    ),
    "token_cycles": Meaning(
        "cycles", "a processor's work on one new token outside attention: its cache slot, its schedule", 0.0, 6_000.0
    ),
}
SHARED: dict[str, Meaning] = {  # the same for all
    "fp32_per_score": Meaning("instructions", "scale, maximum, subtraction, sum, conversion of one score", 3.0, 8.0),
    "load_bytes_per_clock": Meaning(
        "bytes/clock", "what one block has in flight over the latency of memory", 16.0, 64.0
    ),
    "l2_bytes_per_clock": Meaning("bytes/clock", "what a processor gets from the L2", 20.0, 64.0),
    "l2_kept": Meaning("of the L2", "footprint up to which a replay finds everything there", 0.3, 1.0),
    "l2_gone": Meaning("of the L2", "footprint from which it finds nothing", 1.0, 2.0),
    "small_us": Meaning("us", "one small kernel more in a captured graph", 0.5, 5.0),
    "reference_hz": Meaning("Hz", "clock that launch times are stated at", 1.0e9, 3.0e9),
}
OF_PHASE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # phase: (kernel's constants, engine's constants)
    "prefill": (
        ("mma_efficiency", "overlap", "block_cycles", "tile_cycles", "exposed"),
        ("launch_us", "write_bytes_per_clock", "token_cycles"),
    ),
    "decode": (
        ("mma_efficiency", "tile_cycles", "block_cycles", "hbm_efficiency", "combine_us", "part_cycles"),
        ("launch_us", "token_cycles"),
    ),
    "encoder": (("mma_efficiency", "overlap", "block_cycles", "tile_cycles", "exposed", "launch_us"), ()),
}
OF_PHASE["gemm"] = (
    ("mma_efficiency", "block_cycles", "tile_cycles", "combine_us", "exposed", "launch_us", "stage_bytes_per_clock"),
    (),
)
OF_PHASE["collective"] = (("launch_us", "step_us", "latent_share", "bulk_us", "bulk_share"), ())
OF_PHASE |= {"mla_prefill": OF_PHASE["prefill"], "mla_decode": OF_PHASE["decode"]}
FIXED: dict[str, float] = {  # where a phase does not fit a constant of its own
    "overlap": 0.0,
    "hbm_efficiency": 0.9,
    "combine_us": 2.0,
    "part_cycles": 200.0,
    "write_bytes_per_clock": 20.0,
    "token_cycles": 0.0,
}
WITHOUT_OVERHEAD: dict[str, float] = {
    "mma_efficiency": 1.0,
    "overlap": 1.0,
    "block_cycles": 0.0,
    "tile_cycles": 0.0,
    "exposed": 0.0,
    "hbm_efficiency": 1.0,
    "combine_us": 0.0,
    "part_cycles": 0.0,
    "launch_us": 0.0,
    "write_bytes_per_clock": 1e9,
    "token_cycles": 0.0,
    "small_us": 0.0,
    "load_bytes_per_clock": 1e9,
    "l2_bytes_per_clock": 1e9,
}


class Band(Struct, frozen=True):
    """How wrong the estimate was on measured kernels: median and 90th percentile of |estimate / measured - 1|."""

    median: float
    p90: float
    kernels: int
    gpus: tuple[str, ...] = ()


class Book(Struct, frozen=True):
    """All constants: shared ones, those of kernels and of engines by phase, and the error bands."""

    shared: Mapping[str, float]
    kernels: Mapping[str, Mapping[str, Mapping[str, float]]]
    engines: Mapping[str, Mapping[str, Mapping[str, float]]]
    bands: Mapping[str, Mapping[str, Band]]
    elsewhere: Mapping[str, Band]
    source: str

    def of(self, kernel: str, engine: str, phase: str) -> tuple[dict[str, float], tuple[str, ...]]:
        """(the constants of a kernel as an engine runs it, what had to be taken from elsewhere).

        >>> k, assumed = built_in().of("flash-attention-3", "vllm", "prefill")
        >>> 0 < k["block_cycles"] < 20_000, assumed
        (True, ())
        """
        if engine == IDEAL:
            return {**self.shared, **WITHOUT_OVERHEAD}, ()
        own, other = OF_PHASE[phase]
        assumed: list[str] = []
        found = {**FIXED, **self.shared}
        for kind, table, name, wanted in (
            ("kernel", self.kernels, kernel, own),
            ("engine", self.engines, engine, other),
        ):
            values, taken = _nearest(table, name, phase, wanted)
            found |= values
            assumed += [f"{kind} {name} was not measured in {phase.replace('_', ' ')}: {taken}"] if taken else []
        return found, tuple(assumed)

    def band(self, kernel: str, phase: str, gpu: str) -> Band | None:
        """How wrong a kernel's estimate is on an accelerator: as found there, else as found on what was not fitted.

        None where nobody measured the phase.
        """
        own = self.bands.get(kernel, {}).get(phase)
        return own if own and gpu in own.gpus else self.elsewhere.get(phase)


def _nearest(
    table: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, phase: str, wanted: tuple[str, ...]
) -> tuple[dict[str, float], str]:
    """(values, where they come from if not from this row).

    Of its own, of its related phase, of the median of its kin, of that of all others.
    """
    if not wanted:
        return {}, ""
    rows = table.get(name, {})
    related = {"mla_prefill": "prefill", "mla_decode": "decode", "encoder": "prefill"}
    for of in (phase, related.get(phase, phase)):
        if of in rows and set(wanted) <= set(rows[of]):
            return {k: rows[of][k] for k in wanted}, "" if of == phase else f"its constants of {of}"
    for among, who in ((_kin(name, phase, table), "its kin"), (list(table), "the others")):
        for of in (phase, related.get(phase, phase)):
            same = [table[n][of] for n in among if set(wanted) <= set(table[n].get(of, {}))]
            if same:
                return {k: _middle([r[k] for r in same]) for k in wanted}, f"the median of {who}"
    raise InputError(f"no constants for {phase.replace('_', ' ')} at all")


def _kin(name: str, phase: str, table: Iterable[str]) -> list[str]:
    """Kernels whose matrix unit is fed as this one's is: by itself, or by warps that read for it.

    None in decoding, where the matrix unit waits for memory.
    """
    if name not in KERNELS or phase.endswith("decode"):
        return []
    return [n for n in table if n in KERNELS and KERNELS[n].asynchronous == KERNELS[name].asynchronous]


def _middle(values: list[float]) -> float:
    from statistics import median

    return float(median(values))


@lru_cache
def built_in() -> Book:
    """The constants that come with the package.

    >>> sorted(built_in().shared) == sorted(SHARED)
    True
    """
    return book(parse_toml(read_text(BUILT_IN), BUILT_IN), BUILT_IN)


def of_gpu(path: str | None) -> Book:
    """The constants that a user's own accelerator file brings along, else the built-in ones.

    >>> of_gpu("h100-sxm") is built_in()
    True
    """
    file = (path or "").partition("#")[0]
    if not file.endswith(".toml"):
        return built_in()
    tables = read_toml(file)
    return book(tables, file) if {"kernels", "engines", "shared"} & set(tables) else built_in()


def book(tables: Mapping[str, Any], path: str) -> Book:
    """Tables as a Book, each value within what physics allows.

    >>> book({"shared": {"fp32_per_score": 50}}, "mine.toml")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: mine.toml: shared.fp32_per_score: 50 is outside what physics allows, 3 to 8 instructions
    """
    errors: list[str] = []
    shared = {k: v for k, v, _ in _values("shared", tables.get("shared", {}), SHARED, errors)}
    kernels = _by_phase("kernels", tables.get("kernels", {}), {**KERNELS, **LIBRARIES}, KERNEL, errors)
    engines = _by_phase("engines", tables.get("engines", {}), ENGINES, ENGINE, errors)
    bands: dict[str, Mapping[str, Band]] = {
        kernel: {phase: _band(b) for phase, b in rows.items()} for kernel, rows in tables.get("bands", {}).items()
    }
    elsewhere = {phase: _band(b) for phase, b in tables.get("elsewhere", {}).items()}
    if path != BUILT_IN:
        shared = {**built_in().shared, **shared}
        kernels, engines = (_over(a, b) for a, b in ((built_in().kernels, kernels), (built_in().engines, engines)))
        bands = {**built_in().bands, **bands}
        elsewhere = {**built_in().elsewhere, **elsewhere}
    if errors:
        raise InputError(
            together(errors, f"{path}: {len(errors)} errors:") if len(errors) > 1 else f"{path}: {errors[0]}"
        )
    return Book(shared, kernels, engines, bands, elsewhere, path)


Rows = Mapping[str, Mapping[str, Mapping[str, float]]]


def _over(under: Rows, own: Rows) -> dict[str, dict[str, dict[str, float]]]:
    """The rows of both; where both have one, its values over the other's."""
    return {
        name: {
            phase: {**under.get(name, {}).get(phase, {}), **own.get(name, {}).get(phase, {})}
            for phase in {**under.get(name, {}), **own.get(name, {})}
        }
        for name in {**under, **own}
    }


def _band(table: Mapping[str, Any]) -> Band:
    return Band(table["median"], table["p90"], table["kernels"], tuple(table.get("gpus", ())))


def _by_phase(
    where: str, table: Any, names: Mapping[str, Any], meanings: Mapping[str, Meaning], errors: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in table.items() if isinstance(table, dict) else ():
        if name not in names:
            errors.append(f"{where}.{name}: {Unknown(where.removesuffix('s'), name, names, where)}")
            continue
        for phase, values in rows.items() if isinstance(rows, dict) else ():
            if phase not in PHASES:
                errors.append(f"{where}.{name}.{phase}: {Unknown('phase', phase, PHASES)}")
                continue
            at = f"{where}.{name}.{phase}"
            found.setdefault(name, {})[phase] = {k: v for k, v, _ in _values(at, values, meanings, errors)}
    return found


def _values(
    where: str, table: Any, meanings: Mapping[str, Meaning], errors: list[str]
) -> Iterator[tuple[str, float, Meaning]]:
    if not isinstance(table, dict):
        errors.append(f"{where} is a table of numbers")
        return
    for name, value in table.items():
        if name not in meanings:
            errors.append(f"{where}.{name}: {Unknown('constant', name, meanings)}")
            continue
        row = meanings[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not row.low <= value <= row.high:
            errors.append(
                f"{where}.{name}: {value!r} is outside what physics allows, {row.low:g} to {row.high:g} {row.unit}"
            )
            continue
        yield name, float(value), row
