"""The solo agent: one policy, one world, one append-only sequence of tokens, within its budgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import anyio

from agito.engine.capture import Capture
from agito.errors import SandboxFailure, WorkerDied
from agito.protocols import Engine, Renderer, Session
from agito.types import AttemptId, Budget, Call, Effort, End, Event, Fault, Kind, Stop, Task, Trajectory


class SoloHarness:
    """Turn after turn until `submit` or a limit; deterministic given task, tokens and events."""

    def __init__(self, *, temperature: float = 1.0, top_p: float = 1.0, effort: Effort = Effort.NONE) -> None:
        self._temperature, self._top_p, self._effort = temperature, top_p, effort

    async def run(self, task: Task, session: Session, engine: Engine, renderer: Renderer, attempt: AttemptId, *, seed: int) -> Trajectory:
        capture = Capture(engine, seed=seed, stop_ids=renderer.stop_ids)
        events: list[Event] = []
        started = time.monotonic()
        fault: Fault | None = None
        detail = ""
        try:
            end = await self._turns(task, session, renderer, capture, events)
        except WorkerDied:
            raise  # not this attempt's failure: the engine is gone
        except SandboxFailure as error:
            end, fault, detail = End.FAILED, Fault.INFRA, str(error)
        except Exception as error:  # the boundary: whatever an environment raises is data about this attempt
            end, fault, detail = End.FAILED, Fault.ENV, f"{type(error).__name__}: {error}"
        finally:
            with anyio.CancelScope(shield=True):
                await capture.close()
        return Trajectory(
            attempt=attempt, task=task, segments=(capture.segment(),), turns=tuple(capture.turns), events=tuple(events), end=end,
            fault=fault, detail=detail, wall_s=time.monotonic() - started,
        )  # fmt: skip

    async def _turns(self, task: Task, session: Session, renderer: Renderer, capture: Capture, events: list[Event]) -> End:
        limits = task.limits
        acting_s = 0.0
        capture.extend(renderer.opening(task))
        for number in range(limits.turns):
            room = min(limits.turn_tokens, limits.tokens - len(capture))
            if room < 1:
                return End.TOKENS
            sampled = await capture.sample(max_tokens=room, temperature=self._temperature, top_p=self._top_p, effort=self._effort)
            capture.label(renderer.channels(sampled.ids))
            calls = renderer.parse(sampled.ids, session.tools)[: limits.calls - len(events)]
            left = Budget(
                turns=limits.turns - number - 1, calls=limits.calls - len(events) - len(calls), tokens=limits.tokens - len(capture)
            )
            before = time.monotonic()
            new = await _act(session, calls, left, deadline_s=limits.seconds - acting_s)
            acting_s += time.monotonic() - before
            capture.turns[-1] = replace(capture.turns[-1], calls=tuple(range(len(events), len(events) + len(new))))
            events.extend(new)
            if new and new[-1].ended:
                return End.SUBMITTED
            if len(events) >= limits.calls:
                return End.CALLS
            if sampled.stopped is Stop.LENGTH:
                capture.extend(renderer.stop_ids[:1], Kind.FORCED)
            capture.extend(renderer.observation(new))
        return End.TURNS


async def _act(session: Session, calls: Sequence[Call], left: Budget, *, deadline_s: float) -> tuple[Event, ...]:
    """Raises `SandboxFailure` past the attempt's deadline: time is the machine's, not the policy's."""
    with anyio.move_on_after(max(deadline_s, 0.0)):
        return await session.act(calls, left)
    raise SandboxFailure(f"the world has not answered within what was left of the attempt's time ({deadline_s:.1f} s)")
