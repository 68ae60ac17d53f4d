"""The order of completion outside changes nothing inside; requests to a dead engine fail."""

from __future__ import annotations

import random
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio
import anyio.lowlevel
import pytest
import torch

from agito.errors import WorkerDied
from agito.models import Qwen3, Qwen3Config
from agito.protocols import MAIN, Sampled, SampleRequest
from agito.sampling.capture import Capture
from agito.sampling.embedded import EmbeddedEngine
from agito.sampling.lockstep import Lane, Lockstep
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse, RowDone, RowRequest
from agito.testing import EngineContract
from agito.testing.random_rows import RandomUser, Said
from agito.types import FinishReason, span

pytestmark = pytest.mark.anyio
Advancing: TypeAlias = Callable[[EngineRequest], Awaitable[EngineResponse]]
STOP = 3


class Counting:
    """An engine whose tokens depend on when, and beside which rows, it was called: any change of order
    shows."""

    def __init__(self, *, dies_at: int = 1_000) -> None:
        self.exchanges: list[EngineRequest] = []
        self._under_way: list[tuple[int, RowRequest]] = []  # exchanges left
        self._dies_at = dies_at

    async def advance(self, exchange: EngineRequest) -> EngineResponse:
        self.exchanges.append(exchange)
        if len(self.exchanges) > self._dies_at:
            raise WorkerDied("worker 0 ended (signal SIGKILL)")
        self._under_way += [
            ((request.seed + request.request.extend[-1]) % 3, request) for request in exchange.requests
        ]
        done = [request for left, request in self._under_way if not left]
        self._under_way = [(left - 1, request) for left, request in self._under_way if left]
        answers = tuple(
            RowDone(key=request.key, sampled=self._say(request))
            for request in sorted(done, key=lambda each: each.key)
        )
        return EngineResponse(
            done=answers, live=len(self._under_way), steps=exchange.steps, forwarded=0, busy_s=0.0
        )

    def _say(self, request: RowRequest) -> Sampled:
        ids = array("i", [len(self.exchanges), len(self._under_way), STOP])
        versions = span(1, len(request.request.extend) + len(ids))
        return Sampled(
            ids=ids, logprobs=array("f", [-1.0] * len(ids)), stopped=FinishReason.END, versions=versions
        )


def new_engine() -> EmbeddedEngine:
    shape = Qwen3Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_position=128,
    )
    model = Qwen3(shape, seed=1)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3.0)
    return EmbeddedEngine(model, rows=3, context=96)


def embedded() -> Advancing:
    engine = new_engine()

    async def advance(exchange: EngineRequest) -> EngineResponse:
        await anyio.lowlevel.checkpoint()
        return engine.advance(exchange)

    return advance


async def dawdle(rng: random.Random) -> None:
    """A tool with arbitrary latency."""
    for _ in range(rng.randrange(12)):
        await anyio.lowlevel.checkpoint()


async def episodes(
    advance: Callable[[EngineRequest], Awaitable[EngineResponse]],
    *,
    delays: int,
    total: int = 9,
    live: int = 4,
) -> dict[int, tuple[object, ...]]:
    """`total` episodes of two to four turns, `live` at a time; returns all tokens."""
    rng = random.Random(delays)
    lockstep = Lockstep({MAIN: EngineClient(advance=advance, context=96)}, steps=3)
    found: dict[int, tuple[object, ...]] = {}
    barriers: list[list[int]] = []

    async def episode(lane: Lane) -> None:
        capture = Capture(lane.engines[MAIN], seed=lane.order, stop_ids=(STOP,))
        capture.extend([5, 6 + lane.order])
        for turn in range(2 + lane.order % 3):
            await capture.sample(max_tokens=6)
            await dawdle(rng)
            capture.extend([7 + turn, 8])
        tokens = capture.segment().tokens
        # NaN equals nothing
        found[lane.order] = (tokens.ids, tokens.logprobs.tobytes(), tokens.kinds, tokens.versions)
        await capture.close()
        await dawdle(rng)
        lane.finish()

    async with anyio.create_task_group() as tasks:

        async def on_barrier(orders: Sequence[int]) -> None:
            barriers.append(list(orders))
            for _ in orders:
                if lockstep_opened() < total:
                    start()

        def lockstep_opened() -> int:
            return len(started)

        started: list[int] = []

        def start() -> None:
            lane = lockstep.lane()
            started.append(lane.order)
            tasks.start_soon(episode, lane)

        for _ in range(live):
            start()
        await lockstep.run(on_barrier)
    assert all(orders == sorted(orders) for orders in barriers)
    assert sorted(order for orders in barriers for order in orders) == list(range(total))
    assert started == list(range(total))
    return found


@pytest.mark.parametrize("delays", [1, 2, 3, 4])
async def test_the_order_in_which_tools_end_changes_neither_exchanges_nor_tokens(delays: int) -> None:
    prompt, slow = Counting(), Counting()
    expected = await episodes(prompt.advance, delays=0)
    assert await episodes(slow.advance, delays=delays) == expected
    assert slow.exchanges == prompt.exchanges


@pytest.mark.parametrize("delays", [1, 2, 3])
async def test_the_order_in_which_tools_end_does_not_change_what_the_real_engine_samples(delays: int) -> None:
    assert await episodes(embedded(), delays=delays) == await episodes(embedded(), delays=0)


def ask(*extend: int) -> SampleRequest:
    return SampleRequest(extend=array("i", extend), max_tokens=4, stop_ids=(STOP,))


async def nobody(orders: Sequence[int]) -> None:
    return


