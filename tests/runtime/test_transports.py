"""The same requests over every transport give the same answers, and the same weights, bit for bit."""

from __future__ import annotations

import json
import math
import pickle
import socket
import struct
import threading
from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread
import pytest
from tests.runtime.conftest import VOCAB_SIZE, plan, sample

from agito.errors import CorruptCheckpoint, WorkerDied, WorkerFailed
from agito.learning.trainer.config import TrainerConfig
from agito.protocols import SampleRequest
from agito.runtime.client import WorkerClient
from agito.runtime.local_process import Asking, launch
from agito.runtime.pool import WorkerPool
from agito.runtime.roles import Sampler
from agito.runtime.transport import Launch, ThreadTransport, Transport
from agito.runtime.wire import BeginPhase, Done, ExportWeights, Request, Response
from agito.runtime.worker import WorkerHandler
from agito.sampling.wire import EngineRequest, EngineResponse, RowRequest
from agito.types import VersionSpan, span

pytestmark = pytest.mark.anyio


def thread(rank: int) -> Transport:
    return ThreadTransport(WorkerHandler())


def other_machine(rank: int) -> Transport:
    """A worker that behaves as if it shared no memory with others."""
    return ThreadTransport(WorkerHandler(host="127.0.0.1"))


TRANSPORTS: dict[str, Launch] = {"pipes": launch, "threads": thread, "over the network": other_machine}


@asynccontextmanager
async def started(start: Launch, num_workers: int) -> AsyncGenerator[WorkerPool]:
    pool = WorkerPool(num_workers, start=start)
    try:
        yield pool
    finally:
        await pool.aclose()


@pytest.fixture(scope="module", params=list(TRANSPORTS.values()), ids=list(TRANSPORTS))
async def pool(anyio_backend: str, request: pytest.FixtureRequest) -> AsyncGenerator[WorkerPool]:
    """Two workers, which any number of policies may be opened in."""
    async with started(request.param, 2) as pool:
        yield pool


async def said(
    sampler: Sampler, key: int, *, num: int = 6
) -> tuple[list[int], list[float], tuple[VersionSpan, ...]]:
    request = SampleRequest(extend=array("i", [5, 6, 7]), max_tokens=num, stop_ids=(), temperature=1.0)
    found = (
        await sampler.advance(
            EngineRequest(
                closed=(key - 1,), requests=(RowRequest(key=key, seed=1, request=request),), steps=num
            )
        )
    ).done
    assert found[0].sampled is not None, found
    return list(found[0].sampled.ids), list(found[0].sampled.logprobs), found[0].sampled.versions


async def history(start: Launch, directory: Path) -> tuple[list[object], str]:
    """All responses in a short life of a learner with remote samplers, and the digest of its final
    weights."""
    batch = [sample(slot, 5 + 3 * slot) for slot in range(6)]
    answers: list[object] = []
    async with started(start, 2) as pool:
        policy = await pool.open("policy", plan(learns_alone=True))
        learner, (beside, apart) = policy.learner, policy.samplers
        await learner.begin_phase("sft", 4, is_alone=True)
        answers += [stats.values for stats in await learner.sft_step([batch, batch])]
        await policy.publish(1)
        answers += [await said(beside, 1), await said(apart, 1)]
        await learner.join()
        answers += [stats.values for stats in await learner.sft_step([batch])]
        await learner.begin_phase("rl", 2)
        await learner.push(2)
        ids, logprobs, _ = await said(apart, 2)
        tokens = array("i", [5, 6, 7, *ids])
        acted = replace(
            batch[0],
            ids=tokens,
            logprobs=array("f", [math.nan] * 3 + logprobs),
            trainable=bytes([0] * 3 + [1] * len(ids)),
            advantages=array("f", [0.0] * 3 + [1.0] * len(ids)),
            versions=(VersionSpan(start=0, stop=len(tokens), version=1),),
        )
        answers.append((await learner.step([acted], rate=0.5)).values)
        await learner.push(3)
        assert await apart.pull(3, keep_rows=True) >= 0
        answers.append(await said(apart, 3))
        with pytest.raises(CorruptCheckpoint):
            await learner.load(directory / "nothing")
        await learner.save(directory / "end", meta={"step": 1}, tokenizer={"tokenizer.json": "{}"})
        await learner.load(directory / "end")
    return answers, json.loads((directory / "end/manifest.json").read_text())["tensors"]


async def test_every_transport_gives_the_same_answers_and_the_same_weights(tmp_path: Path) -> None:
    found = [await history(start, tmp_path / str(number)) for number, start in enumerate(TRANSPORTS.values())]
    assert all(each == found[0] for each in found)
    answers = found[0][0]
    assert answers[2] == answers[3], "samplers beside the learner and apart hold the same weights"
    assert len(answers) == 7


async def test_two_policies_in_the_same_workers_have_nothing_in_common(pool: WorkerPool) -> None:
    """Policies share not even a vocabulary; training one leaves the other unchanged, and each counts its own
    versions."""
    one = await pool.open("one", plan(learns_alone=True))
    other = await pool.open("other", plan(vocab_size=VOCAB_SIZE - 9, seed=8, learns_alone=True))
    await one.publish(1)
    await other.publish(5)
    before, unmoved = await said(one.samplers[1], 1), await said(other.samplers[1], 1)
    assert before[2][0].version == 1 and unmoved[2][0].version == 5 and before[1] != unmoved[1]
    await one.learner.begin_phase("sft", 3)
    await one.learner.sft_step([[sample(slot, 9) for slot in range(4)]] * 3)
    await one.publish(6)
    assert (await said(one.samplers[1], 2))[1] != before[1]
    assert await said(other.samplers[1], 2) == unmoved
    with pytest.raises(WorkerFailed, match=r"come after 5"):
        await other.publish(5)


