"""Attempts at one task, and samples for the trainer."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agito.types.task import AttemptId, Task
from agito.types.trajectory import VersionSpan
from agito.types.verdict import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Attempts at one task. Void ones yield no sample; penalised ones enter no baseline."""

    id: int
    task: Task
    attempts: tuple[Attempt, ...]
    # Attempts that go on from the middle of one of these, as their lineage says: they measure credit, and
    # enter no baseline, curriculum or success.
    forks: tuple[Attempt, ...] = ()

    @property
    def all_attempts(self) -> tuple[Attempt, ...]:
        """Forks too: whatever was sampled."""
        return (*self.attempts, *self.forks)

    @property
    def trusted(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.is_trusted)

    @property
    def penalised(self) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.is_scored and attempt.penalty)

    @property
    def is_void(self) -> bool:
        """Whether nothing can be learned from it, whatever the rewards."""
        return len(self.trusted) < 2 and not self.penalised

    @property
    def has_variance(self) -> bool:
        """Whether it yields a gradient."""
        return has_variance([attempt.utility for attempt in self.trusted], len(self.penalised))


def has_variance(trusted: Sequence[float], num_penalised: int) -> bool:
    """Whether attempts at one task yield a gradient: two trusted ones differ in reward, or one is
    penalised."""
    return num_penalised > 0 or (len(trusted) >= 2 and max(trusted) - min(trusted) > 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One segment as the trainer sees it; columns have one entry per token."""

    attempt: AttemptId
    segment: int
    ids: array[int]  # 'i'
    logprobs: array[float]  # 'f', log mu; NaN where nothing was sampled
    trainable: bytes  # 1 where the loss applies
    advantages: array[float]  # 'f'; 0 where not trainable
    versions: tuple[VersionSpan, ...]
    temperature: float = 1.0
    policy: str = "main"  # the policy that the tokens are from
    role: str = "solo"

    def __post_init__(self) -> None:
        n = len(self.ids)
        if not (len(self.logprobs) == len(self.trainable) == len(self.advantages) == n):
            raise ValueError(f"sample {self.attempt}: columns differ in length")

    @property
    def num_trainable(self) -> int:
        return sum(self.trainable)


def mean(values: Iterable[float]) -> float:
    """NaN for an empty input, never zero."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan
