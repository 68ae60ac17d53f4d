"""The event log of a run: typed events, appended line by line to `events.jsonl`.

Whoever looks on (terminal, `agito watch`, report, a program of one's own) gets the very events that the file
holds. Work without a run directory, such as an evaluation, has the same log in memory. A line is whole or not
there: readers leave out a torn last line, and the next writer removes it. This survives `kill -9`; it does
not promise to survive a power cut.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, SupportsFloat, TypeAlias, cast

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from agito.errors import AgitoError, EnvironmentPaused
from agito.record.files import disk_full, reports_full_disk
from agito.types import Json

SCHEMA_VERSION = 1
_PROGRESS_EVERY_S = 0.5
_PROGRESS_PARTS = 200  # a phase whose size is known says each of so many parts at once


def _number(value: object) -> object:
    return math.nan if value is None else value


# Not-a-number and infinities are written as null, and read as NaN.
Figures: TypeAlias = Mapping[str, Annotated[float, BeforeValidator(_number)]]


class Level(StrEnum):
    """How much a notice matters."""

    NOTE = "note"
    WARNING = "warning"
    ALARM = "alarm"  # of the monitor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamped:
    """What the log adds to every event."""

    version: Literal[1] = SCHEMA_VERSION
    seq: int = 0  # counts on in a resumed run
    at: float = 0.0  # Unix time in seconds; never less than in the event before


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(_Stamped):
    """A new run; `notes` say how its recipe was fitted to this machine."""

    type: Literal["run_started"] = "run_started"
    name: str
    env: str
    seed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(_Stamped):
    """Another process goes on from `checkpoint` (empty: from the beginning), in RL from `step`."""

    type: Literal["run_resumed"] = "run_resumed"
    checkpoint: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(_Stamped):
    """Nothing is left to do."""

    type: Literal["run_finished"] = "run_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped(_Stamped):
    """Somebody, or the monitor, stopped the run; it can be resumed."""

    type: Literal["run_stopped"] = "run_stopped"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(_Stamped):
    """An error ended the run; it can be resumed once the cause is mended."""

    type: Literal["run_failed"] = "run_failed"
    error: str  # its type
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(_Stamped):
    """A phase of `total` attempts or steps begins, and the one before it has ended; 0: not known in
    advance.
    """

    type: Literal["phase_started"] = "phase_started"
    phase: str
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(_Stamped):
    """What a phase that counts attempts has come to; `metrics` are sums since it began."""

    type: Literal["progress"] = "progress"
    phase: str
    done: int
    metrics: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(_Stamped):
    """One step of SFT or RL; `metrics` as in `metrics.jsonl`."""

    type: Literal["step_finished"] = "step_finished"
    phase: str
    step: int
    metrics: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(_Stamped):
    """`checkpoints/<name>` is committed: a resumed run takes RL step `step` next."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    name: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFinished(_Stamped):
    """`num` attempts of `num_all` have a verdict; the others are void."""

    type: Literal["evaluation_finished"] = "evaluation_finished"
    phase: str
    agent: str  # `policy`, or the name of a script
    successes: int
    num: int
    num_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered(_Stamped):
    """A worker is gone; the run goes on with new ones, in RL from `step` on."""

    type: Literal["recovered"] = "recovered"
    why: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(_Stamped):
    """Something that a person should know."""

    type: Literal["notice"] = "notice"
    level: Level
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryWritten(_Stamped):
    """`summary.json` is there; `paused` says why the run will not go on by itself, or is empty."""

    type: Literal["summary_written"] = "summary_written"
    paused: str


Event: TypeAlias = (
    RunStarted
    | RunResumed
    | RunFinished
    | RunStopped
    | RunFailed
    | PhaseStarted
    | Progress
    | StepFinished
    | CheckpointSaved
    | EvaluationFinished
    | Recovered
    | Notice
    | SummaryWritten
)
OnEvent: TypeAlias = Callable[[Event], object]


def ignore(event: Event) -> None:
    """For work that nobody looks at."""


