from __future__ import annotations

import math
from array import array

from agito.learning.credit import demonstrations
from agito.types import (
    AttemptId,
    Dialect,
    FinishReason,
    Segment,
    Task,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    span,
)

TASK = Task(id="t", env="fake", split="train", family="f", level=1, prompt={Dialect.COMPACT: "go"}, tools=())


def demonstration(kinds: bytes) -> Trajectory:
    n = len(kinds)
    columns = Tokens(
        ids=array("i", range(n)),
        logprobs=array("f", [math.nan] * n),
        kinds=kinds,
        channels=bytes(n),
        versions=span(0, n),
    )
    return Trajectory(
        attempt=AttemptId(group=1, slot=0),
        task=TASK,
        segments=(Segment(id=0, tokens=columns),),
        turns=(Turn(segment=0, start=1, stop=n, stopped=FinishReason.END, temperature=0.0, top_p=0.5),),
        events=(),
        end=TerminationReason.SUBMITTED,
    )


def test_what_the_demonstrator_did_is_trainable_and_what_it_read_is_not() -> None:
    (sample,) = demonstrations(
        demonstration(
            bytes([TokenSource.OBSERVED, TokenSource.SAMPLED, TokenSource.FORCED, TokenSource.CONTROL])
        )
    )
    assert list(sample.trainable) == [0, 1, 0, 1]
    assert list(sample.advantages) == [0, 1, 0, 1]
    assert list(sample.ids) == [0, 1, 2, 3]


def test_log_probabilities_are_absent_and_sampling_settings_do_not_matter() -> None:
    (sample,) = demonstrations(demonstration(bytes([TokenSource.OBSERVED, TokenSource.SAMPLED])))
    assert all(math.isnan(value) for value in sample.logprobs)
    assert sample.temperature == 1.0


def test_a_demonstration_that_did_nothing_yields_no_sample() -> None:
    assert demonstrations(demonstration(bytes([TokenSource.OBSERVED]))) == ()
