"""GSPO: one ratio and one clip for a whole sequence (arXiv:2507.18071).

Axes: B sequences, T trainable tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agito.learning.losses.config import GSPOConfig, LossConfig
from agito.learning.losses.meters import PolicyMeters, PolicyTokens, keep_all, measure


def gspo(
    tokens: PolicyTokens, *, num_tokens: float, config: LossConfig
) -> tuple[Tensor, PolicyMeters, float]:
    """-sum_t min(s·A_t, clip(s, low, high)·A_t) / N with s = exp(mean over the sequence of log(pi/mu)).
    Returns loss, meters and the largest pi_old/mu.

    Every token carries its sequence's s, so sequences count by their length. A sample is a sequence: each
    sample of a split trajectory has its own ratio.
    """
    assert isinstance(config, GSPOConfig)
    if num_tokens <= 0:
        raise ValueError(f"num_tokens={num_tokens}: there is nothing to train on")
    log_r_T = tokens.logp_T - tokens.logp_mu_T
    counts_B = torch.bincount(tokens.sequence_T, minlength=tokens.num_sequences).clamp(min=1)
    sums_B = torch.zeros(tokens.num_sequences, device=log_r_T.device).index_add(0, tokens.sequence_T, log_r_T)
    ratio_T = (sums_B / counts_B).exp()[tokens.sequence_T]
    gain_T = ratio_T * tokens.advantages_T
    clipped_gain_T = ratio_T.clamp(config.clip_low, config.clip_high) * tokens.advantages_T
    loss_T = -torch.minimum(gain_T, clipped_gain_T)
    meters, max_w = measure(
        tokens,
        loss_T=loss_T.detach(),
        is_clipped_T=(clipped_gain_T < gain_T).detach(),
        w_cap=config.clip_high,
        **keep_all(tokens),
    )
    return loss_T.sum() / num_tokens, meters, max_w
