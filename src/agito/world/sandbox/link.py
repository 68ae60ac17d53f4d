"""One exchange over the socket to a pid 1: a trusted request, an answer that is only data."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import anyio

from agito.errors import SandboxFailure
from agito.world.sandbox.inside import wire

_MOST_PASSED = 3


@dataclass(frozen=True, slots=True)
class Reply:
    kind: int
    killer: int
    is_idle: bool
    status: int
    total: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    body: bytes


async def exchange(link: socket.socket, frame: bytes, descriptors: list[int] | None) -> Reply:
    """Raises `SandboxFailure` or `OSError` when the other side is gone. What came with the answer goes into `descriptors`, if asked for."""
    sent = link.send(frame)
    while sent < len(frame):
        await anyio.wait_writable(link)
        sent += link.send(frame[sent : sent + (1 << 17)])
    data = b""
    length = wire.REPLY.size
    while len(data) < length:
        await anyio.wait_readable(link)
        if descriptors is None:
            more = link.recv(1 << 17)  # descriptors that nobody asked for are closed by the kernel
        else:
            more, came, _, _ = socket.recv_fds(link, 1 << 17, _MOST_PASSED, socket.MSG_CMSG_CLOEXEC)
            descriptors.extend(came)
        if not more:
            raise SandboxFailure("pid 1 is gone")
        data = data + more if data else more
        if len(data) >= wire.REPLY.size:
            length = wire.REPLY.size + wire.LENGTH.unpack_from(data)[0]
            if length > wire.MAX_REPLY:
                raise SandboxFailure("pid 1 sent nonsense")
    _, kind, killer, idle, status, total, wall, cpu, peak, _ = wire.REPLY.unpack_from(data)
    return Reply(kind, killer, bool(idle), status, total, wall, cpu, peak, data[wire.REPLY.size : length])
