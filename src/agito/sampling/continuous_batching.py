"""Many attempts on one batching engine, each continuing as soon as its tool has answered; weight updates
happen between exchanges.

Nothing here repeats bit for bit, because batches depend on the clock. Tokens carry the version that sampled
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from agito.errors import WorkerDied
from agito.protocols import Row, Sampled, SampleRequest
from agito.sampling.row_states import Handle
from agito.sampling.wire import EngineClient, EngineRequest, RowBranch, RowDone, RowRequest


@dataclass(slots=True)
class _Waiting:
    """A pending request."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: RowDone | None = None


class ContinuousBatching:
    """An `Engine` for any number of concurrent attempts, driven by `run`."""

    def __init__(self, client: EngineClient, *, steps: int = 4) -> None:
        self._advance, self._context, self._steps = client.advance, client.context, steps
        self._num_opened = self._live = 0
        self._requests: list[RowRequest] = []
        self._closed: list[int] = []
        self._branched: list[RowBranch] = []
        self._waiting: dict[int, _Waiting] = {}
        self._stirred = anyio.Event()
        self._is_dead = self._is_stopping = False
        self.busy_s = 0.0

    @property
    def context(self) -> int:
        return self._context

    def open(self, seed: int) -> Row:
        return _FreeRow(self, self._new_key(), seed)

    async def run(self) -> None:
        """Runs until `stop`. Raises what `advance` raises; pending samples then raise `WorkerDied`."""
        try:
            while not self._is_stopping or self._closed:  # the engine must hear of every row that ends
                if not (self._live or self._requests or self._closed or self._branched):
                    self._stirred = anyio.Event()
                    await self._stirred.wait()  # all attempts are in tool calls, which have deadlines
                    continue
                advanced = await self._advance(self._exchange())
                self.busy_s += advanced.busy_s
                self._live = advanced.live
                for done in advanced.done:
                    self._answer(done)
        finally:
            self._is_dead = True
            for waiting in self._waiting.values():
                waiting.answered.set()

    def stop(self) -> None:
        """Ends `run` after the current exchange."""
        self._is_stopping = True
        self._stirred.set()

    async def sample(self, row: RowRequest) -> Sampled:
        if self._is_dead:
            raise WorkerDied("the engine has stopped")
        waiting = self._waiting[row.key] = _Waiting()
        self._requests.append(row)
        self._stirred.set()
        try:
            await waiting.answered.wait()
        finally:
            self._waiting.pop(row.key, None)
        if waiting.answer is None:
            raise WorkerDied("the engine stopped while this attempt was waiting for it")
        if waiting.answer.sampled is None:
            raise ValueError(waiting.answer.error or "the engine gave no reason")
        return waiting.answer.sampled

    def branch(self, parent: int, seed: int) -> Row:
        child = self._new_key()
        self._branched.append(RowBranch(parent=parent, child=child))
        self._stirred.set()
        return _FreeRow(self, child, seed, is_known=True)

    def close(self, key: int) -> None:
        """Fails the row's pending request, if any."""
        self._requests = [request for request in self._requests if request.key != key]
        self._closed.append(key)
        self._answer(RowDone(key=key, sampled=None, error="the row was closed"))
        self._stirred.set()

    def _answer(self, done: RowDone) -> None:
        waiting = self._waiting.pop(done.key, None)
        if waiting is not None:  # None: the attempt was abandoned
            waiting.answer = done
            waiting.answered.set()

    def _exchange(self) -> EngineRequest:
        """Collects all requests since the last exchange."""
        exchange = EngineRequest(
            closed=tuple(self._closed),
            branched=tuple(self._branched),
            requests=tuple(self._requests),
            steps=self._steps,
        )
        self._closed, self._branched, self._requests = [], [], []
        return exchange

    def _new_key(self) -> int:
        self._num_opened += 1
        return self._num_opened - 1


class _FreeRow(Handle):
    def __init__(self, engine: ContinuousBatching, key: int, seed: int, *, is_known: bool = False) -> None:
        super().__init__(is_known=is_known)
        self._engine, self._key, self._seed = engine, key, seed

    async def _sample(self, request: SampleRequest) -> Sampled:
        return await self._engine.sample(RowRequest(key=self._key, seed=self._seed, request=request))

    def _open(self, seed: int) -> Row:
        return self._engine.open(seed)

    def _branch(self, seed: int) -> Row:
        return self._engine.branch(self._key, seed)

    def _close(self) -> None:
        self._engine.close(self._key)
