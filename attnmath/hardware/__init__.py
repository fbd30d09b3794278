"""Accelerators: `gpus.toml`, one table each, every figure with its unit and source; a user's own file works the same way.

What all accelerators of an architecture share, figures of one processor, stands once, in `[architectures.NAME]`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct, field

from attnmath.errors import InputError, Unknown, nearest, together
from attnmath.files import parse_toml, read_text, read_toml
from attnmath.readings.memory import BITS

GPUS = os.path.join(os.path.dirname(__file__), "gpus.toml")


class Quantity(Struct, frozen=True):
    """What a figure is: its unit, its meaning, and where it may stand.

    `whole`: only whole numbers make sense. `shared`: of one processor, so that it may stand with the architecture.
    `measured`: what programs reach, not what the vendor states. `share`: a fraction, above 0 and at most 1.
    """

    unit: str
    meaning: str
    whole: bool = False
    shared: bool = False
    measured: bool = False
    share: bool = False


FIGURES: dict[str, Quantity] = {  # every figure that a table may hold
    "processors": Quantity("processors", "streaming multiprocessors, compute units or tensor cores", whole=True),
    "clock_hz": Quantity("Hz", "clock that the peak rates are stated at"),
    "max_clock_hz": Quantity("Hz", "highest clock, reached where no matrix unit works"),
    "hbm_bytes": Quantity("bytes", "device memory", whole=True),
    "hbm_bytes_per_s": Quantity("bytes/s", "bandwidth of device memory"),
    "l2_bytes": Quantity("bytes", "second-level cache", whole=True),
    "l2_partitions": Quantity(
        "partitions", "parts of the L2, each of which keeps its own copy of what its processors read", True, True
    ),
    "l2_bytes_per_s": Quantity("bytes/s", "bandwidth of reads of the second-level cache"),
    "llc_bytes": Quantity("bytes", "last-level cache behind it", whole=True),
    "link_bytes_per_s": Quantity("bytes/s", "bandwidth to the peers in one direction, all links together"),
    "power_w": Quantity("W", "thermal design power"),
    "fp32_lanes": Quantity(
        "multiply-adds/clock", "fp32 multiply-adds per clock and processor, outside the matrix units", True, True
    ),
    "exp_per_clock": Quantity(
        "exponentials/clock",
        "exponentials per clock and processor in the special-function units",
        shared=True,
    ),
    "smem_bytes": Quantity("bytes", "shared memory of a processor", whole=True, shared=True),
    "smem_block_bytes": Quantity("bytes", "shared memory that one thread block may use", whole=True, shared=True),
    "smem_bytes_per_clock": Quantity(
        "bytes/clock", "bandwidth of shared memory per clock and processor", whole=True, shared=True
    ),
    "registers": Quantity("registers", "32-bit registers of a processor", whole=True, shared=True),
    "sustained_tensor_fraction": Quantity(
        "of the peak", "part of the dense 16-bit peak that large matrix products reach", measured=True, share=True
    ),
}

RATE = Quantity(
    "FLOP/s", "dense matrix products; integer operations/s for int8 and int4; fp32 outside the matrix units"
)


class Figure(Struct, frozen=True):
    """A number with where it comes from; several sources agree."""

    value: int | float
    sources: tuple[str, ...]
    note: str = ""


class Gpu(Struct, frozen=True):
    """One accelerator: its figures by name, and its dense matrix rates in FLOP/s by dtype.

    `figures` holds those of its architecture too. `link` names what carries `link_bytes_per_s`.
    """

    name: str
    title: str
    vendor: str
    figures: Mapping[str, Figure]
    tensor_flop_per_s: Mapping[str, Figure] = field(default_factory=dict)
    architecture: str = ""
    compute_capability: str = ""
    link: str = ""

    def figure(self, name: str) -> int | float:
        """A figure's value; InputError if no source supports one.

        >>> get("h100-sxm").figure("processors")
        132
        """
        if name not in self.figures:
            meaning = f"{FIGURES[name].meaning}, {FIGURES[name].unit}" if name in FIGURES else name
            raise InputError(f"{self.name} has no figure {name} ({meaning}): no source was found for it")
        return self.figures[name].value

    def tensor_rate(self, dtype: str) -> int | float:
        """Dense matrix products, FLOP/s.

        >>> get("h100-sxm").tensor_rate("bf16")
        989400000000000
        """
        if dtype not in self.tensor_flop_per_s:
            raise InputError(
                f"{self.name} has no tensor_flop_per_s.{dtype}: {nearest(dtype, self.tensor_flop_per_s, 'dtypes that it has')}"
            )
        return self.tensor_flop_per_s[dtype].value

    @property
    def exp_rate(self) -> float | None:
        """Exponentials per second in the special-function units; None where a figure for it is absent.

        At the highest clock that is stated, so that a bound stays one.
        """
        clock = "max_clock_hz" if "max_clock_hz" in self.figures else "clock_hz"
        parts = [self.figures.get(n) for n in ("processors", clock, "exp_per_clock")]
        return float(parts[0].value * parts[1].value * parts[2].value) if parts[0] and parts[1] and parts[2] else None


def names() -> tuple[str, ...]:
    """The accelerators that are built in.

    >>> "h100-sxm" in names()
    True
    """
    return tuple(n for n in _tables() if n != "sources" and not n.startswith(SHARED))


def architectures() -> tuple[str, ...]:
    """The architectures that are built in.

    >>> "hopper" in architectures()
    True
    """
    return tuple(n.removeprefix(SHARED) for n in _tables() if n.startswith(SHARED))


def get(name: str) -> Gpu:
    """An accelerator by its name, or from a TOML file of one's own: FILE.toml, or FILE.toml#NAME if it holds several.

    Raises InputError with everything that is wrong with its table at once.

    >>> get("h100-sxm").title
    'NVIDIA H100 SXM5 80 GB'
    """
    if not isinstance(name, str):
        raise InputError(f"an accelerator is named by a text, not {name!r:.40}")
    path, _, inside = name.partition("#")
    if not path.endswith(".toml"):
        wanted = name.lower().replace("_", "-")
        wanted = SHORT.get(wanted, wanted)
        if wanted not in names():
            raise Unknown("GPU", name, names(), "GPUs")
        return _read(wanted, {**_built_in("sources"), **_built_in(wanted)}, GPUS)
    table = read_toml(path)
    own = [n for n in table if n not in ("sources", "architectures", *CONSTANTS)]
    if not inside and len(own) != 1:
        raise InputError(
            f"{path} holds {len(own)} accelerators; name one: "
            f"{', '.join(f'{path}#{n}' for n in own) or 'a table [NAME] with its figures'}"
        )
    if inside and inside not in own:
        raise Unknown("GPU", inside, own, f"GPUs in {path}")
    return _read(inside or own[0], table, path)


SHARED = "architectures."
SHORT = {  # names without the memory's size, for the larger one
    "a100-sxm": "a100-sxm-80g",
    "a100-pcie": "a100-pcie-80g",
    "v100-sxm": "v100-sxm-32g",
    "gh200": "gh200-96g",
}
CONSTANTS = (
    "shared",
    "kernels",
    "engines",
    "bands",
    "elsewhere",
)  # of the time model, which a user's file may bring along


@lru_cache
def _tables() -> dict[str, str]:
    """The text of every table of the built-in file, by its name; subtables stand with their table."""
    out: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=\[)", read_text(GPUS))[1:]:
        name = re.match(rf"\[((?:{re.escape(SHARED)})?[^\].]+)", part)[1]  # type: ignore[index]
        out[name] = out.get(name, "") + part
    return out


@lru_cache
def _built_in(name: str) -> dict[str, Any]:
    """One built-in table; to parse the others too would take most of a command's time."""
    return parse_toml(_tables()[name], GPUS)


