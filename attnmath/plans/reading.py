"""A plan file: TOML, checked as a whole, with the line of everything that is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown, printable, together
from attnmath.files import MAX_TOML_BYTES, parse_toml, read_text
from attnmath.language.syntax import MAX_DIGITS
from attnmath.plans.fields import REQUIRED, SECTIONS, Key, keys_of

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


class Plan(Struct, frozen=True):
    """A plan: every key under `section.key`, defaults filled in; `given`: those that stand in the file; `lines`: where;
    `trains`: whether it is one of training.
    """

    path: str
    values: Mapping[str, Any]
    given: frozenset[str]
    lines: Mapping[str, int] = {}
    trains: bool = False

    def __getitem__(self, key: str) -> Any:
        """A value: `plan["engine.block_size"]`, `plan["model"]`."""
        return self.values[key]

    def at(self, *keys: str) -> int | None:
        """The line of the first of these keys that stands in the file."""
        return next((self.lines[k] for k in keys if k in self.lines), None)

    def changed(self, **values: Any) -> Plan:
        """The same plan with other values, keys written `engine__block_size`."""
        from msgspec.structs import replace

        return replace(self, values={**self.values, **{k.replace("__", "."): v for k, v in values.items()}})


def read(path: str) -> Plan:
    """A plan from its file; InputError names everything that is wrong with it, with file and line.

    >>> read("no-such-file.toml")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: no-such-file.toml: No such file or directory
    """
    return parse(read_text(path, MAX_TOML_BYTES, "a plan is a page"), path)


def parse(text: str, path: str) -> Plan:
    """A plan from its text.

    >>> parse('model = "gpt2"\\n[gpu]\\nmemory = "8GiB"', "plan.toml")["engine.name"]
    'vllm'
    """
    raw = parse_toml(text, path)
    lines = line_numbers(text)
    errors: list[str] = []

    def wrong(name: str, message: str) -> None:
        line = lines.get(name)
        errors.append(f"{f'line {line}: ' if line else ''}{printable(name[:80])}{message}")

    trains = isinstance(raw.get("training"), Mapping)
    used = keys_of(trains)
    flat = _flat(raw, wrong)
    for name in flat:
        section, _, key = name.rpartition(".")
        if key in SECTIONS.get(section, ()) and key not in used.get(section, ()):
            wrong(name, " has no use in a plan of training" if trains else " has no use in a plan of a server")
        if section not in SECTIONS or key not in SECTIONS[section]:
            known = list(SECTIONS[section]) if section in SECTIONS else list(SECTIONS)
            wrong(name, f": {Unknown('key', key, known, f'keys of [{section}]' if section else 'keys')}")
    values: dict[str, Any] = {}
    for section, keys in SECTIONS.items():
        for key, row in keys.items():
            name = f"{section}.{key}".lstrip(".")
            v = flat.get(name)
            if v is None:
                if row.default == REQUIRED:
                    wrong(name, f" is missing: {row.meaning}")
                values[name] = None if row.default == REQUIRED else row.default
            elif complaint := _complaint(row, v):
                wrong(name, f" is {_shown(v)}; {complaint}")
            else:
                values[name] = parse_bytes(v) if row.kind == "bytes" else v
    if not errors:
        (_of_training if trains else _contradictions)(values, frozenset(flat), wrong)
    if errors:
        raise InputError(together(errors, f"{printable(path)}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    return Plan(path, values, frozenset(flat), lines, trains)


def _flat(raw: Mapping[str, Any], wrong: Any) -> dict[str, Any]:
    """`section.key` -> value; tables where none belong are complained of."""
    out: dict[str, Any] = {}
    for name, value in raw.items():
        if isinstance(value, Mapping):
            if name not in SECTIONS:
                wrong(name, f": {Unknown('section', name, [s for s in SECTIONS if s], 'sections')}")
                continue
            for key, v in value.items():
                row = SECTIONS[name].get(key)
                if isinstance(v, Mapping) and not (row and row.kind == "law"):
                    wrong(f"{name}.{key}", " is a table; expected a value")
                else:
                    out[f"{name}.{key}"] = v
        elif name in SECTIONS and name:
            wrong(name, f" is {_shown(value)}; expected a section: write [{name}] and its keys below")
        else:
            out[name] = value
    return out


def line_numbers(text: str) -> dict[str, int]:
    """Where each key and section of a TOML text stands, by `section.key`; what is written otherwise has no line.

    >>> line_numbers('model = "x"\\n[gpu]\\ncount = 2')
    {'model': 1, 'gpu': 2, 'gpu.count': 3}
    """
    found: dict[str, int] = {}
    section = ""
    for at, row in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[\s*\"?([\w.-]+)\"?\s*\]", row):
            section = header[1]
            found.setdefault(section, at)
        elif key := re.match(r"\s*\"?([\w.-]+)\"?\s*=", row):
            found.setdefault(f"{section}.{key[1]}".lstrip("."), at)
    return found


def parse_bytes(text: Any) -> int:
    """`80GB` = 80e9 bytes, `79.6GiB`; InputError for anything else.

    >>> parse_bytes("80GB"), parse_bytes("1.5GiB")
    (80000000000, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d{1,15})(?:\.(\d{1,15}))?\s*([KMGT]?i?B)\s*", str(text), re.IGNORECASE | re.ASCII)
    if not found or found[3].upper() not in UNITS:
        raise InputError(f"{str(text)[:40]!r} is no size in bytes; write 80GB (10^9) or 79.6GiB (2^30)")
    whole, part, unit = found[1], found[2] or "", UNITS[found[3].upper()]
    return int(whole + part) * unit // int("1" + "0" * len(part))


