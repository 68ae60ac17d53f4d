"""Episodes that stand open beside others: each is driven like any other, by somebody who is told his calls
one by one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from agito.audit.episode import Drawn, Episode
from agito.audit.stage import Stage
from agito.protocols import Session
from agito.rollout import acted
from agito.rollout.scripts import budget
from agito.types import AttemptId, Call, EpisodeArtifacts, Event, Trajectory


class Visit:
    """An open episode. Whatever breaks is an incident, and nothing more is seen of it."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.is_open, self._is_over, self._is_answered = anyio.Event(), anyio.Event(), anyio.Event()
        self._calls, self._asked = anyio.create_memory_object_stream[Call]()
        self._answer: Event | None = None

    async def run(self, stage: Stage, *, is_graded: bool) -> None:
        """Until `seal`; `is_open` is set when calls can be told, or never can."""
        with self._calls, self._asked:
            try:
                await stage.drive(self.episode, self._act, num_digests=1, is_graded=is_graded)
            finally:
                self.is_open.set()
                self._is_answered.set()
                self._is_over.set()

    async def _act(self, session: Session) -> Trajectory:
        task, events = self.episode.task, list[Event]()
        self.is_open.set()
        with self._asked:
            async for call in self._asked:
                events += await session.act((call,), budget(task.limits, len(events) + 1))
                self._answer = events[-1]
                self._is_answered.set()
                if events[-1].ended:
                    break
        return acted(task, self.episode.attempt, events)

    async def act(self, call: Call) -> Event | None:
        """None when the episode has ended or broken."""
        self._answer, self._is_answered = None, anyio.Event()
        try:
            await self._calls.send(call)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None
        await self._is_answered.wait()
        return self._answer

    async def seal(self) -> EpisodeArtifacts | None:
        """What was captured; the world is gone."""
        self._calls.close()
        await self._is_over.wait()
        return self.episode.sealed


Open: TypeAlias = Callable[..., Awaitable[Visit]]


@asynccontextmanager
async def visits(stage: Stage, *, are_graded: bool = False) -> AsyncGenerator[Open]:
    """What opens visits: `await open(drawn, attempt=..., noise=...)`. Those that still stand open at the end
    are closed.
    """
    async with anyio.create_task_group() as tasks:

        async def open_one(drawn: Drawn, *, attempt: AttemptId | None = None, noise: int = 0) -> Visit:
            visit = Visit(
                Episode(task=drawn[0], target=drawn[1], attempt=attempt or stage.attempt(), noise=noise)
            )

            async def run() -> None:
                await visit.run(stage, is_graded=are_graded)

            tasks.start_soon(run)
            await visit.is_open.wait()
            return visit

        yield open_one
        tasks.cancel_scope.cancel()
