"""Sockets in the caller's network, to be passed to the host."""

from __future__ import annotations

import _socket

LOOPBACK = "127.0.0.1"
_BACKLOG = 128


def connecting(port: int) -> int:
    """A socket with a connection in progress; the host waits for it, so that no service can block this
    process.
    """
    link = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    link.connect_ex((LOOPBACK, port))
    return link.detach()


def listening(port: int) -> int:
    """A listener; port 0 lets the kernel choose. Raises `OSError` if the port is taken."""
    listener = _socket.socket(
        _socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    )
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(_BACKLOG)
        return listener.detach()
    finally:
        listener.close()
