"""What the board says of a run while it goes on, by a clock that the test turns."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from agito.cli.board import Mark, RunProgress, clock_text, planned
from agito.cli.progress import shown
from agito.recipe import Recipe


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def board(clock: Clock, *, first: dict[str, int] | None = None) -> RunProgress:
    recipe = Recipe.model_validate(
        {
            "sft": {"demos": 32, "batch": 8, "epochs": 2},
            "rl": {"steps": 10},
            "eval": {"tasks": 20, "structural_tasks": 10, "baseline_tasks": 0},
        }
    )
    return RunProgress(planned(recipe), first=first, clock=clock)


def rl_step(successes: float) -> dict[str, float]:
    return {"success/num": 10.0, "success/successes": successes, "tokens/sampled_num": 500.0}


def test_phases_and_sizes_are_known_in_advance_and_what_the_recipe_leaves_out_is_not_there() -> None:
    phases = board(Clock()).phases
    assert {name: phase.total for name, phase in phases.items()} == {
        "survey": 200,
        "sft": 8,
        "before": 20,
        "rl": 10,
        "after": 20,
        "structural": 10,
    }


def test_success_in_rl_is_the_mean_over_the_last_three_steps() -> None:
    seen = board(Clock())
    seen.phase("rl", 10)
    assert math.isnan(seen.phases["rl"].success)
    for successes in (0, 1, 5, 6, 7):
        seen.advance(rl_step(successes))
    assert seen.phases["rl"].success == pytest.approx(0.6)
    assert seen.phases["rl"].curve == [0.0, 0.1, 0.5, 0.6, 0.7]


def test_a_phase_that_was_not_planned_leaves_those_to_come_as_they_are() -> None:
    clock = Clock()
    seen = board(clock)
    seen.phase("before", 20)
    seen.phase("extra", 1)
    clock.now += 5
    seen.phase("after", 20)
    clock.now += 2
    assert seen.phases["after"].spent_s(clock.now) == pytest.approx(2.0)
    assert seen.phases["structural"].mark is Mark.TO_COME


def test_success_of_an_evaluation_counts_full_marks_and_leaves_void_attempts_out() -> None:
    seen = board(Clock())
    seen.phase("before", 20)
    for reward in (1.0, 0.5, math.nan, 0.0, 1.0):
        seen.advance({"reward/mean": reward})
    assert seen.phases["before"].success == 0.5
    assert seen.phases["before"].done == 5


def test_time_left_goes_by_the_pace_so_far_and_pace_counts_tokens() -> None:
    clock = Clock()
    seen = board(clock)
    seen.phase("rl", 10)
    for _ in range(4):
        clock.now += 2.0
        seen.advance(rl_step(5))
    phase = seen.phases["rl"]
    assert phase.left_s(clock.now) == pytest.approx(12.0)
    assert phase.tokens_per_s(clock.now) == pytest.approx(250.0)


def test_time_left_of_the_run_is_told_only_when_every_phase_to_come_can_be_judged() -> None:
    clock = Clock()
    seen = board(clock)
    seen.phase("before", 20)
    for _ in range(20):
        clock.now += 0.5
        seen.advance({"reward/mean": 1.0})
    assert math.isnan(seen.left_s())  # RL has no pace yet
    seen.phase("rl", 10)
    for _ in range(5):
        clock.now += 2.0
        seen.advance(rl_step(5))
    assert seen.left_s() == pytest.approx(5 * 2.0 + 20 * 0.5 + 10 * 0.5)


def test_a_resumed_run_counts_from_where_it_was() -> None:
    clock = Clock()
    seen = board(clock, first={"rl": 6})
    seen.phase("rl", 10)
    clock.now += 3.0
    for _ in range(3):
        seen.advance(rl_step(5))
    assert seen.phases["rl"].done == 9
    assert seen.phases["rl"].left_s(clock.now) == pytest.approx(1.0)
    assert seen.phases["survey"].mark is Mark.EARLIER


def test_a_worker_that_was_lost_sets_rl_back_to_its_checkpoint_and_is_named() -> None:
    clock = Clock()
    out = io.StringIO()
    with shown(board(clock, first={"rl": 2}), Console(file=out, width=160)) as watcher:
        watcher.phase("rl", 10)
        for successes in (1, 2, 3):
            watcher.advance(rl_step(successes))
        watcher.recover("worker 1 ended (signal SIGKILL)", 4)
        phase = watcher.board.phases["rl"]
        assert (phase.done, phase.curve) == (4, [0.1, 0.2])
    assert "worker 1 ended (signal SIGKILL); going on from RL step 4" in out.getvalue()


def test_where_roles_overlap_their_meters_are_shown() -> None:
    out, clock = io.StringIO(), Clock()
    meters = {
        "trainer/idle_ratio": 0.12,
        "trainer/gate_wait_ratio": 0.03,
        "engine/busy_ratio": 0.8,
        "age/max_versions": 2.0,
    }
    with shown(board(clock), Console(file=out, width=200)) as watcher:
        watcher.phase("rl", 10)
        watcher.advance(rl_step(5) | meters)
        clock.now += 6
        watcher.advance(rl_step(5) | meters)
    assert "gated 3%; engine busy 80%" in out.getvalue()
    assert (
        watcher.board.phases["rl"].meters
        == "trainer idle 12%, gated 3%; engine busy 80%; tokens up to 2 versions old"
    )


def test_plain_lines_come_every_five_seconds_and_at_both_ends_of_a_phase() -> None:
    clock, out = Clock(), io.StringIO()
    seen = board(clock)
    with shown(seen, Console(file=out, force_terminal=False)) as watcher:
        watcher.phase("rl", 10)
        for _ in range(10):
            clock.now += 2.0
            watcher.advance(rl_step(5))
        watcher.finish()
    lines = out.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["reinforcement"] * len(lines)
    assert [line.split()[3] for line in lines] == ["0/10", "3/10", "6/10", "9/10", "10/10"]
    assert lines[1].endswith("success 0.50  250 tokens/s  0:14 left")
    assert lines[-1].endswith("done in 0:20")


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_live_board_fits_its_terminal(width: int) -> None:
    clock, out = Clock(), io.StringIO()
    seen = board(clock)
    console = Console(
        file=out, force_terminal=True, width=width, height=40, color_system=None, legacy_windows=False
    )
    with shown(seen, console) as watcher:
        watcher.phase("before", 20)
        for _ in range(20):
            clock.now += 1.0
            watcher.advance({"reward/mean": 1.0, "tokens/sampled_num": 123456.0})
        watcher.phase("rl", 10)
        for _ in range(9):
            clock.now += 60.0
            watcher.advance(rl_step(5))
    text = out.getvalue()
    assert "9/10" in text
    assert "success 0.50" in text
    assert "about 1:30 left" in text
    assert max(len(line) for line in text.split("\n") if "\x1b" not in line) <= width


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (3723, "1:02:03"), (math.nan, "")]
)
def test_a_duration_reads_like_a_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
