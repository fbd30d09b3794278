"""A config's fields against its family's row: everything that is wrong, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnmath.errors import InputError, together
from attnmath.files import line_of
from attnmath.language.syntax import MAX_DIGITS
from attnmath.models.families import HARMLESS, HARMLESS_IF_OFF, ROPE_KEYS
from attnmath.models.schema import REQUIRED, Config, Family, Field

MAX_LAYERS = 10_000
NULLABLE = ("sliding_window", "q_lora_rank", "num_key_value_heads", "head_dim", "attn_logit_softcapping")
ATTENTION_KINDS = ("full_attention", "sliding_attention", "chunked_attention")


def checked(
    raw: Config, family: Family, source: str, ignored: tuple[str, ...], top: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the family's fields, defaults filled in; those that were absent); InputError names everything that is wrong.

    >>> from attnmath.models.families import get
    >>> fields, assumed = checked({"n_embd": 64, "n_layer": 2, "n_head": 4}, get("gpt2"), "", ())
    >>> fields["hidden_size"], assumed
    (64, {'vocab_size': 50257, 'max_position_embeddings': 1024})
    """
    errors: list[str] = []
    given = _by_own_names(raw, family, errors)
    out: dict[str, Any] = {}
    assumed: dict[str, Any] = {}
    for name, field in family.fields.items():
        value = given.get(name)
        if value is None and name in family.defaults:
            continue
        if field.kind == "unread":
            continue
        out[name] = _absent(field, name, name in given) if value is None else value
        if out[name] == REQUIRED:
            out[name] = None
            errors.append(f"{name} is {'null' if name in given else 'missing'}; it shapes the model")
            continue
        if value is not None and name in ignored:
            errors.append(f"--assume-ignored {name}: {name} is understood and shapes the model")
        if out[name] is not None and (complaint := _complaint(field, out[name])):
            line = line_of(source, _spelled(raw, family, name))
            absent = "" if name in given else ", which its class takes where it is absent"
            said = "null" if name in given and value is None else shown(out[name])
            errors.append(f"{line}{_spelled(raw, family, name)} is {said}{absent}; expected {complaint}")
        elif name not in given and isinstance(out[name], int) and not isinstance(out[name], bool):
            assumed[name] = out[name]
    out |= {
        name: given[name] if given.get(name) is not None else out.get(other) for name, other in family.defaults.items()
    }
    if top:
        errors += [f"--assume-ignored {name[:80]}: the config has no such field" for name in ignored if name not in raw]
    for name in given:
        known = name in family.fields or name in HARMLESS or (name in HARMLESS_IF_OFF and not given[name])
        if not known and name not in ignored and given[name] is not None:
            errors.append(
                f"{line_of(source, name)}{name[:80]} = {shown(given[name])} is not understood and could change the "
                f"architecture; --assume-ignored {name[:80]} goes on without it"
            )
    if not errors:
        errors = [*_contradictions(out), *(e for check in family.checks if (e := check(out)))]
    if errors:
        raise InputError(together(errors, f"{len(errors)} error{'s' * (len(errors) > 1)}"))
    if not out.get("use_sliding_window", True):
        assumed = {k: v for k, v in assumed.items() if "window" not in k}
    return out, assumed


def _by_own_names(raw: Config, family: Family, errors: list[str]) -> dict[str, Any]:
    """The config with other names of fields replaced by the family's; both at once have to agree."""
    given = dict(raw)
    for other, name in family.aliases.items():
        if other not in given:
            continue
        spelled = given.pop(other)
        if name in given and given[name] != spelled:
            errors.append(f"{other} = {shown(spelled)} and {name} = {shown(given[name])} contradict each other")
        given.setdefault(name, spelled)
    return given


def _spelled(raw: Config, family: Family, name: str) -> str:
    return next((o for o, n in family.aliases.items() if n == name and o in raw), name)


def _absent(field: Field, name: str, null: bool) -> Any:
    """What a field is where the config has none: the class's default; where it says null, what a class makes of it."""
    if not null or field.kind in ("act", "text"):
        return field.default
    if field.kind == "flag" or (field.kind == "true" and field.default):
        return False
    number = isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
    needed = number and name not in NULLABLE and field.kind != "none"
    return REQUIRED if field.default == REQUIRED or needed else None


def _complaint(field: Field, v: Any) -> str:
    return AMONG[field.kind](v, field.among) if field.kind in AMONG else KINDS[field.kind](v)


