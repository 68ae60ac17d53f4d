"""Workers from outside: they start, learn together, and their death is noticed."""

from __future__ import annotations

import os
import random
import signal
import time
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.running import workers
from tests.runtime.conftest import VOCAB_SIZE, plan, sample

from agito.errors import AgitoError, CorruptCheckpoint, WorkerDied, WorkerFailed
from agito.protocols import SampleRequest
from agito.runtime.client import WorkerClient
from agito.runtime.local_process import Asking, PipeTransport, launch
from agito.runtime.pool import WorkerPool
from agito.runtime.remote import spread
from agito.runtime.roles import PolicyHandle
from agito.runtime.wire import BeginPhase, Done, LearnerRequest, LoadState, SftStep, Stepped
from agito.sampling.wire import EngineRequest, RowRequest
from agito.types import AttemptId, Sample

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(
    num_workers: int, silence_s: float = 300.0
) -> AsyncGenerator[tuple[WorkerPool, PolicyHandle]]:
    pool = WorkerPool(num_workers, silence_s=silence_s)
    try:
        yield pool, await pool.open("policy", plan())
    finally:
        await pool.aclose()


def children() -> set[int]:
    """Our worker processes."""
    return {pid for _, pid in workers(os.getpid())}


async def learn(num_workers: int, directory: Path) -> list[float]:
    batch = [sample(slot, 5 + 3 * slot) for slot in range(6)]
    async with opened(num_workers) as (_, policy):
        learner = policy.learner
        await learner.begin_phase("sft", 3, is_alone=True)
        losses = [stats.values["sft/loss_nats"] for stats in await learner.sft_step([batch])]
        await learner.join()
        losses += [stats.values["sft/loss_nats"] for stats in await learner.sft_step([batch] * 2)]
        await policy.publish(1)
        request = SampleRequest(extend=array("i", [5, 6]), max_tokens=4, stop_ids=(1,), temperature=1.0)
        exchange = EngineRequest(requests=(RowRequest(key=0, seed=1, request=request),), steps=8)
        answers = [await sampler.advance(exchange) for sampler in policy.samplers]
        said = [answer.done[0].sampled for answer in answers]
        assert all(each == said[0] and each is not None for each in said), "workers hold different weights"
        await learner.save(
            directory / f"step-{num_workers}", meta={"step": 1}, tokenizer={"tokenizer.json": "{}"}
        )
        with pytest.raises(CorruptCheckpoint):
            await learner.load(directory / "nothing")
    assert not children()
    assert (directory / f"step-{num_workers}" / "model.safetensors").exists()
    return losses


async def test_workers_that_join_learn_on_with_the_first_and_hold_the_same_weights(tmp_path: Path) -> None:
    alone, together = await learn(1, tmp_path), await learn(2, tmp_path)
    assert together == pytest.approx(alone, rel=1e-4)
    assert alone[-1] < alone[0]


async def test_two_policies_that_learn_at_once_in_the_same_workers_learn_what_each_learns_alone() -> None:
    plans = {"one": plan(), "other": plan(vocab_size=VOCAB_SIZE + 7, seed=8)}
    batches = [[sample(slot, 5 + 3 * slot, seed=number) for slot in range(6)] for number in range(4)]
    losses: dict[str, list[float]] = {}

    async def learn(policies: dict[str, PolicyHandle], name: str, called: str) -> None:
        await policies[name].learner.begin_phase("sft", 4)
        losses[called] = []
        for batch in batches:
            losses[called] += [
                stats.values["sft/loss_nats"] for stats in await policies[name].learner.sft_step([batch])
            ]

    async with opened(2) as (pool, _):
        policies = {name: await pool.open(name, each) for name, each in plans.items()}
        async with anyio.create_task_group() as tasks:
            for name in plans:
                tasks.start_soon(learn, policies, name, name)
        for name, each in plans.items():
            await learn({name: await pool.open(name, each)}, name, f"{name} alone")
    assert losses["one"] == losses["one alone"] != losses["other"] == losses["other alone"]


async def test_a_worker_that_is_killed_is_noticed_within_seconds() -> None:
    async with opened(2) as (_, policy):
        await policy.learner.begin_phase("sft", 3, is_alone=True)
        os.kill(min(children()), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match=r"SIGKILL|ended|failed"):
            await policy.learner.sft_step([[sample(slot, 8) for slot in range(4)]])
        assert time.monotonic() - began < 20
    assert not children()


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_worker_that_fails_because_another_was_killed_is_not_taken_for_the_cause(rank: int) -> None:
    async with opened(2) as (_, policy):

        async def kill() -> None:
            await anyio.sleep(0.05)
            os.kill(sorted(children())[rank], signal.SIGKILL)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            with pytest.raises(WorkerDied) as caught:
                while True:
                    await policy.learner.sync()
        assert not isinstance(caught.value, WorkerFailed), caught.value
    assert not children()


async def test_a_failure_inside_a_worker_says_what_failed() -> None:
    async with opened(1) as (_, policy):
        with pytest.raises(
            AgitoError, match=r"worker 0 failed in SftStep: .*no phase has begun|phase is None"
        ):
            await policy.learner.sft_step([[sample(0, 8)]])


def test_a_batch_is_spread_evenly_whatever_order_it_came_in() -> None:
    rng = random.Random(5)
    batch = [sample(slot, rng.randrange(4, 60)) for slot in range(40)]
    shares = spread(batch, 3)
    loads = [sum(len(each.ids) for each in share) for share in shares]
    assert sum(len(share) for share in shares) == 40
    assert max(loads) - min(loads) <= 60
    shuffled = rng.sample(batch, len(batch))
    assert [[each.attempt for each in share] for share in spread(shuffled, 3)] == [
        [each.attempt for each in share] for share in shares
    ]


