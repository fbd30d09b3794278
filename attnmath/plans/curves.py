"""Functions that are slow to work out, read off a grid."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, log2


class Curve:
    """A function of a number of at least 1, worked out a quarter of an octave apart and read in between."""

    def __init__(self, exact: Callable[[float], float]) -> None:
        self.exact, self.known = exact, dict[int, float]()

    def at(self, k: int) -> float:
        """The function at 2^(k / 4).

        >>> Curve(lambda n: 3 * n).at(4)
        6.0
        """
        if k not in self.known:
            self.known[k] = self.exact(2.0 ** (k / 4))
        return self.known[k]

    def __call__(self, x: float) -> float:
        """
        >>> round(Curve(lambda n: 3 * n)(10.5), 9)
        31.5
        """
        x = max(x, 1.0)
        k = floor(4 * log2(x))
        low, high = 2.0 ** (k / 4), 2.0 ** ((k + 1) / 4)
        part = (x - low) / (high - low)
        found: float = self.at(k) * (1 - part) + self.at(k + 1) * part
        return found


class Surface:
    """The same of two numbers."""

    def __init__(self, exact: Callable[[float, float], float]) -> None:
        self.exact, self.known = exact, dict[int, Curve]()

    def __call__(self, x: float, y: float) -> float:
        """
        >>> round(Surface(lambda n, m: n * m)(10.5, 3), 9)
        31.5
        """
        x = max(x, 1.0)
        k = floor(4 * log2(x))
        low, high = 2.0 ** (k / 4), 2.0 ** ((k + 1) / 4)
        part = (x - low) / (high - low)
        found: float = self._row(k)(y) * (1 - part) + self._row(k + 1)(y) * part
        return found

    def _row(self, k: int) -> Curve:
        if k not in self.known:
            self.known[k] = Curve(lambda y, n=2.0 ** (k / 4): self.exact(n, y))  # type: ignore[misc]
        return self.known[k]
