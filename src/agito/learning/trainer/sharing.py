"""Shared prefixes are computed once: a batch becomes a tree of blocks, found from the tokens themselves.

Attempts at one task share its prompt, branches share what came before, and tasks of one environment share its
rules. Samples are sorted by their tokens. A run of samples with a common prefix becomes a block of one
sequence, its continuations become children, as long as the saving exceeds the cost of another pass through
the network. The remaining tokens go into ordinary micro-batches.

The block that holds the token before a trained token predicts it. A token that several samples share is
predicted once, and its losses add up. Axes: N tokens of a block, B its sequences, U its predictions, T
trainable tokens of the samples that end in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agito.learning.losses.packing import Packed, pack, split_by_length, trainable_positions
from agito.types import Sample

_PASS_FLOP = 5e10  # fixed cost of another pass on a CPU core, mostly the gradients of weights

# Blocks on a path keep their activations, so depth is limited; deeper prefixes are computed for each sample.
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The tokens of one pass: sequences that all continue the blocks above."""

    ids_N: Tensor  # int64
    lengths_B: tuple[int, ...]
    source_U: Tensor  # int64: the position in N whose hidden state predicts
    target_U: Tensor  # int64: the token's id
    temperature_U: Tensor  # float32
    ended: Packed | None  # the samples that end here
    # int64: positions of their tokens among the predictions from the root to here; None: exactly these.
    place_T: Tensor | None
    children: tuple[Block, ...] = ()

    def all_ended(self) -> Iterator[Packed]:
        """In the order in which passes reach them."""
        if self.ended is not None:
            yield self.ended
        for child in self.children:
            yield from child.all_ended()

    @property
    def num_tokens(self) -> int:
        """Trained tokens."""
        return sum(part.num_tokens for part in self.all_ended())

    @property
    def deepest(self) -> int:
        """The most tokens, trained or not, in the blocks of one path from here on."""
        return len(self.ids_N) + max((child.deepest for child in self.children), default=0)


def worth_sharing(num_parameters: int) -> int:
    """The fewest tokens that justify another pass: training takes about six operations per parameter and
    token."""
    return max(1, round(_PASS_FLOP / (6 * num_parameters)))


def plan_blocks(
    samples: Sequence[Sample],
    *,
    max_tokens: int,
    worth: int | None,
    version: int = 0,
    device: torch.device | str = "cpu",
) -> list[Block]:
    """The forest of `samples`. `worth`: the fewest tokens that a shared block must save; None shares
    nothing."""
    if worth is None:
        parts = split_by_length(samples, [len(sample.ids) for sample in samples], max_tokens)
        return [_alone(part, version, device) for part in parts]
    rows = [_Row(sample=sample, order=order) for order, sample in enumerate(samples)]
    rows.sort(key=lambda row: row.ids.astype(">i4").tobytes())
    return _Planner(max_tokens, worth, version, device).blocks(rows, start=0, num_above=0)


def _alone(samples: Sequence[Sample], version: int, device: torch.device | str) -> Block:
    packed = pack(samples, version=version, device=device)
    return Block(
        ids_N=packed.ids_N,
        lengths_B=packed.lengths_B,
        source_U=packed.source_T,
        target_U=packed.target_T,
        temperature_U=packed.temperature_T,
        ended=packed,
        place_T=None,
    )


@dataclass(slots=True, kw_only=True)
class _Row:
    sample: Sample
    order: int  # in the batch
    # Trained tokens predicted so far.
    places: list[np.ndarray] = field(default_factory=list[np.ndarray])
    ids: np.ndarray = field(init=False)
    trained: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.ids = np.frombuffer(self.sample.ids, dtype=np.int32)
        self.trained = trainable_positions(self.sample)

    def predicted(self, start: int, stop: int) -> np.ndarray:
        """Positions of the trained tokens that `[start, stop)` predicts."""
        return self.trained[(self.trained > start) & (self.trained <= stop)]


