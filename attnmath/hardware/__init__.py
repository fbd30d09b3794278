"""Accelerators: `gpus.toml`, one table each, every figure with its unit and source; a user's own file works the same way."""

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

FIGURES: dict[str, str] = {  # every figure that a table may hold; its unit is in its name
    "processors": "streaming multiprocessors, compute units or tensor cores",
    "clock_hz": "clock that the peak rates are stated at, Hz",
    "max_clock_hz": "highest clock, reached where no matrix unit works, Hz",
    "hbm_bytes": "device memory, bytes",
    "hbm_bytes_per_s": "bandwidth of device memory, bytes/s",
    "l2_bytes": "second-level cache, bytes",
    "llc_bytes": "last-level cache behind it, bytes",
    "exp_per_clock": "exponentials per clock and processor in the special-function units",
    "power_w": "thermal design power, W",
}


class Figure(Struct, frozen=True):
    """A number with where it comes from; several sources agree."""

    value: int | float
    sources: tuple[str, ...]
    note: str = ""


class Gpu(Struct, frozen=True):
    """One accelerator: its figures by name, and its dense matrix rates in FLOP/s by dtype."""

    name: str
    title: str
    vendor: str
    figures: Mapping[str, Figure]
    tensor_flop_per_s: Mapping[str, Figure] = field(default_factory=dict)

    def figure(self, name: str) -> int | float:
        """A figure's value; InputError if no source supports one.

        >>> get("h100-sxm").figure("processors")
        132
        """
        if name not in self.figures:
            raise InputError(
                f"{self.name} has no figure {name} ({FIGURES.get(name, name)}): no source was found for it"
            )
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
    return tuple(n for n in _tables() if n != "sources")


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
        if wanted not in names():
            raise Unknown("GPU", name, names(), "GPUs")
        return _read(wanted, _built_in(wanted), GPUS)
    table = read_toml(path)
    own = [n for n in table if n != "sources"]
    if not inside and len(own) != 1:
        raise InputError(
            f"{path} holds {len(own)} accelerators; name one: "
            f"{', '.join(f'{path}#{n}' for n in own) or 'a table [NAME] with its figures'}"
        )
    if inside and inside not in own:
        raise Unknown("GPU", inside, own, f"GPUs in {path}")
    return _read(inside or own[0], table, path)


WHOLE = ("processors", "hbm_bytes", "l2_bytes", "llc_bytes")


@lru_cache
def _tables() -> dict[str, str]:
    """The text of every table of the built-in file, by its name; subtables stand with their table."""
    out: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=\[)", read_text(GPUS))[1:]:
        name = re.split(r"[\].]", part[1:], maxsplit=1)[0]
        out[name] = out.get(name, "") + part
    return out


@lru_cache
def _built_in(name: str) -> dict[str, Any]:
    """One built-in table and the sources; to parse the others too would take most of a command's time."""
    return parse_toml(_tables()["sources"] + _tables()[name], GPUS)


def _read(name: str, tables: dict[str, Any], path: str) -> Gpu:
    table, sources = tables[name], tables.get("sources", {})
    if not isinstance(table, dict) or not isinstance(sources, dict):
        raise InputError(f"{path}: {name} and sources are tables, written [{name}] and [sources]")
    errors = [f"sources.{k} must be text" for k, v in sources.items() if not isinstance(v, str)]
    errors += [f"{name}.{k} must be printable" for k in ("title", "vendor") if not str(table.get(k, "")).isprintable()]
    figures = {k: _figure(f"{name}.{k}", v, sources, errors) for k, v in table.items() if k in FIGURES}
    rates = table.get("tensor_flop_per_s", {})
    if not isinstance(rates, dict):
        errors.append(f"{name}.tensor_flop_per_s is a table of rates by dtype")
        rates = {}
    tensor = {k: _figure(f"{name}.tensor_flop_per_s.{k}", v, sources, errors) for k, v in rates.items()}
    errors += [f"{name}.tensor_flop_per_s.{k}: {Unknown('dtype', k, BITS)}" for k in rates if k not in BITS]
    known = {*FIGURES, "title", "vendor", "tensor_flop_per_s"}
    errors += [f"{name}.{k}: {Unknown('figure', k, known)}" for k in table if k not in known]
    errors += [f"{name}.{k} must be text" for k in ("title", "vendor") if not isinstance(table.get(k, ""), str)]
    errors += [f"{name}.{k} is missing: {FIGURES[k]}" for k in ("hbm_bytes_per_s",) if k not in table]
    if not tensor:
        errors.append(f"{name}.tensor_flop_per_s is missing: dense matrix rates by dtype, FLOP/s")
    if errors:
        raise InputError(together(errors, f"{path}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    return Gpu(name, table.get("title", name), table.get("vendor", ""), figures, tensor)


def _figure(where: str, raw: Any, sources: Mapping[str, Any], errors: list[str]) -> Figure:
    """`{ value = 80_000_000_000, source = "..." }`: a key of [sources], or the source in words."""
    if not isinstance(raw, dict) or not {"value", "source"} <= set(raw) <= {"value", "source", "note"}:
        errors.append(f'{where}: write {{ value = ..., source = "..." }}, with a note if it needs one')
        return Figure(1, ())
    value, cited = raw["value"], raw["source"] if isinstance(raw["source"], list) else [raw["source"]]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < 1e30:
        errors.append(f"{where}: {str(value)[:40]!r} is no number of at least 1")
        value = 1
    if not isinstance(raw.get("note", ""), str):
        errors.append(f"{where}: a note is text")
    if where.rpartition(".")[2] in WHOLE and value != int(value):
        errors.append(f"{where}: {value} is no whole number")
    if not cited or not all(isinstance(s, str) and s.strip() for s in cited):
        errors.append(f"{where}: a figure needs a source, in words or a key of [sources]")
        cited = []
    return Figure(value, tuple(str(sources.get(s, s)) for s in cited), str(raw.get("note", "")))
