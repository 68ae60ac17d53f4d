"""Typed Python functions as the tools of a set of prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.envs.test_prompts import made

from agito.envs.prompts import PromptsEnvironment
from agito.envs.prompts.tools import FunctionTool
from agito.errors import BadEnvironment, InvalidArguments
from agito.protocols import Script
from agito.rollout import EpisodeDriver, scripted
from agito.types import AttemptId, Call, Fault, Status

__all__ = ["made"]

TOOLS = '''
from typing import Literal


def add(a: int, b: int = 1) -> int:
    """Adds two numbers.

    Args:
        a: The first of them.
        b (int): The second.
    """
    return a + b


async def search(words: list[str], order: Literal["new", "old"] = "new") -> dict:
    """Looks something up."""
    if words == ["bug"]:
        raise KeyError("mine")
    return {"found": words, "order": order}


def refuses(text: str) -> str:
    """Never likes it."""
    from agito.errors import InvalidArguments
    raise InvalidArguments(f"no {text}")
'''


async def test_typed_functions_are_tools_with_a_schema_and_validated_arguments(
    tmp_path: Path, made: Callable[..., PromptsEnvironment]
) -> None:
    source = """
def reward(completion, messages):
    return len([each for each in messages if each["role"] == "tool"]) / 4
"""
    environment = made(source=source, tools=TOOLS, options=f",tools={tmp_path}/mine.py:add+search+refuses")
    task, target = environment.task(split="train", index=0, seed=0)
    add, search, *_ = task.tools
    assert add.description == "Adds two numbers." and add.parameters["required"] == ["a"]
    assert add.parameters["properties"] == {
        "a": {"type": "integer", "description": "The first of them."},
        "b": {"type": "integer", "description": "The second.", "default": 1},
    }
    assert search.parameters["properties"]["order"]["enum"] == ["new", "old"]  # type: ignore[index,call-overload]
    texts: list[tuple[str, Fault | None]] = []

    def script() -> Script:
        calls: tuple[tuple[str, dict[str, Any]], ...] = (
            ("add", {"a": 2, "b": 3}),
            ("add", {"a": "two"}),
            ("add", {"a": 1, "c": 1}),
            ("search", {"words": ["x"]}),
            ("search", {"words": ["x"], "order": "odd"}),
            ("refuses", {"text": "thanks"}),
        )
        for tool, arguments in calls:
            event = yield Call(tool=tool, arguments=arguments)
            texts.append((event.text, event.fault))
        yield Call(tool="submit", arguments={"answer": "done"})

    attempt = AttemptId(group=0, slot=0)
    finished = await EpisodeDriver(environment, noise_seed=0).run(
        task, target, attempt, scripted(script, task, attempt)
    )
    assert [text for text, fault in texts if fault is None] == ["5", '{"found": ["x"], "order": "new"}']
    assert [fault for _, fault in texts] == [
        None,
        Fault.POLICY,
        Fault.POLICY,
        None,
        Fault.POLICY,
        Fault.POLICY,
    ]
    assert (
        "error: add: a: Input should be a valid integer" in texts[1][0] and texts[5][0] == "error: no thanks"
    )
    assert finished.verdict.reward == 0.5, "the reward function sees the calls that were answered"


async def test_what_a_tool_raises_by_mistake_is_the_environments_fault(
    tmp_path: Path, made: Callable[..., PromptsEnvironment]
) -> None:
    environment = made(tools=TOOLS, options=f",tools={tmp_path}/mine.py:search")
    task, target = environment.task(split="train", index=0, seed=0)
    attempt = AttemptId(group=0, slot=0)

    def script() -> Script:
        yield Call(tool="search", arguments={"words": ["bug"]})

    finished = await EpisodeDriver(environment, noise_seed=0).run(
        task, target, attempt, scripted(script, task, attempt)
    )
    assert finished.verdict.status is Status.VOID and finished.trajectory.fault is Fault.ENV


async def test_a_world_with_tools_goes_on_from_a_snapshot_as_it_would_have(
    tmp_path: Path, made: Callable[..., PromptsEnvironment]
) -> None:
    environment = made(tools=TOOLS, options=f",tools={tmp_path}/mine.py:add")
    task, target = environment.task(split="train", index=0, seed=0)
    world = await environment.open(task, target, AttemptId(group=0, slot=0), noise_seed=0)
    left = None
    await world.session.act([Call(tool="add", arguments={"a": 1})], left)  # type: ignore[arg-type]
    child = await world.fork(await world.snapshot(), AttemptId(group=0, slot=1))
    assert await child.digest() == await world.digest()
    await child.session.act([Call(tool="add", arguments={"a": 2})], left)  # type: ignore[arg-type]
    assert await child.digest() != await world.digest()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(a):\n    'Does.'\n", "`a` has no type"),
        ("def f(a: int):\n    return a\n", "docstring"),
        ("def f(*a: int):\n    'Does.'\n", "by name"),
        ("def f(a: 'Gone'):\n    'Does.'\n", "types cannot be read"),
        ("def f(a: object()):\n    'Does.'\n", "JSON schema"),
    ],
)
def test_a_function_that_is_no_tool_is_refused_with_the_remedy(source: str, said: str) -> None:
    space: dict[str, Any] = {}
    exec(source, space)
    with pytest.raises(BadEnvironment, match=said):
        FunctionTool.of(space["f"])


def test_bad_arguments_name_their_place() -> None:
    def look(where: dict[str, int]) -> str:
        """Looks."""
        return str(where)

    with pytest.raises(InvalidArguments, match=r"look: where.a"):
        FunctionTool.of(look).read({"where": {"a": "x"}})


def test_a_parameter_may_have_any_name() -> None:
    def keep(json: str, copy: int = 1, model_name: str = "a") -> str:
        """Keeps it."""
        return f"{json}{copy}{model_name}"

    tool = FunctionTool.of(keep)
    assert set(tool.spec.parameters["properties"]) == {"json", "copy", "model_name"}  # type: ignore[arg-type]
    assert keep(**tool.read({"json": "x", "copy": 2})) == "x2a"


async def test_a_tool_that_takes_too_long_is_an_event_and_the_episode_goes_on(
    tmp_path: Path, made: Callable[..., PromptsEnvironment]
) -> None:
    source = (
        '\nimport time\n\n\ndef slow(seconds: float) -> str:\n    """Waits."""\n'
        "    time.sleep(seconds)\n    return 'done'\n"
    )
    environment = made(tools=source, options=f",tools={tmp_path}/mine.py:slow")
    task, target = environment.task(split="train", index=0, seed=0)
    task = replace(task, limits=replace(task.limits, call_seconds=0.2))
    faults: list[Fault | None] = []

    def script() -> Script:
        for seconds in (5.0, 0.0):
            event = yield Call(tool="slow", arguments={"seconds": seconds})
            faults.append(event.fault)
        yield Call(tool="submit", arguments={"answer": "x"})

    attempt = AttemptId(group=0, slot=0)
    act = scripted(script, task, attempt)
    finished = await EpisodeDriver(environment, noise_seed=0).run(task, target, attempt, act)
    assert faults == [Fault.TIMEOUT, None] and finished.verdict.status is Status.SCORED
