"""The `parallel` environment: its families are the settings of phi.

Chance level: success needs the results of eight parts, each one of 24 words, and that every part was done.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from agito.envs.decisions.scene import Hand, act_again, demonstrator, negative_controls, solver
from agito.envs.parallel.case import Parallel, family
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.protocols import Control, ScriptFactory, TeamScript
from agito.types import AttemptId, EpisodeArtifacts, Status, Target, Task, Verdict
from agito.worlds.world import World

PHI: Mapping[str, float] = {f"phi-{phi}": phi / 100 for phi in (0, 25, 50, 75, 100)}
_FAMILIES = {name: family(phi) for name, phi in PHI.items()}


class ParallelEnvironment(ProceduralEnvironment):
    """A world in memory; see `docs/howto/teams.md`."""

    name = "parallel"
    version = "1"
    families = tuple(PHI)
    levels = (1, 2, 3, 4, 5)
    chance_level = 0.01

    def draw(self, place: Place) -> tuple[Task, Target]:
        case = _case(place.split, place.family, place.level, place.seed)
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
        where = {"split": place.split, "family": place.family, "level": place.level}
        return task, Target(task_id=task.id, seed=place.seed, data=where)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [_of(target).scene()], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Replays the captured calls in a fresh world. A success earns the fewest steps as a share of those
        taken."""
        outcome = act_again(_of(target).scene(), json.loads(sealed.files["calls.json"])).outcome()
        return Verdict(
            status=Status.SCORED,
            reward=outcome.reward,
            scores={"success": float(outcome.success)},
            evidence=outcome.evidence,
            grade_seed=grade_seed,
        )

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (solver(_of(target)),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return negative_controls(_FAMILIES[task.family], task, zlib.crc32(task.id.encode()))

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return demonstrator(_of(target), skill=skill, seed=seed)

    def team_demonstrator(
        self, task: Task, target: Target, *, role: str, skill: float, seed: int
    ) -> TeamScript:
        """Hands out half of the tasks, at every phi: whether that pays is for the policy to find out."""
        return _of(target).team(_hand(skill, seed), role)

    def fixed_split(
        self, task: Task, target: Target, *, role: str, skill: float = 1.0, seed: int = 0
    ) -> TeamScript:
        """The baseline of a team: hands out two halves, whatever the task."""
        return _of(target).fixed_split(_hand(skill, seed), role)


def _hand(skill: float, seed: int) -> Hand:
    return Hand(skill, random.Random(f"parallel/team/{seed}"))


def _of(target: Target) -> Parallel:
    return _case(
        str(target.data["split"]), str(target.data["family"]), int(str(target.data["level"])), target.seed
    )


@lru_cache(maxsize=4096)
def _case(split: str, name: str, level: int, seed: int) -> Parallel:
    found = _FAMILIES[name].draw(split, level, random.Random(f"parallel/{split}/{name}/{level}/{seed}"))
    assert isinstance(found, Parallel)
    return found