async def test_an_engine_that_dies_wakes_everybody_who_waits_and_whoever_comes_later() -> None:
    lockstep = Lockstep({MAIN: EngineClient(advance=Counting(dies_at=2).advance, context=96)})
    told: list[int] = []

    async def episode(lane: Lane) -> None:
        row = lane.engines[MAIN].open(lane.order)
        try:
            for _ in range(50):
                await row.sample(ask(5, 6))
        except WorkerDied:
            told.append(lane.order)

    lanes = [lockstep.lane() for _ in range(6)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for lane in lanes:
                tasks.start_soon(episode, lane)
            with pytest.raises(WorkerDied, match="SIGKILL"):
                await lockstep.run(nobody)
    assert sorted(told) == list(range(6))
    with pytest.raises(WorkerDied):
        await lanes[0].engines[MAIN].open(1).sample(ask(5))


async def test_a_request_that_the_engine_refuses_is_a_value_error_for_its_episode_alone() -> None:
    lockstep = Lockstep({MAIN: EngineClient(advance=embedded(), context=96)})
    outcome: dict[int, str] = {}

    async def episode(lane: Lane, length: int) -> None:
        row = lane.engines[MAIN].open(lane.order)
        try:
            outcome[lane.order] = str((await row.sample(ask(*[5] * length))).stopped)
        except ValueError as error:
            outcome[lane.order] = f"refused: {error}"
        lane.finish()

    async with anyio.create_task_group() as tasks:
        for length in (4, 200, 4):
            tasks.start_soon(episode, lockstep.lane(), length)
        await lockstep.run(nobody)
    assert outcome[1].startswith("refused")
    assert not any(outcome[order].startswith("refused") for order in (0, 2))


async def test_closed_rows_reach_the_engine_once_and_idle_barriers_cost_no_exchange() -> None:
    engine = Counting()
    await episodes(engine.advance, delays=0)
    closed = [key for exchange in engine.exchanges for key in exchange.closed]
    assert len(closed) == len(set(closed)) == 9
    requested = [request.key for exchange in engine.exchanges for request in exchange.requests]
    assert set(requested) == set(closed)
    assert all(exchange.requests or exchange.closed or at for at, exchange in enumerate(engine.exchanges))


async def test_a_branch_reaches_the_engine_before_its_first_request() -> None:
    engine = Counting()
    lockstep = Lockstep({MAIN: EngineClient(advance=engine.advance, context=96)})

    async def episode(lane: Lane) -> None:
        row = lane.engines[MAIN].open(1)
        await row.sample(ask(5))
        twin = row.branch(2)
        await twin.sample(ask(6))
        await row.sample(ask(7))
        for each in (row, twin, twin):
            await each.close()
        lane.finish()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(episode, lockstep.lane())
        await lockstep.run(nobody)
    (branch,) = [branch for exchange in engine.exchanges for branch in exchange.branched]
    at = next(i for i, exchange in enumerate(engine.exchanges) if exchange.branched)
    assert [request.key for exchange in engine.exchanges[at:] for request in exchange.requests] == [
        branch.child,
        branch.parent,
    ]
    assert sorted(key for exchange in engine.exchanges for key in exchange.closed) == sorted(
        (branch.parent, branch.child)
    )


class Contract(EngineContract):
    vocab_size = 40


@pytest.mark.parametrize("seed", range(6))
async def test_attempts_that_treat_their_rows_in_any_order_leave_nothing_and_never_stop_one_another(
    seed: int,
) -> None:
    """Seven at a time, of up to five rows each, in an engine with room for three rows."""
    engine, exchanges = new_engine(), 0

    async def advance(exchange: EngineRequest) -> EngineResponse:
        nonlocal exchanges
        await anyio.lowlevel.checkpoint()
        exchanges += 1
        answer = engine.advance(exchange)
        assert answer.steps or answer.done or not answer.live, (
            "an exchange came to nothing, though somebody waits"
        )
        return answer

    lockstep, said = Lockstep({MAIN: EngineClient(advance=advance, context=96)}), list[Said]()

    async def episode(lane: Lane) -> None:
        rng = random.Random(f"{seed}/{lane.order}")
        user = RandomUser(Contract(), lane.engines[MAIN], rng)
        await user.run(keep=rng.randrange(3))  # whoever ends may have forgotten to close some
        said.extend(user.said)
        await dawdle(rng)
        lane.finish()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(7):
                tasks.start_soon(episode, lockstep.lane())
            await lockstep.run(nobody)
    assert engine.num_rows == 0
    assert exchanges < 2000
    alone = new_engine()
    for key, each in enumerate(said):
        request = SampleRequest(extend=array("i", each.past), max_tokens=len(each.sampled.ids), stop_ids=())
        answer = alone.advance(
            EngineRequest(
                requests=(RowRequest(key=key, seed=each.seed, request=request),), closed=(key - 1,), steps=9
            )
        )
        assert answer.done[0].sampled is not None and answer.done[0].sampled.ids == each.sampled.ids


async def test_a_request_that_is_given_up_before_it_was_sent_is_not_sent_and_its_attempt_ends_in_peace() -> (
    None
):
    engine = Counting()
    lockstep = Lockstep({MAIN: EngineClient(advance=engine.advance, context=96)})

    async def hasty(lane: Lane) -> None:
        row = lane.engines[MAIN].open(1)
        with anyio.move_on_after(0):
            await row.sample(ask(5))
        with pytest.raises(ValueError, match="closed"):
            await row.sample(ask(5))
        lane.finish()

    async def patient(lane: Lane) -> None:
        await dawdle(random.Random(1))
        await lane.engines[MAIN].open(2).sample(ask(6))
        lane.finish()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hasty, lockstep.lane())
        tasks.start_soon(patient, lockstep.lane())
        await lockstep.run(nobody)
    assert [request.seed for exchange in engine.exchanges for request in exchange.requests] == [2]
