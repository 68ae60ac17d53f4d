"""Many attempts on one batching engine, each going on as soon as its tool has answered; new weights slip in between two exchanges.

Nothing here repeats bit for bit: what is in a batch depends on the clock. Tokens carry the version that sampled them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from agito.engine.wire import Advance, Advanced, RowBranch, RowDone, RowRequest
from agito.errors import WorkerDied
from agito.protocols import Row, Sampled, SampleRequest


@dataclass(slots=True)
class _Waiting:
    """One request under way."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: RowDone | None = None


class Freerun:
    """An `Engine` for any number of attempts at once. `run` drives it."""

    def __init__(self, advance: Callable[[Advance], Awaitable[Advanced]], *, context: int, steps: int = 4) -> None:
        self._advance, self._context, self._steps = advance, context, steps
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
        """Until `stop`. Raises what `advance` raises; whoever waits for a sample then gets `WorkerDied`."""
        try:
            while not self._is_stopping:
                if not (self._live or self._requests or self._closed or self._branched):
                    self._stirred = anyio.Event()
                    await self._stirred.wait()  # every attempt is with its tools, which have deadlines
                    continue
                advanced = await self._advance(self._exchange())
                self.busy_s += advanced.busy_s
                self._live = advanced.live
                for done in advanced.done:
                    waiting = self._waiting.pop(done.key, None)
                    if waiting is not None:  # else the attempt was given up
                        waiting.answer = done
                        waiting.answered.set()
        finally:
            self._is_dead = True
            for waiting in self._waiting.values():
                waiting.answered.set()

    def stop(self) -> None:
        """`run` ends after the exchange that is under way."""
        self._is_stopping = True
        self._stirred.set()

    async def sample(self, row: RowRequest) -> Sampled:
        if self._is_dead:
            raise WorkerDied("the engine has stopped")
        assert row.key not in self._waiting, "one request at a time per row"
        waiting = self._waiting[row.key] = _Waiting()
        self._requests.append(row)
        self._stirred.set()
        try:
            await waiting.answered.wait()
        except BaseException:  # the attempt is given up: its row goes, and nobody is answered
            self._waiting.pop(row.key, None)
            raise
        if waiting.answer is None:
            raise WorkerDied("the engine stopped while this attempt was waiting for it")
        if waiting.answer.sampled is None:
            raise ValueError(waiting.answer.error or "the engine gave no reason")
        return waiting.answer.sampled

    def branch(self, parent: int) -> int:
        child = self._new_key()
        self._branched.append(RowBranch(parent=parent, child=child))
        self._stirred.set()
        return child

    def close(self, key: int) -> None:
        self._requests = [request for request in self._requests if request.key != key]
        self._closed.append(key)
        self._stirred.set()

    def _exchange(self) -> Advance:
        """All that has come in since the last one, except that a row whose branch is new is closed by the next."""
        parents = {branch.parent for branch in self._branched}
        closed = tuple(key for key in self._closed if key not in parents)
        exchange = Advance(closed=closed, branched=tuple(self._branched), requests=tuple(self._requests), steps=self._steps)
        self._closed, self._branched, self._requests = [key for key in self._closed if key in parents], [], []
        return exchange

    def _new_key(self) -> int:
        self._num_opened += 1
        return self._num_opened - 1


class _FreeRow:
    def __init__(self, engine: Freerun, key: int, seed: int, *, is_known: bool = False) -> None:
        self._engine, self._key, self._seed, self._is_known = engine, key, seed, is_known

    async def sample(self, request: SampleRequest) -> Sampled:
        self._is_known = True
        return await self._engine.sample(RowRequest(key=self._key, seed=self._seed, request=request))

    def branch(self, seed: int) -> Row:
        assert self._is_known, "nothing has been sampled in this row yet"
        return _FreeRow(self._engine, self._engine.branch(self._key), seed, is_known=True)

    async def close(self) -> None:
        if self._is_known:
            self._is_known = False
            self._engine.close(self._key)
