"""The `decisions` environment: five diagnostic worlds with a known optimum, one for each decision of an
agent.

Chance level: success needs information that only calls reveal. Without reading, one must guess one of 24
words in chain (a room), probe (a part) or ledger (a value): .04 at most; one source of 15 in tooldag: .06 at
its first two levels, nothing above; several words at once in fanout. .02 over the five, declared as .03.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from agito.envs.decisions import chain, fanout, ledger, probe, tooldag
from agito.envs.decisions.measured import MEASURES
from agito.envs.decisions.scene import (
    Case,
    Family,
    Hand,
    Spent,
    act_again,
    demonstrator,
    negative_controls,
    solver,
)
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.protocols import Control, Measure, ScriptFactory, TeamScript
from agito.types import AttemptId, EpisodeArtifacts, Status, Target, Task, Trajectory, Verdict
from agito.worlds.world import World

_FAMILIES: Mapping[str, Family] = {
    "chain": chain.FAMILY,
    "probe": probe.FAMILY,
    "tooldag": tooldag.FAMILY,
    "ledger": ledger.FAMILY,
    "fanout": fanout.FAMILY,
}
FAMILIES, LEVELS, SPLITS = tuple(_FAMILIES), (1, 2, 3, 4, 5), ("train", "heldout", "structural")


class DecisionsEnvironment(ProceduralEnvironment):
    """Worlds in memory; see `docs/decisions.md`."""

    name = "decisions"
    version = "2"
    families = FAMILIES
    levels = LEVELS
    splits = SPLITS
    chance_level = 0.03
    measured: tuple[Measure, ...] = MEASURES

    def draw(self, place: Place) -> tuple[Task, Target]:
        case = _case(place.split, place.family, place.level, place.seed)
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt=case.prompt,
            tools=case.tools,
            limits=(limits := case.limits),
            tags=case.tags,
            natural_limits=replace(
                limits, tokens=640 + 96 * limits.turns, turn_tokens=2 * limits.turn_tokens
            ),
        )
        return task, Target(
            task_id=task.id,
            seed=place.seed,
            data={"split": place.split, "family": place.family, "level": place.level},
        )

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        """Apparent noise is part of the task: all attempts at one task meet the same readings and faults."""
        return World(task, [_of(target).scene()], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Replays the captured calls in a fresh world. A success earns the optimum's price as a share of the
        price paid, so prices count, but never as much as the outcome."""
        outcome = act_again(_of(target).scene(), json.loads(sealed.files["calls.json"])).outcome()
        scores = {"success": float(outcome.success), **outcome.scores}
        return Verdict(
            status=Status.SCORED,
            reward=outcome.reward,
            scores=scores,
            evidence=outcome.evidence,
            grade_seed=grade_seed,
        )

    def measures(self, task: Task, target: Target, trajectory: Trajectory) -> Mapping[str, float]:
        """The measures of this attempt by name, without those that it does not determine."""
        calls = [(event.call.tool, event.call.arguments) for event in trajectory.events]
        return act_again(_of(target).scene(), calls).measures(Spent.of(trajectory))

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (solver(_of(target)),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return negative_controls(_FAMILIES[task.family], task, zlib.crc32(task.id.encode()))

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return demonstrator(_of(target), skill=skill, seed=seed)

    def team_demonstrator(
        self, task: Task, target: Target, *, role: str, skill: float, seed: int
    ) -> TeamScript | ScriptFactory:
        """Hands out work in fanout; elsewhere one agent acts alone."""
        case = _of(target)
        if not isinstance(case, fanout.FanOut):
            return demonstrator(case, skill=skill, seed=seed)
        return case.team(Hand(skill, random.Random(f"decisions/team/{seed}")), role)


def _of(target: Target) -> Case:
    return _case(
        str(target.data["split"]), str(target.data["family"]), int(str(target.data["level"])), target.seed
    )


@lru_cache(maxsize=4096)
def _case(split: str, family: str, level: int, seed: int) -> Case:
    return _FAMILIES[family].draw(split, level, random.Random(f"decisions/{split}/{family}/{level}/{seed}"))
