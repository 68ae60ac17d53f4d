"""The torch processes from outside: they start, they learn together, and their death is noticed."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agito.compute import Compute, spread
from agito.engine.wire import Advance, RowRequest
from agito.errors import AgitoError, CorruptCheckpoint, WorkerDied, WorkerFailed
from agito.protocols import SampleRequest
from agito.trainer.config import TrainerConfig
from agito.types import AttemptId, Sample, span

pytestmark = pytest.mark.anyio
MODEL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8,
    "max_position": 64,
}  # fmt: skip


def sample(slot: int, length: int, *, seed: int = 0) -> Sample:
    rng = random.Random(f"{seed}/{slot}")
    return Sample(
        attempt=AttemptId(group=0, slot=slot), segment=0, ids=array("i", [rng.randrange(40) for _ in range(length)]),
        logprobs=array("f", [math.nan] * length), trainable=bytes([0] + [1] * (length - 1)), advantages=array("f", [0.0] * length),
        versions=span(0, length),
    )  # fmt: skip


@asynccontextmanager
async def compute(ranks: int, silence_s: float = 300.0) -> AsyncGenerator[Compute]:
    settings = TrainerConfig(muon_dtype="float32").model_dump(mode="json")
    opened = Compute.start(ranks=ranks, context=64, silence_s=silence_s)
    try:
        await opened.setup(rows=4, device="cpu", seed=3, model=MODEL, trainer=settings)
        yield opened
    finally:
        await opened.aclose()


def children() -> set[int]:
    """Our worker processes, by their command line."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            is_ours = int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if is_ours and b"agito.worker" in command:
            found.add(int(stat.parent.name))
    return found


async def learn(ranks: int, directory: Path) -> list[float]:
    batch = [sample(slot, 5 + 3 * slot) for slot in range(6)]
    async with compute(ranks) as opened:
        await opened.begin_imitation(3)
        losses = [stats.values["sft/loss_nats"] for stats in await opened.imitate([batch])]
        await opened.join_imitation()
        losses += [stats.values["sft/loss_nats"] for stats in await opened.imitate([batch] * 2)]
        await opened.publish(1)
        request = SampleRequest(extend=array("i", [5, 6]), max_tokens=4, stop_ids=(1,), temperature=1.0)
        exchange = Advance(requests=(RowRequest(key=0, seed=1, request=request),), steps=8)
        answers = [await opened.advance(rank, exchange) for rank in range(ranks)]
        said = [answer.done[0].sampled for answer in answers]
        assert all(each == said[0] and each is not None for each in said), "ranks hold different weights"
        await opened.save(directory / f"step-{ranks}", meta={"step": 1}, tokenizer={"tokenizer.json": "{}"})
        with pytest.raises(CorruptCheckpoint):
            await opened.load(directory / "nothing")
    assert not children()
    assert (directory / f"step-{ranks}" / "model.safetensors").exists()
    return losses


async def test_ranks_that_join_learn_on_with_the_first_and_hold_the_same_weights(tmp_path: Path) -> None:
    alone, together = await learn(1, tmp_path), await learn(2, tmp_path)
    assert together == pytest.approx(alone, rel=1e-4)
    assert alone[-1] < alone[0]


async def test_a_worker_that_is_killed_is_noticed_within_seconds() -> None:
    async with compute(2) as opened:
        await opened.begin_imitation(3)
        os.kill(min(children()), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match=r"SIGKILL|ended|failed"):
            await opened.imitate([[sample(slot, 8) for slot in range(4)]])
        assert time.monotonic() - began < 20
    assert not children()


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_rank_that_fails_because_another_was_killed_is_not_taken_for_the_cause(rank: int) -> None:
    async with compute(2) as opened:

        async def kill() -> None:
            await anyio.sleep(0.05)
            os.kill(sorted(children())[rank], signal.SIGKILL)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            with pytest.raises(WorkerDied) as caught:
                while True:
                    await opened.share()
        assert not isinstance(caught.value, WorkerFailed), caught.value
    assert not children()


async def test_a_failure_inside_a_worker_says_what_failed() -> None:
    async with compute(1) as opened:
        with pytest.raises(AgitoError, match=r"worker 0 failed in imitate: .*no phase has begun|phase is None"):
            await opened.imitate([[sample(0, 8)]])


def test_a_batch_is_spread_evenly_whatever_order_it_came_in() -> None:
    rng = random.Random(5)
    batch = [sample(slot, rng.randrange(4, 60)) for slot in range(40)]
    shares = spread(batch, 3)
    loads = [sum(len(each.ids) for each in share) for share in shares]
    assert sum(len(share) for share in shares) == 40
    assert max(loads) - min(loads) <= 60
    shuffled = rng.sample(batch, len(batch))
    assert [[each.attempt for each in share] for share in spread(shuffled, 3)] == [[each.attempt for each in share] for share in shares]


