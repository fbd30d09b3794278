"""Plans of servers and of training: a deployment written down, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnmath.plans.checking import PlanResult
    from attnmath.plans.training_checks import TrainingResult


def check_plan(path: str) -> PlanResult | TrainingResult:
    """Whether a plan of a server, or of training, fits: every constraint with value, limit, margin, reason and fix.

    Raises InputError, naming file, line and key, for a plan that cannot be read.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "plan.toml")
    >>> _ = file.write_text('model = "llama-3.1-8b"\\n[gpu]\\nname = "h100-sxm"\\n[workload]\\nconcurrency = 16')
    >>> check_plan(str(file)).verdict
    'pass'
    """
    from attnmath.plans.checking import verdict
    from attnmath.plans.reading import read

    return verdict(read(path))
