"""Which attempt of one on-policy step runs next: `(state, event) → decisions`, without clocks, threads or
I/O, so that it can be replayed and simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agito.scheduling.attempt_queue import AttemptQueue, OpenGroup, Outcome
from agito.types import AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much to collect: the groups that may be issued, in order, and how many of them must have nonzero
    variance."""

    ids: Sequence[int]
    group_size: int
    # Start with as many groups as wanted and replace each zero-variance one; None: run all of `ids`.
    nonzero_variance: int | None = None
    max_live: int = 256
    max_tries: int = 3


class SyncScheduler:
    """Call `start`, then report every finished attempt; the answers say which attempts to start."""

    def __init__(self, quota: Quota) -> None:
        self._wanted = len(quota.ids) if quota.nonzero_variance is None else quota.nonzero_variance
        if not 1 <= self._wanted <= len(quota.ids) or quota.group_size < 1:
            raise ValueError(
                f"{self._wanted} groups of {quota.group_size} wanted out of {len(quota.ids)}: need at "
                "least one of each"
            )
        self._quota = quota
        self._attempts = AttemptQueue(
            group_size=quota.group_size, max_live=quota.max_live, max_tries=quota.max_tries
        )
        self._issued = self._useful = 0

    @property
    def is_done(self) -> bool:
        return self._attempts.is_empty

    @property
    def retried(self) -> int:
        return self._attempts.retried

    def start(self) -> tuple[AttemptId, ...]:
        for _ in range(self._wanted):
            self._add_group()
        return self._attempts.release()

    def finished(self, attempts: Sequence[tuple[AttemptId, Outcome]]) -> tuple[AttemptId, ...]:
        """Takes attempts and outcomes in an order that depends on content only; returns the attempts to start
        next."""
        for attempt, reward in attempts:
            complete = self._attempts.end(attempt, reward)
            if complete is not None:
                self._complete(complete)
        return self._attempts.release()

    def _complete(self, group: OpenGroup) -> None:
        if self._quota.nonzero_variance is None or group.has_variance():
            self._useful += 1
        elif self._issued < len(self._quota.ids) and self._useful + len(self._attempts.groups) < self._wanted:
            self._add_group()

    def _add_group(self) -> None:
        self._attempts.add(self._quota.ids[self._issued])
        self._issued += 1
