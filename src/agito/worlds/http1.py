"""HTTP/1.1 over an open stream, for the proxy, browser pages and tool servers. Sizes are bounded; deadlines
are the caller's.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import anyio
import h11
from anyio.abc import ByteStream, SocketStream

T = TypeVar("T")
Hold = Callable[[int], None]  # called with a number of bytes before they are kept; may raise `BadMessage`
MOST_BYTES = 1 << 24  # per body
_CHUNK = 1 << 16
_LINGER_S, _LINGER_BYTES = 1.0, 1 << 24
_FULL_S = 0.05  # wait for a free descriptor


class BadMessage(ValueError):
    """The peer violates HTTP/1.1 or sends too much. `status` is the response for a client."""

    def __init__(self, problem: str, status: int = 400) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: str  # as in the request line
    headers: tuple[tuple[str, str], ...] = ()  # names in lower case
    body: bytes = b""

    def header(self, name: str) -> str:
        """Empty if missing."""
        return next((value for key, value in self.headers if key == name), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class Server:
    """One client connection."""

    def __init__(self, stream: ByteStream, *, most_bytes: int = MOST_BYTES) -> None:
        self.stream, self._most = stream, most_bytes
        self._state = h11.Connection(h11.SERVER)
        self._method = ""  # of the current request
        self._is_last = False

    async def receive(self) -> Request | None:
        """The next request; None if the client is done. Raises `BadMessage`, and whatever the
        stream raises.
        """
        request = await self.head()
        return replace(request, body=await self.body()) if request is not None else None

    async def head(self) -> Request | None:
        """The next request without its body. Read it with `body`, or end the connection with `refuse`."""
        if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
            self._state.start_next_cycle()
        if self._state.their_state is not h11.IDLE:
            return None
        first = await _event(self._state, self.stream)
        if not isinstance(first, h11.Request):
            return None
        self._method = first.method.decode()
        return Request(
            method=self._method, target=first.target.decode("latin-1"), headers=_headers(first.headers)
        )

    async def body(self, hold: Hold = lambda num_bytes: None) -> bytes:
        if self._state.they_are_waiting_for_100_continue:
            await self.stream.send(
                self._state.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        return await _body(self._state, self.stream, self._most, hold)

    async def send(self, response: Response) -> None:
        headers = [
            (name, value)
            for name, value in response.headers
            if name not in ("content-length", "transfer-encoding", "connection")
        ]
        headers.append(("content-length", str(len(response.body))))
        if self._is_last:
            headers.append(("connection", "close"))
        try:
            data = self._state.send(h11.Response(status_code=response.status, headers=_raw(headers))) or b""
            if self._has_body(response):
                data += self._state.send(h11.Data(data=response.body)) or b""
            data += self._state.send(h11.EndOfMessage()) or b""
        except h11.LocalProtocolError as error:  # the client's own message was broken, or it is gone
            raise BadMessage(f"no answer is possible: {error}") from None
        await self.stream.send(data)

    async def refuse(self, status: int, why: str) -> None:
        """Sends the last response on this connection, to a request not read to its end. Discards what still
        arrives, within bounds.
        """
        self._is_last = True
        await self.send(Response(status=status, body=f"{why}\n".encode("utf-8", "replace")))
        num_bytes = 0
        with anyio.move_on_after(_LINGER_S), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await self.stream.send_eof()
            # closing at once would reset the connection and lose the response
            while num_bytes < _LINGER_BYTES:
                num_bytes += len(await self.stream.receive(_CHUNK))

    def _has_body(self, response: Response) -> bool:
        """Whether the response carries a body: not for HEAD, for opened tunnels, or for certain statuses."""
        tunnels = self._method == "CONNECT" and 200 <= response.status < 300
        return not (self._method == "HEAD" or tunnels or response.status in (204, 304))

    def left_over(self) -> bytes:
        """Bytes that the client sent after a CONNECT request."""
        return self._state.trailing_data[0]


async def ask(
    stream: ByteStream, request: Request, *, most_bytes: int = MOST_BYTES, hold: Hold = lambda num_bytes: None
) -> Response:
    """Sends one request and reads the whole response. Raises `BadMessage`, and whatever the stream raises."""
    state = h11.Connection(h11.CLIENT)
    headers = (
        [*request.headers, ("content-length", str(len(request.body)))]
        if request.body
        else list(request.headers)
    )
    try:
        target = request.target.encode("latin-1", "replace")
        data = state.send(h11.Request(method=request.method, target=target, headers=_raw(headers))) or b""
        if request.body:
            data += state.send(h11.Data(data=request.body)) or b""
        await stream.send(data + (state.send(h11.EndOfMessage()) or b""))
    except h11.LocalProtocolError as error:
        raise BadMessage(f"{request.method} {request.target}: {error}") from None
    while True:
        first = await _event(state, stream)
        if isinstance(first, h11.Response):
            body = await _body(state, stream, most_bytes, hold)
            return Response(status=first.status_code, headers=_headers(first.headers), body=body)
        if not isinstance(first, h11.InformationalResponse):
            raise BadMessage("the server closed the connection instead of answering")


async def _event(
    state: h11.Connection, stream: ByteStream
) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
    while True:
        try:
            event = state.next_event()
        except h11.RemoteProtocolError as error:
            raise BadMessage(str(error), error.error_status_hint) from None
        if event is not h11.NEED_DATA:
            return event
        try:
            state.receive_data(await stream.receive(_CHUNK))
        except anyio.EndOfStream:
            state.receive_data(b"")


async def _body(state: h11.Connection, stream: ByteStream, most_bytes: int, hold: Hold) -> bytes:
    parts: list[bytes] = []
    size = 0
    while isinstance(event := await _event(state, stream), h11.Data):
        parts.append(bytes(event.data))
        size += len(event.data)
        if size > most_bytes:
            raise BadMessage(f"a body of more than {most_bytes} bytes", 413)
        hold(len(event.data))
    return b"".join(parts)


def _raw(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers
    ]


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)


async def accept(
    listener: socket.socket, handle: Callable[[SocketStream], Awaitable[None]], *, most: int = 64
) -> None:
    """Passes connections to `handle` until cancelled, `most` at once; others wait.

    An error on one connection ends only that one.
    """
    free = anyio.Semaphore(most)

    async def one(link: socket.socket) -> None:
        try:
            with suppress(BadMessage, anyio.BrokenResourceError, anyio.EndOfStream, OSError):
                async with await stream_over(link) as stream:
                    await handle(stream)
        finally:
            free.release()

    async with anyio.create_task_group() as group:
        while True:
            await free.acquire()
            link = await _accepted(listener)
            group.start_soon(one, link)


async def stream_over(link: socket.socket) -> SocketStream:
    """A stream that owns `link`. Raises `OSError` if the other side is gone."""
    try:
        link.getpeername()
        return await SocketStream.from_socket(link)
    except BaseException:  # cancellation too: nothing owns it yet
        link.close()
        raise


async def _accepted(listener: socket.socket) -> socket.socket:
    while True:
        await anyio.wait_readable(listener)
        try:
            return listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            continue
        except OSError:  # this process is out of descriptors
            await anyio.sleep(_FULL_S)


async def meanwhile(
    listener: socket.socket,
    handle: Callable[[SocketStream], Awaitable[None]],
    action: Callable[[], Awaitable[T]],
    *,
    most: int = 64,
) -> T:
    """Runs `action` while serving `listener`. Exceptions of the action are raised as they are, not in a
    group.
    """
    values: list[T] = []
    failed: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(partial(accept, listener, handle, most=most))
        try:
            values.append(await action())
        except Exception as error:  # raised again below, outside the group
            failed = error
        group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return values[0]
