"""The `replan` environment: its families are kinds of ways.

Chance level: who composes all steps and never looks has to guess which of at least two legs is stuck, and how
often: half of the tasks are stuck, one leg in two, one to three times: 1/12.
"""

from __future__ import annotations

import random

from agito.envs.decisions.scene import Hand
from agito.envs.decisions.scene_environment import SceneEnvironment
from agito.envs.replan.case import KINDS, LEGS, Way, family
from agito.protocols import Measure, ScriptFactory
from agito.types import Effort, Target, Task

_FAMILIES = {name: family(kind) for name, kind in KINDS.items()}


class ReplanEnvironment(SceneEnvironment):
    """A world in memory; see `docs/howto/effort.md`."""

    name = "replan"
    version = "1"
    kinds = _FAMILIES
    families = tuple(_FAMILIES)
    levels = tuple(LEGS)
    chance_level = 0.09
    measured: tuple[Measure, ...] = tuple(
        Measure(
            name=f"replan_recovery_{kind}",
            decision="d",
            title=f"recovered: {kind}",
            is_share=True,
            higher_is_better=True,
        )
        for kind in ("stuck", "slipped")
    )

    def thinker(
        self, task: Task, target: Target, *, effort: Effort, skill: float, seed: int
    ) -> ScriptFactory:
        case = self._way(target)
        return lambda: case.thinker(*_begun(effort, skill, seed))

    def planner(
        self, task: Task, target: Target, *, effort: Effort, again: bool, skill: float, seed: int
    ) -> ScriptFactory:
        case = self._way(target)
        return lambda: case.planner(*_begun(effort, skill, seed), again=again)

    def _way(self, target: Target) -> Way:
        case = self.case_of(target)
        assert isinstance(case, Way)
        return case


def _begun(effort: Effort, skill: float, seed: int) -> tuple[Hand, Effort]:
    """At `auto` either choice is shown."""
    rng = random.Random(f"replan/demonstrator/{seed}")
    thinks = rng.choice((Effort.NONE, Effort.HIGH)) if effort is Effort.AUTO else effort
    return Hand(skill, rng), thinks
