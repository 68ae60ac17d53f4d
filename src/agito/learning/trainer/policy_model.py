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
        """hidden_ND, after the last norm; a sequence never sees another."""
        ...

    def logits(self, hidden_ND: Tensor, /) -> Tensor:
        """logits_NV of the states given, which need not be all."""
        ...

    @property
    def head_weight(self) -> Tensor:
        """weight_VD, of which `logits` is the product with the states."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Each parameter once, tied ones included."""
        ...


class Prefix(Protocol):
    """What tokens of one sequence are to those after them, as a network has it: keys and values."""

    def tensors(self) -> tuple[Tensor, ...]: ...
    def detached(self) -> Self:
        """Leaves of a graph of their own, in the same order, which gather gradients where these
        would have.
        """
        ...


class SharesPrefixes(PolicyModel, Protocol):
    """A network whose sequences can continue what was computed before."""

    def extend(
        self, ids_N: Tensor, lengths_B: Sequence[int], onto: Sequence[Any], /
    ) -> tuple[Tensor, Prefix]:
        """As `hidden`, of sequences that each continue `onto`; and what these tokens, of one sequence, are to
        later ones.
        """
        ...


def can_share(model: PolicyModel) -> TypeGuard[SharesPrefixes]:
    return hasattr(model, "extend")
