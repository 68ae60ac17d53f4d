"""What a fork without an agent tells of it, and how failures of agents are repeated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.harness.test_team import say, spawn, texts
from tests.harness.test_team_forks import Remembering

from agito.harness import TeamHarness
from agito.harness.team import TeamRules
from agito.learning.credit import agent_credits, by_replay, leave_one_out
from agito.protocols import AgentSpec, Control, Engine, Harness
from agito.rollout import AttemptRunner, ForkRunner, Plan, fork_points, numbered
from agito.testing import ByteRenderer
from agito.testing.fakes import FakeWorld
from agito.testing.planted import Planted
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Dialect,
    EpisodeArtifacts,
    Event,
    Group,
    Limits,
    Sample,
    Target,
    Task,
    Verdict,
)

pytestmark = pytest.mark.anyio
LIMITS = Limits(turns=30, calls=8, tokens=1 << 14, turn_tokens=400, observation_bytes=2000)
OPENS, SUBMITS, REPORTS = say("open", box="1"), say("submit", box="right"), say("report", text="done")
TEAM = TeamHarness(TeamRules(roles=("root", "worker")))


class Few(Planted):
    """An attempt has eight calls."""

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        prompt = {Dialect.NATURAL: "find the coin root"}
        return replace(task, prompt=prompt, limits=LIMITS), target


class Spoilt(FakeWorld):
    """Remembers whether somebody opened a box."""

    is_spoilt = False

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        self.is_spoilt |= any(call.tool == "open" for call in calls)
        return await super().act(calls, left)

    async def seal(self) -> EpisodeArtifacts:
        return replace(await super().seal(), files={"spoilt": b""} if self.is_spoilt else {})


class Fragile(Few):
    """Success is to submit `right` where nobody has opened a box."""

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return Spoilt(task, target, attempt, noise_seed)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        is_won = sealed.submitted == "right" and not sealed.files
        return Verdict.scored(float(is_won), evidence="", grade_seed=grade_seed)


class Failing(Remembering):
    """Breaks off whoever is `bad`, after so many turns, until it is mended."""

    num_turns = 0
    is_broken = True

    def said(self, name: str, turn: int) -> str:
        if self.is_broken and name == "bad" and turn >= self.num_turns:
            raise RuntimeError("no more of it")
        return super().said(name, turn)


async def forked(environment: Few, engines: Sequence[Engine]) -> Group:
    """One attempt for each engine, forked at every place."""
    specs = dict.fromkeys(TEAM.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))
    both = environment.task(split="train", index=0, seed=0)
    plan = Plan(task=lambda _: both)

    def runner_of(harness: Harness) -> AttemptRunner:
        return AttemptRunner(environment, harness, specs, seed=0)

    own = [
        await runner_of(TEAM).run(plan, AttemptId(group=0, slot=slot), {"main": engine})
        for slot, engine in enumerate(engines)
    ]
    for engine in engines:
        if isinstance(engine, Failing):
            engine.is_broken = False  # what failed has failed all the same
    group = Group(id=0, task=both[0], attempts=tuple(own))
    points = fork_points([group], ratio=1.0, seed=0)
    runner = ForkRunner(TEAM, points, runner_of)
    found = [
        await runner.run(plan, AttemptId(group=at, slot=0), {"main": engines[point.parent.attempt.slot]})
        for at, point in enumerate(points)
    ]
    return numbered(found, [group])[0]


def advantages(samples: Sequence[Sample], slot: int, role: str) -> set[float]:
    return {
        round(value, 6)
        for sample in samples
        if sample.attempt.slot == slot and sample.role == role
        for value, is_on in zip(sample.advantages, sample.trainable, strict=True)
        if is_on
    }


@pytest.mark.parametrize(
    ("environment", "bad"),
    [
        pytest.param(Few(), [OPENS], id="spends the calls"),
        pytest.param(Fragile(), [OPENS, REPORTS], id="spoils the world"),
    ],
)
async def test_an_agent_that_ruins_its_team_otherwise_than_by_its_report_is_blamed(
    environment: Few, bad: list[str]
) -> None:
    root = [spawn("x", budget=20), SUBMITS]
    good, ruined = Remembering({"root": root, "x": [REPORTS]}), Remembering({"root": root, "x": bad})
    group = await forked(environment, [ruined, good, good])
    assert [attempt.verdict.reward for attempt in group.attempts] == [0.0, 1.0, 1.0]
    assert all(fork.is_scored for fork in group.forks), [fork.trajectory.detail for fork in group.forks]
    found = by_replay(group, running_mean=math.nan)
    assert advantages(found, 0, "worker") == {-1.0} and advantages(found, 1, "worker") == {0.0}
    inherited = leave_one_out(group, running_mean=math.nan)
    assert advantages(inherited, 1, "worker") == {0.5}, "the control: credit for the other's failure"
    measured = [agent_credits(attempt, group) for attempt in group.attempts[:2]]
    assert measured == [{"worker-0.0": -1.0}, {"worker-0.0": 0.0}]


@pytest.mark.parametrize("turns", [0, 1])
async def test_where_an_agent_failed_it_fails_in_forks_that_repeat_it(turns: int) -> None:
    engine = Failing(
        {
            "root": [spawn("bad | good", budget=4), OPENS, spawn("good"), SUBMITS],
            "bad": [OPENS, REPORTS],
            "good": [OPENS, REPORTS],
        }
    )
    engine.num_turns = turns
    group = await forked(Few(), [engine])
    (own,) = group.attempts
    assert texts(own.trajectory, "spawn") == ["(it failed) | done", "done"]
    assert [segment.agent for segment in own.trajectory.segments] == ["root"] + [
        f"worker-{number}" for number in ("0.0", "0.1", f"{4 + turns}.0")
    ]
    assert all(fork.is_scored for fork in group.forks), [fork.trajectory.detail for fork in group.forks]
    left_out = [fork.trajectory.lineage.without for fork in group.forks if fork.trajectory.lineage]
    assert sorted(filter(None, left_out)) == [
        segment.agent for segment in own.trajectory.segments[1:] if len(segment.tokens)
    ]