class _Planner:
    def __init__(self, max_tokens: int, worth: int, version: int, device: torch.device | str) -> None:
        self._max_tokens, self._worth, self._version, self._device = max_tokens, worth, version, device

    def blocks(self, rows: list[_Row], *, start: int, num_above: int, depth: int = 0) -> list[Block]:
        """Blocks of sorted rows that agree up to `start` and are all longer; `num_above` predictions lie
        above."""
        shared = list(self._shared(rows, start)) if depth < _MAX_DEPTH else []
        inner = {row.order for members, _ in shared for row in members}
        rest = sorted((row for row in rows if row.order not in inner), key=lambda row: row.order)
        found = [self._inner(members, start, stop, num_above, depth) for members, stop in shared]
        parts = split_by_length(rest, [len(row.ids) - start for row in rest], self._max_tokens)
        if not start:
            return found + [
                _alone([row.sample for row in part], self._version, self._device) for part in parts
            ]
        return found + [self._leaf(part, start, num_above) for part in parts]

    def _shared(self, rows: list[_Row], start: int) -> Iterator[tuple[list[_Row], int]]:
        """Runs that deserve a block, and where each block stops."""
        open_runs = [rows]
        while open_runs:
            run = open_runs.pop()
            if len(run) < 2:
                continue
            alike = [_common(one.ids, other.ids) for one, other in itertools.pairwise(run)]
            stop = min(alike)
            if (len(run) - 1) * (stop - start) >= self._worth:
                yield run, stop
                continue
            cuts = [0, *(at + 1 for at, length in enumerate(alike) if length == stop), len(run)]
            open_runs += [run[first:after] for first, after in itertools.pairwise(cuts)][::-1]

    def _inner(self, rows: list[_Row], start: int, stop: int, num_above: int, depth: int) -> Block:
        where = [row.predicted(start, stop) for row in rows]
        predictions = np.concatenate(
            [
                np.stack(
                    [
                        at - 1 - start,
                        row.ids[at],
                        np.full(len(at), np.float32(row.sample.temperature).view(np.int32)),
                    ],
                    axis=1,
                )
                for row, at in zip(rows, where, strict=True)
            ]
        ).astype(np.int64)
        distinct, place = np.unique(predictions, axis=0, return_inverse=True)
        for row, mine in zip(
            rows,
            np.split(place.reshape(-1) + num_above, np.cumsum([len(at) for at in where])[:-1]),
            strict=True,
        ):
            row.places.append(mine)
        ended, going_on = (
            [row for row in rows if (len(row.ids) > stop) == goes_on] for goes_on in (False, True)
        )
        children = self.blocks(going_on, start=stop, num_above=num_above + len(distinct), depth=depth + 1)
        temperature = distinct[:, 2].astype(np.int32).view(np.float32)
        return self._block(
            rows[0].ids[start:stop],
            (stop - start,),
            distinct[:, 0],
            distinct[:, 1],
            temperature,
            ended,
            tuple(children),
        )

    def _leaf(self, rows: list[_Row], start: int, num_above: int) -> Block:
        lengths = [len(row.ids) - start for row in rows]
        where = [row.predicted(start, len(row.ids)) for row in rows]
        counts = [len(at) for at in where]
        for row, count, before in zip(rows, counts, np.cumsum([0, *counts[:-1]]), strict=True):
            row.places.append(np.arange(count) + before + num_above)
        source = np.concatenate(
            [at - 1 - start + offset for at, offset in zip(where, np.cumsum([0, *lengths[:-1]]), strict=True)]
        )
        target = np.concatenate([row.ids[at] for row, at in zip(rows, where, strict=True)])
        temperature = np.repeat(
            np.asarray([row.sample.temperature for row in rows], dtype=np.float32), counts
        )
        return self._block(
            np.concatenate([row.ids[start:] for row in rows]),
            tuple(lengths),
            source,
            target,
            temperature,
            rows,
            (),
        )

    def _block(
        self,
        ids: np.ndarray,
        lengths_B: tuple[int, ...],
        source: np.ndarray,
        target: np.ndarray,
        temperature: np.ndarray,
        ended: list[_Row],
        children: tuple[Block, ...],
    ) -> Block:
        def whole(numbers: np.ndarray) -> Tensor:
            return torch.from_numpy(numbers.astype(np.int64)).to(self._device)

        return Block(
            ids_N=whole(ids),
            lengths_B=lengths_B,
            source_U=whole(source),
            target_U=whole(target),
            temperature_U=torch.from_numpy(temperature.copy()).to(self._device),
            ended=pack([row.sample for row in ended], version=self._version, device=self._device)
            if ended
            else None,
            place_T=whole(np.concatenate([place for row in ended for place in row.places]))
            if ended
            else None,
            children=children,
        )


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length