def _whole(least: int) -> Callable[[Any], str]:
    def complaint(v: Any) -> str:
        fits = isinstance(v, int) and not isinstance(v, bool) and least <= v < 10**MAX_DIGITS
        return "" if fits else f"a whole number of at least {least} and at most {MAX_DIGITS} digits"

    return complaint


def _exactly(wanted: Callable[[Any], bool], words: str) -> Callable[[Any], str]:
    return lambda v: "" if wanted(v) else words


def _number(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def _whole_list(v: Any) -> bool:
    return isinstance(v, (list, tuple)) and len(v) <= MAX_LAYERS and all(not _whole(0)(x) for x in v)


KINDS: dict[str, Callable[[Any], str]] = {  # what is expected instead; empty if the value fits
    "size": _whole(1),
    "size0": _whole(0),
    "flag": _exactly(lambda v: isinstance(v, bool), "true or false"),
    "truthy": _exactly(lambda v: isinstance(v, (bool, int)), "true, false or a whole number"),
    "true": _exactly(lambda v: v is True, "true: this family always has it"),
    "false": _exactly(lambda v: v is False, "false: what it switches on is not understood here"),
    "one": _exactly(lambda v: v == 1 and v is not True, "1: another value is not understood here"),
    "none": _exactly(lambda v: not v, "none: what it describes is not understood here"),
    "null": _exactly(lambda v: False, "null: what it describes is not understood here"),
    "empty": _exactly(
        lambda v: isinstance(v, (list, tuple)) and not v, "an empty list: what it names is not understood here"
    ),
    "share": _exactly(lambda v: _number(v) and 0 < v <= 1, "a share, 0 < x <= 1"),
    "number": _exactly(lambda v: _number(v) and 0 < v < 1e12, "a number of more than 0"),
    "towards": _exactly(lambda v: v in (False, "vision"), "false, or 'vision': pictures only see ahead"),
    "places": _exactly(_whole_list, "a list of layers, whole numbers from 0"),
    "flags": _exactly(
        lambda v: isinstance(v, list) and len(v) <= MAX_LAYERS and all(x in (0, 1) for x in v),
        "a list of 0 and 1, one per layer",
    ),
    "window": _exactly(lambda v: not _whole(1)(v) or (_whole_list(v) and v), "a window, or a list of windows"),
    "config": _exactly(lambda v: isinstance(v, dict), "an object, a config of its own"),
    "layered": _exactly(lambda v: v is False or isinstance(v, dict), "an object, a config for each layer that differs"),
    "rope": lambda v: _rope_error(v),
    "ropes": lambda v: _ropes_error(v),
    "sparse": lambda v: _object_error(v, SPARSE_KEYS),
    "linear": lambda v: _object_error(v, LINEAR_KEYS),
}
SPARSE_KEYS: dict[str, Callable[[Any], str]] = {
    "sparse_attention_freq": KINDS["flags"],
    "sparse_disable_index_value": _exactly(
        lambda v: isinstance(v, list), "a list"
    ),  # where the indexer has no values of its own: in every sparse layer
    "sparse_block_size": KINDS["size"],
    "sparse_topk_blocks": KINDS["size"],
    "sparse_index_dim": KINDS["size"],
    "sparse_num_index_heads": KINDS["size"],
    "sparse_init_block": KINDS["size0"],
    "sparse_local_block": KINDS["size0"],
    "sparse_score_type": _exactly(lambda v: v == "max", "'max'"),
    "use_sparse_attention": KINDS["true"],
}
LINEAR_KEYS: dict[str, Callable[[Any], str]] = {
    "head_dim": KINDS["size"],
    "num_heads": KINDS["size"],
    "short_conv_kernel_size": KINDS["size"],
    "full_attn_layers": KINDS["places"],
    "kda_layers": KINDS["places"],
}


def _object_error(v: Any, known: dict[str, Callable[[Any], str]]) -> str:
    if not isinstance(v, dict):
        return "an object"
    if unknown := [k for k in v if k not in known]:
        return f"an object of {', '.join(known)}; {', '.join(unknown)[:80]} is not understood"
    wrong = [f"{k}: {why}" for k, x in v.items() if (why := known[k](x))]
    return wrong[0] if wrong else ""


def _types(v: Any, among: tuple[str, ...]) -> str:
    fits = isinstance(v, list) and len(v) <= MAX_LAYERS and all(isinstance(x, str) and x in among for x in v)
    return "" if fits else f"a list of {', '.join(among)}"


AMONG: dict[str, Callable[[Any, tuple[str, ...]], str]] = {
    "types": _types,
    "text": lambda v, among: "" if isinstance(v, str) and v in among else f"one of {', '.join(among)}",
    "act": lambda v, among: (
        "" if isinstance(v, str) and v in among else f"an activation that is understood here: {', '.join(among)}"
    ),
    "sizes": lambda v, among: (
        "" if _whole_list(v) and all(str(x) in among for x in v) else f"a list of {', '.join(among)}"
    ),
    "pattern": lambda v, among: (
        ""
        if isinstance(v, str) and 0 < len(v) <= MAX_LAYERS and set(v) <= set(among)
        else f"a text of {' '.join(among)}"
    ),
}


def _rope_error(v: Any) -> str:
    if not isinstance(v, dict):
        return "an object"
    if unknown := sorted(str(k) for k in set(v) - ROPE_KEYS):
        return f"an object of {', '.join(sorted(ROPE_KEYS))}; {', '.join(unknown)[:80]} is not understood"
    share = v.get("partial_rotary_factor")
    return "" if share is None or not KINDS["share"](share) else "a partial_rotary_factor with 0 < x <= 1"


def _ropes_error(v: Any) -> str:
    """One table, or one for each kind of layer."""
    tables = list(v.values()) if isinstance(v, dict) and set(v) <= set(ATTENTION_KINDS) else [v]
    errors = [e for t in tables if t is not None and (e := _rope_error(t))]
    return errors[0] if errors else ""


def shown(value: Any) -> str:
    """A value as an error message shows it.

    >>> shown(10**5000)[:20], shown([1] * 100)[-5:]
    ('a number of more tha', '1,...')
    """
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS} digits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _contradictions(c: Config) -> list[str]:
    """What single fields cannot show."""
    errors = []
    heads, kv = c.get("num_attention_heads"), c.get("num_key_value_heads")
    if heads and kv and heads % kv:
        errors.append(f"num_attention_heads = {heads} is not divisible by num_key_value_heads = {kv}")
    tower = "embed_dim" if "embed_dim" in c else "hidden_size"
    for wide, over in (*SPREAD, (tower, "num_heads")):
        if c.get(wide) and c.get(over) and not any(c.get(k) for k in WIDTHS) and c[wide] % c[over]:
            errors.append(f"{wide} = {c[wide]} is not divisible by {over} = {c[over]}, and there is no head_dim")
    layers = {k: v for k, v in c.items() if k in LAYER_COUNTS and isinstance(v, int)}
    errors += [f"{k} = {v}; at most {MAX_LAYERS:,}" for k, v in layers.items() if v > MAX_LAYERS]
    n = c.get("num_hidden_layers")
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers", "moe_layer_freq"):
        named = c.get(name) or (None if name in NONE_AT_ALL else c.get(name))
        if isinstance(named, list) and isinstance(n, int) and len(named) != n:
            errors.append(f"{name} names {len(named)} layers, num_hidden_layers is {n}")
    types = c.get("layer_types")
    slides = c.get("use_sliding_window", True) and c.get("sliding_window", True)
    if types and "sliding_attention" in types and not slides:
        errors.append("layer_types names sliding_attention, but sliding_window and use_sliding_window give no window")
    if not errors:
        errors += _turning(c)
    if (c.get("qk_rope_head_dim") or 0) % 2:
        errors.append(f"qk_rope_head_dim = {c['qk_rope_head_dim']}; dimensions turn in pairs")
    active = next((c[k] for k in ACTIVE if c.get(k)), 0)
    there = next((c[k] for k in ("num_experts", "num_local_experts", "n_routed_experts") if c.get(k)), active)
    if active > there:
        errors.append(f"{active} experts for each token, of {there}")
    return errors


ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
NONE_AT_ALL = ("no_rope_layers",)  # empty in published configs, which is as if it were absent
SPREAD = (
    ("hidden_size", "num_attention_heads"),
    ("d_model", "encoder_attention_heads"),
    ("d_model", "decoder_attention_heads"),
)
WIDTHS = ("head_dim", "kv_lora_rank")  # what says how wide a head is, whatever the model's width
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "depth")


def _turning(c: Config) -> list[str]:
    if c.get("partial_rotary_factor") is None or not {"rope_parameters", "rope_scaling", "num_attention_heads"} <= set(
        c
    ):
        return []
    from attnmath.models.schema import rotary_share

    width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    tables = {
        k: c[k] if isinstance(c[k], dict) and not set(c[k]) & set(ATTENTION_KINDS) else None
        for k in ("rope_parameters", "rope_scaling")
    }
    turning = int(width * rotary_share({**c, **tables}))
    if turning < 2 or turning % 2:
        return [f"{turning} of {width} dimensions of a head would turn; dimensions turn in pairs, two at the least"]
    return []
