"""A replay finds what has changed since, and says where first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import HereIn

from agito.record import read_trajectories

ENVIRONMENT = '''
from dataclasses import replace
from agito.testing import FakeEnvironment


class Coin(FakeEnvironment):
    def task(self, **which):
        task, key = super().task(**which)
        return replace(task, prompt={dialect: text + PROMPT for dialect, text in task.prompt.items()}), key

    async def grade(self, sealed, key, grade_seed):
        verdict = await super().grade(sealed, key, grade_seed)
        return replace(verdict, reward=verdict.reward * MARKS, scores={"success": verdict.reward * MARKS})

    async def open(self, task, key, attempt, *, noise_seed):
        world = await super().open(task, key, attempt, noise_seed=noise_seed)
        return Other(world) if TEXT else world


class Other:
    """A world that answers something else."""

    def __init__(self, world):
        self._world, self.session, self.tools = world, self, world.session.tools

    def __getattr__(self, name):
        return getattr(self._world, name)

    async def act(self, calls, left):
        events = await self._world.session.act(calls, left)
        return tuple(replace(event, text=event.text + TEXT) if event.index == 1 else event for event in events)
'''  # noqa: E501


def source(*, prompt: str = "", marks: float = 1.0, text: str = "") -> str:
    return f"PROMPT, MARKS, TEXT = {prompt!r}, {marks!r}, {text!r}\n{ENVIRONMENT}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, coin_home: Path) -> Path:
    """A run that is said to come from an environment of one's own."""
    home = tmp_path_factory.mktemp("changing")
    shutil.copytree(coin_home / "runs", home / "runs")
    config = home / "runs/coin/config.toml"
    config.write_text(config.read_text().replace("agito.testing:FakeEnvironment", "own.py:Coin"))
    return home


def right_attempt(home: Path) -> str:
    """A demonstration that opened boxes and found the coin."""
    recorded = read_trajectories(home / "runs/coin/trajectories/demo-00000.parquet")
    attempts = [
        each.attempt
        for each in recorded
        if each.attempt.verdict.reward == 1 and len(each.attempt.trajectory.events) > 2
    ]
    return str(attempts[0].trajectory.attempt)


def test_an_unchanged_world_gives_the_same_attempt(home: Path, here_in: HereIn) -> None:
    (home / "own.py").write_text(source())
    assert "identical" in here_in(home)("replay", "runs/coin", right_attempt(home), "--phase", "demo").stdout


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"prompt": " please"}, "task: prompt was"),
        ({"text": " indeed"}, "event 1: text was"),
        ({"marks": 0.5}, "verdict: reward was 1.0, now 0.5"),
    ],
)
def test_a_changed_world_diverges_where_it_changed(
    home: Path, here_in: HereIn, change: dict[str, str], first: str
) -> None:
    (home / "own.py").write_text(source(**change))  # pyright: ignore[reportArgumentType]
    attempt = right_attempt(home)
    done = here_in(home)("replay", "runs/coin", attempt, "--phase", "demo", expect=9)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("agito: error:")]
    assert f"attempt {attempt} diverges first at {first}" in line
    assert "identical" not in done.stdout
