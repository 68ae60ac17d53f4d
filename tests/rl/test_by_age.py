"""Importance weights by age of the tokens."""

from __future__ import annotations

import math

import pytest
import torch

from agito.learning.losses.drift_by_age import AGES, metrics_by_age, sums_by_age


def test_weights_by_age_match_values_worked_by_hand() -> None:
    sums = sums_by_age(torch.tensor([0, 2, 2]), torch.tensor([0.0, math.log(2.0), math.log(0.5)]))
    figures = metrics_by_age(sums.flatten().tolist())
    assert figures["policy/w_mean_v0"] == 1.0 and figures["policy/ess_v0_fraction"] == 1.0
    assert figures["policy/w_mean_v2"] == pytest.approx(1.25)
    assert figures["policy/log_w_abs_mean_v2_nats"] == pytest.approx(math.log(2.0))
    assert figures["policy/ess_v2_fraction"] == pytest.approx(2.5**2 / (2 * 4.25))
    assert "policy/w_mean_v1" not in figures


def test_what_is_older_than_the_last_age_counts_there_and_sums_add() -> None:
    old = sums_by_age(torch.tensor([AGES + 5]), torch.tensor([0.0]))
    both = (old + sums_by_age(torch.tensor([AGES - 1]), torch.tensor([0.0]))).flatten().tolist()
    assert metrics_by_age(both) == {
        f"policy/w_mean_v{AGES - 1}": 1.0,
        f"policy/log_w_abs_mean_v{AGES - 1}_nats": 0.0,
        f"policy/ess_v{AGES - 1}_fraction": 1.0,
    }
