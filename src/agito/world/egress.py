"""The only way out of a sandbox: a proxy that knows an allow-list and records, on a listener inside the sandbox's own network.

It answers only while an action runs: between actions nothing leaves. What is tunnelled (CONNECT) is encrypted, so of it only the host, the
port and the number of bytes are known.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, SocketStream

from agito.protocols import Sandbox
from agito.world.http1 import BadMessage, Request, Response, Server, ask, meanwhile

T = TypeVar("T")
PORT = 3128
_NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
ENV: dict[str, str] = dict.fromkeys(_NAMES, f"http://127.0.0.1:{PORT}")  # for `SandboxSpec.env`
_HOP = frozenset(("connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"))
_MOST_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request that was made, let through or not."""

    method: str
    host: str
    port: int
    path: str
    body_sha256: str
    status: int  # what the sandbox was answered; 403: refused here, 502: not reached
    sent_bytes: int
    received_bytes: int


class Egress:
    """`allow` names `host:port`; everything else is refused. Names are resolved by the host, and only public addresses are called.

    `at` says where a name really is, such as a server of yours: {"pypi.test:80": ("127.0.0.1", 8080)}.
    """

    def __init__(self, listener: socket.socket, allow: Iterable[str], at: Mapping[str, tuple[str, int]], timeout_s: float) -> None:
        self._listener, self._allow, self._at, self._timeout_s = listener, frozenset(allow), at, timeout_s
        self.record: list[Exchange] = []

    @classmethod
    async def open(
        cls, sandbox: Sandbox, allow: Iterable[str] = (), *, at: Mapping[str, tuple[str, int]] | None = None, timeout_s: float = 30.0
    ) -> Egress:
        """Programs inside find it by the variables in `ENV`."""
        return cls(await sandbox.listen(PORT), allow, at or {}, timeout_s)

    async def during(self, action: Callable[[], Awaitable[T]]) -> T:
        """Runs an action of the sandbox, which may meanwhile call what is allowed."""
        return await meanwhile(self._listener, self._serve, action)

    async def aclose(self) -> None:
        self._listener.close()

    async def _serve(self, stream: SocketStream) -> None:
        server = Server(stream, most_bytes=_MOST_BYTES)
        while (request := await server.receive()) is not None:
            if request.method == "CONNECT":
                return await self._tunnel(server, request)
            await server.send(await self._forward(request))
        return None

    async def _forward(self, request: Request) -> Response:
        url = urlsplit(request.target)
        try:
            host, port = (url.hostname or "").lower(), url.port or 80
        except ValueError:
            host, port = "", 0
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        response = Response(status=403, body=f"{host}:{port} is not allowed\n".encode())
        if url.scheme == "http" and f"{host}:{port}" in self._allow:
            headers = tuple((name, value) for name, value in request.headers if name not in (*_HOP, "content-length", "host"))
            onward = Request(
                method=request.method, target=path, body=request.body,
                headers=(("host", host if port == 80 else f"{host}:{port}"), ("connection", "close"), *headers),
            )  # fmt: skip
            try:
                with anyio.fail_after(self._timeout_s):
                    async with await self._reach(host, port) as stream:
                        found = await ask(stream, onward, most_bytes=_MOST_BYTES)
                response = Response(status=found.status, body=found.body, headers=tuple(h for h in found.headers if h[0] not in _HOP))
            except (OSError, BadMessage, anyio.BrokenResourceError, TimeoutError) as error:
                response = Response(status=502, body=f"{host}:{port}: {error}\n".encode())
        self._note(request, host, port, path, response.status, len(request.body), len(response.body))
        return response

    async def _tunnel(self, server: Server, request: Request) -> None:
        host, _, digits = request.target.lower().rpartition(":")
        port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 0
        if f"{host}:{port}" not in self._allow:
            self._note(request, host, port, "", 403, 0, 0)
            return await server.send(Response(status=403, body=f"{host}:{port} is not allowed\n".encode()))
        try:
            with anyio.fail_after(self._timeout_s):
                onward = await self._reach(host, port)
        except (OSError, TimeoutError) as error:
            self._note(request, host, port, "", 502, 0, 0)
            return await server.send(Response(status=502, body=f"{host}:{port}: {error}\n".encode()))
        counts = {"sent": 0, "received": 0}
        async with onward:
            await server.stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(_pump, server.left_over(), server.stream, onward, counts, "sent")
                    group.start_soon(_pump, b"", onward, server.stream, counts, "received")
            finally:
                self._note(request, host, port, "", 200, counts["sent"], counts["received"])
        return None

    async def _reach(self, host: str, port: int) -> SocketStream:
        """Raises `OSError`; also for a name that leads into a private network, which is how a name could lead back to this machine."""
        if known := self._at.get(f"{host}:{port}"):
            return await anyio.connect_tcp(*known)
        for *_, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if ipaddress.ip_address(address[0]).is_global:
                return await anyio.connect_tcp(str(address[0]), port)
        raise OSError("not a public address")

    def _note(self, request: Request, host: str, port: int, path: str, status: int, sent: int, received: int) -> None:
        self.record.append(
            Exchange(
                method=request.method, host=host, port=port, path=path, body_sha256=hashlib.sha256(request.body).hexdigest(),
                status=status, sent_bytes=sent, received_bytes=received,
            )
        )  # fmt: skip


async def _pump(first: bytes, source: ByteStream, target: ByteStream, counts: dict[str, int], name: str) -> None:
    """Until one side says no more, or says too much."""
    try:
        data = first
        while counts[name] <= _MOST_BYTES:
            if data:
                await target.send(data)
                counts[name] += len(data)
            data = await source.receive()
        await target.aclose()
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await target.aclose()
