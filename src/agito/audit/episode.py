"""One episode of an audit, and the notes taken while the driver runs it."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from agito.protocols import Control, Environment, Script, ScriptFactory, Session
from agito.rollout import Act, reward_range
from agito.types import (
    AttemptId,
    Budget,
    Call,
    EpisodeArtifacts,
    Event,
    Status,
    Target,
    Task,
    ToolSpec,
    Trajectory,
    Verdict,
)

Drawn: TypeAlias = "tuple[Task, Target]"


@dataclass(slots=True)
class Episode:
    """The outcome of one scripted episode. `problem` says what broke; the verdict is then void."""

    task: Task
    target: Target
    events: list[Event] = field(default_factory=list[Event])
    # before the first call and after each, as many as requested
    digests: list[str] = field(default_factory=list[str])
    sealed: EpisodeArtifacts | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict.void("not graded"))
    attempt: AttemptId = field(default_factory=lambda: AttemptId(group=0, slot=0))
    noise: int = 0
    problem: str = ""
    reset_s: float = 0.0
    grade_s: float = 0.0
    steps_s: list[float] = field(default_factory=list[float])

    @property
    def reward(self) -> float | None:
        """None if void."""
        return self.verdict.reward if self.verdict.reward == self.verdict.reward else None

    @property
    def is_success(self) -> bool:
        return (self.reward or 0.0) >= 1.0 - 1e-9

    @property
    def is_void(self) -> bool:
        """The grader gave no verdict, though nothing broke."""
        return not self.problem and self.verdict.status is Status.VOID

    @property
    def submitted(self) -> str:
        return (self.sealed.submitted if self.sealed else None) or ""

    @property
    def calls(self) -> list[Call]:
        return [event.call for event in self.events]


class Watched:
    """Wraps an environment for one episode and notes what its world and its first grading return, raise and
    cost.

    Further worlds and gradings of the driver, which it uses to find out whose fault a failure is, are passed
    through unnoticed.
    """

    def __init__(self, environment: Environment, episode: Episode, num_digests: int) -> None:
        self.error: Exception | None = None  # first exception raised by the environment or its script
        self.said: Verdict | None = None  # the grader's first verdict
        self._environment, self._episode, self._num_digests = environment, episode, num_digests
        self.reward_range = reward_range(environment)
        self._control: Control | None = None
        self._is_opened = self._is_graded = False

    @property
    def environment(self) -> Environment:
        return cast("Environment", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        if self._is_opened:
            return await self._environment.open(task, target, attempt, noise_seed=noise_seed)
        self._is_opened, began = True, time.perf_counter()
        with self._noting():
            self._control = await self._environment.open(task, target, attempt, noise_seed=noise_seed)
        self._episode.reset_s = time.perf_counter() - began
        return cast("Control", _WatchedControl(self, self._control))

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        if self._is_graded:
            return await self._environment.grade(sealed, target, grade_seed)
        self._is_graded, began = True, time.perf_counter()
        with self._noting():
            self.said = await self._environment.grade(sealed, target, grade_seed)
        self._episode.grade_s = time.perf_counter() - began
        return self.said

    def acting(self, act: Act) -> Act:
        """The same agent; exceptions of its script are noted too."""

        async def watched(session: Session) -> Trajectory:
            with self._noting():
                await self._digest()
                return await act(session)

        return watched

    async def answer(self, session: Session, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        began = time.perf_counter()
        with self._noting():
            events = await session.act(calls, left)
            self._episode.steps_s.append(time.perf_counter() - began)
            self._episode.events += events
            await self._digest()
        return events

    async def seal(self, control: Control) -> EpisodeArtifacts:
        with self._noting():
            return await control.seal()

    async def _digest(self) -> None:
        if self._control is not None and len(self._episode.digests) < self._num_digests:
            self._episode.digests.append(await self._control.digest())

    @contextmanager
    def _noting(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


class _WatchedControl:
    """The part of a control that the driver uses."""

    def __init__(self, watched: Watched, control: Control) -> None:
        self.session: Session = _WatchedSession(watched, control.session)
        self.close = control.close
        self._watched, self._control = watched, control

    async def seal(self) -> EpisodeArtifacts:
        return await self._watched.seal(self._control)


class _WatchedSession:
    def __init__(self, watched: Watched, session: Session) -> None:
        self._watched, self._session = watched, session

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        return await self._watched.answer(self._session, calls, left)


def replay(calls: Sequence[Call]) -> ScriptFactory:
    """A script that makes these calls, whatever the world answers."""

    def script() -> Script:
        for call in calls:  # noqa: UP028 (events are sent to this generator; a list takes none)
            yield call

    return script
