"""Trajectories to imitate, as samples for supervised training."""

from __future__ import annotations

from array import array
from dataclasses import replace

from agito.learning.credit.segments import samples_of
from agito.types import Sample, Trajectory


def demonstrations(trajectory: Trajectory) -> tuple[Sample, ...]:
    """One sample per segment, with a loss on what the demonstrator did and never on what it read.

    Advantages are 1 on trainable tokens, so loss = -sum(A * log pi) / N is token cross-entropy (behavioural
    cloning). Log-probabilities are NaN: no learning policy sampled these tokens.
    """
    samples = samples_of(trajectory, 1.0, temperatures=False)
    return tuple(replace(sample, logprobs=array("f", [float("nan")]) * len(sample.ids)) for sample in samples)
