"""The session given to the agent: it counts the attempt's time, records failures, and ends the episode with a
final event.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio

from agito.errors import NoIsolation, SandboxExhausted, SandboxFailure, WorkerDied
from agito.plugins import line_of
from agito.protocols import Session
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
    """What was asked of the world in one go."""

    calls: tuple[Call, ...]
    left: Budget


class GuardedSession:
    """Wraps a world's session. Turns whatever the world raises into a `Failure`, except `ENDS_EVERYTHING`,
    which it re-raises.
    """

    def __init__(self, session: Session, limits: Limits, attempt: AttemptId, observed: Observed) -> None:
        self._session, self._limits, self._attempt, self._observed = session, limits, attempt, observed
        self._said = ""
        self._num_events = 0
        self.acting_s = 0.0
        self.batches: list[Batch] = []
        self.failure: Failure | None = None

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        """As `Session.act`; the last event ends the episode where the world failed or the attempt's time is
        up.
        """
        if self.failure is not None:
            raise RuntimeError(f"{self._attempt}: the episode has ended; no call can follow")
        if not calls:
            return ()
        self.batches.append(Batch(calls=tuple(calls), left=left))
        events = await self._ask(calls, left)
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

    async def _ask(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        patience_s = (
            max(self._limits.seconds - self.acting_s, 0.0) + self._limits.call_seconds * len(calls) + GRACE_S
        )
        began = time.monotonic()
        try:
            events = await within("act", patience_s, lambda: self._session.act(calls, left))
        finally:
            self.acting_s += time.monotonic() - began
        if isinstance(events, Failure):
            self.failure = events
            return ()
        return events

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
