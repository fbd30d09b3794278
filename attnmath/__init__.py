"""Attention as equations: what every variant computes, and what it costs, with the formula behind each number.

The verbs of this package load what they need when they are first used, so that importing it is as light as the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_VERBS = {
    "cost": "attnmath.costs",
    "formula": "attnmath.formulas",
    "gradient": "attnmath.gradients",
    "evaluate": "attnmath.evaluation",
    "variant": "attnmath.variants:get",
    "derivation": "attnmath.derivations:get",
    "gpu": "attnmath.hardware:get",
    "model": "attnmath.models.costs:model",
    "check_plan": "attnmath.plans:check_plan",
    "AttnmathError": "attnmath.errors",
}
__all__ = [
    "AttnmathError",
    "check_plan",
    "cost",
    "derivation",
    "evaluate",
    "formula",
    "gpu",
    "gradient",
    "model",
    "variant",
]

if TYPE_CHECKING:
    from attnmath.costs import cost as cost
    from attnmath.derivations import get as derivation
    from attnmath.errors import AttnmathError as AttnmathError
    from attnmath.evaluation import evaluate as evaluate
    from attnmath.formulas import formula as formula
    from attnmath.gradients import gradient as gradient
    from attnmath.hardware import get as gpu
    from attnmath.models.costs import model as model
    from attnmath.plans import check_plan as check_plan
    from attnmath.variants import get as variant


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'attnmath' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    module, _, inside = _VERBS[name].partition(":")
    value = getattr(import_module(module), inside or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
