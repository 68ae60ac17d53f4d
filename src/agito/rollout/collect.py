"""Groups of attempts from an engine or from scripts, as a `SyncScheduler` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from agito.protocols import Engine
from agito.rollout.attempt import AttemptRunner, Plan
from agito.sampling.lockstep import Lane, Lockstep
from agito.scheduling.attempt_queue import Outcome
from agito.scheduling.sync_scheduler import Quota, SyncScheduler
from agito.types import Attempt, AttemptId, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Complete groups in order of id; an attempt's retries are counted, not kept."""

    groups: tuple[Group, ...]
    retried: int

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(attempt for group in self.groups for attempt in group.attempts)


async def collect(
    runner: AttemptRunner,
    plan: Plan,
    quota: Quota,
    engines: Lockstep | Mapping[str, Engine] | None,
    on_attempt: Callable[[Attempt], None] = lambda _: None,
) -> Collected:
    """Runs until the quota is met. In lockstep it is reproducible: see `Lockstep`. With engines by policy,
    attempts start as others end. None: the plan has scripts.
    """
    schedule = SyncScheduler(quota)
    book = _Book(on_attempt)
    async with anyio.create_task_group() as tasks:
        if not isinstance(engines, Lockstep):
            await _as_they_end(runner, plan, schedule, book, engines)
        else:
            lockstep = engines
            lanes: dict[int, AttemptId] = {}

            def start(attempts: Sequence[AttemptId]) -> None:
                for attempt in attempts:
                    lane = lockstep.lane()
                    lanes[lane.order] = attempt
                    tasks.start_soon(_in_lane, runner, plan, attempt, lane, book)

            async def on_barrier(orders: Sequence[int]) -> None:
                done = [book.latest[lanes.pop(order)] for order in orders]
                start(schedule.finished([(attempt.trajectory.attempt, outcome(attempt)) for attempt in done]))

            start(schedule.start())
            await lockstep.run(on_barrier)
    return Collected(groups=book.groups(quota.group_size), retried=schedule.retried)


async def _in_lane(runner: AttemptRunner, plan: Plan, attempt: AttemptId, lane: Lane, book: _Book) -> None:
    book.add(await runner.run(plan, attempt, lane.engines))
    lane.finish()


async def _as_they_end(
    runner: AttemptRunner,
    plan: Plan,
    schedule: SyncScheduler,
    book: _Book,
    engines: Mapping[str, Engine] | None,
) -> None:
    """There is no order to keep: each attempt of a script is a function of its own seed, and what a server
    samples does not repeat.
    """
    send, receive = anyio.create_memory_object_stream[Attempt](max_buffer_size=1024)

    async def run(attempt: AttemptId) -> None:
        await send.send(await runner.run(plan, attempt, engines))

    async with anyio.create_task_group() as tasks:
        with send, receive:
            for attempt in schedule.start():
                tasks.start_soon(run, attempt)
            while not schedule.is_done:
                done = await receive.receive()
                book.add(done)
                for attempt in schedule.finished([(done.trajectory.attempt, outcome(done))]):
                    tasks.start_soon(run, attempt)


class _Book:
    """Finished attempts; of a slot's tries the last one stands."""

    def __init__(self, on_attempt: Callable[[Attempt], None]) -> None:
        self.latest: dict[AttemptId, Attempt] = {}
        self._slots: dict[tuple[int, int], Attempt] = {}
        self._on_attempt = on_attempt

    def add(self, attempt: Attempt) -> None:
        key = attempt.trajectory.attempt
        self.latest[key] = self._slots[key.group, key.slot] = attempt
        self._on_attempt(attempt)

    def groups(self, group_size: int) -> tuple[Group, ...]:
        members: dict[int, list[Attempt]] = {}
        for (group, _), attempt in sorted(self._slots.items(), key=lambda item: item[0]):
            members.setdefault(group, []).append(attempt)
        return tuple(
            Group(id=group, task=attempts[0].trajectory.task, attempts=tuple(attempts))
            for group, attempts in members.items()
            if len(attempts) == group_size
        )


def outcome(attempt: Attempt) -> Outcome:
    """For a schedule."""
    if attempt.penalty and attempt.is_scored:
        return "penalised"
    return attempt.verdict.reward if attempt.is_scored else None
