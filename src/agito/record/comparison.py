"""Finished runs beside one another, read from their directories: results, differences, what was not alike."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, cast

from agito.errors import NotFound
from agito.record.difference import Difference, difference, paired_difference
from agito.record.intervals import Rate
from agito.record.reading import read_trajectories
from agito.record.rundir import RunDir, RunState, no_run
from agito.record.summary import rate
from agito.record.trajectories import is_success
from agito.types import Attempt, Json, Task

PHASES = ("before", "after", "structural")
_NOT_A_CHOICE = ("name",)  # a run's name says nothing of how it was trained
_KINDS = ("env.name", "env.vocabulary", "env.mix", "env.families", "env.levels")  # what tasks a run is about
ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """What a run came to. `outcomes`: by phase and task, None for void attempts; empty where tasks came up
    more than once.
    """

    path: Path
    summary: Mapping[str, Any]
    conditions: Mapping[str, str]  # commit, versions, machine
    keys: Mapping[str, str]  # of its recipe, as `--set` names them
    outcomes: Mapping[str, Mapping[Hashable, bool | None]]
    rates: Mapping[str, Rate]  # by phase
    rates_with_void: Mapping[str, Rate]  # the same, where a void attempt counts as a failure
    cells: Mapping[str, tuple[Rate, Rate]]  # before and after


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One run against another, in one phase. `with_void`: the difference where void attempts count as
    failures, over all tasks that both attempted.
    """

    first: Rate
    second: Rate
    difference: Difference
    with_void: Difference

    @property
    def is_apart(self) -> bool:
        """Whether one is better either way: whoever causes a void must not gain by it."""
        one, other = self.difference, self.with_void
        return one.is_apart and other.is_apart and (one.value > 0) is (other.value > 0)


def read_finished(path: Path) -> FinishedRun:
    """Raises `NotFound` where there is no run, or one that has not come to its end."""
    state = RunDir.state(path)
    if state in (RunState.ABSENT, RunState.FOREIGN):
        raise NotFound(f"{path}: {no_run(path)}")
    if state is RunState.UNFINISHED:
        remedy = (
            f"it is being written; look on with agito watch {quote(str(path))}"
            if RunDir.is_written(path)
            else f"go on with agito train --resume {quote(str(path))}"
        )
        raise NotFound(f"{path}: not finished, so there is no result to compare; {remedy}")
    try:
        summary: dict[str, Any] = json.loads((path / "summary.json").read_bytes())
        about: dict[str, Any] = json.loads((path / "run.json").read_bytes())
        recipe = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        attempts = {phase: _attempts(path, phase) for phase in PHASES}
        rates = {phase: rate(each) if each else _told(summary, phase) for phase, each in attempts.items()}
        return FinishedRun(
            path=path,
            summary=summary,
            conditions=_conditions(about),
            keys={name: _written(value) for name, value in _flat(recipe) if name not in _NOT_A_CHOICE},
            outcomes={phase: _outcomes(each) for phase, each in attempts.items()},
            rates=rates,
            rates_with_void={
                phase: Rate(successes=rates[phase].successes, num=len(each)) if each else rates[phase]
                for phase, each in attempts.items()
            },
            cells={
                cell: (_rate(each, "before", each["num_before"]), _rate(each, "after", each["num_after"]))
                for cell, each in summary["by_cell"].items()
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotFound(f"{path}: its results cannot be read: {error!r}; restore its files") from error


def compared(first: FinishedRun, second: FinishedRun, phase: str) -> Compared:
    """Task by task over the tasks that both attempted, else as independent."""
    tables = first.outcomes[phase], second.outcomes[phase]
    scored = [{task: found for task, found in each.items() if found is not None} for each in tables]
    every = [{task: bool(found) for task, found in each.items()} for each in tables]
    one, two, paired = paired_difference(*scored)
    if paired.num_pairs:
        *_, with_void = paired_difference(*every)
        return Compared(first=one, second=two, difference=paired, with_void=with_void)
    one, two = first.rates[phase], second.rates[phase]
    with_void = difference(first.rates_with_void[phase], second.rates_with_void[phase])
    return Compared(first=one, second=two, difference=difference(one, two), with_void=with_void)


def incomparable(first: FinishedRun, second: FinishedRun, found: Compared) -> str:
    """Why neither of two results is the better one: they are of other kinds of tasks. Empty: they compare."""
    if first.path.resolve() == second.path.resolve():
        return "it is the same run"
    if found.difference.num_pairs:
        return ""
    kinds = [(key, first.keys.get(key, ABSENT), second.keys.get(key, ABSENT)) for key in _KINDS]
    unlike = [f"{key} is {one} and {two}" for key, one, two in kinds if one != two]
    return f"other tasks: {', '.join(unlike)}" if unlike else ""


def differing(tables: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """What is not the same in all of them, by name."""
    names = dict.fromkeys(name for table in tables for name in table)
    rows = {name: tuple(table.get(name, ABSENT) for table in tables) for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}


def _attempts(path: Path, phase: str) -> list[Attempt]:
    file = path / "trajectories" / f"{phase}-00000.parquet"
    return [recorded.attempt for recorded in read_trajectories(file)] if file.exists() else []


def _outcomes(attempts: Sequence[Attempt]) -> dict[Hashable, bool | None]:
    named = [(_identity(attempt.trajectory.task), is_success(attempt)) for attempt in attempts]
    if len({task for task, _ in named}) < len(named):
        return {}
    return dict(named)


def _identity(task: Task) -> Hashable:
    """Its prompt too, for an environment may have been edited between two runs."""
    return (task.env, task.id, tuple(sorted(task.prompt.items())))


def _told(summary: Mapping[str, Any], phase: str) -> Rate:
    """By the summary, where trajectories have been removed; it counts attempts by cell only."""
    if phase == "structural":
        return Rate(successes=0, num=0)
    num = sum(int(each[f"num_{phase}"]) for each in summary["by_cell"].values())
    return _rate(summary, f"success_{phase}", num)


def _rate(table: Mapping[str, Any], name: str, num: int) -> Rate:
    success = table[name]
    return Rate(successes=round(success * num) if success is not None else 0, num=num)


def _conditions(about: Mapping[str, Any]) -> dict[str, str]:
    versions, machine = about.get("versions", {}), about.get("machine", {})
    found = {"commit": about.get("commit", "unknown"), **machine, **versions}
    found["isolation"] = about.get("isolation_tier", "unknown")
    found.pop("load", None)
    return {name: str(value) for name, value in found.items()}


def _flat(table: Mapping[str, Any], at: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(cast("dict[str, Any]", value), f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def _written(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
