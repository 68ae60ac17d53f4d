"""Confidence intervals for a success rate: exact (Clopper–Pearson) and Wilson's.

Both assume independent attempts. Attempts of one group share their task, so across groups the true interval
is wider; a `Rate` that knows the number of distinct tasks takes the interval over so many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`successes` out of `num` scored attempts, with its 95 % Clopper–Pearson interval. NaN when
    `num` is 0.

    `num_tasks`: distinct ones, where some were attempted several times. The interval is then as wide as if
    each had been attempted once: never too narrow, however much alike the attempts at one task are.
    """

    successes: int
    num: int
    num_tasks: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _check(self.successes, self.num)

    @property
    def success(self) -> float:
        return self.successes / self.num if self.num else math.nan

    @property
    def low(self) -> float:
        return clopper_pearson(self._independent(math.floor), self.num_tasks or self.num)[0]

    @property
    def high(self) -> float:
        return clopper_pearson(self._independent(math.ceil), self.num_tasks or self.num)[1]

    def _independent(self, rounded: Callable[[float], int]) -> int:
        """Successes among as many attempts as there are tasks."""
        return (
            self.successes
            if not self.num_tasks or not self.num
            else rounded(self.successes * self.num_tasks / self.num)
        )


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, num: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval, which never covers less than `confidence`. (0, 1) when `num` is 0. Source: Clopper
    and Pearson, 1934.

    low = BetaInv(α/2; k, n−k+1) and high = BetaInv(1−α/2; k+1, n−k), with α = 1 − confidence.
    """
    _check(successes, num)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _beta_quantile(tail, successes, num - successes + 1)
    high = 1.0 if successes == num else _beta_quantile(1 - tail, successes + 1, num - successes)
    return low, high


def wilson(successes: int, num: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval, close to `confidence` on average. (0, 1) when `num` is 0. Source: Wilson,
    1927.
    """
    _check(successes, num)
    if num == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, scale = successes / num, 1 + z * z / num
    centre = (p + z * z / (2 * num)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / num + z * z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast only below the mean; above it, use the symmetry I_x(a, b) = 1 − I_{1−x}(b,
    # a).
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1 - front * _beta_fraction(1 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), by Lentz's method (Abramowitz and Stegun 26.5.8)."""
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for step in (even, odd):
            d = 1 + step * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + step / c
            c = c if abs(c) > tiny else tiny
            change = d * c
            value *= change
        if abs(change - 1) < 1e-15:
            return value
    raise AssertionError(f"incomplete beta does not converge at x={x}, a={a}, b={b}")


def _beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _check(successes: int, num: int) -> None:
    if not 0 <= successes <= num:
        raise ValueError(f"successes={successes} of num={num}: need 0 <= successes <= num")
