"""Leave-one-out credit: each attempt against the mean of the others."""

from __future__ import annotations

import math

from agito.credit.segments import samples_of
from agito.types import Group, Sample


def leave_one_out(group: Group) -> tuple[Sample, ...]:
    """A_i = r_i - mean(r_j, j != i) over the n scored attempts, on every trainable token of attempt i.

    The baseline does not depend on attempt i, so the gradient is unbiased; there is no division by the standard deviation,
    which would weigh easy and hard tasks up (RLOO, arXiv:2402.14740; the bias of dividing, arXiv:2503.20783). A void attempt
    yields no sample and is in nobody's baseline. Raises `ValueError` for a void group, and for a trainable token without a
    log-probability.
    """
    scored = group.scored
    if len(scored) < 2:
        raise ValueError(f"group {group.id}: {len(scored)} scored attempts: need at least 2 to form a baseline")
    advantages = leave_one_out_advantages([attempt.verdict.reward for attempt in scored])
    samples = [
        sample for attempt, advantage in zip(scored, advantages, strict=True) for sample in samples_of(attempt.trajectory, advantage)
    ]
    for sample in samples:
        _require_logprobs(sample)
    return tuple(samples)


def leave_one_out_advantages(rewards: list[float]) -> list[float]:
    """r_i - (sum(r) - r_i) / (n - 1), for n >= 2 rewards; exactly zero when all are equal."""
    if len(rewards) < 2:
        raise ValueError(f"{len(rewards)} rewards: need at least 2 to form a baseline")
    # mean of the others = mean of all, shifted; written as differences so that equal rewards cancel exactly
    return [sum(reward - other for other in rewards) / (len(rewards) - 1) for reward in rewards]


def _require_logprobs(sample: Sample) -> None:
    for position, is_trainable in enumerate(sample.trainable):
        if is_trainable and math.isnan(sample.logprobs[position]):
            raise ValueError(
                f"attempt {sample.attempt} segment {sample.segment}: no log-probability at position {position}: "
                "a scripted attempt can only be imitated"
            )
