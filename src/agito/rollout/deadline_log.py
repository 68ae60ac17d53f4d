"""Records which timeouts really happened, so that a resumed or replayed attempt follows the record, not the
clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

from agito.harness.team import of_world
from agito.types import AttemptId, Call, Event, Fault, Json, TerminationReason, Trajectory

_FIELDS = ("text", "exit_code", "truncated_bytes", "wall_s", "cpu_s")


def is_real_deadline(event: Event) -> bool:
    """Whether the call ran out of its time. An injected timeout has `wall_s == 0`."""
    return event.fault is Fault.TIMEOUT and event.wall_s > 0


def said_so_far(before: str, call: Call) -> str:
    """A digest of an attempt's calls up to and including `call`."""
    said = call.raw or json.dumps(call.arguments, sort_keys=True)
    return blake2b(
        f"{before}\0{call.tool}\0{said}".encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()


class Observed(Protocol):
    """The timeouts of earlier tries and of this one."""

    def event(self, attempt: AttemptId, said: str, event: Event) -> Event:
        """The recorded event if this call timed out before, else `event`."""
        ...

    def is_late(self, attempt: AttemptId, said: str, *, left_s: float) -> bool:
        """Whether the attempt's time is up after these calls; `left_s` is what the clock says."""
        ...


class DeadlineLog:
    """Keeps what it sees, in a file if there is one: `deadlines.jsonl`, a line for each deadline. A torn last
    line is no record.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[tuple[str, str], dict[str, Json]] = {}
        self._seconds_up: set[tuple[str, str]] = set()
        for line in (
            path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ()
        ):
            self._read(line)

    def event(self, attempt: AttemptId, said: str, event: Event) -> Event:
        return self.event_of(str(attempt), said, event)

    def is_late(self, attempt: AttemptId, said: str, *, left_s: float) -> bool:
        return self.is_late_of(str(attempt), said, left_s=left_s)

    def part(self, name: str) -> Observed:
        """Of attempts that have the ids of others in this log, and are none of them: those of another phase,
        or forks."""
        return _Part(self, name)

    def event_of(self, attempt: str, said: str, event: Event) -> Event:
        """As `event`, by the attempt's name."""
        known = self._known.get((attempt, said))
        if known is not None:
            return replace(event, fault=Fault.TIMEOUT, ended=False, **known)  # type: ignore[arg-type]
        if is_real_deadline(event):
            fields: dict[str, Json] = {name: getattr(event, name) for name in _FIELDS}
            self._known[attempt, said] = fields
            self._write({"attempt": attempt, "said": said, **fields})
        return event

    def is_late_of(self, attempt: str, said: str, *, left_s: float) -> bool:
        """As `is_late`, by the attempt's name."""
        key = attempt, said
        if left_s <= 0 and key not in self._seconds_up:
            self._seconds_up.add(key)
            self._write({"attempt": key[0], "said": said, "seconds_up": True})
        return key in self._seconds_up

    def _read(self, line: str) -> None:
        try:
            row: dict[str, Json] = json.loads(line)
            key = str(row["attempt"]), str(row["said"])
            if row.get("seconds_up"):
                self._seconds_up.add(key)
            else:
                self._known[key] = {name: row[name] for name in _FIELDS}
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def _write(self, row: dict[str, Json]) -> None:
        """In one call, at a line's beginning even after a torn line; seldom enough to open the file each
        time.
        """
        if self._path is None:
            return
        with self._path.open("ab+") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write((json.dumps({**row, "at": round(time.time(), 3)}) + "\n").encode())


class _Part:
    def __init__(self, log: DeadlineLog, name: str) -> None:
        self._log, self._name = log, name

    def event(self, attempt: AttemptId, said: str, event: Event) -> Event:
        return self._log.event_of(f"{self._name}/{attempt}", said, event)

    def is_late(self, attempt: AttemptId, said: str, *, left_s: float) -> bool:
        return self._log.is_late_of(f"{self._name}/{attempt}", said, left_s=left_s)


class RecordedAttempt:
    """One attempt as it was recorded whole: neither a call nor the attempt is late unless it was then.
    `otherwise`: it is recorded in part, and this is what is known of the calls that follow.
    """

    def __init__(self, trajectory: Trajectory, *, otherwise: Observed | None = None) -> None:
        self._end, self._events, self._otherwise = trajectory.end, of_world(trajectory), otherwise
        self._at = {said: index for index, said in enumerate(_history(self._events))}

    def event(self, attempt: AttemptId, said: str, event: Event) -> Event:
        index = self._at.get(said)
        if index is None:
            return event if self._otherwise is None else self._otherwise.event(attempt, said, event)
        was = self._events[index]
        return replace(was, left=event.left) if is_real_deadline(was) or is_real_deadline(event) else event

    def is_late(self, attempt: AttemptId, said: str, *, left_s: float) -> bool:
        index = self._at.get(said)
        if index is None:
            other = self._otherwise
            return left_s <= 0 if other is None else other.is_late(attempt, said, left_s=left_s)
        is_last = self._otherwise is None and index == len(self._events) - 1
        return is_last and self._end is TerminationReason.SECONDS


def _history(events: Sequence[Event]) -> list[str]:
    found, said = list[str](), ""
    for event in events:
        said = said_so_far(said, event.call)
        found.append(said)
    return found
