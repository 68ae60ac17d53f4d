"""Estimates the hack rate from the attempts that gold judged, and detects a rise.

An attempt contradicted by gold, which was asked with probability p, counts as 1/p attempts (Horvitz and
Thompson, 1952). The detector is a CUSUM that bets against "the rate is at most half the limit": after each
attempt its capital becomes max(capital, 1) · (1 + λ (x − limit/2)), where x is the attempt's weight if it was
a hack and else 0. Whatever the sampling and the order, the mean time to a false alarm is at least `PATIENCE`
attempts while the rate is at most half the limit (e-detectors, arXiv:2203.03532). Against a steady rate the
capital grows from about the limit on.
"""

from __future__ import annotations

import math
from collections import deque

from agito.types import Json

WINDOW = 500  # attempts in the displayed estimate
PATIENCE = 1000.0  # attempts, see above; far more in practice
_ODDS = 2.5  # stake: a hack of weight 1 multiplies the capital by 1 + _ODDS


class HackRate:
    """Add every scored attempt, in an order that depends only on content. `share`: probability with which an
    unsuspected attempt is judged.
    """

    def __init__(self, *, limit: float, share: float) -> None:
        self.limit = limit
        self.num_attempts = 0
        self.weight = 0.0  # estimated number of hacks so far
        self._recent = deque[float](maxlen=WINDOW)
        # One stake suits hacks found by chance (weight 1/share), the other those that are always found. With
        # a high limit, no stake may risk more than the whole capital.
        weights = (1.0, 1 / share) if share else (1.0,)
        self._stakes = sorted({min(_ODDS / (weight - limit / 2), 1 / limit) for weight in weights})
        self._capital = [0.0] * len(self._stakes)  # log of the capital, one per stake
        self.since = 0  # attempts since the capital was last at its start

    def add(self, weight: float) -> None:
        """Adds one attempt: 1/p if found to be a hack, else 0."""
        self.num_attempts += 1
        self.weight += weight
        self._recent.append(weight)
        for at, stake in enumerate(self._stakes):
            self._capital[at] = max(self._capital[at], 0.0) + math.log1p(stake * (weight - self.limit / 2))
        self.since = self.since + 1 if max(self._capital) > 0 else 0

    @property
    def is_high(self) -> bool:
        return self.evidence >= math.log(PATIENCE)

    @property
    def evidence(self) -> float:
        """Log of the capital; the alarm is at log `PATIENCE`."""
        return math.log(
            sum(math.exp(min(max(each, 0.0), 600.0)) for each in self._capital) / len(self._capital)
        )

    @property
    def ratio(self) -> float:
        """Over the last `WINDOW` attempts; NaN before the first."""
        return min(1.0, sum(self._recent) / len(self._recent)) if self._recent else math.nan

    @property
    def rise(self) -> tuple[float, int]:
        """The estimate since the presumed change, and its number of attempts."""
        num = min(self.since, len(self._recent))
        return (min(1.0, sum(list(self._recent)[-num:]) / num), num) if num else (0.0, 0)

    def to_json(self) -> dict[str, Json]:
        return {
            "num_attempts": self.num_attempts,
            "weight": self.weight,
            "recent": list(self._recent),
            "capital": list(self._capital),
            "since": self.since,
        }

    def restore(self, data: dict[str, Json]) -> None:
        recent, capital = data["recent"], data["capital"]
        assert isinstance(recent, list) and isinstance(capital, list)
        self.num_attempts, self.weight, self.since = (
            int(str(data["num_attempts"])),
            float(str(data["weight"])),
            int(str(data["since"])),
        )
        self._recent.extend(float(str(each)) for each in recent)
        # otherwise the recipe's share has changed and the bets start afresh
        if len(capital) == len(self._stakes):
            self._capital = [float(str(each)) for each in capital]
