"""Supervised loss on demonstrations."""

from __future__ import annotations

from torch import Tensor


def token_cross_entropy(logp_T: Tensor, *, num_tokens: float) -> Tensor:
    """-sum_t log pi(token_t) / N with N = `num_tokens`, the trainable tokens of the optimizer step over all
    ranks."""
    if num_tokens <= 0:
        raise ValueError(f"num_tokens={num_tokens}: there is nothing to train on")
    return -logp_T.sum() / num_tokens
