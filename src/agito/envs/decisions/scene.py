"""The common base of the five worlds: an in-memory world that can be replayed from its calls, and the outcome
derived from it.

A scene is a deterministic function of its case and the calls. The grader and the measures replay the calls in
a scene of their own instead of trusting the state of the episode's scene.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, cast

from agito.errors import InvalidArguments
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Dialect, Json, Limits, Task, ToolSpec, Trajectory
from agito.worlds.component import Answer, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`share` in (0, 1] is the optimum's price over the price paid; a failure earns nothing."""

    success: bool
    share: float = 1.0
    evidence: str = ""
    scores: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def reward(self) -> float:
        return self.share if self.success else 0.0


@dataclass(frozen=True, slots=True)
class Hand:
    """A scripted agent's hand: right with probability `skill`, independently each time."""

    skill: float
    rng: random.Random

    @property
    def is_perfect(self) -> bool:
        return self.skill >= 1

    def is_right(self) -> bool:
        return self.is_perfect or self.rng.random() < self.skill


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Sampled tokens by call; a turn's tokens count for its first call."""

    tokens: tuple[int, ...]

    @classmethod
    def of(cls, trajectory: Trajectory) -> Spent:
        tokens, before = [0] * len(trajectory.events), 0
        for turn in trajectory.turns:
            before = turn.stop - turn.start + (before if turn.continues else 0)
            if turn.calls:
                tokens[turn.calls[0]] += before
        return cls(tokens=tuple(tokens))


class Scene(Machine):
    """A `Machine` that records its calls. A subclass implements `carry_out`, `outcome` and `measures`."""

    name = "scene"
    is_quick = True

    def __init__(self, tools: tuple[ToolSpec, ...], state: object) -> None:
        self.tools = tools
        super().__init__(state)
        self.calls: list[tuple[str, dict[str, Json]]] = []

    def step(self, call: Call) -> Answer:
        self.calls.append((call.tool, dict(call.arguments)))
        return self.carry_out(call)

    @property
    def at(self) -> int:
        """Index of the current call."""
        return len(self.calls) - 1

    def carry_out(self, call: Call) -> Answer:
        """Raises `InvalidArguments`, before changing anything."""
        raise NotImplementedError

    def outcome(self) -> Outcome:
        raise NotImplementedError

    def measures(self, spent: Spent) -> dict[str, float]:
        """By name, without measures that this attempt does not determine."""
        raise NotImplementedError

    async def snapshot(self) -> object:
        return await super().snapshot(), tuple(self.calls)

    async def fork(self, token: object) -> Scene:
        state, calls = cast("tuple[object, tuple[tuple[str, dict[str, Json]], ...]]", token)
        twin = cast("Scene", await super().fork(state))
        twin.calls = list(calls)
        return twin

    async def capture(self) -> Mapping[str, bytes]:
        return {"calls.json": json.dumps(self.calls).encode()}


class Case(Protocol):
    """One latent task."""

    @property
    def prompt(self) -> Mapping[Dialect, str]: ...
    @property
    def tools(self) -> tuple[ToolSpec, ...]: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    def scene(self) -> Scene: ...
    def agent(self, hand: Hand) -> Script:
        """The optimum for a perfect hand; otherwise, now and then, what a hasty person would do."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One of the worlds. Its negative controls know the compact prompt only."""

    draw: Callable[[str, int, random.Random], Case]  # (split, level, rng)
    # (prompt, turns, rng): the best policy that reads nothing.
    open_loop: Callable[[str, int, random.Random], Script]
    anything: Callable[[str, random.Random], Call]  # a well-formed random call


def act_again(scene: Scene, calls: Iterable[tuple[str, Mapping[str, Json]]]) -> Scene:
    """Replays recorded calls; a refused call is refused again, and counts as a call."""
    known = {tool.name for tool in scene.tools}
    for tool, arguments in calls:
        if tool not in known:
            scene.calls.append((tool, dict(arguments)))
            continue
        with suppress(InvalidArguments):
            scene.step(Call(tool=tool, arguments=arguments))
    return scene


def solver(case: Case) -> ScriptFactory:
    return lambda: case.agent(Hand(1.0, random.Random(0)))


def demonstrator(case: Case, *, skill: float, seed: int) -> ScriptFactory:
    return lambda: case.agent(Hand(skill, random.Random(f"decisions/demonstrator/{seed}")))


def negative_controls(family: Family, task: Task, seed: int) -> dict[str, ScriptFactory]:
    """Agents that must stay at the floor."""
    prompt = task.prompt[Dialect.COMPACT]

    def null() -> Script:
        last = task.tools[-1]
        required = last.parameters["required"]
        assert isinstance(required, list)
        nothing = "" if len(required) == 1 else "none"  # several arguments are told apart by their words
        yield Call(tool=last.name, arguments=dict.fromkeys(map(str, required), nothing))

    def noise() -> Script:
        rng = random.Random(f"decisions/random/{seed}")
        while True:
            yield family.anything(prompt, rng)

    def open_loop() -> Script:
        return family.open_loop(prompt, task.limits.turns, random.Random(f"decisions/open_loop/{seed}"))

    return {"null": null, "random": noise, "open_loop": open_loop}


def call(tool: str, **arguments: str) -> Call:
    return Call(tool=tool, arguments=dict(arguments))
