"""A harness of two roles: an adviser says a word about the task, then an actor acts, with that word in its
prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agito.harness import SOLO, SoloHarness
from agito.protocols import Agent, Session
from agito.sampling.capture import Capture
from agito.types import AttemptId, Task, Trajectory

_WORDS = 8  # tokens of advice


class Advised:
    roles = ("actor", "adviser")

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        adviser, actor = agents["adviser"], agents["actor"]
        capture = Capture(adviser.engine, seed=seed, stop_ids=adviser.spec.renderer.stop_ids, segment=1)
        capture.extend(adviser.spec.renderer.opening(task))
        said = await capture.sample(max_tokens=_WORDS, temperature=adviser.spec.temperature)
        capture.label(adviser.spec.renderer.channels(said.ids))
        await capture.close()
        advice = adviser.spec.renderer.text(said.ids)
        advised = replace(
            task, prompt={dialect: f"{prompt}\nadvice: {advice}" for dialect, prompt in task.prompt.items()}
        )
        acted = await SoloHarness().run(advised, session, {SOLO: actor}, attempt, seed=seed)
        segment = capture.segment(agent="adviser", role="adviser", policy=adviser.spec.policy)
        return replace(
            acted, task=task, segments=(*acted.segments, segment), turns=(*acted.turns, *capture.turns)
        )
