"""From rewards to weights: credit assignment and the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agito.types import (
    Group,
    Sample,
)


class Credit(Protocol):
    """A group to token advantages."""

    def __call__(self, group: Group, *, running_mean: float) -> tuple[Sample, ...]:
        """Samples of the scored attempts. `running_mean`: the mean of the trusted rewards in the group's
        cell, NaN if there are none; the baseline of a penalised attempt without a trusted peer. Raises
        `ValueError` for a void group."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """Metrics of one optimizer step, already reduced over ranks; names are `area/name_unit`."""

    version: int
    values: Mapping[str, float]


class Trainer(Protocol):
    """Owns the learning weights. Knows nothing of ranks, groups or worlds."""

    def step(self, samples: Sequence[Sample]) -> StepStats: ...
    def sft_step(self, samples: Sequence[Sample]) -> StepStats:
        """One supervised step on the trainable tokens; advantages and log-probabilities are ignored."""
        ...
