"""`agito watch` draws, from another process, what the terminal of a run shows."""

from __future__ import annotations

import subprocess
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import pytest
from tests.cli.conftest import COIN, COMMAND, Agito, agito_in, environment, sets

from agito.record.events import CheckpointSaved, EventTail


def lines(text: str) -> list[str]:
    """Without what is said outside the picture."""
    return [line for line in text.splitlines() if not line.startswith("agito: ")]


@pytest.mark.timeout(240)
def test_a_run_is_watched_while_another_process_writes_it_and_after_that_process_was_killed(
    tmp_path: Path,
) -> None:
    run, agito = tmp_path / "runs/coin", agito_in(tmp_path)
    words = [*COMMAND, "train", "quickstart", "--name", "coin", *sets(*COIN, "rl.steps=12")]
    with Popen(words, cwd=tmp_path, env=environment(tmp_path), stdout=PIPE, stderr=PIPE, text=True) as train:
        tail, is_saved, watch = EventTail(run / "events.jsonl"), False, None
        while not is_saved:
            with pytest.raises(subprocess.TimeoutExpired):
                train.wait(timeout=0.05)  # it goes on
            events = tail.read()
            is_saved = any(isinstance(e, CheckpointSaved) and e.step == 2 for e in events)
            if events and watch is None:
                words = [*COMMAND, "watch", "runs/coin"]
                watch = Popen(
                    words, cwd=tmp_path, env=environment(tmp_path), stdout=PIPE, stderr=STDOUT, text=True
                )
        train.kill()
        shown = train.communicate()[1]
    assert watch is not None
    seen, _ = watch.communicate(timeout=60)
    both = len(lines(shown))  # the last event may be in the file, and not yet on the terminal that was killed
    assert lines(seen)[:both] == lines(shown) and "reinforcement" in shown
    assert "agito: the process that wrote this run has died. To go on: agito train --resume runs/coin" in seen

    resumed = agito("train", "--resume", "runs/coin")
    watched = agito("watch", "runs/coin")
    assert lines(watched.stdout)[-len(lines(resumed.stderr)) + 1 :] == lines(resumed.stderr)[1:]
    assert "agito: finished; the report is runs/coin/report.html" in watched.stderr


def test_there_is_nothing_to_watch_where_there_is_no_run(agito_here: Agito) -> None:
    done = agito_here("watch", "nowhere", expect=4)
    assert "agito: error: nowhere: no run there" in done.stderr
