"""Means with 95 % intervals, by bootstrap over tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agito.types import Json

DRAWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Sequence[float]) -> Estimate:
        """The interval holds the middle 95 % of the draws."""
        ordered = sorted(draws)
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.025, 0.975))
        return cls(value=value, low=low, high=high)

    def to_json(self) -> list[Json]:
        return [round(self.value, 4), round(self.low, 4), round(self.high, 4)]


def estimate(values: Sequence[float], *, draws: int = DRAWS) -> Estimate:
    rng = random.Random(f"effort/{len(values)}")
    return Estimate.of(fmean(values), [fmean(rng.choices(values, k=len(values))) for _ in range(draws)])
