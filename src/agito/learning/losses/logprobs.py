"""Exact log-probabilities of given tokens, computed for trained tokens only.

Axes: N tokens, T trainable tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MIN_LOGIT = -1e4  # nats; below it p is exactly 0 in float32, and 0 · -inf would be NaN


def log_distributions(
    hidden_ND: Tensor,
    head: Callable[[Tensor], Tensor],
    source_T: Tensor,
    *,
    temperature_T: Tensor | None = None,
) -> Tensor:
    """logp_TV = log softmax(head(hidden[source]) / temperature), float32, in nats; temperature 1 where none
    is given."""
    logits_TV = head(hidden_ND[source_T]).float()
    if temperature_T is not None:
        logits_TV = logits_TV / temperature_T[:, None]
    return torch.log_softmax(logits_TV, dim=-1)


def token_logprobs(logp_TV: Tensor, target_T: Tensor) -> Tensor:
    """Log-probability of each target token: logp_TV[t, target_t]."""
    return logp_TV.gather(1, target_T[:, None])[:, 0]


@torch.no_grad()
def entropy(logp_TV: Tensor) -> Tensor:
    """-sum_v p_v log p_v, without gradient; tokens of probability zero contribute nothing."""
    return -(logp_TV.exp() * logp_TV.clamp(min=_MIN_LOGIT)).sum(dim=-1)
