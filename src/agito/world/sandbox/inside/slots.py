"""User and network namespaces that outlive a sandbox, because they cost more to make than all the rest of it.

A slot serves one sandbox at a time. Its network has a loopback that is up and nothing else, and it is used again only when not
one packet has passed through it; its user namespace holds one mapping and nothing else. The sandbox has no capability over
either. So what the next sandbox finds cannot be told from a new one.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from agito.world.sandbox.inside import box, kernel

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

_GET_LINK = struct.pack("=IHHIIBxHiII", 32, 18, 1, 1, 0, 0, 0, 1, 0, 0)  # RTM_GETLINK of interface 1
_STATS64 = 23  # IFLA_STATS64


class Slot:
    """One pair of namespaces, held open."""

    def __init__(self) -> None:
        """Leaves the caller in the new network namespace. Raises `OSError`."""
        kernel.unshare(kernel.CLONE_NEWNET)
        self.network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        raise_loopback()
        self.asking = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, 0)
        self.user = _user_namespace()

    def enter(self) -> None:
        """What the caller clones from here on is in this slot's network."""
        kernel.setns(self.network, kernel.CLONE_NEWNET)

    def is_unused(self) -> bool:
        """Whether no packet has ever passed through its loopback."""
        self.asking.send(_GET_LINK)
        answer = self.asking.recv(1 << 14)
        at = 32
        while at + 4 <= len(answer):
            length, kind = struct.unpack_from("=HH", answer, at)
            if kind == _STATS64:
                return not any(answer[at + 4 : at + length])
            at += (length + 3) & ~3 or len(answer)
        return False

    def close(self) -> None:
        os.close(self.network)
        os.close(self.user)
        self.asking.close()


def raise_loopback() -> None:
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(probe.fileno(), 0x8914, b"lo".ljust(16, b"\0") + b"\x41\0".ljust(24, b"\0"))  # SIOCSIFFLAGS: up, running
    probe.close()


def _user_namespace() -> int:
    """One with a single mapping, in which no further user namespace can be made."""
    mapped, written = os.pipe(), os.pipe()
    child = kernel.clone(kernel.CLONE_NEWUSER)
    if not child:
        os.read(mapped[0], 1)
        try:
            box.write("/proc/sys/user/max_user_namespaces", b"0")
            os.write(written[1], b".")
        except OSError:
            os.write(written[1], b"!")
        while True:
            signal.pause()
    try:
        box.write(f"/proc/{child}/gid_map", b"1000 1000 1")
        box.write(f"/proc/{child}/uid_map", b"1000 1000 1")
        os.write(mapped[1], b".")
        if os.read(written[0], 1) != b".":
            raise OSError(errno.EPERM, "further user namespaces could not be forbidden")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (*mapped, *written):
            os.close(descriptor)
