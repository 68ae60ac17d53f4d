"""What an environment may offer beyond `Environment`; each protocol is tested by `isinstance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from agito.protocols.world import ScriptFactory, TeamScript
from agito.types import (
    EpisodeArtifacts,
    Target,
    Task,
    Trajectory,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure of how decisions were made. `decision`: a, when to stop thinking and act; b, which tools
    in which order; c, integrating noisy observations; d, revising the plan after failure; e, staying
    coherent."""

    name: str
    decision: str
    title: str
    is_share: bool = False  # shown as a percentage
    higher_is_better: bool = False
    optimum_is_best: bool = True  # False: it measures effort, not the quality of a decision


@runtime_checkable
class Measured(Protocol):
    """An environment that also measures how well each attempt decided, independent of its outcome.
    Optional."""

    @property
    def measured(self) -> tuple[Measure, ...]: ...
    def measures(self, task: Task, target: Target, trajectory: Trajectory) -> Mapping[str, float]:
        """Runs on the trusted side, from the events; by name, without measures that an attempt does not
        determine."""
        ...


@runtime_checkable
class Informed(Protocol):
    """An environment whose own scripts cannot solve tasks without the target. Optional; without it, the audit
    rejects such an environment."""

    @property
    def solutions_need_target(self) -> str:
        """The reason, in one sentence."""
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
    """An environment that can judge an attempt in a second, better way that never rewards a policy."""

    async def gold(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """As `Environment.grade`, on the same scale, and possibly more expensive. Called for a share of
        attempts: see `agito.monitor`."""
        ...


@runtime_checkable
class Ranged(Protocol):
    """An environment with rewards outside [0, 1]. Optional."""

    @property
    def reward_range(self) -> tuple[float, float]:
        """The lowest and the highest possible reward."""
        ...


@runtime_checkable
class Isolated(Protocol):
    """An environment that knows how its episodes are isolated. Optional."""

    @property
    def isolation_tier(self) -> str:
        """Such as `native+cgroup` or `in memory`; `unknown` before an episode has been opened."""
        ...


@runtime_checkable
class Answered(Protocol):
    """An environment that names the texts that would give a task away, so that attempts which read one are
    flagged. Optional."""

    def answers(self, task: Task, target: Target) -> Sequence[str]:
        """Texts that no observation should contain verbatim before the agent has said them. Texts under six
        characters are ignored: they appear by chance."""
        ...


@runtime_checkable
class TeamDemonstrated(Protocol):
    """An environment whose demonstrator can also hand out work. Optional: without it a team imitates one
    agent alone before RL."""

    def team_demonstrator(
        self, task: Task, target: Target, *, role: str, skill: float, seed: int
    ) -> TeamScript | ScriptFactory:
        """An imperfect team; `role`: of the agents that it spawns."""
        ...