class Heartbeat:
    """How long the event loop ever stood still."""

    longest_s = 0.0

    async def run(self) -> None:
        last = time.monotonic()
        while True:
            await anyio.sleep(0.02)
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


BIG = "x" * (1 << 24)  # more than any socket holds: as the name of a method, it is in the message and in the answer


@pytest.mark.parametrize("doing", ["nothing", "computing", "reading", "writing"])
async def test_a_worker_that_is_stopped_whatever_it_was_doing_is_named_in_time_and_the_loop_goes_on(doing: str) -> None:
    """And whoever calls next is not kept waiting, and it is gone at once when the rest is closed."""
    heartbeat, batch = Heartbeat(), [sample(slot, 60) for slot in range(64)]
    async with compute(1, silence_s=1.5) as opened, anyio.create_task_group() as tasks:
        await opened.begin_imitation(3)
        (pid,) = children()
        worker = opened._workers[0]  # pyright: ignore[reportPrivateUsage]
        channel = worker._channel  # pyright: ignore[reportPrivateUsage]
        is_time: Callable[[], bool] = {
            "nothing": lambda: True,
            "computing": lambda: not channel._unsent and state(pid) == "R",  # pyright: ignore[reportPrivateUsage]
            "reading": lambda: 0 < len(channel._unsent) < len(BIG),  # pyright: ignore[reportPrivateUsage]
            "writing": lambda: len(channel._unread) > 0,  # pyright: ignore[reportPrivateUsage]
        }[doing]

        async def stop() -> None:
            while not is_time():
                await anyio.lowlevel.checkpoint()
            os.kill(pid, signal.SIGSTOP)

        asked: tuple[Any, ...] = (
            ("imitate", [batch] * 50, [1] * 50) if doing == "computing" else ("begin_imitation", 3) if doing == "nothing" else (BIG,)
        )
        if doing == "nothing":
            await stop()
        else:
            tasks.start_soon(stop)
        tasks.start_soon(heartbeat.run)
        with pytest.raises(WorkerDied, match=r"worker 0 has not answered \w+ for 2 s: it is stopped") as caught:
            await worker.call(*asked)
        assert not isinstance(caught.value, WorkerFailed)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match="has not answered"):
            await opened.publish(3)
        assert time.monotonic() - began < 0.5, "the next caller waited for a worker that was given up"
        assert heartbeat.longest_s < 0.7, f"the event loop stood still for {heartbeat.longest_s:.1f} s"
        tasks.cancel_scope.cancel()
        began = time.monotonic()
    assert time.monotonic() - began < 3, "it was given time to say goodbye"
    assert not children()


async def test_a_worker_that_is_stopped_and_goes_on_in_time_has_lost_nothing() -> None:
    async with compute(1, silence_s=60.0) as opened, anyio.create_task_group() as tasks:
        await opened.begin_imitation(3)
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        tasks.start_soon(_later, partial(os.kill, pid, signal.SIGCONT))
        batches = [[sample(slot, 60) for slot in range(64)]] * 40
        assert len(await opened.imitate(batches)) == 40


async def _later(act: Callable[[], object]) -> None:
    await anyio.sleep(0.2)
    act()


@pytest.mark.parametrize("seed", range(3))
async def test_a_call_that_is_given_up_at_any_point_leaves_nothing_for_the_next(seed: int) -> None:
    """Neither half a message nor an answer: each later call gets its own."""
    rng = random.Random(seed)
    given_up = 0
    async with compute(1) as opened:
        await opened.begin_imitation(1000)
        worker = opened._workers[0]  # pyright: ignore[reportPrivateUsage]
        for _ in range(40):
            with anyio.move_on_after(rng.choice([0.0, 0.001, 0.003, 0.01])) as scope:
                with suppress(WorkerFailed):  # there is no such method, and the answer says so at length
                    await worker.call("x" * rng.randrange(1, 1 << 22))
            given_up += scope.cancelled_caught
            num = rng.randrange(1, 9)
            assert len(await opened.imitate([[sample(0, 30)]] * num)) == num, "it was given the answer to another call"
    assert given_up > 10


async def test_an_answer_that_cannot_be_read_is_a_failure_of_that_call_alone() -> None:
    async with compute(1) as opened:
        with pytest.raises(WorkerFailed, match="cannot be read"):
            await opened._workers[0].call("__reduce_ex__", 4)  # pyright: ignore[reportPrivateUsage]
        await opened.begin_imitation(3)
