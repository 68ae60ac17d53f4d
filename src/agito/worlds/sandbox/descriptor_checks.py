"""Checks descriptors that came out of a sandbox before use, as the inside may lie about anything."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence

import anyio

from agito.errors import SandboxFailure


def port(number: int, *, least: int = 1) -> int:
    """Raises `ValueError` for an invalid port."""
    if not least <= number <= 65_535:
        raise ValueError(f"port={number}: from {least} to 65535")
    return number


def tcp(descriptor: int) -> socket.socket:
    """Raises `SandboxFailure` for anything but a TCP socket: other kinds could carry descriptors or lead
    elsewhere.
    """
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SandboxFailure("the sandbox handed over something that is no socket")
    found = socket.socket(fileno=descriptor)
    if (found.family, found.type, found.proto) != (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP):
        found.close()
        raise SandboxFailure("the sandbox handed over a socket that is not TCP")
    found.setblocking(False)
    return found


async def is_connected(link: socket.socket) -> bool:
    """Whether a connection in progress succeeds. A connection to itself, which TCP can make on a free port,
    does not count.
    """
    await anyio.wait_writable(link)
    if link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return False
    try:
        return link.getpeername() != link.getsockname()
    except OSError:
        return False


def close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
