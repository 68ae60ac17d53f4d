"""Plays the workload's episodes on engines of ours, distributed round robin."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import anyio
from workload import TOOL_S, Turn  # type: ignore[import-not-found]

from agito.protocols import SampleRequest
from agito.sampling.continuous_batching import Freerun
from agito.sampling.wire import EngineClient

_STEPS = 4  # decode steps between two exchanges


async def play(engines: Sequence[EngineClient], work: Sequence[Sequence[Turn]]) -> None:
    """All episodes concurrently, until the last one has ended."""
    drivers = [Freerun(engine, steps=_STEPS) for engine in engines]

    async def one(index: int, turns: Sequence[Turn]) -> None:
        row = drivers[index % len(drivers)].open(index)
        for turn in turns:
            request = SampleRequest(
                extend=array("i", turn.observed), max_tokens=turn.num_sampled, stop_ids=()
            )
            assert len((await row.sample(request)).ids) == turn.num_sampled
            await anyio.sleep(TOOL_S)
        await row.close()

    async with anyio.create_task_group() as tasks:
        for driver in drivers:
            tasks.start_soon(driver.run)
        async with anyio.create_task_group() as acting:
            for index, turns in enumerate(work):
                acting.start_soon(one, index, turns)
        for driver in drivers:
            driver.stop()
