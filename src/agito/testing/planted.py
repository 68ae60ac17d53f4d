"""A team with a planted free-rider and a planted saboteur, for credit that should find them.

Three workers report always the same: the seer what earns, the idler nothing of use, the liar what earns
nothing. The agent that begins submits one of the boxes that it reads, at random.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable
from dataclasses import replace

from agito.harness import TeamHarness
from agito.harness.team import TeamRules
from agito.protocols import AgentSpec, Harness, Row, Sampled, SampleRequest
from agito.rollout import AttemptRunner, ForkRunner, Plan, fork_points, numbered
from agito.testing.fakes import FakeEnvironment
from agito.testing.renderers import END, OBS, ByteRenderer
from agito.types import (
    Attempt,
    AttemptId,
    Dialect,
    EpisodeArtifacts,
    FinishReason,
    Group,
    Json,
    Target,
    Task,
    Verdict,
    span,
)

SAID = {"seer": "right", "idler": "hm", "liar": "wrong"}  # what each of them reports
CREDIT = {"seer": 0.5, "idler": 0.0, "liar": -0.5}  # exactly, of a report against none


class Planted(FakeEnvironment):
    """Success is to submit `right`."""

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        return replace(task, limits=replace(task.limits, turn_tokens=400)), target

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return Verdict.scored(float(sealed.submitted == "right"), evidence="", grade_seed=grade_seed)


async def planted_group(
    number: int, *, size: int, forks: int, cost: Callable[[Attempt], float] = lambda attempt: 0.0
) -> Group:
    """A group whose attempts are forked at every place, `forks` times each; all of them pay."""
    environment, harness = Planted(), TeamHarness(TeamRules(roles=("root", "worker")))
    specs = dict.fromkeys(harness.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))
    both = environment.task(split="train", index=number, seed=0)
    plan, engines = Plan(task=lambda _: both, cost=cost), {"main": _Deciding()}

    def runner_of(harness: Harness) -> AttemptRunner:
        return AttemptRunner(environment, harness, specs, seed=number)

    runner = runner_of(harness)
    own = [await runner.run(plan, AttemptId(group=number, slot=slot), engines) for slot in range(size)]
    group = Group(id=number, task=both[0], attempts=tuple(own))
    points = fork_points([group], ratio=1.0, seed=0)
    forking = ForkRunner(harness, points, runner_of)
    found = [
        await forking.run(plan, AttemptId(group=at, slot=slot), engines)
        for at in range(len(points))
        for slot in range(forks)
    ]
    return numbered(found, [group])[0]


class _Deciding:
    """The engine of all of them."""

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
            return _call("report", text=SAID[self._name])
        if not has_asked:
            return _call("spawn", role="worker", budget=2, brief=" | ".join(SAID))
        boxes = [word for word in words if word in ("right", "wrong")]
        return _call("submit", box=self._rng.choice(boxes or ["none"]))

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("nobody branches")

    async def close(self) -> None:
        return


def _call(tool: str, **arguments: Json) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})
