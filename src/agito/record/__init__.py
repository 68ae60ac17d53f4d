"""The run directory: configuration, ledger, metrics, trajectories, summary.

`RunDir` owns the directory and its lock; each other module owns one file in it. Nothing here loads torch.
Parquet code loads lazily, so that a worker, which needs checkpoints only, starts faster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from agito.record.attempt_ledger import Ledger, State
from agito.record.intervals import Rate, clopper_pearson, wilson
from agito.record.metrics import Line, Metrics, read_metrics
from agito.record.rundir import PHASES, RunDir, RunState

if TYPE_CHECKING:
    from agito.record.reading import Recorded, find_attempt, read_quarantined, read_trajectories
    from agito.record.summary import Summary, rate, rate_over_all, rates_by_cell
    from agito.record.trajectories import TokenStats, write_trajectories

_HOME = {
    **dict.fromkeys(("Recorded", "find_attempt", "read_quarantined", "read_trajectories"), "reading"),
    **dict.fromkeys(("Summary", "rate", "rate_over_all", "rates_by_cell"), "summary"),
    **dict.fromkeys(("TokenStats", "write_trajectories"), "trajectories"),
}

__all__ = [
    "PHASES",
    "RunDir",
    "RunState",
    "Metrics",
    "Line",
    "read_metrics",
    "TokenStats",
    "write_trajectories",
    "Recorded",
    "read_trajectories",
    "read_quarantined",
    "find_attempt",
    "Ledger",
    "State",
    "Summary",
    "rate",
    "rate_over_all",
    "rates_by_cell",
    "Rate",
    "clopper_pearson",
    "wilson",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
