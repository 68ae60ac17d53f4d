"""An episode that an audit drives call by call, so that several can be open at once."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from agito.grading.audit.stage import GRADE_SEED, Drawn, Episode, Stage
from agito.protocols import Control
from agito.testing.episodes import budget
from agito.types import AttemptId, Call, Event, Sealed

T = TypeVar("T")
_DEADLINE_S = 30.0  # of one request to the world


class Visit:
    """Whatever breaks is an incident, and the visit sees nothing more. Ended by `seal` or `close`."""

    def __init__(self, stage: Stage, drawn: Drawn, control: Control | None) -> None:
        self.episode = Episode(task=drawn[0], key=drawn[1])
        self._stage, self._control = stage, control

    @classmethod
    async def open(cls, stage: Stage, drawn: Drawn, *, attempt: AttemptId | None = None, noise: int = 0) -> Visit:
        visit = cls(stage, drawn, None)
        visit._control = await visit._ask(stage.environment.open(*drawn, attempt or stage.attempt(), noise_seed=noise))
        stage.num_episodes += 1
        return visit

    async def digest(self) -> str:
        return "" if self._control is None else await self._ask(self._control.digest()) or ""

    async def act(self, call: Call) -> Event | None:
        """None when the episode has ended or broken."""
        events = self.episode.events
        if self._control is None or (events and events[-1].ended):
            return None
        answered = await self._ask(self._control.session.act((call,), budget(self.episode.task.limits, len(events) + 1)))
        events += answered or ()
        return answered[-1] if answered else None

    async def seal(self, *, graded: bool = False) -> Sealed | None:
        """What was captured; the world is gone."""
        if self._control is None:
            return None
        self.episode.sealed = await self._ask(self._control.seal())
        await self.close()
        if graded and self.episode.sealed is not None:
            verdict = await self._ask(self._stage.environment.grade(self.episode.sealed, self.episode.key, GRADE_SEED))
            self.episode.verdict = verdict or self.episode.verdict
        return self.episode.sealed

    async def close(self) -> None:
        await self._stage.close(self._control)

    async def _ask(self, asked: Awaitable[T]) -> T | None:
        try:
            with anyio.fail_after(_DEADLINE_S):
                return await asked
        except Exception as error:  # the boundary: whatever an environment raises is a finding
            self._stage.report(self.episode, error)
            await self.close()
            self._control = None
            return None
