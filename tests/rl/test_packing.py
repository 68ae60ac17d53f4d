from __future__ import annotations

import math
from array import array
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.learning.losses.packing import pack, require_sampled, split_by_length, split_minibatches
from agito.types import AttemptId, Sample, VersionSpan, span


def blank(length: int, slot: int = 0) -> Sample:
    zeros = array("f", [0.0] * length)
    return Sample(
        attempt=AttemptId(group=0, slot=slot),
        segment=0,
        ids=array("i", range(length)),
        logprobs=zeros,
        trainable=bytes([0] + [1] * (length - 1)),
        advantages=zeros,
        versions=span(0, length),
    )


def test_a_token_is_predicted_from_the_position_before_it_in_its_own_sample(make_sample) -> None:
    samples = [make_sample([5, 6, 7], [0, 1, 1]), make_sample([8, 9], [0, 1], slot=1)]
    packed = pack(samples)
    assert packed.ids_N.tolist() == [5, 6, 7, 8, 9]
    assert packed.lengths_B == (3, 2)
    assert packed.source_T.tolist() == [0, 1, 3]
    assert packed.target_T.tolist() == [6, 7, 9]
    assert packed.sequence_T.tolist() == [0, 0, 1]


def test_columns_are_taken_at_the_trainable_tokens(make_sample) -> None:
    sample = make_sample(
        [1, 2, 3], [0, 1, 1], logprob=[0.0, -0.25, -0.5], advantage=[0.0, 2.0, 3.0], temperature=0.5
    )
    packed = pack([sample])
    assert packed.logp_mu_T.tolist() == [-0.25, -0.5]
    assert packed.advantages_T.tolist() == [2.0, 3.0]
    assert packed.temperature_T.tolist() == [0.5, 0.5]


def test_age_counts_versions_since_the_token_and_one_old_position_makes_a_sample_stale(make_sample) -> None:
    spans = (VersionSpan(start=0, stop=2, version=4), VersionSpan(start=2, stop=3, version=6))
    mixed = replace(make_sample([1, 2, 3], [0, 1, 1]), versions=spans)
    packed = pack([mixed, make_sample([1, 2], [0, 1], version=6)], version=6)
    assert packed.ages_T.tolist() == [2, 0, 0]
    assert packed.is_fresh_T.tolist() == [False, False, True]


def test_a_first_token_cannot_be_trainable(make_sample) -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0 segment 0: position 0 is trainable"):
        pack([make_sample([1, 2], [1, 1])])


def test_nothing_cannot_be_packed(make_sample) -> None:
    with pytest.raises(ValueError, match="no samples"):
        pack([])
    with pytest.raises(ValueError, match="no tokens"):
        pack([make_sample([], [])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": array("f", [0, math.nan])}, "no valid log-probability"),
        ({"logprobs": array("f", [0, 0.5])}, "no valid log-probability"),
        ({"advantages": array("f", [0, math.nan])}, "a void attempt must not become a sample"),
        ({"temperature": 0.0}, "a greedy choice has no policy gradient"),
    ],
)
def test_a_sample_that_no_policy_sampled_is_refused(make_sample, change: dict, message: str) -> None:
    good = make_sample([1, 2], [0, 1])
    require_sampled([good])
    with pytest.raises(ValueError, match=message):
        require_sampled([replace(good, **change)])


def test_absent_values_at_untrained_positions_do_not_matter(make_sample) -> None:
    sample = make_sample([1, 2, 3], [0, 0, 1])
    assert math.isnan(sample.logprobs[1])
    require_sampled([sample])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 6))
def test_minibatches_hold_every_sample_once_and_are_balanced(lengths: list[int], num: int) -> None:
    samples = [blank(length, slot) for slot, length in enumerate(lengths)]
    parts = split_minibatches(samples, num)
    assert len(parts) == num
    assert [sample for part in parts for sample in part] == samples
    for part in parts:
        assert abs(sum(len(s.ids) for s in part) - sum(lengths) / num) <= max(lengths)


def test_minibatches_do_not_depend_on_the_order_in_which_samples_came() -> None:
    samples = [blank(length, slot) for slot, length in enumerate([9, 2, 7, 7, 3])]
    longest_first = sorted(samples, key=lambda sample: -len(sample.ids))
    assert split_minibatches(longest_first, 2) == split_minibatches(samples, 2) == [samples[:2], samples[2:]]


def test_minibatches_of_nothing_are_empty() -> None:
    assert split_minibatches([], 2) == [[], []]


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 60))
def test_micro_batches_keep_to_the_budget_unless_one_sample_exceeds_it(
    lengths: list[int], budget: int
) -> None:
    samples = [blank(length, slot) for slot, length in enumerate(lengths)]
    parts = split_by_length(samples, lengths, budget)
    assert sorted(s.attempt.slot for part in parts for s in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or sum(len(s.ids) for s in part) <= budget