def _complaint(row: Key, v: Any) -> str:
    """What is expected instead; empty if the value fits."""
    if row.kind == "name" and isinstance(v, str) and v not in row.among:
        return str(Unknown("name", v, row.among, "names"))
    if row.kind == "law":
        return _law(v)
    whole = isinstance(v, int) and not isinstance(v, bool)
    number = (whole or isinstance(v, float)) and v == v
    fits = {
        "size": whole and 1 <= v < 10**15,
        "count": whole and 0 <= v < 10**15,
        "flag": isinstance(v, bool),
        "name": isinstance(v, str),
        "bytes": isinstance(v, str) and _is_size(v),
        "text": isinstance(v, str) and v.strip() and v.isprintable() and len(v) < 1000,
        "share": number and 0 < v <= 1,
        "margin": number and 0 <= v < 1,
        "number": number and 0 < v < 1e15,
    }[row.kind]
    expected = {
        "size": "a whole number of at least 1, less than 10^15",
        "count": "a whole number of at least 0, less than 10^15",
        "flag": "true or false",
        "name": f"one of {', '.join(row.among)}",
        "bytes": "a text like 79.6GiB or 80GB",
        "text": "a text",
        "share": "a share, 0 < x <= 1",
        "margin": "a share, 0 <= x < 1",
        "number": "a number of more than 0, less than 10^15",
    }
    return "" if fits else f"expected {expected[row.kind]}"


def _law(v: Any) -> str:
    from attnmath.plans.workload import lengths

    try:
        lengths(v)
    except InputError as error:
        return " ".join(str(error).split())
    return ""


def _is_size(text: str) -> bool:
    try:
        return parse_bytes(text) > 0
    except InputError:
        return False


def _shown(v: Any) -> str:
    if isinstance(v, int) and abs(v) >= 10**MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS} digits"
    text = repr(v)
    return text if len(text) <= 60 else text[:57] + "..."


def _has_a_gpu(v: Mapping[str, Any], wrong: Any) -> None:
    if v["gpu.name"] is None and v["gpu.memory"] is None:
        wrong("gpu.name", " is missing: name an accelerator, or say how much memory one has (gpu.memory)")


