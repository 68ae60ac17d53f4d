"""`agito watch`: what a run's own terminal shows, drawn by another process from the run's event log."""

from __future__ import annotations

import time
from pathlib import Path

from agito.cli.exit_codes import say
from agito.cli.progress import heading_of, shown
from agito.cli.terminal import out
from agito.config import read
from agito.errors import NotFound
from agito.recipe import Recipe
from agito.record import RunDir, RunState
from agito.record.events import Event, EventTail, RunFailed, RunFinished, RunStopped
from agito.record.rundir import no_run
from agito.training.progress.board import RunProgress, planned
from agito.training.progress.stopped import resume_command

_EVERY_S = 0.2


def watch_run(path: Path) -> None:
    """Until nobody writes the run any more."""
    if RunDir.state(path) in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{path}: {no_run(path)}")
    recipe = read(Recipe, path / "config.toml")
    tail, last = EventTail(path / "events.jsonl"), None
    with shown(RunProgress(planned(recipe)), out(), heading_of(recipe, path)) as view:
        is_written = True
        while is_written:
            is_written = RunDir.is_written(path)  # asked before reading, so that nothing is left unread
            for last in tail.read():
                view.handle(last)
            if is_written:
                time.sleep(_EVERY_S)
        view.board.end()
    say(_end(path, last))


def _end(path: Path, last: Event | None) -> str:
    go_on = resume_command(path)
    match last:
        case RunFinished():
            return f"finished; the report is {path / 'report.html'}"
        case RunStopped():
            return f"stopped: {last.why}. To go on: {go_on}"
        case RunFailed():
            return f"failed: {last.why}. Once its cause is mended: {go_on}"
        case _:
            return f"the process that wrote this run has died. To go on: {go_on}"
