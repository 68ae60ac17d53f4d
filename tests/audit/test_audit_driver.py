"""Audit episodes use the driver of training: the same limits and faults; and what an audit notes is only
their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from agito.audit import Depth
from agito.audit.agents import nothing
from agito.audit.episode import replay
from agito.audit.episode_runner import EpisodeRunner
from agito.audit.open_episodes import visits
from agito.errors import SandboxFailure
from agito.protocols import Control
from agito.testing import FakeEnvironment
from agito.testing.fakes import FakeWorld, call
from agito.types import AttemptId, Budget, Call, EpisodeArtifacts, Event, Status, Target, Task, Verdict

QUICK = Depth(name="short", seconds=25.0, share=0.15)


def runner_of(environment: FakeEnvironment) -> EpisodeRunner:
    return EpisodeRunner(environment, lambda: environment, QUICK, 1)


class Fragile(FakeEnvironment):
    """Its worlds end when told to open the box `bomb`; some end by themselves."""

    def __init__(self, share: int = 0) -> None:
        self.share, self.opened, self.closed = share, 0, 0

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        self.opened += 1
        return FragileWorld(
            task, target, attempt, noise_seed, self, self.share and self.opened % self.share == 0
        )


class FragileWorld(FakeWorld):
    def __init__(
        self,
        task: Task,
        target: Target,
        attempt: AttemptId,
        noise_seed: int,
        environment: Fragile,
        is_ill: bool | int,
    ) -> None:
        super().__init__(task, target, attempt, noise_seed)
        self._environment, self._is_ill = environment, is_ill

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        if self._is_ill or any(each.arguments.get("box") == "bomb" for each in calls):
            raise SandboxFailure("the box is gone")
        return await super().act(calls, left)

    async def close(self) -> None:
        self._environment.closed += 1


async def test_what_ends_its_own_world_is_scored_in_an_audit_as_in_training() -> None:
    runner = runner_of(Fragile())
    (drawn,) = runner.draw("train", 1)
    episode = await runner.play(drawn, replay([call("open", 1), call("open", "bomb")]))
    assert (episode.verdict.status, episode.reward, episode.problem) == (Status.SCORED, 0.0, "")
    assert not runner.incidents
    assert [event.call.arguments["box"] for event in episode.events] == ["1"], (
        "what the driver replayed is not the episode's"
    )


async def test_a_world_that_ends_by_itself_is_an_incident() -> None:
    runner = runner_of(Fragile(share=2))
    drawn = runner.draw("train", 1)[0]
    await runner.play(drawn, replay([call("open", 1)]))
    episode = await runner.play(drawn, replay([call("open", 1)]))
    assert episode.problem.startswith("infra: SandboxFailure: the box is gone (test_audit_driver.py, line")
    assert sum(runner.incidents.values()) == 1


class Slow(FakeEnvironment):
    def task(self, **asked: object) -> tuple[Task, Target]:  # type: ignore[override]
        task, target = super().task(**asked)  # type: ignore[arg-type]
        return replace(task, limits=replace(task.limits, seconds=0.1)), target

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return SlowWorld(task, target, attempt, noise_seed)


class SlowWorld(FakeWorld):
    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        until = time.monotonic() + 0.03
        while time.monotonic() < until:
            pass
        return await super().act(calls, left)


async def test_an_episode_of_an_audit_ends_when_the_attempts_time_is_used_up() -> None:
    runner = runner_of(Slow())
    (drawn,) = runner.draw("train", 1)
    episode = await runner.play(drawn, replay([call("open", 99)] * 40))
    assert 1 <= len(episode.events) < 10
    assert (episode.verdict.status, episode.problem) == (Status.SCORED, "")


class Strict(FakeEnvironment):
    """Its grader breaks on non-numbers, and gives no verdict on negative ones."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        if int(sealed.submitted or "0") < 0:
            return Verdict.void("negative")
        return await super().grade(sealed, target, grade_seed)


async def test_a_grader_that_breaks_or_is_silent_is_told_though_the_driver_knows_what_the_work_is_worth() -> (
    None
):
    runner = runner_of(Strict())
    (drawn,) = runner.draw("train", 1)
    broken = await runner.play(drawn, replay([call("submit", "many")]), provokes=True)
    assert (
        broken.problem.startswith("env: ValueError: invalid literal")
        and "test_audit_driver.py" in broken.problem
    )
    silent = await runner.play(drawn, replay([call("submit", "-1")]))
    assert (silent.is_void, silent.verdict.evidence, runner.voids) == (True, "negative", [silent])


async def test_visits_stand_open_side_by_side_and_what_is_left_open_is_closed() -> None:
    environment = Fragile()
    runner = runner_of(environment)
    one, two = runner.draw("train", 2)
    async with visits(runner, are_graded=True) as open_one:
        first, second, third = await open_one(one), await open_one(two), await open_one(one)
        assert (environment.opened, environment.closed) == (3, 0)
        for box in range(3):
            for visit in (first, second):
                event = await visit.act(call("open", box))
                assert event is not None and event.index == box
        assert await first.seal() is not None
        assert await first.act(call("open", 7)) is None
        ended = await second.act(call("submit", two[1].data["coin"]))
        assert ended is not None and ended.ended and await second.act(call("open", 7)) is None
        await second.seal()
        assert environment.closed == 2
    assert environment.closed == 3
    assert (first.episode.reward, second.episode.reward, third.episode.sealed) == (0.0, 1.0, None)
    assert len(first.episode.digests) == 1


async def test_digests_are_noted_before_the_first_call_and_after_each() -> None:
    runner = runner_of(FakeEnvironment())
    (drawn,) = runner.draw("train", 1)
    calls = [call("open", 1), call("open", 2)]
    assert len((await runner.play(drawn, replay(calls), num_digests=9)).digests) == 3
    assert len((await runner.play(drawn, nothing, num_digests=9)).digests) == 1
    assert (await runner.play(drawn, replay(calls))).digests == []
