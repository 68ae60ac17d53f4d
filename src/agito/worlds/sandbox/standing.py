"""A workspace as it stood at one moment, to see later whether anything in it has changed; read by descriptor,
never through a link.
"""

from __future__ import annotations

import os
import stat
import time

from agito.worlds.sandbox.inside.kernel import open_beneath

_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# a time of access in the future is not moved by reading, which so leaves no mark
_AHEAD_NS = 3_600_000_000_000


class Standing:
    """Names, kinds, modes, times, links and bytes of everything in the folder open at `work`, which must be
    small.

    Nobody can set the time of a change back, so a folder whose times are the same has the same names in it;
    bytes and attributes are compared all the same, as two changes within one tick of the kernel's clock look
    like one. It costs the same whatever was made.
    """

    def __init__(self, work: int) -> None:
        self._work = work
        self._seen: list[tuple[str, tuple[object, ...]]] = []
        pending = ["."]
        ahead = time.time_ns() + _AHEAD_NS
        while pending:
            path = pending.pop()
            handle = open_beneath(work, path, _PLAIN)
            try:
                info = os.fstat(handle)
                names = os.listdir(handle) if stat.S_ISDIR(info.st_mode) else []
                pending += names if path == "." else [f"{path}/{name}" for name in names]
                os.utime(handle, ns=(ahead, info.st_mtime_ns))
                self._seen.append((path, _told(handle)))
            finally:
                os.close(handle)

    def is_as_it_was(self) -> bool:
        for path, told in self._seen:
            try:
                handle = open_beneath(self._work, path, _PLAIN)
            except OSError:
                return False
            try:
                if _told(handle) != told:
                    return False
            except OSError:
                return False
            finally:
                os.close(handle)
        return True


def _told(handle: int) -> tuple[object, ...]:
    info = os.fstat(handle)
    kept = (
        info.st_ino,
        info.st_mode,
        info.st_nlink,
        info.st_size,
        info.st_mtime_ns,
        info.st_ctime_ns,
        info.st_atime_ns,
    )
    try:
        attributes = tuple(os.listxattr(handle))
    except OSError:  # a file system without them
        attributes = ()
    return *kept, attributes, _content(handle)


def _content(handle: int) -> bytes:
    info = os.fstat(handle)
    return os.pread(handle, info.st_size + 1, 0) if stat.S_ISREG(info.st_mode) else b""
