"""Which attempt runs next, and what is trained on when, while a trainer works beside the samplers, within a
bound on staleness. `(state, event) → decisions`, without clocks, threads or I/O, so that it can be
replayed and simulated.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from agito.scheduling.attempt_queue import AttemptQueue, Outcome
from agito.types import AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerRules:
    """A batch takes `groups` nonzero-variance groups. It accepts fewer once `oversampling` times as many have
    been considered."""

    groups: int
    group_size: int
    batches: int  # total
    max_staleness: int = 1  # versions between the batch and the oldest policy that sampled any of its tokens
    oversampling: float = 1.0
    max_live: int = 256
    max_tries: int = 3

    def __post_init__(self) -> None:
        if (
            self.groups < 1
            or self.group_size < 1
            or self.max_staleness < 0
            or self.oversampling < 1
            or self.max_live < 1
            or self.max_tries < 1
        ):
            raise ValueError(
                f"{self}: groups, group_size, max_live, max_tries and oversampling start at 1, max_staleness "
                "at 0"
            )

    @property
    def considered(self) -> int:
        return int(self.groups * self.oversampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step trains on: nonzero-variance groups, earliest due first; possibly none. It starts from
    version `number`."""

    number: int
    groups: tuple[int, ...]
    zero_variance: tuple[int, ...]  # considered with it, earliest due first


