"""Agents of a team on forks of their parent's world, in real sandboxes."""

from __future__ import annotations

import random
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from tests.harness.test_team import ATTEMPT, Programs, play, say, spawn, texts

from agito.errors import BadRecipe, SandboxExhausted, SandboxFailure
from agito.grading.candidate_box import BOX
from agito.harness import TeamHarness
from agito.harness.team import TeamRules
from agito.harness.team.openings import own
from agito.protocols import AgentSpec, Control, Row, Sampled, SampleRequest
from agito.recipe import read
from agito.render import learn, renderer
from agito.rollout import AttemptRunner, ForkRunner, Plan, fork_points
from agito.runtime.run_context import open_run_context
from agito.testing import ByteRenderer, FakeEnvironment
from agito.testing.renderers import END as END_OF_TURN
from agito.types import (
    Attempt,
    AttemptId,
    Call,
    Dialect,
    EpisodeArtifacts,
    Fault,
    FinishReason,
    Group,
    Limits,
    Target,
    Task,
    TokenSource,
    Verdict,
    span,
)
from agito.worlds.component import Answer
from agito.worlds.sandbox import Pool
from agito.worlds.workspace import SH, LiveWorkspace, Workspace
from agito.worlds.world import SUBMIT, World

pytestmark = pytest.mark.anyio
RULES = TeamRules(roles=("root", "worker", "reader"), depth=2, forked=("worker",))
LIMITS = Limits(turns=60, calls=90, tokens=1 << 14, turn_tokens=400, observation_bytes=2000, call_seconds=5)


@dataclass
class Files(FakeEnvironment):
    """A workspace; the sealed files are the evidence, and success is a file `won`."""

    pool: Pool
    component: type[LiveWorkspace] = LiveWorkspace
    opened: list[World] = field(default_factory=list[World])

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        task, target = super().task(split=split, index=index, seed=seed, family=family, level=level)
        prompt = {Dialect.NATURAL: "find the coin root"}
        return replace(task, prompt=prompt, tools=(SH, SUBMIT), limits=LIMITS), target

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        workspace = Workspace(spec=BOX, tree={"a": b"1\n", "b": b"2\n"})
        world = World(task, [self.component(workspace, self.pool)], attempt, noise_seed=noise_seed)
        self.opened.append(world)
        return world

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        shown = " ".join(f"{path}={data.decode().strip()}" for path, data in sorted(sealed.files.items()))
        return Verdict.scored(float("won" in sealed.files), evidence=shown, grade_seed=grade_seed)


@pytest.fixture
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


def sh(command: str) -> str:
    return say("sh", command=command)


def merge(child: int, **arguments: bool) -> str:
    return say("merge", child=child, **arguments)


DONE, END = say("report", text="done"), say("submit", answer="x")


class Remembering(Programs):
    """Knows where it is from all that it reads, so that it can go on where an attempt was forked."""

    def open(self, seed: int) -> Row:
        self.num_open += 1
        return _Remembers(self)

    def said(self, name: str, turn: int) -> str:
        return self.programs[name][min(turn, len(self.programs[name]) - 1)]


class _Remembers:
    def __init__(self, engine: Remembering) -> None:
        self._engine, self._ids = engine, array("i")

    async def sample(self, request: SampleRequest) -> Sampled:
        self._ids.extend(request.extend)
        text = bytes(token for token in self._ids if token < END_OF_TURN).decode()
        said = self._engine.said(text.split('{"tool"')[0].split()[-1], self._ids.count(END_OF_TURN))
        ids = array("i", [*said.encode(), END_OF_TURN])
        self._ids.extend(ids)
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END,
            versions=span(0, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise AssertionError("nobody branches")

    async def close(self) -> None:
        return


async def run(
    environment: Files, programs: Mapping[str, Sequence[str]], harness: TeamHarness | None = None
) -> Attempt:
    harness = harness or TeamHarness(RULES)
    specs = dict.fromkeys(harness.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))
    both = environment.task(split="train", index=0, seed=0)
    runner = AttemptRunner(environment, harness, specs, seed=0)
    return await runner.run(Plan(task=lambda _: both), ATTEMPT, {"main": Programs(programs)})


