"""`agito compare`: finished runs side by side, and in words whether their results differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from agito.cli.summary import cause_lines, rate_text
from agito.cli.tables import counted, plain_table, print_table
from agito.cli.terminal import out, show
from agito.record import Rate
from agito.record.comparison import (
    PHASES,
    Compared,
    FinishedRun,
    compared,
    differing,
    incomparable,
    read_finished,
)
from agito.record.difference import Difference
from agito.types import Json

_TITLES = {"before": "before RL", "after": "after RL", "structural": "another structure"}
_FACTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tokens sampled": lambda summary: f"{summary['sampled_tokens']:,}".replace(",", " "),
    "tool calls": lambda summary: f"{summary['tool_calls']:,}".replace(",", " "),
    "wall": lambda summary: f"{summary['wall_s']:.0f} s",
    "CPU": lambda summary: f"{summary['cpu_s']:.0f} s",
    "load at the end": lambda summary: f"{summary['load']:.1f}",
    "void attempts": lambda summary: str(summary["void_attempts"]),
    "penalised attempts": lambda summary: str(summary.get("quarantined_attempts", 0)),
}


def compare_runs(paths: Sequence[Path], *, as_json: bool) -> None:
    """The others against the first. Raises `NotFound` for what is no finished run."""
    runs = [read_finished(path) for path in paths]
    if as_json:
        print(json.dumps(as_object(runs), allow_nan=False))  # noqa: T201
        return
    names = _names(paths)
    console = out()
    _print_success(console, runs, names)
    for name, other in zip(names[1:], runs[1:], strict=True):
        for phase in PHASES:
            if other.rates[phase].num and runs[0].rates[phase].num:
                found = compared(runs[0], other, phase)
                why = incomparable(runs[0], other, found)
                said = (
                    f"{names[0]} and {name} cannot be compared, {why}"
                    if why
                    else in_words(found, names[0], name)
                )
                show(console, Text(f"{_TITLES[phase]}: {said}"))
    console.print()
    _print_facts(console, runs, names)
    unlike = (
        ("recipe, by --set key", differing([run.keys for run in runs])),
        ("conditions", differing([run.conditions for run in runs])),
    )
    for title, rows in unlike:
        console.print()
        _print_rows(console, title, rows, names)


def in_words(found: Compared, first: str, second: str) -> str:
    """Which is better, if that can be said, by how much, over what, and how the two intervals lie."""
    diff = found.difference
    better = second if diff.value > 0 else first
    verdict = f"{better} is better" if found.is_apart else f"{first} and {second} cannot be told apart"
    over = (
        f"paired over {counted(diff.num_pairs, 'task')} that both attempted{_void(found)}"
        if diff.num_pairs
        else f"as independent: their tasks are not the same{_void(found)}"
    )
    lie = "overlap" if _overlap(found.first, found.second) else "lie apart"
    return f"{verdict}; difference {_signed(diff)}, {over}; the two intervals {lie}"


def _void(found: Compared) -> str:
    """What void attempts change, where there are any."""
    if found.with_void == found.difference:
        return ""
    return f"; {_signed(found.with_void)} where void attempts are failures"


def as_object(runs: Sequence[FinishedRun]) -> dict[str, Json]:
    """For programs; what cannot be measured is null."""
    return {
        "runs": [
            {
                "path": str(run.path),
                "success": {phase: _rate_object(each) for phase, each in run.rates.items()},
                "by_cell": {
                    cell: {"before": _rate_object(before), "after": _rate_object(after)}
                    for cell, (before, after) in run.cells.items()
                },
                "conditions": dict(run.conditions),
                **{
                    name: run.summary.get(name)
                    for name in ("sampled_tokens", "tool_calls", "wall_s", "cpu_s", "load", "void_attempts")
                },
            }
            for run in runs
        ],
        "differences": [
            {
                phase: _difference_object(runs[0], other, phase)
                for phase in PHASES
                if other.rates[phase].num and runs[0].rates[phase].num
            }
            for other in runs[1:]
        ],
        "recipe": {name: list(row) for name, row in differing([run.keys for run in runs]).items()},
        "conditions": {name: list(row) for name, row in differing([run.conditions for run in runs]).items()},
    }


def _print_success(console: Console, runs: Sequence[FinishedRun], names: Sequence[str]) -> None:
    table = plain_table("success, 95 %", *names)
    for phase in PHASES:
        if any(run.rates[phase].num for run in runs):
            table.add_row(
                Text(_TITLES[phase], "bold"), *(_with_num(run.rates[phase], "bold") for run in runs)
            )
    none = (None, None)
    for cell in sorted({cell for run in runs for cell in run.cells}):
        table.add_row(
            f"  {cell}",
            *(
                Text.assemble(rate_text(before), " → ", _with_num(after))
                for before, after in (run.cells.get(cell, none) for run in runs)
            ),
        )
    print_table(console, table)
    console.print()


def _print_facts(console: Console, runs: Sequence[FinishedRun], names: Sequence[str]) -> None:
    table = plain_table("what it took", *names)
    for name, read in _FACTS.items():
        table.add_row(f"  {name}", *(read(run.summary) for run in runs))
    print_table(console, table)
    for name, run in zip(names, runs, strict=True):
        for line in cause_lines(run.summary.get("void_causes", {})):
            show(console, Text(f"  {name}: {line}", "yellow"))


def _print_rows(
    console: Console, title: str, rows: Mapping[str, tuple[str, ...]], names: Sequence[str]
) -> None:
    if not rows:
        show(console, Text(f"{title}: the same", "dim"))
        return
    table = plain_table(title, *names)
    for name, row in rows.items():
        table.add_row(f"  {name}", *row)
    print_table(console, table)


def _names(paths: Sequence[Path]) -> list[str]:
    """Their folders' names where these differ, else their paths."""
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _with_num(rate: Rate | None, style: str = "") -> Text:
    number = f" of {rate.num}" if rate is not None and rate.num else ""
    return Text.assemble(rate_text(rate, style), (number, "dim"))


def _overlap(first: Rate, second: Rate) -> bool:
    return first.low <= second.high and second.low <= first.high


def _signed(diff: Difference) -> str:
    return f"{diff.value:+.2f} [{diff.low:+.2f}, {diff.high:+.2f}]".replace("-", "−")


def _rate_object(rate: Rate) -> Json:
    if not rate.num:
        return None
    return {"success": rate.success, "low": rate.low, "high": rate.high, "num": rate.num}


def _difference_object(first: FinishedRun, second: FinishedRun, phase: str) -> Json:
    found = compared(first, second, phase)
    diff = found.difference
    return {
        "cannot_be_compared": incomparable(first, second, found) or None,
        "value": diff.value,
        "low": diff.low,
        "high": diff.high,
        "num_pairs": diff.num_pairs,
        "is_apart": found.is_apart,
        "value_with_void": found.with_void.value,
        "intervals_overlap": _overlap(found.first, found.second),
        "first": _rate_object(found.first),
        "second": _rate_object(found.second),
    }
