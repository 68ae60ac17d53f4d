"""Base of environments whose tasks are cases with a scene in memory."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

from agito.envs.decisions.scene import (
    Case,
    Family,
    Spent,
    act_again,
    demonstrator,
    negative_controls,
    solver,
)
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.protocols import Control, ScriptFactory
from agito.types import AttemptId, EpisodeArtifacts, Status, Target, Task, Trajectory, Verdict
from agito.worlds.world import World


class SceneEnvironment(ProceduralEnvironment):
    """A subclass sets `kinds` beside the fields of its base. Apparent noise is part of the task: all attempts
    at one task meet the same readings and faults.
    """

    kinds: ClassVar[Mapping[str, Family]]  # by the name of the family

    def draw(self, place: Place) -> tuple[Task, Target]:
        data = {"split": place.split, "family": place.family, "level": place.level}
        target = Target(task_id=place.id, seed=place.seed, data=data)
        case = self.case_of(target)
        limits = case.limits
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt=case.prompt,
            tools=case.tools,
            limits=limits,
            tags=case.tags,
            natural_limits=replace(
                limits, tokens=640 + 96 * limits.turns, turn_tokens=2 * limits.turn_tokens
            ),
        )
        return task, target

    def case_of(self, target: Target) -> Case:
        split, family, level = (target.data[name] for name in ("split", "family", "level"))
        return _case(type(self), str(split), str(family), int(str(level)), target.seed)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [self.case_of(target).scene()], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Replays the captured calls in a fresh world. A success earns the least that it can cost as a share
        of what it did cost, so prices count, but never as much as the outcome.
        """
        outcome = act_again(self.case_of(target).scene(), json.loads(sealed.files["calls.json"])).outcome()
        return Verdict(
            status=Status.SCORED,
            reward=outcome.reward,
            scores={"success": float(outcome.success), **outcome.scores},
            evidence=outcome.evidence,
            grade_seed=grade_seed,
        )

    def measures(self, task: Task, target: Target, trajectory: Trajectory) -> Mapping[str, float]:
        """The measures of this attempt by name, without those that it does not determine."""
        calls = [(event.call.tool, event.call.arguments) for event in trajectory.events]
        return act_again(self.case_of(target).scene(), calls).measures(Spent.of(trajectory))

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (solver(self.case_of(target)),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return negative_controls(self.kinds[task.family], task, zlib.crc32(task.id.encode()))

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return demonstrator(self.case_of(target), skill=skill, seed=seed)


@lru_cache(maxsize=4096)
def _case(environment: type[SceneEnvironment], split: str, family: str, level: int, seed: int) -> Case:
    rng = random.Random(f"{environment.name}/{split}/{family}/{level}/{seed}")
    return environment.kinds[family].draw(split, level, rng)
