"""A run that is killed at any moment and resumed ends as if uninterrupted, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.cli.conftest import COMMAND, environment
from tests.running import workers

from agito.record.events import Recovered, read_events

ROOT = Path(__file__).parents[1]
TINY = (
    "compute.ranks=2",
    "compute.max_num_seqs=16",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=1",
    "model.vocab_size=320",
    "sft.demos=48",
    "sft.batch=8",
    "sft.tokenizer_episodes=24",
    "sft.epochs=2",
    "rl.steps=6",
    "rl.groups=2",
    "rl.group_size=4",
    "rl.checkpoint_every=1",
    "eval.tasks=6",
    "eval.structural_tasks=2",
    "eval.baseline_tasks=0",
    "env.levels=[1]",
)
SHELL = (*TINY, f"env.name={ROOT / 'tests/lenient_shell.py'}:LenientShell", "sft.epochs=8")
COIN = (
    *TINY,
    "env.name=agito.testing:FakeEnvironment",
    "compute.context=192",
    "compute.ranks=1",
    "sft.demos=400",
    "sft.epochs=3",
    "rl.steps=4",
)
PAYING = (
    *COIN,
    f"env.name={ROOT / 'tests/paying_coin.py'}:PayingCoin",
    "env.levels=[1,2]",
    "monitor.gold_share=0.5",
    "monitor.on_alarm=watch",
    "compute.context=96",
    "rl.steps=12",
)
CLOCK = ("wall_s", "time/", "engine/", "rollout/", "tool/")  # what differs from run to run
NUM_KILLS = 8


def agito(home: Path, *words: str) -> subprocess.Popen[bytes]:
    with (home / "said").open("ab") as said:
        return subprocess.Popen([*COMMAND, *words], cwd=home, env=environment(home), stdout=said, stderr=said)


def train(home: Path, overrides: tuple[str, ...]) -> subprocess.Popen[bytes]:
    return agito(
        home,
        "train",
        "quickstart",
        "--name",
        "run",
        "--admit-anyway",
        *(word for override in overrides for word in ("--set", override)),
    )


def finish(process: subprocess.Popen[bytes], home: Path) -> Path:
    assert process.wait(timeout=240) == 0, (home / "said").read_text()
    return home / "runs/run"


def kill(
    process: subprocess.Popen[bytes], *, after_s: float = 60.0, when: Callable[[], bool] = lambda: False
) -> bool:
    """SIGKILL as soon as `when` holds, at the latest after `after_s`. Returns whether the process was still
    alive."""
    ends_at = time.monotonic() + after_s
    while time.monotonic() < ends_at and not when():
        try:
            assert process.wait(timeout=min(0.02, after_s)) == 0
            return False
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    return True


def weights(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints/final/model.safetensors").read_bytes()).hexdigest()


def consumed(run: Path) -> list[tuple[int, int, int, int]]:
    """Which attempt was trained on in which step."""
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        return ledger.execute(
            "SELECT grp, slot, try, consumed_in FROM attempts WHERE consumed_in IS NOT NULL ORDER BY 1, 2, 3"
        ).fetchall()


def steps(run: Path) -> list[str]:
    """The lines of RL's metrics; each says when it was written."""
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"phase": "rl"' in line]


def recoveries(run: Path) -> list[Recovered]:
    return [event for event in read_events(run / "events.jsonl") if isinstance(event, Recovered)]


def assert_equal(resumed: Path, whole: Path) -> None:
    assert weights(resumed) == weights(whole)
    assert consumed(resumed) == consumed(whole)
    slots = [(group, slot) for group, slot, _, _ in consumed(resumed)]
    assert len(slots) == len(set(slots)) > 0, "a slot was consumed twice, or nothing was"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    home = tmp_path_factory.mktemp("whole")
    return finish(train(home, COIN), home)


@pytest.mark.timeout(300)
def test_a_run_killed_in_the_middle_of_rl_goes_on_bit_for_bit(tmp_path: Path, whole: Path) -> None:
    process = train(tmp_path, COIN)
    assert kill(process, when=(tmp_path / "runs/run/checkpoints/step-1").exists), (
        "it ended before it could be killed"
    )
    assert_equal(finish(agito(tmp_path, "train", "--resume", "runs/run"), tmp_path), whole)


def told(run: Path) -> list[dict[str, float]]:
    """What the steps of RL say of themselves, clocks apart."""
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(CLOCK)}
        for line in steps(run)
    ]


