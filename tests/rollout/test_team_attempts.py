"""Attempts of a team, from an open world to a verdict."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.harness.test_team_isolation import _MixesResults

from agito.envs import load
from agito.envs.decisions.words import NAMES
from agito.harness import TeamHarness
from agito.harness.team import LEAKED, TeamRules
from agito.harness.team.openings import own
from agito.protocols import AgentSpec, Environment, Renderer, Sampled, SampleRequest, TeamDemonstrated
from agito.render import learn, renderer
from agito.rollout import AttemptRunner, Plan
from agito.types import AttemptId, Call, Dialect, Fault, FinishReason, Target, Task, ToolSpec, span

pytestmark = pytest.mark.anyio
RULES = TeamRules(roles=("orchestrator", "worker"), depth=2, has_notes=True)
TOOLS = ("start", "wait")


def specs(dialect: Dialect) -> dict[str, AgentSpec]:
    task, _ = task_of(load("decisions"), 0)
    said = [task.prompt[dialect], *(str(tool.as_function()) for tool in (*task.tools, *own(RULES, 1)))]
    spec = AgentSpec(renderer=renderer(dialect, learn([*said, "worker: orchestrator"] * 20, size=1200)))
    return {"orchestrator": spec, "worker": replace(spec, tools=TOOLS)}


def task_of(environment: Environment, index: int) -> tuple[Task, Target]:
    return environment.task(split="train", index=index, seed=1, family="fanout", level=1 + index % 3)


def runner(environment: Environment, harness: TeamHarness, dialect: Dialect) -> AttemptRunner:
    return AttemptRunner(environment, harness, specs(dialect), seed=5)


async def test_a_team_of_scripts_hands_out_what_can_run_at_once_and_succeeds() -> None:
    environment = load("decisions")
    assert isinstance(environment, TeamDemonstrated)
    plan = Plan(
        task=lambda group: task_of(environment, group),
        script=lambda task, target, attempt: environment.team_demonstrator(
            task, target, role="worker", skill=1.0, seed=attempt.group
        ),
    )
    run, teams = runner(environment, TeamHarness(RULES), Dialect.COMPACT), 0
    for index in range(60):
        attempt = await run.run(plan, AttemptId(group=index, slot=0), None)
        spoken = attempt.trajectory.segments
        assert attempt.verdict.scores["success"] == 1.0, attempt.verdict.evidence
        if len(spoken) > 1:
            teams += 1
            num_parts = len(attempt.trajectory.task.prompt[Dialect.COMPACT].split()) - 1
            assert [segment.role for segment in spoken] == ["orchestrator", *["worker"] * num_parts]
            assert attempt.trajectory.task.prompt[Dialect.COMPACT].startswith("all")
    assert 10 < teams < 40


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_policy_that_says_anything_cannot_make_the_meter_fire(dialect: Dialect) -> None:
    """A false alarm would void an attempt, and so be a way out."""
    environment, num_agents = load("decisions"), 0
    run, spec = runner(environment, TeamHarness(RULES), dialect), specs(dialect)["worker"]
    for index in range(150):
        both = task_of(environment, index)
        engine = Babbling(spec.renderer, both[0].tools, seed=index)
        plan, at = Plan(task=lambda _, both=both: both), AttemptId(group=index, slot=0)
        attempt = await run.run(plan, at, {"main": engine})
        assert attempt.is_scored and attempt.trajectory.fault is None, attempt.trajectory.detail
        num_agents += len(attempt.trajectory.segments)
    assert num_agents > 250


async def test_an_attempt_in_which_a_context_leaked_is_void() -> None:
    class Leaky(TeamHarness):
        def new_course(self, task, session, agents, seed):
            return _MixesResults(rules=self.rules, task=task, session=session, agents=agents, seed=seed)

    environment = load("decisions")
    run, spec = runner(environment, Leaky(RULES), Dialect.COMPACT), specs(Dialect.COMPACT)["worker"]
    both = task_of(environment, 0)
    attempt = await run.run(
        Plan(task=lambda _: both),
        AttemptId(group=0, slot=0),
        {"main": Babbling(spec.renderer, both[0].tools)},
    )
    assert not attempt.is_scored and attempt.trajectory.fault is Fault.ENV
    assert attempt.trajectory.detail.startswith(LEAKED)


class Babbling:
    """An engine that says random tokens, and now and then a call of a team's."""

    context = 1 << 12

    def __init__(self, renderer: Renderer, tools: Sequence[ToolSpec], seed: int = 0) -> None:
        own_tools = own(RULES, 1)
        self._renderer, self._tools, self._rng = renderer, (*tools, *own_tools), random.Random(seed)

    def open(self, seed: int) -> Babbling:
        return self

    def branch(self, seed: int) -> Babbling:
        raise AssertionError("nobody branches")

    async def close(self) -> None:
        return

    async def sample(self, request: SampleRequest) -> Sampled:
        rng, ids = self._rng, array("i")
        if rng.random() < 0.6:
            said = self._renderer.action([self._call()], self._tools)
        else:
            said = array("i", [rng.randrange(self._renderer.vocab_size) for _ in range(rng.randint(1, 9))])
            said.extend(self._renderer.stop_ids[:1] if rng.random() < 0.7 else [])
        for token in said[: request.max_tokens]:
            ids.append(token)
            if token in request.stop_ids:
                break
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH,
            versions=span(0, len(request.extend) + len(ids)),
        )

    def _call(self) -> Call:
        part = self._rng.choice(NAMES)
        arguments = self._rng.choice(
            [
                ("start", {"part": part}),
                ("wait", {}),
                ("note", {"text": part}),
                ("notes", {}),
                ("report", {"text": f"{part} | {part}"}),
                ("spawn", {"role": "worker", "budget": self._rng.randint(1, 4), "brief": f"{part} | {part}"}),
                ("spawn", {"role": "cook", "budget": 1, "brief": part}),
            ]
        )
        return Call(tool=arguments[0], arguments=dict(arguments[1]))
