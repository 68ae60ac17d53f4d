"""Forecasts how a recipe spends its time, by simulating the decoupled loop with the scheduler's own code.

Episodes, engines and the trainer are queues with measured latencies. `AsyncScheduler` decides what starts and
what is trained on when; `sampling.balance.Balance` picks the engine. Competition for cores and memory is one
measured factor: how much slower an engine or the trainer runs while the other works.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from agito.sampling.engine_assignment import Balance
from agito.scheduling.async_scheduler import AsyncScheduler, Batch, SchedulerRules
from agito.types import AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Seconds. A turn samples `turn_tokens`, runs the tool, then reads `observed_tokens`.

    An engine exchange of `decode_steps` decode steps takes `exchange_s` + rows x `row_s` + extended tokens x
    `token_s`.
    """

    exchange_s: float
    row_s: float
    token_s: float
    train_s: float  # a batch, including the trainer's part of publishing it
    pull_s: float = 0.0  # an engine's pause for new weights
    # Slowdown factor of an engine exchange (batch) while the trainer (an engine) works.
    slowdown: float = 1.0
    turns: int = 6
    turn_tokens: int = 16
    observed_tokens: int = 16
    tool_median_s: float = 0.0
    tool_p99_s: float = 0.0  # log-normal; at or below the median: always the median
    tool_most_s: float = 0.0  # deadline of a call; 0: none
    decode_steps: int = 4
    zero_variance: float = 0.0  # share of zero-variance groups

    def tool_s(self, rng: random.Random) -> float:
        if self.tool_p99_s <= self.tool_median_s:
            return self.tool_median_s
        drawn_s = self.tool_median_s * math.exp(
            math.log(self.tool_p99_s / self.tool_median_s) / 2.3263 * rng.gauss()
        )
        return min(drawn_s, self.tool_most_s) if self.tool_most_s else drawn_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Over the whole run, including start and end. Ratios are relative to the run's time."""

    wall_s: float
    step_s: float
    trainer_idle: float
    gate_wait: float
    engine_busy: float
    age_mean: float  # versions, of the first token of trained groups
    age_max: int
    most_live: int


@dataclass(slots=True)
class _Engine:
    waiting: list[_Row] = field(default_factory=list["_Row"])  # admitted at the next exchange
    rows: list[_Row] = field(default_factory=list["_Row"])
    is_running: bool = False
    must_pull: int | None = None  # version to load after this exchange


@dataclass(slots=True)
class _Row:
    attempt: AttemptId
    engine: _Engine
    extend: int  # tokens to compute before sampling
    left: int = 0  # tokens to sample in this turn
    turns: int = 0


