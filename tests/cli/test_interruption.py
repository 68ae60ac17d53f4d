"""Ctrl-C and SIGTERM end a run in order; nothing that was committed is lost, and nobody is left behind."""

from __future__ import annotations

import hashlib
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

from tests.cli.conftest import COIN, COMMAND, agito_in, environment, sets

from agito.record.events import RunStopped, read_events


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


def lines_until(process: subprocess.Popen[str], part: str) -> str:
    """The first line on stderr with `part`."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        if part in line:
            return line
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


def interrupt(process: subprocess.Popen[str], phase: str, signal: Signals) -> str:
    """Sends `signal` when `phase` begins; returns what is said after that, once nobody is left."""
    with process:
        lines_until(process, phase)
        young = children(process.pid)
        process.send_signal(signal)
        _, rest = process.communicate(timeout=60)
    assert "Traceback" not in rest
    assert not {pid for pid in young if Path(f"/proc/{pid}").exists()}
    return rest


def test_an_interrupted_run_leaves_no_process_and_goes_on_bit_for_bit(
    tmp_path: Path, coin_home: Path
) -> None:
    process = start(tmp_path, "train", "quickstart", "--name", "coin", *sets(*COIN))
    rest = interrupt(process, "reinforcement", SIGINT)
    assert process.returncode == 130, rest
    assert "agito train --resume runs/coin" in rest
    last = read_events(tmp_path / "runs/coin/events.jsonl")[-1]
    assert isinstance(last, RunStopped) and last.why == "interrupted"
    done = agito_in(tmp_path)("train", "--resume", "runs/coin")
    assert re.search(r"\(tokenizer \d+ · sft \d+ · before \d+ · rl \d+ · after \d+", done.stdout), (
        "in the order in which they were"
    )
    assert weights(tmp_path / "runs/coin") == weights(coin_home / "runs/coin")


def test_ctrl_c_is_told_as_an_interruption_and_not_as_the_death_of_a_worker(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "train",
        "quickstart",
        "--name",
        "coin",
        *sets(*COIN, "rl.steps=400", 'pipeline.mode="decoupled"', "compute.ranks=2"),
    )
    rest = interrupt(process, "/400  success", SIGINT)
    assert process.returncode == 130, rest
    assert "going on from" not in rest and "stopped in reinforcement, " in rest
    committed = int(
        re.findall(r"step-(\d+) is committed: it goes on from RL step \1, and what came after", rest)[0]
    )
    assert committed >= 1


def test_a_run_that_has_committed_nothing_says_that_it_begins_again(tmp_path: Path) -> None:
    rest = interrupt(
        start(tmp_path, "train", "quickstart", "--name", "coin", *sets(*COIN)), "vocabulary", SIGINT
    )
    assert "nothing is committed yet, so the cold start begins again. To go on: agito train --resume" in rest
    assert "safe" not in rest


def test_sigterm_ends_a_run_like_ctrl_c(tmp_path: Path) -> None:
    process = start(tmp_path, "train", "quickstart", "--name", "coin", *sets(*COIN))
    rest = interrupt(process, "held out, before", SIGTERM)
    assert process.returncode == 143, rest
    assert "interrupted by SIGTERM" in rest


def test_an_earlier_run_is_moved_aside_and_one_that_was_not_finished_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    command = ("train", "quickstart", "--name", "coin", *sets(*COIN))
    interrupt(start(tmp_path, *command), "vocabulary", SIGINT)
    first = (tmp_path / "runs/coin/run.json").read_text()
    process = start(tmp_path, *command)
    moved = lines_until(process, "the earlier run")
    interrupt(process, "vocabulary", SIGINT)
    (aside,) = (tmp_path / "runs").glob("coin.*")
    assert (
        f"is now runs/{aside.name}; it was not finished: to go on with it, agito train --resume "
        f"runs/{aside.name}" in moved
    )
    assert (aside / "run.json").read_text() == first
    assert (tmp_path / "runs/coin/run.json").exists()


def test_ctrl_c_while_a_person_is_asked_ends_the_episode(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "play", "agito.testing:FakeEnvironment"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("open 0\n")
        process.stdin.flush()
        seen = ""
        while seen.count(" left] $ ") < 2:  # it asks again
            seen += process.stdout.read(1)
        with suppress(subprocess.TimeoutExpired):
            process.send_signal(SIGINT)
            process.wait(timeout=20)  # with its input open: at its end, the episode is given up instead
        # it came between the prompt and the reading of a line: a person presses again
        if process.poll() is None:
            process.send_signal(SIGINT)
            process.wait(timeout=20)
        assert process.stderr is not None
        err = process.stderr.read()
    assert process.returncode == 130, err
    assert "Traceback" not in err
