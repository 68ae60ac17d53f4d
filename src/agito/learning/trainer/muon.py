"""Muon, with the Newton-Schulz iteration batched over matrices of one shape and split over ranks.

The arithmetic is that of `torch.optim.Muon` (arXiv:2502.16982; Keller Jordan, 2024), which iterates one
matrix at a time, always in bfloat16: three times slower on small matrices where bfloat16 is fast, and
unusable on CPUs that emulate it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from agito.learning.trainer.reducer import OneRank, Reducer

_A, _B, _C = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """For 2-D hidden matrices only.

    B <- m B + (1 - m) g;  U = (1 - m) g + m B (Nesterov);  W <- (1 - lr wd) W - lr sqrt(max(1, rows/cols))
    NS(U).

    The factor sqrt(max(1, rows/cols)) is Jordan's ("original"), with which the recipes' learning rates were
    tuned. The alternative, 0.2 sqrt(max(rows, cols)), suits rates tuned for AdamW.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        reducer: Reducer | None = None,
    ) -> None:
        """With a `reducer`, ranks with equal gradients each iterate some of the matrices."""
        wrong = [tuple(param.shape) for param in params if param.ndim != 2]
        if wrong:
            raise ValueError(f"parameter of shape {wrong[0]}: Muon takes matrices; give the others to AdamW")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype, self._reducer = dtype, reducer or OneRank()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            momentum, lr = group["momentum"], group["lr"]
            wanted: list[Tensor] = []
            for param in params:
                if "momentum_buffer" not in self.state[param]:
                    self.state[param]["momentum_buffer"] = torch.zeros_like(param)
                buffer = self.state[param]["momentum_buffer"]
                buffer.lerp_(param.grad, 1 - momentum)
                wanted.append(param.grad.lerp(buffer, momentum))
            updates = orthogonalise(
                wanted, self._dtype, rank=self._reducer.rank, num_ranks=self._reducer.num_ranks
            )
            self._reducer.sum_(updates)
            for param, update in zip(params, updates, strict=True):
                rows, cols = param.shape
                param.mul_(1 - lr * group["weight_decay"])
                param.add_(update, alpha=-lr * math.sqrt(max(1.0, rows / cols)))


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on hardware that multiplies it (GPUs; CPUs with AMX, 0.4 times the time), else float32."""
    is_native = device.type != "cpu" or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if is_native else torch.float32


def orthogonalise(
    matrices: Sequence[Tensor], dtype: torch.dtype, *, rank: int = 0, num_ranks: int = 1
) -> list[Tensor]:
    """About U V^T for each U S V^T: five quintic Newton-Schulz iterations in `dtype`, batched over matrices
    of one shape.

    Tall matrices are transposed first, so a matrix and its transpose share a batch. Singular values end in
    about [0.7, 1.2]; a zero matrix stays zero. With several ranks, matrices of other ranks are zero, and the
    sum over ranks is the whole result.
    """
    batches: dict[tuple[int, int], list[int]] = {}
    for index, matrix in enumerate(matrices):
        rows, cols = matrix.shape
        batches.setdefault((min(rows, cols), max(rows, cols)), []).append(index)
    results = [torch.zeros_like(matrix) for matrix in matrices] if num_ranks > 1 else list(matrices)
    for batch in batches.values():
        indices = batch[rank::num_ranks]
        if not indices:
            continue
        is_tall = [matrices[index].shape[0] > matrices[index].shape[1] for index in indices]
        wide = [
            matrices[index].T if tall else matrices[index]
            for index, tall in zip(indices, is_tall, strict=True)
        ]
        for index, tall, result in zip(
            indices, is_tall, _newton_schulz(torch.stack(wide).to(dtype)), strict=True
        ):
            results[index] = (result.T if tall else result).to(matrices[index].dtype)
    return results


def _newton_schulz(x_BRC: Tensor) -> Tensor:
    x_BRC = x_BRC / torch.linalg.matrix_norm(x_BRC, keepdim=True).clamp(min=_EPS)
    for _ in range(_NUM_ITERATIONS):
        gram_BRR = torch.bmm(x_BRC, x_BRC.mT)
        poly_BRR = torch.baddbmm(gram_BRR, gram_BRR, gram_BRR, beta=_B, alpha=_C)
        x_BRC = torch.baddbmm(x_BRC, poly_BRR, x_BRC, beta=_A)
    return x_BRC