def test_attempts_that_begin_alike_are_learned_from_by_the_same_worker_where_there_are_groups_enough() -> (
    None
):
    batch = [
        replace(sample(slot, 8 + slot % 5), attempt=AttemptId(group=slot // 4, slot=slot % 4))
        for slot in range(24)
    ]
    shares = spread(batch, 2, by_group=True)
    groups = [{each.attempt.group for each in share} for share in shares]
    assert not groups[0] & groups[1] and [len(share) for share in shares] == [12, 12]
    assert [len(share) for share in spread(batch[:4], 2, by_group=True)] == [2, 2]


class Heartbeat:
    """The longest stall of the event loop."""

    longest_s = 0.0

    async def run(self) -> None:
        last = time.monotonic()
        while True:
            await anyio.sleep(0.02)
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def link_of(worker: WorkerClient) -> Asking:
    assert isinstance(worker.transport, PipeTransport)
    return worker.transport.link


def sft_request(batches: list[list[Sample]]) -> SftStep:
    return SftStep(batches=tuple(map(tuple, batches)), num_tokens=(1,) * len(batches))


# more than any socket holds, in the request and in what the answer says of it
BIG = LoadState(directory=Path("x" * (1 << 24)))


@pytest.mark.parametrize("doing", ["nothing", "computing", "reading", "writing"])
async def test_a_worker_that_is_stopped_whatever_it_was_doing_is_named_in_time_and_the_loop_goes_on(
    doing: str,
) -> None:
    """The next request is not delayed, and it ends at once when the pool closes."""
    heartbeat, batch = Heartbeat(), [sample(slot, 60) for slot in range(64)]
    silence_s = 4.0 if doing == "writing" else 1.5  # on a busy machine the answer takes a while to begin
    async with opened(1, silence_s=silence_s) as (pool, policy), anyio.create_task_group() as tasks:
        await policy.learner.begin_phase("sft", 3, is_alone=True)
        (pid,), (worker,) = children(), pool.workers
        link = link_of(worker)
        is_time: Callable[[], bool] = {
            "nothing": lambda: True,
            "computing": lambda: not link._unsent and state(pid) == "R",  # pyright: ignore[reportPrivateUsage]
            "reading": lambda: 0 < len(link._unsent) < 1 << 24,  # pyright: ignore[reportPrivateUsage]
            "writing": lambda: len(link._unread) > 0,  # pyright: ignore[reportPrivateUsage]
        }[doing]

        async def stop() -> None:
            while not is_time():
                await anyio.lowlevel.checkpoint()
            os.kill(pid, signal.SIGSTOP)

        request: LearnerRequest = BIG
        if doing == "computing":
            request = sft_request([batch] * 50)
        if doing == "nothing":
            request = BeginPhase(phase="sft", total_steps=3)
            await stop()
        else:
            tasks.start_soon(stop)
        tasks.start_soon(heartbeat.run)
        with pytest.raises(
            WorkerDied, match=r"worker 0 has not answered \w+ for \d s: it is stopped"
        ) as caught:
            await worker.ask("policy", request, Stepped if doing == "computing" else Done)
        assert not isinstance(caught.value, WorkerFailed)
        began = time.monotonic()
        with pytest.raises(WorkerDied, match="has not answered"):
            await policy.publish(3)
        assert time.monotonic() - began < 0.5, "the next caller waited for a worker that was given up"
        assert heartbeat.longest_s < 0.7, f"the event loop stood still for {heartbeat.longest_s:.1f} s"
        tasks.cancel_scope.cancel()
        began = time.monotonic()
    assert time.monotonic() - began < 3, "it was given time to say goodbye"
    assert not children()


async def test_a_worker_that_is_stopped_and_goes_on_in_time_has_lost_nothing() -> None:
    async with opened(1, silence_s=60.0) as (_, policy), anyio.create_task_group() as tasks:
        await policy.learner.begin_phase("sft", 3, is_alone=True)
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        tasks.start_soon(_later, partial(os.kill, pid, signal.SIGCONT))
        batches = [[sample(slot, 60) for slot in range(64)]] * 40
        assert len(await policy.learner.sft_step(batches)) == 40


async def _later(act: Callable[[], object]) -> None:
    await anyio.sleep(0.2)
    act()


async def test_a_request_that_is_given_up_at_any_point_leaves_nothing_for_the_next() -> None:
    """Neither half a message nor an answer: each later request gets its own."""
    rng = random.Random(0)
    given_up = 0
    async with opened(1) as (pool, policy):
        await policy.learner.begin_phase("sft", 1000, is_alone=True)
        for _ in range(80):
            with anyio.move_on_after(rng.choice([0.0, 0.001, 0.003, 0.01])) as scope:
                with pytest.raises(CorruptCheckpoint):  # nothing is there, and the answer says so at length
                    await pool.workers[0].ask(
                        "policy", LoadState(directory=Path("x" * rng.randrange(1, 1 << 22))), Done
                    )
            given_up += scope.cancelled_caught
            num = rng.randrange(1, 9)
            assert len(await policy.learner.sft_step([[sample(0, 30)]] * num)) == num, (
                "it was given the answer to another request"
            )
    assert given_up > 20


async def test_a_worker_that_cannot_even_start_is_named() -> None:
    transport = launch(0)
    transport.process.kill()
    worker = WorkerClient(0, transport, 60.0)
    with pytest.raises(WorkerDied, match=r"worker 0 ended during BeginPhase \(signal SIGKILL\)"):
        await worker.ask("policy", BeginPhase(phase="sft", total_steps=3), Done)
    worker.close()
