"""Rotary positions (arXiv:2104.09864), plain or scaled: linear, Llama 3.1, YaRN (arXiv:2309.00071). Axes as
in `network.py`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agito.models.config import DecoderConfig, RopeScaling


def rotary(positions_N: Tensor, config: DecoderConfig, *, local: bool = False) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables in fp32, shape NE. The halves of E rotate against each other; the sign is folded
    into the sine.

    `local`: for sliding layers.
    """
    is_local = local and config.local_rope_theta is not None
    theta = config.local_rope_theta if is_local and config.local_rope_theta is not None else config.rope_theta
    exponents = (
        torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions_N.device) / config.head_dim
    )
    frequencies, amplitude = 1.0 / theta**exponents, 1.0
    if config.rope is not None and not is_local:
        frequencies, amplitude = _stretched(frequencies, theta, config.head_dim, config.rope)
    angles = positions_N[:, None].float() * frequencies
    cosines, sines = angles.cos(), angles.sin()
    if amplitude != 1.0:
        cosines, sines = cosines * amplitude, sines * amplitude
    return cosines.repeat(1, 2), torch.cat((-sines, sines), dim=-1)


def rotate(x_NHE: Tensor, cos_NE: Tensor, sin_NE: Tensor) -> Tensor:
    """x cos + swap(x) sin, where swap exchanges the halves of x."""
    first, second = x_NHE.chunk(2, dim=-1)
    return torch.addcmul(x_NHE * cos_NE[:, None], torch.cat((second, first), dim=-1), sin_NE[:, None])


def _stretched(frequencies: Tensor, theta: float, width: int, scaling: RopeScaling) -> tuple[Tensor, float]:
    """Scaled frequencies, and the factor of cosines and sines."""
    slowed = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slowed, 1.0
    if scaling.kind == "llama3":
        turns = scaling.original_max_position * frequencies / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        kept = kept.clamp(0, 1)
        return (1 - kept) * slowed + kept * frequencies, 1.0

    def at(turns: float) -> float:
        """The index of the frequency that makes `turns` rotations within the original length."""
        return width * math.log(scaling.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = at(scaling.beta_fast), at(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    steps = torch.arange(width // 2, dtype=torch.float32, device=frequencies.device)
    kept = 1 - ((steps - low) / (high - low or 0.001)).clamp(0, 1)
    factor = scaling.attention_factor
    return slowed * (1 - kept) + frequencies * kept, 0.1 * math.log(
        scaling.factor
    ) + 1.0 if factor is None else factor