def _of_training(v: Mapping[str, Any], given: frozenset[str], wrong: Any) -> None:
    """What single keys of a training plan cannot show."""
    _has_a_gpu(v, wrong)
    stage, schedule = v["training.zero_stage"], v["training.schedule"]
    if stage > 3:
        wrong("training.zero_stage", f" is {stage}; the stages are 0, 1, 2 and 3")
    if v["training.offload"] == "parameters" and stage != 3:
        wrong("training.offload", f" is 'parameters', which needs zero_stage 3, not {stage}")
    if v["training.recompute"] == "none" and v["training.attention"] == "fused":
        wrong(
            "training.attention",
            " is 'fused', and recompute 'none': a fused kernel keeps no scores and computes them again, which is 'selective'",
        )
    if (schedule == "interleaved") != (v["training.virtual_stages"] > 1):
        wrong(
            "training.virtual_stages",
            f" is {v['training.virtual_stages']}, and schedule {schedule!r}: both say it, or none",
        )
    if schedule != "1f1b" and v["parallel.pipeline"] == 1:
        wrong("training.schedule", f" is {schedule!r}, which needs more than one stage (parallel.pipeline)")
    if v["training.sequence_parallel"] and v["parallel.tensor"] == 1:
        wrong(
            "training.sequence_parallel", " shares what tensor ranks do not: it needs more than one (parallel.tensor)"
        )
    if v["training.optimizer_in_backward"] and v["training.accumulation"] > 1:
        wrong("training.optimizer_in_backward", " steps after each micro-batch: it needs accumulation 1")
    _experts_divide(v, wrong)


def _experts_divide(v: Mapping[str, Any], wrong: Any) -> None:
    tensor, experts = v["parallel.tensor"], v["parallel.expert"]
    ranks = tensor * v["parallel.data"]
    if experts > 1 and (ranks % experts or (tensor % experts and experts % tensor)):
        wrong(
            "parallel.expert",
            f" is {experts}; it has to divide tensor x data = {ranks}, and tensor, or be a multiple of it",
        )


def _contradictions(v: Mapping[str, Any], given: frozenset[str], wrong: Any) -> None:
    """What single keys cannot show."""
    _has_a_gpu(v, wrong)
    from attnmath.plans.engines import ENGINES

    own = ENGINES[v["engine.name"]].setting
    for other in {e.setting for e in ENGINES.values()} - {own, None}:
        if f"engine.{other}" in given:
            wrong(f"engine.{other}", f" has no use for {v['engine.name']}{f', whose setting is {own}' if own else ''}")
    if "workload.rate_per_s" in given and "workload.concurrency" in given:
        wrong("workload.rate_per_s", " and workload.concurrency: one of them says the load")
    if v["workload.trace"] is not None and {"workload.rate_per_s", "workload.concurrency"} & given:
        wrong("workload.trace", " says when requests come: neither a rate nor a concurrency stands beside it")
    if v["engine.draft_tokens"] is None and (idle := {"engine.acceptance", "engine.draft_share"} & given):
        wrong(min(idle), " has a use with engine.draft_tokens alone")
    if v["parallel.prefill"] is not None and v["parallel.prefill"] >= v["parallel.data"]:
        wrong(
            "parallel.prefill",
            f" is {v['parallel.prefill']}; of parallel.data = {v['parallel.data']} some have to decode",
        )
    if v["parallel.context"] > 1:
        wrong("parallel.context", f" is {v['parallel.context']}: context parallelism is not checked yet")
    experts, engine = v["parallel.expert"], v["engine.name"]
    ranks = v["parallel.tensor"] * v["parallel.data"]
    if experts > 1 and engine == "vllm" and experts != ranks:
        wrong(
            "parallel.expert",
            f" is {experts}; vllm spreads experts over all tensor x data = {ranks} ranks, or (1) none",
        )
    else:
        _experts_divide(v, wrong)
    longest = v["engine.max_model_len"]
    asked = v["workload.prompt_tokens"] + v["workload.output_tokens"]
    if longest and longest < asked:
        wrong(
            "engine.max_model_len",
            f" is {longest}, less than prompt_tokens + output_tokens = {asked}",
        )
