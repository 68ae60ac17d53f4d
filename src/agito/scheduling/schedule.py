"""Which attempt runs next, and what is trained on when: `(state, event) → decisions`, without clocks, threads
or I/O, so that it can be replayed and simulated.

`Schedule` collects for one step, on-policy. `AsyncScheduler` feeds a trainer that works while others still
act, under a bound on staleness. Voids are tried again, then masked; a penalised attempt always teaches; never
more than `max_live` attempts are out at once.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from agito.types import AttemptId, is_mixed

# What became of an attempt: its reward; `penalised`: its verdict is not believed, and it costs; None: void.
Outcome: TypeAlias = float | Literal["penalised"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much to collect: the groups that may be issued, in order, and how many of them must have come out
    mixed.
    """

    ids: Sequence[int]
    group_size: int
    # begin with as many groups, and replace one that teaches nothing; None: all of `ids`, whatever comes out
    mixed: int | None = None
    max_live: int = 256
    max_tries: int = 3


@dataclass(slots=True)
class _Open:
    # slot → reward; None is void for good
    rewards: dict[int, Outcome] = field(default_factory=dict[int, Outcome])
    due: int = 0  # the last batch that may train on it

    def is_mixed(self) -> bool:
        trusted = [reward for reward in self.rewards.values() if isinstance(reward, int | float)]
        return is_mixed(trusted, sum(reward == "penalised" for reward in self.rewards.values()))


class _Issue:
    """Attempts that wait, those that are out, and the groups that they will complete; a void one goes to the
    front of the queue again.
    """

    def __init__(self, *, group_size: int, max_live: int, max_tries: int) -> None:
        self._group_size, self._max_live, self._max_tries = group_size, max_live, max_tries
        self._queue: deque[AttemptId] = deque()
        self.groups: dict[int, _Open] = {}
        self.num_live = self.retried = 0

    @property
    def is_empty(self) -> bool:
        return not self._queue and not self.num_live

    def add(self, group: int, due: int = 0) -> None:
        self.groups[group] = _Open(due=due)
        self._queue.extend(AttemptId(group=group, slot=slot) for slot in range(self._group_size))

    def release(self) -> tuple[AttemptId, ...]:
        count = min(len(self._queue), self._max_live - self.num_live)
        self.num_live += count
        return tuple(self._queue.popleft() for _ in range(count))

    def end(self, attempt: AttemptId, reward: Outcome) -> _Open | None:
        """The attempt's group, if that completes it."""
        self.num_live -= 1
        if reward is None and attempt.tries + 1 < self._max_tries:
            self.retried += 1
            self._queue.appendleft(AttemptId(group=attempt.group, slot=attempt.slot, tries=attempt.tries + 1))
            return None
        group = self.groups[attempt.group]
        group.rewards[attempt.slot] = reward
        return self.groups.pop(attempt.group) if len(group.rewards) == self._group_size else None


