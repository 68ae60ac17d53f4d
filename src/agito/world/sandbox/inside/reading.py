"""Reading from the host's socket and from an episode's pipes."""

from __future__ import annotations

import _socket
import marshal
import os
from typing import Any

AT_ONCE = 1 << 16


def read_request(control: _socket.socket) -> tuple[Any, ...]:
    """The next whole request. Ends the process when the host is gone."""
    data = control.recv(1 << 16)
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
    return marshal.loads(data[4:])


def pipe() -> tuple[int, int]:
    """One whose end for reading never blocks: an episode can open it a second time, and take away what a poll has promised."""
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
