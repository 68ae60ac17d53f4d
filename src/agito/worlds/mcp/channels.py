"""Channels to a server inside a sandbox: over its pipes, or HTTP through a socket of its network."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

import anyio

from agito.errors import SandboxFailure
from agito.protocols import Sandbox, Service
from agito.types import Json
from agito.worlds import http1
from agito.worlds.mcp.client import VERSION, Gone
from agito.worlds.outbox import Outbox

MOST_BYTES = 1 << 22  # per message
_MOST_STRAY_LINES, _MOST_STRAY_BYTES = 1000, 1 << 20  # skipped before one message
_LOOK_S = 0.05


class Pipes:
    """One message per line, on a service's standard input and output."""

    def __init__(self, service: Service) -> None:
        self._stdin, self._stdout, self._stderr = service.stdin, service.stdout, service.stderr
        self._unread = b""
        self._is_closed = False
        self._outbox = Outbox(lambda data: os.write(self._stdin, data), self._make_way)

    async def post(self, message: Mapping[str, Json]) -> None:
        try:
            await self._outbox.send(json.dumps(message).encode() + b"\n")
        except OSError:
            raise Gone("it has ended") from None

    async def _make_way(self) -> None:
        """It may be blocked itself until its output is read."""
        self._take()
        with anyio.move_on_after(_LOOK_S):
            await anyio.wait_writable(self._stdin)

    async def receive(self) -> dict[str, Json]:
        """The next message. Skips other lines, because some servers print to standard output."""
        num_lines, num_bytes, first = 0, 0, ""
        while True:
            line = await self._line()
            message = _message(line)
            if message is not None:
                return message
            num_lines, num_bytes = num_lines + 1, num_bytes + len(line)
            first = first or line[:80].decode("utf-8", "replace").strip()
            if num_lines > _MOST_STRAY_LINES or num_bytes > _MOST_STRAY_BYTES:
                raise Gone(f"it goes on sending lines that are no message, such as {first!r}")

    async def _line(self) -> bytes:
        while b"\n" not in self._unread:
            await anyio.wait_readable(self._stdout)
            if not self._take():
                raise Gone("it has ended")
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _take(self) -> bool:
        """Reads what is available. False at the end."""
        try:
            more = os.read(self._stdout, 1 << 16)
        except BlockingIOError:
            return True
        self._unread += more
        if len(self._unread) > 2 * MOST_BYTES or (
            len(self._unread) > MOST_BYTES and b"\n" not in self._unread
        ):
            raise Gone(f"it sent a message of more than {MOST_BYTES} bytes")
        return bool(more)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            for descriptor in (self._stdin, self._stdout, self._stderr):
                os.close(descriptor)


class Http:
    """Streamable HTTP: each message is its own request; the answers are its body, as JSON or as an event
    stream.
    """

    def __init__(self, sandbox: Sandbox, port: int, path: str) -> None:
        self._sandbox, self._port, self._path = sandbox, port, path
        self._session = ""
        self._unread: deque[dict[str, Json]] = deque()

    async def post(self, message: Mapping[str, Json]) -> None:
        headers = [
            ("host", f"127.0.0.1:{self._port}"),
            ("content-type", "application/json"),
            ("connection", "close"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", VERSION),
        ]
        if self._session:
            headers.append(("mcp-session-id", self._session))
        request = http1.Request(
            method="POST", target=self._path, headers=tuple(headers), body=json.dumps(message).encode()
        )
        try:
            link = await self._sandbox.connect(self._port)
            async with await http1.stream_over(link) as stream:
                response = await http1.ask(stream, request, most_bytes=MOST_BYTES)
        except (TimeoutError, OSError, http1.BadMessage, anyio.BrokenResourceError) as error:
            if isinstance(error, SandboxFailure):
                raise
            raise Gone(f"no answer over HTTP: {error or type(error).__name__}") from None
        self._session = response.header("mcp-session-id") or self._session
        if response.status >= 400 and not response.header("content-type").startswith("application/json"):
            raise Gone(f"HTTP status {response.status}")
        self._unread.extend(_messages(response))

    async def receive(self) -> dict[str, Json]:
        if not self._unread:
            raise Gone("it did not answer the request")
        return self._unread.popleft()

    async def aclose(self) -> None:
        return


def _messages(response: http1.Response) -> list[dict[str, Json]]:
    if not response.body.strip():
        return []
    if not response.header("content-type").startswith("text/event-stream"):
        message = _message(response.body)
        if message is None:
            raise Gone(
                f"it sent something that is no message: {response.body[:80].decode('utf-8', 'replace')!r}"
            )
        return [message]
    found: list[dict[str, Json]] = []
    for event in response.body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")
        )
        if (message := _message(data)) is not None:
            found.append(message)
    return found


def _message(data: bytes) -> dict[str, Json] | None:
    """A JSON-RPC message, also one that follows text printed without a newline; None if it is none."""
    text = data.decode("utf-8", "replace")
    for start in (0, text.find('{"jsonrpc"')):
        if start < 0:
            break
        try:
            found: Any = json.loads(text[start:].removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and cast("dict[str, Json]", found).get("jsonrpc") == "2.0":
            return cast("dict[str, Json]", found)
    return None
