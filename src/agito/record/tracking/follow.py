"""What a tracker's process does: the events of a run become points, in order, each once."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agito.protocols import Point, TrackedRun, Tracker
from agito.record.events import (
    CheckpointSaved,
    EvaluationFinished,
    Event,
    EventTail,
    Recovered,
    RunResumed,
    StepFinished,
    SummaryWritten,
)
from agito.record.files import write_atomically
from agito.record.intervals import Rate
from agito.record.tracking.registry import folder_name, load

_POLL_S = 0.5
_LAST_S = 15  # after the run's end; then it is taken to hang
_BATCH = 256  # points at once
_SUMMED = (
    "success_before",
    "success_after",
    "success_structural",
    "wall_s",
    "cpu_s",
    "sampled_tokens",
    "tool_calls",
    "void_attempts",
)


def follow(path: Path, name: str, stdin: int) -> None:
    """Until `stdin` is closed, by the run's end or its death, and everything written by then is passed on."""
    os.nice(10)
    run = _run_of(path, name)
    run.folder.mkdir(parents=True, exist_ok=True)
    tracker = load(name)
    tracker.open(run)
    reader, tail, ends = (
        Reader(path, tracker, run.folder / "position.json"),
        EventTail(path / "events.jsonl"),
        False,
    )
    while not ends:
        ends = bool(select.select([stdin], [], [], _POLL_S)[0]) and not os.read(stdin, 1)
        if ends:
            signal.alarm(_LAST_S)
        reader.take(tail.read())
    tracker.close()


class Reader:
    """Passes events on as points. A tracker that died, or a resumed run's, goes on after what it has."""

    def __init__(self, path: Path, tracker: Tracker, position: Path) -> None:
        self._path, self._tracker, self._position = path, tracker, position
        self._next_seq = _next_seq(position)
        self._steps, self._is_committed = 0, False
        self._points: list[Point] = []

    def take(self, events: list[Event]) -> None:
        """In order."""
        for event in events:
            is_new = event.seq >= self._next_seq
            if is_new and isinstance(event, RunResumed | Recovered):
                self._pass_on(event.seq)
                self._rewind(event)
            found = self._point(event)
            if is_new and found is not None:
                self._points.append(found)
                if len(self._points) == _BATCH:
                    self._pass_on(event.seq + 1)
        if events and events[-1].seq >= self._next_seq:
            self._pass_on(events[-1].seq + 1)

    def _pass_on(self, next_seq: int) -> None:
        if self._points:
            self._tracker.log(self._points)
            self._points = []
        self._next_seq = next_seq
        write_atomically(self._position, json.dumps({"next_seq": next_seq}).encode())

    def _rewind(self, event: RunResumed | Recovered) -> None:
        if not self._is_committed:  # then the cold start begins anew
            self._tracker.rewind("sft", 0)
        self._steps = min(self._steps, event.step)
        self._tracker.rewind("rl", event.step)

    def _point(self, event: Event) -> Point | None:
        phase, values, step = "", dict[str, float](), self._steps
        match event:
            case StepFinished():
                phase, step, values = event.phase, event.step, dict(event.metrics)
                self._steps = event.step + 1 if phase == "rl" else self._steps
            case EvaluationFinished():
                is_policy = event.agent == "policy"
                phase = (
                    ("heldout" if event.phase in ("before", "after") else event.phase)
                    if is_policy
                    else "scripts"
                )
                values = _evaluated(event, "success" if is_policy else event.agent)
            case SummaryWritten():
                phase, values = "summary", _summed(self._path / "summary.json")
            case CheckpointSaved():
                self._is_committed = True
            case _:
                pass
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        return Point(phase=phase, step=step, at=event.at, values=finite) if finite else None


def _evaluated(event: EvaluationFinished, area: str) -> dict[str, float]:
    rate = Rate(successes=event.successes, num=event.num)
    return {
        f"{area}/rate": rate.success,
        f"{area}/low": rate.low,
        f"{area}/high": rate.high,
        f"{area}/num": float(event.num),
        f"{area}/void_num": float(event.num_all - event.num),
    }


def _summed(path: Path) -> dict[str, float]:
    """The results that are plain numbers; none while the file is being replaced."""
    try:
        found: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: float(found[name]) for name in _SUMMED if isinstance(found.get(name), int | float)}


def _run_of(path: Path, name: str) -> TrackedRun:
    recipe: dict[str, Any] = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    track: Mapping[str, Any] = recipe.get("track", {})
    return TrackedRun(
        name=path.resolve().name,
        recipe=recipe,
        folder=path.resolve() / "track" / folder_name(name),
        project=str(track.get("project", "agito")),
        online=bool(track.get("online", False)),
    )


def _next_seq(position: Path) -> int:
    try:
        return int(json.loads(position.read_bytes())["next_seq"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
