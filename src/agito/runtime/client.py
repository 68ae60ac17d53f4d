"""A worker as seen from the rollout process: one request at a time, with a deadline, abandoned when it stops
answering."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from agito.concurrency import first_error
from agito.errors import AgitoError, WorkerDied, WorkerFailed
from agito.runtime.transport import Transport
from agito.runtime.wire import Failure, PolicyId, Request, WorkerRequest, WorkerResponse

START_S = 300.0  # until the first answer; a worker imports torch first
_ENDING_S = 0.5  # for a killed process to end
FAREWELL_S = 5.0  # for a worker to end by itself after its connection closed

Answer = TypeVar("Answer", bound=WorkerResponse)
Result = TypeVar("Result")


class WorkerClient:
    def __init__(self, rank: int, transport: Transport, silence_s: float) -> None:
        """`silence_s`: the deadline of requests without one of their own."""
        self.rank, self.transport, self.silence_s = rank, transport, silence_s
        self._turn = anyio.Lock()
        self._asked = 0
        self._has_answered = False
        self._lost = ""  # why nothing more is asked of it

    async def ask(
        self,
        policy: PolicyId,
        body: WorkerRequest,
        expected: type[Answer],
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """Raises the worker's error if it is an `AgitoError`, otherwise `WorkerFailed`; raises `WorkerDied`
        when it has ended or does not answer in time, and from then on immediately."""
        deadline_s = self.silence_s if deadline_s is None else deadline_s
        name = type(body).__name__
        async with self._turn:  # its holder has a deadline too
            if self._lost:
                raise WorkerDied(f"{self._lost}; {name} was not asked of it")
            self._asked += 1
            try:
                with anyio.fail_after(deadline_s):
                    response = await self.transport.ask(Request(id=self._asked, policy=policy, body=body))
            except TimeoutError:
                standing = self.transport.standing
                self._lost = (
                    f"worker {self.rank} has not answered {name} for {deadline_s:.0f} "
                    f"s{standing and f': {standing}'}"
                )
                raise WorkerDied(self._lost) from None
            except EOFError as error:
                await self.transport.wait(time.monotonic() + FAREWELL_S)
                self._lost = (
                    f"worker {self.rank} ended during {name} "
                    f"({self.transport.ended or 'its connection closed'})"
                )
                raise WorkerDied(self._lost) from error
            except ValueError as error:
                raise WorkerFailed(f"worker {self.rank}, {name}: {error}") from error
        self._has_answered = True
        if isinstance(response.body, Failure):
            error = response.body.error
            if isinstance(error, AgitoError):
                raise error
            raise WorkerFailed(
                f"worker {self.rank} failed in {name}: {error!r}\n{response.body.trace}"
            ) from error
        if not isinstance(response.body, expected):
            raise WorkerFailed(f"worker {self.rank}: {name} was answered by {type(response.body).__name__}")
        return response.body

    @property
    def ended(self) -> str:
        """How it ended; empty while it runs."""
        how = self.transport.ended
        return how and f"worker {self.rank} ended ({how})"

    def close(self) -> None:
        """Closes the connection. A worker that has not answered yet has nothing to lose, and an abandoned one
        does not listen; neither is waited for."""
        self.transport.close()
        if self._lost or not self._has_answered:
            self.transport.kill()

    async def join(self, until: float) -> None:
        """Waits for its end, and forces it at `until`."""
        if not await self.transport.wait(until):
            self.transport.kill()
            await self.transport.wait(time.monotonic() + FAREWELL_S)


async def call_all(
    workers: Sequence[WorkerClient], calls: Sequence[Callable[[], Awaitable[Result]]]
) -> list[Result]:
    """Makes all calls concurrently; answers in the order of the calls. Raises the most informative error: a
    worker may fail only because another one that it sums gradients with has died."""
    answers: dict[int, Result] = {}

    async def wait(at: int, call: Callable[[], Awaitable[Result]]) -> None:
        answers[at] = await call()

    try:
        async with anyio.create_task_group() as tasks:
            for at, call in enumerate(calls):
                tasks.start_soon(wait, at, call)
    except BaseExceptionGroup as group:
        error = first_error(group)
        if isinstance(error, WorkerFailed):
            await anyio.sleep(_ENDING_S)
            gone = next((ending for worker in workers if (ending := worker.ended)), "")
            error = WorkerDied(f"{gone} while others waited for it") if gone else error
        raise error from None
    return [answers[at] for at in range(len(calls))]
