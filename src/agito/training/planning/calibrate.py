"""Measures latencies on this machine: the decoupled loop with real engine and trainer, on a world that only
waits."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agito.protocols import MAIN, Environment
from agito.recipe import Recipe
from agito.render import learn
from agito.runtime.roles import PolicyHandle, Sampler
from agito.runtime.run_context import RunContext
from agito.sampling.wire import EngineRequest, EngineResponse, ScoreRequest, ScoreResponse
from agito.scheduling.curriculum import Curriculum
from agito.testing.relay import Relay
from agito.training import async_loop
from agito.training.loop import Step
from agito.training.planning.simulate import Latencies

_WARM_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCall:
    """One request to an engine and its response."""

    rows: int
    extended: int  # tokens
    busy_s: float  # inside the engine
    wall_s: float  # until the response arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one warm run of the loop showed."""

    steps: tuple[Step, ...]
    exchanges: tuple[EngineCall, ...]
    wall_s: float
    cpu_s: float  # of this process and its workers

    @property
    def engine_s(self) -> float:
        """Engine seconds per step, over all engines."""
        return sum(exchange.busy_s for exchange in self.exchanges) / len(self.steps)

    @property
    def train_s(self) -> float:
        return statistics.fmean(step.metrics["time/train_s"] for step in self.steps)

    def latencies(
        self, *, turns: int, turn_tokens: int, decode_steps: int, tool_median_s: float, tool_p99_s: float
    ) -> Latencies:
        """Latencies for a simulation; a least-squares fit gives the costs of an exchange."""
        costs = [(1.0, float(exchange.rows), float(exchange.extended)) for exchange in self.exchanges]
        fit, *_ = np.linalg.lstsq(
            np.array(costs), np.array([exchange.wall_s for exchange in self.exchanges]), rcond=None
        )
        each_s, row_s, token_s = (max(float(value), 0.0) for value in fit)
        groups = [group for step in self.steps for group in step.groups]
        lengths = [
            len(attempt.trajectory.segments[0].tokens.ids) for group in groups for attempt in group.attempts
        ]
        return Latencies(
            exchange_s=each_s,
            row_s=row_s,
            token_s=token_s,
            train_s=self.train_s,
            turns=turns,
            turn_tokens=turn_tokens,
            decode_steps=decode_steps,
            observed_tokens=max(round(statistics.fmean(lengths) / turns - turn_tokens), 1),
            tool_median_s=tool_median_s,
            tool_p99_s=tool_p99_s,
            zero_variance=sum(not group.has_variance for group in groups) / len(groups),
        )


async def measure(recipe: Recipe, environment: Environment, *, steps: int) -> Measurement:
    """Runs `steps` steps of the recipe's overlapped loop from random weights, after two warm-up steps. Raises
    `WorkerDied`."""
    run_context = RunContext(recipe, environment)
    words = ["relay " + " ".join(f"word{number}" for number in range(7))] * 20
    run_context.policies.use_vocabulary(learn(words, size=recipe.model.vocab_size))
    exchanges, found, versions = list[EngineCall](), list[Step](), itertools.count(1)

    async def on_step(step: Step, position: async_loop.Position) -> None:
        found.append(step)

    async def train(num: int) -> float:
        run_context.recipe = recipe.model_copy(update={"rl": recipe.rl.model_copy(update={"steps": num})})
        began = time.monotonic()
        curriculum, position = Curriculum(len(run_context.cells)), async_loop.Position()
        await async_loop.train(
            run_context,
            curriculum,
            start=0,
            position=position,
            on_step=on_step,
            new_version=lambda: next(versions),
        )
        return time.monotonic() - began

    try:
        policies = run_context.policies
        await policies.open()
        main = policies.main
        assert isinstance(main, PolicyHandle), "an engine of ours is measured"
        timed = tuple(_Timed(sampler, exchanges) for sampler in main.samplers)
        policies.register(MAIN, replace(main, samplers=timed))
        await train(_WARM_STEPS)
        found.clear()
        exchanges.clear()
        before_s = _cpu_s()
        wall_s = await train(steps)
        cpu_s = _cpu_s() - before_s
    finally:
        await run_context.policies.aclose()
    return Measurement(steps=tuple(found), exchanges=tuple(exchanges), wall_s=wall_s, cpu_s=cpu_s)


async def calibrate(
    recipe: Recipe, *, turns: int, turn_tokens: int, words: int, tool_median_s: float, tool_p99_s: float
) -> Latencies:
    """Latencies for the recipe's sizes on this machine. Roles run alternately and then concurrently, to
    measure how much they slow each other down. Tool latencies are taken as given. Raises `WorkerDied`."""

    async def seen(staleness: int, steps: int) -> Measurement:
        section = recipe.pipeline.model_copy(update={"mode": "decoupled", "max_staleness": staleness})
        rl = recipe.rl.model_copy(update={"oversampling": 1.0, "adaptive_sampling": False})
        world = Relay(turns=turns, turn_tokens=turn_tokens, words=words)
        return await measure(recipe.model_copy(update={"pipeline": section, "rl": rl}), world, steps=steps)

    alone, together = await seen(0, 4), await seen(2, 8)
    latencies = alone.latencies(
        turns=turns,
        turn_tokens=turn_tokens,
        decode_steps=recipe.compute.decode_steps,
        tool_median_s=tool_median_s,
        tool_p99_s=tool_p99_s,
    )
    return replace(latencies, slowdown=slowdown(alone, together))


def slowdown(alone: Measurement, together: Measurement) -> float:
    """c: slowdown factor while the other role runs, from T_alone = T (1 - b) + T b / c for a batch that takes
    T while engines are busy for the share b of it. b comes from whole steps; steps with nearly idle engines
    are left out."""
    crowded = [step.metrics for step in together.steps if step.metrics["engine/busy_ratio"] > 0.2]
    if not crowded:
        return 1.0
    busy = statistics.fmean(metrics["engine/busy_ratio"] for metrics in crowded)
    faster = alone.train_s / statistics.fmean(metrics["time/train_s"] for metrics in crowded)
    return 1 / min(max(1 - (1 - faster) / busy, 0.25), 1.0)


class _Timed:
    """A sampler that records its exchanges."""

    def __init__(self, sampler: Sampler, exchanges: list[EngineCall]) -> None:
        self._sampler, self._exchanges, self._live = sampler, exchanges, 0

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        return await self._sampler.score(request)

    async def advance(self, exchange: EngineRequest) -> EngineResponse:
        rows, extended = (
            self._live + len(exchange.requests),
            sum(len(request.request.extend) for request in exchange.requests),
        )
        began = time.monotonic()
        answer = await self._sampler.advance(exchange)
        self._live = answer.live
        self._exchanges.append(
            EngineCall(rows=rows, extended=extended, busy_s=answer.busy_s, wall_s=time.monotonic() - began)
        )
        return answer

    async def pull(self, version: int, *, keep_rows: bool) -> float:
        return await self._sampler.pull(version, keep_rows=keep_rows)


def _cpu_s() -> float:
    """Of this process and its live children."""
    total, me = 0.0, str(os.getpid())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == me or stat.parent.name == me:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
