"""What a cell has paid lately: the baseline of a penalised attempt that has no trusted peer."""

from __future__ import annotations

import math
from collections.abc import Iterable

from agito.errors import CorruptCheckpoint
from agito.types import Group, Json, mean

_NEW = 0.3  # weight of a new group


class RunningMeans:
    """Exponential means of the trusted rewards, by cell. Their state goes with the checkpoint."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def of(self, cell: str) -> float:
        """NaN before anything was trusted there."""
        return self._means.get(cell, math.nan)

    def add(self, groups: Iterable[Group]) -> None:
        """In an order that is a function of content."""
        for group in groups:
            reward = mean(attempt.verdict.reward for attempt in group.trusted)
            if math.isfinite(reward):
                before = self._means.get(group.task.cell, reward)
                self._means[group.task.cell] = before + _NEW * (reward - before)

    def to_json(self) -> dict[str, Json]:
        return dict(self._means)

    def restore(self, data: Json) -> None:
        """Takes over what `to_json` gave. Raises `CorruptCheckpoint`."""
        if not isinstance(data, dict):
            raise CorruptCheckpoint(
                f"the running means are {data}: need a number for each cell; was another version of Agito "
                "here?"
            )
        self._means = {cell: float(str(value)) for cell, value in data.items()}
