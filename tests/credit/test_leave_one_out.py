from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.learning.credit import demonstrations, leave_one_out
from agito.learning.credit.leave_one_out import leave_one_out_advantages
from agito.types import (
    Attempt,
    AttemptId,
    Channel,
    Dialect,
    FinishReason,
    Group,
    Segment,
    Status,
    Task,
    TerminationReason,
    Tokens,
    TokenSource,
    Trajectory,
    Turn,
    Verdict,
    VersionSpan,
    span,
)

TASK = Task(id="t", env="fake", split="train", family="f", level=1, prompt={Dialect.COMPACT: "go"}, tools=())
KINDS = bytes(
    [
        TokenSource.OBSERVED,
        TokenSource.OBSERVED,
        TokenSource.SAMPLED,
        TokenSource.FORCED,
        TokenSource.CONTROL,
        TokenSource.OBSERVED,
        TokenSource.SAMPLED,
    ]
)


def tokens(kinds: bytes = KINDS, *, logprob: float = -0.5) -> Tokens:
    n = len(kinds)
    was_sampled = [kind in (TokenSource.SAMPLED, TokenSource.CONTROL) for kind in kinds]
    return Tokens(
        ids=array("i", range(n)),
        logprobs=array("f", [logprob if is_it else math.nan for is_it in was_sampled]),
        kinds=kinds,
        channels=bytes([Channel.TEXT] * n),
        versions=span(3, n),
    )


def trajectory(
    slot: int = 0,
    *,
    segments: tuple[Segment, ...] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Trajectory:
    return Trajectory(
        attempt=AttemptId(group=7, slot=slot),
        task=TASK,
        segments=segments or (Segment(id=0, tokens=tokens()),),
        turns=(
            Turn(segment=0, start=2, stop=5, stopped=FinishReason.END, temperature=temperature, top_p=top_p),
        ),
        events=(),
        end=TerminationReason.SUBMITTED,
    )


def group(*rewards: float | None) -> Group:
    """`None` is a void attempt."""
    verdicts = [
        Verdict.void("no verdict") if r is None else Verdict(status=Status.SCORED, reward=r) for r in rewards
    ]
    attempts = tuple(
        Attempt(trajectory=trajectory(slot), verdict=verdict) for slot, verdict in enumerate(verdicts)
    )
    return Group(id=7, task=TASK, attempts=attempts)


def per_token_reference(rewards: list[float]) -> list[list[float]]:
    rows: list[list[float]] = []
    for i, reward in enumerate(rewards):
        others = [r for j, r in enumerate(rewards) if j != i]
        rows.append(
            [
                reward - sum(others) / len(others)
                if kind in (TokenSource.SAMPLED, TokenSource.CONTROL)
                else 0.0
                for kind in KINDS
            ]
        )
    return rows


def test_hand_worked_advantages() -> None:
    assert leave_one_out_advantages([1.0, 0.0, 0.0]) == [1.0, -0.5, -0.5]
    assert leave_one_out_advantages([1.0, 1.0, 0.0, 0.0]) == pytest.approx([2 / 3, 2 / 3, -2 / 3, -2 / 3])


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=9))
def test_it_equals_the_slow_per_token_reference(rewards: list[float]) -> None:
    samples = leave_one_out(group(*rewards))
    for sample, expected in zip(samples, per_token_reference(rewards), strict=True):
        assert list(sample.advantages) == pytest.approx(expected, abs=1e-5)


@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_equal_rewards_give_exactly_zero(reward: float, num: int) -> None:
    assert leave_one_out_advantages([reward] * num) == [0.0] * num


def test_advantages_are_not_divided_by_the_spread() -> None:
    narrow, wide = leave_one_out_advantages([0.0, 0.1]), leave_one_out_advantages([0.0, 1.0])
    assert wide == pytest.approx([10 * a for a in narrow])


def test_only_sampled_and_control_tokens_are_trainable() -> None:
    sample = leave_one_out(group(1.0, 0.0))[0]
    assert list(sample.trainable) == [0, 0, 1, 0, 1, 0, 1]
    assert list(sample.advantages) == [0, 0, 1, 0, 1, 0, 1]
    assert sample.versions == (VersionSpan(start=0, stop=7, version=3),)


def test_a_void_attempt_yields_no_sample_and_enters_no_baseline() -> None:
    with_void, without = leave_one_out(group(1.0, None, 0.0)), leave_one_out(group(1.0, 0.0))
    assert [sample.attempt.slot for sample in with_void] == [0, 2]
    assert [list(sample.advantages) for sample in with_void] == [
        list(sample.advantages) for sample in without
    ]


def test_a_void_attempt_is_not_a_zero() -> None:
    as_void, as_zero = leave_one_out(group(1.0, 0.5, None)), leave_one_out(group(1.0, 0.5, 0.0))
    assert as_void[1].advantages[2] == -0.5
    assert as_zero[1].advantages[2] == 0.0


@pytest.mark.parametrize("rewards", [(), (1.0,), (None, None), (1.0, None)])
def test_a_void_group_raises(rewards: tuple[float | None, ...]) -> None:
    with pytest.raises(ValueError, match="need at least 2"):
        leave_one_out(group(*rewards))


def test_tokens_shared_with_a_parent_segment_are_trained_on_once() -> None:
    child = Segment(id=1, tokens=tokens(), parent=0, prefix_len=5)
    attempt = trajectory(0, segments=(Segment(id=0, tokens=tokens()), child))
    samples = demonstrations(attempt)
    assert [list(sample.trainable) for sample in samples] == [[0, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1]]


def with_first(attempt: Trajectory) -> Group:
    other = Attempt(trajectory=trajectory(1), verdict=Verdict(status=Status.SCORED, reward=0.0))
    return Group(
        id=7,
        task=TASK,
        attempts=(Attempt(trajectory=attempt, verdict=Verdict(status=Status.SCORED, reward=1.0)), other),
    )


def test_the_sample_carries_the_sampling_temperature() -> None:
    assert leave_one_out(with_first(trajectory(temperature=0.7)))[0].temperature == 0.7


def test_a_truncated_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"7\.0.*top_p=0\.9: sample with top_p=1"):
        leave_one_out(with_first(trajectory(top_p=0.9)))


def test_two_temperatures_in_one_segment_are_refused() -> None:
    attempt = trajectory(temperature=0.7)
    turns = (*attempt.turns, Turn(segment=0, start=6, stop=7, stopped=FinishReason.END, temperature=1.0))
    mixed = Trajectory(
        attempt=attempt.attempt,
        task=TASK,
        segments=attempt.segments,
        turns=turns,
        events=(),
        end=TerminationReason.SUBMITTED,
    )
    with pytest.raises(ValueError, match=r"temperatures \[0\.7, 1\.0\]"):
        leave_one_out(with_first(mixed))


def test_a_scripted_attempt_cannot_be_reinforced() -> None:
    scripted = trajectory(segments=(Segment(id=0, tokens=tokens(logprob=math.nan)),))
    with pytest.raises(
        ValueError, match="no log-probability at position 2: a scripted attempt can only be imitated"
    ):
        leave_one_out(with_first(scripted))


def test_an_attempt_that_sampled_nothing_counts_in_the_baseline_but_yields_no_sample() -> None:
    silent = trajectory(segments=(Segment(id=0, tokens=tokens(bytes([TokenSource.OBSERVED] * 3))),))
    samples = leave_one_out(with_first(silent))
    assert [(sample.attempt.slot, sample.advantages[2]) for sample in samples] == [(1, -1.0)]
