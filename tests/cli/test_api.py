"""The Python interface does what the command line does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.cli.conftest import COIN, ROOT, environment

import agito
from agito.errors import BadRecipe, NotFound
from agito.recipe import read
from agito.record import RunDir, RunState

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Counting:
    def __init__(self) -> None:
        self.phases: dict[str, int] = {}
        self._now = ""

    def phase(self, name: str, total: int) -> None:
        self._now = name
        self.phases[name] = 0

    def advance(self, figures: Mapping[str, float]) -> None:
        self.phases[self._now] += 1

    def recover(self, why: str, step: int) -> None:
        raise AssertionError(why)

    def note(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_train_gives_the_summary_tells_its_watcher_and_moves_an_earlier_run_aside(tmp_path: Path) -> None:
    seen = Counting()
    recipe = read("quickstart", (*COIN, "rl.steps=1"))
    (tmp_path / "runs").mkdir()
    with RunDir.create(tmp_path / "runs/quickstart-testing-FakeEnvironment", "", {}):
        pass
    summary = agito.train(recipe, watcher=seen)
    assert summary.after.num == 8
    assert seen.phases["sft"] == 8
    assert seen.phases["rl"] == 1
    assert seen.phases["after"] == 8
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert RunDir.state(tmp_path / "runs/quickstart-testing-FakeEnvironment") is RunState.FINISHED


async def test_evaluate_and_replay_work_inside_a_running_event_loop(coin_home: Path) -> None:
    run = coin_home / "runs/coin"
    found = agito.evaluate(run, num_tasks=4, temperature=0.0)
    assert found.policy.overall.num == 4
    assert found.baselines["oracle"].overall.success == 1.0
    both = agito.replay(run, "1000000.0", phase="after")
    assert both.differences == ()
    assert both.recorded.phase == "after"


def test_mistakes_are_raised_as_our_own_errors(coin_home: Path) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        agito.train("nosuch")
    with pytest.raises(BadRecipe, match="there is no such key"):
        agito.train("quickstart", overrides=["rl.stepz=1"])
    with pytest.raises(BadRecipe, match="split=x"):
        agito.evaluate(coin_home / "runs/coin", split="x")
    with pytest.raises(BadRecipe, match="finished"):
        agito.resume(coin_home / "runs/coin")
    with pytest.raises(ValueError, match=r"GROUP\.SLOT"):
        agito.replay(coin_home / "runs/coin", "first")
    with pytest.raises(AttributeError, match="nosuch"):
        _ = agito.nosuch


def test_the_examples_on_the_page_run_as_they_stand(tmp_path: Path) -> None:
    code = "\n".join(BLOCK.findall((ROOT / "docs" / "api.md").read_text()))
    tiny = f'"quickstart", overrides={[*COIN, "name=quickstart"]!r}'
    assert '"quickstart"' in code
    script = tmp_path / "page.py"
    script.write_text(code.replace('"quickstart"', tiny, 1))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "diverges" not in done.stdout
