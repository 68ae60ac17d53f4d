"""What a policy can say or do in a team must not make its attempt void."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.harness.test_team import ATTEMPT, ROOMY, TASK, FakeSession, Programs, play, say, spawn

from agito.errors import Uncapturable
from agito.harness.team import Heard, TeamHarness, TeamRules, context_leaks, of_world
from agito.protocols import Agent, AgentSpec, ForkedSession
from agito.render.tool_formats.hermes import read_call
from agito.rollout.deadline_log import DeadlineLog
from agito.rollout.guarded_session import GuardedSession
from agito.testing.renderers import ByteRenderer
from agito.types import Call, Dialect, Fault, Limits, TerminationReason, ToolSpec

pytestmark = pytest.mark.anyio


class _TooDeep(FakeSession):
    can_fork = True

    async def fork(self) -> ForkedSession:
        raise Uncapturable("the workspace is deeper than 64 directories")


@pytest.mark.parametrize("limit", [ROOMY.observation_bytes, 24])
async def test_a_world_that_cannot_be_copied_is_a_refusal_and_no_leak(limit: int) -> None:
    limits: Limits = replace(ROOMY, observation_bytes=limit)
    rules = TeamRules(roles=("root", "worker"), forked=("worker",))
    specs = dict.fromkeys(rules.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))
    engine = Programs({"root": [spawn("do x"), say("submit", box="1")], "x": [say("report", text="hi")]})
    agents = {role: Agent(spec=spec, engine=engine) for role, spec in specs.items()}
    session = Heard(GuardedSession(_TooDeep(lambda call: "ok"), limits, ATTEMPT, DeadlineLog()))
    task = replace(TASK, limits=limits)
    found = await TeamHarness(rules).run(task, session, agents, ATTEMPT, seed=1)
    assert found.end is TerminationReason.SUBMITTED and found.events[0].fault is Fault.POLICY
    assert context_leaks(found, specs, rules, session.events) == ()


async def test_a_malformed_note_is_the_worlds_to_answer_and_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    malformed = '{"name": "note", "arguments": [1]}'
    read = ByteRenderer.parse

    def parse(self: ByteRenderer, ids: list[int], tools: list[ToolSpec]) -> tuple[Call, ...]:
        said = bytes(token for token in ids if token < 256).decode()
        if '"arguments": [1]' in said:
            one = read_call(malformed)
            assert one is not None
            return (one,)
        return read(self, ids, tools)

    monkeypatch.setattr(ByteRenderer, "parse", parse)
    lines = [say("note", text="mine"), malformed, say("notes"), say("submit", box="1")]
    found, leaks = await play(
        Programs({"root": lines}), rules=TeamRules(roles=("root", "worker"), has_notes=True)
    )
    assert found.events[1].call.problem and found.events[2].text == "mine" and leaks == ()
    assert [event.call.tool for event in of_world(found)] == ["note", "submit"]


async def test_an_agent_that_is_left_out_reads_as_one_that_failed() -> None:
    def engine(**more: dict[str, Exception]) -> Programs:
        lines = {"root": [spawn("do x"), say("submit", box="1")], "x": [say("report", text="hi")]}
        return Programs(lines, **more)

    rules = TeamRules(roles=("root", "worker"))
    absent, _ = await play(engine(), harness=TeamHarness(rules).without("worker-0.0"))
    failed, _ = await play(engine(fails={"x": RuntimeError("no")}))
    one, other = absent.events[0], failed.events[0]
    assert (one.text, one.fault) == (other.text, other.fault) == ("(it failed)", Fault.TOOL)
