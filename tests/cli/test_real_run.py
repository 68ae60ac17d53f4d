"""One small run in a real shell: trained, evaluated, acted again, watched."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.conftest import HereIn, agito_in


def test_training_ends_with_a_table_a_summary_and_a_report(shell_home: Path) -> None:
    run, out = shell_home / "runs" / "tiny", (shell_home / "train.out").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_eval_tasks"] == 8
    assert (
        f"{summary['success_after']:.2f} [{summary['success_after_low']:.2f}, "
        f"{summary['success_after_high']:.2f}]" in out
    )
    for word in (
        "before",
        "after",
        "find-1",
        "repair-1",
        "oracle",
        "no_tools",
        "CPU",
        "load",
        summary["isolation_tier"],
    ):
        assert word in out
    assert "runs/tiny/report.html" in out
    assert (run / "report.html").stat().st_size > 10_000


def test_without_a_terminal_progress_is_plain_lines_on_stderr(shell_home: Path) -> None:
    lines = (shell_home / "train.err").read_text()
    for phase in (
        "vocabulary",
        "imitation",
        "held out, before",
        "reinforcement",
        "held out, after",
        "baselines",
    ):
        assert re.search(rf"^\[ *\d+:\d\d\]  {phase}.*done in", lines, re.MULTILINE), lines
    assert re.search(r"vocabulary +32/32 .*done in", lines), "not one of its episodes was counted"
    assert re.search(r"reinforcement +3/3 .*success \d\.\d\d .*tokens/s", lines)
    assert "\x1b" not in lines


def test_eval_attempts_the_tasks_of_the_runs_own_evaluation(shell_home: Path, here_in: HereIn) -> None:
    found = json.loads(here_in(shell_home)("eval", "runs/tiny", "--env", "shell", "--json").stdout)
    summary = json.loads((shell_home / "runs/tiny/summary.json").read_text())
    assert found["policy"]["success"] == summary["success_after"]
    assert found["policy"]["num"] == 8
    assert set(found["policy"]["by_family"]) == {"find", "repair"}
    assert found["baselines"]["oracle"]["success"] == 1.0
    assert found["baselines"]["null"]["success"] == 0.0
    assert {"null", "no_tools", "random", "demonstrator", "oracle"} <= set(found["baselines"])
    assert {each["num"] for each in found["baselines"].values()} == {8}


def test_eval_prints_intervals_by_family_and_level(shell_home: Path) -> None:
    out = agito_in(shell_home)(
        "eval",
        "runs/tiny/checkpoints/final",
        "--level",
        "2",
        "--family",
        "find",
        "--n",
        "4",
        "--seed",
        "7",
        "--temperature",
        "0",
    ).stdout
    assert re.search(r"find +\d\.\d\d \[\d\.\d\d, \d\.\d\d\] +4", out), out
    assert "level 2" in out
    assert "repair" not in out
    assert re.search(r"oracle +1\.00 \[0\.40, 1\.00\]", out), out


def test_replay_of_what_happened_in_a_real_shell_is_identical_in_every_phase(
    shell_home: Path, here_in: HereIn
) -> None:
    for attempt, phase in (
        ("0.0", "demo"),
        ("1000001.0", "before"),
        ("10000000.1", "rl"),
        ("1000001.0.0", "after"),
        ("3000000.0", "structural"),
    ):
        out = here_in(shell_home)("replay", "runs/tiny", attempt, "--phase", phase).stdout
        assert "identical" in out, out
        assert f"· {phase}," in out
        assert "<|end|>" in out or "the turn was cut off" in out


def test_replay_without_an_attempt_lists_some(shell_home: Path, here_in: HereIn) -> None:
    out = here_in(shell_home)("replay", "runs/tiny").stdout
    assert "1000000.0.0" in out
    assert "--phase after" in out


def test_a_checkpoint_that_is_watched_does_what_it_did_in_the_evaluation(
    shell_home: Path, here_in: HereIn
) -> None:
    agito = here_in(shell_home)
    watched = agito("play", "--checkpoint", "runs/tiny", "--index", "1").stdout
    recorded = agito("replay", "runs/tiny", "1000001.0", "--phase", "after").stdout

    def calls(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("  $ ")]

    assert calls(watched) == calls(recorded) != []
    assert "verdict" in watched


def test_a_person_can_act_and_is_graded(shell_home: Path) -> None:
    agito = agito_in(shell_home)
    out = agito(
        "play",
        "shell",
        "--family",
        "find",
        "--level",
        "1",
        stdin="echo a b\necho hello | wc -c\nsubmit nothing of the kind\n",
    ).stdout
    assert "│ a b" in out
    assert "│ 6" in out
    assert "failure" in out
    assert "ended by submitted after 3 calls" in out
    assert "given up after 0 calls" in agito("play", "shell").stdout
