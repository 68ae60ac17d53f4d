"""Reads from the host's socket and from an episode's pipes."""

from __future__ import annotations

import _socket
import marshal
import os
from typing import Any

AT_ONCE = 1 << 16
_ROOM = 32  # for three descriptors
_CLOSE_ON_EXEC = 0x40000000  # MSG_CMSG_CLOEXEC


def read_request(control: _socket.socket) -> tuple[tuple[Any, ...], list[int]]:
    """The next whole request with its descriptors. Ends the process if the host is gone."""
    data, ancillary, _, _ = control.recvmsg(1 << 16, _ROOM, _CLOSE_ON_EXEC)
    if not data:
        os._exit(0)
    length = int.from_bytes(data[:4], "little") + 4
    if len(data) < length:
        parts, have = [data], len(data)
        while have < length:
            data = control.recv(min(1 << 20, length - have))
            if not data:
                os._exit(0)
            parts.append(data)
            have += len(data)
        data = b"".join(parts)
    came = ancillary[0][2] if ancillary else b""
    return marshal.loads(data[4:]), [
        int.from_bytes(came[at : at + 4], "little") for at in range(0, len(came), 4)
    ]


def pipe() -> tuple[int, int]:
    """A pipe whose read end never blocks: an episode could open it again and take the data that a poll
    announced.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing


def read_available(descriptor: int) -> bytes:
    """What is in a `pipe` now, up to `AT_ONCE` bytes; empty if nothing is there or it has ended."""
    try:
        return os.read(descriptor, AT_ONCE)
    except BlockingIOError:
        return b""


def is_ended(descriptor: int) -> bool:
    """Whether a `pipe` has no writers left. Discards its content."""
    try:
        return not os.read(descriptor, AT_ONCE)
    except BlockingIOError:
        return False
