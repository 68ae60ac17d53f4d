"""One learn step: monitor → curriculum → credit → step → publish. The loop, the overlapped loop and replay
all take it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from agito.learning.credit import RunningMeans, load
from agito.learning.effort import EffortSection
from agito.learning.modes import ModeCredit
from agito.learning.prices import Prices
from agito.monitor import Monitor
from agito.protocols import MAIN, StepStats
from agito.recipe import RlSection
from agito.record.trajectories import is_success
from agito.scheduling.curriculum import Curriculum, GroupOutcome
from agito.training.teacher import Teacher
from agito.types import Group, Sample, mean

# Loads the last checkpoint that was made before a step, and returns which step it begins with.
RollBack: TypeAlias = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What one step came to. `pause`: why nothing was learned from it, nor will be from the steps that would
    have followed.
    """

    groups: tuple[Group, ...]  # as the monitor left them
    samples: tuple[Sample, ...]
    stats: Mapping[str, StepStats]  # by policy, of those that took a step
    metrics: dict[str, float]
    notes: tuple[str, ...] = ()  # for people
    pause: str = ""
    is_rolled_back: bool = False


class LearningPolicies(Protocol):
    """The policies that learn: see `agito.runtime.policies.Policies`."""

    @property
    def learning(self) -> Mapping[str, object]:
        """By id."""
        ...

    async def step(self, samples: Sequence[Sample], *, rate: float = 1.0) -> Mapping[str, StepStats]:
        """A step of each that has samples."""
        ...


class LearnStep:
    """Takes the steps of one run. Replay gives neither monitor nor curriculum: what they decided is recorded.

    `cell_of` says which cell a group belongs to, by its place in the curriculum.
    """

    def __init__(
        self,
        policies: LearningPolicies,
        recipe: RlSection,
        *,
        means: RunningMeans,
        monitor: Monitor | None = None,
        curriculum: Curriculum | None = None,
        cell_of: Callable[[Group], int] = lambda group: 0,
        roll_back: RollBack | None = None,
        teacher: Teacher | None = None,
        effort: EffortSection | None = None,
        prices: Prices | None = None,
    ) -> None:
        """In the free part of the steps, `prices` leave thinking at zero."""
        effort = effort or EffortSection()
        self._teacher, self._prices, self._free_steps = teacher, prices, effort.free_steps * recipe.steps
        self._policies, self._recipe, self._means = policies, recipe, means
        self._credit = ModeCredit(
            credit=load(recipe.credit), weight=effort.mode_weight, least=effort.mode_least
        )
        self._monitor, self._curriculum, self._cell_of, self._roll_back = (
            monitor,
            curriculum,
            cell_of,
            roll_back,
        )
        self._said: set[str] = set()

    async def learn(
        self,
        index: int,
        groups: Sequence[Group],
        *,
        publish: Callable[[], Awaitable[None]],
        revoked: Collection[int] = (),
    ) -> Learned:
        """Step `index`, from complete groups in order of id. Nothing is learned from `revoked` groups, which
        were sampled by weights that were taken back, nor from a step in which the monitor raises the alarm.
        """
        began, metrics = time.monotonic(), dict[str, float]()
        groups = tuple(groups)
        if self._monitor is not None:
            groups, metrics = self._monitor.update(index, groups)
            if pause := self._pause(groups):
                return Learned(groups=groups, samples=(), stats={}, metrics=metrics, pause=pause)
        if self._curriculum is not None and self._recipe.adaptive_sampling:
            self._curriculum.update(self._seen(group) for group in groups if not group.is_void)
        is_rolled_back = await self._roll_back_on_alarm(index, metrics)
        teaching = [
            group
            for group in groups
            if not is_rolled_back and group.id not in revoked and self._teaches(group)
        ]
        samples = tuple(
            sample
            for group in teaching
            for sample in self._credit(group, running_mean=self._means.of(group.task.cell))
            if sample.policy in self._policies.learning
            # a teacher scores `main` only
            and (group.has_variance or sample.policy == MAIN)
        )
        # A replay names what it need not compute; it was sampled by weights that stayed.
        gone = revoked if self._monitor is not None else ()
        sound = [group for group in groups if not is_rolled_back and group.id not in gone]
        self._means.add(sound)
        if self._prices is not None and not is_rolled_back:
            self._prices.update(sound, is_free=index < self._free_steps)
            metrics |= self._prices.metrics(sound)
        if self._teacher is not None and samples:
            samples, distilled = await self._teacher.credit(samples)
            metrics |= distilled
        stats = await self._policies.step(samples, rate=min(1.0, len(teaching) / self._recipe.groups))
        await publish()
        metrics["time/train_s"] = time.monotonic() - began
        return Learned(
            groups=groups,
            samples=samples,
            stats=stats,
            metrics=metrics,
            notes=self._notes(),
            is_rolled_back=is_rolled_back,
        )

    async def _roll_back_on_alarm(self, index: int, metrics: dict[str, float]) -> bool:
        """Rolls the weights back if this step raised the alarm. Returns whether it did."""
        monitor = self._monitor
        if self._roll_back is None or monitor is None or not monitor.masks or monitor.alarm_step != index:
            return False
        metrics["monitor/rolled_back_to_step"] = float(await self._roll_back(monitor.rise_step))
        return True

    def _teaches(self, group: Group) -> bool:
        """Whether it yields samples: its rewards differ, or a teacher scores it; and its cell is
        not stopped.
        """
        is_any = group.has_variance or (self._teacher is not None and not group.is_void)
        return is_any and (self._monitor is None or self._monitor.teaches(group))

    def _pause(self, groups: Sequence[Group]) -> str:
        """The reason to pause; empty if there is none."""
        monitor = self._monitor
        assert monitor is not None
        if monitor.is_paused:
            return (
                f"{monitor.why}; nothing was learned from this step. Read the attempts in report.html, "
                "close the hole, and go on with --resume; or set on_alarm under [monitor] in the run's "
                "config.toml"
            )
        if groups and not any(monitor.teaches(group) for group in groups):
            return f"every cell of this step is stopped: {'; '.join(self._stopped())}"
        return ""

    def _stopped(self) -> list[str]:
        assert self._monitor is not None
        limit = self._monitor.config.void_limit
        return [
            f"nothing is learned from {cell} any more: {voids} of {tries} tries ended void "
            f"(monitor.void_limit={limit:g}). Read why in "
            "report.html, mend it, and resume with a higher limit in the run's config.toml"
            for cell, (voids, tries) in self._monitor.exits.stopped.items()
        ]

    def _notes(self) -> tuple[str, ...]:
        """What has not been said before."""
        if self._monitor is None:
            return ()
        stopped = self._monitor.exits.stopped
        new = [line for cell, line in zip(stopped, self._stopped(), strict=True) if cell not in self._said]
        self._said |= stopped.keys()
        return tuple(new)

    def _seen(self, group: Group) -> GroupOutcome:
        """What the curriculum learns of a group."""
        solved = mean(float(bool(is_success(attempt))) for attempt in (*group.trusted, *group.penalised))
        return GroupOutcome(cell=self._cell_of(group), has_variance=group.has_variance, solved=solved)
