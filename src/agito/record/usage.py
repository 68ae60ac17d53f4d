"""Resources that a run has used so far. Checkpoints carry them, so a resumed run continues the counts."""

from __future__ import annotations

import os
import re
import resource
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agito.errors import CorruptCheckpoint
from agito.types import Attempt, Json

_NUMBERS = re.compile(r"\d+(\.\d+)?")
_LONGEST_CAUSE, _MOST_CAUSES = 160, 50
_BIN_MS = 0.05  # bin width of the histogram of tool CPU times


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spent:
    wall_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(slots=True)
class UsageCounters:
    """Counts over attempts of policies and scripts alike; tokens count for policies only, as scripts sample
    none."""

    sampled_tokens: int = 0
    tool_calls: int = 0
    void_attempts: int = 0
    quarantined_attempts: int = 0
    void_causes: Counter[str] = field(default_factory=Counter[str])  # including demonstrations
    earlier_cpu_s: float = 0.0  # of sessions before the last resume
    _phases: dict[str, _Spent] = field(default_factory=dict[str, "_Spent"])  # ended
    _began: dict[str, _Spent] = field(default_factory=dict[str, "_Spent"])  # still running
    _ticks: tuple[int, int] = field(default_factory=lambda: _stolen_and_all())
    _tool_cpu: Counter[int] = field(default_factory=Counter[int])

    def add(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self.void_attempts += not attempt.is_scored
            self.add_causes([attempt])
            self.quarantined_attempts += bool(attempt.quarantine)
            trajectory = attempt.trajectory
            if (
                trajectory.segments
                and trajectory.segments[0].tokens.versions
                and trajectory.segments[0].tokens.oldest_version() > 0
            ):
                self.sampled_tokens += trajectory.num_sampled
            for event in trajectory.events:
                if event.wall_s > 0:
                    self._tool_cpu[round(event.cpu_s * 1e3 / _BIN_MS)] += 1
                self.tool_calls += event.wall_s > 0 or not (event.ended or event.fault or event.call.problem)

    def add_causes(self, attempts: Iterable[Attempt]) -> None:
        """Counts causes of void attempts, without the parts that differ between attempts."""
        for attempt in attempts:
            if not attempt.is_scored:
                self.void_causes[
                    _NUMBERS.sub("N", attempt.verdict.evidence.partition("\n")[0])[:_LONGEST_CAUSE]
                ] += 1
        if len(self.void_causes) > _MOST_CAUSES:
            self.void_causes = Counter(dict(self.void_causes.most_common(_MOST_CAUSES)))

    def commonest_causes(self) -> dict[str, int]:
        return dict(self.void_causes.most_common(5))

    @property
    def tool_cpu_ms_p50(self) -> float:
        """Median CPU time of one tool call inside the sandbox; 0 without calls."""
        seen, half = 0, sum(self._tool_cpu.values()) / 2
        for number in sorted(self._tool_cpu):
            seen += self._tool_cpu[number]
            if seen >= half:
                return number * _BIN_MS
        return 0.0

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        self._began[name] = self._now()
        try:
            yield
        finally:
            self._phases = self._spent()
            del self._began[name]

    @property
    def phase_wall_s(self) -> dict[str, float]:
        """Seconds by phase over all sessions, running phases included."""
        return {name: spent.wall_s for name, spent in self._spent().items()}

    @property
    def phase_cpu_s(self) -> dict[str, float]:
        """CPU seconds of all processes by phase over all sessions, running phases included."""
        return {name: spent.cpu_s for name, spent in self._spent().items()}

    def cpu_s(self) -> float:
        """CPU seconds of this process and of its descendants, ended or alive, over all sessions."""
        here = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ended = sum(usage.ru_utime + usage.ru_stime for usage in here)
        return self.earlier_cpu_s + ended + _alive_cpu_s(os.getpid())

    def stolen_ratio(self) -> float:
        """Share of CPU time that a virtual machine's host gave to others in this session."""
        (stolen_before, all_before), (stolen, total) = self._ticks, _stolen_and_all()
        return round((stolen - stolen_before) / max(total - all_before, 1), 4)

    def _now(self) -> _Spent:
        return _Spent(wall_s=time.monotonic(), cpu_s=self.cpu_s())

    def _spent(self) -> dict[str, _Spent]:
        if not self._began:
            return self._phases
        now, none = self._now(), _Spent()
        return self._phases | {
            name: _Spent(
                wall_s=before.wall_s + now.wall_s - began.wall_s, cpu_s=before.cpu_s + now.cpu_s - began.cpu_s
            )
            for name, began in self._began.items()
            for before in [self._phases.get(name, none)]
        }

    def to_json(self) -> dict[str, Json]:
        spent = self._spent()
        saved = _Saved(
            sampled_tokens=self.sampled_tokens,
            tool_calls=self.tool_calls,
            void_attempts=self.void_attempts,
            quarantined_attempts=self.quarantined_attempts,
            void_causes=dict(self.void_causes),
            phase_wall_s={name: each.wall_s for name, each in spent.items()},
            phase_cpu_s={name: each.cpu_s for name, each in spent.items()},
            cpu_s=self.cpu_s(),
            tool_cpu=dict(self._tool_cpu),
        )
        return saved.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Json) -> UsageCounters:
        """The inverse of `to_json`. Raises `CorruptCheckpoint` for anything else."""
        try:
            saved = _Saved.model_validate(data)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise CorruptCheckpoint(f"usage: {where}: {error.errors()[0]['msg']}") from None
        return cls(
            sampled_tokens=saved.sampled_tokens,
            tool_calls=saved.tool_calls,
            void_attempts=saved.void_attempts,
            quarantined_attempts=saved.quarantined_attempts,
            void_causes=Counter(saved.void_causes),
            earlier_cpu_s=saved.cpu_s,
            _phases={
                name: _Spent(wall_s=wall_s, cpu_s=saved.phase_cpu_s.get(name, 0.0))
                for name, wall_s in saved.phase_wall_s.items()
            },
            _tool_cpu=Counter(saved.tool_cpu),
        )


class _Saved(BaseModel):
    """The counters in a checkpoint."""

    model_config = ConfigDict(extra="forbid")

    sampled_tokens: int
    tool_calls: int
    void_attempts: int
    quarantined_attempts: int
    void_causes: dict[str, int]
    phase_wall_s: dict[str, float]
    phase_cpu_s: dict[str, float] = Field(default_factory=dict[str, float])
    cpu_s: float
    tool_cpu: dict[int, int]


def causes(attempts: Iterable[Attempt]) -> dict[str, int]:
    """The commonest causes of void attempts, with counts."""
    tally = UsageCounters()
    tally.add_causes(attempts)
    return tally.commonest_causes()


def load() -> float:
    """The machine's one-minute load average."""
    return round(os.getloadavg()[0], 2)


def _alive_cpu_s(pid: int) -> float:
    """CPU seconds of the living descendants of a process, and of the children that these have waited for."""
    children: dict[int, list[tuple[int, int]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        ticks = sum(map(int, words[11:15]))  # its own, and those of children it waited for
        children.setdefault(int(words[1]), []).append((int(path.parent.name), ticks))
    total, todo = 0, [pid]
    while todo:
        for child, ticks in children.get(todo.pop(), []):
            total += ticks
            todo.append(child)
    return total / os.sysconf("SC_CLK_TCK")


def _stolen_and_all() -> tuple[int, int]:
    """Ticks since boot over all processors, stolen and total; zeros where the system does not report them."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return ticks[7], sum(ticks)
