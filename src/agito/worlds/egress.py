"""The only way out of a sandbox: a recording proxy with an allow-list, on a listener in the sandbox's own
network.

It answers only while an action runs. A request is accepted or refused before its body is read, and every
request is recorded, malformed ones too; once the record is full, nothing passes. Tunnelled traffic (CONNECT)
is encrypted, so only host, port and number of bytes are known.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, SocketStream

from agito.protocols import Sandbox
from agito.worlds.http1 import BadMessage, Hold, Request, Response, Server, ask, meanwhile

T = TypeVar("T")
PORT = 3128
_NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
ENV: dict[str, str] = dict.fromkeys(_NAMES, f"http://127.0.0.1:{PORT}")  # for `SandboxSpec.env`
_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_MOST_BYTES = 1 << 24  # per body, and per direction of a tunnel
_HELD_BYTES = 1 << 25  # total size of bodies held at once
_TOTAL_BYTES = 1 << 29  # per episode
_MOST_CONNECTIONS = 32
_MOST_RECORDS = 4096
_LONGEST = 1024  # characters of a path in the record


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One recorded request, allowed or refused."""

    method: str  # empty if no request could be read
    host: str
    port: int
    path: str
    body_sha256: str  # of the forwarded body
    # status sent to the sandbox; 4xx: refused here, 502: not reached, 0: given up before an answer
    status: int
    sent_bytes: int
    received_bytes: int


