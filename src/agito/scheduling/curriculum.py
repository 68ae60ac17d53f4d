"""Which cells the next tasks come from: fixed weights, or weights that follow where attempts at one task
still differ in reward.

A cell is a (family, level). Task numbers cycle through the cells, so choosing cells means choosing task
numbers, and a number determines its task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor

from agito.errors import CorruptCheckpoint
from agito.types import Json

_MEMORY = 0.5  # share of the old estimate that survives a step
# weight of a cell whose groups all have zero variance; a cell without any such group has 1 more
_FLOOR = 0.15
_ASIDE = 0.1


def shares(weights: Sequence[float], count: int, *, offset: float = 0.5) -> list[int]:
    """Splits `count` by `weights`, rounding each part up or down; for `offset` uniform in [0, 1), each part
    is right on average (systematic sampling; Madow, 1949). Raises `ValueError` when all weights are zero."""
    total = sum(weights)
    if not total > 0:
        raise ValueError(f"weights={list(weights)}: at least one must be above zero")
    ends = [floor(count * sum(weights[: cell + 1]) / total + offset) for cell in range(len(weights) - 1)]
    return [after - before for before, after in pairwise([0, *ends, count])]


def draw(weights: Sequence[float], count: int, *, seed: str, first: int = 0) -> list[int]:
    """`count` task numbers from `first` on, shuffled so that every stretch has about the same mix; number `i`
    belongs to cell `i % len(weights)`."""
    rng, size = random.Random(f"draw/{seed}/{first}"), len(weights)
    numbers: list[tuple[float, int]] = []
    for cell, share in enumerate(shares(weights, count, offset=rng.random())):
        lowest = first + (cell - first) % size
        numbers += [((at + rng.random()) / share, lowest + at * size) for at in range(share)]
    return [number for _, number in sorted(numbers)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A range of cells with a fixed total weight, such as one environment of a mixture."""

    num_cells: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """The outcome of one group."""

    cell: int
    has_variance: bool
    solved: float  # share of successful attempts


def shared(weights: Sequence[float], parts: Sequence[Part]) -> list[float]:
    """`weights` scaled so that those of each part sum to the part's weight; unchanged without parts."""
    scaled, at = list(weights), 0
    for part in parts:
        stretch = slice(at, at + part.num_cells)
        total = sum(weights[stretch])
        scaled[stretch] = [part.weight * each / total if total else 0.0 for each in weights[stretch]]
        at += part.num_cells
    assert at in (0, len(weights)), f"{len(weights)} cells in parts of {at}"
    return scaled


class Curriculum:
    """Follows the share of nonzero-variance groups and the success rate, by cell. Checkpoints carry its
    state.

    A cell whose success rate lies outside `solve_rate` is drawn `_ASIDE` times as often: rarely, but often
    enough to notice when it returns.
    """

    def __init__(
        self, num_cells: int, *, parts: Sequence[Part] = (), solve_rate: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self._nonzero_variance, self._solved = [1.0] * num_cells, [0.5] * num_cells
        self._parts, self._solve_rate = tuple(parts), solve_rate

    def weights(self) -> list[float]:
        low, high = self._solve_rate
        aside = [1.0 if low <= rate <= high else _ASIDE for rate in self._solved]
        return shared(
            [(_FLOOR + share) * each for share, each in zip(self._nonzero_variance, aside, strict=True)],
            self._parts,
        )

    def update(self, groups: Iterable[GroupOutcome]) -> None:
        """Updates with every group of a step that is not void."""
        by_cell: dict[int, list[GroupOutcome]] = {}
        for group in groups:
            by_cell.setdefault(group.cell, []).append(group)
        for cell, each in by_cell.items():
            self._nonzero_variance[cell] += (1 - _MEMORY) * (
                sum(group.has_variance for group in each) / len(each) - self._nonzero_variance[cell]
            )
            self._solved[cell] += (1 - _MEMORY) * (
                sum(group.solved for group in each) / len(each) - self._solved[cell]
            )

    def metrics(self, cells: Sequence[tuple[str, int]]) -> dict[str, float]:
        """Shares of the next tasks and running success rates, named by cell."""
        weights = self.weights()
        names = [re.sub(r"[^a-z0-9.-]+", "-", f"in-{family}-{level}".lower()) for family, level in cells]
        sampled = {
            f"sampled/{name}_ratio": weight / sum(weights)
            for name, weight in zip(names, weights, strict=True)
        }
        return sampled | {
            f"solved/{name}_ratio": rate for name, rate in zip(names, self._solved, strict=True)
        }

    def to_json(self) -> dict[str, Json]:
        return {"mixed": list(self._nonzero_variance), "solved": list(self._solved)}

    def restore(self, state: Json) -> None:
        """Takes over the state that `to_json` returned. Raises `CorruptCheckpoint` unless it has two shares
        for each cell."""
        columns = [state.get(name) for name in ("mixed", "solved")] if isinstance(state, dict) else []
        for column in columns or [None]:
            if not isinstance(column, list) or len(column) != len(self._nonzero_variance):
                raise CorruptCheckpoint(
                    f"the curriculum is {state}: need a share for each of {len(self._nonzero_variance)} "
                    "cells; was another version of Agito here?"
                )
        self._nonzero_variance, self._solved = (
            [float(str(share)) for share in column] for column in columns if isinstance(column, list)
        )
