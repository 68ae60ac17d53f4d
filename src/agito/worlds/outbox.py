"""Whole messages into a pipe, one after the other, though a sender may be given up at any moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

_CHUNK = 1 << 12


class Outbox:
    """A message that was begun is ended by whoever sends next: the next message would be read as its rest.
    One that was not begun is gone with its sender.
    """

    def __init__(self, write: Callable[[bytes], int], full: Callable[[], Awaitable[object]]) -> None:
        """`write` returns how many bytes were taken, or raises `BlockingIOError`; then `full` is awaited."""
        self._write, self._full = write, full
        self._unsent = bytearray()
        self._turn = anyio.Lock()

    async def send(self, message: bytes) -> None:
        """Raises what `write` and `full` raise."""
        async with self._turn:
            self._unsent += message
            try:
                while self._unsent:
                    try:
                        del self._unsent[: self._write(bytes(self._unsent[:_CHUNK]))]
                    except BlockingIOError:
                        await self._full()
            finally:
                if len(self._unsent) >= len(message):
                    del self._unsent[len(self._unsent) - len(message) :]
