"""The running mean reward of each cell: the baseline of a penalised attempt without a trusted peer."""

from __future__ import annotations

import math
from collections.abc import Iterable

from agito.errors import CorruptCheckpoint
from agito.types import Group, Json, mean

_NEW_WEIGHT = 0.3  # of a new group


class RunningMeans:
    """Exponential moving averages of the trusted rewards, by cell. Checkpoints carry their state."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def of(self, cell: str) -> float:
        """The mean of `cell`; NaN before any trusted reward."""
        return self._means.get(cell, math.nan)

    def add(self, groups: Iterable[Group]) -> None:
        """Updates the means; the order depends on content only, not on arrival."""
        for group in groups:
            reward = mean(attempt.utility for attempt in group.trusted)
            if math.isfinite(reward):
                before = self._means.get(group.task.cell, reward)
                self._means[group.task.cell] = before + _NEW_WEIGHT * (reward - before)

    def to_json(self) -> dict[str, Json]:
        return dict(self._means)

    def restore(self, data: Json) -> None:
        """Takes over the state that `to_json` returned. Raises `CorruptCheckpoint`."""
        if not isinstance(data, dict):
            raise CorruptCheckpoint(
                f"the running means are {data}: need a number for each cell; was another version of Agito "
                "here?"
            )
        self._means = {cell: float(str(value)) for cell, value in data.items()}
