"""The `parallel` environment: its families are the settings of phi.

Chance level: success needs the results of eight parts, each one of 24 words, and that every part was done.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from agito.envs.decisions.scene import Case, Hand
from agito.envs.decisions.scene_environment import SceneEnvironment
from agito.envs.parallel.case import Parallel, family
from agito.protocols import TeamScript
from agito.types import Target, Task

PHI: Mapping[str, float] = {f"phi-{phi}": phi / 100 for phi in (0, 25, 50, 75, 100)}
_FAMILIES = {name: family(phi) for name, phi in PHI.items()}


class ParallelEnvironment(SceneEnvironment):
    """A world in memory; see `docs/howto/teams.md`."""

    name = "parallel"
    version = "1"
    kinds = _FAMILIES
    families = tuple(PHI)
    levels = (1, 2, 3, 4, 5)
    chance_level = 0.01

    def team_demonstrator(
        self, task: Task, target: Target, *, role: str, skill: float, seed: int
    ) -> TeamScript:
        """Hands out half of the tasks, at every phi: whether that pays is for the policy to find out."""
        return _of(self.case_of(target)).team(_hand(skill, seed), role)

    def fixed_split(
        self, task: Task, target: Target, *, role: str, skill: float = 1.0, seed: int = 0
    ) -> TeamScript:
        """The baseline of a team: hands out two halves, whatever the task."""
        return _of(self.case_of(target)).fixed_split(_hand(skill, seed), role)


def _hand(skill: float, seed: int) -> Hand:
    return Hand(skill, random.Random(f"parallel/team/{seed}"))


def _of(case: Case) -> Parallel:
    assert isinstance(case, Parallel)
    return case