class Simulation:
    """One run. A pure function of its arguments. `wait_s` gives the tool latency of an attempt's call,
    counted from 0; without it, latencies are drawn."""

    def __init__(
        self,
        rules: SchedulerRules,
        latencies: Latencies,
        *,
        engines: int = 1,
        seed: int = 0,
        wait_s: Callable[[AttemptId, int], float] | None = None,
    ) -> None:
        self._flow, self._latencies, self._rng = (
            AsyncScheduler(rules),
            latencies,
            random.Random(f"plan/{seed}"),
        )
        self._rules = rules
        self._wait_s = wait_s or self._drawn_s
        self._engines = [_Engine() for _ in range(engines)]
        self._balance = Balance(engines, rows=max(rules.max_live // engines, 1))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._issued = 0
        self._zero_variance: dict[int, bool] = {}
        self._first_version: dict[int, int] = {}
        self._version = 0
        self._to_pull = 0  # engines without the newest version
        self._held: Batch | None = None  # trained; published once every engine has the version before
        self._batch: Batch | None = None  # being trained on
        # Of its training; `_turn` counts forecasts of its end.
        self._left_s, self._since, self._pace, self._turn = 0.0, 0.0, 1.0, 0
        self._spent = {"starved": 0.0, "training": 0.0, "gated": 0.0}
        self._ages: list[int] = []
        self._busy_s, self._most_live = 0.0, 0

    def run(self) -> Forecast:
        flow = self._flow
        while not (flow.is_done and flow.is_published):
            self._decide()
            before, state = (
                self._now,
                "gated" if flow.is_gated else "training" if flow.is_training else "starved",
            )
            assert self._events, "nothing more will happen"
            self._now, _, happen = heapq.heappop(self._events)
            self._spent[state] += self._now - before
            happen()
        wall_s = self._now
        return Forecast(
            wall_s=wall_s,
            step_s=wall_s / self._rules.batches,
            trainer_idle=1 - self._spent["training"] / wall_s,
            gate_wait=self._spent["gated"] / wall_s,
            engine_busy=self._busy_s / wall_s / len(self._engines),
            age_mean=sum(self._ages) / max(len(self._ages), 1),
            age_max=max(self._ages, default=0),
            most_live=self._most_live,
        )

    def _decide(self) -> None:
        flow = self._flow
        if wanted := flow.num_wanted():
            new = range(self._issued, self._issued + wanted)
            self._issued += wanted
            flow.issue(new)
            self._zero_variance |= {
                group: self._rng.random() < self._latencies.zero_variance for group in new
            }
        for attempt in flow.release():
            self._first_version.setdefault(attempt.group, self._version)
            engine = self._engines[self._balance.place(attempt)]
            self._ask(_Row(attempt=attempt, engine=engine, extend=self._latencies.observed_tokens))
        self._most_live = max(self._most_live, flow.num_live)
        batch = flow.batch()
        if batch is not None:
            self._ages += [batch.number - self._first_version[group] for group in batch.groups]
            self._batch, self._left_s = batch, self._latencies.train_s
            self._forecast()

    def _forecast(self) -> None:
        """When the trainer will finish if the engines go on as they do now."""
        self._since, self._turn = self._now, self._turn + 1
        self._pace = (
            1 / self._latencies.slowdown if any(engine.is_running for engine in self._engines) else 1.0
        )
        self._later(self._left_s / self._pace, partial(self._done, self._turn))

    def _engines_changed(self) -> None:
        if self._batch is not None and self._latencies.slowdown > 1:
            self._left_s = max(self._left_s - (self._now - self._since) * self._pace, 0.0)
            self._forecast()

    def _done(self, turn: int) -> None:
        if turn == self._turn and self._batch is not None:
            batch, self._batch = self._batch, None
            self._trained(batch)

    def _later(self, delay_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + delay_s, next(self._order), happen))

    def _ask(self, row: _Row) -> None:
        row.left = self._latencies.turn_tokens
        row.engine.waiting.append(row)
        self._exchange(row.engine)

    def _exchange(self, engine: _Engine) -> None:
        if engine.is_running or not (engine.waiting or engine.rows):
            return
        latencies = self._latencies
        extended = sum(row.extend for row in engine.waiting)
        engine.rows += engine.waiting
        engine.waiting = []
        took_s = latencies.exchange_s + len(engine.rows) * latencies.row_s + extended * latencies.token_s
        took_s *= latencies.slowdown if self._batch is not None else 1.0
        self._busy_s += took_s
        engine.is_running = True
        self._engines_changed()
        self._later(took_s, partial(self._exchanged, engine))

    def _exchanged(self, engine: _Engine) -> None:
        engine.is_running = False
        self._engines_changed()
        for row in engine.rows:
            row.left -= self._latencies.decode_steps
            if row.left <= 0:
                self._later(self._wait_s(row.attempt, row.turns), partial(self._answered, row))
        engine.rows = [row for row in engine.rows if row.left > 0]
        if engine.must_pull is not None:
            self._pull(engine, engine.must_pull)
        else:
            self._exchange(engine)

    def _answered(self, row: _Row) -> None:
        row.turns += 1
        row.extend = self._latencies.observed_tokens
        if row.turns < self._latencies.turns:
            self._ask(row)
        else:
            self._balance.ended(
                row.attempt, row.turns * (self._latencies.turn_tokens + self._latencies.observed_tokens)
            )
            self._flow.finished(
                row.attempt, float(not self._zero_variance[row.attempt.group] and row.attempt.slot % 2)
            )

    def _drawn_s(self, attempt: AttemptId, call: int) -> float:
        del attempt, call
        return self._latencies.tool_s(self._rng)

    def _trained(self, batch: Batch) -> None:
        if self._to_pull:
            self._held = batch
            return
        self._flow.trained()
        self._to_pull = len(self._engines)
        for engine in self._engines:
            if engine.is_running:
                engine.must_pull = batch.number + 1
            else:
                self._pull(engine, batch.number + 1)

    def _pull(self, engine: _Engine, version: int) -> None:
        engine.must_pull, engine.is_running = None, True
        self._later(self._latencies.pull_s, partial(self._pulled, engine, version))

    def _pulled(self, engine: _Engine, version: int) -> None:
        engine.is_running = False
        self._engines_changed()
        self._to_pull -= 1
        if not self._to_pull:
            self._version = version
            self._flow.published(self._version)
            if self._held is not None:
                held, self._held = self._held, None
                self._trained(held)
        self._exchange(engine)
