"""Bookkeeping of rows: which hold cache slots, which sample, which wait. Plain Python, no tensors.

A row keeps its slot from its first request until it closes, or until other rows wait and nobody samples; then
it gives the slot up and queues when it returns. Waiting rows are served in order. Slots are assigned lowest
first, so the state is a pure function of the calls.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from agito.protocols import SampleRequest
from agito.sampling.wire import RowRequest
from agito.types import VersionSpan


class Move(NamedTuple):
    """Copy the first `length` positions of one slot to another."""

    source: int
    target: int
    length: int


@dataclass(slots=True, eq=False)
class EngineRow:
    """One sequence. `lane`, its place in the engine's buffers, is fixed for its lifetime; `slot`, its place
    in the cache, may change.

    Both are -1 for a row that currently has none, until its next request is admitted.
    """

    key: int
    lane: int = -1
    slot: int = -1
    length: int = 0  # number of tokens
    computed: int = 0  # how many of these the cache holds: all, or all but the last
    last_id: int = -1  # the token not yet in the cache
    seed: int = 0
    request: SampleRequest | None = None  # while it samples
    start: int = 0  # length before the request's extension
    first: int = 0  # position of the request's first sampled token
    rested: int = 0  # exchange in which its last request was answered
    # (position, version) since `start`
    marks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def limit(self) -> int:
        """The length at which the request's token budget is used up."""
        assert self.request is not None
        return self.first + self.request.max_tokens

    def mark(self, version: int, position: int) -> None:
        """Tokens from `position` on are computed by `version`."""
        if self.marks and self.marks[-1][0] == position:
            self.marks.pop()
        if not self.marks or self.marks[-1][1] != version:
            self.marks.append((position, version))

    def spans(self) -> tuple[VersionSpan, ...]:
        """Relative to the first extended position."""
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
        self.live: list[EngineRow] = []  # sampling rows, by slot
        # Rows with uncomputed extensions, first come first served.
        self.reading: list[EngineRow] = []
        self.queue: deque[RowRequest] = deque()
        self._free_slots = list(range(size))
        self._free_lanes = list(range(size))

    @property
    def is_full(self) -> bool:
        return not self._free_slots

    def seat(self, row: EngineRow) -> None:
        """Gives a row a slot; one must be free."""
        row.lane, row.slot = heapq.heappop(self._free_lanes), heapq.heappop(self._free_slots)

    def unseat(self, row: EngineRow) -> None:
        """Takes a row's slot away."""
        heapq.heappush(self._free_slots, row.slot)
        heapq.heappush(self._free_lanes, row.lane)
        row.slot = row.lane = -1

    def resting(self) -> list[EngineRow]:
        """Idle rows that hold a slot, longest idle first."""
        busy = self.busy()
        return sorted(
            (row for row in self.rows.values() if row.slot >= 0 and row.key not in busy),
            key=lambda row: (row.rested, row.key),
        )

    def busy(self) -> set[int]:
        """Keys with an unanswered request."""
        return {row.key for row in (*self.live, *self.reading)} | {request.key for request in self.queue}

    def close(self, key: int) -> None:
        """Forgets a row in any state, even an unknown one, as closing is idempotent."""
        row = self.rows.pop(key, None)
        if row is not None and row.slot >= 0:
            self.unseat(row)
            self.live = [other for other in self.live if other is not row]
            self.reading = [other for other in self.reading if other is not row]
        else:
            self.queue = deque(request for request in self.queue if request.key != key)

    def gather(self) -> list[Move]:
        """Exchanges slots so that live rows come first in the cache, and lists them in that order.

        Rows that are already there stay. Returns the moves to make, as if simultaneous.
        """
        count = len(self.live)
        outside = [row for row in self.live if row.slot >= count]
        taken = {row.slot for row in self.live}
        gaps = [slot for slot in range(count) if slot not in taken]
        parked = {row.slot: row for row in self.rows.values()}
        moves: list[Move] = []
        for row, gap in zip(outside, gaps, strict=True):
            moves.append(Move(row.slot, gap, row.computed))
            other = parked.get(gap)
            if other is None:
                self._free_slots[self._free_slots.index(gap)] = row.slot
            else:
                moves.append(Move(gap, row.slot, other.computed))
                other.slot = row.slot
            row.slot = gap
        heapq.heapify(self._free_slots)
        self.live.sort(key=lambda row: row.slot)
        return [move for move in moves if move.length]


def problem_of(request: SampleRequest, length: int, *, context: int, vocab_size: int) -> str | None:
    """Why a row of `length` tokens cannot be sampled from so, if it cannot."""
    extend, first = request.extend, request.first
    if not (request.max_tokens >= 1 and request.temperature >= 0 and 0 < request.top_p <= 1):
        return (
            f"max_tokens={request.max_tokens}, temperature={request.temperature}, top_p={request.top_p}: "
            "need at least 1, at least 0, and within (0, 1]"
        )
    if first is not None and not (0 <= first.id < vocab_size and request.top_p == 1):
        return f"first={first}: need a token of the vocabulary, and top_p=1"
    if length + len(extend) == 0:
        return "an empty row cannot be sampled from: extend it with at least one token"
    if extend and not (min(extend) >= 0 and max(extend) < vocab_size):
        return f"a token id is outside the vocabulary of {vocab_size}"
    if length + len(extend) + request.max_tokens > context:
        return (
            f"{length} tokens + {len(extend)} to extend + {request.max_tokens} to sample: the "
            f"context is {context}"
        )
    return None
