"""The Python interface does what the command line does."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import COIN, ROOT, TINY, agito_in, environment

import agito
from agito.audit import digest_of
from agito.envs import load
from agito.errors import BadEnvironment, BadRecipe, NotFound
from agito.harness import SoloHarness
from agito.plugins import named
from agito.recipe import read
from agito.record import RunDir, RunState
from agito.record.events import Event, Progress, StepFinished, read_events
from agito.testing import FakeEnvironment

GIVEN = """
import sys

import agito
from agito.harness import SoloHarness
from agito.record.events import StepFinished
from agito.testing import FakeEnvironment


class Own(FakeEnvironment):
    def __init__(self, edition=1):
        self.version = f"own-{edition}"


class Mine(SoloHarness):
    pass


def interrupt(event):
    if isinstance(event, StepFinished) and event.phase == "rl":
        raise KeyboardInterrupt


if __name__ == "__main__":
    how, *rest = sys.argv[1:]
    given = {"classes": (Own, Mine), "objects": (Own(2), Mine())}[how]
    given = dict(zip(("environment", "harness"), given))
    if rest:
        agito.train(**given, overrides=rest, out=f"runs/{how}", on_event=interrupt, admit_anyway=True)
    else:
        assert agito.resume(f"runs/{how}", **given).after.num == 8
"""
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


def script(home: Path, text: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    (home / "given.py").write_text(text)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "given.py", *words],
            cwd=home,
            env=environment(home),
            capture_output=True,
            text=True,
        )

    return run


def test_a_run_on_a_class_and_a_harness_from_python_is_resumed_by_the_command_line(tmp_path: Path) -> None:
    run = script(tmp_path, GIVEN)
    assert "KeyboardInterrupt" in run("classes", *TINY, "compute.context=192").stderr
    said = (tmp_path / "runs/classes/config.toml").read_text()
    assert "given.py:Own" in said and "given.py:Mine" in said
    agito_in(tmp_path)("train", "--resume", "runs/classes")
    assert RunDir.state(tmp_path / "runs/classes") is RunState.FINISHED


def test_a_run_on_an_object_is_resumed_when_it_is_given_again_and_says_so_before(tmp_path: Path) -> None:
    run = script(tmp_path, GIVEN)
    assert "KeyboardInterrupt" in run("objects", *TINY, "compute.context=192").stderr
    done = agito_in(tmp_path)("train", "--resume", "runs/objects", expect=NotFound.exit_code)
    assert "object:Own" in done.stderr and "agito.resume(path, environment=...)" in " ".join(
        done.stderr.split()
    )
    (tmp_path / "given.py").write_text(GIVEN.replace("Own(2)", "Own(3)"))
    assert "NotAdmitted" in run("objects").stderr, "another version of it"
    (tmp_path / "given.py").write_text(GIVEN)
    done = run("objects")
    assert done.returncode == 0, done.stderr


def test_an_object_is_audited_and_every_use_of_it_takes_a_copy(tmp_path: Path) -> None:
    text = GIVEN.replace(", admit_anyway=True", "").replace("Mine())", '"solo")').replace("(2)", "([3])")
    done = script(tmp_path, text)("objects", *TINY, "compute.context=192")
    assert "KeyboardInterrupt" in done.stderr, done.stderr
    (card,) = (tmp_path / ".cache/agito/cards").iterdir()
    assert "no other process can make it" in card.read_text()


def test_a_script_that_trains_as_it_is_read_is_told_how_not_to(tmp_path: Path) -> None:
    text = GIVEN.partition("if __name__")[0] + f"agito.train(environment=Own, overrides={[*TINY]!r})\n"
    done = script(tmp_path, text)()
    assert "NotAdmitted" in done.stderr and "under `if __name__ == '__main__':`" in done.stderr


def test_what_is_given_from_python_has_a_name_and_what_cannot_be_given_is_refused(coin_home: Path) -> None:
    class Locked(FakeEnvironment):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    assert named(SoloHarness) == "agito.harness.solo:SoloHarness"
    assert named(FakeEnvironment) == "agito.testing.fakes:FakeEnvironment"
    one, other = FakeEnvironment(), FakeEnvironment()
    assert named(one) == named(one) != named(other)
    assert type(load(named(one))) is FakeEnvironment and load(named(one)) is not one
    assert type(load(named(lambda: FakeEnvironment()))) is FakeEnvironment
    assert type(load(named(Locked))) is Locked
    with pytest.raises(BadEnvironment, match="cannot be copied"):
        load(named(Locked()))
    with pytest.raises(BadEnvironment, match="lacks"):
        load(named(SoloHarness))
    with pytest.raises(BadRecipe, match="an environment, or prompts"):
        agito.train(environment=one, prompts=["a"], reward="reward.py:reward")
    with pytest.raises(BadRecipe, match="model_copy"):
        agito.train(read("quickstart"), environment=one)
    with pytest.raises(BadRecipe, match="is another"):
        agito.resume(coin_home / "runs/coin", environment=one)
    with pytest.raises(NotFound, match="no such module"):
        load("nosuch.module:Environment")


def test_a_class_without_a_file_has_a_digest_of_its_code() -> None:
    def digest(reward: str) -> str:
        space: dict[str, Any] = {"FakeEnvironment": FakeEnvironment, "__name__": "typed_in"}
        exec(f"class Own(FakeEnvironment):\n def prize(self): return {reward} in {{'a', 'b'}}", space)
        return digest_of(space["Own"]())

    assert digest("1") == digest("1") != digest("2")
