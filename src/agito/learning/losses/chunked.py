"""Log-probabilities of given tokens, with head and softmax computed chunk by chunk, never for the whole
vocabulary and all tokens at once.

With log p = z_target - log sum_v exp z_v and z = W h / temperature, the gradient for h is (W_target - sum_v
p_v W_v) / temperature times the incoming gradient, one factor per token. So it is computed in the forward
pass while the chunk is in memory, and a frozen head never runs twice. The gradient for W needs p itself: the
first chunks keep it, the others compute it again in the backward pass.

Axes: T trainable tokens, R tokens of a chunk, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 22  # logits held at once: 16 MiB in float32, of which two or three copies exist
_NUM_KEPT = 4  # chunks that keep their probabilities for the backward pass, if the head learns
_MIN_LOGIT = -1e4  # nats; below it p is exactly 0 in float32, and 0 · -inf would be NaN


def should_chunk(num_tokens: int, vocab_size: int) -> bool:
    """Whether there are too many logits to hold at once."""
    return num_tokens * vocab_size > CHUNK


def chunked_logprobs(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    *,
    temperature_T: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token, and the entropy without gradient; float32, in nats. `chunk`:
    logits held at once."""
    return cast("tuple[Tensor, Tensor]", _Chunked.apply(hidden_TD, weight_VD, target_T, temperature_T, chunk))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        target_T: Tensor,
        temperature_T: Tensor | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.size = max(1, chunk // len(weight_VD))
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        logp_T, entropy_T, total_T = (torch.empty(len(target_T), device=hidden_TD.device) for _ in range(3))
        slope_TD = torch.empty_like(hidden_TD) if needs_hidden else None
        kept: list[Tensor] = []
        for rows in _chunks(len(target_T), ctx.size):
            logits_RV = _logits(hidden_TD[rows], weight_VD, temperature_T, rows)
            largest_R1 = logits_RV.amax(dim=-1, keepdim=True)
            logits_RV.sub_(largest_R1)
            logp_T[rows] = logits_RV.gather(1, target_T[rows, None])[:, 0]
            p_RV = logits_RV.clamp_(min=_MIN_LOGIT).exp()
            sum_R1 = p_RV.sum(dim=-1, keepdim=True)
            p_RV.div_(sum_R1)
            log_sum_R = sum_R1[:, 0].log()
            logp_T[rows] -= log_sum_R
            entropy_T[rows] = log_sum_R - logits_RV.mul_(p_RV).sum(dim=-1)
            total_T[rows] = log_sum_R + largest_R1[:, 0]
            del logits_RV
            if slope_TD is not None:
                slope_RD = weight_VD[target_T[rows]] - p_RV.to(weight_VD.dtype) @ weight_VD
                slope_TD[rows] = slope_RD if temperature_T is None else slope_RD / temperature_T[rows, None]
            if needs_weight and len(kept) < _NUM_KEPT:
                kept.append(p_RV)
        ctx.mark_non_differentiable(entropy_T)
        ctx.save_for_backward(hidden_TD, weight_VD, target_T, temperature_T, total_T, slope_TD, *kept)
        return logp_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient_T = gradients[0]
        hidden_TD, weight_VD, target_T, temperature_T, total_T, slope_TD, *kept = ctx.saved_tensors
        for_hidden = None if slope_TD is None else gradient_T[:, None].to(slope_TD.dtype) * slope_TD
        if not ctx.needs_input_grad[1]:
            return for_hidden, None, None, None, None
        for_weight = torch.zeros_like(weight_VD)
        scaled_T = gradient_T if temperature_T is None else gradient_T / temperature_T
        for number, rows in enumerate(_chunks(len(target_T), ctx.size)):
            if number < len(kept):
                p_RV = kept[number]
            else:
                p_RV = (
                    _logits(hidden_TD[rows], weight_VD, temperature_T, rows).sub_(total_T[rows, None]).exp_()
                )
            slope_RV = p_RV * -scaled_T[rows, None]
            slope_RV.scatter_add_(1, target_T[rows, None], scaled_T[rows, None])
            for_weight.addmm_(slope_RV.to(weight_VD.dtype).T, hidden_TD[rows])
        return for_hidden, for_weight, None, None, None


def _chunks(num_tokens: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, num_tokens, size))


def _logits(hidden_RD: Tensor, weight_VD: Tensor, temperature_T: Tensor | None, rows: slice) -> Tensor:
    logits_RV = F.linear(hidden_RD, weight_VD).float()
    return logits_RV if temperature_T is None else logits_RV.div_(temperature_T[rows, None])
