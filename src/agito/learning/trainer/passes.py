"""Forward and backward over a tree of blocks: a shared block, its continuations, then one backward pass over
each.

A block hands down keys, values and log-probabilities as leaves of a separate graph. These collect the
gradients of all continuations, micro-batch by micro-batch; then one backward pass goes through the block's
own graph. So only the activations of one path from the root and one micro-batch are alive at a time. Where
these are too many, shared blocks keep none of theirs, since they wait for all that continue them, and the
micro-batch keeps as many as there is room for. The loss of a sample is computed where the sample ends, over
all its tokens.

Axes: U predictions of a block, T trained tokens of the samples that end in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agito.learning.losses.chunked import chunked_logprobs, should_chunk
from agito.learning.losses.logprobs import entropy, log_distributions, token_logprobs
from agito.learning.losses.packing import Packed
from agito.learning.trainer.policy_model import PolicyModel, Prefix, can_share
from agito.learning.trainer.sharing import Block

# Takes samples that end in a block, and log p and entropy of their trained tokens; returns their loss, or
# None without trainable tokens.
Visit = Callable[[Packed, Tensor, Tensor], Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    """The path from the root to a block: the prefix to continue, and the predictions so far."""

    prefixes: tuple[Prefix, ...] = ()
    logps: tuple[Tensor, ...] = ()
    entropies: tuple[Tensor, ...] = ()

    def then(self, prefix: Prefix | None, logp_U: Tensor, entropy_U: Tensor) -> _Path:
        prefixes = self.prefixes if prefix is None else (*self.prefixes, prefix)
        return _Path(prefixes=prefixes, logps=(*self.logps, logp_U), entropies=(*self.entropies, entropy_U))


def traverse(
    model: PolicyModel,
    blocks: Iterable[Block],
    visit: Visit,
    after_backward: Callable[[], None] | None = None,
    *,
    at_temperature: bool = True,
    has_entropy: bool = True,
    kept_tokens: int | None = None,
) -> None:
    """Visits all samples. While gradients are enabled, accumulates those of the losses and calls
    `after_backward` after every block. `kept_tokens`: how many have their activations kept at a time; None:
    all."""

    def descend(block: Block, path: _Path, room: int | None) -> None:
        fits = room is None or not block.children or block.deepest <= room
        hidden_ND, made = _computed(model, block, path, room if fits else 0)
        left = room - len(block.ids_N) if room is not None and fits else room
        logp_U, entropy_U = _predictions(model, hidden_ND, block, at_temperature, has_entropy)
        del hidden_ND
        handed = made.detached() if made else None
        found_U = logp_U.detach().requires_grad_(logp_U.requires_grad)
        here = path.then(handed, found_U, entropy_U)
        if block.ended is not None:
            logp_T, entropy_T = (_at(tensors, block.place_T) for tensors in (here.logps, here.entropies))
            loss = visit(block.ended, logp_T, entropy_T)
            if loss is not None and loss.requires_grad:
                loss.backward()
        for child in block.children:
            descend(child, here, left)
        pairs = [(logp_U, found_U.grad)]
        pairs += (
            [(whole, leaf.grad) for whole, leaf in zip(made.tensors(), handed.tensors(), strict=True)]
            if made and handed
            else []
        )
        roots = [(output, gradient) for output, gradient in pairs if gradient is not None]
        if roots:
            torch.autograd.backward([output for output, _ in roots], [gradient for _, gradient in roots])
            if after_backward is not None:
                after_backward()

    for block in blocks:
        descend(block, _Path(), kept_tokens)


def _computed(
    model: PolicyModel, block: Block, path: _Path, kept_tokens: int | None
) -> tuple[Tensor, Prefix | None]:
    if not can_share(model):
        assert not path.prefixes and not block.children, "a block is shared, but the network cannot"
        return model.hidden(block.ids_N, block.lengths_B), None
    hidden_ND, made = model.extend(block.ids_N, block.lengths_B, path.prefixes, kept_tokens)
    return hidden_ND, made if block.children else None


def _predictions(
    model: PolicyModel, hidden_ND: Tensor, block: Block, at_temperature: bool, has_entropy: bool
) -> tuple[Tensor, Tensor]:
    temperature_U = block.temperature_U if at_temperature else None
    if should_chunk(len(block.target_U), len(model.head_weight)):
        return chunked_logprobs(
            hidden_ND[block.source_U], model.head_weight, block.target_U, temperature_T=temperature_U
        )
    logp_UV = log_distributions(hidden_ND, model.logits, block.source_U, temperature_T=temperature_U)
    logp_U = token_logprobs(logp_UV, block.target_U)
    return logp_U, entropy(logp_UV) if has_entropy else torch.zeros_like(logp_U)


def _at(tensors: Sequence[Tensor], place_T: Tensor | None) -> Tensor:
    return tensors[-1] if place_T is None else torch.cat(list(tensors))[place_T]
