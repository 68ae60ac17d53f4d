"""Scripted agents acted out over a session, as a harness would, without a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agito.protocols import Control, Environment, Renderer, Script, ScriptFactory, Session
from agito.types import AttemptId, Budget, Call, Event, Key, Limits, Sealed, Task, ToolSpec, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One scripted episode, sealed and graded."""

    events: tuple[Event, ...]
    sealed: Sealed
    verdict: Verdict


def budget(limits: Limits, num_calls: int = 0) -> Budget:
    """What is left after `num_calls` calls, one a turn."""
    left = max(0, limits.calls - num_calls)
    return Budget(turns=max(0, limits.turns - num_calls), calls=left, tokens=limits.tokens)


def essence(event: Event) -> tuple[object, ...]:
    """What must be equal when an episode is acted again: everything but the measured times."""
    return (event.index, event.call, event.text, event.exit_code, event.fault, event.left, event.ended, event.truncated_bytes)


async def act_out(
    session: Session,
    limits: Limits,
    factory: ScriptFactory,
    *,
    past: Sequence[Event] = (),
    renderer: Renderer | None = None,
    most: int | None = None,
) -> tuple[Event, ...]:
    """Runs a script until it returns, the episode ends, the calls are used up or `most` new events came.

    `past` events are fed to the script first instead of acting. With a renderer, every call goes through its tokens and back.
    """
    script = factory()
    events = list(past)
    try:
        call = next(script)
        for event in past:
            call = script.send(event)
        while len(events) < limits.calls and (most is None or len(events) < len(past) + most):
            answered = await session.act((through(renderer, call, session.tools),), budget(limits, len(events) + 1))
            events.extend(answered)
            if answered[-1].ended:
                break
            call = script.send(answered[-1])
    except StopIteration:
        pass
    finally:
        script.close()
    return tuple(events)


def through(renderer: Renderer | None, call: Call, tools: Sequence[ToolSpec]) -> Call:
    """`call` as it comes back from the tokens with which a policy would have made it."""
    if renderer is None:
        return call
    calls = renderer.parse(renderer.action((call,), tools), tools)
    if len(calls) != 1:
        raise ValueError(f"{renderer.dialect} renders one call so that it reads back as {len(calls)}: {call}")
    return calls[0]


async def play(
    env: Environment,
    task: Task,
    key: Key,
    factory: ScriptFactory,
    attempt: AttemptId | None = None,
    *,
    noise_seed: int = 0,
    renderer: Renderer | None = None,
) -> Played:
    """Opens, acts out, seals and grades one episode."""
    control: Control = await env.open(task, key, attempt or AttemptId(group=0, slot=0), noise_seed=noise_seed)
    try:
        events = await act_out(control.session, task.limits, factory, renderer=renderer)
        sealed = await control.seal()
    finally:
        await control.close()
    return Played(events=events, sealed=sealed, verdict=await env.grade(sealed, key, 0))


def nothing() -> ScriptFactory:
    """A scripted agent that never acts."""

    def factory() -> Script:
        yield from ()

    return factory
