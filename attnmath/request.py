"""What was asked: options by name, checked, and as letters of the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attnmath import variants
from attnmath.errors import InputError, Unknown, together
from attnmath.language.letters import OPTIONS
from attnmath.language.syntax import MAX_DIGITS
from attnmath.layers import Layer, options_of
from attnmath.readings.memory import BITS, BLOCKS, blocks

PHASES, TRAIN = ("prefill", "decode"), "train"
NOT_TRAINED = "--phase train is not built yet here; `cost`, `compare`, `roofline` and `tile` have it"


def plain(v: Any) -> Any:
    """NumPy's whole numbers as Python's.

    >>> plain(3)
    3
    """
    return int(v) if hasattr(v, "__index__") and not isinstance(v, bool) else v


def check_texts(named: Mapping[str, Any]) -> None:
    """Refuse what should be a name and is no text; and modifiers that are one.

    >>> check_texts({"variant": 3})
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: variant: a text is expected, not 3
    """
    for what, v in named.items():
        if what == "modifiers" and isinstance(v, str):
            raise InputError(f"{what}: a list of texts is expected, not {v!r:.40}")
        if what != "modifiers" and v is not None and not isinstance(v, str):
            raise InputError(f"{what}: a text is expected, not {v!r:.40}")


def check(
    given: Mapping[str, Any],
    phase: str,
    dtype: str | None,
    kv_dtype: str | None,
    l2: str,
    gpu: str | None = None,
    engine: str | None = None,
    phases: tuple[str, ...] = PHASES,
) -> None:
    """Every complaint about single values at once; `phases`: those that the verb knows.

    >>> check({"seq": 0}, "prefill", None, None, "cold")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: --seq: 0 is no size: at least 1
    """
    errors = [f"--{k}: {why}" for k, v in given.items() if (why := size_error(v, 0 if k == "layer" else 1))]
    unknown = [k for k in given if k not in OPTIONS]
    errors += [str(Unknown("option", k, OPTIONS)) for k in unknown]
    if phase not in phases:
        errors.append(NOT_TRAINED if phase == TRAIN else str(Unknown("phase", phase, phases)))
    if dtype is not None and dtype not in BITS:
        stored = f"; {dtype} is how a cache is stored: --kv-dtype {dtype}" if blocks(dtype) else ""
        errors.append(f"{Unknown('dtype', dtype, BITS)}{stored}")
    if kv_dtype is not None and kv_dtype not in BITS and not blocks(kv_dtype):
        known = [*BITS, *BLOCKS]
        errors.append(f"{Unknown('kv-dtype', kv_dtype, known)}; or a 16-bit scale per group of numbers, as int4/64")
    if engine is not None:
        from attnmath.hardware.kernels import ENGINES, IDEAL

        if engine not in (*ENGINES, IDEAL):
            errors.append(str(Unknown("engine", engine, [*ENGINES, IDEAL])))
        if gpu is None:
            errors.append("--engine has a use only with a --gpu")
    if l2 == "warm" and gpu is None:
        errors.append("--l2 warm has a use only with a --gpu")
    if l2 not in ("cold", "warm"):
        errors.append(str(Unknown("state of --l2", l2, ("cold", "warm"), "states")))
    if errors:
        raise InputError(together(errors))


def check_trainable(phase: str, recompute: str | None, given: Mapping[str, Any]) -> None:
    """Refuse what only a backward pass has a use for, or has none for.

    >>> check_trainable("train", "selective", {"kv-dtype": "fp8"})
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: --kv-dtype: of no use with --phase train: nothing is cached, and no time is estimated
    """
    from attnmath.readings.recompute import RECOMPUTE

    errors = []
    if recompute is not None and recompute not in RECOMPUTE:
        errors.append(str(Unknown("recomputation", recompute, RECOMPUTE)))
    if phase != TRAIN and recompute is not None:
        errors.append("--recompute has a use only with --phase train")
    idle = [f"--{k}" for k, v in given.items() if v is not None] if phase == TRAIN else []
    if idle:
        errors.append(f"{', '.join(idle)}: of no use with --phase train: nothing is cached, and no time is estimated")
    if errors:
        raise InputError(together(errors))


def size_error(v: Any, least: int = 1) -> str:
    """What is wrong with a size; empty if nothing is.

    >>> size_error(8192), size_error(0)
    ('', '0 is no size: at least 1')
    """
    if isinstance(v, bool) or not isinstance(v, int):
        return f"{str(v)[:40]!r} is no whole number"
    if v < least:
        return f"{v if v > -(10**12) else 'a large negative number'} is no size: at least {least}"
    return f"a number of more than {MAX_DIGITS} digits" if v >= 10**MAX_DIGITS else ""


def check_useful(layer: Layer, given: Mapping[str, Any]) -> None:
    """Refuse options that this variant has no use for, naming the variants that have.

    >>> from attnmath.layers import build
    >>> check_useful(build("mqa"), {"memory-dim": 8})
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: --memory-dim has no use for mqa; the variants that have: cross
    """
    own = options_of(layer)
    errors = []
    for option in given:
        if option not in own:
            others = [n for n in variants.names() if option in variants.get(n).options]
            errors.append(
                f"--{option} has no use for {layer.variant.name}; the variants that have: {', '.join(others) or 'none'}"
            )
    if errors:
        raise InputError(together(errors))


def by_letter(given: Mapping[str, int], phase: str, names: Iterable[str]) -> dict[str, Any]:
    """Options by letter. In decode, `seq` without a `context` is the context, and one token is new.

    >>> by_letter({"seq": 8192}, "decode", ["t", "n"])
    {'t': 1, 'n': 8192}
    """
    out: dict[str, Any] = {OPTIONS[k]: v for k, v in given.items()}
    if phase == "decode":
        if "n" not in out and "t" in out:
            out["n"], out["t"] = out["t"], 1
        if "kept" in names:
            out["kept"] = "n"
    return out
