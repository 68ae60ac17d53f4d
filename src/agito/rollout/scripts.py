"""Scripted agents without tokens: each call goes straight to the session."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from agito.harness.scripted import advance, end
from agito.protocols import Renderer, Script, ScriptFactory, Session
from agito.types import AttemptId, Budget, Call, Event, Limits, Task, TerminationReason, ToolSpec, Trajectory


def budget(limits: Limits, num_calls: int = 0) -> Budget:
    """What is left after `num_calls` calls, one a turn."""
    return Budget(
        turns=max(0, limits.turns - num_calls), calls=max(0, limits.calls - num_calls), tokens=limits.tokens
    )


async def act_out(
    session: Session,
    limits: Limits,
    factory: ScriptFactory,
    *,
    past: Sequence[Event] = (),
    renderer: Renderer | None = None,
    most: int | None = None,
) -> tuple[Event, ...]:
    """Runs a script until it returns, the episode ends, turns or calls are used up, or `most` new events
    came.

    `past` events are fed to the script first instead of acting. With a renderer, every call goes through its
    tokens and back.
    """
    script, events, limit = factory(), list(past), min(limits.turns, limits.calls)
    try:
        call = advance(script)
        for event in past:
            call = advance(script, event)
        while call is not None and len(events) < limit and (most is None or len(events) < len(past) + most):
            answered = await session.act(
                (through(renderer, call, session.tools),), budget(limits, len(events) + 1)
            )
            events.extend(answered)
            if answered[-1].ended:
                break
            call = advance(script, answered[-1])
    finally:
        end(script)
    return tuple(events)


def scripted(
    factory: ScriptFactory, task: Task, attempt: AttemptId, *, renderer: Renderer | None = None
) -> Callable[[Session], Awaitable[Trajectory]]:
    """Somebody who acts, for `EpisodeDriver.run`."""

    async def act(session: Session) -> Trajectory:
        began = time.monotonic()
        return acted(
            task,
            attempt,
            await act_out(session, task.limits, factory, renderer=renderer),
            wall_s=time.monotonic() - began,
        )

    return act


def acted(task: Task, attempt: AttemptId, events: Sequence[Event], *, wall_s: float = 0.0) -> Trajectory:
    """The trajectory of somebody who samples no tokens."""
    limits = task.limits
    how = (
        TerminationReason.SUBMITTED
        if events and events[-1].ended
        else TerminationReason.CALLS
        if len(events) >= limits.calls
        else TerminationReason.TURNS
    )
    how = (
        TerminationReason.ABANDONED
        if len(events) < min(limits.turns, limits.calls) and how is not TerminationReason.SUBMITTED
        else how
    )
    return Trajectory(
        attempt=attempt, task=task, segments=(), turns=(), events=tuple(events), end=how, wall_s=wall_s
    )


def through(renderer: Renderer | None, call: Call, tools: Sequence[ToolSpec]) -> Call:
    """`call` as it comes back from the tokens with which a policy would have made it."""
    if renderer is None:
        return call
    calls = renderer.parse(renderer.action((call,), tools), tools)
    if len(calls) != 1:
        raise ValueError(f"{renderer.dialect} renders one call so that it reads back as {len(calls)}: {call}")
    return calls[0]


def nothing() -> ScriptFactory:
    """A scripted agent that never acts."""

    def factory() -> Script:
        yield from ()

    return factory
