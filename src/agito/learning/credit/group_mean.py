"""Group-normalised credit: each attempt's reward against the group's mean, in standard deviations."""

from __future__ import annotations

import math
import statistics

from agito.learning.credit.leave_one_out import penalised
from agito.learning.credit.segments import samples_of
from agito.types import Group, Sample, mean


def group_mean(group: Group, *, running_mean: float = math.nan) -> tuple[Sample, ...]:
    """A_i = (r_i - mean(r)) / std(r) over the trusted attempts, with the population's std (GRPO,
    arXiv:2402.03300).

    Kept for comparison: dividing by std gives more weight to very easy and very hard tasks
    (arXiv:2503.20783). Penalised attempts are treated as in `leave_one_out`, without division. Raises
    `ValueError` for a void group.
    """
    if group.is_void:
        raise ValueError(
            f"group {group.id}: {len(group.trusted)} scored attempts: need at least 2 to form a baseline"
        )
    rewards = [attempt.utility for attempt in group.trusted]
    spread = statistics.pstdev(rewards) if len(rewards) > 1 else 0.0
    samples: list[Sample] = []
    for attempt, reward in zip(group.trusted, rewards, strict=True):
        samples += samples_of(attempt.trajectory, (reward - mean(rewards)) / (spread or 1.0))
    return (*samples, *penalised(group.penalised, mean(rewards) if rewards else running_mean))