def _read(name: str, tables: dict[str, Any], path: str) -> Gpu:
    table, sources = tables[name], tables.get("sources", {})
    if not isinstance(table, dict) or not isinstance(sources, dict):
        raise InputError(f"{path}: {name} and sources are tables, written [{name}] and [sources]")
    errors = [f"sources.{k} must be text" for k, v in sources.items() if not isinstance(v, str)]
    texts = {k: _text(f"{name}.{k}", table.get(k, ""), errors) for k in ("title", "vendor", "architecture", "link")}
    capability, shared = _architecture(texts["architecture"], name, tables, errors)
    figures = shared | {k: _figure(f"{name}.{k}", v, sources, errors) for k, v in table.items() if k in FIGURES}
    rates = table.get("tensor_flop_per_s", {})
    if not isinstance(rates, dict):
        errors.append(f"{name}.tensor_flop_per_s is a table of rates by dtype")
        rates = {}
    tensor = {k: _figure(f"{name}.tensor_flop_per_s.{k}", v, sources, errors) for k, v in rates.items()}
    errors += [f"{name}.tensor_flop_per_s.{k}: {Unknown('dtype', k, BITS)}" for k in rates if k not in BITS]
    known = {*FIGURES, *texts, "tensor_flop_per_s"}
    errors += [f"{name}.{k}: {Unknown('figure', k, known)}" for k in table if k not in known]
    errors += [f"{name}.{k} is missing: {FIGURES[k].meaning}" for k in ("hbm_bytes_per_s",) if k not in table]
    if not tensor:
        errors.append(f"{name}.tensor_flop_per_s is missing: dense matrix rates by dtype, FLOP/s")
    if errors:
        raise InputError(together(errors, f"{path}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    title = texts["title"] or name
    return Gpu(name, title, texts["vendor"], figures, tensor, texts["architecture"], capability, texts["link"])


def _text(where: str, raw: Any, errors: list[str]) -> str:
    if not isinstance(raw, str):
        errors.append(f"{where} must be text")
        return ""
    if not raw.isprintable():
        errors.append(f"{where} must be printable")
    return raw


def _architecture(name: str, gpu: str, tables: dict[str, Any], errors: list[str]) -> tuple[str, dict[str, Figure]]:
    """(the compute capability, the figures of one processor): from the file itself, else from the built-in one."""
    own = tables.get("architectures", {})
    if not isinstance(own, dict) or not all(isinstance(v, dict) for v in own.values()):
        errors.append("architectures holds tables, written [architectures.NAME]")
        return "", {}
    if not name:
        return "", {}
    if name not in own:
        if name not in architectures():
            errors.append(f"{gpu}.architecture: {Unknown('architecture', name, {*own, *architectures()})}")
            return "", {}
        tables = {**_built_in("sources"), **_built_in(SHARED + name)}
    table, where = tables["architectures"][name], SHARED + name
    known = {k for k, v in FIGURES.items() if v.shared}
    for k in table:
        if k not in (*known, "compute_capability"):
            errors.append(f"{where}.{k}: {Unknown('figure of an architecture', k, known)}")
    sources = tables.get("sources", {})
    figures = {k: _figure(f"{where}.{k}", v, sources, errors) for k, v in table.items() if k in known}
    return _text(f"{where}.compute_capability", table.get("compute_capability", ""), errors), figures


def _figure(where: str, raw: Any, sources: Mapping[str, Any], errors: list[str]) -> Figure:
    """`{ value = 80_000_000_000, source = "..." }`: a key of [sources], or the source in words."""
    if not isinstance(raw, dict) or not {"value", "source"} <= set(raw) <= {"value", "source", "note"}:
        errors.append(f'{where}: write {{ value = ..., source = "..." }}, with a note if it needs one')
        return Figure(1, ())
    value, cited = raw["value"], raw["source"] if isinstance(raw["source"], list) else [raw["source"]]
    quantity = FIGURES.get(where.rpartition(".")[2])
    if quantity and quantity.share:
        fits, wanted = _number(value) and 0 < value <= 1, "fraction, above 0 and at most 1"
    else:
        fits, wanted = _number(value) and 1 <= value < 1e30, "number of at least 1"
    if not fits:
        errors.append(f"{where}: {str(value)[:40]!r} is no {wanted}")
        value = 1
    if not isinstance(raw.get("note", ""), str):
        errors.append(f"{where}: a note is text")
    if quantity and quantity.whole and value != int(value):
        errors.append(f"{where}: {value} is no whole number")
    if not cited or not all(isinstance(s, str) and s.strip() for s in cited):
        errors.append(f"{where}: a figure needs a source, in words or a key of [sources]")
        cited = []
    return Figure(value, tuple(str(sources.get(s, s)) for s in cited), str(raw.get("note", "")))


def _number(raw: Any) -> bool:
    return isinstance(raw, (int, float)) and not isinstance(raw, bool)
