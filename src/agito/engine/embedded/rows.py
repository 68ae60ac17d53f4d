"""The book of rows: who has which slot of the cache, who is sampling, who waits. Plain Python, no tensors.

A row keeps its slot from its first request until it is closed. A new row that finds no slot free waits, first come, first
served. Slots are handed out lowest first, so the book is a pure function of what it was told.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from agito.engine.wire import RowRequest
from agito.models import Block
from agito.protocols import SampleRequest
from agito.types import VersionSpan

HORIZON_STEPS = 16  # decode steps after which sorting should have paid
COPY_COST = 3  # copying a position, in readings of one by attention


class Move(NamedTuple):
    """Copy the first `length` positions of one slot to another."""

    source: int
    target: int
    length: int


@dataclass(slots=True)
class EngineRow:
    """One sequence. `lane` is its place in the engine's buffers for as long as it lives; `slot`, its place in the cache, may change.

    Both are -1 in a branch that was made while every slot was taken, until its first request is admitted.
    """

    key: int
    lane: int = -1
    slot: int = -1
    length: int = 0  # tokens so far
    computed: int = 0  # of these, how many the cache holds: all, or all but the last
    last_id: int = -1  # the token that is not in the cache yet
    seed: int = 0
    request: SampleRequest | None = None  # while it samples
    start: int = 0  # length before the request's extension
    first: int = 0  # position of the request's first sampled token
    marks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # (position, version) since `start`

    @property
    def limit(self) -> int:
        """The length at which the request's token budget is used up."""
        assert self.request is not None
        return self.first + self.request.max_tokens

    def mark(self, version: int) -> None:
        """From here on tokens are computed by `version`."""
        if self.marks and self.marks[-1][0] == self.length:
            self.marks.pop()
        if not self.marks or self.marks[-1][1] != version:
            self.marks.append((self.length, version))

    def spans(self) -> tuple[VersionSpan, ...]:
        """Counted from the first extended position."""
        ends = [position for position, _ in self.marks[1:]] + [self.length]
        return tuple(
            VersionSpan(start=position - self.start, stop=end - self.start, version=version)
            for (position, version), end in zip(self.marks, ends, strict=True)
            if end > position
        )


class RowBook:
    """Rows by key, free slots and lanes, and the queue."""

    def __init__(self, size: int):
        self.size = size
        self.rows: dict[int, EngineRow] = {}
        self.live: list[EngineRow] = []  # those that are sampling, by slot
        self.queue: deque[RowRequest] = deque()
        self._free_slots = list(range(size))
        self._free_lanes = list(range(size))

    @property
    def is_full(self) -> bool:
        return not self._free_slots

    def seat(self, row: EngineRow) -> None:
        """Gives a row its slot; one must be free."""
        row.lane, row.slot = heapq.heappop(self._free_lanes), heapq.heappop(self._free_slots)

    def busy(self) -> set[int]:
        """Keys with a request that is not answered yet."""
        return {row.key for row in self.live} | {request.key for request in self.queue}

    def close(self, key: int) -> None:
        """Forgets a row wherever it is; an unknown one too, as closing is idempotent."""
        row = self.rows.pop(key, None)
        if row is not None and row.slot >= 0:
            heapq.heappush(self._free_slots, row.slot)
            heapq.heappush(self._free_lanes, row.lane)
            self.live = [other for other in self.live if other is not row]
        else:
            self.queue = deque(request for request in self.queue if request.key != key)

    def blocks(self, size: int) -> list[Block]:
        """Runs of `size` slots with the longest live row in each; runs without one are left out."""
        longest: dict[int, int] = {}
        for row in self.live:
            longest[row.slot // size] = max(longest.get(row.slot // size, 0), row.length)
        after = self.live[-1].slot + 1
        return [Block(run * size, min(run * size + size, after), length) for run, length in longest.items()]

    def arrange(self, block_size: int) -> list[Move]:
        """Exchanges slots so that the live rows are the first of the cache, and lists them in that order.

        They are sorted by length when blocks of like length would soon repay the copying. Returns the moves to make, as if at once.
        """
        count = len(self.live)
        by_length = sorted(self.live, key=lambda row: (row.length, row.key))
        targets = self._least_moved()
        in_place = sorted(self.live, key=lambda row: targets[row.key])
        saving = _padded(in_place, block_size) - _padded(by_length, block_size)
        if HORIZON_STEPS * saving > COPY_COST * sum(row.computed for row in self.live):
            targets = {row.key: slot for slot, row in enumerate(by_length)}
        vacated = sorted({row.slot for row in self.live if row.slot >= count})
        live = {row.key for row in self.live}
        displaced = sorted((row for row in self.rows.values() if 0 <= row.slot < count and row.key not in live), key=lambda row: row.slot)
        targets |= {row.key: slot for row, slot in zip(displaced, vacated, strict=False)}
        moves: list[Move] = []
        for key, slot in targets.items():
            row = self.rows[key]
            if row.slot != slot and row.computed:
                moves.append(Move(row.slot, slot, row.computed))
            row.slot = slot
        taken = {row.slot for row in self.rows.values()}
        self._free_slots = [slot for slot in range(self.size) if slot not in taken]
        self.live.sort(key=lambda row: row.slot)
        return moves

    def _least_moved(self) -> dict[int, int]:
        """Live rows to the first slots, by key; those that are there already stay."""
        count = len(self.live)
        targets = {row.key: row.slot for row in self.live if row.slot < count}
        gaps = iter(sorted(set(range(count)) - set(targets.values())))
        return targets | {row.key: next(gaps) for row in self.live if row.slot >= count}


def _padded(rows: list[EngineRow], block_size: int) -> int:
    """Positions that attention would read with these rows in these slots, without the rounding of lengths."""
    blocks = (rows[first : first + block_size] for first in range(0, len(rows), block_size))
    return sum(len(block) * max(row.length for row in block) for block in blocks)