class AsyncScheduler:
    """Versions count from 0: batch n starts at version n and produces version n + 1. Every token of a group
    is at least as new as the engine's version when the group was issued, so a group is due at that version +
    `max_staleness`.

    Invariant: for every d, the groups due by d number at most `groups` x batches left to d. New groups are
    issued only if it still holds with them, and a batch forms only if it still holds for the rest; otherwise
    the trainer waits for the due groups. So no trained token is older than `max_staleness`, and none is
    discarded for its age. Zero-variance groups obey the same bound: a batch considers all that are due, since
    parts of them may still be trained on.

    Feed it events (`issue`, `finished`, `trained`, `published`); after each, ask `num_wanted`, `release` and
    `batch`.
    """

    def __init__(self, rules: SchedulerRules, *, version: int = 0, reissued: Sequence[int] = ()) -> None:
        """A resumed scheduler starts at a later version; `reissued` are the groups outstanding at the
        checkpoint."""
        self._rules = rules
        self._next = self._engine_version = version
        self._attempts = AttemptQueue(
            group_size=rules.group_size, max_live=rules.max_live, max_tries=rules.max_tries
        )
        self._dues: Counter[int] = Counter()  # groups in play, outstanding or ready, by due version
        self._ready: dict[int, list[int]] = {}  # due → nonzero-variance groups in order
        self._num_ready = 0
        self._zero_variance: deque[tuple[int, int]] = deque()  # (due, group), in order
        self._overdrawn = (
            0  # groups considered beyond the oversampling limit of past batches; deducted from later ones
        )
        self._is_training = False
        self._add(reissued)

    @property
    def is_done(self) -> bool:
        return self._next >= self._rules.batches and not self._is_training

    @property
    def is_published(self) -> bool:
        """Whether the engines sample with the newest version."""
        return self._engine_version == self._next

    @property
    def is_training(self) -> bool:
        return self._is_training

    @property
    def next_batch(self) -> int:
        return self._next

    @property
    def num_live(self) -> int:
        return self._attempts.num_live

    @property
    def retried(self) -> int:
        return self._attempts.retried

    @property
    def outstanding(self) -> tuple[int, ...]:
        """Groups issued but not yet in a batch."""
        return tuple(
            sorted(
                [
                    *self._attempts.groups,
                    *itertools.chain(*self._ready.values()),
                    *(group for _, group in self._zero_variance),
                ]
            )
        )

    @property
    def waits_for(self) -> int | None:
        """The group that an idle trainer waits for: the one due first."""
        if self._is_training or not self._attempts.groups:
            return None
        return min(self._attempts.groups, key=lambda group: (self._attempts.groups[group].due, group))

    @property
    def is_gated(self) -> bool:
        """Whether enough groups are ready but a due one is still outstanding."""
        return not self._is_training and self._has_enough() and not self._is_safe()

    def num_wanted(self) -> int:
        """How many groups may be issued now."""
        rules, last = self._rules, self._rules.batches - 1
        due = self._engine_version + rules.max_staleness
        first = min(due, last)
        taken = sum(count for each, count in self._dues.items() if each < first)
        capacities: list[int] = []
        for version in range(
            first, max([due, *self._dues]) + 1
        ):  # all versions at which the new groups count
            taken += self._dues[version]
            batches = min(version, last) - self._next + 1
            capacities += [
                rules.groups * batches - taken,
                rules.considered * batches - taken - len(self._zero_variance) - self._overdrawn,
            ]
        return max(min(capacities), 0)

    def issue(self, groups: Sequence[int]) -> None:
        """Issues at most `num_wanted` new groups, by id."""
        assert len(groups) <= self.num_wanted()
        self._add(groups)

    def release(self) -> tuple[AttemptId, ...]:
        """Attempts to start now."""
        return self._attempts.release()

    def finished(self, attempt: AttemptId, reward: Outcome) -> None:
        """Records that an attempt has ended."""
        complete = self._attempts.end(attempt, reward)
        if complete is None:
            return
        if complete.has_variance():
            insort(self._ready.setdefault(complete.due, []), attempt.group)
            self._num_ready += 1
        else:
            insort(self._zero_variance, (complete.due, attempt.group))
            self._forget(complete.due, 1)

    def batch(self) -> Batch | None:
        """The next batch, if the trainer is free and it may form now; the trainer owns it from then on."""
        if self._is_training or self.is_done or not self._has_enough() or not self._is_safe():
            return None
        picked: list[int] = []
        for due, count in self._share().items():
            picked += self._ready[due][:count]
            del self._ready[due][:count]
            self._forget(due, count)
        self._num_ready -= len(picked)
        room = max(self._rules.considered - len(picked) - self._overdrawn, 0)
        num_zero_variance = max(
            min(room, len(self._zero_variance)), sum(due <= self._next for due, _ in self._zero_variance)
        )
        zero_variance = tuple(self._zero_variance.popleft()[1] for _ in range(num_zero_variance))
        over = self._overdrawn + len(picked) + len(zero_variance) - self._rules.considered
        # Every batch considers at least one group.
        self._overdrawn = max(min(over, self._rules.considered - 1), 0)
        self._is_training = True
        self._next += 1
        return Batch(number=self._next - 1, groups=tuple(picked), zero_variance=zero_variance)

    def trained(self) -> None:
        """Records that the trainer has produced the next version and is free."""
        assert self._is_training
        self._is_training = False

    def published(self, version: int) -> None:
        """Records that every engine now samples with `version`."""
        assert self._engine_version <= version <= self._next
        self._engine_version = version

    def _add(self, groups: Sequence[int]) -> None:
        due = self._engine_version + self._rules.max_staleness
        for group in groups:
            self._attempts.add(group, due=due)
        self._dues[due] += len(groups)

    def _forget(self, due: int, count: int) -> None:
        """Removes `count` groups from play."""
        self._dues[due] -= count
        if not self._dues[due]:
            del self._dues[due]

    def _has_enough(self) -> bool:
        considered = self._num_ready + len(self._zero_variance) + self._overdrawn
        return self._num_ready >= self._rules.groups or considered >= self._rules.considered

    def _share(self) -> dict[int, int]:
        """How many groups the next batch takes from each due version, earliest first."""
        share: dict[int, int] = {}
        room = self._rules.groups
        for due in sorted(self._ready):
            share[due] = min(room, len(self._ready[due]))
            room -= share[due]
        return share

    def _is_safe(self) -> bool:
        """Whether everything that the next batch leaves can still be trained on in time."""
        share, left = self._share(), 0
        for due in sorted(self._dues):
            left += self._dues[due] - share.get(due, 0)
            if left > self._rules.groups * max(min(due, self._rules.batches - 1) - self._next, 0):
                return False
        return True
