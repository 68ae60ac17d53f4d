"""`summary.json`: the results of a run, under names that readers rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agito.record.files import write_atomically
from agito.record.intervals import Rate
from agito.record.trajectories import is_success
from agito.types import Attempt, Json

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The results of one run. Rates count scored attempts; rates ending in `_all` count all, with void ones
    as failures."""

    commit: str
    seed: int
    isolation_tier: str
    before: Rate  # held out, after the cold start
    after: Rate  # the same tasks, after RL
    structural: Rate | None = None  # None: the recipe has no such evaluation
    before_all: Rate
    after_all: Rate
    structural_all: Rate | None = None
    cells_before: Mapping[str, Rate]
    cells_after: Mapping[str, Rate]
    baselines: Mapping[str, Rate]
    num_eval_tasks: int
    wall_s: float  # without set-up
    cpu_s: float  # of all processes of the run
    load: float  # one-minute average of the machine, at the end
    # Share of CPU time that a virtual machine's host gave to others meanwhile.
    stolen_ratio: float = 0.0
    phase_wall_s: Mapping[str, float]
    phase_cpu_s: Mapping[str, float] = field(default_factory=dict[str, float])  # of all processes of the run
    sampled_tokens: int
    tool_calls: int
    tool_cpu_ms_p50: float
    void_attempts: int
    void_causes: Mapping[str, int] = field(default_factory=dict[str, int])  # the commonest, with counts
    admission: Mapping[str, Json] = field(
        default_factory=dict[str, Json]
    )  # why training on the environment was allowed: see `agito.training.admission`
    quarantined_attempts: int = 0
    monitor: Mapping[str, Json] = field(default_factory=dict[str, Json])  # see `agito.monitor`
    paused: str = ""  # why the run stopped early

    def __post_init__(self) -> None:
        for name in ("wall_s", "cpu_s", "load", "stolen_ratio", "tool_cpu_ms_p50"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(
                    f"summary {name}={getattr(self, name)}: need a finite number that is not negative"
                )
        for name in (
            "num_eval_tasks",
            "sampled_tokens",
            "tool_calls",
            "void_attempts",
            "quarantined_attempts",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"summary {name}={getattr(self, name)}: a count is not negative")
        for key, phases in (("phase_wall_s", self.phase_wall_s), ("phase_cpu_s", self.phase_cpu_s)):
            for name, phase in phases.items():
                if not (math.isfinite(phase) and phase >= 0):
                    raise ValueError(
                        f"summary {key}[{name!r}]={phase}: need a finite number that is not negative"
                    )
        if not self.commit or not self.isolation_tier:
            raise ValueError(
                "summary: commit and isolation_tier must be known; pass 'unknown' where there is none"
            )

    def to_json(self) -> dict[str, Json]:
        cells = sorted({*self.cells_before, *self.cells_after})
        none = Rate(successes=0, num=0)
        return {
            "schema_version": SCHEMA_VERSION,
            "commit": self.commit,
            "seed": self.seed,
            "isolation_tier": self.isolation_tier,
            **_named("success_before", self.before),
            **_named("success_after", self.after),
            **_named("success_structural", self.structural or none),
            **_named("success_before_all", self.before_all),
            **_named("success_after_all", self.after_all),
            **_named("success_structural_all", self.structural_all or none),
            "by_cell": {
                cell: {
                    **_counted("before", self.cells_before.get(cell, none)),
                    **_counted("after", self.cells_after.get(cell, none)),
                }
                for cell in cells
            },
            "baselines": {name: _counted("success", rate) for name, rate in self.baselines.items()},
            "num_eval_tasks": self.num_eval_tasks,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "load": self.load,
            "stolen_ratio": self.stolen_ratio,
            "phase_wall_s": dict(self.phase_wall_s),
            "phase_cpu_s": dict(self.phase_cpu_s),
            "sampled_tokens": self.sampled_tokens,
            "tool_calls": self.tool_calls,
            "tool_cpu_ms_p50": self.tool_cpu_ms_p50,
            "void_attempts": self.void_attempts,
            "void_causes": dict(self.void_causes),
            "admission": dict(self.admission),
            "quarantined_attempts": self.quarantined_attempts,
            "monitor": dict(self.monitor),
            "paused": self.paused or None,
        }

    def write(self, path: Path) -> None:
        """Atomic. Raises `DiskFull`."""
        write_atomically(
            path, (json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n").encode(), durable=True
        )


def rate(attempts: Iterable[Attempt]) -> Rate:
    """Over scored attempts only; a penalised attempt is not a success."""
    scored = [attempt for attempt in attempts if is_success(attempt) is not None]
    return rate_over_all(scored)


def rate_over_all(attempts: Sequence[Attempt]) -> Rate:
    """Over all attempts: a void one counts as a failure, so that causing a void never beats failing."""
    num_tasks = len({attempt.trajectory.task.id for attempt in attempts})
    successes = sum(bool(is_success(attempt)) for attempt in attempts)
    return Rate(
        successes=successes, num=len(attempts), num_tasks=num_tasks if num_tasks < len(attempts) else None
    )


def rates_by_cell(attempts: Iterable[Attempt], *, tags: tuple[str, ...] = ("fallback",)) -> dict[str, Rate]:
    """By family and level, and separately for tasks that carry one of `tags`: `find-2`, `find-2+fallback`."""
    cells: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        task = attempt.trajectory.task
        name = "+".join([task.cell, *(tag for tag in tags if tag in task.tags)])
        cells.setdefault(name, []).append(attempt)
    return {name: rate(members) for name, members in sorted(cells.items())}


def _named(name: str, rate: Rate) -> dict[str, Json]:
    return {
        name: _known(rate.success),
        f"{name}_low": _known(rate.low, rate),
        f"{name}_high": _known(rate.high, rate),
    }


def _counted(name: str, rate: Rate) -> dict[str, Json]:
    return {**_named(name, rate), "num" if name == "success" else f"num_{name}": rate.num}


def _known(value: float, rate: Rate | None = None) -> float | None:
    return None if math.isnan(value) or (rate is not None and rate.num == 0) else value
