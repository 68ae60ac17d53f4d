"""How far two success rates are apart, with a 95 % interval: over different tasks, or task by task."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from agito.record.intervals import Rate, wilson

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second rate minus the first. NaN, from −1 to 1, where one of them has no attempt."""

    value: float
    low: float
    high: float
    num_pairs: int = 0  # tasks that both have attempted; 0: the two are compared as independent

    @property
    def is_apart(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def difference(first: Rate, second: Rate) -> Difference:
    """Of independent attempts. Source: Newcombe, 1998, "Interval estimation for the difference between
    independent proportions", method 10.
    """
    if not first.num or not second.num:
        return Difference(value=math.nan, low=-1.0, high=1.0)
    return _square_and_add(first, second, phi=0.0)


def paired_difference(first: Mapping[Key, bool], second: Mapping[Key, bool]) -> tuple[Rate, Rate, Difference]:
    """Over the tasks that both name, with both rates over these. A task that both solve, or both fail, says
    nothing of the difference, so the interval is narrower than that of independent attempts. Source:
    Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10.
    """
    shared = [task for task in first if task in second]
    both = sum(first[task] and second[task] for task in shared)
    only_first = sum(first[task] and not second[task] for task in shared)
    only_second = sum(second[task] and not first[task] for task in shared)
    num = len(shared)
    neither = num - both - only_first - only_second
    one, two = (Rate(successes=both + each, num=num) for each in (only_first, only_second))
    if not num:
        return one, two, Difference(value=math.nan, low=-1.0, high=1.0)
    covariance = both * neither - only_first * only_second
    if covariance > 0:  # corrected for continuity
        covariance = max(covariance - num / 2, 0.0)
    scale = math.sqrt(one.successes * (num - one.successes) * two.successes * (num - two.successes))
    found = _square_and_add(one, two, phi=covariance / scale if scale else 0.0)
    return one, two, Difference(value=found.value, low=found.low, high=found.high, num_pairs=num)


def _square_and_add(first: Rate, second: Rate, *, phi: float) -> Difference:
    """From Wilson's intervals of both and their correlation."""
    (low1, high1), (low2, high2) = (wilson(each.successes, each.num) for each in (first, second))
    below1, above1 = first.success - low1, high1 - first.success
    below2, above2 = second.success - low2, high2 - second.success
    value = second.success - first.success
    down = math.sqrt(max(below2**2 - 2 * phi * below2 * above1 + above1**2, 0.0))
    up = math.sqrt(max(above2**2 - 2 * phi * above2 * below1 + below1**2, 0.0))
    return Difference(value=value, low=max(value - down, -1.0), high=min(value + up, 1.0))
