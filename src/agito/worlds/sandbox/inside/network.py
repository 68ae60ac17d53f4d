"""Sockets of the caller's network, made to be handed to the host."""

from __future__ import annotations

import _socket

LOOPBACK = "127.0.0.1"
_BACKLOG = 128


def connecting(port: int) -> int:
    """A socket that has begun to connect; the host waits for it, so that no service can make this process
    wait.
    """
    link = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    link.connect_ex((LOOPBACK, port))
    return link.detach()


def listening(port: int) -> int:
    """A listener; 0 lets the kernel choose. Raises `OSError` where the port is taken."""
    listener = _socket.socket(
        _socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    )
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
        return listener.detach()
    finally:
        listener.close()
