"""When engine and trainer agree, and when they do not."""

from __future__ import annotations

import pytest
import torch

from agito.learning.losses.sampler_agreement import BOUNDS, agreement_sums, require_agreement


def judge(log_w_T: torch.Tensor, dtype: torch.dtype) -> None:
    require_agreement(agreement_sums(log_w_T, BOUNDS[dtype]), BOUNDS[dtype], version=3)


def rounding(num_tokens: int, *, off: float, beyond: int, by: float) -> torch.Tensor:
    log_w_T = torch.full((num_tokens,), off)
    log_w_T[:beyond] = by
    return log_w_T


def test_bfloat16_may_round_a_few_improbable_tokens_far_and_float32_not_one() -> None:
    judge(rounding(13_220, off=3.5e-3, beyond=2, by=0.8), torch.bfloat16)
    with pytest.raises(AssertionError, match=r"1 of 13220 tokens beyond 0\.002"):
        judge(rounding(13_220, off=1e-6, beyond=1, by=0.01), torch.float32)


@pytest.mark.parametrize(("num_tokens", "beyond"), [(10_000, 20), (100, 1)])
def test_more_than_a_few_tokens_that_are_far_off_are_a_fault_in_bfloat16_too(
    num_tokens: int, beyond: int
) -> None:
    with pytest.raises(AssertionError, match="this is a bug, not staleness"):
        judge(rounding(num_tokens, off=1e-3, beyond=beyond, by=0.6), torch.bfloat16)


def test_exchanged_neighbours_are_seen_in_every_precision_although_their_mean_is_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs_T = -torch.rand(4_000, generator=generator) * 2
    log_w_T = logprobs_T - logprobs_T.roll(1)
    assert abs(float(log_w_T.mean())) < 1e-6
    for dtype in BOUNDS:
        with pytest.raises(AssertionError):
            judge(log_w_T, dtype)
