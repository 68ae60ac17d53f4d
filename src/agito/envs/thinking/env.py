"""The `thinking` environment: tasks whose difficulty is exact, and demonstrators that think at every effort.

Chance level: there are eight rooms, and a chain never ends where it began: 1/7.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import ClassVar

from agito.envs.decisions.scene import Family, Hand, Outcome, act_again, negative_controls
from agito.envs.procedural import Place, ProceduralEnvironment
from agito.envs.thinking import chain
from agito.envs.thinking.chain import Chain
from agito.envs.thinking.words import REALISTIC, TERSE, Words
from agito.protocols import Control, ScriptFactory
from agito.types import AttemptId, Effort, EpisodeArtifacts, Limits, Status, Target, Task, Verdict
from agito.worlds.world import World

_DRAWN = {"chain": chain.draw, "errand": chain.draw_errand}
_AUTO = {
    "chain": (Effort.NONE, Effort.HIGH),
    "errand": (Effort.NONE, Effort.MEDIUM),
}  # either is shown as often


class ThinkingEnvironment(ProceduralEnvironment):
    """Worlds in memory; see `docs/howto/effort.md`."""

    name = "thinking"
    version = "1"
    families = tuple(_DRAWN)
    levels = tuple(chain.PAGES)
    chance_level = 0.15
    words: ClassVar[Words] = TERSE

    def draw(self, place: Place) -> tuple[Task, Target]:
        case = _case(place.family, place.split, place.level, place.seed, self.words)
        task = Task(
            id=place.id,
            env=self.name,
            split=place.split,
            family=place.family,
            level=place.level,
            prompt=case.prompt,
            tools=case.tools,
            limits=(limits := case.limits),
            natural_limits=self.natural_limits(limits),
        )
        data = {"family": place.family, "split": place.split, "level": place.level}
        return task, Target(task_id=task.id, seed=place.seed, data=data)

    def natural_limits(self, limits: Limits) -> Limits:
        return replace(limits, tokens=2048 + 192 * limits.turns, turn_tokens=256, observation_bytes=1024)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [self._of(target).scene()], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        """Replays the captured calls in a fresh world, which must come to the captured answer."""
        scene = act_again(self._of(target).scene(), json.loads(sealed.files["calls.json"]))
        outcome = scene.outcome()
        if outcome.success and (sealed.submitted or "").strip() != self._of(target).end:
            outcome = Outcome(success=False, evidence=f"submitted {sealed.submitted!r}, and not by a call")
        return Verdict(
            status=Status.SCORED,
            reward=outcome.reward,
            scores={"success": float(outcome.success)},
            evidence=outcome.evidence,
            grade_seed=grade_seed,
        )

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: self._of(target).agent(Hand(1.0, random.Random(0))),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        family = Family(
            draw=_DRAWN[task.family],
            open_loop=partial(chain.open_loop, words=self.words),
            anything=partial(chain.anything, words=self.words),
        )
        return negative_controls(family, task, zlib.crc32(task.id.encode()))

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return self.thinker(task, target, effort=Effort.NONE, skill=skill, seed=seed)

    def thinker(
        self, task: Task, target: Target, *, effort: Effort, skill: float, seed: int
    ) -> ScriptFactory:
        case = self._of(target)

        def script() -> chain.Script:
            rng = random.Random(f"thinking/demonstrator/{seed}")
            thinks = effort
            if effort is Effort.AUTO:  # either choice is shown
                thinks = rng.choice(_AUTO[task.family])
            return case.thinker(Hand(skill, rng), thinks)

        return script

    def _of(self, target: Target) -> Chain:
        data = target.data
        return _case(
            str(data["family"]), str(data["split"]), int(str(data["level"])), target.seed, self.words
        )


class RealisticThinkingEnvironment(ThinkingEnvironment):
    """The same tasks as people who carry a parcel through a house, for language models."""

    name, ids_begin_with = "thinking-realistic", "thinking"
    words = REALISTIC


@lru_cache(maxsize=4096)
def _case(family: str, split: str, level: int, seed: int, words: Words) -> Chain:
    rng = random.Random(f"thinking/{family}/{split}/{level}/{seed}")
    return _DRAWN[family](split, level, rng, words=words)