class Schedule:
    """Feed it `start` and then every finished attempt; it says which attempts to start."""

    def __init__(self, quota: Quota) -> None:
        self._wanted = len(quota.ids) if quota.mixed is None else quota.mixed
        if not 1 <= self._wanted <= len(quota.ids) or quota.group_size < 1:
            raise ValueError(
                f"{self._wanted} groups of {quota.group_size} wanted out of {len(quota.ids)}: need at "
                "least one of each"
            )
        self._quota = quota
        self._issue = _Issue(group_size=quota.group_size, max_live=quota.max_live, max_tries=quota.max_tries)
        self._issued = self._useful = 0

    @property
    def is_done(self) -> bool:
        return self._issue.is_empty

    @property
    def retried(self) -> int:
        return self._issue.retried

    def start(self) -> tuple[AttemptId, ...]:
        for _ in range(self._wanted):
            self._add_group()
        return self._issue.release()

    def finished(self, attempts: Sequence[tuple[AttemptId, Outcome]]) -> tuple[AttemptId, ...]:
        """Attempts with what became of them, in an order that is a function of content; what to
        start next.
        """
        for attempt, reward in attempts:
            complete = self._issue.end(attempt, reward)
            if complete is not None:
                self._complete(complete)
        return self._issue.release()

    def _complete(self, group: _Open) -> None:
        if self._quota.mixed is None or group.is_mixed():
            self._useful += 1
        elif self._issued < len(self._quota.ids) and self._useful + len(self._issue.groups) < self._wanted:
            self._add_group()

    def _add_group(self) -> None:
        self._issue.add(self._quota.ids[self._issued])
        self._issued += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRules:
    """`groups` mixed groups a batch; a batch is content with fewer once `refill` times as many groups have
    been looked at.
    """

    groups: int
    group_size: int
    batches: int  # in all
    max_staleness: int = 1  # versions between the batch and the oldest policy that sampled a token of it
    refill: float = 1.0
    max_live: int = 256
    max_tries: int = 3

    def __post_init__(self) -> None:
        if (
            self.groups < 1
            or self.group_size < 1
            or self.max_staleness < 0
            or self.refill < 1
            or self.max_live < 1
            or self.max_tries < 1
        ):
            raise ValueError(
                f"{self}: groups, group_size, max_live, max_tries and refill start at 1, max_staleness at 0"
            )

    @property
    def looked_at(self) -> int:
        return int(self.groups * self.refill)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step trains on: groups that came out mixed, earliest due first; possibly none. It starts from
    version `number`.
    """

    number: int
    groups: tuple[int, ...]
    even: tuple[int, ...]  # groups that came out even and are looked at with it, earliest due first


class AsyncScheduler:
    """Versions count from 0: batch n starts from version n and makes version n + 1. Every token of a group is
    at least as new as the engine's version when the group was issued, so a group is due at that version +
    `max_staleness`.

    Kept at all times: for every d, groups due by d <= `groups` x batches left to d. New groups are issued
    only if that still holds with them, and a batch forms only if it still holds without it; else the trainer
    waits for what is due. So no token trained on is older than `max_staleness`, and none is thrown away for
    its age. Groups that came out even keep to the same bound: a batch looks at all that are due, however
    many, as something may be learned from them too.

    Feed it events (`issue`, `finished`, `trained`, `published`); after each, ask `num_wanted`, `release` and
    `batch`.
    """

    def __init__(self, rules: FlowRules, *, version: int = 0, reissued: Sequence[int] = ()) -> None:
        """A resumed flow starts at a later version; `reissued` are the groups that were out when the
        checkpoint was made.
        """
        self._rules = rules
        self._next = self._engine_version = version
        self._issue = _Issue(group_size=rules.group_size, max_live=rules.max_live, max_tries=rules.max_tries)
        self._dues: Counter[int] = Counter()  # groups in play: those that are out and those that are ready
        self._ready: dict[int, list[int]] = {}  # due → mixed groups in order
        self._num_ready = 0
        self._even: deque[tuple[int, int]] = deque()  # (due, group), in order
        self._ahead = 0  # groups looked at because they were due, on account of the batches to come
        self._is_training = False
        self._add(reissued)

    @property
    def is_done(self) -> bool:
        return self._next >= self._rules.batches and not self._is_training

    @property
    def is_published(self) -> bool:
        """The engines sample with the newest version."""
        return self._engine_version == self._next

    @property
    def is_training(self) -> bool:
        return self._is_training

    @property
    def next_batch(self) -> int:
        return self._next

    @property
    def num_live(self) -> int:
        return self._issue.num_live

    @property
    def retried(self) -> int:
        return self._issue.retried

    @property
    def outstanding(self) -> tuple[int, ...]:
        """Groups issued and in no batch yet."""
        return tuple(
            sorted(
                [
                    *self._issue.groups,
                    *itertools.chain(*self._ready.values()),
                    *(group for _, group in self._even),
                ]
            )
        )

    @property
    def waits_for(self) -> int | None:
        """The group that keeps an idle trainer from its batch: the one due first."""
        if self._is_training or not self._issue.groups:
            return None
        return min(self._issue.groups, key=lambda group: (self._issue.groups[group].due, group))

    @property
    def is_gated(self) -> bool:
        """There is enough to train on, but a group that is due has not come in."""
        return not self._is_training and self._has_enough() and not self._is_safe()

    def num_wanted(self) -> int:
        """How many groups may be issued now."""
        rules, last = self._rules, self._rules.batches - 1
        due = self._engine_version + rules.max_staleness
        first = min(due, last)
        taken = sum(count for each, count in self._dues.items() if each < first)
        rooms: list[int] = []
        for day in range(first, max([due, *self._dues]) + 1):  # all that are due from the new ones' day on
            taken += self._dues[day]
            batches = min(day, last) - self._next + 1
            rooms += [
                rules.groups * batches - taken,
                rules.looked_at * batches - taken - len(self._even) - self._ahead,
            ]
        return max(min(rooms), 0)

    def issue(self, groups: Sequence[int]) -> None:
        """At most `num_wanted` new groups, by id."""
        assert len(groups) <= self.num_wanted()
        self._add(groups)

    def release(self) -> tuple[AttemptId, ...]:
        """Attempts to start now."""
        return self._issue.release()

    def finished(self, attempt: AttemptId, reward: Outcome) -> None:
        """An attempt came to an end."""
        complete = self._issue.end(attempt, reward)
        if complete is None:
            return
        if complete.is_mixed():
            insort(self._ready.setdefault(complete.due, []), attempt.group)
            self._num_ready += 1
        else:
            insort(self._even, (complete.due, attempt.group))
            self._forget(complete.due, 1)

    def batch(self) -> Batch | None:
        """The next batch, if the trainer is free and it may form now; the trainer has it from then on."""
        if self._is_training or self.is_done or not self._has_enough() or not self._is_safe():
            return None
        picked: list[int] = []
        for due, count in self._share().items():
            picked += self._ready[due][:count]
            del self._ready[due][:count]
            self._forget(due, count)
        self._num_ready -= len(picked)
        room = max(self._rules.looked_at - len(picked) - self._ahead, 0)
        num_even = max(min(room, len(self._even)), sum(due <= self._next for due, _ in self._even))
        even = tuple(self._even.popleft()[1] for _ in range(num_even))
        over = self._ahead + len(picked) + len(even) - self._rules.looked_at
        # at least one group is looked at with every batch
        self._ahead = max(min(over, self._rules.looked_at - 1), 0)
        self._is_training = True
        self._next += 1
        return Batch(number=self._next - 1, groups=tuple(picked), even=even)

    def trained(self) -> None:
        """The trainer has made the next version and is free."""
        assert self._is_training
        self._is_training = False

    def published(self, version: int) -> None:
        """Every engine samples with `version` from here on."""
        assert self._engine_version <= version <= self._next
        self._engine_version = version

    def _add(self, groups: Sequence[int]) -> None:
        due = self._engine_version + self._rules.max_staleness
        for group in groups:
            self._issue.add(group, due=due)
        self._dues[due] += len(groups)

    def _forget(self, due: int, count: int) -> None:
        """So many groups are no longer in play."""
        self._dues[due] -= count
        if not self._dues[due]:
            del self._dues[due]

    def _has_enough(self) -> bool:
        looked_at = self._num_ready + len(self._even) + self._ahead
        return self._num_ready >= self._rules.groups or looked_at >= self._rules.looked_at

    def _share(self) -> dict[int, int]:
        """How many groups the next batch takes of each due date: the earliest first."""
        share: dict[int, int] = {}
        room = self._rules.groups
        for due in sorted(self._ready):
            share[due] = min(room, len(self._ready[due]))
            room -= share[due]
        return share

    def _is_safe(self) -> bool:
        """Whether all that the next batch leaves could still be trained on in time."""
        share, left = self._share(), 0
        for due in sorted(self._dues):
            left += self._dues[due] - share.get(due, 0)
            if left > self._rules.groups * max(min(due, self._rules.batches - 1) - self._next, 0):
                return False
        return True
