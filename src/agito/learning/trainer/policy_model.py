"""What the trainer needs of a network.

Axes: B sequences, N tokens of all sequences end to end, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, TypeGuard

from torch import Tensor, nn


class PolicyModel(Protocol):
    """A causal language model over ragged sequences; parameters carry Hugging Face names."""

    def hidden(self, ids_N: Tensor, lengths_B: Sequence[int], /) -> Tensor:
        """hidden_ND, after the last norm. Sequences never see one another."""
        ...

    def logits(self, hidden_ND: Tensor, /) -> Tensor:
        """logits_NV of the given states, which may be a subset."""
        ...

    @property
    def head_weight(self) -> Tensor:
        """weight_VD; `logits` is its product with the states."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Each parameter once, including tied ones."""
        ...


class Prefix(Protocol):
    """What tokens of one sequence provide to later ones: keys and values."""

    def tensors(self) -> tuple[Tensor, ...]: ...
    def detached(self) -> Self:
        """Leaves of a separate graph, in the same order, that collect the gradients of these tensors."""
        ...


class SharesPrefixes(PolicyModel, Protocol):
    """A network that can continue sequences from computed keys and values, and compute activations again."""

    def extend(
        self, ids_N: Tensor, lengths_B: Sequence[int], onto: Sequence[Any], kept_tokens: int | None, /
    ) -> tuple[Tensor, Prefix]:
        """As `hidden`, for sequences that each continue `onto`; also returns the prefix that these tokens, of
        one sequence, form for later ones. Keeps no more activations than `kept_tokens` have; None: all."""
        ...


def can_share(model: PolicyModel) -> TypeGuard[SharesPrefixes]:
    return hasattr(model, "extend")
