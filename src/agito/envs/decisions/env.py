"""The `decisions` environment: five diagnostic worlds with a known optimum, one for each decision of an
agent.

Chance level: success needs information that only calls reveal. Without reading, one must guess one of 24
words in chain (a room), probe (a part) or ledger (a value): .04 at most; one source of 15 in tooldag: .06 at
its first two levels, nothing above; several words at once in fanout. .02 over the five, declared as .03.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from agito.envs.decisions import chain, fanout, ledger, probe, tooldag
from agito.envs.decisions.measured import MEASURES
from agito.envs.decisions.scene import Family, Hand, demonstrator
from agito.envs.decisions.scene_environment import SceneEnvironment
from agito.protocols import Measure, ScriptFactory, TeamScript
from agito.types import Target, Task

_FAMILIES: Mapping[str, Family] = {
    "chain": chain.FAMILY,
    "probe": probe.FAMILY,
    "tooldag": tooldag.FAMILY,
    "ledger": ledger.FAMILY,
    "fanout": fanout.FAMILY,
}
FAMILIES, LEVELS, SPLITS = tuple(_FAMILIES), (1, 2, 3, 4, 5), ("train", "heldout", "structural")


class DecisionsEnvironment(SceneEnvironment):
    """Worlds in memory; see `docs/environments/decisions.md`."""

    name = "decisions"
    version = "2"
    kinds = _FAMILIES
    families = FAMILIES
    levels = LEVELS
    splits = SPLITS
    chance_level = 0.03
    measured: tuple[Measure, ...] = MEASURES

    def team_demonstrator(
        self, task: Task, target: Target, *, role: str, skill: float, seed: int
    ) -> TeamScript | ScriptFactory:
        """Hands out work in fanout; elsewhere one agent acts alone."""
        case = self.case_of(target)
        if not isinstance(case, fanout.FanOut):
            return demonstrator(case, skill=skill, seed=seed)
        return case.team(Hand(skill, random.Random(f"decisions/team/{seed}")), role)
