"""One attempt, from an open world to a verdict. Whatever goes wrong becomes a record; void is never zero."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import anyio

from agito.errors import SandboxFailure, WorkerDied
from agito.grading.leaks import leak_flags, leaks
from agito.grading.monitor import Monitor, hard_evidence
from agito.harness import ScriptedAgent
from agito.protocols import Answered, Control, Engine, Environment, Harness, Renderer, ScriptFactory, Validated
from agito.types import Attempt, AttemptId, End, Fault, Flag, Key, Sealed, Status, Task, Trajectory, Verdict

_SEAL_DEADLINE_S = 20.0
_CLOSE_DEADLINE_S = 10.0  # the pool sweeps up what is left
_OPEN_DEADLINE_S = 30.0
_GRADE_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How group ids become tasks, and, for scripted attempts, which script acts."""

    task: Callable[[int], tuple[Task, Key]]
    script: Callable[[Task, Key, AttemptId], ScriptFactory] | None = None


class AttemptRunner:
    """Runs attempts of one environment through one harness; `seed` keys everything that is drawn.

    Hard evidence always quarantines; with a monitor some attempts are graded again, and some by the environment's validator.
    """

    def __init__(
        self,
        environment: Environment,
        harness: Harness,
        renderer: Renderer,
        *,
        seed: int,
        strict_deadlines: bool = True,
        monitor: Monitor | None = None,
        grade_deadline_s: float = _GRADE_DEADLINE_S,
    ) -> None:
        self._environment, self._harness, self._renderer = environment, harness, renderer
        self._seed, self._strict_deadlines, self._monitor = seed, strict_deadlines, monitor
        self._grade_deadline_s = grade_deadline_s

    async def run(self, plan: Plan, attempt: AttemptId, engine: Engine | None) -> Attempt:
        """`engine` may be None when the plan has scripts. A retried slot draws the same stream again."""
        task, key = plan.task(attempt.group)
        stream = zlib.crc32(f"{self._seed}/{attempt.group}/{attempt.slot}".encode())
        try:
            with anyio.fail_after(_OPEN_DEADLINE_S):
                control = await self._environment.open(task, key, attempt, noise_seed=self._seed)
        except (SandboxFailure, TimeoutError) as error:
            return _stillborn(attempt, task, str(error) or f"no world within {_OPEN_DEADLINE_S:.0f} s")
        try:
            session = control.session
            if plan.script is not None:
                session = engine = ScriptedAgent(plan.script(task, key, attempt), session, self._renderer)
            assert engine is not None
            trajectory = await self._harness.run(task, session, engine, self._renderer, attempt, seed=stream)
            return await self._judge(control, trajectory, key)
        finally:
            with anyio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
                await control.close()

    async def _judge(self, control: Control, trajectory: Trajectory, key: Key) -> Attempt:
        """Freeze, kill, capture, destroy, then grade what was captured."""
        sealed = await self._capture(control, trajectory)
        if isinstance(sealed, Verdict):
            return Attempt(trajectory=trajectory, verdict=sealed)
        verdict = await self._ask(self._environment.grade, sealed, key)
        if isinstance(self._environment, Answered):
            verdict = _given_away(self._environment, trajectory, sealed, key, verdict)
        found = Attempt(trajectory=trajectory, verdict=verdict)
        if not found.is_scored:
            return found
        found = replace(found, quarantine=hard_evidence(trajectory, verdict))
        return found if self._monitor is None else await self._look_again(self._monitor, found, sealed, key)

    async def _capture(self, control: Control, trajectory: Trajectory) -> Sealed | Verdict:
        """Or why there is nothing to grade."""
        if trajectory.fault in (Fault.INFRA, Fault.ENV, Fault.TASK):
            return Verdict.void(f"{trajectory.fault}: {trajectory.detail}")
        if self._strict_deadlines and any(event.fault is Fault.TIMEOUT and event.wall_s > 0 for event in trajectory.events):
            return Verdict.void("infra: a real deadline passed, which this mode does not reproduce")
        try:
            with anyio.fail_after(_SEAL_DEADLINE_S):
                return await control.seal()
        except (SandboxFailure, TimeoutError) as error:
            return Verdict.void(f"infra: the world could not be sealed: {error}")

    async def _ask(self, grade: Callable[[Sealed, Key, int], Awaitable[Verdict]], sealed: Sealed, key: Key) -> Verdict:
        try:
            with anyio.fail_after(self._grade_deadline_s):
                return await grade(sealed, key, self._seed)
        except WorkerDied:
            raise
        except (SandboxFailure, TimeoutError) as error:
            return Verdict.void(f"infra: no verdict: {error or f'the grader did not answer within {self._grade_deadline_s:.0f} s'}")
        except Exception as error:  # the boundary: a grader that breaks gives no verdict
            return Verdict.void(f"env: the grader failed: {type(error).__name__}: {error}")

    async def _look_again(self, monitor: Monitor, found: Attempt, sealed: Sealed, key: Key) -> Attempt:
        """The reward stays what it was: a second look adds flags, gold, and perhaps a quarantine."""
        at, verdict = found.trajectory.attempt, found.verdict
        flags = monitor.soft_evidence(found.trajectory, verdict)
        if monitor.wants_regrade(at):
            again = await self._ask(self._environment.grade, sealed, key)
            if again.status is Status.SCORED and again.reward != verdict.reward:
                said = f"reward {verdict.reward:g}, then {again.reward:g}: {again.evidence}"
                flags = (*flags, Flag(kind="regrade_differs", is_proof=False, detail=said))
        verdict = replace(verdict, flags=(*verdict.flags, *flags))
        found = replace(found, verdict=verdict)
        if isinstance(self._environment, Validated) and monitor.wants_gold(at, verdict):
            gold = await self._ask(self._environment.gold, sealed, key)
            found = monitor.masked(replace(found, gold=gold, gold_chance=monitor.gold_chance(at, verdict)))
        return found


def _given_away(environment: Answered, trajectory: Trajectory, sealed: Sealed, key: Key, verdict: Verdict) -> Verdict:
    """With a flag for an answer that stood in what the agent read."""
    try:
        found = leaks(trajectory.events, environment.answers(trajectory.task, key), submitted=sealed.submitted)
    except Exception as error:  # the boundary, as for the grader
        return Verdict.void(f"env: its answers failed: {type(error).__name__}: {error}")
    return replace(verdict, flags=(*verdict.flags, *leak_flags(found)))


def _stillborn(attempt: AttemptId, task: Task, reason: str) -> Attempt:
    trajectory = Trajectory(attempt=attempt, task=task, segments=(), turns=(), events=(), end=End.FAILED, fault=Fault.INFRA, detail=reason)
    return Attempt(trajectory=trajectory, verdict=Verdict.void(f"infra: {reason}"))
