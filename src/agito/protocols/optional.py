"""What an environment may offer beside `Environment`; each is asked for by `isinstance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from agito.types import (
    EpisodeArtifacts,
    Target,
    Task,
    Trajectory,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of how a decision was made. `decision`: a, when to stop thinking and act; b, which tool in
    which order; c, integrating noisy observations; d, revising the plan after failure; e, staying coherent.
    """

    name: str
    decision: str
    title: str
    is_share: bool = False  # shown in per cent
    higher_is_better: bool = False
    optimum_is_best: bool = True  # False: it tells what was spent, not how well it was decided


@runtime_checkable
class Measured(Protocol):
    """An environment that also says how well each attempt decided, whatever came of it. Optional."""

    @property
    def measured(self) -> tuple[Measure, ...]: ...
    def measures(self, task: Task, target: Target, trajectory: Trajectory) -> Mapping[str, float]:
        """On the trusted side, from the events; by name. What an attempt says nothing about is left out."""
        ...


@runtime_checkable
class Informed(Protocol):
    """An environment whose tasks no script can solve without the target, not even its own. Optional: the
    audit refuses them otherwise.
    """

    @property
    def solutions_need_key(self) -> str:
        """Why, in a sentence."""
        ...


@runtime_checkable
class Unscripted(Protocol):
    """An environment without scripts that solve or demonstrate its tasks, such as prompts with a reward
    function. Optional: its audit measures what can be measured without them, and says what it did not. Its
    `solutions` only show that the grader works.
    """

    @property
    def unscripted(self) -> str:
        """Why, in a sentence."""
        ...


@runtime_checkable
class Finite(Protocol):
    """An environment whose splits are finite sets: task `index` is the one at `index` modulo the split's
    size, anew in every round.
    """

    def num_tasks(self, split: str) -> int:
        """Distinct ones."""
        ...


@runtime_checkable
class Sourced(Protocol):
    """An environment that is made of files beside its class. Optional: they are part of its digest."""

    @property
    def sources(self) -> tuple[Path, ...]: ...


@runtime_checkable
class Validated(Protocol):
    """An environment that can judge an attempt in a second, better way, which no policy is ever
    rewarded by.
    """

    async def gold(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """As `Environment.grade`, on the same scale; it may cost more. Asked about a share of attempts: see
        `agito.monitor`.
        """
        ...


@runtime_checkable
class Ranged(Protocol):
    """An environment whose rewards are not between 0 and 1. Optional."""

    @property
    def reward_range(self) -> tuple[float, float]:
        """The lowest and the highest reward that a verdict can give."""
        ...


@runtime_checkable
class Isolated(Protocol):
    """An environment that knows what keeps its episodes in. Optional."""

    @property
    def isolation_tier(self) -> str:
        """Such as `native+cgroup` or `in memory`; `unknown` before an episode has been opened."""
        ...


@runtime_checkable
class Answered(Protocol):
    """An environment that says which texts would give a task away, so that an attempt which read one is
    flagged. Optional.
    """

    def answers(self, task: Task, target: Target) -> Sequence[str]:
        """What no observation should hold word for word before the agent has said it itself. Those under six
        characters are not looked for: they turn up by chance.
        """
        ...
