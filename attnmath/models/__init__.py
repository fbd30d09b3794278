"""A model's `config.json` as attention layers: which variant with which modifiers, and at which sizes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, Unknown, together
from attnmath.files import line_of, read_json, read_text
from attnmath.language.syntax import MAX_DIGITS
from attnmath.models.families import (
    FAMILIES,
    HARMLESS,
    LAYER_TYPES,
    REQUIRED,
    ROPE_KEYS,
    Config,
    Family,
    rotary_share,
)

MAX_LAYERS = 10_000


class LayerSpec(Struct, frozen=True):
    """A run of equal attention layers: `sizes` by option, `uses` as after --with."""

    count: int
    variant: str
    uses: tuple[str, ...]
    sizes: Mapping[str, int]


class Model(Struct, frozen=True):
    """A model's attention layers in order, runs of equal ones together.

    `assumed`: fields that the config does not have, with the values that the family's class then takes.
    """

    name: str
    family: str
    runs: tuple[LayerSpec, ...]
    assumed: Mapping[str, int]
    source: str

    @property
    def layers(self) -> int:
        """How many attention layers there are."""
        return sum(r.count for r in self.runs)


def read(path: str, assume_ignored: tuple[str, ...] = ()) -> Model:
    """The attention layers that a config.json, or the one in a directory, describes.

    `assume_ignored`: fields that the caller declares harmless. Raises InputError, with all of them at once: a field that is
    missing, of the wrong type, or unknown (it could change the architecture); an unknown model_type.

    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "config.json")
    >>> llama = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32}
    >>> _ = path.write_text(json.dumps(llama))
    >>> read(str(path)).layers
    32
    """
    if not isinstance(path, str):
        raise InputError(f"a model is named by the path of its config.json, not {path!r:.40}")
    if os.path.isdir(path):
        inside = os.path.join(path, "config.json")
        if not os.path.isfile(inside):
            raise InputError(f"{path}: a directory without a config.json")
        path = inside
    raw = read_json(path)
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        found = "is missing" if "model_type" not in raw else f"is {str(kind)[:40]!r}, no text"
        raise InputError(f"{path}: model_type {found}; it says how to read the other fields: {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        raise InputError(
            f"{path}: {line_of(read_text(path), 'model_type')}"
            f"{Unknown('model_type', kind, FAMILIES, 'families that are understood')}"
        )
    family = FAMILIES[kind]
    config = _checked(raw, family, path, assume_ignored)
    try:
        runs = tuple(_runs(family, config))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    taken = {k: f.default for k, f in family.fields.items() if k not in raw and isinstance(f.default, int)}
    slides = config.get("use_sliding_window", True)
    assumed = {k: v for k, v in taken.items() if not isinstance(v, bool) and (slides or "window" not in k)}
    name = os.path.basename(path.removesuffix("/config.json")).removesuffix(".json")
    source = f"{os.path.basename(path)}, read as transformers 5.23.0 reads {kind}"
    return Model(name, kind, runs, assumed, source)


def _checked(raw: Config, family: Family, path: str, ignored: tuple[str, ...]) -> dict[str, Any]:
    """The family's fields, defaults filled in; everything that is wrong at once."""
    text = read_text(path)
    errors: list[str] = []
    out: dict[str, Any] = {}
    for name, field in family.fields.items():
        value = raw.get(name)
        out[name] = field.default if name not in raw or field.kind == "flag" else None
        if value is None:
            if field.default == REQUIRED:
                errors.append(f"{name} is {'null' if name in raw else 'missing'}; it shapes the attention")
        elif name in ignored:
            errors.append(f"--assume-ignored {name}: {name} is understood and shapes the attention")
        elif complaint := KINDS[field.kind](value):
            errors.append(f"{line_of(text, name)}{name} is {_shown(value)}; expected {complaint}")
        else:
            out[name] = value
    errors += [f"--assume-ignored {name[:80]}: the config has no such field" for name in ignored if name not in raw]
    for name in raw:
        if name not in family.fields and name not in HARMLESS and name not in ignored:
            errors.append(
                f"{line_of(text, name)}{name[:80]} = {_shown(raw[name])} is not understood and could change the architecture; "
                f"--assume-ignored {name[:80]} goes on without it"
            )
    if not errors:
        errors += _contradictions(out)
    if errors:
        raise InputError(together(errors, f"{path}: {len(errors)} error{'s' * (len(errors) > 1)}"))
    return out


def _whole(least: int) -> Callable[[Any], str]:
    def complaint(v: Any) -> str:
        fits = isinstance(v, int) and not isinstance(v, bool) and least <= v < 10**MAX_DIGITS
        return "" if fits else f"a whole number of at least {least} and at most {MAX_DIGITS} digits"

    return complaint


KINDS: dict[str, Callable[[Any], str]] = {  # what is expected instead; empty if the value fits
    "size": _whole(1),
    "size0": _whole(0),
    "flag": lambda v: "" if isinstance(v, bool) else "true or false",
    "true": lambda v: "" if v is True else "true: this family always has it",
    "false": lambda v: "" if v is False else "false: this family never has it",
    "share": lambda v: (
        "" if isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v <= 1 else "a share, 0 < x <= 1"
    ),
    "number": lambda v: (
        "" if isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < 1e12 else "a number of more than 0"
    ),
    "rope": lambda v: _rope_error(v),
    "unread": lambda v: "",
    "ropes": lambda v: _ropes_error(v),
    "types": lambda v: (
        "" if isinstance(v, list) and all(x in LAYER_TYPES for x in v) else f"a list of {' and '.join(LAYER_TYPES)}"
    ),
}


def _rope_error(v: Any) -> str:
    if not isinstance(v, dict):
        return "an object"
    if unknown := sorted(set(v) - ROPE_KEYS):
        return f"an object of {', '.join(sorted(ROPE_KEYS))}; {', '.join(unknown)[:80]} is not understood"
    share = v.get("partial_rotary_factor")
    return "" if share is None or not KINDS["share"](share) else "a partial_rotary_factor with 0 < x <= 1"


def _ropes_error(v: Any) -> str:
    """One table, or one for each kind of layer; none may turn a share of the dimensions only."""
    tables = list(v.values()) if isinstance(v, dict) and set(v) <= set(LAYER_TYPES) else [v]
    errors = [e for t in tables if t is not None and (e := _rope_error(t))]
    partial = any(isinstance(t, dict) and t.get("partial_rotary_factor", 1) != 1 for t in tables)
    return errors[0] if errors else "tables without partial_rotary_factor" if partial else ""


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS} digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _contradictions(c: Config) -> list[str]:
    """What single fields cannot show."""
    errors = []
    heads, kv = c["num_attention_heads"], c.get("num_key_value_heads")
    if kv and heads % kv:
        errors.append(f"num_attention_heads = {heads} is not divisible by num_key_value_heads = {kv}")
    if "head_dim" in c and not c["head_dim"] and c["hidden_size"] % heads:
        errors.append(
            f"hidden_size = {c['hidden_size']} is not divisible by num_attention_heads = {heads}, and there is no head_dim"
        )
    if c["num_hidden_layers"] > MAX_LAYERS:
        errors.append(f"num_hidden_layers = {c['num_hidden_layers']}; at most {MAX_LAYERS:,}")
    types = c.get("layer_types")
    if types is not None and len(types) != c["num_hidden_layers"]:
        errors.append(f"layer_types names {len(types)} layers, num_hidden_layers is {c['num_hidden_layers']}")
    if types and "sliding_attention" in types and not (c.get("use_sliding_window", True) and c["sliding_window"]):
        errors.append("layer_types names sliding_attention, but sliding_window and use_sliding_window give no window")
    if "partial_rotary_factor" in c and not errors:
        width = c["head_dim"] or c["hidden_size"] // heads
        turning = int(width * rotary_share(c))
        if turning < 2 or turning % 2:
            errors.append(
                f"{turning} of {width} dimensions of a head would turn; dimensions turn in pairs, two at the least"
            )
    if c.get("qk_rope_head_dim", 0) % 2:
        errors.append(f"qk_rope_head_dim = {c['qk_rope_head_dim']}; dimensions turn in pairs")
    return errors


def _runs(family: Family, c: Config) -> list[LayerSpec]:
    def on(switch: str | Callable[[Config], Any]) -> bool:
        return bool(switch(c) if callable(switch) else not switch or c[switch])

    uses = tuple(text(c) if callable(text) else text for text, switch in family.uses if on(switch))
    sizes = {option: rule(c) if callable(rule) else c[rule] for option, rule in family.sizes.items()}
    sizes = {option: v for option, v in sizes.items() if v is not None}
    out = []
    for window, run in groupby(family.windows(c)):
        own = {**sizes, "window": window} if window else sizes
        out.append(LayerSpec(len(list(run)), family.variant if not window else "sliding-window", uses, own))
    return out
