"""How far two success rates are apart."""

from __future__ import annotations

import random
from math import isnan

import pytest

from agito.record import Rate
from agito.record.difference import difference, paired_difference


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """His example: 56 of 70 against 48 of 80."""
    found = difference(Rate(successes=48, num=80), Rate(successes=56, num=70))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert found.is_apart


def test_task_by_task_the_same_rates_are_told_apart_that_independent_attempts_leave_open() -> None:
    first = {number: number < 60 for number in range(100)}
    second = {number: number < 70 for number in range(100)}
    one, two, paired = paired_difference(first, second)
    independent = difference(one, two)
    assert paired.value == independent.value == pytest.approx(0.1)
    assert paired.is_apart and not independent.is_apart and paired.num_pairs == 100


def test_only_tasks_that_both_attempted_are_paired() -> None:
    one, two, found = paired_difference({1: True, 2: True, 3: False}, {3: True, 4: False})
    assert (one.num, two.num, found.num_pairs, found.value) == (1, 1, 1, 1.0)
    assert isnan(paired_difference({1: True}, {2: True})[2].value)
    assert isnan(difference(Rate(successes=0, num=0), Rate(successes=1, num=1)).value)


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(0)
    covered, trials = 0, 1500
    for _ in range(trials):
        ease = [rng.random() for _ in range(80)]  # of each task, which is what the two runs share
        first = {task: rng.random() < each for task, each in enumerate(ease)}
        second = {task: rng.random() < min(each + 0.1, 1.0) for task, each in enumerate(ease)}
        # the mean of min(u + .1, 1) − u over uniform u
        truth = 0.1 * 0.9 + 0.1**2 / 2
        found = paired_difference(first, second)[2]
        covered += found.low <= truth <= found.high
    assert 0.935 <= covered / trials <= 0.98
