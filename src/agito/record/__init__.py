"""The run directory: configuration, ledger, metrics, trajectories, summary.

`RunDir` owns the directory and its lock; the other files each own one thing in it. Nothing here loads torch.
"""

from __future__ import annotations

from agito.record.intervals import Rate, clopper_pearson, wilson
from agito.record.ledger import Ledger, State
from agito.record.metrics import Line, Metrics, read_metrics
from agito.record.reading import Recorded, find_attempt, read_quarantined, read_trajectories
from agito.record.rundir import PHASES, RunDir, RunState
from agito.record.summary import Summary, rate, rate_over_all, rates_by_cell
from agito.record.trajectories import TokenStats, write_trajectories

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
