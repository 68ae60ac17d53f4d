"""Issue attempts, run them, seal, grade, retry voids, complete groups; torch-free."""

from __future__ import annotations

from agito.rollout.attempt import AttemptRunner, Plan
from agito.rollout.collect import Collected, Runs, collect, outcome
from agito.rollout.deadline_log import DeadlineLog, Observed, RecordedAttempt, is_real_deadline
from agito.rollout.episode import Act, Deadlines, EpisodeDriver, Finished, out_of_range, reward_range
from agito.rollout.forks import ForkPoint, ForkRunner, fork_points, numbered
from agito.rollout.scripts import act_out, acted, scripted

__all__ = [
    "Act",
    "AttemptRunner",
    "Collected",
    "DeadlineLog",
    "Deadlines",
    "EpisodeDriver",
    "Finished",
    "ForkPoint",
    "ForkRunner",
    "Observed",
    "Plan",
    "RecordedAttempt",
    "Runs",
    "act_out",
    "acted",
    "collect",
    "fork_points",
    "is_real_deadline",
    "numbered",
    "outcome",
    "out_of_range",
    "reward_range",
    "scripted",
]
