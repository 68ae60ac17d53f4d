"""Which cells the next tasks come from: fixed weights, or weights that follow where attempts at one task still come out differently.

A cell is a (family, level). Tasks of a stream belong to cells in turn, so a choice of cells is a choice of task numbers, and whoever
knows a number knows the task.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import floor

from agito.errors import CorruptCheckpoint
from agito.types import Json

_MEMORY = 0.5  # of what was known of a cell, when a new step is seen
_FLOOR = 0.15  # weight of a cell in which every group comes out even; a cell in which none does has 1 more


def shares(weights: Sequence[float], count: int, *, offset: float = 0.5) -> list[int]:
    """`count` split by `weights`, each part rounded up or down; over offsets that are uniform in [0, 1) each is right on average
    (systematic sampling; Madow, 1949). Raises `ValueError` when there is no weight."""
    total = sum(weights)
    if not total > 0:
        raise ValueError(f"weights={list(weights)}: at least one must be above zero")
    ends = [floor(count * sum(weights[: cell + 1]) / total + offset) for cell in range(len(weights) - 1)]
    return [after - before for before, after in pairwise([0, *ends, count])]


def draw(weights: Sequence[float], count: int, *, seed: str, first: int = 0) -> list[int]:
    """`count` task numbers from `first` on, number `i` being of cell `i % len(weights)`, mixed so that every stretch is about even."""
    rng, size = random.Random(f"draw/{seed}/{first}"), len(weights)
    numbers: list[tuple[float, int]] = []
    for cell, share in enumerate(shares(weights, count, offset=rng.random())):
        lowest = first + (cell - first) % size
        numbers += [((at + rng.random()) / share, lowest + at * size) for at in range(share)]
    return [number for _, number in sorted(numbers)]


class Curriculum:
    """Follows the share of mixed groups by cell. Its state goes with the checkpoint."""

    def __init__(self, num_cells: int) -> None:
        self._mixed = [1.0] * num_cells

    def weights(self) -> list[float]:
        return [_FLOOR + share for share in self._mixed]

    def learn(self, outcomes: Iterable[tuple[int, bool]]) -> None:
        """(cell, whether the group came out mixed) for every group of a step."""
        seen: dict[int, list[bool]] = {}
        for cell, is_mixed in outcomes:
            seen.setdefault(cell, []).append(is_mixed)
        for cell, each in seen.items():
            self._mixed[cell] += (1 - _MEMORY) * (sum(each) / len(each) - self._mixed[cell])

    def to_json(self) -> list[Json]:
        return list(self._mixed)

    @classmethod
    def from_json(cls, num_cells: int, mixed: Json) -> Curriculum:
        """Raises `CorruptCheckpoint` for anything but a share for each cell."""
        if not isinstance(mixed, list) or len(mixed) != num_cells:
            raise CorruptCheckpoint(
                f"the curriculum is {mixed}: need a share for each of {num_cells} cells; was another version of Agito here?"
            )
        self = cls(num_cells)
        self._mixed = [float(str(share)) for share in mixed]
        return self
