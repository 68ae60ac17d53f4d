"""Credit by replay tells the members of a team apart where the credit that all of them inherit does not."""

from __future__ import annotations

import json
import math
import random
from array import array
from dataclasses import replace

import pytest

from agito.harness import TeamHarness
from agito.harness.team import TeamRules
from agito.learning.credit import agent_credits, by_replay, leave_one_out
from agito.protocols import AgentSpec, Row, Sampled, SampleRequest
from agito.rollout import AttemptRunner, ForkRunner, Plan, fork_points, numbered
from agito.testing import ByteRenderer, FakeEnvironment
from agito.testing.renderers import END, OBS
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    EpisodeArtifacts,
    FinishReason,
    Group,
    Json,
    Sample,
    Target,
    Task,
    Verdict,
    span,
)

pytestmark = pytest.mark.anyio
SAID = {"seer": "right", "idler": "hm", "liar": "wrong"}  # what each of them reports, always
NUM_GROUPS, GROUP_SIZE, FORKS = 3, 4, 16


class Planted(FakeEnvironment):
    """Success is to submit `right`."""

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        return replace(task, limits=replace(task.limits, turn_tokens=400)), target

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return Verdict.scored(float(sealed.submitted == "right"), evidence="", grade_seed=grade_seed)


class Deciding:
    """An engine whose first agent asks all three, and submits one of the boxes that it reads, at random."""

    context = 1 << 14

    def open(self, seed: int) -> Row:
        return _Decides(seed)


class _Decides:
    def __init__(self, seed: int) -> None:
        self._rng, self._name = random.Random(seed), ""

    async def sample(self, request: SampleRequest) -> Sampled:
        ids = list(request.extend)
        last = ids[len(ids) - ids[::-1].index(OBS) :] if OBS in ids else ids
        words = bytes(token for token in last if token < END).decode().split()
        if OBS not in ids:
            self._name = words[-1]
        said = array("i", [*self._said(words, OBS in ids).encode(), END])
        return Sampled(
            ids=said,
            logprobs=array("f", [-1.0] * len(said)),
            stopped=FinishReason.END,
            versions=span(1, len(ids) + len(said)),
        )

    def _said(self, words: list[str], has_asked: bool) -> str:
        if self._name in SAID:
            return call("report", text=SAID[self._name])
        if not has_asked:
            return call("spawn", role="worker", budget=2, brief=" | ".join(SAID))
        boxes = [word for word in words if word in ("right", "wrong")]
        return call("submit", box=self._rng.choice(boxes or ["none"]))

    def branch(self, seed: int) -> Row:
        raise AssertionError("nobody branches")

    async def close(self) -> None:
        return


def call(tool: str, **arguments: Json) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


async def forked(number: int) -> Group:
    """A group in which every place is forked."""
    environment, harness = Planted(), TeamHarness(TeamRules(roles=("root", "worker")))
    specs = dict.fromkeys(harness.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))
    both = environment.task(split="train", index=number, seed=0)
    plan, engines = Plan(task=lambda _: both), {"main": Deciding()}

    def runner_of(harness: TeamHarness) -> AttemptRunner:
        return AttemptRunner(environment, harness, specs, seed=number)

    runner = runner_of(harness)
    own = [await runner.run(plan, AttemptId(group=number, slot=slot), engines) for slot in range(GROUP_SIZE)]
    group = Group(id=number, task=both[0], attempts=tuple(own))
    points = fork_points([group], ratio=1.0, seed=0)
    forks = ForkRunner(harness, points, runner_of)  # type: ignore[arg-type]
    found = [
        await forks.run(plan, AttemptId(group=at, slot=slot), engines)
        for at in range(len(points))
        for slot in range(FORKS)
    ]
    assert all(fork.is_scored for fork in found), [fork.trajectory.detail for fork in found]
    return numbered(found, [group])[0]


def advantage(samples: tuple[Sample, ...], attempt: Attempt, segment: int) -> float:
    """Of the tokens of one agent."""
    (sample,) = (
        sample
        for sample in samples
        if sample.attempt == attempt.trajectory.attempt and sample.segment == segment
    )
    (found,) = {value for value, on in zip(sample.advantages, sample.trainable, strict=True) if on}
    return found


async def test_a_free_rider_and_a_saboteur_are_found_by_replay_and_not_by_inherited_credit() -> None:
    measured: dict[str, list[float]] = {name: [] for name in SAID}
    for number in range(NUM_GROUPS):
        group = await forked(number)
        inherited, replayed = (
            leave_one_out(group, running_mean=math.nan),
            by_replay(group, running_mean=math.nan),
        )
        for attempt in group.attempts:
            found = agent_credits(attempt, group)
            assert len({advantage(inherited, attempt, segment) for segment in (1, 2, 3)}) == 1
            for segment, name in enumerate(SAID, start=1):
                measured[name].append(found[f"worker-0.{segment - 1}"])
                assert advantage(replayed, attempt, segment) == pytest.approx(measured[name][-1], abs=1e-6)
    means = {name: sum(values) / len(values) for name, values in measured.items()}
    assert means["seer"] == pytest.approx(0.5, abs=0.15), "without it, only the liar's box is read"
    assert means["idler"] == pytest.approx(0.0, abs=0.15), "its report is ignored"
    assert means["liar"] == pytest.approx(-0.5, abs=0.15), "without it, only the right box is read"
