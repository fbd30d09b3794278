"""What comes to a server: requests of so many tokens, at such times, drawn from stated laws with a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from statistics import NormalDist
from typing import Any

from msgspec import Struct

from attnmath.errors import InputError, nearest, printable, together

ROWS = 2**16  # of a block
LONGEST = 10**9  # tokens
NORMAL = NormalDist()


class Requests(Struct, frozen=True):
    """Some requests, in order of arrival: seconds, tokens of prompts and tokens that are made, a sequence of numbers each."""

    arrival_s: Any
    prompt_tokens: Any
    output_tokens: Any


class Lengths(Struct, frozen=True):
    """How many tokens: each of `low` to `high` alike, or the exponential of a normal variable (`mu`, `sigma`), at most `high`.

    What is drawn is rounded to whole tokens, at least 1; `mean` and `scv` are those of the law before it is rounded.
    """

    low: float
    high: float = math.inf
    mu: float | None = None
    sigma: float = 0.0

    @property
    def mean(self) -> float:
        """Tokens in the mean."""
        return self._moment(1)

    @property
    def scv(self) -> float:
        """The squared coefficient of variation: variance / mean^2."""
        return max(self._moment(2) / self._moment(1) ** 2 - 1, 0.0)

    def _moment(self, k: int) -> float:
        """The mean of the k-th power; of a lognormal variable cut at `high`, by what lies below it and above it."""
        if self.mu is None:
            mean, count = (self.low + self.high) / 2, self.high - self.low + 1
            return mean if k == 1 else mean**2 + (count**2 - 1) / 12
        whole = math.exp(k * self.mu + (k * self.sigma) ** 2 / 2)
        if self.high == math.inf or not self.sigma:
            return min(whole, self.high**k)
        z = (math.log(self.high) - self.mu) / self.sigma
        return whole * NORMAL.cdf(z - k * self.sigma) + self.high**k * (1 - NORMAL.cdf(z))

    def draw(self, rng: Any, count: int) -> Any:
        """So many, as an array of integers, by a NumPy generator."""
        import numpy as np

        if self.mu is None:
            return rng.integers(math.ceil(self.low), math.floor(self.high) + 1, count)
        drawn = np.exp(np.minimum(rng.normal(self.mu, self.sigma, count), math.log(min(self.high, LONGEST))))
        return np.maximum(np.rint(drawn), 1).astype(np.int64)


def _lognormal(table: Mapping[str, float]) -> Lengths:
    """By mean and deviation: sigma^2 = ln(1 + (std / mean)^2), mu = ln(mean) - sigma^2 / 2."""
    square = math.log1p((table["std"] / table["mean"]) ** 2)
    return Lengths(1, table.get("max", math.inf), math.log(table["mean"]) - square / 2, math.sqrt(square))


def _quantiles(table: Mapping[str, float]) -> Lengths:
    """By two quantiles: ln(x) = mu + sigma z."""
    (p, low), (q, high) = sorted((int(k[1:]) / 100, v) for k, v in table.items() if k != "max")
    if not low < high:
        raise InputError("the higher quantile has to be the larger one")
    sigma = math.log(high / low) / (NORMAL.inv_cdf(q) - NORMAL.inv_cdf(p))
    return Lengths(1, table.get("max", math.inf), math.log(low) - sigma * NORMAL.inv_cdf(p), sigma)


WIDEST = 4.0  # sigma of a lognormal law: 99 in a hundred within a factor of 10,000 of the median
LAWS = "an integer, {mean = 1024, std = 300}, {p50 = 500, p99 = 4000}, either with max = 8192, or {uniform = [1, 2048]}"
QUANTILES = tuple(f"p{q}" for q in range(1, 100))


def lengths(value: Any) -> Lengths:
    """How many tokens, as a plan says it; InputError, saying what is understood.

    An integer; `{mean, std}`: lognormal; two of `{p1 .. p99}`: lognormal through these quantiles; `{uniform = [a, b]}`: each
    whole number from a to b alike. `max` cuts a lognormal one: what is more becomes `max`.

    >>> lengths(512).mean, round(lengths({"p50": 500, "p99": 4000}).mean), lengths({"uniform": [1, 3]}).mean
    (512.0, 746, 2.0)
    >>> lengths({"mean": 100, "sd": 5})
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: sd: did you mean 'std'? The keys are max, mean, p1 .. p99, std, uniform
    """
    if _whole(value):
        return Lengths(*_range([value, value]))
    if not isinstance(value, Mapping):
        raise InputError(f"{printable(repr(value)[:60])}: expected {LAWS}")
    if unknown := [str(k) for k in value if k not in ("mean", "std", "max", "uniform", *QUANTILES)]:
        raise InputError(together([_unknown(k) for k in unknown]))
    keys = frozenset(value) - {"max"}
    if keys == {"uniform"} and "max" not in value:
        return Lengths(*_range(value["uniform"]))
    if bad := [f"{k} is {v!r}; expected a number of tokens" for k, v in value.items() if not _tokens(v, k)]:
        raise InputError(together(bad))
    law = _law(keys)
    if law is None:
        raise InputError(f"{', '.join(map(str, value))}: expected {LAWS}")
    found = law(value)
    if found.sigma > WIDEST:
        raise InputError(
            f"{', '.join(map(str, value))}: spread too wide; the deviation of its logarithm is {found.sigma:.3g}, not at most 4"
        )
    return found


def _unknown(key: str) -> str:
    near, _, _ = nearest(key, ("mean", "std", "max", "uniform"), "keys").partition("The keys")
    hint = near if near.startswith("did") else ""
    return f"{printable(key[:40])}: {hint}The keys are max, mean, p1 .. p99, std, uniform"


def _law(keys: frozenset[str]) -> Callable[[Mapping[str, float]], Lengths] | None:
    if keys == {"mean", "std"}:
        return _lognormal
    return _quantiles if len(keys) == 2 and keys <= set(QUANTILES) else None


def _whole(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool)


def _tokens(v: Any, key: str) -> bool:
    number = (_whole(v) or isinstance(v, float)) and v == v
    return bool(number and (0 if key == "std" else 1) <= v <= LONGEST)


def _range(bounds: Any) -> tuple[int, int]:
    if not (isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(_whole, bounds))):
        raise InputError(f"uniform = {printable(repr(bounds)[:60])}: expected two whole numbers, [least, most]")
    low, high = bounds
    if not 1 <= low <= high <= LONGEST:
        shown = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        raise InputError(f"{shown} tokens: expected at least 1, at most {LONGEST:,}, and the smaller number first")
    return low, high


class Arrivals(Struct, frozen=True):
    """A rate, and how even it is: `cv`, the deviation of the times between arrivals over their mean.

    0 is a clock; 1 is Poisson's process; others are gamma variables of shape 1 / cv^2, which more than 1 makes bursty (as
    BurstGPT finds real ones, Wang et al. 2024, arXiv:2401.17644). InputError for what is none of these.

    >>> Arrivals(2.0, 0.0).draw(None, 4, 10.0).tolist()
    [10.5, 11.0, 11.5, 12.0]
    >>> Arrivals(-1.0)
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: a rate of -1 a second; expected more than 0
    """

    rate_per_s: float
    cv: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        errors = []
        if not 0 < self.rate_per_s < math.inf:
            errors.append(f"a rate of {self.rate_per_s:g} a second; expected more than 0")
        if not 0 <= self.cv <= 100:
            errors.append(f"a coefficient of variation of {self.cv:g}; expected 0 (a clock), 1 (Poisson), at most 100")
        if errors:
            raise InputError(together(errors))

    def draw(self, rng: Any, count: int, after_s: float) -> Any:
        """When the next so many come, in seconds, after one at `after_s`: an array."""
        import numpy as np

        if not self.cv:
            return after_s + np.arange(1, count + 1) / self.rate_per_s
        shape = self.cv**-2
        return after_s + np.cumsum(rng.gamma(shape, 1 / (shape * self.rate_per_s), count))


def draw(
    prompt: Lengths, output: Lengths, arrivals: Arrivals | None, requests: int, seed: int = 0
) -> Iterator[Requests]:
    """So many requests, in blocks; without arrivals all come at once, as a closed loop takes them.

    The same seed draws the same requests. InputError if there are none to draw.

    >>> first = next(draw(lengths(512), lengths({"uniform": [1, 9]}), Arrivals(5.0), 100))
    >>> len(first.arrival_s), set(first.prompt_tokens.tolist()), bool(first.output_tokens.max() <= 9)
    (100, {512}, True)
    """
    if requests < 1:
        raise InputError(f"{requests:,} requests; at least 1 is needed")
    return _blocks(prompt, output, arrivals, requests, seed)


def _blocks(
    prompt: Lengths, output: Lengths, arrivals: Arrivals | None, requests: int, seed: int
) -> Iterator[Requests]:
    import numpy as np

    rng, last = np.random.default_rng(seed), 0.0
    for first in range(0, requests, ROWS):
        count = min(ROWS, requests - first)
        times = arrivals.draw(rng, count, last) if arrivals else np.zeros(count)
        last = float(times[-1])
        yield Requests(times, prompt.draw(rng, count), output.draw(rng, count))