def texts_of(attempt: Attempt, tool: str) -> list[str]:
    return texts(attempt.trajectory, tool)


async def test_what_a_child_does_on_its_fork_is_seen_once_its_parent_merges_it_and_not_before(
    pool: Pool,
) -> None:
    work = [sh("echo x > won; rm b; cat a"), DONE]
    look = sh("ls; cat a")
    taken = await run(Files(pool), {"root": [spawn("do it"), look, merge(1), look, END], "it": work})
    assert texts_of(taken, "sh") == ["1\n", "a\nb\n1\n", "a\nwon\n1\n"]
    assert (texts_of(taken, "merge"), taken.verdict.evidence) == (["merged"], "a=1 won=x")
    left = await run(Files(pool), {"root": [spawn("do it"), look, END], "it": work})
    assert (left.verdict.reward, left.verdict.evidence) == (0.0, "a=1 b=2")
    assert not pool._live, "every fork went with its attempt"


async def test_siblings_do_not_see_one_another_and_of_two_that_changed_the_same_one_is_merged(
    pool: Pool,
) -> None:
    found = await run(
        Files(pool),
        {
            "root": [spawn("do one | do two"), merge(2), merge(1), merge(1, overwrite=True), END],
            "one": [sh("cat a; echo one > a; echo 1 > of1"), sh("ls"), DONE],
            "two": [sh("cat a; echo two > a"), sh("ls"), DONE],
        },
    )
    assert texts_of(found, "sh") == ["1\n", "1\n", "a\nb\nof1\n", "a\nb\n"]
    assert texts_of(found, "merge") == ["merged", "conflict: a", "merged"]
    events = [event for event in found.trajectory.events if event.call.tool == "merge"]
    assert [event.fault for event in events] == [None, Fault.TOOL, None]
    assert found.verdict.evidence == "a=one b=2 of1=1"


async def test_a_grandchild_forks_the_fork_of_its_parent_and_a_role_without_forks_shares_it(
    pool: Pool,
) -> None:
    found = await run(
        Files(pool),
        {
            "root": [spawn("do it", budget=9), sh("ls"), merge(1), sh("ls"), END],
            "it": [sh("touch its"), spawn("do deep"), spawn("see", role="reader"), merge(1), sh("ls"), DONE],
            "deep": [sh("ls; touch deeper"), DONE],
            "see": [sh("ls"), DONE],
        },
    )
    its = "a\nb\nits\n"
    assert texts_of(found, "sh") == ["", its, its, "a\nb\ndeeper\nits\n", "a\nb\n", "a\nb\ndeeper\nits\n"]


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([merge(1)], "there are 0 children"),
        ([spawn("do it"), merge(2)], "there are 1 children"),
        ([spawn("do it"), say("merge", child="one")], "there are 1 children"),
        ([spawn("do it"), merge(1), merge(1)], "child 1 has been merged"),
        ([spawn("do it", role="reader"), merge(1)], "child 1 has no copy"),
        ([spawn("do it"), *[spawn("do it | do it")] * 4, merge(1)], "child 1 has no copy"),
    ],
)
async def test_a_merge_that_cannot_be_carried_out_goes_back_to_the_policy(
    pool: Pool, turns: list[str], said: str
) -> None:
    found = await run(Files(pool), {"root": [*turns, END], "it": [sh("echo x >> a"), DONE]})
    assert found.is_scored, found.trajectory.detail
    last = [event for event in found.trajectory.events if event.call.tool == "merge"][-1]
    assert said in last.text and last.fault is Fault.POLICY


async def test_a_child_that_failed_can_be_merged_all_the_same(pool: Pool) -> None:
    programs = {"root": [spawn("do it", budget=2), merge(1), END], "it": [sh("echo x > won")]}
    found = await run(Files(pool), programs)
    assert texts_of(found, "spawn") == ["(out of turns)"] and found.verdict.reward == 1.0


async def test_of_a_child_that_is_left_out_nothing_can_be_merged(pool: Pool) -> None:
    programs = {"root": [spawn("do it | do it"), merge(1), merge(2), END], "it": [sh("echo x > $$"), DONE]}
    harness = TeamHarness(RULES).without("worker-0.1")
    found = await run(Files(pool), programs, harness)
    assert texts_of(found, "spawn") == ["done | (it failed)"]
    assert texts_of(found, "merge") == ["merged", "nothing to merge"]
    assert len(found.verdict.evidence.split()) == 3


