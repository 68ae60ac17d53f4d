"""Activations that are not kept for the backward pass, but computed again from a function's inputs
(arXiv:1604.06174). Gradients are the same to the bit. PyTorch's own version loads its compiler for that, two
CPU seconds in each process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def recomputed(
    run: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """`run(*arguments)`. `weights`: those that it also reads and that learn."""
    return cast("tuple[Tensor, ...]", _Recomputed.apply(run, weights, *arguments, *weights))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., tuple[Tensor, ...]], weights: Sequence[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """`tensors`: the function's arguments, then the weights that it reads and that learn."""
        arguments = tensors[: len(tensors) - len(weights)]
        ctx.run, ctx.weights = run, weights
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arguments)
        return run(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        kept = cast("tuple[Tensor, ...]", ctx.saved_tensors)
        arguments = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in kept]
        with torch.enable_grad():
            outputs = ctx.run(*arguments)
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        inputs = (*arguments, *ctx.weights)
        found = torch.autograd.grad(
            [output for output, _ in pairs],
            [each for each in inputs if each.requires_grad],
            [gradient for _, gradient in pairs],
            allow_unused=True,
        )
        slopes = iter(found)
        return None, None, *(next(slopes) if each.requires_grad else None for each in inputs)
