"""Starts a run's trackers, notices when one ends, and gives them a bounded time for the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio import to_thread

from agito.record.events import Event, EventLog, Level, Notice
from agito.record.tracking.registry import folder_name

LAST_S = 10.0  # that a run's end waits for what trackers have not written yet


@asynccontextmanager
async def tracked(
    names: Sequence[str], run: Path, events: EventLog, *, last_s: float = LAST_S
) -> AsyncGenerator[None]:
    """Whoever is named follows the run's event log until this ends. What fails is warned of once, and is
    otherwise nobody's concern.
    """
    following = [_Following(name, run) for name in names]
    for each in following:
        await to_thread.run_sync(each.start)

    def look(event: Event) -> None:
        for each in following:
            if each.problem():
                events.emit(Notice(level=Level.WARNING, text=each.take_problem()))

    events.subscribe(look)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await _end(following, last_s)
        for each in following:
            if each.problem():
                with suppress(Exception):  # what ended the run counts
                    events.emit(Notice(level=Level.WARNING, text=each.take_problem()))


async def _end(following: Sequence[_Following], last_s: float) -> None:
    for each in following:
        each.say_end()
    deadline = time.monotonic() + last_s
    for each in following:
        await to_thread.run_sync(each.finish, deadline)


class _Following:
    """One tracker's process."""

    def __init__(self, name: str, run: Path) -> None:
        self._name, self._run = name, run
        self._process: subprocess.Popen[bytes] | None = None
        self._problem, self._is_told = "", False
        self._log = run / "track" / f"{folder_name(name)}.log"

    def start(self) -> None:
        try:
            self._log.parent.mkdir(exist_ok=True)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "agito.record.tracking", str(self._run), self._name],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the run, which then says the end
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        except OSError as error:
            self._problem = str(error)

    def problem(self) -> bool:
        """Whether it has failed and nobody has been told."""
        process = self._process
        if not self._is_told and not self._problem and process is not None and process.poll():
            self._problem = self._last_line() or f"its process ended with {process.returncode}"
        return bool(self._problem) and not self._is_told

    def take_problem(self) -> str:
        self._is_told = True
        return (
            f"the tracker {folder_name(self._name)} has ended: {self._problem}; the run goes on without it, "
            f"and its messages are in {self._log}"
        )

    def say_end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def finish(self, deadline: float) -> None:
        """Waits; then it is killed, with whatever it started."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._problem = "it had not finished in time after the run"
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_line(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:300] if lines else ""
