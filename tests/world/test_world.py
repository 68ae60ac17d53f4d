"""A world of components: faults, snapshots, end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from agito.errors import InvalidArguments
from agito.protocols import Control, Environment, Renderer, Script, ScriptFactory
from agito.render import learn, renderer
from agito.testing.environment import EnvironmentContract
from agito.types import (
    AttemptId,
    Budget,
    Call,
    Dialect,
    EpisodeArtifacts,
    Fault,
    Limits,
    Status,
    Target,
    Task,
    Verdict,
)
from agito.worlds.component import Answer, FaultProfile, Machine, spec, text_of
from agito.worlds.world import SUBMIT, World

LEFT = Budget(turns=9, calls=9, tokens=99)
SET = spec("set", "Puts a value under a name.", {"name": "string", "value": "integer"})
GET = spec("get", "Reads the value under a name.", ["name"])


@dataclass
class Shelf:
    values: dict[str, int] = field(default_factory=dict[str, int])
    num_sets: int = 0


class ShelfMachine(Machine):
    name, tools = "shelf", (SET, GET)
    state: Shelf

    def step(self, call: Call) -> Answer:
        name = text_of(call, "name")
        if call.tool == "get":
            return Answer(text=str(self.state.values.get(name, "none")))
        value = call.arguments.get("value")
        if not isinstance(value, int):
            raise InvalidArguments("set needs an integer `value`")
        self.state.values[name] = value
        self.state.num_sets += 1
        return Answer(text="ok")


class ShelfEnvironment:
    name, version, families, levels = "shelf", "1", ("copy",), (1, 2)
    splits, chance_level = ("train", "heldout", "structural"), 0.01
    faults: Mapping[str, FaultProfile] = {
        "get": FaultProfile(timeout=0.2),
        "set": FaultProfile(error=0.1, lost=0.2),
    }

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        if split not in self.splits or (family or "copy") != "copy" or (level or 1) not in self.levels:
            raise ValueError(
                f"split={split!r} family={family!r} level={level!r}: shelf has {self.splits}, copy, "
                f"{self.levels}"
            )
        level = level or self.levels[index % 2]
        value = random.Random(f"{split}/{seed}/{index}/{level}").randrange(
            1000 * self.splits.index(split), 1000 * self.splits.index(split) + 1000
        )
        ask = f"copy a to {'bc'[:level]} {index}"
        task = Task(
            id=f"shelf-{split}-{level}-{seed}-{index}",
            env="shelf",
            split=split,
            family="copy",
            level=level,
            prompt={
                Dialect.COMPACT: ask,
                Dialect.NATURAL: f"Copy the value of a to {' and '.join('bc'[:level])}, then submit done.",
            },
            tools=(SET, GET, SUBMIT),
            limits=Limits(turns=20, calls=20),
        )
        return task, Target(task_id=task.id, seed=value, data={"value": value})

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        machine = ShelfMachine(Shelf({"a": target.seed}))
        return World(task, [machine], attempt, noise_seed=noise_seed, faults=self.faults)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        said = sealed.files["shelf"].decode()
        level = int(sealed.task_id.split("-")[2])
        reward = float(
            sealed.submitted == "done" and all(f"'{name}': {target.seed}" in said for name in "bc"[:level])
        )
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)

    def solutions(self, task: Task, target: Target) -> Sequence[ScriptFactory]:
        return (lambda: _copy("bc"[: task.level]),)

    def negative_controls(self, task: Task) -> Mapping[str, ScriptFactory]:
        return {"claim": lambda: _claim(), "open_loop": lambda: _blind()}

    def demonstrator(self, task: Task, target: Target, *, skill: float, seed: int) -> ScriptFactory:
        return lambda: _copy("bc"[: task.level] if random.Random(seed).random() < skill else "b")

    async def aclose(self) -> None:
        return


def _call(tool: str, **arguments: str | int) -> Call:
    return Call(tool=tool, arguments=arguments)


def _copy(names: str) -> Script:
    value = "timeout"
    while not value.isdigit():
        value = (yield _call("get", name="a")).text
    for name in names:
        while (yield _call("set", name=name, value=int(value))).fault is not None:
            pass
    yield _call("submit", answer="done")


def _blind() -> Script:
    for name in "bc":
        yield Call(tool="set", arguments={"name": name, "value": 500})
    yield Call(tool="submit", arguments={"answer": "done"})


def _claim() -> Script:
    yield _call("set", name="b", value=1)
    yield _call("submit", answer="done")


class TestWorld(EnvironmentContract):
    async def make(self) -> Environment:
        return ShelfEnvironment()

    def renderers(self) -> Sequence[Renderer]:
        vocabulary = learn(
            ["copy a to bc 0123456789", "set get submit done", *(str(n) for n in range(3000))], size=400
        )
        return [renderer(dialect, vocabulary) for dialect in Dialect]


async def opened(faults: FaultProfile) -> World:
    env = ShelfEnvironment()
    env.faults = {"set": faults}
    task, target = env.task(split="train", index=0, seed=0)
    world = await env.open(task, target, AttemptId(group=0, slot=0), noise_seed=1)
    assert isinstance(world, World)
    return world


@pytest.mark.parametrize(
    ("faults", "fault", "num_sets"),
    [
        (FaultProfile(timeout=1.0), Fault.TIMEOUT, 0),
        (FaultProfile(error=1.0), Fault.TOOL, 0),
        (FaultProfile(lost=1.0), Fault.TIMEOUT, 1),
        (FaultProfile(delay_s=9.0), Fault.TIMEOUT, 0),
    ],
)
async def test_each_kind_of_fault_does_what_it_says_and_never_twice_in_a_row(
    faults: FaultProfile, fault: Fault, num_sets: int
) -> None:
    world = await opened(faults)
    object.__setattr__(world.task, "limits", Limits(call_seconds=0.01))
    events = await world.session.act([_call("set", name="b", value=1)] * 2, LEFT)
    assert events[0].fault is fault
    if not faults.delay_s:
        assert events[1].fault is None
        num_sets += 1
    assert f"num_sets={num_sets}" in (await world.seal()).files["shelf"].decode()


def test_delays_have_the_median_and_the_tail_that_were_asked_for() -> None:
    faults, rng = FaultProfile(delay_s=0.2, delay_p99_s=4.0), random.Random(0)
    delays = sorted(faults.draw(rng)[1] for _ in range(20_000))
    assert delays[10_000] == pytest.approx(0.2, rel=0.05)
    assert delays[19_800] == pytest.approx(4.0, rel=0.2)


async def test_wrong_arguments_are_events_that_the_policy_can_read() -> None:
    world = await opened(FaultProfile())
    calls = [
        _call("set", name="b", value="much"),
        Call(tool="set", arguments={}),
        _call("fly"),
        Call(tool="get", arguments={}, problem="cut off"),
    ]
    events = await world.session.act(calls, LEFT)
    assert [event.fault for event in events] == [Fault.POLICY] * 4
    assert "integer `value`" in events[0].text and "string `name`" in events[1].text
    assert "set, get, submit" in events[2].text and "cut off" in events[3].text


async def test_a_tool_that_nobody_can_encode_is_an_event_too() -> None:
    world = await opened(FaultProfile())
    object.__setattr__(world.task, "limits", Limits(observation_bytes=64))
    (event,) = await world.session.act([_call("\ud800" * 9)], LEFT)
    assert event.fault is Fault.POLICY and event.text.encode().startswith(b"error: ???")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("set b 12", {"name": "b", "value": 12}),
        ("set b twelve", {"name": "b", "value": "twelve"}),
        ("set b", {"name": "b"}),
        ("get b c", {"name": "b c"}),
    ],
)
def test_the_compact_dialect_reads_parameters_by_their_place(text: str, arguments: dict[str, object]) -> None:
    compact = renderer(Dialect.COMPACT, learn(["set b 12 twelve", "get b c"], size=300))
    ids = [*compact.vocabulary.encode(text), *compact.stop_ids]  # type: ignore[attr-defined]
    (call,) = compact.parse(ids, (SUBMIT, SET, GET))
    assert call.arguments == arguments


class BrokenMachine(Machine):
    name, tools = "broken", (GET,)

    def step(self, call: Call) -> Answer:
        if call.arguments.get("name") == "own":
            text_of(call, "other")
        return Answer(text=str({}["missing"] if call.arguments.get("name") == "key" else int("not a number")))


@pytest.mark.parametrize(("name", "error"), [("key", KeyError), ("value", ValueError)])
async def test_what_a_tool_raises_by_mistake_is_not_blamed_on_the_policy(
    name: str, error: type[Exception]
) -> None:
    task = Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt={Dialect.COMPACT: "x"},
        tools=(GET,),
        limits=Limits(),
    )
    world = World(task, [BrokenMachine(None)], AttemptId(group=0, slot=0), noise_seed=0)
    with pytest.raises(error):
        await world.act(Call(tool="get", arguments={"name": name}), LEFT)
    event = await world.act(Call(tool="get", arguments={"name": "own"}), LEFT)
    assert event.fault is Fault.POLICY and "needs a string `other`" in event.text
    event = await world.act(Call(tool="get", arguments={"name": "own", "other": "\ud800"}), LEFT)
    assert event.fault is Fault.POLICY and "half a character" in event.text
