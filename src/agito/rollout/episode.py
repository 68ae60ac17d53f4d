"""The one driver of an episode: open → act → seal → grade, with a deadline on every wait and a fault for
whatever breaks.

Training, evaluation, audit, play, serve and grading all go through it. Failures that the attempt's own calls
cause, such as exhausted limits, are scored; failures of infrastructure or environment code void the attempt,
whoever detects them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import anyio

from agito.grading.judge import Grade, ask, judge
from agito.protocols import Control, Environment, Ranged, ScriptFactory, Session
from agito.rollout.deadline_log import DeadlineLog, Observed, RecordedAttempt
from agito.rollout.guarded_session import ENDS_EVERYTHING, Failure, GuardedSession, Step, what_broke, within
from agito.rollout.repeated import repeat
from agito.rollout.scripts import act_out
from agito.types import (
    AttemptId,
    EpisodeArtifacts,
    Fault,
    Status,
    Target,
    Task,
    TerminationReason,
    Trajectory,
    Verdict,
)

# Whoever acts: a harness with its policy, a script, a person. It is given the session and nothing else.
Act: TypeAlias = Callable[[Session], Awaitable[Trajectory]]

_PATIENCE = 3.0  # of a check, in times of what the attempt had
_CHECKS = 4  # attempts whose failure is looked into at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Of the steps of one episode, in seconds. Acting has the task's own."""

    open_s: float = 30.0
    seal_s: float = 20.0
    close_s: float = 10.0  # the pool sweeps up what is left
    grade_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One episode, from its first call to its verdict. `sealed` is None where nothing could be captured."""

    trajectory: Trajectory
    verdict: Verdict
    sealed: EpisodeArtifacts | None = None


class EpisodeDriver:
    """Drives episodes of one environment. `observed` is what is known of the deadlines that attempts met."""

    def __init__(
        self,
        environment: Environment,
        *,
        noise_seed: int,
        grade_seed: int | None = None,
        deadlines: Deadlines | None = None,
        observed: Observed | None = None,
    ) -> None:
        self.environment, self.noise_seed = environment, noise_seed
        self._grade_seed = noise_seed if grade_seed is None else grade_seed
        self._deadlines, self._observed = deadlines or Deadlines(), observed or DeadlineLog()
        self._checking = anyio.CapacityLimiter(_CHECKS)

    async def run(
        self,
        task: Task,
        target: Target,
        attempt: AttemptId,
        act: Act,
        *,
        is_graded: bool = True,
        observed: Observed | None = None,
    ) -> Finished:
        """One episode to its end. Raises `WorkerDied` and `NoIsolation`, which end every episode alike, and
        nothing else.

        Without `is_graded` it ends with the seal: the verdict is void. `observed`: of this episode, instead
        of what is known of all.
        """
        control = await self._open(task, target, attempt)
        if isinstance(control, Failure):
            return _void(
                Trajectory(
                    attempt=attempt, task=task, segments=(), turns=(), events=(), end=TerminationReason.FAILED
                ),
                control,
            )
        guarded = GuardedSession(control.session, task.limits, attempt, observed or self._observed)
        sealed: EpisodeArtifacts | Failure | None = None
        try:
            trajectory = await _acted(guarded, act, task, attempt)
            failure = guarded.failure or _of_harness(trajectory)
            await self._close_forks(guarded)
            if failure is None or (failure.fault is Fault.BUDGET and not failure.is_world_gone):
                sealed = await self._seal(control)
        finally:
            await self._close_forks(guarded)
            await self._close(control)
        if isinstance(sealed, Failure):
            failure, sealed = sealed, None
        if failure is not None and failure.is_world_gone and failure.fault is Fault.INFRA:
            failure = await self._attribute(failure, task, target, trajectory, guarded.steps)
        trajectory = trajectory if failure is None else _ended(trajectory, failure, guarded.failure)
        if failure is not None and failure.fault is not Fault.BUDGET:
            return _void(trajectory, failure)
        if sealed is None:
            assert failure is not None
            return Finished(
                trajectory=trajectory, verdict=self.lowest(f"nothing could be sealed: {failure.detail}")
            )
        verdict = await self.grade(sealed, task, target) if is_graded else Verdict.void("not graded")
        return Finished(trajectory=trajectory, verdict=verdict, sealed=sealed)

    async def grade(self, sealed: EpisodeArtifacts, task: Task, target: Target) -> Verdict:
        """The environment's verdict on sealed artifacts, whatever the policy left there. A grader that fails
        on them is asked again beside those of a solved episode.
        """
        low, _ = reward_range(self.environment)
        verdict = await judge(
            self.environment.grade,
            sealed,
            target,
            self._grade_seed,
            partial(self.solved, task, target),
            deadline_s=self._deadlines.grade_s,
            lowest=low,
        )
        outside = out_of_range(verdict, self.environment)
        return Verdict.void(f"{Fault.ENV}: {outside}") if outside else verdict

    async def solved(self, task: Task, target: Target) -> EpisodeArtifacts:
        """The artifacts of an episode played by a bundled solution. Raises whatever goes wrong."""
        control = await self.environment.open(
            task, target, AttemptId(group=0, slot=0), noise_seed=self.noise_seed
        )
        try:
            await act_out(control.session, task.limits, self.environment.solutions(task, target)[0])
            return await control.seal()
        finally:
            await self._close(control)

    async def grade_once(self, grade: Grade, sealed: EpisodeArtifacts, target: Target) -> Verdict:
        """Grades without counting as a reward, within the deadline. Void when the grader raises
        or is late.
        """
        return await ask(grade, sealed, target, self._grade_seed, deadline_s=self._deadlines.grade_s)

    def lowest(self, why: str) -> Verdict:
        """The environment's lowest reward, where there is nothing to grade."""
        low, _ = reward_range(self.environment)
        return Verdict(
            status=Status.SCORED,
            reward=low,
            scores={"success": 0.0},
            evidence=why,
            grade_seed=self._grade_seed,
        )

    async def _open(self, task: Task, target: Target, attempt: AttemptId) -> Control | Failure:
        return await within(
            "open",
            self._deadlines.open_s,
            partial(self.environment.open, task, target, attempt, noise_seed=self.noise_seed),
        )

    async def _seal(self, control: Control) -> EpisodeArtifacts | Failure:
        return await within("seal", self._deadlines.seal_s, control.seal)

    async def _close_forks(self, guarded: GuardedSession) -> None:
        with anyio.move_on_after(self._deadlines.close_s, shield=True):
            await guarded.close_forks()

    async def _close(self, control: Control) -> None:
        with anyio.move_on_after(self._deadlines.close_s, shield=True):
            try:
                await control.close()
            except ENDS_EVERYTHING:
                raise
            except Exception:  # the episode is over, and its pool sweeps up what is left
                pass

    async def _attribute(
        self, failure: Failure, task: Task, target: Target, trajectory: Trajectory, steps: Sequence[Step]
    ) -> Failure:
        """For a world that failed within its resource limits: replays the attempt's calls in a fresh world,
        and a bundled solution in another. The attempt is at fault if only its own calls end the world. The
        calls are late where they were then, and nowhere else: whoever had spent its time before it ended its
        world must not survive because a replay is slower.
        """
        calls = partial(repeat, steps)
        async with self._checking:
            if not await self._dies(task, target, trajectory.attempt, calls, RecordedAttempt(trajectory)):
                return failure
            solutions = self.environment.solutions(task, target)
            solve = partial(_solve, solutions[0], task) if solutions else _idle
            if await self._dies(task, target, trajectory.attempt, solve, DeadlineLog()) is not False:
                return failure
        return replace(
            failure, fault=Fault.BUDGET, detail=f"the attempt's own calls end its world: {failure.detail}"
        )

    async def _dies(
        self,
        task: Task,
        target: Target,
        attempt: AttemptId,
        act: Callable[[GuardedSession], Awaitable[None]],
        observed: Observed,
    ) -> bool | None:
        """Whether a fresh world fails under these calls, or cannot be sealed after them; None where none can
        be opened.
        """
        control = await self._open(task, target, attempt)
        if isinstance(control, Failure):
            return None
        limits = replace(task.limits, seconds=_PATIENCE * task.limits.seconds)
        guarded = GuardedSession(control.session, limits, attempt, observed)
        try:
            await act(guarded)
            failure = guarded.failure
            if failure is None or not failure.is_world_gone:
                sealed = await self._seal(control)
                failure = sealed if isinstance(sealed, Failure) else None
        except ENDS_EVERYTHING:
            raise
        except Exception:  # a solution that breaks tells nothing about the world
            return None
        finally:
            await self._close_forks(guarded)
            await self._close(control)
        return failure is not None and failure.fault in (Fault.INFRA, Fault.BUDGET)


