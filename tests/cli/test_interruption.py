"""Ctrl-C and SIGTERM end a run in order; nothing that was committed is lost, and nobody is left behind."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest

from tests.cli.conftest import COIN, COMMAND, agito_in, environment, sets


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=home,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines_until(process: subprocess.Popen[str], part: str) -> None:
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if part in line:
            return
    raise AssertionError(f"{part!r} never came:\n{''.join(seen)}")


def children(pid: int) -> set[int]:
    """Processes whose parent is `pid`, whatever their session."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


def weights(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints/final/model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("signal", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_process_and_goes_on_bit_for_bit(tmp_path: Path, coin_home: Path, signal: Signals, code: int) -> None:
    with start(tmp_path, "train", "quickstart", "--name", "coin", *sets(*COIN)) as process:
        lines_until(process, "reinforcement")
        young = children(process.pid)
        assert young, "there should be a worker by now"
        process.send_signal(signal)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    assert "agito train --resume runs/coin" in rest
    assert not {pid for pid in young if Path(f"/proc/{pid}").exists()}
    done = agito_in(tmp_path)("train", "--resume", "runs/coin")
    assert "before" in done.stdout
    assert weights(tmp_path / "runs/coin") == weights(coin_home / "runs/coin")


def test_an_earlier_run_is_moved_aside_and_one_that_was_not_finished_says_how_to_go_on(tmp_path: Path) -> None:
    with start(tmp_path, "train", "quickstart", "--name", "coin", *sets(*COIN)) as process:
        lines_until(process, "demonstrations")
        process.send_signal(SIGINT)
        process.communicate(timeout=60)
    agito = agito_in(tmp_path)
    second = agito("train", "quickstart", "--name", "coin", *sets(*COIN, "rl.steps=1"))
    (aside,) = (tmp_path / "runs").glob("coin.*")
    assert (
        f"the earlier run is now runs/{aside.name}; it was not finished: to go on with it, agito train --resume runs/{aside.name}"
        in second.stderr
    )
    agito("train", "--resume", f"runs/{aside.name}")
    assert (aside / "report.html").exists()
    assert (tmp_path / "runs/coin/report.html").exists()


def test_ctrl_c_while_a_person_is_asked_ends_the_episode(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "play", "agito.testing:FakeEnvironment"], cwd=tmp_path, env=environment(tmp_path),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("open 0\n")
        process.stdin.flush()
        while "│" not in process.stdout.readline():
            continue
        process.send_signal(SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
