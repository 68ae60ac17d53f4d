"""The session given to the agent: it counts the attempt's time, records failures, and ends the episode with a
final event.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import anyio

from agito.errors import NoIsolation, SandboxExhausted, SandboxFailure, Uncapturable, WorkerDied
from agito.plugins import line_of
from agito.protocols import ForkedSession, ForkingSession, Session
from agito.rollout.deadline_log import Observed, said_so_far
from agito.types import AttemptId, Budget, Call, Event, Fault, Limits, ToolSpec

T = TypeVar("T")

GRACE_S = 5.0  # past the deadlines of its own calls, before a world counts as silent

# not one attempt's failure: every other one would end the same way
ENDS_EVERYTHING = (WorkerDied, NoIsolation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What broke. `budget`: the attempt used up what it had. `infra`: its world failed. `env`: the
    environment's own code did.
    """

    fault: Fault
    detail: str
    is_world_gone: bool = False  # it cannot be sealed any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What was asked of a world in one go."""

    calls: tuple[Call, ...]
    left: Budget
    world: int = 0  # forks are counted from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Forking:
    """A world that was forked."""

    world: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """A fork that was merged."""

    call: Call
    left: Budget
    world: int  # the fork
    overwrite: bool


Step: TypeAlias = Batch | Forking | Merging


class GuardedSession:
    """Wraps a world's session. Turns whatever the world raises into a `Failure`, except `ENDS_EVERYTHING`,
    which it re-raises. Forks of the world share its time, and their failure is its own.
    """

    def __init__(self, session: Session, limits: Limits, attempt: AttemptId, observed: Observed) -> None:
        self._session, self._limits, self._attempt, self._observed = session, limits, attempt, observed
        self._said = ""
        self._num_events = 0
        self._forks: list[ForkedSession] = []
        self.acting_s = 0.0
        self.steps: list[Step] = []
        self.failure: Failure | None = None

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """As `Session.act`; the last event ends the episode where the world failed or the attempt's time is
        up.
        """
        if not calls:
            return ()
        batch = Batch(calls=tuple(calls), left=left)
        return await self.take(batch, calls, left, lambda: self._session.act(calls, left))

    @property
    def can_fork(self) -> bool:
        return isinstance(self._session, ForkingSession) and self._session.can_fork

    async def fork(self) -> GuardedFork:
        """As `ForkingSession.fork`. Raises `RuntimeError` where the world failed, which ends the episode."""
        assert isinstance(self._session, ForkingSession)
        return await self.fork_of(self._session, 0)

    async def fork_of(self, session: ForkingSession, world: int) -> GuardedFork:
        """Of this world or of one of its forks."""
        self._require_live()
        self.steps.append(Forking(world=world))

        async def fork() -> ForkedSession | Uncapturable:
            try:
                return await session.fork()
            except Uncapturable as error:
                return error

        found = await self._timed(fork, 0)
        if isinstance(found, Uncapturable):
            self.steps.pop()
            raise found
        if isinstance(found, Failure):
            self.failure = found
            raise RuntimeError(f"{self._attempt}: {found.detail}")
        self._forks.append(found)
        return GuardedFork(self, found, len(self._forks))

    async def close_forks(self) -> None:
        while self._forks:
            await self._forks.pop().close()

    def _require_live(self) -> None:
        if self.failure is not None:
            raise RuntimeError(f"{self._attempt}: the episode has ended; no call can follow")

    async def take(
        self,
        step: Step,
        calls: Sequence[Call],
        left: Budget,
        carry_out: Callable[[], Awaitable[tuple[Event, ...]]],
    ) -> tuple[Event, ...]:
        """Carries out a step of this world or of one of its forks."""
        self._require_live()
        self.steps.append(step)
        found = await self._timed(carry_out, len(calls))
        events = found if isinstance(found, tuple) else ()
        if isinstance(found, Failure):
            # Where a fork used up what it had, the world itself can still be sealed.
            is_of_fork = step.world > 0 and found.fault is Fault.BUDGET
            self.failure = replace(found, is_world_gone=found.is_world_gone and not is_of_fork)
        events = tuple(self._as_observed(event) for event in events)
        if self.failure is not None:
            events = (*events, self._ending(calls, events, left))
        elif not (events and events[-1].ended) and self._is_late():
            self.failure = Failure(
                fault=Fault.BUDGET, detail=f"the attempt's {self._limits.seconds:g} s are used up"
            )
            events = (
                (*events[:-1], replace(events[-1], ended=True))
                if events
                else (self._ending(calls, events, left),)
            )
        self._num_events += len(events)
        return events

    async def _timed(self, step: Callable[[], Awaitable[T]], num_calls: int) -> T | Failure:
        patience_s = (
            max(self._limits.seconds - self.acting_s, 0.0) + self._limits.call_seconds * num_calls + GRACE_S
        )
        began = time.monotonic()
        try:
            return await within("act", patience_s, step)
        finally:
            self.acting_s += time.monotonic() - began

    def _as_observed(self, event: Event) -> Event:
        self._said = said_so_far(self._said, event.call)
        return self._observed.event(self._attempt, self._said, event)

    def _is_late(self) -> bool:
        return self._observed.is_late(self._attempt, self._said, left_s=self._limits.seconds - self.acting_s)

    def _ending(self, calls: Sequence[Call], events: Sequence[Event], left: Budget) -> Event:
        """Why nothing follows, as the event of the first call that was not answered."""
        assert self.failure is not None
        call = calls[min(len(events), len(calls) - 1)]
        index = self._num_events + len(events)
        return Event(
            index=index,
            call=call,
            text=f"error: {self.failure.detail}",
            fault=self.failure.fault,
            left=left,
            ended=True,
        )