@pytest.mark.timeout(300)
def test_a_resumed_run_knows_what_was_known_of_its_tasks_and_of_cheating(tmp_path: Path) -> None:
    """Curriculum and monitor continue from their state; equal weights alone would not show it."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    uninterrupted, process = train(whole, PAYING), train(broken, PAYING)
    assert kill(process, when=(broken / "runs/run/checkpoints/step-3").exists), (
        "it ended before it could be killed"
    )
    assert not (broken / "runs/run/checkpoints/step-11").exists(), (
        "too late: there is nothing left to be known for"
    )
    resumed, expected = (
        finish(agito(broken, "train", "--resume", "runs/run"), broken),
        finish(uninterrupted, whole),
    )
    assert_equal(resumed, expected)
    assert told(resumed) == told(expected)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (resumed, expected)]
    assert summaries[0]["monitor"] == summaries[1]["monitor"]
    last = told(expected)[-1]
    assert last["monitor/hack_ratio"] > 0 and last["monitor/evidence_nats"] > 0, (
        "the monitor had nothing to remember"
    )
    assert {last["solved/in-coin-1_ratio"], last["solved/in-coin-2_ratio"]} != {0.5}, (
        "the curriculum had nothing to remember"
    )
    assert any(
        step["group/mixed_ratio"] > 0 and step["tokens/trained_num"] > 0 for step in told(expected)[3:]
    )


@pytest.mark.timeout(300)
def test_a_run_whose_worker_is_killed_goes_on_by_itself_bit_for_bit(tmp_path: Path, whole: Path) -> None:
    process = train(tmp_path, COIN)
    while not (tmp_path / "runs/run/checkpoints/step-1").exists():
        assert process.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.02)
    for _, pid in workers(process.pid):
        os.kill(pid, signal.SIGKILL)
    recovered = finish(process, tmp_path)
    assert_equal(recovered, whole)
    assert "signal SIGKILL" in recoveries(recovered)[0].why
    assert "going on from RL step" in (tmp_path / "said").read_text()


@pytest.mark.timeout(300)
def test_a_run_whose_worker_falls_silent_names_it_replaces_it_and_goes_on_bit_for_bit(
    tmp_path: Path, whole: Path
) -> None:
    process = train(tmp_path, (*COIN, "compute.silence_s=8"))
    while not (tmp_path / "runs/run/checkpoints/step-1").exists():
        assert process.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.02)
    for _, pid in workers(process.pid):
        os.kill(pid, signal.SIGSTOP)
    finished = finish(process, tmp_path)
    assert_equal(finished, whole)
    (recovered,) = recoveries(finished)
    assert "has not answered" in recovered.why and "it is stopped" in recovered.why
    assert "going on from RL step" in (tmp_path / "said").read_text()


@pytest.mark.timeout(300)
def test_a_run_whose_workers_die_at_the_same_place_again_and_again_ends(tmp_path: Path) -> None:
    process = train(tmp_path, COIN)
    while process.poll() is None:
        for _, pid in workers(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    said = (tmp_path / "said").read_text()
    assert process.returncode == 8, said
    assert said.count("going on from the last checkpoint") == 2, said
    assert "--resume" in said


@pytest.mark.timeout(300)
def test_a_run_killed_during_its_last_evaluations_judges_the_weights_that_it_keeps(tmp_path: Path) -> None:
    recipe = (
        *COIN,
        "eval.tasks=120",
        "pipeline.mode=decoupled",
        "compute.ranks=2",
        "rl.checkpoint_every=3",
    )
    process = train(tmp_path, recipe)
    run = tmp_path / "runs/run"
    assert kill(process, when=(run / "checkpoints/final").exists), "it ended before it could be killed"
    kept, taken = weights(run), steps(run)
    finish(agito(tmp_path, "train", "--resume", "runs/run"), tmp_path)
    assert weights(run) == kept
    assert steps(run) == taken, "a step was taken again, so that other weights were judged"
    assert len(taken) == 4
    learned_again = agito(tmp_path, "replay", "runs/run", "--updates")
    assert learned_again.wait(timeout=60) == 0, (tmp_path / "said").read_text()
    assert "final after 4 steps" in (tmp_path / "said").read_text()
    recipe_file = run / "config.toml"
    changed = recipe_file.read_text().replace("lr = 0.007", "lr = 0.006")  # other updates
    assert changed != recipe_file.read_text()
    recipe_file.write_text(changed)
    assert agito(tmp_path, "replay", "runs/run", "--updates").wait(timeout=60) == 9


@pytest.mark.timeout(300)
def test_a_run_does_not_go_on_in_an_environment_that_was_edited(tmp_path: Path) -> None:
    source = tmp_path / "own.py"
    source.write_text(
        "from agito.testing import FakeEnvironment\n\n\nclass Own(FakeEnvironment):\n    name = 'own'\n"
    )
    process = train(tmp_path, (*COIN, f"env.name={source}:Own"))
    assert kill(process, when=(tmp_path / "runs/run/checkpoints/step-1").exists), (
        "it ended before it could be killed"
    )
    was = source.read_text()
    source.write_text(was + "    version = '2'\n")
    assert agito(tmp_path, "train", "--resume", "runs/run").wait(timeout=60) == 13
    assert "not what this run began with" in (tmp_path / "said").read_text()
    source.write_text(was)
    finish(agito(tmp_path, "train", "--resume", "runs/run"), tmp_path)


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("every", [1, 2])
def test_a_run_in_a_real_shell_killed_at_random_moments_ends_bit_for_bit_as_if_it_had_not_been(
    tmp_path: Path, every: int
) -> None:
    recipe = (*SHELL, f"rl.checkpoint_every={every}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    began = time.monotonic()
    expected = finish(train(whole, recipe), whole)
    usual_s = time.monotonic() - began
    rng = random.Random(every)
    num_killed = 0
    for _ in range(NUM_KILLS):
        started = (broken / "runs/run/run.json").exists()
        process = agito(broken, "train", "--resume", "runs/run") if started else train(broken, recipe)
        if not kill(process, after_s=rng.uniform(0.2, 0.8) * usual_s):
            assert_equal(broken / "runs/run", expected)
            shutil.rmtree(broken / "runs")  # it got through: once more from the beginning
            continue
        num_killed += 1
    if (broken / "runs/run/run.json").exists():
        finish(agito(broken, "train", "--resume", "runs/run"), broken)
    else:
        finish(train(broken, recipe), broken)
    assert num_killed >= NUM_KILLS // 2
    assert_equal(broken / "runs/run", expected)
