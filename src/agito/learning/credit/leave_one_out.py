"""Leave-one-out credit: each attempt's reward against the mean of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable

from agito.learning.credit.segments import AdvantageChange, samples_of
from agito.types import Attempt, Group, Sample, mean


def leave_one_out(group: Group, *, running_mean: float = math.nan) -> tuple[Sample, ...]:
    """A_i = u_i - mean(u_j, j != i) over the n trusted attempts, on every trainable token of attempt i;
    u, the utility, is the reward where nothing has a price.

    The baseline does not depend on attempt i, so the gradient is unbiased (RLOO, arXiv:2402.14740). There is
    no division by the standard deviation, which would give more weight to easy and hard tasks
    (arXiv:2503.20783). A void attempt yields no sample and enters no baseline. A penalised attempt is
    compared with all trusted ones; see `penalised`.

    Raises `ValueError` for a void group, and for a trainable token without a log-probability.
    """
    if group.is_void:
        raise ValueError(
            f"group {group.id}: {len(group.trusted)} scored attempts: need at least 2 to form a baseline"
        )
    trusted = group.trusted
    rewards = [attempt.utility for attempt in trusted]
    advantages = leave_one_out_advantages(rewards) if len(trusted) > 1 else []
    samples = [
        sample
        for attempt, advantage in zip(trusted, advantages, strict=bool(advantages))
        for sample in samples_of(attempt.trajectory, advantage)
    ]
    samples += penalised(group.penalised, mean(rewards) if rewards else running_mean)
    for sample in samples:
        _require_logprobs(sample)
    return tuple(samples)


def penalised(attempts: Iterable[Attempt], baseline: float, *, share: float = 1.0) -> list[Sample]:
    """Samples of penalised attempts: A = penalty - baseline from the proving call on, A = u - baseline
    before it, times `share`; u, the utility, is the reward less what the attempt pays.

    `baseline` is the mean utility of the trusted attempts, or of their cell. Where it is NaN, the
    environment's lowest reward is used.
    """
    samples: list[Sample] = []
    for attempt in attempts:
        assert attempt.penalty is not None
        against = attempt.penalty.floor if math.isnan(baseline) else baseline
        advantage = share * (attempt.penalty.reward - against)
        later = AdvantageChange(event=attempt.penalty.event, advantage=advantage)
        samples += samples_of(attempt.trajectory, share * (attempt.utility - against), later=later)
    return samples


def leave_one_out_advantages(rewards: list[float]) -> list[float]:
    """r_i - (sum(r) - r_i) / (n - 1), for n >= 2 rewards; exactly zero when all are equal."""
    if len(rewards) < 2:
        raise ValueError(f"{len(rewards)} rewards: need at least 2 to form a baseline")
    # The mean of the others as a shifted mean of all, written with differences so that equal rewards cancel
    # exactly.
    return [sum(reward - other for other in rewards) / (len(rewards) - 1) for reward in rewards]


def _require_logprobs(sample: Sample) -> None:
    for position, is_trainable in enumerate(sample.trainable):
        if is_trainable and math.isnan(sample.logprobs[position]):
            raise ValueError(
                f"attempt {sample.attempt} segment {sample.segment}: no log-probability at position "
                f"{position}: "
                "a scripted attempt can only be imitated"
            )