class GuardedFork:
    """Implements `ForkedSession`: a fork of a guarded world, number `world` of its forks."""

    def __init__(self, root: GuardedSession, session: ForkedSession, world: int) -> None:
        self._root, self._session, self.world = root, session, world

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """As `GuardedSession.act`."""
        if not calls:
            return ()
        batch = Batch(calls=tuple(calls), left=left, world=self.world)
        return await self._root.take(batch, calls, left, lambda: self._session.act(calls, left))

    @property
    def can_fork(self) -> bool:
        return self._session.can_fork

    async def fork(self) -> GuardedFork:
        """As `GuardedSession.fork`."""
        return await self._root.fork_of(self._session, self.world)

    async def merge(self, call: Call, left: Budget, *, overwrite: bool) -> Event:
        """As `ForkedSession.merge`; the event ends the episode where the world failed."""

        async def merge() -> tuple[Event, ...]:
            return (await self._session.merge(call, left, overwrite=overwrite),)

        step = Merging(call=call, left=left, world=self.world, overwrite=overwrite)
        (event,) = await self._root.take(step, [call], left, merge)
        return event

    async def close(self) -> None:
        await self._session.close()


async def within(where: str, deadline_s: float, step: Callable[[], Awaitable[T]]) -> T | Failure:
    """The boundary around an environment: what `step` gives, or what broke in it. Passes on what ends every
    attempt alike.
    """
    try:
        with anyio.fail_after(deadline_s):
            return await step()
    except ENDS_EVERYTHING:
        raise
    except SandboxExhausted as error:
        return Failure(fault=Fault.BUDGET, detail=str(error), is_world_gone=True)
    except SandboxFailure as error:
        return Failure(fault=Fault.INFRA, detail=str(error), is_world_gone=True)
    except TimeoutError as error:
        return Failure(
            fault=Fault.INFRA,
            detail=str(error) or f"{where}: no answer within {deadline_s:.0f} s",
            is_world_gone=True,
        )
    except Exception as error:  # whatever an environment raises is data about this attempt
        return Failure(fault=Fault.ENV, detail=what_broke(where, error), is_world_gone=True)


def what_broke(where: str, error: BaseException) -> str:
    """One line: the step, the error, and the file and line: of somebody else's code, or the innermost."""
    text = str(error).strip().splitlines()
    at = line_of(error)
    if not at and (frames := traceback.extract_tb(error.__traceback__)):
        at = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}"
    told = f"{where}: {type(error).__name__}{f': {text[0][:200]}' if text else ''}"
    return f"{told} ({at})" if at else told
