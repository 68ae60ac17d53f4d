"""Whatever goes wrong around an attempt becomes a void verdict with a reason, and never a zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agito.errors import SandboxFailure, WorkerDied
from agito.harness import SoloHarness, solo
from agito.protocols import Control, Script, ScriptFactory
from agito.rollout import AttemptRunner, Collected, Plan, collect
from agito.scheduling.sync_scheduler import Quota
from agito.testing import ByteRenderer, FakeEnvironment
from agito.testing.fakes import FakeWorld
from agito.types import (
    Attempt,
    AttemptId,
    Budget,
    Call,
    EpisodeArtifacts,
    Event,
    Fault,
    Status,
    Target,
    Task,
    TerminationReason,
    Verdict,
)

pytestmark = pytest.mark.anyio
FIRST = AttemptId(group=0, slot=0)


class World(FakeWorld):
    """A world that writes down what is done with it."""

    log: list[str]
    on_act: Callable[[], None] = staticmethod(lambda: None)
    on_seal: Callable[[], None] = staticmethod(lambda: None)
    wall_s = 0.0

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        self.on_act()
        events = await super().act(calls, left)
        return tuple(replace(event, wall_s=self.wall_s) for event in events)

    async def seal(self) -> EpisodeArtifacts:
        self.log.append("seal")
        self.on_seal()
        return await super().seal()

    async def close(self) -> None:
        self.log.append("close")


class Troubled(FakeEnvironment):
    """The coin environment with trouble at one place."""

    def __init__(self, **trouble: Any) -> None:
        self.trouble, self.log = trouble, list[str]()

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        self.log.append("open")
        self.meet("open")
        world = World(task, target, attempt, noise_seed)
        world.log, world.wall_s = self.log, self.trouble.get("wall_s", 0.0)
        world.on_act, world.on_seal = (lambda: self.meet("act")), (lambda: self.meet("seal"))
        return world

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        self.log.append("grade")
        self.meet("grade")
        return await super().grade(sealed, target, grade_seed)

    def meet(self, place: str) -> None:
        if place in self.trouble:
            raise self.trouble[place]


def solve(
    environment: FakeEnvironment, script: Callable[[Task, Target, AttemptId], ScriptFactory] | None = None
) -> Plan:
    return Plan(
        task=lambda group: environment.task(split="train", index=group, seed=0),
        script=script or (lambda task, target, attempt: environment.solutions(task, target)[0]),
    )


async def attempt(environment: FakeEnvironment, plan: Plan | None = None, **options: Any) -> Attempt:
    runner = AttemptRunner(environment, SoloHarness(), solo(ByteRenderer()), seed=0, **options)
    return await runner.run(plan or solve(environment), FIRST, None)


async def gather(environment: FakeEnvironment, quota: Quota, plan: Plan | None = None) -> Collected:
    runner = AttemptRunner(environment, SoloHarness(), solo(ByteRenderer()), seed=0)
    return await collect(runner, plan or solve(environment), quota, None)


async def test_a_solved_task_is_sealed_then_destroyed_then_graded() -> None:
    environment = Troubled()
    found = await attempt(environment)
    assert found.verdict.reward == 1.0
    assert environment.log == ["open", "seal", "close", "grade"]


@pytest.mark.parametrize("place", ["open", "act", "seal"])
async def test_a_sandbox_that_fails_voids_the_attempt(place: str) -> None:
    environment = Troubled(**{place: SandboxFailure("the box is gone")})
    found = await attempt(environment)
    assert found.verdict.status is Status.VOID
    assert math.isnan(found.verdict.reward)
    assert "infra" in found.verdict.evidence and "the box is gone" in found.verdict.evidence
    assert environment.log.count("close") == (0 if place == "open" else environment.log.count("open")), (
        "a world was left behind"
    )
    assert found.trajectory.fault is Fault.INFRA
    assert found.trajectory.end is (
        TerminationReason.SUBMITTED if place == "seal" else TerminationReason.FAILED
    )


async def test_an_environment_that_raises_voids_the_attempt_and_is_not_graded() -> None:
    environment = Troubled(act=ZeroDivisionError("oops"))
    found = await attempt(environment)
    assert found.verdict.status is Status.VOID
    assert found.trajectory.fault is Fault.ENV
    assert "act: ZeroDivisionError: oops (test_attempt.py:" in found.trajectory.detail
    assert "grade" not in environment.log and environment.log[-1] == "close"


async def test_a_grader_that_raises_gives_no_verdict() -> None:
    found = await attempt(Troubled(grade=KeyError("answer")))
    assert found.verdict.status is Status.VOID
    assert "KeyError: 'answer'" in found.verdict.evidence
    assert found.trajectory.end is TerminationReason.SUBMITTED, "what the policy did is kept"


class Telling(FakeEnvironment):
    """Says what would give its tasks away: here, what an opened box shows."""

    given_away: Sequence[str] | Exception = ("timeout", "nowhere")

    def answers(self, task: Task, target: Target) -> Sequence[str]:
        if isinstance(self.given_away, Exception):
            raise self.given_away
        return self.given_away


def opens_until_late(times: int = 30) -> ScriptFactory:
    def script() -> Script:
        for _ in range(times):
            yield Call(tool="open", arguments={"box": "0"})

    return script


async def test_an_attempt_that_read_an_answer_is_flagged_and_keeps_its_reward() -> None:
    environment = Telling()
    found = await attempt(environment, solve(environment, lambda task, target, attempt: opens_until_late()))
    shows = [event.index for event in found.trajectory.events if "timeout" in event.text]
    assert shows, "the fake injects timeouts"
    assert [(flag.kind, flag.is_proof) for flag in found.verdict.flags] == [("search_leak", False)]
    assert f"event {shows[0]} " in found.verdict.flags[0].detail
    assert not found.quarantine


async def test_answers_that_cannot_be_told_are_no_verdict() -> None:
    environment = Telling()
    environment.given_away = ZeroDivisionError("oops")
    found = await attempt(environment)
    assert found.verdict.status is Status.VOID
    assert "answers: ZeroDivisionError: oops" in found.verdict.evidence


async def test_an_engine_that_died_is_nobodys_zero_but_ends_the_run() -> None:
    with pytest.raises(WorkerDied):
        await attempt(Troubled(act=WorkerDied("worker 0 ended")))


async def test_a_deadline_that_really_passed_is_scored_like_one_that_was_drawn() -> None:
    plan = solve(FakeEnvironment(), lambda task, target, attempt: patient)
    for wall_s in (0.5, 0.0):
        found = await attempt(Troubled(wall_s=wall_s), plan)
        assert found.verdict.status is Status.SCORED


def patient() -> Script:
    """Opens until it has seen a timeout."""
    event = yield Call(tool="open", arguments={"box": "0"})
    while event.fault is not Fault.TIMEOUT:
        event = yield Call(tool="open", arguments={"box": "0"})
    yield Call(tool="submit", arguments={"box": "0"})


class NeverAnswers(FakeEnvironment):
    """Voids the first tries of some slots, or all of them."""

    def __init__(self, good_try: int) -> None:
        self.good_try, self.seen = good_try, list[AttemptId]()

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        self.seen.append(attempt)
        if attempt.slot == 0 and attempt.tries < self.good_try:
            raise SandboxFailure("no box")
        return await super().open(task, target, attempt, noise_seed=noise_seed)


async def test_a_void_slot_is_tried_again_and_its_last_try_stands() -> None:
    environment = NeverAnswers(good_try=2)
    collected = await gather(environment, Quota(ids=range(2), group_size=2))
    assert collected.retried == 4
    assert all(each.is_scored and each.verdict.reward == 1.0 for each in collected.attempts)
    assert sorted(each.trajectory.attempt.tries for each in collected.attempts) == [0, 0, 2, 2]


async def test_a_slot_that_stays_void_is_masked_and_its_group_is_void() -> None:
    collected = await gather(NeverAnswers(good_try=99), Quota(ids=range(2), group_size=2))
    assert [group.is_void for group in collected.groups] == [True, True]
    assert [each.is_scored for each in collected.attempts] == [False, True, False, True]
    assert all(math.isnan(each.verdict.reward) for each in collected.attempts if not each.is_scored)


async def test_groups_come_back_complete_and_in_order_with_slots_in_order() -> None:
    collected = await gather(FakeEnvironment(), Quota(ids=range(40, 45), group_size=3, max_live=4))
    assert [group.id for group in collected.groups] == [40, 41, 42, 43, 44]
    for group in collected.groups:
        assert [each.trajectory.attempt.slot for each in group.attempts] == [0, 1, 2]
        assert all(each.trajectory.task.id == group.task.id for each in group.attempts)


async def test_what_a_script_does_is_recorded_like_what_a_policy_does() -> None:
    found = await attempt(FakeEnvironment())
    (segment,) = found.trajectory.segments
    renderer = ByteRenderer()
    for turn in found.trajectory.turns:
        said = segment.tokens.ids[turn.start : turn.stop]
        (call,) = renderer.parse(said, found.trajectory.task.tools)
        assert [call.arguments] == [found.trajectory.events[at].call.arguments for at in turn.calls]
    assert segment.tokens.oldest_version() == 0
