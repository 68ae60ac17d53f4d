"""Sampling one token per row from exact distributions, and its random numbers.

Axes: R rows, V vocabulary. The cumulative distribution is inverted in integer arithmetic, so the result is
independent of device and summation order; probabilities below 2^-40 are never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agito.protocols import FirstToken

_UNIT = float(1 << 40)
_NEVER = -1e30  # of a logit
_STEP = np.uint64(0x9E3779B97F4A7C15)


def sample(
    logits_RV: Tensor, uniforms_R: Tensor, temperatures_R: Tensor, top_ps_R: Tensor | None, *, is_greedy: bool
) -> tuple[Tensor, Tensor]:
    """Token ids, and the log-probability of each under the distribution it was sampled from.

    That distribution is softmax(logits / temperature), cut to the smallest set of tokens with total
    probability `top_ps_R` and renormalised (arXiv:1904.09751); `None` keeps everything. Temperature 0 takes
    the likeliest token (the lowest id of ties) and reports its log-probability at temperature 1; `is_greedy`
    says whether any row has temperature 0.
    """
    scales_R1 = (
        torch.where(temperatures_R > 0, temperatures_R, 1.0)[:, None]
        if is_greedy
        else temperatures_R[:, None]
    )
    logprobs_RV = torch.log_softmax(logits_RV / scales_R1, dim=-1)
    if top_ps_R is not None:
        logprobs_RV = _truncated(logprobs_RV, top_ps_R)
    mass_RV = (logprobs_RV.exp() * _UNIT).long().cumsum(-1)
    targets_R1 = (uniforms_R[:, None] * mass_RV[:, -1:]).long()
    ids_R1 = torch.searchsorted(mass_RV, targets_R1, right=True)
    if is_greedy:
        ids_R1 = torch.where(temperatures_R[:, None] > 0, ids_R1, logprobs_RV.argmax(-1, keepdim=True))
    return ids_R1[:, 0], logprobs_RV.gather(1, ids_R1)[:, 0]


def steer(logits_RV: Tensor, firsts: Sequence[FirstToken | None]) -> tuple[list[int], Tensor]:
    """Leaves only the tokens that may be drawn. Returns which rows that concerned, and what they were. In
    place: compiled code reads logits where they lie."""
    asked = [(row, first) for row, first in enumerate(firsts) if first is not None]
    rows = [row for row, _ in asked]
    was_RV = logits_RV[rows]
    for at, (row, first) in enumerate(asked):
        if first.is_wanted:
            logits_RV[row] = _NEVER
        logits_RV[row, first.id] = was_RV[at, first.id] if first.is_wanted else _NEVER
    return rows, was_RV


def logprobs_of(logits_RV: Tensor, ids_R: Tensor, temperatures_R: Tensor) -> Tensor:
    """Of one token in each row, under the whole distribution; at temperature 1 where it is greedy."""
    scales_R1 = torch.where(temperatures_R > 0, temperatures_R, 1.0)[:, None]
    return torch.log_softmax(logits_RV / scales_R1, dim=-1).gather(1, ids_R[:, None])[:, 0]


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for each pair, a pure function of the pair: SplitMix64 (doi:10.1145/2660193.2660195)
    started at the hashed seed and advanced by position."""
    with np.errstate(over="ignore"):
        return (_mix(_mix(seeds + _STEP) + positions.astype(np.uint64) * _STEP) >> np.uint64(12)).astype(
            np.float64
        ) * 2.0**-52


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _truncated(logprobs_RV: Tensor, top_ps_R: Tensor) -> Tensor:
    """The head of the distribution, renormalised; a row with top-p 1 is returned bit for bit."""
    mass_RV, order_RV = (logprobs_RV.exp() * _UNIT).long().sort(dim=-1, descending=True, stable=True)
    before_RV = mass_RV.cumsum(-1) - mass_RV
    is_cut_RV = before_RV >= top_ps_R[:, None] * mass_RV.sum(-1, keepdim=True)
    is_cut_RV = torch.zeros_like(is_cut_RV).scatter_(1, order_RV, is_cut_RV)
    cut_RV = torch.log_softmax(logprobs_RV.masked_fill(is_cut_RV, float("-inf")), dim=-1)
    return torch.where(top_ps_R[:, None] < 1.0, cut_RV, logprobs_RV)
