"""Sockets of this sandbox's own network, made to be handed to the host: the only way in, and there is none out.

TCP only: unlike a unix socket it can carry neither descriptors nor credentials, so all that ever crosses it is bytes.
"""

from __future__ import annotations

import _socket

LOOPBACK = "127.0.0.1"
_BACKLOG = 128


def connecting(port: int) -> int:
    """A socket that has begun to connect; the host waits for it, so that no service can make this process wait."""
    link = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    link.connect_ex((LOOPBACK, port))
    return link.detach()


def listening(port: int) -> int:
    """A listener; 0 lets the kernel choose. Raises `OSError` where the port is taken.

    The host may hold it longer than this sandbox lives. So it sends a packet: a network that was used is never given to another sandbox.
    """
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
        mark = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            mark.sendto(b"", listener.getsockname())
        finally:
            mark.close()
        return listener.detach()
    finally:
        listener.close()
