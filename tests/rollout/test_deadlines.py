"""Whose deadlines are whose: of phases, of forks, and of the check who ended a world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio
import pytest
from tests.credit.test_leave_one_out import TASK
from tests.credit.test_leave_one_out import trajectory as recorded

from agito.errors import SandboxFailure
from agito.harness import SoloHarness
from agito.protocols import Control, Session
from agito.rollout import AttemptRunner, ForkRunner, Plan
from agito.rollout.deadline_log import DeadlineLog, RecordedAttempt, said_so_far
from agito.rollout.episode import EpisodeDriver
from agito.rollout.forks import ForkPoint
from agito.testing import FakeEnvironment
from agito.types import (
    Attempt,
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
    ToolSpec,
    Trajectory,
    Verdict,
)

pytestmark = pytest.mark.anyio
AT = AttemptId(group=1_000_000, slot=0)
LEFT = Budget(turns=1, calls=1, tokens=1)


def call(tool: str) -> Call:
    return Call(tool=tool, arguments={}, raw=tool)


def event(number: int, tool: str, *, is_late: bool = False) -> Event:
    return Event(
        index=number,
        call=call(tool),
        text="late" if is_late else "fine",
        fault=Fault.TIMEOUT if is_late else None,
        wall_s=1.0 if is_late else 0.01,
        left=LEFT,
    )


def trajectory(*events: Event, end: TerminationReason = TerminationReason.SUBMITTED) -> Trajectory:
    return Trajectory(attempt=AT, task=TASK, segments=(), turns=(), events=events, end=end)


def test_an_evaluation_does_not_meet_the_deadlines_of_another(tmp_path: Path) -> None:
    log, said = DeadlineLog(tmp_path / "deadlines.jsonl"), said_so_far("", call("look"))
    before = log.part("before")
    assert before.event(AT, said, event(0, "look", is_late=True)).fault is Fault.TIMEOUT
    assert before.is_late(AT, said, left_s=-1)
    again = DeadlineLog(tmp_path / "deadlines.jsonl")  # as a resumed run reads it
    for each in (log, again):
        assert each.part("before").event(AT, said, event(0, "look")).text == "late"
        assert each.part("before").is_late(AT, said, left_s=9)
        for other in (each, each.part("after")):
            assert other.event(AT, said, event(0, "look")).text == "fine"
            assert not other.is_late(AT, said, left_s=9)


def test_a_fork_repeats_what_was_late_and_notes_its_own_deadlines_apart() -> None:
    log = DeadlineLog()
    one = said_so_far("", call("look"))
    two = said_so_far(one, call("go"))
    parent = trajectory(event(0, "look", is_late=True))
    forks = [RecordedAttempt(parent, otherwise=log.part(f"fork {slot}")) for slot in range(2)]
    for fork in forks:
        assert fork.event(AT, one, event(0, "look")).text == "late"
        assert not fork.is_late(AT, one, left_s=-1), "a slower repetition ends nothing"
    assert forks[0].event(AT, two, event(1, "go", is_late=True)).text == "late"
    assert forks[0].is_late(AT, two, left_s=-1)
    for other in (forks[1], log):
        assert other.event(AT, two, event(1, "go")).text == "fine"
        assert not other.is_late(AT, two, left_s=9)


class _Slow:
    """A world that dies of `die`. Whoever repeats its calls finds it slower."""

    tools: tuple[ToolSpec, ...] = ()

    def __init__(self, more_s: float) -> None:
        self._more_s = more_s

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        (one,) = calls
        if one.tool == "die":
            raise SandboxFailure("the world is gone")
        await anyio.sleep(0.19 + self._more_s)
        return (event(0, one.tool),)


class _Control:
    def __init__(self, session: _Slow) -> None:
        self.session = session

    async def seal(self) -> EpisodeArtifacts:
        return EpisodeArtifacts(task_id="t", submitted=None, files={}, digest="")

    async def close(self) -> None:
        return


class _Dying(FakeEnvironment):
    num_opened = 0

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        self.num_opened += 1
        return cast("Control", _Control(_Slow(0.6 if self.num_opened == 2 else 0.0)))

    def solutions(self, task: Task, target: Target) -> tuple[()]:
        return ()


async def test_whoever_spends_its_time_and_then_ends_its_world_has_failed_though_a_replay_is_slower(
    tmp_path: Path,
) -> None:
    environment, log = _Dying(), DeadlineLog(tmp_path / "deadlines.jsonl")
    task, target = FakeEnvironment().task(split="train", index=0, seed=0)
    task = Task(
        id=task.id,
        env="fake",
        split="train",
        family="f",
        level=1,
        prompt=task.prompt,
        tools=(),
        limits=Limits(seconds=0.2, call_seconds=0.2),
    )

    async def act(session: Session) -> Trajectory:
        events = list[Event]()
        for tool in ("sleep", "die"):
            events += await session.act([call(tool)], LEFT)
        return trajectory(*events)

    driver = EpisodeDriver(environment, noise_seed=0, observed=log)
    found = await driver.run(task, target, AT, act)
    assert environment.num_opened == 3, "itself, its calls again, and a world without them"
    assert found.verdict.reward == 0.0 and found.trajectory.fault is Fault.BUDGET
    assert not (tmp_path / "deadlines.jsonl").exists(), "a check writes nothing into the attempt's record"


class _EndsBeforeItIsLive:
    def __init__(self, found: Attempt) -> None:
        self._found = found

    async def run(self, *_: object, **__: object) -> Attempt:
        return self._found


@pytest.mark.parametrize("num_turns", [1, 2])
async def test_a_fork_that_never_became_live_is_void_and_no_outcome(num_turns: int) -> None:
    one = replace(recorded(0).turns[0], calls=(0,))
    parent = replace(
        recorded(0), turns=(one, replace(one, calls=(1,))), events=(event(0, "a"), event(1, "b"))
    )
    verdict = Verdict(status=Status.SCORED, reward=0.0)
    ended = Attempt(trajectory=replace(parent, turns=parent.turns[:num_turns]), verdict=verdict)
    runner = ForkRunner(
        SoloHarness(),
        [ForkPoint(parent=parent, turn=1)],
        lambda _: cast("AttemptRunner", _EndsBeforeItIsLive(ended)),
    )
    plan = Plan(task=lambda _: FakeEnvironment().task(split="train", index=0, seed=0))
    found = await runner.run(plan, AttemptId(group=0, slot=0), {})
    assert found.is_scored == (num_turns == 2)
