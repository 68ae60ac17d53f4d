"""The order in which demonstrations are shown while they are still being made."""

from __future__ import annotations

from agito.training.cold_start import practice


def test_every_demonstration_is_shown_once_an_epoch_first_as_they_come_then_shuffled() -> None:
    first, second, third = practice(50, times=3, seed=0)
    assert first == list(range(50))
    assert sorted(second) == sorted(third) == first
    assert first != second != third
    assert practice(50, times=3, seed=0) == [first, second, third]
    assert practice(50, times=3, seed=1)[1] != second
