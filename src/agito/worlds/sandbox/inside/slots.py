"""User and network namespaces that are reused, because they cost more to make than the rest of a sandbox.

A slot serves one sandbox at a time. Its network has only a loopback, and is reused only if every counter and
table readable inside is as it was when new. Its user namespace holds only one mapping. The sandbox has no
capability over either. So the next sandbox cannot tell them from new ones.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from agito.worlds.sandbox.inside import box, kernel

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

# What a sandbox could change in its network without sending a packet: failure counters, and entries that
# outlive their owner.
_TABLES = ("dev", "snmp", "snmp6", "dev_snmp6/lo", "netstat", "rt6_stats", "ip6_flowlabel", "igmp", "igmp6")
_LARGEST = 1 << 14


class Slot:
    """One pair of namespaces. The maker is in the network; the user namespace is held open."""

    def __init__(self, identity: int) -> None:
        """`identity` is the sandbox user's uid outside. Raises `OSError`."""
        kernel.unshare(kernel.CLONE_NEWNET)
        raise_loopback()
        self.user = _user_namespace(identity)
        self.is_used = False
        self.fresh = _tables()

    def is_unused(self) -> bool:
        """Whether nothing readable in the network reveals an earlier sandbox."""
        return not self.is_used and _tables() == self.fresh

    def close(self) -> None:
        os.close(self.user)


def raise_loopback() -> None:
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    # SIOCSIFFLAGS: up, running
    fcntl.ioctl(probe.fileno(), 0x8914, b"lo".ljust(16, b"\0") + b"\x41\0".ljust(24, b"\0"))
    probe.close()


def _tables() -> list[bytes]:
    """The readable tables of the caller's network."""
    directory = os.open("/proc/self/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found: list[bytes] = []
    for name in _TABLES:
        try:
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            continue  # a kernel without it
        found.append(os.read(handle, _LARGEST))
        os.close(handle)
    os.close(directory)
    return found


def _user_namespace(identity: int) -> int:
    """A user namespace with a single mapping, in which no further one can be made."""
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
        box.write(f"/proc/{child}/gid_map", b"%d %d 1" % (box.ZYGOTE, identity))
        box.write(f"/proc/{child}/uid_map", b"%d %d 1" % (box.ZYGOTE, identity))
        os.write(mapped[1], b".")
        if os.read(written[0], 1) != b".":
            raise OSError(errno.EPERM, "further user namespaces could not be forbidden")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (*mapped, *written):
            os.close(descriptor)
