"""Distillation credit: how much more probable a teacher finds each sampled token than the policy did."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

from agito.types import Sample


def distilled(
    sample: Sample, teacher_logprobs: Sequence[float], *, weight: float, keeps_reward: bool
) -> Sample:
    """A_t = [A_t] + weight (log pi_teacher - log mu) on trainable tokens: the policy gradient then lowers the
    reverse KL divergence to the teacher on the policy's own samples (on-policy distillation,
    arXiv:2306.13649).

    `teacher_logprobs`: entry t belongs to token t + 1, at the sample's temperature.
    """
    if len(teacher_logprobs) != len(sample.ids) - 1:
        raise ValueError(
            f"sample {sample.attempt}: {len(teacher_logprobs)} scores of {len(sample.ids)} tokens"
        )
    advantages = array("f", [0.0]) * len(sample.ids)
    for at, is_trainable in enumerate(sample.trainable):
        if is_trainable:
            gap = teacher_logprobs[at - 1] - sample.logprobs[at]
            advantages[at] = (sample.advantages[at] if keeps_reward else 0.0) + weight * gap
    return replace(sample, advantages=advantages)
