"""Asynchronous RL: attempts go on while the trainer learns; `AsyncScheduler` bounds the staleness of every
token (`scheduling/async_scheduler.py`).

    rollout (this process)          samplers (workers 1, 2, …)    learner (worker 0)
    scheduler ── attempts ── tools  ⇄  ContinuousBatching          step(batch)
      ▲                              ▲ pull(version)               │ push(version)
      └── finished, trained, published ─┴──── shared memory ◄──────┘

The scheduler decides what starts and what is trained on when; this file carries it out. What is computed
depends on the clock; `loop.py` repeats bit for bit.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import anyio

from agito.concurrency import first_error
from agito.errors import EnvironmentPaused, WorkerDied
from agito.learning.credit import RunningMeans
from agito.monitor import Monitor
from agito.protocols import MAIN, Engine
from agito.rollout import AttemptRunner, Observed, outcome
from agito.runtime.run_context import RunContext
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.engine_assignment import Balance
from agito.scheduling.async_scheduler import AsyncScheduler, Batch, SchedulerRules
from agito.scheduling.curriculum import Curriculum, draw
from agito.scheduling.log import LoggedScheduler
from agito.training.learn_step import Learned, LearnStep, RollBack
from agito.training.loop import RL_BASE, Step, learn_step, make_step, paused
from agito.types import Attempt, AttemptId, Group, Json, Sample

_PHASES = 3  # that one event may be waited for through: a teacher's scores, a step, a publication
_SERVER_S = 900.0  # for a server to be replaced meanwhile
_BACKLOG = 1024  # finished attempts that nobody has looked at yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What a resumed run needs beside its checkpoint: groups still in flight, and the next unused task
    number.
    """

    issued: int = 0
    outstanding: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {"issued": self.issued, "outstanding": list(self.outstanding)}

    @classmethod
    def from_json(cls, data: Json) -> Position:
        if not isinstance(data, dict):
            return cls()
        issued, outstanding = data["issued"], data["outstanding"]
        assert isinstance(outstanding, list)
        return cls(issued=int(str(issued)), outstanding=tuple(int(str(group)) for group in outstanding))


async def train(
    run_context: RunContext,
    curriculum: Curriculum,
    *,
    start: int,
    position: Position,
    on_step: Callable[[Step, Position], Awaitable[None]],
    new_version: Callable[[], int],
    write_schedule: Callable[[str], object] = lambda line: None,
    monitor: Monitor | None = None,
    means: RunningMeans | None = None,
    observed: Observed | None = None,
    roll_back: RollBack | None = None,
) -> None:
    """RL from step `start` on; `on_step` is awaited after each, before the next step may change the weights.

    In `concurrent` mode ranks alternate between sampling and learning, so staleness is 0 and only tool calls
    overlap with sampling. `write_schedule` gets the
    lines of `agito.scheduling.log`. The alarm of the monitor: see `agito.training.loop.train`.
    """
    recipe, policies = run_context.recipe, run_context.policies
    if start == 0:
        await policies.begin_rl(recipe.rl.steps)
    base = new_version()
    await policies.publish(base)
    rules = SchedulerRules(
        groups=recipe.rl.groups,
        group_size=recipe.rl.group_size,
        batches=recipe.rl.steps,
        oversampling=recipe.rl.oversampling,
        max_staleness=recipe.pipeline.max_staleness if policies.learns_alone else 0,
        max_live=recipe.compute.max_num_seqs * len(policies.sampling_workers),
    )
    if start < recipe.rl.steps:
        scheduler = LoggedScheduler(rules, version=start, reissued=position.outstanding, write=write_schedule)
        try:
            watch = monitor or run_context.new_monitor()
            step = learn_step(
                run_context, monitor=watch, curriculum=curriculum, means=means, roll_back=roll_back
            )
            runner = run_context.runner(temperature=recipe.rl.temperature, monitor=watch, observed=observed)
            await _AsyncLoop(
                run_context,
                curriculum,
                step,
                runner,
                scheduler,
                position.issued,
                base - start,
                on_step,
                new_version,
            ).run()
        except BaseExceptionGroup as group:
            raise first_error(group) from None


@dataclass(frozen=True, slots=True)
class _Trained:
    pass


@dataclass(frozen=True, slots=True)
class _Published:
    version: int  # the scheduler's, counted from 0; the engines' is `base` higher


