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

from agito.cli.exit_codes import say
from agito.recipe import Recipe
from agito.record.events import Event, PhaseStarted
from agito.training.progress.board import Mark, Phase, RunProgress, clock_text, loading
from agito.training.progress.lines import Lines, count_text, figure_text, left_text, pace_text

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


def tell_loading(recipe: Recipe) -> None:
    """Before a pre-trained model is opened, which may take minutes in which nothing else is said."""
    if told := loading(recipe):
        say(told)


class Watching:
    """Every event goes to the board, and the screen follows by itself."""

    def __init__(self, board: RunProgress, console: Console, heading: Text | None) -> None:
        self.board, self._console, self._heading = board, console, heading

    def handle(self, event: Event) -> None:
        self._head(event)
        self.board.handle(event)

    def _head(self, event: Event) -> None:
        if isinstance(event, PhaseStarted) and self._heading is not None and not self.board.has_begun:
            self._console.print(self._heading, soft_wrap=not self._console.is_terminal)


class _Lines(Watching):
    """One line when a phase begins or ends, and one every few seconds."""

    def __init__(self, board: RunProgress, console: Console, heading: Text | None) -> None:
        super().__init__(board, console, heading)
        self._lines = Lines(board, self._say)

    def handle(self, event: Event) -> None:
        self._head(event)
        self._lines.handle(event)

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
        pace = Text(pace_text(phase, board.now).replace("tokens", "tok"), "dim")
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
                Text(figure_text(phase), "bold"),
                pace,
                took,
            ]
        bar = ProgressBar(
            total=max(phase.total, 1), completed=phase.done, pulse=not phase.total, complete_style="cyan"
        )
        middle = _sparkline(phase) if phase.curve and is_wide else bar
        left = Text(left_text(phase, board.now))
        return [
            self._spinner,
            Text(phase.title, "bold"),
            middle,
            Text(count_text(phase)),
            Text(figure_text(phase), "bold"),
            pace,
            left,
        ]


def _sparkline(phase: Phase) -> Text:
    """Success of every step so far, thinned to fit."""
    stride = math.ceil(len(phase.curve) / _MAX_CURVE)
    values = [value for value in phase.curve[:: stride or 1] if math.isfinite(value)]
    blocks = "".join(_BLOCKS[min(int(value * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in values)
    return Text(blocks, "cyan")
