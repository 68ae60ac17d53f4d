"""Decoupled PPO: the clip is centred on the weights at batch start, and a capped weight corrects staleness
(arXiv:2505.24298).

Axes: B sequences, T trainable tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agito.learning.losses.config import DecoupledPPOConfig, LossConfig
from agito.learning.losses.meters import PolicyMeters, PolicyTokens, measure


def decoupled_ppo(
    tokens: PolicyTokens, *, num_tokens: float, config: LossConfig
) -> tuple[Tensor, PolicyMeters, float]:
    """-sum_t keep·w̄_t·min(rho_t·A_t, clip(rho_t, low, high)·A_t) / N. Returns loss, meters and the largest
    w.

    rho = pi/pi_old; w̄ = min(pi_old/mu, w_max), without gradient; N = `num_tokens`, the policy's tokens in
    the optimizer step over all ranks, before any rejection. Where A < 0 the minimum is unbounded as rho
    grows, so `dual_clip`·A bounds it (arXiv:1912.09729).

    Sequence rejection uses exp(mean log w) over one sample. It rejects long and short samples at different
    rates; `policy/rejected_length_ratio` shows by how much.
    """
    assert isinstance(config, DecoupledPPOConfig)
    if num_tokens <= 0:
        raise ValueError(f"num_tokens={num_tokens}: there is nothing to train on")
    log_w_T = tokens.logp_old_T - tokens.logp_mu_T
    is_kept_B = _kept_sequences(log_w_T, tokens, config.sequence_rejection)
    is_kept_T = is_kept_B[tokens.sequence_T]
    capped_w_T = torch.where(is_kept_T, log_w_T.exp().clamp(max=config.w_max), 0.0)

    rho_T = (tokens.logp_T - tokens.logp_old_T).exp()
    gain_T = rho_T * tokens.advantages_T
    clipped_gain_T = rho_T.clamp(config.clip_low, config.clip_high) * tokens.advantages_T
    bound_T = torch.where(tokens.advantages_T < 0, config.dual_clip * tokens.advantages_T, -torch.inf)
    kept_gain_T = torch.maximum(torch.minimum(gain_T, clipped_gain_T), bound_T)
    loss_T = -capped_w_T * kept_gain_T

    is_clipped_T = (kept_gain_T != gain_T).detach()
    meters, max_w = measure(
        tokens,
        loss_T=loss_T,
        is_clipped_T=is_clipped_T,
        is_kept_T=is_kept_T,
        is_kept_B=is_kept_B,
        w_cap=config.w_max,
    )
    return loss_T.sum() / num_tokens, meters, max_w


def _kept_sequences(log_w_T: Tensor, tokens: PolicyTokens, bounds: tuple[float, float] | None) -> Tensor:
    if bounds is None:
        return torch.ones(tokens.num_sequences, dtype=torch.bool, device=log_w_T.device)
    sums_B = torch.zeros(tokens.num_sequences, device=log_w_T.device).index_add_(
        0, tokens.sequence_T, log_w_T
    )
    counts_B = torch.bincount(tokens.sequence_T, minlength=tokens.num_sequences).clamp(min=1)
    geometric_B = (sums_B / counts_B).exp()
    return (geometric_B >= bounds[0]) & (geometric_B <= bounds[1])