class _AsyncLoop:
    def __init__(
        self,
        run_context: RunContext,
        curriculum: Curriculum,
        step: LearnStep,
        runner: AttemptRunner,
        scheduler: AsyncScheduler,
        issued: int,
        base: int,
        on_step: Callable[[Step, Position], Awaitable[None]],
        new_version: Callable[[], int],
    ) -> None:
        self._run_context, self._policies, self._curriculum, self._learn_step, self._scheduler = (
            run_context,
            run_context.policies,
            curriculum,
            step,
            scheduler,
        )
        self._issued, self._base, self._on_step, self._new_version = issued, base, on_step, new_version
        self._runner = runner
        self._plan = run_context.plan("train", RL_BASE)
        steps = run_context.recipe.compute.decode_steps
        self._engines = [
            {
                name: ContinuousBatching(client, steps=steps)
                for name, client in self._policies.clients(worker).items()
            }
            for worker in self._policies.sampling_workers
        ]
        self._balance = Balance(len(self._engines), rows=run_context.recipe.compute.max_num_seqs)
        self._attempts: dict[int, dict[int, Attempt]] = {}  # group → slot → its last try
        served_s = _SERVER_S if self._policies.served else 0.0
        self._silence_s = _PHASES * run_context.recipe.compute.silence_s + served_s
        self._retried = 0
        self._oldest_valid = 0  # groups with older tokens are revoked: those weights were rolled back
        self._meters = _Meters(len(self._engines))
        self._delivered = anyio.Event()  # a version is with every engine before the next one is offered
        self._delivered.set()
        self._send, self._receive = anyio.create_memory_object_stream["Attempt | _Trained | _Published"](
            _BACKLOG
        )

    async def run(self) -> None:
        """Raises `WorkerDied` when a worker is gone or nothing happens any more."""
        async with self._send, self._receive, anyio.create_task_group() as tasks:
            for engine in self._all_engines:
                tasks.start_soon(engine.run)
            while not (self._scheduler.is_done and self._scheduler.is_published):
                if wanted := self._scheduler.num_wanted():
                    self._scheduler.issue(self._draw(wanted))
                for attempt in self._scheduler.release():
                    engine = self._balance.place(
                        attempt, (attempt.group - RL_BASE) % len(self._run_context.cells)
                    )
                    tasks.start_soon(self._act, attempt, {**self._engines[engine], **self._policies.served})
                if batch := self._scheduler.batch():
                    tasks.start_soon(self._learn, batch)
                self._meters.turn(
                    "gated"
                    if self._scheduler.is_gated
                    else "training"
                    if self._scheduler.is_training
                    else "starved"
                )
                self._handle(await self._next())
            assert not self._scheduler.outstanding, self._scheduler.outstanding
            for engine in self._all_engines:
                engine.stop()

    @property
    def _all_engines(self) -> list[ContinuousBatching]:
        return [engine for by_policy in self._engines for engine in by_policy.values()]

    def _draw(self, count: int) -> list[int]:
        """New group ids, of cells as the curriculum weighs them now."""
        numbers = draw(
            self._curriculum.weights(), count, seed=str(self._run_context.recipe.seed), first=self._issued
        )
        self._issued = max(numbers) + 1
        return [RL_BASE + number for number in numbers]

    async def _next(self) -> Attempt | _Trained | _Published:
        try:
            with anyio.fail_after(self._silence_s):
                return await self._receive.receive()
        except TimeoutError:
            group = self._scheduler.waits_for
            trainer = (
                f"batch {self._scheduler.next_batch - 1}"
                if group is None
                else f"idle, waiting for group {group}"
            )
            raise WorkerDied(
                f"nothing has happened for {self._silence_s:.0f} s: {self._scheduler.num_live} attempts are "
                "out, the "
                f"trainer is at {trainer}"
            ) from None

    def _handle(self, event: Attempt | _Trained | _Published) -> None:
        match event:
            case Attempt():
                at = event.trajectory.attempt
                self._attempts.setdefault(at.group, {})[at.slot] = event
                self._balance.ended(at, sum(len(segment.tokens) for segment in event.trajectory.segments))
                self._scheduler.finished(at, outcome(event))
            case _Trained():
                self._scheduler.trained()
            case _Published():
                self._scheduler.published(event.version)

    async def _act(self, attempt: AttemptId, engines: Mapping[str, Engine]) -> None:
        await self._send.send(await self._runner.run(self._plan, attempt, engines))

    async def _learn(self, batch: Batch) -> None:
        """A step of the trainer, then its weights to every engine, between two of their exchanges."""
        groups = [self._group(number) for number in sorted([*batch.groups, *batch.zero_variance])]
        learning = self._policies.learning
        revoked = {group.id for group in groups if oldest(group, learning) < self._oldest_valid}
        learned = await self._learn_step.learn(
            batch.number, groups, publish=partial(self._publish, batch), revoked=revoked
        )
        if learned.is_rolled_back:  # engines sample with what was taken back until they have the next version
            self._oldest_valid = self._base + batch.number + 1
        await self._on_step(self._step(batch, learned), self._position())
        if learned.pause:
            raise EnvironmentPaused(paused(self._run_context, batch.number, learned))
        await self._send.send(_Trained())
        if self._policies.learns_alone:
            self._meters.paused_s += await self._policies.pull(self._base + batch.number + 1)
        self._delivered.set()
        await self._send.send(_Published(batch.number + 1))

    async def _publish(self, batch: Batch) -> None:
        await self._delivered.wait()
        self._delivered = anyio.Event()
        version = self._new_version()
        assert version == self._base + batch.number + 1, "versions are counted in batches"
        if self._policies.learns_alone:
            await self._policies.push(version)
        else:  # nobody samples now
            await self._policies.publish(version)

    def _group(self, number: int) -> Group:
        attempts = tuple(attempt for _, attempt in sorted(self._attempts.pop(number).items()))
        return Group(id=number, task=attempts[0].trajectory.task, attempts=attempts)

    def _position(self) -> Position:
        return Position(issued=self._issued, outstanding=self._scheduler.outstanding)

    def _step(self, batch: Batch, learned: Learned) -> Step:
        retried, self._retried = self._scheduler.retried - self._retried, self._scheduler.retried
        others = self._curriculum.metrics(self._run_context.cells) | ages(
            learned.samples, self._base + batch.number
        )
        others |= self._meters.read(sum(engine.busy_s for engine in self._all_engines))
        return make_step(batch.number, learned, retried=retried, others=others)


