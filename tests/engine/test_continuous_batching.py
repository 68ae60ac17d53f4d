"""Rows that come and go freely: an idle engine is not called, and waiters learn of failures."""

from __future__ import annotations

from array import array

import anyio
import anyio.lowlevel
import pytest
from tests.engine.test_lockstep import Counting, ask, new_engine

from agito.errors import WorkerDied
from agito.protocols import Row, SampleRequest
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse

pytestmark = pytest.mark.anyio


async def test_an_engine_is_asked_only_while_somebody_waits_though_resting_rows_take_every_place() -> None:
    engine, exchanges = new_engine(), 0

    async def advance(exchange: EngineRequest) -> EngineResponse:
        nonlocal exchanges
        await anyio.lowlevel.checkpoint()
        exchanges += 1
        return engine.advance(exchange)

    free = ContinuousBatching(EngineClient(advance=advance, context=96))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(free.run)
        rows = [free.open(seed) for seed in range(5)]  # there is room for three
        for row in rows:
            await row.sample(ask(5))
        before = exchanges
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        assert exchanges == before
        await rows[0].sample(ask(6))
        for row in rows:
            await row.close()
        await free.open(9).sample(ask(5))
        assert engine.num_rows == 1
        free.stop()


async def test_an_engine_hears_of_a_row_that_ended_as_it_was_stopped() -> None:
    """Else the next one that uses its number would go on behind what it held."""
    engine, asked = new_engine(), anyio.Event()

    async def advance(exchange: EngineRequest) -> EngineResponse:
        answer = engine.advance(exchange)
        asked.set()
        await anyio.sleep(0.05)
        return answer

    free = ContinuousBatching(EngineClient(advance=advance, context=96))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(free.run)
        rows = [free.open(seed) for seed in range(2)]
        await rows[0].sample(ask(5))
        asked = anyio.Event()
        tasks.start_soon(rows[1].sample, ask(5))
        await asked.wait()
        await rows[0].close()  # while an exchange is under way
        free.stop()
    assert engine.num_rows == 1


async def test_whoever_samples_a_row_that_another_closes_is_told() -> None:
    told: list[str] = []
    free = ContinuousBatching(EngineClient(advance=Counting().advance, context=96))

    async def sample(row: Row) -> None:
        with pytest.raises(ValueError, match="closed") as caught:
            await row.sample(SampleRequest(extend=array("i", [5]), max_tokens=4, stop_ids=()))
        told.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        row = free.open(2)
        tasks.start_soon(sample, row)
        await anyio.lowlevel.checkpoint()
        await row.close()
        tasks.start_soon(free.run)
        while not told:
            await anyio.lowlevel.checkpoint()
        free.stop()


async def test_an_engine_that_dies_tells_whoever_waits_and_whoever_comes_later() -> None:
    free = ContinuousBatching(EngineClient(advance=Counting(dies_at=0).advance, context=96))
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(free.run)
            await free.open(1).sample(ask(5))
    assert caught.group_contains(WorkerDied, match="SIGKILL")
    with pytest.raises(WorkerDied, match="stopped"):
        await free.open(2).sample(ask(5))
