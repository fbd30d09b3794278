"""Clipped projections.

Queries, keys and values are clamped to [-limit, limit], as DBRX and MPT do (clip_qkv), before a rope.
"""

from attnmath.errors import InputError
from attnmath.language.syntax import Program
from attnmath.modifiers import Sizes, targets

SOURCE = "Databricks 2024, DBRX, attn_config.clip_qkv in transformers' modeling_dbrx.py"


def lines(page: Program, on: str = "Q k v", limit: float = 8.0) -> tuple[str, Sizes]:
    """`on`: the tensors that are clipped; `limit`: what no element's absolute value exceeds.

    >>> from attnmath import variants
    >>> lines(variants.get("mha").program, on="Q", limit=6)
    ('Q[..] <- max2(-limit, min2(Q[..], limit))\\n', {'limit': 6})
    """
    if not limit > 0:
        raise InputError(f"clip:limit={limit:g}: a limit is more than 0")
    return "".join(f"{n}[..] <- max2(-limit, min2({n}[..], limit))\n" for n, _ in targets(page, on)), {"limit": limit}
