"""Reading from the host's socket and from an episode's pipes."""

from __future__ import annotations

import _socket
import marshal
import os
import select
from typing import Any


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


def available(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return any(event & select.POLLIN for _, event in poller.poll(0))
