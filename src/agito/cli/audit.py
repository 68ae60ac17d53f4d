"""`agito audit`: live progress, the card on the terminal, as JSON or as a page, and how to repair what
failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from agito.audit import FULL, SHORT, Card, Mark, Measure, Quality, audit
from agito.audit.run import SEED
from agito.cli.exit_codes import say, work
from agito.cli.tables import counted, plain_table, print_table
from agito.cli.terminal import err, out, show
from agito.envs import load
from agito.errors import NotAdmitted
from agito.record.events import Event, OnEvent, PhaseStarted, Progress
from agito.record.writable import require_file
from agito.training.admission import keep
from agito.view import write_card

_SIGNS = {Mark.GOOD: Text("✓", "green"), Mark.DOUBT: Text("!", "yellow"), Mark.BAD: Text("✗", "red")}


def audit_environment(
    name: str, *, short: bool, seconds: float | None, seed: int | None, as_json: bool, html: Path | None
) -> None:
    """Ends with the exit code of `NotAdmitted` when a gate does not hold. Its card is kept for
    `agito train`.
    """
    if html is not None:
        require_file(html, "--html")
    work(load(name).aclose)  # a name that is none is refused before anything is said
    depth = SHORT if short else FULL
    depth = replace(depth, seconds=seconds) if seconds else depth
    with _shown(name) as on_event:
        card = work(
            lambda: audit(
                lambda: load(name), depth=depth, seed=SEED if seed is None else seed, on_event=on_event
            )
        )
    keep(card)
    if as_json:
        sys.stdout.buffer.write(card.to_json())
    else:
        print_card(card, out())
    if html is not None:
        say(f"the card is also in {write_card(json.loads(card.to_json()), html)}")
    if card.failed:
        raise typer.Exit(NotAdmitted.exit_code)


class _Progress:
    """One line that says which part is on, and for how many episodes by now."""

    def __init__(self, name: str, status: Status) -> None:
        self._name, self._status = name, status
        self._part, self._earlier, self._here, self._began = "", 0, 0, time.time()

    def handle(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._part, self._earlier, self._here = event.phase, self._earlier + self._here, 0
        elif isinstance(event, Progress):
            self._here = event.done
        episodes = counted(self._earlier + self._here, "episode")
        self._status.update(f"{self._name}: {self._part} · {episodes} · {event.at - self._began:.0f} s")


def _say_part(event: Event) -> None:
    """The same where there is no terminal: a line a part."""
    if isinstance(event, PhaseStarted):
        say(f"  {event.phase}")


@contextmanager
def _shown(name: str) -> Generator[OnEvent]:
    console = err()
    if not console.is_terminal:
        say(f"auditing {name}")
        yield _say_part
        return
    with console.status(name) as status:
        yield _Progress(name, status).handle


def print_card(card: Card, console: Console) -> None:
    """What the environment raised, then the gates in sentences, then figures, and the outcome last."""
    title = Text.assemble((f"{card.environment} {card.version}", "bold"), (f"  {card.digest[:12]}", "dim"))
    cores, load = card.machine.get("cores"), card.machine.get("load")
    about = (
        f"{card.depth} audit, {counted(card.episodes, 'episode')} in {card.seconds:.0f} s on {cores} "
        f"cores at load {load}"
    )
    console.print(title, Text(about, "dim"), sep="\n")
    if card.broke:
        console.print(Text("\nThe environment raised, in honest episodes:", "red"))
        for case in card.broke:
            console.print(Text.assemble("  ", case.what, (f"  {case.where}", "dim")))
    console.print()
    _print_gates(card, console)
    for quality in card.qualities:
        console.print()
        console.print(Text.assemble(_SIGNS[quality.mark], "  ", (quality.name, "bold"), "  ", quality.says))
        if quality.measures:
            print_table(console, _numbers(quality))
        for case in quality.cases:
            console.print(Text.assemble(("     case  ", "yellow"), case.what, (f"  {case.where}", "dim")))
    ends = (
        Text("\nfit to train on", "green")
        if not card.failed
        else Text(f"\nnot fit to train on: {', '.join(g.name for g in card.failed)}", "red")
    )
    if any(quality.mark is Mark.DOUBT for quality in card.qualities):
        console.print(Text("\n! marks what is worth a look; only ✗ keeps out of training", "dim"))
    console.print(ends)


def _numbers(quality: Quality) -> Table:
    table = plain_table("measure", "value", "95 %", "of", wrapped=("of",))
    table.show_header = False
    for column, (width, style) in zip(
        table.columns, ((31, "dim"), (12, ""), (11, "dim"), (None, "dim")), strict=True
    ):
        column.min_width, column.style = width, style
    table.columns[1].justify = "right"
    for each in quality.measures:
        low = "" if each.low is None else f"{each.low:.3f}–{each.high:.3f}"
        table.add_row(f"     {each.name}", value_of(each), low, _basis(each))
    return table


def _basis(measure: Measure) -> str:
    return f"n={measure.num}  {measure.note}" if measure.num else measure.note


def value_of(measure: Measure) -> str:
    if measure.value is None:
        return "–"
    text = (
        f"{measure.value:,.0f}"
        if abs(measure.value) >= 1000 or measure.value == int(measure.value)
        else f"{measure.value:.3f}"
    )
    return f"{text} {measure.unit}".strip()


def _print_gates(card: Card, console: Console) -> None:
    """Those that do not hold first, each with its remedy."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(min_width=1)
    table.add_column(min_width=13)
    table.add_column(ratio=1)
    for gate in sorted(card.gates, key=lambda gate: (gate.holds, not gate.doubt)):
        mark = Mark.BAD if not gate.holds else Mark.DOUBT if gate.doubt else Mark.GOOD
        said = Text(gate.found, "dim" if mark is Mark.GOOD else "")
        if mark is not Mark.GOOD:
            why = f"{gate.doubt}: {gate.remedy}" if gate.holds else f"remedy: {gate.remedy}"
            said.append(f"\n{why}", "yellow" if gate.holds else "red")
        table.add_row(_SIGNS[mark], gate.name, said)
    show(console, table)