def oldest(group: Group, learning: Collection[str] = (MAIN,)) -> int:
    """The version of the weights that sampled its oldest token, of the policies that are `learning`."""
    segments = [
        segment
        for attempt in group.attempts
        for segment in attempt.trajectory.segments
        if segment.policy in learning
    ]
    return min((span.version for segment in segments for span in segment.tokens.versions), default=0)


def ages(samples: Iterable[Sample], version: int) -> dict[str, float]:
    """Share of trained tokens by how many versions they are older than the batch, and the oldest."""
    counts: Counter[int] = Counter()
    for sample in samples:
        for span in sample.versions:
            counts[version - span.version] += sum(sample.trainable[span.start : span.stop])
    counts = +counts  # without those that nothing was trained on
    total = counts.total()
    return {f"age/v{age}_ratio": count / total for age, count in sorted(counts.items())} | {
        "age/max_versions": float(max(counts, default=0))
    }


@dataclass(slots=True)
class _Meters:
    """Where the time of a step went, in fractions of it."""

    num_engines: int
    paused_s: float = 0.0
    _now: str = "starved"
    _since: float = field(default_factory=time.monotonic)
    _began: float = field(default_factory=time.monotonic)
    _spent_s: dict[str, float] = field(
        default_factory=lambda: {"starved": 0.0, "training": 0.0, "gated": 0.0}
    )
    _busy_s: float = 0.0
    _cpu_s: float = field(default_factory=time.process_time)

    def turn(self, state: str) -> None:
        now = time.monotonic()
        self._spent_s[self._now] += now - self._since
        self._now, self._since = state, now

    def read(self, engine_busy_s: float) -> dict[str, float]:
        """Since the last time; `engine_busy_s` is counted from the beginning, over all engines."""
        self.turn(self._now)
        elapsed_s = max(self._since - self._began, 1e-9)
        figures = {
            "time/step_s": elapsed_s,
            "trainer/idle_ratio": 1 - self._spent_s["training"] / elapsed_s,
            "trainer/gate_wait_ratio": self._spent_s["gated"] / elapsed_s,
            "engine/busy_ratio": (engine_busy_s - self._busy_s) / elapsed_s / self.num_engines,
            "engine/publish_pause_ratio": self.paused_s / elapsed_s / self.num_engines,
            "rollout/busy_ratio": (time.process_time() - self._cpu_s) / elapsed_s,
        }
        self._cpu_s = time.process_time()
        self._began, self._busy_s, self.paused_s = self._since, engine_busy_s, 0.0
        self._spent_s = dict.fromkeys(self._spent_s, 0.0)
        return figures
