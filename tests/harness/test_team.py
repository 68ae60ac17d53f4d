"""What a team is given, what it hands back, and how it ends."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from agito.errors import SandboxFailure, WorkerDied
from agito.harness import TeamHarness, load
from agito.harness.team import TeamRules, context_leaks
from agito.harness.team.leaks import Heard
from agito.protocols import Agent, AgentSpec, Harness, Row, Sampled, SampleRequest
from agito.rollout.deadline_log import DeadlineLog
from agito.rollout.guarded_session import GuardedSession
from agito.testing import ByteRenderer, FakeSession, HarnessContract
from agito.testing.fakes import TOOLS
from agito.testing.renderers import END
from agito.types import (
    AttemptId,
    Call,
    Dialect,
    Event,
    Fault,
    FinishReason,
    Json,
    Limits,
    Task,
    TerminationReason,
    Trajectory,
    span,
)

pytestmark = pytest.mark.anyio
ATTEMPT = AttemptId(group=3, slot=1)
ROOMY = Limits(turns=40, calls=60, tokens=4000, turn_tokens=400)
Turns = Sequence[str]


class TestTeam(HarnessContract):
    """Where nobody is spawned, a team keeps the contract of every harness."""

    async def make(self) -> Harness:
        return load("team", depth=2, notes=True)


def say(tool: str, **arguments: Json) -> str:
    return json.dumps({"tool": tool, "arguments": arguments})


def spawn(brief: str, *, budget: int = 4, role: str = "worker") -> str:
    return say("spawn", role=role, budget=budget, brief=brief)


class Programs:
    """An engine whose agents say what is written for the last word of their opening; `fails` raises."""

    context = 1 << 14

    def __init__(self, programs: Mapping[str, Turns], fails: Mapping[str, Exception] | None = None) -> None:
        self.programs, self.fails, self.num_open = programs, dict(fails or {}), 0
        self.seen: dict[str, list[str]] = {}  # what each agent read, by the last word of its opening
        self.order: list[str] = []  # of turns

    def open(self, seed: int) -> Row:
        self.num_open += 1
        return _Said(self)


class _Said:
    def __init__(self, engine: Programs) -> None:
        self._engine, self._name, self._at, self._is_open = engine, "", 0, True

    async def sample(self, request: SampleRequest) -> Sampled:
        text = bytes(token for token in request.extend if token < END).decode()
        self._name = self._name or text.split()[-1]
        self._engine.seen.setdefault(self._name, []).append(text)
        self._engine.order.append(self._name)
        if self._name in self._engine.fails:
            raise self._engine.fails[self._name]
        said = self._engine.programs[self._name]
        whole = [*said[min(self._at, len(said) - 1)].encode(), END]
        self._at += 1
        ids = array("i", whole[: request.max_tokens])
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END if len(ids) == len(whole) else FinishReason.LENGTH,
            versions=span(0, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise AssertionError("nobody branches")

    async def close(self) -> None:
        self._engine.num_open -= self._is_open
        self._is_open = False


TASK = Task(
    id="coin-0",
    env="coin",
    split="train",
    family="coin",
    level=1,
    prompt={Dialect.NATURAL: "find the coin root"},
    tools=TOOLS,
    limits=ROOMY,
)


async def play(
    engine: Programs,
    *,
    answer: Callable[[Call], str | Exception] = lambda call: f"in {call.arguments.get('box')}",
    rules: TeamRules | None = None,
    limits: Limits = ROOMY,
    worker: AgentSpec | None = None,
    harness: TeamHarness | None = None,
) -> tuple[Trajectory, tuple[str, ...]]:
    """The attempt, and what was read in it without a right to it."""
    rules = rules or TeamRules(roles=("root", "worker"))
    spec = AgentSpec(renderer=ByteRenderer(Dialect.NATURAL))
    specs = dict.fromkeys(rules.roles, spec) | {"worker": worker or spec}
    agents = {role: Agent(spec=each, engine=engine) for role, each in specs.items()}
    task = replace(TASK, limits=limits)
    session = Heard(GuardedSession(FakeSession(answer), limits, ATTEMPT, DeadlineLog()))
    trajectory = await (harness or TeamHarness(rules)).run(task, session, agents, ATTEMPT, seed=1)
    assert engine.num_open == 0
    assert [event.index for event in trajectory.events] == list(range(len(trajectory.events)))
    return trajectory, context_leaks(trajectory, specs, rules, session.events)


def texts(trajectory: Trajectory, tool: str) -> list[str]:
    return [event.text for event in trajectory.events if event.call.tool == tool]


async def test_the_return_of_a_spawn_is_what_its_children_report_in_the_order_of_their_briefs() -> None:
    engine = Programs(
        {
            "root": [spawn("look in a | look in b"), say("submit", box="b")],
            "a": [say("open", box="a"), say("open", box="a2"), say("report", text="nothing")],
            "b": [say("open", box="b"), say("report", text="the coin")],
        }
    )
    found, leaked = await play(engine)
    assert found.end is TerminationReason.SUBMITTED and not leaked
    assert texts(found, "spawn") == ["nothing | the coin"]
    assert [segment.agent for segment in found.segments] == ["root", "worker-0.0", "worker-0.1"]
    assert [segment.spawned_by for segment in found.segments] == [None, 0, 0]
    assert [segment.role for segment in found.segments] == ["root", "worker", "worker"]
    assert "in a" not in "".join(engine.seen["root"]) and "root" not in "".join(engine.seen["a"])
    assert engine.seen["a"][0] == "worker: look in a"


async def test_children_work_side_by_side_and_act_in_order_round_by_round() -> None:
    looks = [say("open", box=str(at)) for at in range(3)]
    engine = Programs(
        {
            "root": [spawn("a | b | c"), say("submit", box="b")],
            **{name: [*looks[: 2 + at], say("report", text=name)] for at, name in enumerate("abc")},
        }
    )
    found, leaked = await play(engine)
    assert engine.order == ["root", *"abc", *"abc", *"abc", *"bc", "root"] and not leaked
    opened = [event.call.arguments["box"] for event in found.events if event.call.tool == "open"]
    assert opened == ["0", "0", "0", "1", "1", "1", "2", "2"]


async def test_the_critical_path_counts_the_longest_of_those_that_work_side_by_side() -> None:
    short, long = [say("report", text="a")], [say("open", box="1"), say("report", text="b")]
    ends = [spawn("a | b"), say("submit", box="b")]
    found, _ = await play(Programs({"root": ends, "a": short, "b": long}))
    num = {text: len(text.encode()) + 1 for text in (*ends, *short, *long)}
    assert found.num_critical == sum(num[text] for text in (*ends, *long))
    assert found.num_sampled == found.num_critical + num[short[0]]


async def test_calls_to_spawn_in_one_turn_work_side_by_side_too() -> None:
    one = [say("open", box="1"), say("report", text="done")]
    engine = Programs({"root": [f"{spawn('a')}\n{spawn('b')}", say("submit", box="b")], "a": one, "b": one})
    found, leaked = await play(engine)
    assert engine.order == ["root", "a", "b", "a", "b", "root"] and not leaked
    assert texts(found, "spawn") == ["done", "done"]
    assert found.turns[0].calls == (0, 1)


async def test_a_budget_passes_down_and_what_is_left_returns() -> None:
    engine = Programs(
        {
            "root": [spawn("a | b", budget=3), say("submit", box="b")],
            "a": [say("report", text="at once")],
            "b": [say("open", box="b")],  # for ever
        }
    )
    found, leaked = await play(engine, limits=replace(ROOMY, turns=10))
    left = {event.call.tool: event.left for event in found.events if event.left}
    assert texts(found, "spawn") == ["at once | (out of turns)"] and not leaked
    assert [event.fault for event in found.events if event.call.tool == "spawn"] == [Fault.BUDGET]
    assert engine.order.count("b") == 3
    spawned, submitted = left["spawn"], left["submit"]
    assert spawned is not None and spawned.turns == 10 - 1 - 1 - 3  # its own turn, one of a's, three of b's
    assert submitted is not None and submitted.turns == spawned.turns - 1


async def test_a_team_spends_no_more_turns_and_calls_than_one_agent_may() -> None:
    engine = Programs(
        {"root": [spawn("a | b", budget=50)], "a": [say("open", box="1")], "b": [spawn("a", budget=9)]}
    )
    for limits in (replace(ROOMY, turns=7), replace(ROOMY, calls=7)):
        engine.order.clear()
        found, leaked = await play(engine, limits=limits, rules=TeamRules(roles=("root", "worker"), depth=3))
        assert len(engine.order) <= limits.turns and len(found.events) <= limits.calls and not leaked
        assert found.end in (TerminationReason.TURNS, TerminationReason.CALLS) and found.fault is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (spawn("a", role="cook"), "the roles are worker"),
        (spawn("a", budget=0), "number of turns"),
        (say("spawn", role="worker", budget="many", brief="a"), "number of turns"),
        (say("spawn", role="worker", budget=2, brief=7), "needs a brief"),
        (spawn(" | a"), "needs a brief"),
        (spawn(" | ".join("abcdef")), "at most 4 agents"),
        ("\n".join([spawn("a | b | c")] * 2), "at most 4 agents"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_goes_back_to_the_policy(call: str, said: str) -> None:
    report = [say("report", text="done")]
    engine = Programs({"root": [call, say("submit", box="b")], "a": report, "b": report, "c": report})
    found, leaked = await play(engine, rules=TeamRules(roles=("root", "worker"), breadth=4))
    assert found.end is TerminationReason.SUBMITTED and found.fault is None and not leaked
    refused = [event for event in found.events if event.call.tool == "spawn"][-1]
    assert said in refused.text and refused.fault is Fault.POLICY


async def test_a_child_whose_opening_does_not_fit_is_an_event_for_its_parent() -> None:
    engine = Programs({"root": [spawn("a"), say("submit", box="b")]})
    worker = AgentSpec(renderer=ByteRenderer(Dialect.NATURAL), instructions="y" * 5000)
    found, leaked = await play(engine, worker=worker)
    assert found.end is TerminationReason.SUBMITTED and not leaked
    assert texts(found, "spawn") == ["(its brief is too long)"] and len(found.segments) == 1


async def test_children_spawn_down_to_the_declared_depth_and_no_further() -> None:
    deeper = {
        "root": [spawn("a"), say("submit", box="b")],
        "a": [spawn("b", budget=2), say("report", text="a")],
        "b": [spawn("c", budget=1), say("report", text="b")],
    }
    found, leaked = await play(Programs(deeper), rules=TeamRules(roles=("root", "worker"), depth=2))
    assert texts(found, "spawn") == ["a", "b", "error: no such tool"] and not leaked
    assert [segment.agent for segment in found.segments] == ["root", "worker-0.0", "worker-1.0"]


@pytest.mark.parametrize("broken", ["engine", "reading"])
async def test_a_child_that_crashes_is_an_event_for_its_parent(broken: str) -> None:
    class Unreadable(ByteRenderer):
        def observation(self, events: Sequence[Event]) -> array[int]:
            raise RuntimeError("secret of the child")

    programs = {
        "root": [spawn("a | b"), say("submit", box="b")],
        "a": [say("open", box="a")],
        "b": [say("report", text="the coin")],
    }
    engine = Programs(programs, {"a": ValueError("secret of the child")} if broken == "engine" else {})
    worker = AgentSpec(renderer=Unreadable(Dialect.NATURAL)) if broken == "reading" else None
    found, leaked = await play(engine, worker=worker)
    assert found.end is TerminationReason.SUBMITTED and found.fault is None and not leaked
    assert texts(found, "spawn") == ["(it failed) | the coin"]
    assert "secret" not in "".join(engine.seen["root"])


async def test_a_world_or_an_engine_that_breaks_under_a_child_ends_the_attempt() -> None:
    programs = {
        "root": [spawn("a | b"), say("submit", box="b")],
        "a": [say("open", box="a")],
        "b": [say("open", box="b"), say("report", text="the coin")],
    }
    found, leaked = await play(Programs(programs), answer=lambda call: SandboxFailure("the box is silent"))
    assert found.events[-1].ended and found.events[-1].fault is Fault.INFRA and not leaked
    assert len(found.events) == 2, "nobody acts after the end"
    with pytest.raises(WorkerDied):
        await play(Programs(programs, {"a": WorkerDied("gone")}))


async def test_notes_are_read_by_whoever_wrote_them_and_by_nobody_else() -> None:
    engine = Programs(
        {
            "root": [say("note", text="mine"), spawn("a | b"), say("notes"), say("submit", box="b")],
            "a": [say("note", text="of a"), say("notes"), say("report", text="done")],
            "b": [say("open", box="1"), say("notes"), say("report", text="done")],
        }
    )
    found, leaked = await play(engine, rules=TeamRules(roles=("root", "worker"), has_notes=True))
    assert texts(found, "notes") == ["of a", "no notes", "mine"] and not leaked


async def test_a_role_has_its_own_tools_turns_and_instructions() -> None:
    engine = Programs(
        {
            "root": [spawn("a", budget=9), say("submit", box="b")],
            "a": [say("submit", box="a"), say("open", box="a")],
        }
    )
    worker = AgentSpec(
        renderer=ByteRenderer(Dialect.NATURAL), tools=("open",), turns=2, instructions="You look into"
    )
    found, leaked = await play(engine, worker=worker)
    assert engine.seen["a"][0] == "You look into a" and not leaked
    assert [event.fault for event in found.events if event.call.tool == "submit"] == [Fault.POLICY, None]
    assert texts(found, "spawn") == ["(out of turns)"] and found.events[0].left is not None
    assert found.events[0].left.turns == ROOMY.turns - 1 - 2, "a role's own limit gives the rest back"


async def test_a_task_with_a_tool_of_the_teams_name_does_not_fit_a_team() -> None:
    harness = TeamHarness(TeamRules(roles=("root", "worker")))
    task = replace(TASK, tools=(*TOOLS, replace(TOOLS[0], name="spawn")))
    agent = Agent(spec=AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)), engine=Programs({}))
    found = await harness.run(task, FakeSession(), dict.fromkeys(harness.roles, agent), ATTEMPT, seed=0)
    assert found.fault is Fault.TASK and "'spawn'" in found.detail
