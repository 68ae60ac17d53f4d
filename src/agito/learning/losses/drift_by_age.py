"""How far the sampling policy is from the learning policy, by age of the tokens.

Axes: T trainable tokens, A ages in versions; the last age includes all older tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

AGES = 17
_SUMS = 4  # tokens, |log w|, w, w squared
SUMS_BY_AGE = AGES * _SUMS


@torch.no_grad()
def sums_by_age(ages_T: Tensor, log_w_T: Tensor) -> Tensor:
    """Sums for `metrics_by_age`, additive over micro-batches and ranks: `[A, 4]`, float64. log w = log pi_old
    - log mu."""
    ages_T, log_w_T = ages_T.long().clamp(max=AGES - 1), log_w_T.double()
    w_T = log_w_T.exp()
    columns_T4 = torch.stack([torch.ones_like(w_T), log_w_T.abs(), w_T, w_T.square()], dim=1)
    return torch.zeros(AGES, _SUMS, dtype=torch.float64, device=w_T.device).index_add_(0, ages_T, columns_T4)


def metrics_by_age(sums: Sequence[float]) -> dict[str, float]:
    """For every age that occurs: mean w, mean |log w| in nats, and the relative effective sample size (ESS /
    tokens)."""
    figures: dict[str, float] = {}
    for age in range(AGES):
        tokens, abs_log_w, w, w_squared = sums[age * _SUMS : (age + 1) * _SUMS]
        if tokens:
            figures[f"policy/w_mean_v{age}"] = w / tokens
            figures[f"policy/log_w_abs_mean_v{age}_nats"] = abs_log_w / tokens
            figures[f"policy/ess_v{age}_fraction"] = w**2 / (tokens * w_squared) if w_squared else 0.0
    return figures
