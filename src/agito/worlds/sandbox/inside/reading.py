"""Reading from the host's socket and from an episode's pipes."""

from __future__ import annotations

import _socket
import marshal
import os
from typing import Any

AT_ONCE = 1 << 16
_ROOM = 32  # for three descriptors
_CLOSE_ON_EXEC = 0x40000000  # MSG_CMSG_CLOEXEC


def read_request(control: _socket.socket) -> tuple[tuple[Any, ...], list[int]]:
    """The next whole request, and the descriptors that came with it. Ends the process when the
    host is gone.
    """
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
    """One whose end for reading never blocks: an episode can open it a second time, and take away what a poll
    has promised.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing


def take(descriptor: int) -> bytes:
    """What is in a `pipe` at this moment, up to `AT_ONCE` bytes; nothing where it is empty or ended."""
    try:
        return os.read(descriptor, AT_ONCE)
    except BlockingIOError:
        return b""


def is_ended(descriptor: int) -> bool:
    """Whether nobody can write into a `pipe` any more. What could be read is thrown away."""
    try:
        return not os.read(descriptor, AT_ONCE)
    except BlockingIOError:
        return False
