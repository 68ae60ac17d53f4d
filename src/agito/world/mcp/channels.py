"""How messages get to a server inside a sandbox and back: over its pipes, or by HTTP through a socket of its network."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping

import anyio
from anyio.abc import SocketStream

from agito.errors import SandboxFailure
from agito.protocols import Sandbox, Service
from agito.types import Json
from agito.world import http1
from agito.world.mcp.client import VERSION, Gone

MOST_BYTES = 1 << 22  # of one message


class Pipes:
    """A message a line, on the standard input and output of a service."""

    def __init__(self, service: Service) -> None:
        self._stdin, self._stdout, self._stderr = service.stdin, service.stdout, service.stderr
        self._unread = b""
        self._is_closed = False

    async def post(self, message: Mapping[str, Json]) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            while data:
                await anyio.wait_writable(self._stdin)
                data = data[os.write(self._stdin, data[: 1 << 12]) :]
        except OSError:
            raise Gone("it has ended") from None

    async def receive(self) -> Json:
        while b"\n" not in self._unread:
            await anyio.wait_readable(self._stdout)
            more = os.read(self._stdout, 1 << 16)
            if not more:
                raise Gone("it has ended")
            self._unread += more
            if len(self._unread) > MOST_BYTES:
                raise Gone(f"it sent a message of more than {MOST_BYTES} bytes")
        line, _, self._unread = self._unread.partition(b"\n")
        return _parse(line)

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            for descriptor in (self._stdin, self._stdout, self._stderr):
                os.close(descriptor)


class Http:
    """Streamable HTTP: a message is a request of its own, the answers are its body, as JSON or as a stream of events."""

    def __init__(self, sandbox: Sandbox, port: int, path: str) -> None:
        self._sandbox, self._port, self._path = sandbox, port, path
        self._session = ""
        self._unread: deque[Json] = deque()

    async def post(self, message: Mapping[str, Json]) -> None:
        headers = [
            ("host", f"127.0.0.1:{self._port}"), ("content-type", "application/json"), ("connection", "close"),
            ("accept", "application/json, text/event-stream"), ("mcp-protocol-version", VERSION),
        ]  # fmt: skip
        if self._session:
            headers.append(("mcp-session-id", self._session))
        request = http1.Request(method="POST", target=self._path, headers=tuple(headers), body=json.dumps(message).encode())
        try:
            link = await self._sandbox.connect(self._port)
            async with await SocketStream.from_socket(link) as stream:
                response = await http1.ask(stream, request, most_bytes=MOST_BYTES)
        except (TimeoutError, OSError, http1.BadMessage, anyio.BrokenResourceError) as error:
            if isinstance(error, SandboxFailure):
                raise
            raise Gone(f"no answer over HTTP: {error or type(error).__name__}") from None
        self._session = response.header("mcp-session-id") or self._session
        if response.status >= 400 and not response.header("content-type").startswith("application/json"):
            raise Gone(f"HTTP status {response.status}")
        self._unread.extend(_messages(response))

    async def receive(self) -> Json:
        if not self._unread:
            raise Gone("it did not answer the request")
        return self._unread.popleft()

    async def aclose(self) -> None:
        return


def _messages(response: http1.Response) -> list[Json]:
    if not response.body.strip():
        return []
    if not response.header("content-type").startswith("text/event-stream"):
        return [_parse(response.body)]
    found: list[Json] = []
    for event in response.body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"\n".join(line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
        if data:
            found.append(_parse(data))
    return found


def _parse(data: bytes) -> Json:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Gone(f"it sent something that is not JSON: {data[:80].decode('utf-8', 'replace')!r}") from None
