"""A run on the terminal while it goes on: a live board, or plain lines where there is no terminal."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from agito.cli.run_status import Mark, Phase, RunProgress, clock_text
from agito.recipe import Recipe
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

_LINE_EVERY_S = 5.0
_BLOCKS = "▁▂▃▄▅▆▇█"
_MAX_CURVE = 24
# Of the board, each with the width of the terminal from which on there is room for it.
_COLUMNS = (("mark", 0), ("title", 0), ("bar", 76), ("count", 58), ("figure", 0), ("pace", 90), ("time", 48))


@contextmanager
def shown(board: RunProgress, console: Console, heading: Text | None = None) -> Generator[Watching]:
    """Draws `board` while the block runs; what is given handles the events. Nothing is drawn before a phase
    begins: what is wrong with the work is said alone.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(board, console, heading)
        return
    live = Live(
        _Picture(board), console=console, refresh_per_second=5, redirect_stdout=False, redirect_stderr=False
    )
    with live:
        yield Watching(board, console, heading)


def heading_of(recipe: Recipe, path: Path) -> Text:
    """What stands above the board of a run."""
    about = f"{recipe.env.title} · seed {recipe.seed} · {recipe.compute.ranks} x {recipe.compute.device}"
    return Text.assemble((recipe.name, "bold"), f" → {path}  ", (about, "dim"))


class Watching:
    """Every event goes to the board, and the screen follows by itself."""

    def __init__(self, board: RunProgress, console: Console, heading: Text | None) -> None:
        self.board, self._console, self._heading = board, console, heading

    def handle(self, event: Event) -> None:
        if isinstance(event, PhaseStarted) and self._heading is not None and not self.board.has_begun:
            self._console.print(self._heading, soft_wrap=not self._console.is_terminal)
        self.board.handle(event)


class _Lines(Watching):
    """One line when a phase begins or ends, and one every few seconds."""

    def __init__(self, board: RunProgress, console: Console, heading: Text | None) -> None:
        super().__init__(board, console, heading)
        self._last = -math.inf

    def handle(self, event: Event) -> None:
        ended, had_alarm = self.board.current, self._has_alarm()
        if ended is not None and isinstance(event, PhaseStarted | EvaluationFinished | RunFinished):
            self._print(ended, event.at, f"done in {clock_text(ended.spent_s(event.at))}")
        super().handle(event)
        phase = self.board.current
        match event:
            case PhaseStarted() if phase is not None:
                self._print(phase, event.at, "begins")
            case Progress() | StepFinished() if phase is not None:
                if event.at - self._last >= _LINE_EVERY_S or self._has_alarm() != had_alarm:
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
            _count(phase),
            _figure(phase),
            _pace(phase, at),
            "" if what else _left(phase, at),
            "" if what else phase.meters,
            what,
        ]
        self._say("  ".join(part for part in parts if part))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=not self._console.is_terminal)


class _Picture:
    """Drawn afresh at every refresh."""

    def __init__(self, board: RunProgress) -> None:
        self._board = board
        self._spinner = Spinner("dots", style="cyan")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        board = self._board
        if not board.has_begun:
            return
        is_wide = options.max_width >= 100
        kept = [at for at, (_, least) in enumerate(_COLUMNS) if options.max_width >= least]
        table = Table.grid(padding=(0, 2, 0, 0), expand=76 <= options.max_width < 130)
        for at in kept:
            name = _COLUMNS[at][0]
            is_bar = name == "bar"
            table.add_column(
                no_wrap=True,
                justify="right" if name in ("count", "pace", "time") else "left",
                ratio=1 if is_bar else None,
                min_width=_MAX_CURVE if is_bar and is_wide else None,
            )
        for phase in board.phases.values():
            row = self._row(phase, is_wide)
            table.add_row(*(row[at] for at in kept))
        yield table
        left = clock_text(board.left_s())
        footer = f"  elapsed {clock_text(board.now - board.began)}" + (
            f" · about {left} left" if left else ""
        )
        yield Text(footer, style="dim")
        if board.current is not None and board.current.meters:
            yield Text(f"  {board.current.meters}", style="dim")
        for line in [*([board.trouble] if board.trouble else []), *board.notes]:
            yield Text(f"  {line}", style="yellow")

    def _row(self, phase: Phase, is_wide: bool) -> list[Text | ProgressBar | Spinner]:
        board = self._board
        if phase.mark in (Mark.TO_COME, Mark.EARLIER):
            note = "done earlier" if phase.mark is Mark.EARLIER else f"{phase.total} {phase.unit}"
            return [
                Text("✓" if phase.mark is Mark.EARLIER else "·", "dim"),
                Text(phase.title, "dim"),
                Text(note, "dim"),
                *[Text()] * 4,
            ]
        pace = Text(_pace(phase, board.now).replace("tokens", "tok"), "dim")
        if phase.mark is Mark.DONE:
            middle = (
                _sparkline(phase) if phase.curve else Text(f"{phase.done or phase.total} {phase.unit}", "dim")
            )
            took = Text(clock_text(phase.took_s), "dim")
            return [
                Text("✓", "green"),
                Text(phase.title),
                middle,
                Text(),
                Text(_figure(phase), "bold"),
                pace,
                took,
            ]
        bar = ProgressBar(
            total=max(phase.total, 1), completed=phase.done, pulse=not phase.total, complete_style="cyan"
        )
        middle = _sparkline(phase) if phase.curve and is_wide else bar
        left = Text(_left(phase, board.now))
        return [
            self._spinner,
            Text(phase.title, "bold"),
            middle,
            Text(_count(phase)),
            Text(_figure(phase), "bold"),
            pace,
            left,
        ]


def _sparkline(phase: Phase) -> Text:
    """Success of every step so far, thinned to fit."""
    stride = math.ceil(len(phase.curve) / _MAX_CURVE)
    values = [value for value in phase.curve[:: stride or 1] if math.isfinite(value)]
    blocks = "".join(_BLOCKS[min(int(value * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in values)
    return Text(blocks, "cyan")


def _count(phase: Phase) -> str:
    return f"{phase.done}/{phase.total}" if phase.total else ""


def _figure(phase: Phase) -> str:
    if math.isfinite(phase.success):
        counts = "".join(
            f", {num} {what}" for num, what in ((phase.void, "void"), (phase.penalised, "penalised")) if num
        )
        return f"success {phase.success:.2f}{counts}{', ALARM' if phase.has_alarm else ''}"
    return f"loss {phase.loss:.3f}" if math.isfinite(phase.loss) else ""


def _pace(phase: Phase, at: float) -> str:
    pace = phase.tokens_per_s(at)
    return f"{pace:,.0f} tokens/s".replace(",", " ") if math.isfinite(pace) else ""


def _left(phase: Phase, at: float) -> str:
    left = clock_text(phase.left_s(at))
    return f"{left} left" if left else ""