async def test_a_policy_that_is_opened_again_begins_anew(pool: WorkerPool) -> None:
    found: list[object] = []
    for seed in (3, 4, 3):
        policy = await pool.open("policy", plan(learns_alone=True, seed=seed))
        await policy.publish(1)
        found.append(await said(policy.samplers[1], 1))
    assert found[0] == found[2] != found[1]


async def test_what_is_not_open_or_not_there_yet_is_a_failure_of_that_request_alone(pool: WorkerPool) -> None:
    policy = await pool.open("policy", plan(learns_alone=True))
    with pytest.raises(
        WorkerFailed,
        match=r"worker 0 failed in BeginPhase: .*'nobody' is not open here; there are \[.*'policy'\]",
    ):
        await pool.workers[0].ask("nobody", BeginPhase(phase="sft", total_steps=1), Done)
    with pytest.raises(WorkerFailed, match="'policy' does not learn here"):
        await pool.workers[1].ask("policy", BeginPhase(phase="sft", total_steps=1), Done)
    for sampler in policy.samplers:
        with pytest.raises(WorkerFailed, match="version 1 are not in the channel"):
            await sampler.pull(1, keep_rows=True)
    await policy.learner.push(1)
    await policy.learner.begin_phase("sft", 3)
    await policy.learner.sft_step([[sample(0, 9)]])
    with pytest.raises(WorkerFailed, match="version 1 are not in the channel"):
        await policy.samplers[0].pull(1, keep_rows=True)  # beside a learner that has learned on
    await policy.samplers[1].pull(1, keep_rows=True)
    await policy.publish(2)


@pytest.mark.parametrize("start", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_a_worker_that_was_closed_is_gone_for_whoever_asks(start: Launch) -> None:
    async with started(start, 1) as pool:
        policy = await pool.open("policy", plan())
        pool.workers[0].close()
        with pytest.raises(WorkerDied, match="worker 0 ended during PushWeights"):
            await policy.publish(1)


@dataclass
class Reciting:
    """The other end of a socket: it answers each request with the next of its lines."""

    lines: list[Callable[[Request], object]]

    def run(self, link: socket.socket) -> None:
        with link.makefile("rb") as file:
            for line in self.lines:
                number, size = struct.unpack("<QQ", file.read(16))
                answer = line(pickle.loads(file.read(size)))
                data = answer if isinstance(answer, bytes) else pickle.dumps(answer)
                link.sendall(struct.pack("<QQ", number, len(data)) + data)


class Talkative(ThreadTransport):
    """A worker on a socket of which only one side is ours."""

    def __init__(self, link: socket.socket) -> None:
        super().__init__(WorkerHandler())
        self._link = Asking(link)

    async def ask(self, request: Request) -> Response:
        return await self._link.ask(request)


async def test_an_answer_that_cannot_be_read_is_a_failure_of_that_request_alone() -> None:
    ours, theirs = socket.socketpair()
    lines: list[Callable[[Request], object]] = [
        lambda request: b"no pickle",
        lambda request: pickle.dumps("no response"),
        lambda request: Response(id=request.id, body=Done()),
    ]
    other = threading.Thread(target=Reciting(lines).run, args=(theirs,))
    other.start()
    with ours, theirs:
        worker, request = WorkerClient(0, Talkative(ours), 60.0), BeginPhase(phase="sft", total_steps=1)
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="worker 0, BeginPhase: its answer cannot be read"):
                await worker.ask("policy", request, Done)
        assert await worker.ask("policy", request, Done) == Done()
        await anyio.to_thread.run_sync(other.join)


async def test_an_answer_of_another_kind_is_a_failure() -> None:
    ours, theirs = socket.socketpair()
    other = threading.Thread(
        target=Reciting([lambda request: Response(id=request.id, body=Done())]).run, args=(theirs,)
    )
    other.start()
    with ours, theirs, pytest.raises(WorkerFailed, match="EngineRequest was answered by Done"):
        await WorkerClient(0, Talkative(ours), 60.0).ask("policy", EngineRequest(), EngineResponse)
    other.join()


async def test_every_rank_knows_the_version_of_weights_that_were_written_for_a_server(tmp_path: Path) -> None:
    """One that did not would refuse the tokens of that version as newer than itself."""
    request = ExportWeights(
        directory=tmp_path, name="main", version=7, is_adapter=False, text=array("i", [5, 6, 7])
    )
    sampled = [
        replace(each, logprobs=array("f", [-3.0] * 9), versions=span(7, 9))
        for each in (sample(slot, 9) for slot in range(4))
    ]
    async with started(launch, 2) as pool:
        quiet = TrainerConfig(muon_dtype="float32", check_on_policy=False)  # made-up numbers
        policy = await pool.open("main", replace(plan(), trainer=quiet, is_sampled_here=False))
        await policy.learner.begin_phase("rl", 2)
        assert (await policy.learner.export(request)).path.is_file()
        assert (await policy.learner.step(sampled)).values["policy/age_max_versions"] == 0
