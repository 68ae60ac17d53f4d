"""A writer killed with SIGKILL at any moment leaves a run that can continue from its last commit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agito.record import RunDir, State, read_metrics, read_trajectories
from agito.types import AttemptId

# One step: attempts, ledger, trajectories, metrics, then a checkpoint whose rename is the commit. Says each
# step that it begins.
WRITER = """
import json, sys
from array import array
from pathlib import Path
from agito.record import Metrics, RunDir, write_trajectories
from agito.types import *

path, start = Path(sys.argv[1]), int(sys.argv[2])
run = RunDir.open(path)
found = [json.loads(file.read_text()) for file in run.checkpoints.glob("step-*.json")]
committed = max(found, key=lambda each: each["step"], default={"step": 0, "consumed": {}})
assert committed["step"] == start
consumed = {int(k): [AttemptId.parse(a) for a in v] for k, v in committed["consumed"].items()}
ledger = run.rollback("rl", start, consumed)
metrics = run.open_metrics()
column = array("f", [-1.0] * 40)
tokens = Tokens(ids=array("i", range(40)), logprobs=column, kinds=bytes([1] * 40), channels=bytes(40), versions=span(1, 40))
task = Task(id="t", env="e", split="train", family="f", level=1, prompt={Dialect.COMPACT: "p"}, tools=())

def attempt(at):
    segments, end = (Segment(id=0, tokens=tokens),), TerminationReason.SUBMITTED
    trajectory = Trajectory(attempt=at, task=task, segments=segments, turns=(), events=(), end=end)
    return Attempt(trajectory=trajectory, verdict=Verdict(status=Status.SCORED, reward=1.0))

for step in range(start + 1, 100_000):
    print(step, flush=True)
    attempts = [AttemptId(group=step * 10 + i // 8, slot=i % 8) for i in range(64)]
    ledger.issue(attempts, step=step)
    for at in attempts:
        ledger.grade(at, Status.SCORED, step=step)
    ledger.consume(step, attempts)
    ledger.publish(ledger.next_version(), step=step)
    made = [attempt(at) for at in attempts]
    write_trajectories(run.trajectories, "rl", step, made, dialect=Dialect.COMPACT, piece=lambda policy, token: str(token))
    metrics.write(step, "rl", {"reward/mean": 1.0})
    if step % 2 == 0:
        carried = {str(k): [str(a) for a in v] for k, v in ledger.uncommitted().items()}
        partial = run.checkpoints / "partial"
        partial.write_text(json.dumps({"step": step, "consumed": carried}))
        partial.rename(run.checkpoints / f"step-{step}.json")
        ledger.commit(step)
"""  # noqa: E501


def kill_after(path: Path, start: int, num_steps: int, more_work: int) -> None:
    """Kills the writer `num_steps` steps later, at a moment that `more_work` shifts."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(start)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        for line in writer.stdout:
            if int(line) >= start + num_steps:
                break
        else:
            pytest.fail(writer.stderr.read())
        sum(range(more_work))
        writer.send_signal(signal.SIGKILL)


def committed_step(path: Path) -> int:
    return max(
        (json.loads(file.read_text())["step"] for file in (path / "checkpoints").glob("step-*.json")),
        default=0,
    )


def test_a_run_killed_again_and_again_loses_and_repeats_nothing_committed(tmp_path: Path) -> None:
    path = tmp_path / "one"
    RunDir.create(path, "", {}).close()
    chance = random.Random(5)
    versions: list[int] = []
    for _ in range(4):
        kill_after(path, committed_step(path), chance.randint(2, 9), chance.randrange(400_000))
        step = committed_step(path)
        with RunDir.open(path) as run:
            last = (
                json.loads((run.checkpoints / f"step-{step}.json").read_text()) if step else {"consumed": {}}
            )
            carried = {
                int(at): [AttemptId.parse(text) for text in listed] for at, listed in last["consumed"].items()
            }
            ledger = run.rollback("rl", step, carried)
            assert ledger.committed_step == step
            assert ledger.counts() == {
                State.ISSUED: 0,
                State.SEALED: 0,
                State.GRADED: 0,
                State.CONSUMED: 64 * step,
            }
            versions.append(ledger.next_version())
            ledger.close()
            assert [line.step for line in read_metrics(run.metrics)] == list(range(1, step + 1))
            files = sorted(run.trajectories.glob("*.parquet"))
            assert [file.stem for file in files] == [f"rl-{number:05d}" for number in range(1, step + 1)]
            assert all(len(read_trajectories(file)) == 64 for file in files)
    assert committed_step(path) >= 4
    assert versions == sorted(set(versions))
