"""Sequences of unequal length: concatenated, and in padded batches of similar length. Axes as in
`network.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPREAD = 1.3  # longest over shortest sequence of a padded batch


def by_length(lengths_B: Sequence[int], device: torch.device) -> tuple[list[Ragged], Tensor]:
    """Padded batches of sequences of similar length, shortest first, and the token order that concatenates
    them."""
    order = sorted(range(len(lengths_B)), key=lengths_B.__getitem__)
    first, batches = 0, list[Ragged]()
    for after in range(1, len(order) + 1):
        if after == len(order) or lengths_B[order[after]] > SPREAD * lengths_B[order[first]]:
            batches.append(Ragged([lengths_B[row] for row in order[first:after]], device))
            first = after
    tokens_B = torch.arange(sum(lengths_B)).split(list(lengths_B))
    return batches, torch.cat([tokens_B[row] for row in order]).to(device)


class Ragged:
    """Maps tokens of concatenated sequences into a right-padded batch and back."""

    def __init__(self, lengths_B: Sequence[int], device: torch.device):
        lengths = torch.tensor(lengths_B, dtype=torch.long)
        if not len(lengths_B) or min(lengths_B) < 1:
            raise ValueError("every sequence needs at least one token")
        self.num_rows = len(lengths_B)
        self.longest = max(lengths_B)
        self.num_tokens = sum(lengths_B)
        rows_N = torch.repeat_interleave(lengths)
        positions_N = torch.arange(self.num_tokens) - (lengths.cumsum(0) - lengths)[rows_N]
        self.rows_N = rows_N.to(device)
        self.positions_N = positions_N.to(device)
        self.places_N = (rows_N * self.longest + positions_N).to(device)

    def pad(self, x_NW: Tensor) -> Tensor:
        """Shape BTW, zeros in the padding."""
        if self.num_rows == 1:
            return x_NW[None]
        padded = x_NW.new_zeros(self.num_rows * self.longest, x_NW.shape[1])
        return padded.index_copy(0, self.places_N, x_NW).view(self.num_rows, self.longest, -1)

    def unpad(self, x_BTW: Tensor) -> Tensor:
        if self.num_rows == 1:
            return x_BTW[0]
        return x_BTW.reshape(self.num_rows * self.longest, -1).index_select(0, self.places_N)
