"""A run in plain lines: for a pipe, a file, and for whoever trains from Python."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from agito.record.events import (
    EvaluationFinished,
    Event,
    Level,
    Notice,
    PhaseStarted,
    Progress,
    Recovered,
    RunFinished,
    StepFinished,
)
from agito.training.progress.board import Phase, RunProgress, clock_text

_LINE_EVERY_S = 5.0


def on_stderr(line: str) -> None:
    """Whoever is not listening is not told."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        return


class Lines:
    """One line when a phase begins or ends, and one every few seconds. `board` handles every event too."""

    def __init__(self, board: RunProgress, say: Callable[[str], None] = on_stderr) -> None:
        self.board, self._say = board, say
        self._last = -math.inf

    def handle(self, event: Event) -> None:
        ended, had_alarm = self.board.current, self._has_alarm()
        if ended is not None and isinstance(event, PhaseStarted | EvaluationFinished | RunFinished):
            self._print(ended, event.at, f"done in {clock_text(ended.spent_s(event.at))}")
        self.board.handle(event)
        phase = self.board.current
        match event:
            case PhaseStarted() if phase is not None:
                self._print(phase, event.at, "begins")
            case Progress() | StepFinished() if phase is not None:
                is_last = 0 < phase.total <= phase.done  # that it is done is said next
                is_due = event.at - self._last >= _LINE_EVERY_S and not is_last
                if is_due or self._has_alarm() != had_alarm:
                    self._print(phase, event.at, "")
            case Recovered():
                self._say(self.board.trouble)
            case Notice() if event.level is not Level.ALARM:
                self._say(event.text)
            case _:
                pass

    def _has_alarm(self) -> bool:
        return self.board.current is not None and self.board.current.has_alarm

    def _print(self, phase: Phase, at: float, what: str) -> None:
        board, self._last = self.board, at
        parts = [
            f"[{clock_text(at - board.began):>5}]",
            f"{phase.title:<16}",
            count_text(phase),
            figure_text(phase),
            pace_text(phase, at),
            "" if what else left_text(phase, at),
            "" if what else phase.meters,
            what,
        ]
        self._say("  ".join(part for part in parts if part))


def count_text(phase: Phase) -> str:
    return f"{phase.done}/{phase.total}" if phase.total else ""


def figure_text(phase: Phase) -> str:
    if math.isfinite(phase.success):
        counts = "".join(
            f", {num} {what}" for num, what in ((phase.void, "void"), (phase.penalised, "penalised")) if num
        )
        return f"success {phase.success:.2f}{counts}{', ALARM' if phase.has_alarm else ''}"
    return f"loss {phase.loss:.3f}" if math.isfinite(phase.loss) else ""


def pace_text(phase: Phase, at: float) -> str:
    pace = phase.tokens_per_s(at)
    return f"{pace:,.0f} tokens/s".replace(",", " ") if math.isfinite(pace) else ""


def left_text(phase: Phase, at: float) -> str:
    left = clock_text(phase.left_s(at))
    return f"{left} left" if left else ""