async def test_an_attempt_with_forks_and_merges_is_repeated_to_the_same_state_and_forked_itself(
    pool: Pool,
) -> None:
    programs = {
        "root": [spawn("do one | do two"), merge(1), merge(2), sh("cat *"), END],
        "one": [sh("echo one > one"), DONE],
        "two": [sh("echo two > one"), DONE],
    }
    environment, harness = Files(pool), TeamHarness(RULES)
    own_attempt = await run(environment, programs)
    assert texts_of(own_attempt, "merge") == ["merged", "conflict: one"]
    group = Group(id=ATTEMPT.group, task=own_attempt.trajectory.task, attempts=(own_attempt,))
    points = fork_points([group], ratio=1.0, seed=0)
    specs = dict.fromkeys(harness.roles, AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)))
    both = environment.task(split="train", index=0, seed=0)
    forks = ForkRunner(harness, points, lambda each: AttemptRunner(environment, each, specs, seed=0))
    for number, point in enumerate(points):
        engines = {"main": Remembering(programs)}
        fork = await forks.run(Plan(task=lambda _: both), AttemptId(group=number, slot=0), engines)
        assert fork.is_scored, (point.turn, point.without, fork.trajectory.detail)
        if not point.without:
            assert fork.verdict.evidence == own_attempt.verdict.evidence
    assert {point.without for point in points} == {"", "worker-0.0", "worker-0.1"} and len(points) == 6


async def test_the_compact_dialect_says_whom_to_merge_and_whether_to_overwrite() -> None:
    tools = (SH, *own(RULES, 0))
    compact = renderer(Dialect.COMPACT, learn(["merge true 1 2 sh ls"] * 20, size=400))
    for arguments in ({"child": 2}, {"child": 1, "overwrite": True}):
        said = compact.action([Call(tool="merge", arguments=arguments)], tools)
        assert compact.parse(said, tools)[0].arguments == arguments
    assert "merge" not in {tool.name for tool in own(replace(RULES, forked=()), 0)}
    assert "merge" not in {tool.name for tool in own(RULES, 2)}, "it has no children"


async def test_where_a_world_cannot_be_forked_the_team_is_refused_with_the_reason() -> None:
    attempt, _ = await play(Programs({}), rules=RULES)
    assert attempt.fault is Fault.TASK and "'worker' need a fork of a world that has none" in attempt.detail
    fork = 'agents.worker.world="fork"'
    with pytest.raises(BadRecipe, match=r"a world of decisions cannot be merged; only one that"):
        async with open_run_context(read("team-fanout", (fork,))):
            pass
    async with open_run_context(read("team-fanout", (fork, "env.name=code"))) as run_context:
        assert isinstance(run_context.harness, TeamHarness)
        assert run_context.harness.rules.forked == ("worker",)
    for recipe, role in (("team-fanout", "orchestrator"), ("quickstart", "solo"), ("team-fanout", "cook")):
        with pytest.raises(BadRecipe, match="only agents that a team spawns have a parent"):
            read(recipe, (f'agents.{role}.world="fork"',))


class Dying(LiveWorkspace):
    """Fails at the command `die`, so many times in all."""

    left = 99
    failure: Exception = SandboxFailure("the box is silent")

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        if call.arguments.get("command") == "die" and self.left:
            type(self).left -= 1
            raise self.failure
        return await super().call(call, timeout_s=timeout_s)

    async def branch(self) -> LiveWorkspace:
        twin = await super().branch()
        twin.__class__ = type(self)
        return twin


@pytest.mark.parametrize(("times", "is_void"), [(99, False), (1, True)])
async def test_to_bring_down_a_fork_is_no_way_out_and_what_the_machine_brings_down_is_void(
    pool: Pool, times: int, is_void: bool
) -> None:
    """The steps are taken again in fresh worlds, forks included."""

    class Dies(Dying):
        left = times

    environment = Files(pool, component=Dies)
    programs = {"root": [spawn("do it"), merge(1), END], "it": [sh("echo x > won"), sh("die"), DONE]}
    found = await run(environment, programs)
    assert found.is_scored != is_void, found.trajectory.detail
    assert found.trajectory.fault is (Fault.INFRA if is_void else Fault.BUDGET)
    assert len(environment.opened) == (2 if is_void else 3), "the attempt, its repetition, a solution"
    assert is_void or found.verdict.reward == 0.0


