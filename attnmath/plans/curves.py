"""Functions that never fall and are slow to work out, read off a grid: two points an octave, straight lines between.

A kernel may take a little less time for a little more work, where that fills its tiles better. What is planned with should
not: a point of the grid is at least what those before it are.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor, log2

OCTAVE = 2  # points in each


def _place(x: float) -> tuple[int, float]:
    """(the point at or below x, how far x is on the way to the next)."""
    x = max(x, 1.0)
    k = floor(OCTAVE * log2(x))
    low, high = 2.0 ** (k / OCTAVE), 2.0 ** ((k + 1) / OCTAVE)
    return k, (x - low) / (high - low)


class Curve:
    """Of a number of at least 1."""

    def __init__(self, exact: Callable[[float], float]) -> None:
        self.exact, self.known = exact, dict[int, float]()

    def at(self, k: int) -> float:
        """The function at 2^(k / 2).

        >>> Curve(lambda n: 3 * n).at(4)
        12.0
        """
        if k not in self.known:
            least = self.at(k - 1) if k else 0.0
            self.known[k] = max(self.exact(2.0 ** (k / OCTAVE)), least)
        return self.known[k]

    def __call__(self, x: float) -> float:
        """
        >>> round(Curve(lambda n: 3 * n)(10.5), 9)
        31.5
        """
        k, part = _place(x)
        found: float = self.at(k) * (1 - part) + self.at(k + 1) * part
        return found


class Surface:
    """Of two such numbers."""

    def __init__(self, exact: Callable[[float, float], float]) -> None:
        self.exact, self.known = exact, dict[tuple[int, int], float]()

    def at(self, k: int, j: int) -> float:
        """The function at 2^(k / 2) and 2^(j / 2).

        >>> Surface(lambda n, m: n * m).at(4, 2)
        8.0
        """
        if (k, j) not in self.known:
            least = max(self.at(k - 1, j) if k else 0.0, self.at(k, j - 1) if j else 0.0)
            self.known[k, j] = max(self.exact(2.0 ** (k / OCTAVE), 2.0 ** (j / OCTAVE)), least)
        return self.known[k, j]

    def __call__(self, x: float, y: float) -> float:
        """
        >>> round(Surface(lambda n, m: n * m)(10.5, 3), 9)
        31.5
        """
        (k, part), (j, way) = _place(x), _place(y)
        low = self.at(k, j) * (1 - way) + self.at(k, j + 1) * way
        high = self.at(k + 1, j) * (1 - way) + self.at(k + 1, j + 1) * way
        found: float = low * (1 - part) + high * part
        return found
