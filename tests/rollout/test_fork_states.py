"""A fork goes on from the state that its attempt was in, or it is void."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.harness.test_budget import attempts as thinking_attempts

from agito.harness import SoloHarness, TeamHarness, solo
from agito.harness.team import TeamRules
from agito.protocols import Agent, AgentSpec, Engine, Harness, Row, Sampled, SampleRequest
from agito.rollout import fork_points
from agito.sampling.forked import ForkedEngine
from agito.testing import ByteRenderer, FakeEnvironment, FakeSession
from agito.testing.renderers import END, OBS
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    Effort,
    Fault,
    FinishReason,
    Group,
    Json,
    TerminationReason,
    Thinking,
    Trajectory,
    Verdict,
    span,
)

pytestmark = pytest.mark.anyio
TASK, _ = FakeEnvironment().task(split="train", index=0, seed=0)
TEAM = TeamHarness(TeamRules(roles=("root", "worker")))
ALONE = (("open", {"box": "1"}), ("open", {"box": "2"}), ("submit", {"box": "1"}))
ROOT = (("spawn", {"role": "worker", "budget": 3, "brief": "look"}), ("submit", {"box": "1"}))
WORKER = (("open", {"box": "1"}), ("report", {"text": "done"}))


class Reciting:
    """An engine that says the same whatever it reads."""

    context = 1 << 14

    def __init__(self, *, is_team: bool) -> None:
        self._is_team = is_team

    def open(self, seed: int) -> Row:
        return _Recites(self._is_team)


class _Recites:
    def __init__(self, is_team: bool) -> None:
        self._is_team, self._num, self._said = is_team, 0, ALONE

    async def sample(self, request: SampleRequest) -> Sampled:
        ids = list(request.extend)
        if self._is_team and not self._num:
            is_worker = bytes(each for each in ids if each < END).decode().endswith("look")
            self._said = WORKER if is_worker else ROOT
        if not self._num and OBS in ids:  # what a fork has repeated is sent with the first live turn
            self._num = ids.count(END)
        tool, arguments = self._said[self._num]
        self._num += 1
        said = array("i", [*json.dumps({"tool": tool, "arguments": arguments}).encode(), END])
        return Sampled(
            ids=said,
            logprobs=array("f", [-1.0] * len(said)),
            stopped=FinishReason.END,
            versions=span(1, len(ids) + len(said)),
        )

    def branch(self, seed: int) -> Row:
        raise AssertionError("nobody branches")

    async def close(self) -> None:
        return


async def act(harness: Harness, engine: Engine, answers: Mapping[str, str]) -> Trajectory:
    specs = solo(ByteRenderer(Dialect.NATURAL)) if isinstance(harness, SoloHarness) else {}
    specs = specs or dict.fromkeys(harness.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))

    def answer(call: Call) -> str:
        box: Json = call.arguments.get("box")
        return answers.get(str(box), "ok")

    agents = {role: Agent(spec=spec, engine=engine) for role, spec in specs.items()}
    return await harness.run(TASK, FakeSession(answer), agents, AttemptId(group=0, slot=0), seed=1)


@pytest.mark.parametrize(("answers", "is_same"), [({}, True), ({"1": "no"}, False), ({"2": "no"}, False)])
async def test_a_fork_that_reads_something_else_before_its_first_turn_is_void(
    answers: dict[str, str], is_same: bool
) -> None:
    was = await act(SoloHarness(), Reciting(is_team=False), {})
    assert was.end is TerminationReason.SUBMITTED and len(was.turns) == 3
    forked = ForkedEngine(Reciting(is_team=False), was, {0: 2}, "main", seed=1)
    found = await act(SoloHarness(), forked, answers)
    assert found.fault is (None if is_same else Fault.ENV), found.detail


@pytest.mark.parametrize("reads_on", [True, False])
async def test_a_fork_in_which_a_spawned_agent_reads_something_else_is_void(reads_on: bool) -> None:
    was = await act(TEAM, Reciting(is_team=True), {})
    assert was.end is TerminationReason.SUBMITTED and len(was.segments) == 2, was.detail
    repeated = {0: 1, 1: 2}
    again = ForkedEngine(Reciting(is_team=True), was, repeated, "main", seed=1)
    assert (await act(TEAM, again, {})).fault is None
    forked = ForkedEngine(Reciting(is_team=True), was, repeated, "main", seed=1, reads_on=reads_on)
    found = await act(TEAM, forked, {"1": "no"})
    assert found.fault is Fault.ENV and "reads something else" in found.detail, found.detail


async def test_a_fork_without_an_agent_reads_something_else_by_design() -> None:
    was = await act(TEAM, Reciting(is_team=True), {})
    forked = ForkedEngine(Reciting(is_team=True), was, {0: 1}, "main", seed=1, reads_on=False)
    found = await act(TEAM.without("worker-0.0"), forked, {})
    assert (found.fault, found.end) == (None, TerminationReason.SUBMITTED), found.detail
    assert [segment.role for segment in found.segments] == ["root"] and "box" not in found.events[0].text


async def test_whether_an_attempt_is_forked_does_not_depend_on_how_it_ended() -> None:
    """A spawned agent may have said something that it could not act on any more."""
    was = await act(TEAM, Reciting(is_team=True), {})
    verdict = Verdict.scored(1.0, evidence="", grade_seed=0)
    unheard = replace(was, turns=(*was.turns, replace(was.turns[2], calls=())))
    points = [
        fork_points(
            [Group(id=0, task=TASK, attempts=(Attempt(trajectory=each, verdict=verdict),))], ratio=1, seed=0
        )
        for each in (was, unheard)
    ]
    assert [(point.turn, point.without) for point in points[0]] == [(3, ""), (1, "worker-0.0")]
    assert [(point.turn, point.event) for point in points[1]] == [
        (point.turn, point.event) for point in points[0]
    ]


async def test_a_turn_whose_thinking_a_budget_closed_is_drawn_afresh_whole() -> None:
    """Its thinking and its action are one decision: a fork keeps neither stretch of it."""
    thinking = Thinking(effort=Effort.HIGH, turn_tokens=4, attempt_tokens=50)
    verdict, num_broken = Verdict.scored(1.0, evidence="", grade_seed=0), 0
    for was in await thinking_attempts(4, thinking):
        group = Group(id=1, task=TASK, attempts=(Attempt(trajectory=was, verdict=verdict),))
        points = fork_points([group], ratio=0.3, seed=1)
        assert len(points) > 3
        for point in points:
            own = next(turn for turn in was.turns[point.turn :] if turn.calls)
            first = was.turns[point.turn]
            assert not first.continues and point.event == own.calls[0]
            num_broken += own is not first
        (again,) = await thinking_attempts(1, thinking, forks=(was, points[-1].turn))
        assert again.fault is None, again.detail
        tokens, stop = again.segments[0].tokens, was.turns[points[-1].turn].start
        assert tokens.ids[:stop] == was.segments[0].tokens.ids[:stop]
        assert tokens.kinds[:stop] == was.segments[0].tokens.kinds[:stop]
        assert tokens.ids != was.segments[0].tokens.ids
        assert [turn.calls for turn in again.turns[: points[-1].turn]] == [
            turn.calls for turn in was.turns[: points[-1].turn]
        ]
    assert num_broken > 10, "turns of several stretches are forked"