def reward_range(environment: Environment) -> tuple[float, float]:
    return environment.reward_range if isinstance(environment, Ranged) else (0.0, 1.0)


def out_of_range(verdict: Verdict, environment: Environment) -> str:
    """What is wrong with a reward that the environment has not declared; empty: nothing, or there is none."""
    low, high = reward_range(environment)
    slack = 1e-9 * max(abs(low), abs(high))  # sums of floats
    if math.isnan(verdict.reward) or low - slack <= verdict.reward <= high + slack:
        return ""
    return (
        f"reward {verdict.reward:g} is outside {low:g} to {high:g}; let `grade` stay within it, or declare "
        "`reward_range`, the lowest and the highest reward"
    )


async def _acted(guarded: GuardedSession, act: Act, task: Task, attempt: AttemptId) -> Trajectory:
    try:
        return await act(guarded)
    except ENDS_EVERYTHING:
        raise
    except Exception as error:  # the boundary: whoever acts may be anybody's code
        why = what_broke("harness", error)
        return Trajectory(
            attempt=attempt,
            task=task,
            segments=(),
            turns=(),
            events=(),
            end=TerminationReason.FAILED,
            fault=Fault.ENV,
            detail=why,
        )


def _of_harness(trajectory: Trajectory) -> Failure | None:
    return None if trajectory.fault is None else Failure(fault=trajectory.fault, detail=trajectory.detail)


def _ended(trajectory: Trajectory, failure: Failure, in_acting: Failure | None) -> Trajectory:
    """As the driver knows it; a world that could not be sealed does not change how the acting ended."""
    end = trajectory.end
    if in_acting is not None or trajectory.fault is not None:
        end = (
            TerminationReason.SECONDS
            if failure.fault is Fault.BUDGET and not failure.is_world_gone
            else TerminationReason.FAILED
        )
    return replace(trajectory, end=end, fault=failure.fault, detail=failure.detail)


def _void(trajectory: Trajectory, failure: Failure) -> Finished:
    trajectory = replace(trajectory, fault=failure.fault, detail=failure.detail)
    return Finished(trajectory=trajectory, verdict=Verdict.void(f"{failure.fault}: {failure.detail}"))


async def _solve(solution: ScriptFactory, task: Task, session: Session) -> None:
    await act_out(session, task.limits, solution)


async def _idle(session: Session) -> None:
    return
