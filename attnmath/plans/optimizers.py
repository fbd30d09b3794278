"""What optimizers keep beside the weights, read off their papers' algorithms: a row each."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

BLOCK = 2048  # numbers that share a scale in 8-bit optimizers: Dettmers et al. 2021, arXiv:2110.02861, section 2.1


class Weight(Struct, frozen=True):
    """A learned tensor as an optimizer sees it, on one rank: `numbers`, in `matrices` of `rows` by `columns`; `hidden`: whether
    it is a matrix between two hidden states, neither embedding nor head nor one row.
    """

    numbers: int
    matrices: int
    rows: int
    columns: int
    hidden: bool


class Optimizer(Struct, frozen=True):
    """`states`: how many numbers it keeps of a weight; `bits`: of each of them, None: as the plan says."""

    meaning: str
    states: Callable[[Weight], int]
    source: str
    bits: float | None = None


def _each(count: int) -> Callable[[Weight], int]:
    return lambda w: count * w.numbers


def _factored(w: Weight) -> int:
    """A number for each row and each column of a matrix; a number each where there is but one row."""
    return w.matrices * (w.rows + w.columns) if w.rows > 1 and w.columns > 1 else w.numbers


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(
        "two moments a weight",
        _each(2),
        "Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2",
    ),
    "adam8bit": Optimizer(
        "two moments a weight, 8 bits each, and a scale of 32 bits for each block of 2,048",
        _each(2),
        "Dettmers et al. 2022, arXiv:2110.02861, section 2",
        8 + 32 / BLOCK,
    ),
    "sgd": Optimizer("nothing", _each(0), "Robbins and Monro 1951, doi 10.1214/aoms/1177729586"),
    "momentum": Optimizer("a velocity a weight", _each(1), "Sutskever et al. 2013, ICML, equations 1 and 2"),
    "adafactor": Optimizer(
        "a second moment for each row and column of a matrix, for each weight elsewhere; no momentum",
        _factored,
        "Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4",
        32,
    ),
    "muon": Optimizer(
        "a momentum a weight of hidden matrices; AdamW's two moments elsewhere",
        lambda w: w.numbers if w.hidden else 2 * w.numbers,
        "Liu et al. 2025, arXiv:2502.16982, section 2",
    ),
    "lion": Optimizer("a momentum a weight", _each(1), "Chen et al. 2023, arXiv:2302.06675, algorithm 2"),
}


def state_bytes(name: str, w: Weight, bits: int) -> int:
    """Bytes that an optimizer keeps of a weight; `bits`: of each number, where its paper leaves that open.

    >>> w = Weight(numbers=4096, matrices=1, rows=64, columns=64, hidden=True)
    >>> {name: state_bytes(name, w, 32) for name in OPTIMIZERS}
    {'adamw': 32768, 'adam8bit': 8208, 'sgd': 0, 'momentum': 16384, 'adafactor': 512, 'muon': 16384, 'lion': 16384}
    """
    row = OPTIMIZERS[name]
    return int(-(-row.states(w) * (row.bits or bits) // 8))