async def test_where_a_fork_used_up_what_it_had_the_world_itself_is_judged_as_it_stands(pool: Pool) -> None:
    class Exhausting(Dying):
        failure = SandboxExhausted("no memory is left")

    found = await run(
        Files(pool, component=Exhausting),
        {"root": [sh("echo x > won"), spawn("do it"), END], "it": [sh("rm won"), sh("die"), DONE]},
    )
    assert found.is_scored and found.trajectory.fault is Fault.BUDGET
    assert found.verdict.evidence == "a=1 b=2 won=x"


@dataclass
class Canaries:
    """A random team on forks. Agents write canaries into files, look at everything, and merge some."""

    rng: random.Random
    programs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    may_read: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    num: int = 0

    def agent(self, name: str, depth: int, seen: set[str]) -> set[str]:
        """`seen`: what is in its world when it begins. Returns what is in it at the end."""
        world, turns, waiting = {*seen}, self.programs.setdefault(name, []), list[set[str]]()
        drawn = [self.rng.choice(["write", "spawn", "merge", "merge"]) for _ in range(self.rng.randint(2, 5))]
        for what in ("write", "spawn", *drawn) if depth == 0 else drawn:
            if what == "write":
                self.num += 1
                world.add(f"canary{self.num:04d}x")
                turns.append(sh(f"mkdir -p d{self.num}; echo canary{self.num:04d}x > d{self.num}/f"))
            elif what == "spawn" and depth < RULES.depth:
                children = [f"{name}-{self.num}-{at}" for at in range(self.rng.randint(1, 2))]
                turns.append(spawn(" | ".join(f"as {child}" for child in children), budget=12))
                waiting += [self.agent(child, depth + 1, world) for child in children]
            elif what == "merge" and waiting and depth < RULES.depth:
                child = self.rng.randrange(len(waiting))
                turns.append(merge(child + 1))
                world |= waiting[child]
            turns.append(sh("cat */f; ls"))
        self.may_read[name] = world
        turns.append(END if depth == 0 else DONE)
        return world


async def crossings(environment: Files, harness: TeamHarness, seed: int) -> tuple[int, int]:
    """Canaries read by agents in whose world they should not be, and merges."""
    team, crossed = Canaries(random.Random(seed)), 0
    team.agent("root", 0, set())
    found = await run(environment, team.programs, harness)
    assert found.is_scored, found.trajectory.detail  # the meter voids what leaked
    for segment in found.trajectory.segments:
        kinds = segment.tokens.kinds
        observed = (
            token if kinds[at] == TokenSource.OBSERVED and token < 256 else 32
            for at, token in enumerate(segment.tokens.ids)
        )
        words = bytes(observed).decode("utf-8", "replace").split()
        seen = {word for word in words if word.startswith("canary")}
        crossed += len(seen - team.may_read[name_of(found, segment.spawned_by, segment.agent)])
    return crossed, texts_of(found, "merge").count("merged")


async def test_no_canary_crosses_a_fork_unless_it_is_merged_and_the_meter_stays_at_nought(pool: Pool) -> None:
    found = [await crossings(Files(pool), TeamHarness(RULES), seed) for seed in range(20)]
    assert sum(crossed for crossed, _ in found) == 0 and sum(merged for _, merged in found) >= 10


async def test_the_canaries_are_seen_where_agents_share_a_world(pool: Pool) -> None:
    harness = TeamHarness(replace(RULES, forked=()))
    assert sum([(await crossings(Files(pool), harness, seed))[0] for seed in range(3)]) > 5


def name_of(found: Attempt, spawned_by: int | None, agent: str) -> str:
    if spawned_by is None:
        return "root"
    briefs = str(found.trajectory.events[spawned_by].call.arguments["brief"]).split(" | ")
    return briefs[int(agent.rpartition(".")[2])].split()[-1]
