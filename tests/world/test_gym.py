"""Gymnasium's own environments as components: their ends, their seeds, their forks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

from agito.errors import InvalidArguments, SandboxFailure
from agito.types import AttemptId as Id
from agito.types import Budget, Call, Dialect, Event, Fault, Limits, Task
from agito.world.gym import GymWorld
from agito.world.world import World

LEFT = Budget(turns=9, calls=9, tokens=99)
LAKE = ("left", "down", "right", "up")


def lake(seed: int = 0) -> GymWorld:
    return GymWorld(lambda: gymnasium.make("FrozenLake-v1", is_slippery=True), seed, actions=LAKE)


def cart(seed: int = 0, most: int = 500) -> GymWorld:
    return GymWorld(lambda: gymnasium.make("CartPole-v1", max_episode_steps=most), seed, actions=("left", "right"))


def world(component: GymWorld) -> World:
    task = Task(
        id="t", env="gym", split="train", family="f", level=1, prompt=dict.fromkeys(Dialect, "go"), tools=component.tools, limits=Limits()
    )
    return World(task, [component], Id(group=0, slot=0), noise_seed=0)


def act(action: str) -> Call:
    return Call(tool="act", arguments={"action": action})


async def play(component: GymWorld, choose: Callable[[int], str]) -> tuple[list[Event], Any]:
    opened, events = world(component), list[Event]()
    while not events or not events[-1].ended:
        events.extend(await opened.session.act((act(choose(len(events))),), LEFT))
    return events, json.loads((await opened.seal()).files["gym"])


async def test_coming_to_the_end_and_being_cut_off_are_different_ends() -> None:
    fallen, history = await play(cart(), lambda _: "left")
    assert fallen[-1].ended and (history["terminated"], history["truncated"]) == (True, False)
    assert len(history["rewards"]) == len(fallen) < 20
    cut, history = await play(cart(most=5), lambda at: ("left", "right")[at % 2])
    assert len(cut) == 5 and (history["terminated"], history["truncated"]) == (False, True)


async def test_the_same_seed_gives_the_same_episode_and_another_seed_another() -> None:
    one, two, other = [(await play(cart(seed), lambda _: "right"))[0] for seed in (3, 3, 4)]
    assert [event.text for event in one] == [event.text for event in two]
    assert [event.text for event in one] != [event.text for event in other]


async def test_a_fork_of_a_slippery_lake_slips_as_the_original_does() -> None:
    for cut in range(6):
        component = lake(seed=cut)
        for _ in range(cut):
            if not (component.history.terminated or component.history.truncated):
                await component.call(act("up"), timeout_s=1.0)
        fork = await component.fork(await component.snapshot())
        assert await fork.digest() == await component.digest()
        texts = [[(await each.call(act("up"), timeout_s=1.0)).text for _ in range(5)] for each in (component, fork)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize("said", ["jump", "", "7", "[1]", "null", "x" * 9999, "NaN"])
async def test_what_is_no_action_is_an_event_and_passes_no_time(said: str) -> None:
    opened = world(lake())
    (event,) = await opened.session.act((act(said),), LEFT)
    assert event.fault is Fault.POLICY and "left, down, right, up" in event.text
    assert json.loads((await opened.seal()).files["gym"])["actions"] == []


async def test_continuous_actions_are_json() -> None:
    component = GymWorld(lambda: gymnasium.make("Pendulum-v1"), 0)
    assert "reward -" in (await component.call(act("[0.5]"), timeout_s=1.0)).text
    for said in ("[9.0]", "0.5", "[[0.5]]", '["a"]'):
        with pytest.raises(InvalidArguments, match="is no action"):
            await component.call(act(said), timeout_s=1.0)


async def test_an_environment_that_ignores_its_seed_cannot_be_forked() -> None:
    class Careless(gymnasium.Env[Any, Any]):
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = gymnasium.spaces.Discrete(1000)
        made = 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
            Careless.made += 1
            return Careless.made, {}

    component = GymWorld(Careless, 0)
    with pytest.raises(SandboxFailure, match="not deterministic"):
        await component.fork(await component.snapshot())
