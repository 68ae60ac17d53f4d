"""Gymnasium's own environments as components: ends, seeds, forks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agito.errors import InvalidArguments, SandboxFailure
from agito.types import AttemptId as Id
from agito.types import Budget, Call, Dialect, Event, Fault, Limits, Task
from agito.worlds.gym import GymWorld, plain
from agito.worlds.world import World

LEFT = Budget(turns=9, calls=9, tokens=99)
LAKE = ("left", "down", "right", "up")


def lake(seed: int = 0) -> GymWorld:
    return GymWorld(lambda: gymnasium.make("FrozenLake-v1", is_slippery=True), seed, actions=LAKE)


def cart(seed: int = 0, most: int = 500) -> GymWorld:
    return GymWorld(
        lambda: gymnasium.make("CartPole-v1", max_episode_steps=most), seed, actions=("left", "right")
    )


def world(component: GymWorld) -> World:
    task = Task(
        id="t",
        env="gym",
        split="train",
        family="f",
        level=1,
        prompt=dict.fromkeys(Dialect, "go"),
        tools=component.tools,
        limits=Limits(),
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
        texts = [
            [(await each.call(act("up"), timeout_s=1.0)).text for _ in range(5)] for each in (component, fork)
        ]
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

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[int, dict[str, Any]]:
            Careless.made += 1
            return Careless.made, {}

    component = GymWorld(Careless, 0)
    with pytest.raises(SandboxFailure, match="not deterministic"):
        await component.fork(await component.snapshot())


class Echo(gymnasium.Env[Any, Any]):
    """Returns its input. Closing it twice is an error, as in many real environments."""

    observation_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space, self.given, self.num_closed = space, list[Any](), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.given.append(action)
        return 0, 0.0, False, False, {}

    def close(self) -> None:
        assert self.num_closed == 0
        self.num_closed += 1


BOX = spaces.Box(-1, 1, (1,), np.float32)
FREE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
BYTES = spaces.Box(0, 255, (1,), np.uint8)
NESTED = spaces.Dict(
    move=spaces.Tuple((spaces.Discrete(2), spaces.Dict(at=BYTES))),
    more=spaces.Sequence(spaces.MultiDiscrete([3, 3])),
)


@pytest.mark.parametrize(
    ("space", "said", "meant"),
    [
        (spaces.MultiDiscrete([3, 3]), "[1, 2]", [1, 2]),
        (spaces.MultiDiscrete(np.array([[3, 3], [2, 2]])), "[[1, 2], [0, 1]]", [[1, 2], [0, 1]]),
        (spaces.MultiBinary((2, 2)), "[[1, 0], [0, 1]]", [[1, 0], [0, 1]]),
        (spaces.Discrete(3), "2.0", 2),
        (BOX, "[0.5]", [0.5]),
        (BYTES, "[255]", [255]),
        (
            spaces.Dict(move=BOX, jump=spaces.Discrete(2)),
            '{"move": [0.5], "jump": 1}',
            {"move": [0.5], "jump": 1},
        ),
        (spaces.Tuple((spaces.Discrete(2), BOX)), "[1, [0.5]]", [1, [0.5]]),
        (spaces.Sequence(spaces.Discrete(3)), "[1, 2, 0]", [1, 2, 0]),
        (spaces.Sequence(spaces.MultiDiscrete([3, 3]), stack=True), "[[1, 2], [0, 1]]", [[1, 2], [0, 1]]),
        (spaces.Sequence(spaces.Discrete(3)), "[]", []),
        (spaces.OneOf((spaces.Discrete(2), BOX)), "[1, [0.5]]", [1, [0.5]]),
        (spaces.Text(5), '"abc"', "abc"),
        (
            NESTED,
            '{"more": [[1, 2], [0, 0]], "move": [1, {"at": [7]}]}',
            {"move": [1, {"at": [7]}], "more": [[1, 2], [0, 0]]},
        ),
    ],
)
async def test_every_space_takes_exactly_what_was_said(
    space: spaces.Space[Any], said: str, meant: Any
) -> None:
    env = Echo(space)
    component = GymWorld(lambda: env, 0)
    assert (await component.call(act(said), timeout_s=5.0)).fault is None
    assert plain(env.given[0]) == meant
    await component.close()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        *(
            (spaces.MultiDiscrete([3, 3]), said)
            for said in ("[1.7, 2.9]", '["1", "2"]', "[true, false]", "[1, 3]", "[1e30, 0]", "[1]", "1")
        ),
        *((BYTES, said) for said in ("[256]", "[-1]", "[2.5]", f"[{10**400}]")),
        *(
            (FREE, said)
            for said in (
                "[1e999, 0]",
                "[Infinity, 0]",
                "[1e39, 0]",
                "[NaN, 0]",
                "[true, 0]",
                f"[{10**400}, 0]",
                '["1", 0]',
                "0",
            )
        ),
        *((spaces.MultiBinary(2), said) for said in ("[0.9, 0]", "[2, 0]", "[true, 0]")),
        *((spaces.Discrete(3), said) for said in ("true", '"1"', "1.5", "3", "-1", "[1]", "null", "1e999")),
        *(
            (spaces.Tuple((spaces.Discrete(2), BOX)), said)
            for said in ("[1]", "[1, [0.5], 0]", "[true, [0.5]]", "[1, [2.0]]")
        ),
        *(
            (spaces.Dict(a=spaces.Discrete(2)), said)
            for said in ("{}", '{"a": 1, "b": 1}', "[1]", '{"a": 0.5}')
        ),
        *((spaces.Sequence(spaces.Discrete(3)), said) for said in ("[3]", "1", "[0.5]")),
        *(
            (spaces.OneOf((spaces.Discrete(2), BOX)), said)
            for said in ("[2, 1]", "[0, 2]", "[-1, [0.5]]", "[true, [0.5]]", "[1]")
        ),
        *(
            (NESTED, said)
            for said in (
                '{"more": [[1, 2.5]], "move": [1, {"at": [7]}]}',
                '{"more": [], "move": [1, {"at": [256]}]}',
            )
        ),
    ],
)
async def test_nothing_is_rounded_wrapped_or_taken_for_something_else(
    space: spaces.Space[Any], said: str
) -> None:
    env = Echo(space)
    component = GymWorld(lambda: env, 0)
    with pytest.raises(InvalidArguments, match="is no action"):
        await component.call(act(said), timeout_s=5.0)
    assert env.given == []
    await component.close()


@pytest.mark.parametrize(
    ("space", "actions", "why"),
    [
        (spaces.Discrete(4), ("left", "down", "right"), "3 names for 4"),
        (spaces.Discrete(2), ("a", "b", "c"), "3 names for 2"),
        (spaces.Discrete(2), ("a", "a"), "a name of its own"),
        (spaces.Discrete(2), ("a", " b"), "without spaces"),
        (BOX, ("a",), "only the actions of a Discrete"),
        (spaces.Graph(BOX, BOX), (), "cannot be said"),
        (spaces.Dict(a=spaces.Graph(BOX, None)), (), "cannot be said"),
    ],
)
def test_names_that_do_not_fit_the_actions_are_refused_at_once(
    space: spaces.Space[Any], actions: tuple[str, ...], why: str
) -> None:
    env = Echo(space)
    with pytest.raises(ValueError, match=why):
        GymWorld(lambda: env, 0, actions=actions)
    assert env.num_closed == 1


async def test_an_environment_is_closed_once_by_the_thread_that_made_it() -> None:
    class Tied(Echo):
        def __init__(self) -> None:
            super().__init__(spaces.Discrete(2))
            self.mine = threading.get_ident()

        def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
            assert threading.get_ident() == self.mine
            return super().step(action)

        def close(self) -> None:
            assert threading.get_ident() == self.mine
            super().close()

    env = list[Tied]()
    component = GymWorld(lambda: env.append(Tied()) or env[-1], 0)
    assert (await component.call(act("1"), timeout_s=5.0)).fault is None
    await component.close()
    await component.close()
    assert env[0].num_closed == 1
