"""What models have beside attention, a page of equations each: embeddings, norms, feed-forward layers, experts, heads.

The pages are written as variants are (`attnmath/variants`); they are no variants, since nothing in them looks at tokens.
"""

from __future__ import annotations

import os
from functools import lru_cache

from attnmath.errors import Unknown
from attnmath.variants import SUFFIX, Variant, read_page

HERE = os.path.dirname(__file__)


@lru_cache
def names() -> tuple[str, ...]:
    """The blocks that exist.

    >>> "rms-norm" in names()
    True
    """
    return tuple(sorted(f.removesuffix(SUFFIX) for f in os.listdir(HERE) if f.endswith(SUFFIX)))


@lru_cache
def get(name: str) -> Variant:
    """A block's page by its name.

    >>> get("linear").title
    'Linear layer'
    """
    if name not in names():
        raise Unknown("block", name, names())
    return read_page(name, os.path.join(HERE, name + SUFFIX), name + SUFFIX)
