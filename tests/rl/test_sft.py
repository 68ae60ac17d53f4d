from __future__ import annotations

import math

import pytest
import torch

from agito.learning.losses.sft import token_cross_entropy


def test_it_is_the_mean_over_tokens_of_the_whole_step() -> None:
    logp_T = torch.log(torch.tensor([0.5, 0.25]))
    assert float(token_cross_entropy(logp_T, num_tokens=2)) == pytest.approx(1.5 * math.log(2))
    assert float(token_cross_entropy(logp_T, num_tokens=4)) == pytest.approx(0.75 * math.log(2))


def test_parts_add_up_to_the_whole() -> None:
    torch.manual_seed(0)
    logp_T = -torch.rand(10)
    parts = sum(token_cross_entropy(part, num_tokens=10) for part in logp_T.split([3, 0, 7]))
    assert float(parts) == pytest.approx(float(token_cross_entropy(logp_T, num_tokens=10)), abs=1e-6)


def test_a_step_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        token_cross_entropy(torch.zeros(0), num_tokens=0)
