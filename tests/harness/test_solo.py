"""What the solo harness allows, refuses and hands back."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agito.harness import SOLO, SoloHarness, session_of
from agito.protocols import Agent, AgentSpec, Sampled, SampleRequest
from agito.testing import ByteRenderer, FakeEnvironment, FakeSession
from agito.testing.renderers import END
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Fault,
    FinishReason,
    Limits,
    Task,
    TerminationReason,
    TokenSource,
    ToolSpec,
    Trajectory,
    span,
)

pytestmark = pytest.mark.anyio
TASK, _ = FakeEnvironment().task(split="train", index=0, seed=0)


class Saying:
    """An engine, and its one row, that says these texts in turn, each with its end of turn, cut to the
    budget.
    """

    context = 1 << 12

    def __init__(self, *texts: str) -> None:
        self.texts, self.requests = list(texts), list[SampleRequest]()

    def open(self, seed: int) -> Saying:
        return self

    def branch(self, seed: int) -> Saying:
        raise AssertionError("a solo agent does not branch")

    async def sample(self, request: SampleRequest) -> Sampled:
        self.requests.append(request)
        whole = [*(self.texts.pop(0) if self.texts else "open 1").encode(), END]
        ids = array("i", whole[: request.max_tokens])
        stopped = FinishReason.END if ids[-1] == END else FinishReason.LENGTH
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=stopped,
            versions=span(3, len(request.extend) + len(ids)),
        )

    async def close(self) -> None:
        return


async def run(
    engine: Saying, session: FakeSession | None = None, renderer: ByteRenderer | None = None, **limits: float
) -> Trajectory:
    task: Task = replace(
        TASK, limits=replace(Limits(turns=9, calls=9, tokens=1 << 12, turn_tokens=40), **limits)
    )
    agents = {SOLO: Agent(spec=AgentSpec(renderer=renderer or ByteRenderer()), engine=engine)}
    return await SoloHarness().run(task, session or FakeSession(), agents, AttemptId(group=1, slot=0), seed=5)


async def test_it_ends_when_it_submits() -> None:
    found = await run(Saying("open 1", "submit 2", "open 3"))
    assert (found.end, found.fault, len(found.turns)) == (TerminationReason.SUBMITTED, None, 2)
    assert [event.call.arguments for event in found.events] == [{"box": "1"}, {"box": "2"}]


@pytest.mark.parametrize(
    ("limit", "end"), [("turns", TerminationReason.TURNS), ("calls", TerminationReason.CALLS)]
)
async def test_turns_and_calls_are_limited_and_what_is_left_is_said(
    limit: str, end: TerminationReason
) -> None:
    session = FakeSession()
    found = await run(Saying(), session, None, **{limit: 3})
    assert found.end is end
    assert len(found.events) == len(found.turns) == 3
    assert [getattr(left, limit) for _, left in session.asked] == [2, 1, 0]


async def test_the_whole_context_is_limited_and_the_last_turn_gets_what_is_left() -> None:
    found = await run(Saying(), tokens=60)
    assert found.end is TerminationReason.TOKENS
    assert len(found.segments[0].tokens) <= 60
    assert sum(turn.hard_budget < 40 for turn in found.turns) >= 1


async def test_a_turn_is_cut_at_its_budget_and_handed_back_with_a_forced_stop_token() -> None:
    engine = Saying("open " + "9" * 80, "submit 1")
    found = await run(engine, turn_tokens=10)
    first, second = found.turns
    tokens = found.segments[0].tokens
    assert (first.stopped, first.stop - first.start, first.hard_budget) == (FinishReason.LENGTH, 10, 10)
    assert found.events[0].fault is Fault.POLICY
    assert found.events[0].call.problem == "the turn was cut off"
    assert (tokens.ids[first.stop], tokens.kinds[first.stop]) == (END, TokenSource.FORCED)
    assert math.isnan(tokens.logprobs[first.stop])
    assert not tokens.is_sampled[first.stop]
    assert engine.requests[1].extend[0] == END
    assert second.stopped is FinishReason.END and tokens.kinds[second.stop - 1] == TokenSource.CONTROL


async def test_a_call_that_cannot_be_parsed_is_handed_back_and_counts() -> None:
    found = await run(Saying("dance", "submit 1"))
    assert [event.fault for event in found.events] == [Fault.POLICY, None]
    assert found.events[0].call.raw == "dance"
    assert found.end is TerminationReason.SUBMITTED


async def test_only_as_many_calls_of_a_turn_are_made_as_are_left() -> None:
    session = FakeSession()
    found = await run(Saying("open 1\nopen 2\nopen 3"), session, calls=2)
    assert [len(calls) for calls, _ in session.asked] == [2]
    assert found.end is TerminationReason.CALLS
    assert found.turns[0].calls == (0, 1)


async def test_an_opening_that_leaves_no_room_is_the_tasks_fault_with_both_numbers() -> None:
    found = await run(Saying(), tokens=5)
    assert (found.end, found.fault, found.turns) == (TerminationReason.FAILED, Fault.TASK, ())
    assert "the limit of the whole context is 5" in found.detail


async def test_a_renderer_that_raises_on_what_was_sampled_makes_it_a_call_with_a_problem() -> None:
    class Choking(ByteRenderer):
        def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
            if "[" in self.text(ids):
                raise RecursionError("too deep")
            return super().parse(ids, tools)

    found = await run(Saying("[[[", "submit 1"), renderer=Choking())
    assert (found.events[0].fault, found.events[0].call.problem) == (
        Fault.POLICY,
        "this cannot be read (RecursionError)",
    )
    assert found.end is TerminationReason.SUBMITTED


async def test_a_world_that_raises_is_a_fault_of_the_environment_on_record() -> None:
    found = await run(Saying("open 1"), FakeSession(lambda call: ZeroDivisionError("oops")))
    assert (found.end, found.fault, found.detail) == (
        TerminationReason.FAILED,
        Fault.ENV,
        "ZeroDivisionError: oops",
    )
    assert found.segments[0].tokens.is_sampled.count(True) == len("open 1") + 1


async def test_every_sampled_token_has_a_channel_and_the_version_that_sampled_it() -> None:
    found = await run(Saying("open 1", "submit 1"))
    tokens = found.segments[0].tokens
    assert len(tokens.channels) == len(tokens)
    assert {tokens.version_at(at) for at in range(len(tokens))} == {3}
    assert [Call(tool="open", arguments={"box": "1"}, raw="open 1")] == [found.events[0].call]


async def test_a_role_that_was_granted_some_tools_sees_and_reaches_no_others() -> None:
    engine, session = Saying("open 1", "submit x"), FakeSession()
    spec = AgentSpec(renderer=ByteRenderer(), tools=("submit",))
    agents, attempt = {SOLO: Agent(spec=spec, engine=engine)}, AttemptId(group=0, slot=0)
    found = await SoloHarness().run(TASK, session, agents, attempt, seed=0)
    granted = tuple(tool for tool in TASK.tools if tool.name == "submit")
    assert session_of(spec, session).tools == granted
    assert engine.requests[0].extend == ByteRenderer().opening(replace(TASK, tools=granted))
    first, second = found.events
    assert first.fault is Fault.POLICY and second.ended and found.end is TerminationReason.SUBMITTED
    by_another_way = session_of(spec, asked := FakeSession())
    (event,) = await by_another_way.act([Call(tool="open", arguments={})], Budget(turns=1, calls=1, tokens=1))
    assert event.fault is Fault.POLICY and "the tools are submit" in event.text
    assert asked.asked[0][0][0].problem, "the world must not carry it out"
