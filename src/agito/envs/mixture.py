"""Several environments as one: families are named `environment.family`; each task is delegated to its
environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio

from agito.envs.registry import isolation_of
from agito.errors import BadRecipe
from agito.protocols import (
    Answered,
    Control,
    Environment,
    Measure,
    Measured,
    Ranged,
    ScriptFactory,
    Validated,
)
from agito.types import AttemptId, EpisodeArtifacts, Json, Target, Task, Trajectory, Verdict, mean

NAME = "mixture"


class Mixture:
    """If an environment lacks a level, its nearest level is used."""

    name = NAME

    def __init__(self, environments: Sequence[Environment]) -> None:
        """Raises `BadRecipe` for no environment, or for two of one name."""
        self._by_name = {environment.name: environment for environment in environments}
        if not environments or len(self._by_name) < len(environments):
            raise BadRecipe(
                f"env.mix={[each.name for each in environments]}: need at least one environment, and each "
                "once"
            )
        self._negative_controls = set[str].intersection(*map(_negative_controls, environments))

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that all environments have."""
        first, *others = self._by_name.values()
        return tuple(split for split in first.splits if all(split in each.splits for each in others))

    @property
    def version(self) -> str:
        return "+".join(f"{name}.{each.version}" for name, each in self._by_name.items())

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(f"{name}.{family}" for name, each in self._by_name.items() for family in each.families)

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(sorted({level for each in self._by_name.values() for level in each.levels}))

    @property
    def chance_level(self) -> float:
        return mean(each.chance_level for each in self._by_name.values())

    @property
    def reward_range(self) -> tuple[float, float]:
        ranges = [
            each.reward_range if isinstance(each, Ranged) else (0.0, 1.0) for each in self._by_name.values()
        ]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def isolation_tier(self) -> str:
        return " + ".join(dict.fromkeys(isolation_of(each) for each in self._by_name.values()))

    @property
    def measured(self) -> tuple[Measure, ...]:
        return tuple(
            measure
            for each in self._by_name.values()
            if isinstance(each, Measured)
            for measure in each.measured
        )

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        family = family or self.families[index % len(self.families)]
        level = level or self.levels[index // len(self.families) % len(self.levels)]
        if family not in self.families or level not in self.levels:
            raise ValueError(
                f"family={family!r} level={level}: the mixture has {', '.join(self.families)} at levels "
                f"{self.levels}"
            )
        name, _, bare = family.partition(".")
        environment = self._by_name[name]
        task, target = environment.task(
            split=split, index=index, seed=seed, family=bare, level=_nearest(environment, level)
        )
        data: dict[str, Json] = {"environment": name, "data": dict(target.data)}
        outer = f"{name}.{task.id}"
        return replace(task, id=outer, env=NAME, family=family, level=level), replace(
            target, task_id=outer, data=data
        )

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        environment, inner = self._inner(task)
        return await environment.open(inner, _bare(target), attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return await self._by_name[str(target.data["environment"])].grade(sealed, _bare(target), grade_seed)

    async def gold(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Void, counted as not judged, for environments without a validator."""
        environment = self._by_name[str(target.data["environment"])]
        if not isinstance(environment, Validated):
            return Verdict.void(f"{environment.name} has no validator")
        return await environment.gold(sealed, _bare(target), grade_seed)

    def answers(self, task: Task, target: Target) -> Sequence[str]:
        environment, inner = self._inner(task)
        return environment.answers(inner, _bare(target)) if isinstance(environment, Answered) else ()

    def measures(self, task: Task, target: Target, trajectory: Trajectory) -> Mapping[str, float]:
        environment, inner = self._inner(task)
        return (
            environment.measures(inner, _bare(target), trajectory)
            if isinstance(environment, Measured)
            else {}
        )

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        environment, inner = self._inner(task)
        return environment.solutions(inner, _bare(target))

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        """Negative controls that all environments have, for comparison."""
        environment, inner = self._inner(task)
        return {
            name: script
            for name, script in environment.negative_controls(inner).items()
            if name in self._negative_controls
        }

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        environment, inner = self._inner(task)
        return environment.demonstrator(inner, _bare(target), skill=skill, seed=seed)

    def _inner(self, task: Task) -> tuple[Environment, Task]:
        name, _, bare = task.family.partition(".")
        environment = self._by_name[name]
        return environment, replace(task, env=name, family=bare, level=_nearest(environment, task.level))

    async def aclose(self) -> None:
        async with anyio.create_task_group() as tasks:
            for each in self._by_name.values():
                tasks.start_soon(each.aclose)


def _negative_controls(environment: Environment) -> set[str]:
    task, _ = environment.task(
        split="train", index=0, seed=0, family=environment.families[0], level=environment.levels[0]
    )
    return set(environment.negative_controls(task))


def _nearest(environment: Environment, level: int) -> int:
    return min(environment.levels, key=lambda each: (abs(each - level), each))


def _bare(target: Target) -> Target:
    data = target.data["data"]
    assert isinstance(data, dict)
    return replace(target, data=data)
