"""Many attempts on batching engines, one per policy, in an order that depends on content and never on the
clock.

Each attempt has a lane, and an exchange is one call to the engine. One exchange after its turn was answered,
a lane is due: the engine waits for it, however long its tool takes, so that it re-enters at a fixed decode
step. Meanwhile others decode. Slow tools stall this driver; `pipeline.mode` `concurrent` and `decoupled`
sample through `continuous_batching.py` instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from agito.concurrency import first_error
from agito.errors import WorkerDied
from agito.protocols import Engine, Row, Sampled, SampleRequest
from agito.sampling.row_states import Handle
from agito.sampling.wire import EngineClient, EngineRequest, EngineResponse, RowBranch, RowRequest

_MAX_ROWS_PER_LANE = 1 << 10  # of one lane


@dataclass(slots=True)
class _LaneState:
    order: int
    due: int
    num_rows: int = 0
    is_acting: bool = True  # whether world, harness or grader is at work
    is_finished: bool = False
    request: RowRequest | None = None
    policies: dict[int, str] = field(default_factory=dict[int, str])  # of every row
    # Rows that an engine has, or is about to have.
    open: dict[int, None] = field(default_factory=dict[int, None])
    closed: list[int] = field(default_factory=list[int])
    branched: list[RowBranch] = field(default_factory=list[RowBranch])
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    answer: Sampled | str | None = None
    answered: anyio.Event = field(default_factory=anyio.Event)


class Lane:
    """The engines of one attempt. One request runs at a time; further ones queue."""

    def __init__(self, lockstep: Lockstep, state: _LaneState) -> None:
        self._lockstep, self._state = lockstep, state
        self.engines: Mapping[str, Engine] = {
            policy: _LaneEngine(lockstep, state, policy) for policy in lockstep.clients
        }

    @property
    def order(self) -> int:
        return self._state.order

    def finish(self) -> None:
        """Marks the attempt as over, including its verdict, and closes its rows. Idempotent."""
        lane = self._state
        lane.is_finished = True
        if lane.request is not None:  # its waiter would never be answered
            lane.request, lane.answer = None, "the attempt is over"
            lane.answered.set()
        lane.closed += lane.open
        lane.open.clear()
        self._lockstep.settle(lane)


class _LaneEngine:
    """The engine of one policy."""

    def __init__(self, lockstep: Lockstep, lane: _LaneState, policy: str) -> None:
        self._lockstep, self._lane, self._policy = lockstep, lane, policy
        self.context = lockstep.clients[policy].context

    def open(self, seed: int) -> Row:
        return _LaneRow(self._lockstep, self._lane, self._policy, seed)


class _LaneRow(Handle):
    def __init__(
        self, lockstep: Lockstep, lane: _LaneState, policy: str, seed: int, *, is_known: bool = False
    ) -> None:
        """Raises `ValueError` for too many rows."""
        super().__init__(is_known=is_known)
        if lane.num_rows >= _MAX_ROWS_PER_LANE:
            raise ValueError(f"this attempt has opened {_MAX_ROWS_PER_LANE} rows: no more fit into one lane")
        self._lockstep, self._lane, self._policy, self._seed = lockstep, lane, policy, seed
        self._key = lane.order * _MAX_ROWS_PER_LANE + lane.num_rows
        lane.num_rows += 1
        lane.policies[self._key] = policy
        if is_known:
            lane.open[self._key] = None

    async def _sample(self, request: SampleRequest) -> Sampled:
        lane = self._lane
        async with lane.turn:
            while not (lane.is_acting or self._lockstep.is_dead):
                await lane.answered.wait()  # waits for an abandoned request
            if self._lockstep.is_dead:
                raise WorkerDied("the engine has stopped")
            if lane.is_finished:
                raise ValueError("the attempt is over")
            lane.request = RowRequest(key=self._key, seed=self._seed, request=request)
            lane.open[self._key] = None
            lane.answer, lane.answered = None, anyio.Event()
            self._lockstep.settle(lane)
            try:
                await lane.answered.wait()
            except BaseException:
                lane.request = None  # unless it has reached the engine
                raise
            answer = self._lane.answer
        if answer is None:
            raise WorkerDied("the engine stopped while this attempt was waiting for it")
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer

    def _open(self, seed: int) -> Row:
        return _LaneRow(self._lockstep, self._lane, self._policy, seed)

    def _branch(self, seed: int) -> Row:
        if self._lane.is_finished:
            raise ValueError("the attempt is over")
        child = _LaneRow(self._lockstep, self._lane, self._policy, seed, is_known=True)
        self._lane.branched.append(RowBranch(parent=self._key, child=child._key))
        return child

    def _close(self) -> None:
        if self._lane.open.pop(self._key, self._key) is None:
            self._lane.closed.append(self._key)


class Lockstep:
    """Drives the engines of `clients`, by policy, until every lane has finished. All advance `steps` decode
    steps at a time."""

    def __init__(self, clients: Mapping[str, EngineClient], *, steps: int = 4, lag: int = 1) -> None:
        self.clients = clients
        self._steps, self._lag = steps, lag
        self._lanes: dict[int, _LaneState] = {}
        self._num_opened = 0
        self._index = 0
        self._settled = anyio.Event()
        self.is_dead = False  # `run` failed: no request will be answered
        self.busy_s = 0.0
        self.decode_steps = self.forwarded = 0

    def lane(self) -> Lane:
        """The order of these calls determines what is sampled."""
        state = _LaneState(order=self._num_opened, due=self._index)
        self._num_opened += 1
        self._lanes[state.order] = state
        return Lane(self, state)

    def settle(self, lane: _LaneState) -> None:
        self._settled.set()

    async def run(self, on_barrier: Callable[[Sequence[int]], Awaitable[None]]) -> None:
        """Awaits `on_barrier(orders)` with the orders of newly finished lanes; it may open new ones. Raises
        what a client raises."""
        live = 0
        try:
            while self._lanes:
                if not live:  # nobody decodes: go straight to the next due lane
                    self._index = max(
                        self._index, min(lane.due for lane in self._lanes.values() if lane.is_acting)
                    )
                due = await self._barrier(on_barrier)
                if not self._lanes and not any(lane.closed for lane in due):
                    return
                exchanges = {policy: self._exchange(policy, due) for policy in self.clients}
                for lane in due:
                    lane.is_acting = lane.request is None and not lane.is_finished
                    lane.request = None
                    lane.closed, lane.branched = [], []
                answers = await self._advance(exchanges)
                live = sum(advanced.live for advanced in answers)
                self._index += 1
                for advanced in answers:
                    self._deliver(advanced)
        except BaseException:
            self.is_dead = True
            raise
        finally:
            for lane in self._lanes.values():
                lane.answered.set()

    def _exchange(self, policy: str, due: Sequence[_LaneState]) -> EngineRequest:
        """The lanes' requests to one policy's engine."""
        return EngineRequest(
            closed=tuple(key for lane in due for key in lane.closed if lane.policies[key] == policy),
            branched=tuple(
                branch for lane in due for branch in lane.branched if lane.policies[branch.child] == policy
            ),
            requests=tuple(
                lane.request
                for lane in due
                if lane.request is not None and lane.policies[lane.request.key] == policy
            ),
            steps=self._steps,
        )

    async def _advance(self, exchanges: Mapping[str, EngineRequest]) -> list[EngineResponse]:
        """One exchange with every engine, concurrently; answers in the order of the clients."""
        if len(exchanges) == 1:
            return [await self.clients[policy].advance(exchange) for policy, exchange in exchanges.items()]
        answers: dict[str, EngineResponse] = {}

        async def ask(policy: str, exchange: EngineRequest) -> None:
            answers[policy] = await self.clients[policy].advance(exchange)

        try:
            async with anyio.create_task_group() as tasks:
                for policy, exchange in exchanges.items():
                    tasks.start_soon(ask, policy, exchange)
        except BaseExceptionGroup as group:
            raise first_error(group) from None
        return [answers[policy] for policy in exchanges]

    async def _barrier(self, on_barrier: Callable[[Sequence[int]], Awaitable[None]]) -> list[_LaneState]:
        """Waits for every due lane to ask or finish; returns them in order and forgets the finished ones."""
        finished: list[_LaneState] = []
        while True:
            due = [lane for lane in self._lanes.values() if lane.is_acting and lane.due <= self._index]
            waiting = [lane for lane in due if lane.request is None and not lane.is_finished]
            if waiting:
                self._settled = anyio.Event()
                await self._settled.wait()
                continue
            over = [lane for lane in due if lane.is_finished]
            if not over:
                return sorted([*due, *finished], key=lambda lane: lane.order)
            for lane in over:
                del self._lanes[lane.order]
            finished += over
            await on_barrier(sorted(lane.order for lane in over))

    def _deliver(self, advanced: EngineResponse) -> None:
        self.busy_s += advanced.busy_s
        self.decode_steps += advanced.steps
        self.forwarded += advanced.forwarded
        for done in advanced.done:
            lane = self._lanes[done.key // _MAX_ROWS_PER_LANE]
            lane.is_acting, lane.due = True, self._index + self._lag
            lane.answer = (
                done.sampled if done.sampled is not None else (done.error or "the engine gave no reason")
            )
            lane.answered.set()
