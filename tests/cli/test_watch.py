"""The terminal draws from the event log and from nothing else: its own, or that of another process."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import pytest
from rich.console import Console
from tests.cli.conftest import COIN, COMMAND, Agito, HereIn, environment, sets

from agito.cli.progress import shown
from agito.recipe import Recipe
from agito.record.events import (
    CheckpointSaved,
    EvaluationFinished,
    Event,
    EventLog,
    EventTail,
    Level,
    Notice,
    PhaseStarted,
    Recovered,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFinished,
    read_events,
)
from agito.training.progress.board import RunProgress, planned


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


RECIPE = Recipe.model_validate({"rl": {"steps": 6}, "eval": {"tasks": 300, "baseline_tasks": 4}})


def a_run(log: EventLog, clock: Clock) -> None:
    """A run with everything in it that a terminal shows, an hour of it."""
    log.emit(RunStarted(name="a", env="shell", seed=0, notes=("fitted",)))
    for phase, total in (("tokenizer", 200), ("before", 300)):
        log.begin(phase, total)
        for number in range(total):
            clock.now += 0.31
            log.advance({"success/num": 1.0, "success/successes": number % 2, "tokens/sampled_num": 9.0})
    log.emit(EvaluationFinished(phase="before", agent="policy", successes=1, num=2, num_all=3))
    clock.now += 4
    log.begin("rl", 6)
    for step in (0, 1, 2, 2, 3):
        clock.now += 61.5
        metrics: dict[str, float] = {"success/num": 8.0, "success/successes": step, "attempt/void_num": 1.0}
        metrics |= {"monitor/alarm": float(step == 3), "tokens/sampled_num": 77.0}
        log.emit(StepFinished(phase="rl", step=step, metrics=metrics))
        if step == 2:
            log.emit(Recovered(why="worker 1 ended", step=2))
    log.emit(Notice(level=Level.WARNING, text="a cell is stopped"))
    log.emit(Notice(level=Level.ALARM, text="the hack rate rises"))
    clock.now += 3
    log.emit(RunFinished())


def drawn(events: list[Event], clock: Clock, *, is_live: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=120, height=40, force_terminal=is_live, color_system=None)
    with shown(RunProgress(planned(RECIPE), clock=clock), console) as view:
        for event in events:
            view.handle(event)
    return out.getvalue()


@pytest.mark.parametrize("is_live", [False, True])
def test_the_terminal_draws_from_the_file_what_it_drew_while_the_run_went_on(
    tmp_path: Path, is_live: bool
) -> None:
    """As lines the text is the same, second by second; the live board ends as the same picture."""
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=120, height=40, force_terminal=is_live, color_system=None)
    path = tmp_path / "events.jsonl"
    with (
        shown(RunProgress(planned(RECIPE), clock=clock), console) as view,
        EventLog(view.handle, path, clock=clock) as log,
    ):
        a_run(log, clock)
    live, later = out.getvalue(), drawn(read_events(path), clock, is_live=is_live)
    end = live.rfind("vocabulary") if is_live else 0  # the last of the pictures
    assert live[end:] == later[later.rfind("vocabulary") if is_live else 0 :]
    for words in ("success 0.50", "a cell is stopped", "going on from RL step 2", "ALARM"):
        assert words in live[end:], words


def test_what_is_not_in_an_event_is_not_on_the_terminal(tmp_path: Path) -> None:
    """Each event that a terminal shows, taken out of the file, changes what is drawn from it."""
    clock, path = Clock(), tmp_path / "events.jsonl"
    with EventLog(path=path, clock=clock) as log:
        a_run(log, clock)
    events = read_events(path)
    whole = drawn(events, clock, is_live=False)
    steps = [i for i, event in enumerate(events) if isinstance(event, StepFinished)]
    shows = (PhaseStarted, StepFinished, Recovered, Notice, EvaluationFinished, RunFinished)
    for index, event in enumerate(events):
        is_shown = isinstance(event, shows) and not (isinstance(event, Notice) and event.level is Level.ALARM)
        if is_shown:
            less = [*events[:index], *events[index + 1 :]]
            assert drawn(less, clock, is_live=False) != whole, event
    for index in steps:
        event = events[index]
        assert isinstance(event, StepFinished)
        other = replace(event, metrics={**event.metrics, "success/successes": 7.5})
        changed = [*events[:index], other, *events[index + 1 :]]
        assert drawn(changed, clock, is_live=False) != whole, event


def test_a_resumed_run_is_drawn_as_by_the_terminal_of_the_process_that_resumed_it(tmp_path: Path) -> None:
    clock, path, out = Clock(), tmp_path / "events.jsonl", io.StringIO()
    with EventLog(path=path, clock=clock) as log:
        log.emit(RunStarted(name="a", env="shell", seed=0))
        log.begin("rl", 6)
        log.emit(StepFinished(phase="rl", step=0, metrics={}))
    clock.now += 7200
    with (
        shown(RunProgress(planned(RECIPE), clock=clock), Console(file=out, width=120)) as view,
        EventLog(view.handle, path, clock=clock) as log,
    ):
        log.emit(RunResumed(checkpoint="step-4", step=4))
        log.begin("rl", 6)
        for step in (4, 5):
            clock.now += 6
            log.emit(StepFinished(phase="rl", step=step, metrics={"success/num": 2.0}))
    assert "4/6" in out.getvalue() and drawn(read_events(path), clock, is_live=False).endswith(out.getvalue())


def lines(text: str) -> list[str]:
    """Without what is said outside the picture."""
    return [line for line in text.splitlines() if not line.startswith("agito: ")]


@pytest.mark.timeout(240)
def test_a_run_is_watched_while_another_process_writes_it_and_after_that_process_was_killed(
    tmp_path: Path,
) -> None:
    run = tmp_path / "runs/coin"
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


def test_a_finished_run_is_drawn_to_its_end(coin_home: Path, here_in: HereIn) -> None:
    done = here_in(coin_home)("watch", "runs/coin")
    first, *_, last = done.stdout.splitlines()
    assert " → runs/coin " in first and "done in" in last
    assert "agito: finished; the report is runs/coin/report.html" in done.stderr


def test_there_is_nothing_to_watch_where_there_is_no_run(agito_here: Agito) -> None:
    done = agito_here("watch", "nowhere", expect=4)
    assert "agito: error: nowhere: no run there" in done.stderr
