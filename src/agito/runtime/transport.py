"""The connection to one worker, of any kind: a separate process (`pipes`), or a thread of this process, for
tests.

Another kind, such as cluster actors, implements `Transport` on the asking side and calls `respond` on the
serving side.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.to_thread

from agito.runtime.wire import Failure, PolicyId, Request, Response, WorkerRequest, WorkerResponse

Handler = Callable[[PolicyId, WorkerRequest], WorkerResponse]


class Transport(Protocol):
    """One request at a time; the caller sets deadlines. A request may be abandoned at any point; its answer
    is then dropped."""

    async def ask(self, request: Request) -> Response:
        """Raises `EOFError` when the worker is gone, and `ValueError` for an unreadable answer."""
        ...

    @property
    def ended(self) -> str:
        """How the worker ended, such as `signal SIGKILL`; empty while it runs."""
        ...

    @property
    def standing(self) -> str:
        """What the system knows about an unresponsive worker; empty if nothing."""
        ...

    def close(self) -> None:
        """Asks the worker to end by itself. Idempotent."""
        ...

    def kill(self) -> None: ...
    async def wait(self, until: float) -> bool:
        """Whether it has ended by `until`, on the monotonic clock."""
        ...


class Launch(Protocol):
    """Starts worker `rank`, which comes up in the background."""

    def __call__(self, rank: int) -> Transport: ...


class ThreadTransport:
    """A worker in this process, for tests and debuggers. Requests cannot be abandoned, so deadlines do not
    hold."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._is_closed = False

    async def ask(self, request: Request) -> Response:
        if self._is_closed:
            raise EOFError("the worker was closed")
        return await anyio.to_thread.run_sync(respond, self._handler, request)

    @property
    def ended(self) -> str:
        return "closed" if self._is_closed else ""

    @property
    def standing(self) -> str:
        return ""

    def close(self) -> None:
        self._is_closed = True

    def kill(self) -> None:
        self.close()

    async def wait(self, until: float) -> bool:
        return self._is_closed


def respond(handler: Handler, request: Request) -> Response:
    """The worker's side of every transport."""
    try:
        return Response(id=request.id, body=handler(request.policy, request.body))
    except Exception as error:  # the boundary: the asking side decides what a failure means
        return Response(id=request.id, body=Failure(error=error, trace=traceback.format_exc()))


def pickled(message: Request | Response) -> bytes:
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def answered(handler: Handler, data: bytes) -> bytes:
    """`respond` for transports of bytes."""
    request: object = pickle.loads(data)
    assert isinstance(request, Request)
    response = respond(handler, request)
    try:
        return pickled(response)
    except Exception as error:  # an answer that cannot be pickled, including exceptions
        failure = Failure(
            error=RuntimeError(f"{type(request.body).__name__}: {error!r}"), trace=traceback.format_exc()
        )
        return pickled(Response(id=request.id, body=failure))


def unpickled(data: bytes) -> Response:
    """Raises `ValueError` unless `data` is a response."""
    try:
        response: object = pickle.loads(data)
    except Exception as error:  # unpickling runs constructors, which may raise anything
        raise ValueError(f"its answer cannot be read: {error!r}") from error
    if not isinstance(response, Response):
        raise ValueError(f"its answer cannot be read: it is of {type(response).__name__}")
    return response
