"""The one driver: nothing that an attempt does is a way out, and nothing that an environment does
ends a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from agito.errors import NoIsolation, SandboxExhausted, SandboxFailure, WorkerDied
from agito.harness import SoloHarness, solo
from agito.protocols import Control, Script, ScriptFactory, Session
from agito.rollout import (
    AttemptRunner,
    DeadlineLog,
    Deadlines,
    EpisodeDriver,
    Finished,
    Observed,
    Plan,
    RecordedAttempt,
    collect,
    scripted,
)
from agito.scheduling.sync_scheduler import Quota
from agito.testing import ByteRenderer, FakeEnvironment
from agito.testing.fakes import FakeWorld, call
from agito.types import (
    AttemptId,
    Budget,
    Call,
    EpisodeArtifacts,
    Event,
    Fault,
    Limits,
    Status,
    Target,
    Task,
    TerminationReason,
    Verdict,
)

pytestmark = pytest.mark.anyio
FIRST = AttemptId(group=0, slot=0)
BOMB = "bomb"  # the box that ends the world of whoever opens it


class FragileWorld(FakeWorld):
    """Breaks as its environment says, when the bomb is opened or at a step that is named."""

    env: Fragile
    number: int

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        self.env.meet(self, "act", calls)
        if self.env.takes_s:
            await anyio.sleep(self.env.takes_s)
        return await super().act(calls, left)

    async def seal(self) -> EpisodeArtifacts:
        self.env.meet(self, "seal", ())
        return await super().seal()

    async def close(self) -> None:
        self.env.closed.append(self.number)
        self.env.meet(self, "close", ())


class Fragile(FakeEnvironment):
    """`breaks`: what is raised at a step, in the first `num_worlds` worlds or in all. `bomb`: what opening
    the bomb raises.
    """

    def __init__(
        self,
        *,
        bomb: Exception | None = None,
        breaks: dict[str, Exception] | None = None,
        num_worlds: int = 10**6,
        takes_s: float = 0.0,
    ) -> None:
        self.bomb, self.breaks, self.num_worlds, self.takes_s = bomb, breaks or {}, num_worlds, takes_s
        self.num_opened, self.closed = 0, list[int]()
        self.graded = 0

    def meet(self, world: FragileWorld | None, step: str, calls: Sequence[Call]) -> None:
        if self.bomb is not None and any(each.arguments.get("box") == BOMB for each in calls):
            raise self.bomb
        if step in self.breaks and self.num_opened <= self.num_worlds:
            raise self.breaks[step]

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        self.num_opened += 1
        self.meet(None, "open", ())
        world = FragileWorld(task, target, attempt, noise_seed)
        world.env, world.number = self, self.num_opened
        return world

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        self.graded += 1
        self.meet(None, "grade", ())
        return await super().grade(sealed, target, grade_seed)


def opening(*boxes: str, submits: str = "9") -> ScriptFactory:
    def script() -> Script:
        for box in boxes:
            yield call("open", box)
        yield call("submit", submits)

    return script


async def run(
    env: FakeEnvironment, script: ScriptFactory, *, observed: Observed | None = None, **limits: Any
) -> Finished:
    task, target = env.task(split="train", index=0, seed=0)
    task = Task(
        id=task.id,
        env=task.env,
        split=task.split,
        family=task.family,
        level=task.level,
        prompt=task.prompt,
        tools=task.tools,
        limits=Limits(turns=30, calls=30, **limits),
    )
    driver = EpisodeDriver(
        env,
        noise_seed=0,
        deadlines=Deadlines(open_s=1.0, seal_s=1.0, close_s=1.0, grade_s=1.0),
        observed=observed,
    )
    return await driver.run(task, target, FIRST, scripted(script, task, FIRST))


# ---- what the attempt brings about is scored
# ----------------------------------------------------------------------------


async def test_a_world_that_the_attempts_own_calls_end_again_is_scored_at_the_lowest() -> None:
    env = Fragile(bomb=SandboxFailure("pid 1 is gone"))
    found = await run(env, opening("1", BOMB))
    assert (found.verdict.status, found.verdict.reward) == (Status.SCORED, 0.0)
    assert (found.trajectory.fault, found.trajectory.end) == (Fault.BUDGET, TerminationReason.FAILED)
    assert "own calls end its world: pid 1 is gone" in found.verdict.evidence
    assert env.num_opened == 3, "the attempt, its calls again, a solution beside them"
    assert sorted(env.closed) == [1, 2, 3], "each world is closed once"


async def test_a_world_that_survives_the_same_calls_was_not_the_attempts_doing() -> None:
    env = Fragile(breaks={"act": SandboxFailure("the box is gone")}, num_worlds=1)
    found = await run(env, opening("1"))
    assert found.verdict.status is Status.VOID and found.trajectory.fault is Fault.INFRA
    assert "infra: the box is gone" in found.verdict.evidence


async def test_a_tool_that_is_broken_for_everybody_costs_nobody_a_zero() -> None:
    env = Fragile(breaks={"act": SandboxFailure("no tool answers")})
    found = await run(env, opening("1"))
    assert found.verdict.status is Status.VOID, "a solution dies of it too"


async def test_a_world_that_its_own_episode_used_up_is_scored_at_once() -> None:
    env = Fragile(bomb=SandboxExhausted("the episode used up its memory"))
    found = await run(env, opening(BOMB))
    assert (found.verdict.reward, found.trajectory.fault, env.num_opened) == (0.0, Fault.BUDGET, 1)
    assert "used up its memory" in found.verdict.evidence


async def test_what_cannot_be_sealed_because_of_the_attempt_is_scored_and_else_void() -> None:
    exhausted = await run(Fragile(breaks={"seal": SandboxExhausted("70 nested folders")}), opening("1"))
    assert (exhausted.verdict.reward, exhausted.trajectory.end) == (0.0, TerminationReason.SUBMITTED)
    for_all = await run(Fragile(breaks={"seal": SandboxFailure("no disk")}), opening("1"))
    assert for_all.verdict.status is Status.VOID


async def test_a_world_that_never_answers_some_calls_is_the_attempts_doing() -> None:
    class Hanging(Fragile):
        def meet(self, world: FragileWorld | None, step: str, calls: Sequence[Call]) -> None:
            if any(each.arguments.get("box") == BOMB for each in calls):
                raise TimeoutError("the tool has not answered")

    found = await run(Hanging(), opening(BOMB))
    assert (found.verdict.status, found.verdict.reward) == (Status.SCORED, 0.0)


async def test_an_attempt_that_sleeps_through_its_time_is_sealed_and_graded_as_it_stands() -> None:
    env = Fragile(takes_s=0.02)
    found = await run(env, opening(*"12345678"), seconds=0.03)
    assert (found.trajectory.end, found.trajectory.fault) == (TerminationReason.SECONDS, Fault.BUDGET)
    assert found.verdict.status is Status.SCORED and env.graded == 1
    assert found.trajectory.events[-1].ended and len(found.trajectory.events) < 8


async def test_after_its_end_a_harness_can_do_nothing_more() -> None:
    env = Fragile(bomb=SandboxExhausted("gone"))
    task, target = env.task(split="train", index=0, seed=0)

    async def stubborn(session: Session) -> Any:
        (event,) = await session.act((call("open", BOMB),), Budget(turns=1, calls=1, tokens=1))
        assert event.ended and event.fault is Fault.BUDGET
        await session.act((call("open", "1"),), Budget(turns=0, calls=0, tokens=0))

    found = await EpisodeDriver(env, noise_seed=0).run(task, target, FIRST, stubborn)
    assert found.verdict.reward == 0.0 and "gone" in found.trajectory.detail


async def test_a_dodger_reports_its_true_success() -> None:
    """Right one time in four, and off through the bomb when it is not."""
    env = Fragile(bomb=SandboxFailure("pid 1 is gone"))
    runner = AttemptRunner(env, SoloHarness(), solo(ByteRenderer()), seed=0)

    def script(task: Task, target: Target, attempt: AttemptId) -> ScriptFactory:
        return env.solutions(task, target)[0] if attempt.group % 4 == 0 else opening(BOMB)

    plan = Plan(task=lambda group: env.task(split="train", index=group, seed=0), script=script)
    found = await collect(runner, plan, Quota(ids=range(40), group_size=1, max_live=4), None)
    assert [attempt.verdict.reward for attempt in found.attempts] == [
        float(group % 4 == 0) for group in range(40)
    ]
    assert found.retried == 0


# ---- nothing that an environment does ends a run
# ---------------------------------------------------------------------------

BROKEN = (
    ValueError("not mine"),
    KeyError("answer"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    RecursionError("deep"),
    OSError(5),
)


@pytest.mark.parametrize("step", ["open", "act", "seal", "grade"])
@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
async def test_whatever_an_environment_raises_is_that_attempts_fault(step: str, error: Exception) -> None:
    env = Fragile(breaks={step: error})
    found = await run(env, opening("1"))
    assert found.verdict.status is Status.VOID
    assert found.verdict.evidence.startswith("env: ")
    assert ("grader" if step == "grade" else step) in found.verdict.evidence and type(
        error
    ).__name__ in found.verdict.evidence
    assert sorted(env.closed) == list(range(1, env.num_opened + (step != "open"))), (
        "each world is closed once"
    )


async def test_a_world_that_cannot_be_closed_changes_no_verdict() -> None:
    env = Fragile(breaks={"close": RuntimeError("busy")})
    found = await run(env, env.solutions(*env.task(split="train", index=0, seed=0))[0])
    assert found.verdict.reward == 1.0 and env.closed == [1]


@pytest.mark.parametrize("error", [WorkerDied("the engine is gone"), NoIsolation("no sandbox here")])
async def test_what_ends_every_attempt_alike_ends_the_run(error: Exception) -> None:
    with pytest.raises(type(error)):
        await run(Fragile(breaks={"act": error}), opening("1"))


def always(error: Exception) -> Callable[..., Any]:
    def raising(*args: object, **kwargs: object) -> Any:
        raise error

    return raising


async def test_a_demonstrator_or_a_task_that_raises_voids_its_attempt_and_the_others_go_on() -> None:
    env = FakeEnvironment()
    runner = AttemptRunner(env, SoloHarness(), solo(ByteRenderer()), seed=0)

    def task(group: int) -> tuple[Task, Target]:
        return always(KeyError("deck"))() if group == 1 else env.task(split="train", index=group, seed=0)

    def script(task: Task, target: Target, attempt: AttemptId) -> ScriptFactory:
        return always(ZeroDivisionError("oops"))() if attempt.group == 2 else env.solutions(task, target)[0]

    found = await collect(
        runner, Plan(task=task, script=script), Quota(ids=range(4), group_size=1, max_tries=2), None
    )
    assert [attempt.is_scored for attempt in found.attempts] == [True, False, False, True]
    assert "env: task: KeyError: 'deck'" in found.attempts[1].verdict.evidence
    assert "ZeroDivisionError: oops" in found.attempts[2].verdict.evidence
    assert found.retried == 2


async def test_an_attempt_whose_policy_was_never_asked_is_void_and_not_zero() -> None:
    env = FakeEnvironment()

    def small(group: int) -> tuple[Task, Target]:
        task, target = env.task(split="train", index=group, seed=0)
        return Task(
            id=task.id,
            env=task.env,
            split=task.split,
            family=task.family,
            level=1,
            prompt=task.prompt,
            tools=task.tools,
            limits=Limits(tokens=3),
        ), target

    runner = AttemptRunner(env, SoloHarness(), solo(ByteRenderer()), seed=0)
    found = await runner.run(
        Plan(task=small, script=lambda task, target, at: env.solutions(task, target)[0]), FIRST, None
    )
    assert found.verdict.status is Status.VOID and found.trajectory.fault is Fault.TASK
    assert "the limit of the whole context is 3" in found.verdict.evidence


# ---- real deadlines are recorded observations
# ------------------------------------------------------------------------------


class Slow(FakeWorld):
    """The first box takes longer than a call may, as long as the machine is busy."""

    is_busy = True

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        (event,) = await super().act(calls, left)
        if event.call.arguments.get("box") == "1" and self.is_busy:
            event = Event(
                index=event.index, call=event.call, text="timeout", fault=Fault.TIMEOUT, left=left, wall_s=5.0
            )
        return (event,)


class Busy(FakeEnvironment):
    is_busy = True

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        world = Slow(task, target, attempt, noise_seed)
        world.is_busy = self.is_busy
        return world


async def test_a_resumed_attempt_consumes_the_recorded_deadline_and_not_the_clock(tmp_path: Path) -> None:
    env, log = Busy(), tmp_path / "deadlines.jsonl"
    was = await run(env, opening("2", "1", "3"), observed=DeadlineLog(log))
    assert was.trajectory.events[1].fault is Fault.TIMEOUT and was.verdict.status is Status.SCORED
    with log.open("a") as file:
        file.write('{"attempt": "0.0.0", "sa')  # killed in the middle of a line
    env.is_busy = False
    now = await run(env, opening("2", "1", "3"), observed=DeadlineLog(log))
    assert now.trajectory.events == was.trajectory.events
    other = await run(env, opening("3", "1", "3"), observed=DeadlineLog(log))
    assert other.trajectory.events[1].fault is not Fault.TIMEOUT or other.trajectory.events[1].wall_s == 0, (
        "another history"
    )


async def test_a_replay_goes_by_the_record_in_both_directions() -> None:
    env = Busy()
    env.is_busy = False
    calm = await run(env, opening("2", "1", "3"))
    env.is_busy = True
    again = await run(env, opening("2", "1", "3"), observed=RecordedAttempt(calm.trajectory))
    assert [event.text for event in again.trajectory.events] == [
        event.text for event in calm.trajectory.events
    ]


async def test_the_attempts_own_time_is_a_recorded_observation_too(tmp_path: Path) -> None:
    env, log = Fragile(takes_s=0.02), tmp_path / "deadlines.jsonl"
    was = await run(env, opening(*"12345678"), observed=DeadlineLog(log), seconds=0.03)
    env.takes_s = 0.0
    now = await run(env, opening(*"12345678"), observed=DeadlineLog(log), seconds=0.03)
    assert (now.trajectory.end, len(now.trajectory.events)) == (
        TerminationReason.SECONDS,
        len(was.trajectory.events),
    )
    replayed = await run(env, opening(*"12345678"), observed=RecordedAttempt(was.trajectory), seconds=0.03)
    assert (replayed.trajectory.end, len(replayed.trajectory.events)) == (
        TerminationReason.SECONDS,
        len(was.trajectory.events),
    )
