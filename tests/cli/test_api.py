"""The Python interface does what the command line does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import COIN, ROOT, environment

import agito
from agito.errors import BadRecipe, NotFound
from agito.recipe import read
from agito.record import RunDir, RunState
from agito.record.events import Event, Progress, StepFinished, read_events

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_train_gives_the_summary_and_the_very_events_of_its_file_and_moves_an_earlier_run_aside(
    tmp_path: Path,
) -> None:
    seen = list[Event]()
    recipe = read("quickstart", (*COIN, "rl.steps=1"))
    (tmp_path / "runs").mkdir()
    with RunDir.create(tmp_path / "runs/quickstart-testing-FakeEnvironment", "", {}):
        pass
    summary = agito.train(recipe, on_event=seen.append)
    assert summary.after.num == 8
    assert sum(isinstance(event, StepFinished) and event.phase == "sft" for event in seen) == 8
    assert sum(isinstance(event, StepFinished) and event.phase == "rl" for event in seen) == 1
    assert [e.done for e in seen if isinstance(e, Progress) and e.phase == "after"] == list(range(1, 9))
    assert seen == read_events(tmp_path / "runs/quickstart-testing-FakeEnvironment/events.jsonl")
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
