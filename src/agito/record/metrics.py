"""`metrics.jsonl`: one line per measurement, append-only while a run goes on.

A line is `{"step", "phase", "wall_s", "area/name_unit": number, ...}`, with NaN as null. Readers skip a line
torn by a crash; resuming trims it.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from agito.record.files import reports_full_disk, write_atomically

_KEY = re.compile(r"(?:[a-z][a-z0-9_-]*/)?[a-z][a-z0-9]*(_[a-z0-9]+)*/[a-z][a-z0-9+.-]*(_[a-z0-9+.-]+)*")
_RESERVED = ("step", "phase", "wall_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measurement. `wall_s`: seconds of the run so far, across resumes and without pauses."""

    step: int
    phase: str
    wall_s: float
    values: Mapping[str, float]


class Metrics:
    """The only writer of a run's metrics. `wall_s`: seconds used by earlier sessions of the run."""

    def __init__(self, path: Path, *, wall_s: float = 0.0) -> None:
        self._path = path
        self._zero = time.monotonic() - wall_s
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Appends one line. Raises `ValueError` for a key that is not `area/name_unit`, optionally prefixed
        by a policy's name, and `DiskFull`."""
        line: dict[str, object] = {"step": step, "phase": phase, "wall_s": round(self.wall_s, 3)}
        for key, value in values.items():
            if not _KEY.fullmatch(key):
                raise ValueError(
                    f"metric={key!r}: write area/name_unit in lower case, such as time/rollout_s"
                )
            number = float(value)
            line[key] = number if math.isfinite(number) else None
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        with reports_full_disk(self._path):
            if os.write(self._file, data) != len(data):
                os.write(self._file, b"\n")  # the disk filled in mid-line: raises, or ends the torn line

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._zero

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[Line]:
    """All complete lines; an empty list when there is no file."""
    if not path.exists():
        return []
    lines = [_parse(raw) for raw in path.read_bytes().split(b"\n")]
    return [line for line in lines if line is not None]


def trim_metrics(path: Path, keep: Callable[[Line], bool]) -> float:
    """Atomically drops torn lines and those that `keep` rejects; returns `wall_s` of the last line kept, or
    0."""
    kept = [line for line in read_metrics(path) if keep(line)]
    data = b"".join(_dump(line) for line in kept)
    if path.exists() and path.read_bytes() != data:
        write_atomically(path, data)
    return kept[-1].wall_s if kept else 0.0


def _dump(line: Line) -> bytes:
    values = {key: value if math.isfinite(value) else None for key, value in line.values.items()}
    return (
        json.dumps({"step": line.step, "phase": line.phase, "wall_s": line.wall_s, **values}) + "\n"
    ).encode()


def _parse(raw: bytes) -> Line | None:
    try:
        found: dict[str, Any] = json.loads(raw)
        values = {
            key: math.nan if value is None else float(value)
            for key, value in found.items()
            if key not in _RESERVED
        }
        return Line(
            step=int(found["step"]), phase=str(found["phase"]), wall_s=float(found["wall_s"]), values=values
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
