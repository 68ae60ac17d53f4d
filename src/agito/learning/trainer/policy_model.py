"""What the trainer needs of a network.

Axes: B sequences, N tokens of all sequences end to end, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

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
