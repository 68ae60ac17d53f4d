"""The Chrome DevTools Protocol over two pipes: commands, replies and events, for many pages at once.

There is no background task. One waiter reads the pipe for all; when it has its reply, another takes over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import anyio

from agito.errors import SandboxFailure
from agito.protocols import Service
from agito.worlds.outbox import Outbox

_MOST_BYTES = 1 << 26  # size limit of one message
_CHUNK = 1 << 16


class Refused(Exception):
    """The browser refused a command."""


class _Waiting:
    __slots__ = ("event", "reply")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.reply: dict[str, Any] | None = None


class Link:
    """The connection to one browser. Methods raise `SandboxFailure` if it is gone; deadlines are the
    caller's.
    """

    def __init__(self, service: Service) -> None:
        self._stdin, self._stdout, self._stderr = service.stdin, service.stdout, service.stderr
        self._num_sent = 0
        self._waiting: dict[int, _Waiting] = {}
        self._is_read = False  # another waiter is reading
        self._unread = bytearray()
        self._outbox = Outbox(self._write, lambda: anyio.wait_writable(self._stdin))
        self._listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._end = ""

    @property
    def is_gone(self) -> bool:
        return bool(self._end)

    def listen(self, session: str, hear: Callable[[str, dict[str, Any]], None] | None) -> None:
        """Passes the events of a page (without a session: of the browser) to `hear`, by name and parameters;
        None unsubscribes.
        """
        if hear is None:
            self._listeners.pop(session, None)
        else:
            self._listeners[session] = hear

    async def command(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Raises `Refused`."""
        reply = await self.ask(method, session, lambda: False, **parameters)
        assert reply is not None
        return reply

    async def ask(
        self, method: str, session: str, gives_up: Callable[[], bool], **parameters: Any
    ) -> dict[str, Any] | None:
        """The reply, or None as soon as `gives_up()` holds first. Raises `Refused`."""
        self._num_sent += 1
        mine, waiting = self._num_sent, _Waiting()
        message: dict[str, Any] = {"id": mine, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._waiting[mine] = waiting
        try:
            await self._outbox.send(json.dumps(message).encode() + b"\0")
            await self.until(lambda: waiting.reply is not None or gives_up(), waiting)
        finally:
            del self._waiting[mine]
        if waiting.reply is None:
            return None
        if "error" in waiting.reply:
            raise Refused(f"{method}: {waiting.reply['error'].get('message')}")
        return waiting.reply.get("result", {})

    async def until(self, is_true: Callable[[], bool], waiting: _Waiting | None = None) -> None:
        """Waits for a condition that a reply or an event will make true."""
        key = None
        if waiting is None:
            waiting = _Waiting()
            self._num_sent += 1
            key = self._num_sent
            self._waiting[key] = waiting
        try:
            while not is_true():
                if self._is_read:
                    await waiting.event.wait()
                    waiting.event = anyio.Event()
                    continue
                self._is_read = True
                try:
                    while not is_true():
                        await self._read()
                finally:
                    self._is_read = False
                    self._wake()
        finally:
            if key is not None:
                del self._waiting[key]

    def close(self) -> None:
        """Idempotent."""
        if not self._end:
            self._end = "closed"
            for descriptor in (self._stdin, self._stdout, self._stderr):
                os.close(descriptor)

    def _write(self, data: bytes) -> int:
        self._check()
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            raise
        except OSError:
            raise self._gone() from None

    async def _read(self) -> None:
        self._check()
        await anyio.wait_readable(self._stdout)
        more = os.read(self._stdout, _CHUNK)
        if not more:
            raise self._gone()
        self._unread += more
        if len(self._unread) > _MOST_BYTES:
            raise self._gone()
        *whole, rest = self._unread.split(b"\0")
        self._unread = rest
        for message in whole:
            self._hear(json.loads(message))
        if whole:
            self._wake()

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            waiting = self._waiting.get(message["id"])
            if waiting is not None:
                waiting.reply = message
        elif (hear := self._listeners.get(message.get("sessionId", ""))) is not None:
            hear(message["method"], message["params"])

    def _wake(self) -> None:
        for waiting in self._waiting.values():
            waiting.event.set()

    def _check(self) -> None:
        if self._end:
            raise SandboxFailure(f"the browser is gone: {self._end}")

    def _gone(self) -> SandboxFailure:
        self.close()
        self._end = "it ended"
        return SandboxFailure("the browser is gone: it ended")
