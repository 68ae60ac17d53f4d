"""Plays the workload's episodes on engines of ours, distributed round robin."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from workload import TOOL_S, Turn  # type: ignore[import-not-found]

from agito.protocols import SampleRequest
from agito.sampling.continuous_batching import ContinuousBatching
from agito.sampling.wire import EngineClient

_STEPS = 4  # decode steps between two exchanges


@dataclass(frozen=True, slots=True)
class Said:
    """The tokens of one episode, and the log-probabilities of those that were sampled."""

    ids: list[int]
    logprobs: list[float | None]


async def play(engines: Sequence[EngineClient], work: Sequence[Sequence[Turn]]) -> list[Said]:
    """All episodes concurrently, until the last one has ended."""
    drivers = [ContinuousBatching(engine, steps=_STEPS) for engine in engines]
    found = [Said([], []) for _ in work]

    async def one(index: int, turns: Sequence[Turn]) -> None:
        row = drivers[index % len(drivers)].open(index)
        for turn in turns:
            request = SampleRequest(
                extend=array("i", turn.observed), max_tokens=turn.num_sampled, stop_ids=()
            )
            sampled = await row.sample(request)
            assert len(sampled.ids) == turn.num_sampled
            found[index].ids.extend((*turn.observed, *sampled.ids))
            found[index].logprobs.extend((*(None for _ in turn.observed), *sampled.logprobs))
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
    return found
