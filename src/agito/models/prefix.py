"""Attention of sequences that may continue one prefix, whose keys and values are computed once for all of
them.

Each token attends separately to the prefix and to its own sequence. The two softmaxes are combined by their
normalisers (online softmax, arXiv:2205.14135), and each part's gradient needs only the common output and
normaliser, as in ring attention (arXiv:2310.01889). So the prefix is never copied per sequence, and its
gradients come out summed. Where a sliding window ends within the prefix, or no kernel returns its normaliser,
every sequence gets a copy and a mask. In bfloat16 a kernel of ours does all of it, where it is faster.

Axes as in `network.py`; P tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from agito.models import bf16_attention
from agito.models.ragged import Ragged

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What tokens of one sequence provide to later ones: rotated keys, and values, of every layer; shape
    PKE."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __len__(self) -> int:
        return self.keys[0].shape[0]

    def tensors(self) -> tuple[Tensor, ...]:
        return self.keys + self.values

    def detached(self) -> Prefix:
        """Leaves of a separate graph, in the same order, that collect the gradients of these tensors."""
        keys, values = (
            [t.detach().requires_grad_(t.requires_grad) for t in tensors]
            for tensors in (self.keys, self.values)
        )
        return Prefix(keys=tuple(keys), values=tuple(values))


def joined(pieces: Sequence[Prefix], layer: int) -> tuple[Tensor, Tensor] | None:
    """Keys and values of one layer along a path of pieces."""
    if not pieces:
        return None
    if len(pieces) == 1:
        return pieces[0].keys[layer], pieces[0].values[layer]
    return torch.cat([piece.keys[layer] for piece in pieces]), torch.cat(
        [piece.values[layer] for piece in pieces]
    )


def has_kernel(device: torch.device, before: int, batches: Sequence[Ragged], window: int | None) -> bool:
    """Whether a kernel returns its normaliser and every token sees everything before it."""
    return device.type == "cpu" and (
        window is None or before + max(batch.longest for batch in batches) <= window
    )


def attend(
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    past: tuple[Tensor, Tensor] | None,
    batches: Sequence[Ragged],
    scale: float | None,
) -> Tensor:
    """Attention of every token over the prefix and its own sequence, heads concatenated; requires
    `has_kernel`."""
    return cast(
        "Tensor", _Attend.apply(q_NHE, k_NKE, v_NKE, *(past or (None, None)), batches, scale)
    ).flatten(1)


def attend_masked(
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    past: tuple[Tensor, Tensor],
    batches: Sequence[Ragged],
    window: int | None,
    scale: float | None,
) -> Tensor:
    """The same without `has_kernel`; `window` as in `DecoderConfig`."""
    sizes = [batch.num_tokens for batch in batches]
    rows = zip(batches, q_NHE.split(sizes), k_NKE.split(sizes), v_NKE.split(sizes), strict=True)
    return torch.cat([_masked(batch, q, k, v, past, window, scale) for batch, q, k, v in rows])


def _masked(
    batch: Ragged,
    q_NHE: Tensor,
    k_NKE: Tensor,
    v_NKE: Tensor,
    past: tuple[Tensor, Tensor],
    window: int | None,
    scale: float | None,
) -> Tensor:
    if window is not None:
        first = max(0, past[0].shape[0] - window + 1)  # what the first token sees
        past = past[0][first:], past[1][first:]
    num_past, repeats = past[0].shape[0], q_NHE.shape[1] // k_NKE.shape[1]
    own = (_padded(batch, t_NKE) for t_NKE in (k_NKE, v_NKE))
    whole = (
        torch.cat(
            (before_PKE.transpose(0, 1).expand(batch.num_rows, -1, -1, -1), t_BKTE), dim=2
        ).repeat_interleave(repeats, dim=1)
        for before_PKE, t_BKTE in zip(past, own, strict=True)
    )
    sees_TS = torch.ones(batch.longest, num_past + batch.longest, dtype=torch.bool, device=q_NHE.device).tril(
        num_past
    )
    if window is not None:
        sees_TS = sees_TS.triu(num_past + 1 - window)
    mixed_BHTE = F.scaled_dot_product_attention(_padded(batch, q_NHE), *whole, attn_mask=sees_TS, scale=scale)
    return batch.unpad(mixed_BHTE.transpose(1, 2).flatten(2))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_NHE: Tensor,
        k_NKE: Tensor,
        v_NKE: Tensor,
        past_k_PKE: Tensor | None,
        past_v_PKE: Tensor | None,
        batches: Sequence[Ragged],
        scale: float | None,
    ) -> Tensor:
        ctx.batches, ctx.scale, ctx.is_narrow = batches, scale, bf16_attention.is_fast(q_NHE)
        if ctx.is_narrow:
            past = _pair(past_k_PKE, past_v_PKE)
            starts_N = _starts(batches)
            out_NHE, norm_NH = bf16_attention.attend(q_NHE, k_NKE, v_NKE, past, starts_N, scale)
            ctx.save_for_backward(q_NHE, k_NKE, v_NKE, past_k_PKE, past_v_PKE, out_NHE, norm_NH, starts_N)
            return out_NHE
        own = [
            _flash(*(_padded(batch, t_NKE) for t_NKE in mine), is_causal=True, scale=scale)
            for batch, *mine in _pieces(batches, q_NHE, k_NKE, v_NKE)
        ]
        out_NHE = torch.cat(
            [_unpadded(batch, out_BHTE) for batch, (out_BHTE, _) in zip(batches, own, strict=True)]
        )
        norm_NH = torch.cat(
            [batch.unpad(norm_BHT.transpose(1, 2)) for batch, (_, norm_BHT) in zip(batches, own, strict=True)]
        )
        if past_k_PKE is not None and past_v_PKE is not None:
            before_1HNE, norm_1HN = _flash(*map(_heads_first, (q_NHE, past_k_PKE, past_v_PKE)), scale=scale)
            both_NH = torch.logaddexp(norm_1HN[0].T, norm_NH)
            before_share, own_share = (
                (part_NH - both_NH).exp()[..., None] for part_NH in (norm_1HN[0].T, norm_NH)
            )
            mixed_NHE = before_1HNE[0].transpose(0, 1) * before_share + out_NHE * own_share
            out_NHE, norm_NH = mixed_NHE.to(q_NHE.dtype), both_NH
        ctx.save_for_backward(q_NHE, k_NKE, v_NKE, past_k_PKE, past_v_PKE, out_NHE, norm_NH, None)
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_NHE, k_NKE, v_NKE, past_k_PKE, past_v_PKE, out_NHE, norm_NH, starts_N = ctx.saved_tensors
        found_NHE = gradients[0].contiguous()
        if ctx.is_narrow:
            past, kept = _pair(past_k_PKE, past_v_PKE), (out_NHE, norm_NH, starts_N)
            slopes = bf16_attention.attend_backward(found_NHE, q_NHE, k_NKE, v_NKE, past, *kept, ctx.scale)
            return *slopes, None, None
        own: list[list[Tensor]] = []
        for batch, *mine, norm_MH in _pieces(ctx.batches, found_NHE, q_NHE, k_NKE, v_NKE, out_NHE, norm_NH):
            norm_BHT = batch.pad(norm_MH).transpose(1, 2).contiguous()
            slopes = _flash_backward(*(_padded(batch, t) for t in mine), norm_BHT, 0.0, True, scale=ctx.scale)
            own.append([_unpadded(batch, slope_BHTE) for slope_BHTE in slopes])
        d_q_NHE, d_k_NKE, d_v_NKE = (torch.cat(parts) for parts in zip(*own, strict=True))
        if past_k_PKE is None:
            return d_q_NHE, d_k_NKE, d_v_NKE, None, None, None, None
        heads = map(_heads_first, (found_NHE, q_NHE, past_k_PKE, past_v_PKE, out_NHE))
        before = _flash_backward(*heads, norm_NH.T[None].contiguous(), 0.0, False, scale=ctx.scale)
        d_before_NHE, d_past_k_PKE, d_past_v_PKE = (t_1HNE[0].transpose(0, 1) for t_1HNE in before)
        return d_q_NHE.add_(d_before_NHE), d_k_NKE, d_v_NKE, d_past_k_PKE, d_past_v_PKE, None, None


def _pair(k_PKE: Tensor | None, v_PKE: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if k_PKE is None or v_PKE is None else (k_PKE, v_PKE)


def _starts(batches: Sequence[Ragged]) -> Tensor:
    """For each token the first one of its sequence."""
    positions_N = torch.cat([batch.positions_N for batch in batches])
    return (torch.arange(len(positions_N)) - positions_N).int()


def _pieces(batches: Sequence[Ragged], *columns: Tensor) -> Any:
    """Each batch with its part of every column."""
    sizes = [batch.num_tokens for batch in batches]
    return zip(batches, *(column.split(sizes) for column in columns), strict=True)


def _heads_first(x_NHE: Tensor) -> Tensor:
    """Shape 1HNE."""
    return x_NHE[None].transpose(1, 2)


def _padded(batch: Ragged, x_NHE: Tensor) -> Tensor:
    """Shape BHTE."""
    return batch.pad(x_NHE.flatten(1)).unflatten(2, (-1, x_NHE.shape[2])).transpose(1, 2)


def _unpadded(batch: Ragged, x_BHTE: Tensor) -> Tensor:
    return batch.unpad(x_BHTE.transpose(1, 2).flatten(2)).unflatten(1, (-1, x_BHTE.shape[3]))
