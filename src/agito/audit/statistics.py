"""Shares with their intervals, and the binomial tail that tells luck from a loophole."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agito.audit.card import Measure
from agito.record.intervals import wilson
from agito.types import mean


def share(name: str, hits: int, num: int, *, note: str = "") -> Measure:
    """With Wilson's 95 % interval; no value if `num` is 0."""
    if not num:
        return Measure(name=name, value=None, note=note)
    low, high = wilson(hits, num)
    return Measure(
        name=name, value=round(hits / num, 4), low=round(low, 4), high=round(high, 4), num=num, note=note
    )


def average(name: str, values: Sequence[float], *, note: str = "") -> Measure:
    """The mean of values in [0, 1], with Wilson's interval at that mean, which is conservative for any
    distribution on [0, 1].
    """
    if not values:
        return Measure(name=name, value=None, note=note)
    low, high = bounds(values)
    return Measure(
        name=name,
        value=round(mean(values), 4),
        low=round(low, 4),
        high=round(high, 4),
        num=len(values),
        note=note,
    )


def bounds(values: Sequence[float]) -> tuple[float, float]:
    total = min(max(sum(values), 0.0), len(values))
    return wilson(math.floor(total + 1e-9), len(values))[0], wilson(math.ceil(total - 1e-9), len(values))[1]


def luck(successes: int, num: int, chance: float) -> float:
    """P(X >= successes) for X ~ Binomial(num, chance)."""
    if successes <= 0:
        return 1.0
    chance = min(max(chance, 0.0), 1.0)
    if chance in (0.0, 1.0):
        return chance
    logs = [
        _log_choose(num, k) + k * math.log(chance) + (num - k) * math.log1p(-chance)
        for k in range(successes, num + 1)
    ]
    return min(sum(map(math.exp, logs)), 1.0)


def _log_choose(num: int, k: int) -> float:
    return math.lgamma(num + 1) - math.lgamma(k + 1) - math.lgamma(num - k + 1)


def percentile(values: Sequence[float], part: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else None


def milliseconds(name: str, seconds: Sequence[float], part: float) -> Measure:
    found = percentile(seconds, part)
    return Measure(
        name=name, value=None if found is None else round(1e3 * found, 3), num=len(seconds), unit="ms"
    )


def earns_more(successes: int, num: int, chance: float, sure: float) -> bool:
    """Whether luck at `chance` explains so many successes with a probability below `sure`."""
    return successes > chance * num and luck(successes, num, chance) < sure


def differs(hits: int, num: int, other_hits: int, other_num: int, *, sure: float = 1e-5) -> bool:
    """Whether the first share exceeds the second by more than luck: Fisher's exact test, one-sided."""
    total, marked = num + other_num, hits + other_hits
    if not num or not other_num or hits * other_num <= other_hits * num:
        return False
    ways = math.comb(total, marked)
    tail = sum(
        math.comb(num, each) * math.comb(other_num, marked - each)
        for each in range(hits, min(num, marked) + 1)
    )
    return tail / ways < sure
