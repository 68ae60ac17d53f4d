"""One exchange over the socket to a pid 1: a trusted request, a reply that is only data."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from agito.errors import SandboxFailure
from agito.worlds.sandbox.inside import wire


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


class Exchange:
    """One request and its reply. `finish` may be cancelled and called again without loss."""

    def __init__(self, link: socket.socket, frame: bytes, handed: Sequence[int] = ()) -> None:
        """`handed` are descriptors sent with the request. Raises `OSError` if the other side is gone."""
        self._link = link
        self._frame = frame
        self._sent = socket.send_fds(link, [frame], handed) if handed else link.send(frame)
        self._data = b""

    async def finish(self) -> Reply:
        """Raises `SandboxFailure` or `OSError` if the other side is gone."""
        link, frame = self._link, self._frame
        while self._sent < len(frame):
            await anyio.wait_writable(link)
            self._sent += link.send(frame[self._sent : self._sent + (1 << 17)])
        length = self._length()
        while len(self._data) < length:
            await anyio.wait_readable(link)
            more = link.recv(1 << 17)  # the kernel closes unrequested descriptors
            if not more:
                raise SandboxFailure("pid 1 is gone")
            self._data = self._data + more if self._data else more
            length = self._length()
        _, kind, killer, idle, status, total, wall, cpu, peak, _ = wire.REPLY.unpack_from(self._data)
        return Reply(
            kind, killer, bool(idle), status, total, wall, cpu, peak, self._data[wire.REPLY.size : length]
        )

    def _length(self) -> int:
        """Length of the whole reply, or of its header until that has arrived."""
        if len(self._data) < wire.REPLY.size:
            return wire.REPLY.size
        length = wire.REPLY.size + wire.LENGTH.unpack_from(self._data)[0]
        if length > wire.MAX_REPLY:
            raise SandboxFailure("pid 1 sent nonsense")
        return length


class Pulse:
    """Tells a process that waits for a CPU from one that has stopped: starvation is not death."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = b""

    def is_alive(self) -> bool:
        """Whether it can run, or has run or queued for a CPU since the last check."""
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
            with open(f"/proc/{self._pid}/schedstat", "rb") as file:
                seen = file.read()
        except OSError:
            return False
        before, self._seen = self._seen, seen
        return state in (b"R", b"D") or (state == b"S" and seen != before)
