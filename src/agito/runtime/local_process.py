"""Worker processes on this machine, each behind one stream socket.

The asking side never blocks: a worker that has stopped reading or writing stalls one request, not the event
loop. A request may be abandoned at any point. The next request finishes sending it, and a late answer is
dropped by id.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from agito.runtime.fork_server import ForkedWorker, fork_worker
from agito.runtime.transport import Handler, answered, pickled, unpickled
from agito.runtime.wire import Request, Response

_HEAD = struct.Struct("<QQ")  # id, number of bytes that follow
_MOST_BYTES = 1 << 20  # read from the socket at once
_LOOK_S = 0.01


def launch(rank: int) -> PipeTransport:
    """A `Launch`."""
    ours, theirs = socket.socketpair()
    with theirs:
        return PipeTransport(fork_worker(rank, theirs), Asking(ours))


class PipeTransport:
    """One process and its connection. It ends when this process ends, because the connection closes."""

    def __init__(self, process: ForkedWorker, link: Asking) -> None:
        self.process, self.link = process, link

    async def ask(self, request: Request) -> Response:
        return await self.link.ask(request)

    @property
    def ended(self) -> str:
        return self.process.ended

    @property
    def standing(self) -> str:
        try:
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return ""
        return {"T": "it is stopped", "t": "a debugger holds it", "D": "it waits for a device"}.get(state, "")

    def close(self) -> None:
        self.link.close()

    def kill(self) -> None:
        self.process.kill()

    async def wait(self, until: float) -> bool:
        while not self.process.ended:
            if time.monotonic() >= until:
                return False
            await anyio.sleep(_LOOK_S)
        return True


class Asking:
    """The asking side of a socket."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._link = link
        self._unsent, self._unread = bytearray(), bytearray()

    async def ask(self, request: Request) -> Response:
        """Raises `EOFError` when the other side is gone, and `ValueError` for an unreadable answer."""
        before = len(self._unsent)  # rest of an abandoned message
        self._unsent += _frame(request.id, pickled(request))
        total = len(self._unsent)
        data: bytes | None = None
        try:
            if self._flush():
                data = await self._answer(request.id)
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send)
                    data = await self._answer(request.id)
                    tasks.cancel_scope.cancel()
        finally:
            sent = total - len(self._unsent)
            if sent <= before:  # none of this message was sent, so none of it must be
                del self._unsent[before - sent :]
        if data is None:
            raise EOFError("the other side is gone")
        return unpickled(data)

    def close(self) -> None:
        """Idempotent."""
        self._link.close()

    async def _send(self) -> None:
        while not self._flush():
            await anyio.wait_writable(self._link)

    def _flush(self) -> bool:
        """Sends what the socket accepts now; returns whether everything was sent. If the other side is gone,
        the receiver notices."""
        while self._unsent:
            try:
                with memoryview(self._unsent) as view:
                    sent = self._link.send(view)
            except BlockingIOError:
                return False
            except OSError:
                self._unsent.clear()
                return True
            del self._unsent[:sent]
        return True

    async def _answer(self, wanted: int) -> bytes | None:
        """The answer to request `wanted`; None when the other side is gone."""
        while True:
            if len(self._unread) >= _HEAD.size:
                number, size = _HEAD.unpack_from(self._unread)
                end = _HEAD.size + size
                if len(self._unread) >= end:
                    data = bytes(self._unread[_HEAD.size : end])
                    del self._unread[:end]
                    if number == wanted:
                        return data
                    continue  # to an abandoned request
            if self._link.fileno() < 0:
                return None
            await anyio.wait_readable(self._link)
            try:
                more = self._link.recv(_MOST_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return None
            if not more:
                return None
            self._unread += more


def serve(link: socket.socket, handler: Handler) -> None:
    """The worker's side: answers requests until the asking side is gone."""
    file = link.makefile("rb")
    while (head := _read(file.read, _HEAD.size)) is not None:
        number, size = _HEAD.unpack(head)
        data = _read(file.read, size)
        if data is None:
            return
        try:
            link.sendall(_frame(number, answered(handler, data)))
        except OSError:
            return


def _read(read: Callable[[int], bytes], size: int) -> bytes | None:
    try:
        data = read(size)
    except OSError:
        return None
    return data if len(data) == size else None


def _frame(number: int, data: bytes) -> bytes:
    return _HEAD.pack(number, len(data)) + data
