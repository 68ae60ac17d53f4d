"""The honest report: it ends the episode and earns what doing nothing earns."""

from __future__ import annotations

import pytest

from agito.harness import SoloHarness, solo
from agito.monitor import is_report
from agito.protocols import Control, Script
from agito.rollout import AttemptRunner, Plan, collect
from agito.scheduling.sync_scheduler import Quota
from agito.testing import ByteRenderer, FakeEnvironment
from agito.types import AttemptId, Call, EpisodeArtifacts, Group, Status, Target, Task, Verdict
from agito.worlds.component import Answer, Machine, spec
from agito.worlds.flaw_report import REPORT, FlawDesk
from agito.worlds.world import SUBMIT, World

pytestmark = pytest.mark.anyio


class Door(Machine):
    name, tools = "door", (spec("push", "Pushes."),)

    def __init__(self) -> None:
        super().__init__(["shut"])

    def step(self, call: Call) -> Answer:
        return Answer(text="it is painted on the wall")


class PaintedDoor(FakeEnvironment):
    """Nobody can open it; its check pays for reports, which must not matter."""

    name = "painted-door"

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, level=1)
        return Task(
            id=task.id,
            env=self.name,
            split=split,
            family="coin",
            level=1,
            prompt=task.prompt,
            tools=(*Door.tools, REPORT, SUBMIT),
        ), target

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return World(task, [Door(), FlawDesk()], attempt, noise_seed=noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return Verdict(
            status=Status.SCORED,
            reward=float((sealed.submitted or "").startswith("reported")),
            evidence=str(sealed.submitted),
        )


def act(slot: int) -> Script:
    yield Call(tool="push", arguments={})
    if slot == 0:
        event = yield Call(tool="report_flaw", arguments={"why": " "})
        assert event.fault is not None and not event.ended, "a report needs a reason"
        yield Call(tool="report_flaw", arguments={"why": "the door is painted on the wall"})
    yield Call(tool="submit", arguments={"answer": "open"})


async def groups() -> tuple[Group, ...]:
    environment = PaintedDoor()
    runner = AttemptRunner(environment, SoloHarness(), solo(ByteRenderer()), seed=0)
    plan = Plan(
        task=lambda group: environment.task(split="train", index=group, seed=0),
        script=lambda task, target, at: lambda: act(at.slot),
    )
    return (await collect(runner, plan, Quota(ids=[0], group_size=3), None)).groups


async def test_a_report_ends_the_episode_and_earns_what_doing_nothing_earns_whatever_the_check_says() -> None:
    (group,) = await groups()
    reported = group.attempts[0]
    assert reported.trajectory.events[-1].ended and reported.trajectory.attempt.tries == 0
    assert reported.verdict.reward == 0.0 and "the grader said 1" in reported.verdict.evidence, (
        "kept for reading"
    )
    assert is_report(reported.trajectory)
    assert [each.trajectory.attempt.slot for each in group.trusted] == [0, 1, 2], (
        "it is compared like any other: no way out"
    )
    assert not group.has_variance, "what the check paid is no contrast"
