"""Concurrent episodes that stay open: each is driven like any other, by an agent that receives its calls one
by one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from agito.audit.episode import Drawn, Episode
from agito.audit.episode_runner import EpisodeRunner
from agito.protocols import Session
from agito.rollout import acted
from agito.rollout.scripts import budget
from agito.types import AttemptId, Call, EpisodeArtifacts, Event, Trajectory


class Visit:
    """An open episode. If it breaks, the incident is recorded and no more events come."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.is_open, self._is_over, self._is_answered = anyio.Event(), anyio.Event(), anyio.Event()
        self._calls, self._asked = anyio.create_memory_object_stream[Call]()
        self._answer: Event | None = None

    async def run(self, runner: EpisodeRunner, *, is_graded: bool) -> None:
        """Runs until `seal`. `is_open` is set once calls can be made, or never will."""
        with self._calls, self._asked:
            try:
                await runner.drive(self.episode, self._act, num_digests=1, is_graded=is_graded)
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
        """None if the episode has ended or broken."""
        self._answer, self._is_answered = None, anyio.Event()
        try:
            await self._calls.send(call)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return None
        await self._is_answered.wait()
        return self._answer

    async def seal(self) -> EpisodeArtifacts | None:
        """Closes the world; returns what was captured."""
        self._calls.close()
        await self._is_over.wait()
        return self.episode.sealed


Open: TypeAlias = Callable[..., Awaitable[Visit]]


@asynccontextmanager
async def visits(runner: EpisodeRunner, *, are_graded: bool = False) -> AsyncGenerator[Open]:
    """Yields a function that opens visits: `await open(drawn, attempt=..., noise=...)`. Closes those still
    open at the end.
    """
    async with anyio.create_task_group() as tasks:

        async def open_one(drawn: Drawn, *, attempt: AttemptId | None = None, noise: int = 0) -> Visit:
            visit = Visit(
                Episode(task=drawn[0], target=drawn[1], attempt=attempt or runner.attempt(), noise=noise)
            )

            async def run() -> None:
                await visit.run(runner, is_graded=are_graded)

            tasks.start_soon(run)
            await visit.is_open.wait()
            return visit

        yield open_one
        tasks.cancel_scope.cancel()
