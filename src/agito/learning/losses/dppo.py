"""DPPO: drops a token when its probability, rather than its ratio, has moved too far (arXiv:2602.04879,
binary total variation).

Axes: B sequences, T trainable tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agito.learning.losses.config import DPPOConfig, LossConfig
from agito.learning.losses.meters import PolicyMeters, PolicyTokens, keep_all, measure


def dppo(
    tokens: PolicyTokens, *, num_tokens: float, config: LossConfig
) -> tuple[Tensor, PolicyMeters, float]:
    """-sum_t m_t·sg[min(r_t, ratio_max)]·A_t·log pi_t / N with r = pi/mu. Returns loss, meters and the
    largest pi_old/mu.

    m_t = 0 where the update would push pi further from mu than allowed: A > 0 and pi - mu > delta, or A < 0
    and pi - mu < -delta.
    """
    assert isinstance(config, DPPOConfig)
    if num_tokens <= 0:
        raise ValueError(f"num_tokens={num_tokens}: there is nothing to train on")
    logp_T = tokens.logp_T.detach()
    moved_T = logp_T.exp() - tokens.logp_mu_T.exp()
    is_dropped_T = torch.where(tokens.advantages_T > 0, moved_T > config.delta, moved_T < -config.delta) & (
        tokens.advantages_T != 0
    )
    weight_T = (logp_T - tokens.logp_mu_T).exp().clamp(max=config.ratio_max).masked_fill(is_dropped_T, 0.0)
    loss_T = -weight_T * tokens.advantages_T * tokens.logp_T
    meters, max_w = measure(
        tokens, loss_T=loss_T.detach(), is_clipped_T=is_dropped_T, w_cap=config.ratio_max, **keep_all(tokens)
    )
    return loss_T.sum() / num_tokens, meters, max_w
