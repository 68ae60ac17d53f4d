"""Which attempt runs next: `(state, event) → decisions`, without clocks, threads or I/O, so that it can be replayed and simulated.

An event is a finished attempt. Voids are tried again, then masked; groups in which everybody earned the same are counted and
replaced; never more than `max_live` attempts are out at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from agito.types import AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much to collect: the groups that may be issued, in order, and how many of them must have come out mixed."""

    ids: Sequence[int]
    group_size: int
    mixed: int | None = None  # begin with as many groups, and replace one that teaches nothing; None: all of `ids`, whatever comes out
    max_live: int = 256
    max_tries: int = 3


@dataclass(slots=True)
class _Open:
    rewards: dict[int, float | None] = field(default_factory=dict[int, "float | None"])  # slot → reward; None is void for good

    def is_mixed(self) -> bool:
        scored = [reward for reward in self.rewards.values() if reward is not None]
        return len(scored) >= 2 and max(scored) - min(scored) > 1e-9


class Schedule:
    """Feed it `start` and then every finished attempt; it says which attempts to start."""

    def __init__(self, quota: Quota) -> None:
        self._wanted = len(quota.ids) if quota.mixed is None else quota.mixed
        if not 1 <= self._wanted <= len(quota.ids) or quota.group_size < 1:
            raise ValueError(f"{self._wanted} groups of {quota.group_size} wanted out of {len(quota.ids)}: need at least one of each")
        self._quota = quota
        self._queue: deque[AttemptId] = deque()
        self._open: dict[int, _Open] = {}
        self._live = self._issued = self._useful = 0
        self.retried = 0

    @property
    def is_done(self) -> bool:
        return not self._queue and not self._live

    def start(self) -> tuple[AttemptId, ...]:
        for _ in range(self._wanted):
            self._add_group()
        return self._release()

    def finished(self, attempts: Sequence[tuple[AttemptId, float | None]]) -> tuple[AttemptId, ...]:
        """Attempts with their rewards, None for void, in an order that is a function of content; what to start next."""
        for attempt, reward in attempts:
            self._live -= 1
            if reward is None and attempt.tries + 1 < self._quota.max_tries:
                self.retried += 1
                self._queue.appendleft(AttemptId(group=attempt.group, slot=attempt.slot, tries=attempt.tries + 1))
                continue
            group = self._open[attempt.group]
            group.rewards[attempt.slot] = reward
            if len(group.rewards) == self._quota.group_size:
                del self._open[attempt.group]
                self._complete(group)
        return self._release()

    def _complete(self, group: _Open) -> None:
        if self._quota.mixed is None or group.is_mixed():
            self._useful += 1
        elif self._issued < len(self._quota.ids) and self._useful + len(self._open) < self._wanted:
            self._add_group()

    def _add_group(self) -> None:
        group = self._quota.ids[self._issued]
        self._issued += 1
        self._open[group] = _Open()
        self._queue.extend(AttemptId(group=group, slot=slot) for slot in range(self._quota.group_size))

    def _release(self) -> tuple[AttemptId, ...]:
        count = min(len(self._queue), self._quota.max_live - self._live)
        self._live += count
        return tuple(self._queue.popleft() for _ in range(count))