class Egress:
    """Only the `host:port` pairs in `allow` can be reached. Names are resolved on the host, and only public
    addresses are called.

    `at` overrides where a name leads, such as to your own server: {"pypi.test:80": ("127.0.0.1", 8080)}.
    """

    def __init__(
        self,
        listener: socket.socket,
        allow: Iterable[str],
        at: Mapping[str, tuple[str, int]],
        timeout_s: float,
    ) -> None:
        self._listener, self._allow, self._at, self._timeout_s = listener, frozenset(allow), at, timeout_s
        self.record: list[Exchange] = []
        self.num_unrecorded = 0  # requests refused because the record is full
        self._held = self._moved = 0  # in bytes

    @classmethod
    async def open(
        cls,
        sandbox: Sandbox,
        allow: Iterable[str] = (),
        *,
        at: Mapping[str, tuple[str, int]] | None = None,
        timeout_s: float = 30.0,
    ) -> Egress:
        """Programs inside find it through the variables in `ENV`."""
        return cls(await sandbox.listen(PORT), allow, at or {}, timeout_s)

    async def during(self, action: Callable[[], Awaitable[T]]) -> T:
        """Runs an action of the sandbox, which may call allowed hosts meanwhile."""
        return await meanwhile(self._listener, self._serve, action, most=_MOST_CONNECTIONS)

    async def aclose(self) -> None:
        self._listener.close()

    async def _serve(self, stream: SocketStream) -> None:
        server = Server(stream, most_bytes=_MOST_BYTES)
        asked = Asked()
        try:
            while (request := await self._head(server)) is not None:
                asked = _asked(request)
                if refusal := self._refusal(asked):
                    self._note(asked, refusal[0])
                    return await server.refuse(*refusal)
                if asked.method == "CONNECT":
                    return await self._tunnel(server, asked)
                await self._forward(server, request, asked)
                asked = Asked()
        except BadMessage as error:
            self._note(asked, error.status)
            await server.refuse(error.status, str(error))
        return None

    async def _head(self, server: Server) -> Request | None:
        """None also for a client that stays silent too long."""
        with anyio.move_on_after(self._timeout_s):
            return await server.head()
        return None

    def _refusal(self, asked: Asked) -> tuple[int, str] | None:
        """Decides by the request head alone."""
        if asked.problem:
            return 400, asked.problem
        if f"{asked.host}:{asked.port}" not in self._allow:
            return 403, f"{asked.host}:{asked.port} is not allowed"
        if asked.length > _MOST_BYTES:
            return 413, f"a body of more than {_MOST_BYTES} bytes"
        if len(self.record) >= _MOST_RECORDS or self._moved >= _TOTAL_BYTES:
            return 429, "this episode has asked for too much"
        return None

    async def _forward(self, server: Server, request: Request, asked: Asked) -> None:
        """Raises `BadMessage` for a body that cannot be read or is too long."""
        held = 0

        def hold(num_bytes: int) -> None:
            nonlocal held
            if self._held + num_bytes > _HELD_BYTES:
                raise BadMessage("too much is under way at once", 503)
            held, self._held, self._moved = held + num_bytes, self._held + num_bytes, self._moved + num_bytes

        try:
            body = None
            with anyio.move_on_after(self._timeout_s):
                body = await server.body(hold)
            if body is None:
                raise BadMessage("the request did not come in time", 408)
        except BadMessage:
            self._held -= held
            raise
        except BaseException:  # the client is gone, or the action has ended
            self._held -= held
            self._note(asked, 0)
            raise
        try:
            response = await self._answer(asked, _onward(request, asked, body), hold)
            with suppress(BadMessage):  # the client is gone
                await server.send(response)
        finally:
            self._held -= held

    async def _answer(self, asked: Asked, onward: Request, hold: Hold) -> Response:
        """The host's response, recorded in any case."""
        response = Response(status=0)
        try:
            try:
                with anyio.fail_after(self._timeout_s):
                    async with await self._reach(asked.host, asked.port) as stream:
                        found = await ask(stream, onward, most_bytes=_MOST_BYTES, hold=hold)
                response = replace(
                    found, headers=tuple(header for header in found.headers if header[0] not in _HOP)
                )
            except (OSError, ValueError, anyio.BrokenResourceError) as error:
                response = Response(
                    status=502, body=f"{asked.host}:{asked.port}: {error}\n".encode("utf-8", "replace")
                )
            return response
        finally:
            self._note(asked, response.status, onward.body, len(onward.body), len(response.body))

    async def _tunnel(self, server: Server, asked: Asked) -> None:
        status, counts = 0, {"sent": 0, "received": 0}
        try:
            try:
                with anyio.fail_after(self._timeout_s):
                    onward = await self._reach(asked.host, asked.port)
            except (OSError, ValueError) as error:
                status = 502
                return await server.refuse(502, f"{asked.host}:{asked.port}: {error}")
            async with onward:
                status = 200
                await server.stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                async with anyio.create_task_group() as group:
                    group.start_soon(_pump, server.left_over(), server.stream, onward, counts, "sent")
                    group.start_soon(_pump, b"", onward, server.stream, counts, "received")
        finally:
            self._moved += sum(counts.values())
            self._note(asked, status, b"", counts["sent"], counts["received"])
        return None

    async def _reach(self, host: str, port: int) -> SocketStream:
        """Raises `OSError`, also for names that resolve to private addresses, which could lead back to this
        machine.
        """
        if known := self._at.get(f"{host}:{port}"):
            return await anyio.connect_tcp(*known)
        for *_, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if _is_public(str(address[0])):
                return await anyio.connect_tcp(str(address[0]), port)
        raise OSError("not a public address")

    def _note(self, asked: Asked, status: int, body: bytes = b"", sent: int = 0, received: int = 0) -> None:
        if len(self.record) >= _MOST_RECORDS:
            self.num_unrecorded += 1
            return
        path = (
            asked.path
            if len(asked.path) <= _LONGEST
            else f"{asked.path[:_LONGEST]}... ({len(asked.path)} characters)"
        )
        self.record.append(
            Exchange(
                method=asked.method[:_LONGEST],
                host=asked.host[:_LONGEST],
                port=asked.port,
                path=path,
                body_sha256=hashlib.sha256(body).hexdigest(),
                status=status,
                sent_bytes=sent,
                received_bytes=received,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The target of a request. `problem`: why it cannot be determined."""

    method: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    length: int = 0  # of the body, if stated
    problem: str = ""


def _asked(request: Request) -> Asked:
    if request.method == "CONNECT":
        host, _, digits = request.target.lower().rpartition(":")
        if not host or not (digits.isascii() and digits.isdigit() and len(digits) < 6):
            return Asked(method="CONNECT", path=request.target, problem="CONNECT names host:port")
        return Asked(method="CONNECT", host=host, port=int(digits))
    try:
        url = urlsplit(request.target)
        host, port = (url.hostname or "").lower(), url.port or 80
    except ValueError as error:
        return Asked(method=request.method, path=request.target, problem=f"no URL: {error}")
    if url.scheme != "http" or not host:
        return Asked(
            method=request.method, path=request.target, problem="say the whole URL, which begins with http://"
        )
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return Asked(
        method=request.method,
        host=host,
        port=port,
        path=path,
        length=int(request.header("content-length") or 0),
    )


def _onward(request: Request, asked: Asked, body: bytes) -> Request:
    # headers meant for the proxy only
    named = {name.strip() for name in request.header("connection").lower().split(",")}
    dropped = _HOP | named | {"content-length", "host", "expect"}
    headers = tuple((name, value) for name, value in request.headers if name not in dropped)
    host = asked.host if asked.port == 80 else f"{asked.host}:{asked.port}"
    return Request(
        method=asked.method,
        target=asked.path,
        body=body,
        headers=(("host", host), ("connection", "close"), *headers),
    )


def _is_public(address: str) -> bool:
    """Also checks IPv4 addresses embedded in IPv6 ones."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None and not _is_public(str(inner)):
            return False
    return found.is_global and not found.is_multicast


async def _pump(
    first: bytes, source: ByteStream, target: ByteStream, counts: dict[str, int], name: str
) -> None:
    """Copies until one side closes or exceeds the limit."""
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
