"""Numbered messages between a process and a worker of its own, over one stream socket.

The side that asks never blocks: a worker that has stopped reading, or writing, keeps one call waiting and not the event loop. A call may
be given up at any point. What it had begun to send is finished by the next one, and its answer, which may still come, is dropped by number.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

import anyio

_HEAD = struct.Struct("<QQ")  # number, bytes that follow
_MOST_BYTES = 1 << 20  # taken from the socket at once


class Asking:
    """The side that asks. One call at a time; deadlines are the caller's."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._link = link
        self._unsent, self._unread = bytearray(), bytearray()
        self._asked = 0

    async def ask(self, value: object) -> Any:
        """What the other side answers to `value`. Raises `EOFError` when it is gone, and `ValueError` for an answer that cannot be read."""
        self._asked += 1
        before = len(self._unsent)  # of a message that was given up half-way
        self._unsent += _frame(self._asked, value)
        total = len(self._unsent)
        data: bytes | None = None
        try:
            if self._flush():
                data = await self._answer()
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send)
                    data = await self._answer()
                    tasks.cancel_scope.cancel()
        finally:
            sent = total - len(self._unsent)
            if sent <= before:  # nothing of this message has gone out, so nothing of it needs to
                del self._unsent[before - sent :]
        if data is None:
            raise EOFError("the other side is gone")
        try:
            return pickle.loads(data)
        except Exception as error:  # whatever an object raises that is put together again
            raise ValueError(f"its answer cannot be read: {error!r}") from error

    def close(self) -> None:
        """Idempotent."""
        self._link.close()

    async def _send(self) -> None:
        while not self._flush():
            await anyio.wait_writable(self._link)

    def _flush(self) -> bool:
        """Sends what the socket takes now; whether that was all. Where the other side is gone, whoever receives is told."""
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

    async def _answer(self) -> bytes | None:
        """The answer to the last message; None when the other side is gone."""
        while True:
            if len(self._unread) >= _HEAD.size:
                number, size = _HEAD.unpack_from(self._unread)
                end = _HEAD.size + size
                if len(self._unread) >= end:
                    data = bytes(self._unread[_HEAD.size : end])
                    del self._unread[:end]
                    if number == self._asked:
                        return data
                    continue  # to a call that was given up
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


class Answering:
    """The other side, which has nothing else to do than to wait."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._file = link.makefile("rb")

    def receive(self) -> tuple[int, Any] | None:
        """The next message and its number; None when the asking side is gone."""
        head = self._read(_HEAD.size)
        if head is None:
            return None
        number, size = _HEAD.unpack(head)
        data = self._read(size)
        return None if data is None else (number, pickle.loads(data))

    def answer(self, number: int, value: object) -> bool:
        """Whether anybody is left to hear it. Raises what pickling `value` raises."""
        data = _frame(number, value)
        try:
            self._link.sendall(data)
        except OSError:
            return False
        return True

    def _read(self, size: int) -> bytes | None:
        try:
            data = self._file.read(size)
        except OSError:
            return None
        return data if len(data) == size else None


def _frame(number: int, value: object) -> bytes:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEAD.pack(number, len(data)) + data
