from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agito.errors import AgitoError, DiskFull, NotFound
from agito.record import Ledger, Metrics, RunDir, RunState, read_metrics
from agito.record.files import write_atomically
from agito.types import AttemptId

META = {"commit": "abc", "seed": 3}


def test_a_new_run_holds_its_config_and_its_facts(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "runs" / "one", "seed = 3\n", META) as run:
        assert run.config.read_text() == "seed = 3\n"
        facts = json.loads((run.path / "run.json").read_text())
        assert (facts["commit"], facts["seed"], facts["finished"]) == ("abc", 3, None)
        assert RunDir.state(run.path) is RunState.UNFINISHED
        run.note(isolation_tier="native+cgroup")
        run.finish()
        assert run.meta["isolation_tier"] == "native+cgroup"
    assert RunDir.state(run.path) is RunState.FINISHED


def test_a_run_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "one"
    RunDir.create(path, "", META).close()
    with pytest.raises(AgitoError, match=r"already there \(unfinished\); go on with --resume"):
        RunDir.create(path, "", META)


def test_an_existing_run_is_moved_aside_under_its_date_and_a_second_one_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "one"
    moved: list[Path] = []
    for _ in range(2):
        with RunDir.create(path, "", META) as run:
            run.note(started="2026-11-22T15:04:05+00:00")
        moved.append(RunDir.move_aside(path))
    assert [entry.name for entry in moved] == ["one.2026-11-22T15-04-05", "one.2026-11-22T15-04-05.2"]
    assert RunDir.state(path) is RunState.ABSENT


def test_what_is_not_a_run_is_neither_moved_nor_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert RunDir.state(tmp_path) is RunState.FOREIGN
    with pytest.raises(AgitoError, match="choose another name"):
        RunDir.create(tmp_path, "", META)
    with pytest.raises(NotFound):
        RunDir.move_aside(tmp_path)
    with pytest.raises(NotFound, match="no run there"):
        RunDir.open(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    path = tmp_path / "one"
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from agito.record import RunDir
        run = RunDir.open(Path(sys.argv[1]))
        print("open", flush=True)
        sys.stdin.read()
    """)
    RunDir.create(path, "", META).close()
    command = [sys.executable, "-c", script, str(path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline() == "open\n"
        for attempt in (RunDir.open, RunDir.move_aside):
            with pytest.raises(AgitoError, match=f"process {other.pid} is writing this run"):
                attempt(path)
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    with RunDir.open(path) as run:  # a lock dies with its holder
        assert len(run.meta["resumed"]) == 2  # type: ignore[arg-type]


def test_a_resumed_run_forgets_what_is_past_the_commit(tmp_path: Path) -> None:
    slot = [AttemptId(group=0, slot=0)]
    with RunDir.create(tmp_path / "one", "", META) as run:
        with Metrics(run.metrics) as metrics:
            metrics.write(40, "sft", {"optim/loss": 1.0})
            for step in (1, 2, 3):
                metrics.write(step, "rl", {"optim/loss": 1.0})
            metrics.write(0, "after", {"success/num": 3})
        for name in ("demo-00000", "before-00000", "rl-00001", "rl-00002", "rl-00003", "after-00000"):
            (run.trajectories / f"{name}.parquet").touch()
        with Ledger(run.ledger) as ledger:
            ledger.consume(2, slot)
            carried = ledger.uncommitted()
            ledger.commit(2)
            ledger.consume(3, [AttemptId(group=1, slot=0)])
    with RunDir.open(tmp_path / "one") as run:
        ledger = run.rollback("rl", 2, carried)
        assert ledger.committed_step == 2
        assert ledger.uncommitted() == {}
        ledger.close()
        assert [(line.phase, line.step) for line in read_metrics(run.metrics)] == [
            ("sft", 40),
            ("rl", 1),
            ("rl", 2),
        ]
        kept = sorted(file.stem for file in run.trajectories.iterdir())
        assert kept == ["before-00000", "demo-00000", "rl-00001", "rl-00002"]


def test_the_ledger_is_kept_after_the_training_phase_and_empty_before_it(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "one", "", META) as run:
        with Ledger(run.ledger) as ledger:
            ledger.consume(5, [AttemptId(group=0, slot=0)])
        with run.rollback("after", 0, {}) as ledger:
            assert ledger.uncommitted() == {}
            assert sum(ledger.counts().values()) == 1
        with run.rollback("before", 0, {}) as ledger:
            assert sum(ledger.counts().values()) == 0
        with pytest.raises(ValueError, match="phase='nap'"):
            run.rollback("nap", 0, {})


def test_the_clock_of_the_metrics_goes_on_after_a_resume(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "one", "", META) as run:
        with Metrics(run.metrics, wall_s=50.0) as metrics:
            metrics.write(1, "rl", {"optim/loss": 1.0})
        with run.open_metrics() as metrics:
            assert metrics.wall_s >= 50.0


def test_a_whole_file_is_the_old_one_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")
    (tmp_path / ".summary.json.partial").mkdir()  # the write cannot begin
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


FULL_DISK = """
import json, os, sys
from pathlib import Path
from agito.errors import DiskFull
from agito.record import Ledger, Metrics, RunDir, read_metrics
from agito.record.files import write_atomically
from agito.types import AttemptId

disk = Path(sys.argv[1])
run = RunDir.create(disk / "one", "seed = 1", {"commit": "abc"})
ledger = Ledger(run.ledger)
ledger.consume(1, [AttemptId(group=0, slot=0)])
ledger.commit(1)
metrics = Metrics(run.metrics)
metrics.write(1, "rl", {"optim/loss": 1.0})
write_atomically(run.summary, b"old")
said = []

def fails(act):
    try:
        act()
    except DiskFull as error:
        said.append(str(error))

def fill():
    with open(disk / "filler", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            pass

def many_lines():
    for step in range(2, 10_000):
        metrics.write(step, "rl", {"optim/loss": 1.0})

def many_attempts():
    for step in range(2, 200):
        ledger.consume(step, [AttemptId(group=step * 1000 + i, slot=0) for i in range(1000)])

fill()
fails(many_lines)
fails(many_attempts)
fails(lambda: write_atomically(run.summary, b"new" * 4096))
fails(lambda: RunDir.create(disk / "two", "x" * 8192, {}))
(disk / "filler").unlink()
ledger.close()
ledger = run.rollback("rl", 1, {1: [AttemptId(group=0, slot=0)]})
lines = [line.step for line in read_metrics(run.metrics)]
print(json.dumps([said, lines, run.summary.read_text(), ledger.committed_step, sum(ledger.counts().values())]))
"""  # noqa: E501


def test_a_full_disk_is_one_clear_line_and_loses_nothing_committed(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs `unshare` (util-linux) and the right to mount a small file system")
    mount = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -c "$3" "$1"'
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mount,
        "sh",
        str(tmp_path),
        sys.executable,
        FULL_DISK,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"needs the right to mount a small file system: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    said, lines, summary, committed, known = json.loads(done.stdout)
    assert len(said) == 4
    assert all("no space left" in line and "--resume" in line and "\n" not in line for line in said)
    assert (lines, summary, committed, known) == ([1], "old", 1, 1)
    assert DiskFull.exit_code == 7
