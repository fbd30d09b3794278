"""`--measured`: what a kernel's measured time says beside the bound, and what is wrong where it beats it."""

from __future__ import annotations

import math

from msgspec.structs import replace

from attnmath.errors import InputError
from attnmath.results import Cost, Measured

SUSPECTS = {  # what a time under the bound of a unit can come from, beside a wrong count or measurement
    "tensor": "sizes, mask or dtype that are not those of the kernel",
    "exp": "a kernel that computes some exponentials on other units",
    "hbm": "bytes that are not those of the kernel: --context, --kv-dtype",
}
WARM = ", or caches that were warm (--l2 warm)"


def with_measured(cost: Cost, time_s: float) -> Cost:
    """A cost with what a measured time of its core, in seconds, says: the share of the bound, MFU, bytes/s.

    The time is of the core alone (of a model, of all its attention cores), without projections. Raises InputError where
    there is nothing to measure against: no accelerator, or no core.

    >>> from attnmath.costs import cost
    >>> m = with_measured(cost("gqa", seq=8192, heads=32, gpu="h100-sxm"), 0.001).measured
    >>> round(m.share_of_bound, 4), round(m.mfu, 4), round(m.hbm_bytes_per_s)
    (0.5557, 0.5557, 167772160000)
    """
    if isinstance(time_s, bool) or not isinstance(time_s, (int, float)) or not 0 < time_s < math.inf:
        raise InputError(f"a measured time is a number of seconds above 0, not {time_s!r:.40}")
    if cost.gpu is None:
        raise InputError("--measured has a use only with a --gpu: the time is compared with its bound")
    if cost.time_bound_s.fused is None:
        raise InputError(f"--measured has no use for {cost.variant}: it has no core to compare with")
    from attnmath.hardware import get

    peak = get(cost.gpu_file or cost.gpu).tensor_rate(cost.inputs["dtype"])
    found = Measured(
        time_s=float(time_s),
        share_of_bound=cost.time_bound_s.fused / time_s,
        mfu=cost.flops.matmul / time_s / peak,
        hbm_bytes_per_s=(cost.hbm_bytes.compulsory or 0) / time_s,
    )
    if not all(map(math.isfinite, (found.share_of_bound or 0, found.mfu or 0, found.hbm_bytes_per_s or 0))):
        raise InputError(f"{time_s!r} s: too short a time for a rate that a float holds")
    return replace(cost, measured=found)


def doubt(cost: Cost) -> str:
    """Why a measured time cannot be: it is below the lower bound. Empty if it is not.

    >>> from attnmath.costs import cost
    >>> print(doubt(with_measured(cost("gqa", seq=1, context=8192, heads=32, gpu="h100-sxm"), 5e-6)))
    200.4 % of the bound (hbm on h100-sxm): no kernel is that fast, so a count, a figure or the measurement is wrong;
    look for bytes that are not those of the kernel: --context, --kv-dtype, or caches that were warm (--l2 warm)
    """
    share = cost.measured.share_of_bound
    if share is None or share <= 1:
        return ""
    warm = WARM if cost.time_bound_by == "hbm" and cost.l2 == "cold" else ""
    return (
        f"{100 * share:.4g} % of the bound ({cost.time_bound_by} on {cost.gpu}): no kernel is that fast, so a count, a figure or "
        f"the measurement is wrong; look for {SUSPECTS[cost.time_bound_by or 'hbm']}{warm}"
    )
