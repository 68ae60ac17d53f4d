"""What a policy loss consumes, and the meters that it returns: sums and maxima, additive over micro-batches
and ranks.

Axes: T trainable tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import TypedDict

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTokens:
    """The trainable tokens of whole sequences. Only `logp_T` carries a gradient. w = pi_old / mu, rho = pi /
    pi_old."""

    logp_T: Tensor  # log pi
    logp_old_T: Tensor  # log pi_old, at batch start
    logp_mu_T: Tensor  # log mu, as sampled
    advantages_T: Tensor
    entropy_T: Tensor
    sequence_T: Tensor  # int64, in 0..num_sequences-1
    num_sequences: int

    def __post_init__(self) -> None:
        assert not self.logp_old_T.requires_grad, "pi_old must be frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyMeters:
    """Sums over tokens and sequences, before any rejection."""

    tokens: float = 0.0
    loss: float = 0.0  # sum of -w̄·min(...), not divided by N
    clipped: float = 0.0  # tokens whose gradient the clip removed
    truncated: float = 0.0  # tokens whose w exceeds its cap
    log_w: float = 0.0
    abs_log_w: float = 0.0
    w: float = 0.0
    w_squared: float = 0.0
    entropy: float = 0.0
    # r - 1 - log r, r = pi / mu: an unbiased, non-negative estimate of KL(mu || pi) (Schulman's k3)
    kl: float = 0.0
    sequences: float = 0.0
    rejected_sequences: float = 0.0
    rejected_tokens: float = 0.0

    def __add__(self, other: PolicyMeters) -> PolicyMeters:
        return PolicyMeters.of(
            [mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)]
        )

    @classmethod
    def of(cls, sums: Sequence[float]) -> PolicyMeters:
        return cls(**dict(zip((field.name for field in fields(cls)), sums, strict=True)))

    def sums(self) -> list[float]:
        """In field order, for a reduction over ranks."""
        return list(astuple(self))

    def metrics(self, max_w: float) -> dict[str, float]:
        """Means and fractions by metric name. `max_w` is passed separately because it is a maximum."""
        tokens = max(self.tokens, 1.0)
        return {
            "policy/clip_fraction": self.clipped / tokens,
            "policy/truncated_fraction": self.truncated / tokens,
            "policy/log_w_mean_nats": self.log_w / tokens,
            "policy/log_w_abs_mean_nats": self.abs_log_w / tokens,
            "policy/w_max": max_w,
            "policy/ess_fraction": self.w**2 / (tokens * self.w_squared) if self.w_squared else 0.0,
            "policy/entropy_nats": self.entropy / tokens,
            "policy/kl_nats": self.kl / tokens,
            "policy/rejected_sequences_fraction": self.rejected_sequences / max(self.sequences, 1.0),
            "policy/rejected_tokens_fraction": self.rejected_tokens / tokens,
            "policy/rejected_length_ratio": self._rejected_length_ratio(),
        }

    def _rejected_length_ratio(self) -> float:
        """Mean length of rejected sequences over the mean length of all; 1 when rejection does not depend on
        length."""
        if not self.rejected_sequences:
            return 1.0
        return (self.rejected_tokens / self.rejected_sequences) / (self.tokens / self.sequences)


class Kept(TypedDict):
    """Tokens and sequences that were not rejected."""

    is_kept_T: Tensor
    is_kept_B: Tensor


def keep_all(tokens: PolicyTokens) -> Kept:
    """Rejects nothing."""
    device = tokens.logp_T.device
    return Kept(
        is_kept_T=torch.ones(tokens.logp_T.numel(), dtype=torch.bool, device=device),
        is_kept_B=torch.ones(tokens.num_sequences, dtype=torch.bool, device=device),
    )


@torch.no_grad()
def measure(
    tokens: PolicyTokens,
    *,
    loss_T: Tensor,
    is_clipped_T: Tensor,
    is_kept_T: Tensor,
    is_kept_B: Tensor,
    w_cap: float,
) -> tuple[PolicyMeters, float]:
    """Meters of one micro-batch, and its largest w."""
    log_w_T = (tokens.logp_old_T - tokens.logp_mu_T).double()
    w_T = log_w_T.exp()
    log_r_T = (tokens.logp_T - tokens.logp_mu_T).double()
    sums = torch.stack(
        [
            loss_T.double().sum(),
            is_clipped_T.sum().double(),
            (w_T > w_cap).sum().double(),
            log_w_T.sum(),
            log_w_T.abs().sum(),
            w_T.sum(),
            w_T.square().sum(),
            tokens.entropy_T.double().sum(),
            (log_r_T.expm1() - log_r_T).sum(),
        ]
    ).tolist()
    num_tokens = tokens.logp_T.numel()
    kept_tokens, kept_sequences = int(is_kept_T.sum()), int(is_kept_B.sum())
    counts = [
        float(tokens.num_sequences),
        float(tokens.num_sequences - kept_sequences),
        float(num_tokens - kept_tokens),
    ]
    return PolicyMeters.of([float(num_tokens), *sums, *counts]), float(w_T.max()) if num_tokens else 0.0
