"""The order in which demonstrations are shown while they are still being made."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agito.coldstart import practice


@given(count=st.integers(1, 60), times=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_demonstration_is_shown_as_often_as_asked_and_new_ones_come_in_order(count: int, times: int, seed: int) -> None:
    order = practice(count, times=times, seed=seed)
    assert Counter(order) == dict.fromkeys(range(count), times)
    first = [place for at, place in enumerate(order) if place not in order[:at]]
    assert first == list(range(count))


@given(count=st.integers(1, 60), times=st.integers(2, 5))
def test_no_more_than_every_other_one_has_to_be_new(count: int, times: int) -> None:
    order = practice(count, times=times, seed=0)
    for at in range(1, len(order)):
        assert max(order[:at]) <= at / 2 + 1


def test_another_seed_is_another_order() -> None:
    assert practice(50, times=3, seed=0) != practice(50, times=3, seed=1)
