"""Waiting and running attempts, by group. A void attempt is retried up to `max_tries` times; then it is left
out of baseline and loss. A group with a penalised attempt always counts as nonzero-variance. At most
`max_live` attempts run at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from agito.types import AttemptId, has_variance

# The outcome of an attempt: its reward; `penalised`: the verdict is not trusted and the attempt pays for it;
# None: void.
Outcome: TypeAlias = float | Literal["penalised"] | None


@dataclass(slots=True)
class OpenGroup:
    # Slot → reward; None after the last retry ended void.
    rewards: dict[int, Outcome] = field(default_factory=dict[int, Outcome])
    due: int = 0  # last batch that may train on it

    def has_variance(self) -> bool:
        trusted = [reward for reward in self.rewards.values() if isinstance(reward, int | float)]
        return has_variance(trusted, sum(reward == "penalised" for reward in self.rewards.values()))


class AttemptQueue:
    """Waiting attempts, running attempts, and their groups. A void attempt returns to the front of the
    queue."""

    def __init__(self, *, group_size: int, max_live: int, max_tries: int) -> None:
        self._group_size, self._max_live, self._max_tries = group_size, max_live, max_tries
        self._queue: deque[AttemptId] = deque()
        self.groups: dict[int, OpenGroup] = {}
        self.num_live = self.retried = 0

    @property
    def is_empty(self) -> bool:
        return not self._queue and not self.num_live

    def add(self, group: int, due: int = 0) -> None:
        self.groups[group] = OpenGroup(due=due)
        self._queue.extend(AttemptId(group=group, slot=slot) for slot in range(self._group_size))

    def release(self) -> tuple[AttemptId, ...]:
        count = min(len(self._queue), self._max_live - self.num_live)
        self.num_live += count
        return tuple(self._queue.popleft() for _ in range(count))

    def end(self, attempt: AttemptId, reward: Outcome) -> OpenGroup | None:
        """Returns the attempt's group if this attempt completes it."""
        self.num_live -= 1
        if reward is None and attempt.tries + 1 < self._max_tries:
            self.retried += 1
            self._queue.appendleft(AttemptId(group=attempt.group, slot=attempt.slot, tries=attempt.tries + 1))
            return None
        group = self.groups[attempt.group]
        group.rewards[attempt.slot] = reward
        return self.groups.pop(attempt.group) if len(group.rewards) == self._group_size else None
