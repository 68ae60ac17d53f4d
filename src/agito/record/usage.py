"""What a run has used so far; it is carried by checkpoints, so that a resumed run counts on."""

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

from agito.types import Attempt, Json

_NUMBERS = re.compile(r"\d+(\.\d+)?")
_LONGEST_CAUSE, _MOST_CAUSES = 160, 50
_BIN_MS = 0.05  # of the histogram of tool CPU times


@dataclass(slots=True)
class UsageCounters:
    """Counts of attempts by the policy and by scripts alike, except tokens, which only a policy samples."""

    sampled_tokens: int = 0
    tool_calls: int = 0
    void_attempts: int = 0
    quarantined_attempts: int = 0
    void_causes: Counter[str] = field(default_factory=Counter[str])  # of demonstrations too
    earlier_cpu_s: float = 0.0  # of sessions of this run before the last resume
    _phases: dict[str, float] = field(default_factory=dict[str, float])  # that have ended
    _began: dict[str, float] = field(default_factory=dict[str, float])  # that have not
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
        """Why there was no verdict, without what differs from one attempt to the next."""
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
        """Median CPU time of one tool call inside the sandbox; 0 when there was none."""
        seen, half = 0, sum(self._tool_cpu.values()) / 2
        for number in sorted(self._tool_cpu):
            seen += self._tool_cpu[number]
            if seen >= half:
                return number * _BIN_MS
        return 0.0

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        self._began[name] = time.monotonic()
        try:
            yield
        finally:
            self._phases = self.phase_wall_s
            del self._began[name]

    @property
    def phase_wall_s(self) -> dict[str, float]:
        """Seconds by phase over all sessions, those that go on up to now."""
        now = time.monotonic()
        return self._phases | {
            name: self._phases.get(name, 0.0) + now - began for name, began in self._began.items()
        }

    def cpu_s(self) -> float:
        """Of this process and of every child that has ended, over all sessions; complete once everything is
        closed.
        """
        here = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return self.earlier_cpu_s + sum(usage.ru_utime + usage.ru_stime for usage in here)

    def stolen_ratio(self) -> float:
        """Share of the processors' time that the host of a virtual machine gave to others, in
        this session.
        """
        (stolen_before, all_before), (stolen, total) = self._ticks, _stolen_and_all()
        return round((stolen - stolen_before) / max(total - all_before, 1), 4)

    def to_json(self) -> dict[str, Json]:
        return {
            "sampled_tokens": self.sampled_tokens,
            "tool_calls": self.tool_calls,
            "void_attempts": self.void_attempts,
            "quarantined_attempts": self.quarantined_attempts,
            "void_causes": dict(self.void_causes),
            "phase_wall_s": {**self.phase_wall_s},
            "cpu_s": self.cpu_s(),
            "tool_cpu": {str(number): count for number, count in self._tool_cpu.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Json]) -> UsageCounters:
        phases, tool_cpu, causes = data["phase_wall_s"], data["tool_cpu"], data["void_causes"]
        assert isinstance(phases, dict) and isinstance(tool_cpu, dict) and isinstance(causes, dict)
        return cls(
            sampled_tokens=int(str(data["sampled_tokens"])),
            tool_calls=int(str(data["tool_calls"])),
            void_attempts=int(str(data["void_attempts"])),
            quarantined_attempts=int(str(data["quarantined_attempts"])),
            void_causes=Counter({cause: int(str(num)) for cause, num in causes.items()}),
            earlier_cpu_s=float(str(data["cpu_s"])),
            _phases={name: float(str(wall_s)) for name, wall_s in phases.items()},
            _tool_cpu=Counter({int(number): int(str(count)) for number, count in tool_cpu.items()}),
        )


def causes(attempts: Iterable[Attempt]) -> dict[str, int]:
    """The commonest reasons for which there was no verdict, with how often."""
    tally = UsageCounters()
    tally.add_causes(attempts)
    return tally.commonest_causes()


def load() -> float:
    """The machine's one-minute load average."""
    return round(os.getloadavg()[0], 2)


def _stolen_and_all() -> tuple[int, int]:
    """Ticks since the machine came up, over all processors; zeros where the system does not say."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return ticks[7], sum(ticks)