class EventLog:
    """The one writer of a run's events, or a log in memory where there is no `path`.

    `on_event` is called with each event after it has been written, as a reader of the file would get it.
    """

    def __init__(
        self,
        on_event: OnEvent = ignore,
        path: Path | None = None,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._subscribers, self._clock = [on_event], clock or _steady_clock()
        self._seq, self._last_at = 0, 0.0
        self._file = None if path is None else _File(path)
        if self._file is not None:
            self._seq, self._last_at = self._file.next_seq, self._file.last_at
        self._counted = Progress(phase="", done=0, metrics={})
        self._pending = False  # something is counted that is not told
        self._total = self._num_told = 0
        self._told_at = -math.inf

    def subscribe(self, on_event: OnEvent) -> None:
        """Called after those who were there before."""
        self._subscribers.append(on_event)

    def emit(self, event: Event) -> None:
        """Stamps and appends. Raises `DiskFull`, and whatever `on_event` raises."""
        self._tell_pending()
        self._append(event)

    def begin(self, phase: str, total: int) -> None:
        """A phase begins, which `advance` counts."""
        self.emit(PhaseStarted(phase=phase, total=total))
        self._total, self._num_told = total, 0
        self._told_at = -math.inf
        self._counted = Progress(phase=phase, done=0, metrics={})

    def advance(self, metrics: Mapping[str, float] | None = None) -> None:
        """One more attempt of the phase is done. Told at a bounded rate: when half a second has passed or
        another part of the phase is through, and before any other event.
        """
        sums = dict(self._counted.metrics)
        for name, value in (metrics or {}).items():
            sums[name] = sums.get(name, 0.0) + value
        self._counted = replace(self._counted, done=self._counted.done + 1, metrics=sums)
        self._pending = True
        is_part = 0 < self._total <= (self._counted.done - self._num_told) * _PROGRESS_PARTS
        if is_part or self._counted.done == self._total or self._now() - self._told_at >= _PROGRESS_EVERY_S:
            self._tell_pending()

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()

    def _tell_pending(self) -> None:
        if self._pending:
            self._pending = False
            self._num_told, self._told_at = self._counted.done, self._now()
            self._append(self._counted)

    def _now(self) -> float:
        return max(math.floor(self._clock() * 1000) / 1000, self._last_at)

    def _append(self, event: Event) -> None:
        line = _encode(replace(event, seq=self._seq, at=self._now()))
        if self._file is not None:
            self._file.append(line)
        told = decode(line)
        assert told is not None, line
        self._seq, self._last_at = told.seq + 1, told.at
        for on_event in self._subscribers:
            on_event(told)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def logged(path: Path, on_event: OnEvent, begins: RunStarted | RunResumed) -> Generator[EventLog]:
    """The log of a run while this process writes it: first how it begins, last how it ends. What is raised
    goes on unchanged.
    """
    ends: Event = RunFinished()
    with EventLog(on_event, path) as events:
        events.emit(begins)
        try:
            yield events
        except EnvironmentPaused as error:
            ends = RunStopped(why=str(error))
            raise
        except Exception as error:
            ends = RunFailed(error=type(error).__name__, why=str(error))
            raise
        except BaseException:
            ends = RunStopped(why="interrupted")
            raise
        finally:
            # of two errors the first one counts: a full disk may be why the run ends
            with nullcontext() if isinstance(ends, RunFinished) else suppress(AgitoError, OSError):
                events.emit(ends)


class EventTail:
    """Reads a log while another process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset, self._inode = 0, -1

    def read(self) -> list[Event]:
        """The events since the last call; whole lines only. A log that has been replaced is read from its
        beginning.
        """
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._inode or about.st_size < self._offset:
                    self._offset, self._inode = 0, about.st_ino
                file.seek(self._offset)
                whole = _whole_lines(file.read())
        except FileNotFoundError:
            return []
        self._offset += len(whole)
        found = [decode(line) for line in whole.splitlines()]
        return [event for event in found if event is not None]


def read_events(path: Path) -> list[Event]:
    """Every event so far; an empty list when there is no file."""
    return EventTail(path).read()


def decode(line: bytes) -> Event | None:
    """None for what this version does not know: a damaged line, another type, a newer version."""
    try:
        return _events().validate_python(json.loads(line))
    except (ValueError, ValidationError, RecursionError):
        return None


def _encode(event: Event) -> bytes:
    """In ASCII, so that whoever splits text into lines finds the same ones."""
    return json.dumps(_plain(asdict(event)), allow_nan=False).encode() + b"\n"


def _plain(value: object) -> Json:
    match value:
        case str():  # an error may quote a file name that is no UTF-8
            return value.encode("utf-8", "replace").decode()
        case int():
            return value
        case SupportsFloat():
            number = float(value)
            return number if math.isfinite(number) else None
        case tuple():
            return [_plain(each) for each in cast("tuple[object, ...]", value)]
        case dict():
            named = cast("dict[str, object]", value)
            return {str(_plain(name)): _plain(each) for name, each in named.items()}
        case _:
            raise TypeError(f"an event holds no {type(value).__name__}")


@cache
def _events() -> TypeAdapter[Event]:
    return TypeAdapter[Event](Annotated[Event, Field(discriminator="type")])


class _File:
    """Appends whole lines."""

    def __init__(self, path: Path) -> None:
        """Removes a last line that a crash tore, so that the next one begins at a line's beginning."""
        self._path = path
        with reports_full_disk(path):
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        whole = _whole_lines(path.read_bytes())
        self._end = len(whole)
        os.ftruncate(self._file, self._end)
        self.next_seq, self.last_at = _position(whole)

    def append(self, line: bytes) -> None:
        with reports_full_disk(self._path):
            try:
                written = os.write(self._file, line)
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        if written != len(line):
            os.ftruncate(self._file, self._end)
            raise disk_full(self._path)
        self._end += written

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _position(lines: bytes) -> tuple[int, float]:
    """The number that the next event gets, and the time of the last one."""
    for line in reversed(lines.splitlines()):
        try:
            last: Any = json.loads(line)
            return int(last["seq"]) + 1, float(last["at"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return 0, 0.0


def _steady_clock() -> Callable[[], float]:
    """Unix time that never jumps while the process runs."""
    zero = time.time() - time.monotonic()
    return lambda: zero + time.monotonic()
