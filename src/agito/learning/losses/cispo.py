"""CISPO: clips the importance weight, so every token keeps its gradient (arXiv:2506.13585).

Axes: B sequences, T trainable tokens.
"""

from __future__ import annotations

from torch import Tensor

from agito.learning.losses.config import CISPOConfig, LossConfig
from agito.learning.losses.meters import PolicyMeters, PolicyTokens, keep_all, measure


def cispo(
    tokens: PolicyTokens, *, num_tokens: float, config: LossConfig
) -> tuple[Tensor, PolicyMeters, float]:
    """-sum_t sg[clip(r_t, low, high)]·A_t·log pi_t / N with r = pi/mu. Returns loss, meters and the largest
    pi_old/mu."""
    assert isinstance(config, CISPOConfig)
    if num_tokens <= 0:
        raise ValueError(f"num_tokens={num_tokens}: there is nothing to train on")
    ratio_T = (tokens.logp_T - tokens.logp_mu_T).detach().exp()
    weight_T = ratio_T.clamp(config.clip_low, config.clip_high)
    loss_T = -weight_T * tokens.advantages_T * tokens.logp_T
    meters, max_w = measure(
        tokens,
        loss_T=loss_T.detach(),
        is_clipped_T=weight_T != ratio_T,
        w_cap=config.clip_high,
        **keep_all(tokens),
    )
    return loss_T.sum() / num_tokens, meters, max_w
