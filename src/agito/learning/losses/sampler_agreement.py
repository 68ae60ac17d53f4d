"""Checks that engine and trainer assign the same probabilities to the sampled tokens.

At age 0, log w = log pi_old - log mu consists of rounding error alone. The check uses its absolute value: a
signed mean would stay near zero even if the log-probabilities of neighbouring tokens were swapped.

Axes: T trainable tokens, all positions of whose prefix were computed by the version being trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of |log w| in nats: of its mean, and of a token's, which at most `share` of them exceed."""

    mean: float
    token: float
    share: float = 0.0


# Measured on networks of 2 to 28 layers, 64 to 512 wide, at temperatures from 0.6 to 1.4. Largest mean and
# token: 1.3e-6 and 8e-6 in float32, 1.9e-3 and 9e-3 in float16, 3.8e-3 and 0.07 in bfloat16. SmolLM2-135M in
# bfloat16 with a merged adapter: mean 3.7e-3, 2 of 13,220 tokens beyond 0.5. Rounding has no largest error
# there, since it is worst for improbable tokens; a bug moves many tokens.
BOUNDS: Mapping[torch.dtype, Bounds] = {
    torch.float64: Bounds(mean=1e-4, token=2e-3),
    torch.float32: Bounds(mean=1e-4, token=2e-3),
    torch.float16: Bounds(mean=1e-2, token=0.1),
    torch.bfloat16: Bounds(mean=2e-2, token=0.5, share=1e-3),
}
NUM_SUMS = 3


@torch.no_grad()
def agreement_sums(log_w_T: Tensor, bounds: Bounds) -> list[float]:
    """Sums for `require_agreement`, additive over micro-batches and ranks: tokens, |log w|, tokens beyond the
    bound."""
    off_T = log_w_T.double().abs()
    return [float(off_T.numel()), float(off_T.sum()), float((~(off_T <= bounds.token)).sum())]


def require_agreement(sums: Sequence[float], bounds: Bounds, *, version: int) -> None:
    """Raises `AssertionError` when engine and trainer differ by more than their arithmetic explains."""
    tokens, off, beyond = sums
    mean = off / max(tokens, 1.0)
    assert mean <= bounds.mean and beyond <= bounds.share * tokens, (
        f"mean |log w| = {mean:.3g} (at most {bounds.mean:g}), {beyond:.0f} of {tokens:.0f} tokens beyond "
        f"{bounds.token:g}, for tokens of "
        f"version {version} itself: this is a bug, not staleness; engine and trainer disagree on tokens, "
        "positions, temperature or weights"
    )
