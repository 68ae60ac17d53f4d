"""The solo agent: one policy, one world, one append-only sequence of tokens, within its budgets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio

from agito.errors import WorkerDied
from agito.harness.role_tools import session_of
from agito.protocols import MAIN, Agent, AgentSpec, AsksEffort, Renderer, Session, ThinkingRenderer
from agito.sampling.capture import Capture
from agito.sampling.thinking_budget import Stretches, WholeTurn
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Event,
    Fault,
    FinishReason,
    Task,
    TerminationReason,
    Thinking,
    TokenSource,
    ToolSpec,
    Trajectory,
)

SOLO = "solo"  # the only role of a solo harness


def solo(
    renderer: Renderer,
    *,
    policy: str = MAIN,
    temperature: float = 1.0,
    thinking: Thinking | None = None,
) -> dict[str, AgentSpec]:
    """The agent of a solo harness."""
    return {SOLO: AgentSpec(renderer=renderer, policy=policy, temperature=temperature, thinking=thinking)}


class SoloHarness:
    """Turn after turn until `submit` or a limit; deterministic given task, tokens and events."""

    roles = (SOLO,)

    async def run(
        self, task: Task, session: Session, agents: Mapping[str, Agent], attempt: AttemptId, *, seed: int
    ) -> Trajectory:
        agent = agents[SOLO]
        session = session_of(agent.spec, session)
        renderer = asked(agent.spec)
        control = renderer.closer if isinstance(renderer, ThinkingRenderer) else ()
        capture = Capture(agent.engine, seed=seed, stop_ids=renderer.stop_ids, control_ids=control)
        events: list[Event] = []
        started = time.monotonic()
        fault: Fault | None = None
        detail = ""
        try:
            end = await self._turns(task, session, agent.spec, renderer, capture, events)
        except WorkerDied:
            raise  # not this attempt's failure: the engine is gone
        except _NoRoom as error:
            end, fault, detail = TerminationReason.FAILED, Fault.TASK, str(error)
        except Exception as error:  # the boundary: what a script or renderer raises is data
            end, fault, detail = TerminationReason.FAILED, Fault.ENV, f"{type(error).__name__}: {error}"
        finally:
            with anyio.CancelScope(shield=True):
                await capture.close()
        segment = capture.segment(policy=agent.spec.policy)
        return Trajectory(
            attempt=attempt,
            task=task,
            segments=(segment,),
            turns=tuple(capture.turns),
            events=tuple(events),
            end=end,
            fault=fault,
            detail=detail,
            wall_s=time.monotonic() - started,
        )

    async def _turns(
        self,
        task: Task,
        session: Session,
        spec: AgentSpec,
        renderer: Renderer,
        capture: Capture,
        events: list[Event],
    ) -> TerminationReason:
        # The compact dialect tells calls apart by all of a task's tools; others are refused later.
        limits, offered, thought = task.limits, task.tools if spec.tools else session.tools, 0
        new: Sequence[Event] | None = None
        if spec.tools is not None:
            task = replace(task, tools=session.tools)
        capture.extend(renderer.opening(task))
        if len(capture) >= limits.tokens:
            raise _NoRoom(
                f"the opening has {len(capture)} tokens, and the limit of the whole context is "
                f"{limits.tokens}"
            )
        for number in range(limits.turns):
            room = min(limits.turn_tokens, limits.tokens - len(capture))
            if room < 1:
                return TerminationReason.TOKENS
            thinking = spec.thinking and spec.thinking.after(new)
            own = replace(spec, thinking=thinking)
            sampled = await _sampled(capture, own, renderer, offered, room=room, spent=thought)
            if sampled is None:
                return TerminationReason.TOKENS
            thought += sampled.num_thought
            calls = calls_of(renderer, sampled.ids, offered)[: limits.calls - len(events)]
            left = Budget(
                turns=limits.turns - number - 1,
                calls=limits.calls - len(events) - len(calls),
                tokens=limits.tokens - len(capture),
            )
            new = await session.act(calls, left)
            capture.turns[-1] = replace(
                capture.turns[-1], calls=tuple(range(len(events), len(events) + len(new)))
            )
            events.extend(new)
            if new and new[-1].ended:
                return TerminationReason.SUBMITTED
            if len(events) >= limits.calls:
                return TerminationReason.CALLS
            if sampled.stopped is FinishReason.LENGTH:
                capture.extend(renderer.stop_ids[:1], TokenSource.FORCED)
            capture.extend(renderer.observation(new))
        return TerminationReason.TURNS


class _NoRoom(Exception):
    """The opening leaves no room for a single sampled token."""


def asked(spec: AgentSpec) -> Renderer:
    """The agent's renderer, for the effort that it is asked for. Raises `ValueError` where it cannot be."""
    if spec.thinking is None:
        return spec.renderer
    if not isinstance(spec.renderer, AsksEffort):
        raise ValueError(f"effort={spec.thinking.effort}: {type(spec.renderer).__name__} cannot ask for it")
    return spec.renderer.asking(spec.thinking.effort)


async def _sampled(
    capture: Capture, spec: AgentSpec, renderer: Renderer, tools: Sequence[ToolSpec], *, room: int, spent: int
) -> WholeTurn | None:
    """The next turn, labelled; None without room for one."""
    if spec.thinking is None or not isinstance(renderer, ThinkingRenderer):
        one = await capture.sample(max_tokens=room, temperature=spec.temperature, top_p=spec.top_p)
        capture.label(renderer.channels(one.ids))
        return WholeTurn(ids=one.ids, stopped=one.stopped, num_thought=0)
    turn = Stretches(capture, renderer, spec.thinking, spent=spent, room=room)
    if not turn.has_room:
        return None
    return await turn.whole(temperature=spec.temperature, top_p=spec.top_p, tools=tools)


def calls_of(renderer: Renderer, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
    """What was sampled, as calls. A renderer that cannot read it says so in the call; one that raises is no
    way out of the episode.
    """
    try:
        return renderer.parse(ids, tools)
    except Exception as error:  # whatever a policy can say must end in an event
        problem = f"this cannot be read ({type(error).__name__})"
        return (
            Call(
                tool=tools[0].name if tools else "",
                arguments={},
                raw=renderer.text(ids),
                problem=problem,
            ),
        )
