"""What the board says of a run while it goes on, by a clock that the test turns."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from agito.cli.progress import shown
from agito.recipe import Recipe
from agito.record.events import EventLog, OnEvent, Recovered, RunFinished, RunResumed, StepFinished
from agito.training.progress.board import Mark, RunProgress, clock_text, planned


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def board(clock: Clock) -> RunProgress:
    recipe = Recipe.model_validate(
        {
            "sft": {"demos": 32, "batch": 8, "epochs": 2},
            "rl": {"steps": 10},
            "eval": {"tasks": 20, "structural_tasks": 10, "baseline_tasks": 0},
        }
    )
    return RunProgress(planned(recipe), clock=clock)


def told(handle: OnEvent, clock: Clock) -> EventLog:
    """Everything comes to the board as the events of a log."""
    return EventLog(handle, clock=clock)


def rl_step(step: int, successes: float, **meters: float) -> StepFinished:
    metrics = {"success/num": 10.0, "success/successes": successes, "tokens/sampled_num": 500.0}
    return StepFinished(phase="rl", step=step, metrics=metrics | meters)


def attempt(reward: float, *, tokens: float = 0.0) -> dict[str, float]:
    """As `evaluation.policies.metrics` counts it."""
    return {
        "success/num": float(math.isfinite(reward)),
        "success/successes": float(reward == 1.0),
        "attempt/void_num": float(math.isnan(reward)),
        "tokens/sampled_num": tokens,
    }


def test_phases_and_sizes_are_known_in_advance_and_what_the_recipe_leaves_out_is_not_there() -> None:
    phases = board(Clock()).phases
    assert {name: phase.total for name, phase in phases.items()} == {
        "tokenizer": 200,
        "sft": 8,
        "before": 20,
        "rl": 10,
        "after": 20,
        "structural": 10,
    }


def test_success_in_rl_is_the_mean_over_the_last_three_steps() -> None:
    seen, clock = board(Clock()), Clock()
    log = told(seen.handle, clock)
    log.begin("rl", 10)
    assert math.isnan(seen.phases["rl"].success)
    for step, successes in enumerate((0, 1, 5, 6, 7)):
        log.emit(rl_step(step, successes))
    assert seen.phases["rl"].success == pytest.approx(0.6)
    assert seen.phases["rl"].curve == [0.0, 0.1, 0.5, 0.6, 0.7]


def test_a_phase_that_was_not_planned_leaves_those_to_come_as_they_are() -> None:
    clock = Clock()
    seen = board(clock)
    log = told(seen.handle, clock)
    log.begin("before", 20)
    log.begin("extra", 1)
    clock.now += 5
    log.begin("after", 20)
    clock.now += 2
    assert seen.phases["after"].spent_s(clock.now) == pytest.approx(2.0)
    assert seen.phases["structural"].mark is Mark.TO_COME


def test_success_of_an_evaluation_counts_full_marks_and_leaves_void_attempts_out() -> None:
    seen, clock = board(Clock()), Clock()
    log = told(seen.handle, clock)
    log.begin("before", 20)
    for reward in (1.0, 0.5, math.nan, 0.0, 1.0):
        log.advance(attempt(reward))
    assert seen.phases["before"].success == 0.5
    assert (seen.phases["before"].done, seen.phases["before"].void) == (5, 1)


def test_time_left_goes_by_the_pace_so_far_and_pace_counts_tokens() -> None:
    clock = Clock()
    seen = board(clock)
    log = told(seen.handle, clock)
    log.begin("rl", 10)
    for step in range(4):
        clock.now += 2.0
        log.emit(rl_step(step, 5))
    phase = seen.phases["rl"]
    assert phase.left_s(clock.now) == pytest.approx(12.0)
    assert phase.tokens_per_s(clock.now) == pytest.approx(250.0)


def test_time_left_of_the_run_is_told_only_when_every_phase_to_come_can_be_judged() -> None:
    clock = Clock()
    seen = board(clock)
    log = told(seen.handle, clock)
    log.begin("before", 20)
    for _ in range(20):
        clock.now += 0.5
        log.advance(attempt(1.0))
    assert math.isnan(seen.left_s())  # RL has no pace yet
    log.begin("rl", 10)
    for step in range(5):
        clock.now += 2.0
        log.emit(rl_step(step, 5))
    assert seen.left_s() == pytest.approx(5 * 2.0 + 20 * 0.5 + 10 * 0.5)


def test_a_resumed_run_counts_from_where_it_was() -> None:
    clock = Clock()
    seen = board(clock)
    log = told(seen.handle, clock)
    log.emit(RunResumed(checkpoint="step-6", step=6))
    log.begin("rl", 10)
    clock.now += 3.0
    for step in range(6, 9):
        log.emit(rl_step(step, 5))
    assert seen.phases["rl"].done == 9
    assert seen.phases["rl"].left_s(clock.now) == pytest.approx(1.0)
    assert seen.phases["tokenizer"].mark is Mark.EARLIER


def test_a_worker_that_was_lost_sets_rl_back_to_its_checkpoint_and_is_named() -> None:
    clock = Clock()
    out = io.StringIO()
    with shown(board(clock), Console(file=out, width=160)) as view:
        log = told(view.handle, clock)
        log.emit(RunResumed(checkpoint="step-2", step=2))
        log.begin("rl", 10)
        for step, successes in enumerate((1, 2, 3), 2):
            log.emit(rl_step(step, successes))
        log.emit(Recovered(why="worker 1 ended (signal SIGKILL)", step=4))
        phase = view.board.phases["rl"]
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
    with shown(board(clock), Console(file=out, width=200)) as view:
        log = told(view.handle, clock)
        log.begin("rl", 10)
        log.emit(rl_step(0, 5, **meters))
        clock.now += 6
        log.emit(rl_step(1, 5, **meters))
    assert "gated 3%; engine busy 80%" in out.getvalue()
    assert (
        view.board.phases["rl"].meters
        == "trainer idle 12%, gated 3%; engine busy 80%; tokens up to 2 versions old"
    )


def test_plain_lines_come_every_five_seconds_and_at_both_ends_of_a_phase() -> None:
    clock, out = Clock(), io.StringIO()
    seen = board(clock)
    with shown(seen, Console(file=out, force_terminal=False)) as view:
        log = told(view.handle, clock)
        log.begin("rl", 10)
        for step in range(10):
            clock.now += 2.0
            log.emit(rl_step(step, 5))
        log.emit(RunFinished())
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
    with shown(seen, console) as view:
        log = told(view.handle, clock)
        log.begin("before", 20)
        for _ in range(20):
            clock.now += 1.0
            log.advance(attempt(1.0, tokens=123456.0))
        log.begin("rl", 10)
        for step in range(9):
            clock.now += 60.0
            log.emit(rl_step(step, 5))
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
