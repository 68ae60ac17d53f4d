"""A workspace at one moment, to detect later changes; read by descriptor, never through a link."""

from __future__ import annotations

import os
import stat
import time

from agito.worlds.sandbox.inside.kernel import open_beneath

_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# reading does not move an access time in the future, so it leaves no mark
_AHEAD_NS = 3_600_000_000_000


class Standing:
    """Names, kinds, modes, times, links and bytes of everything in the folder open at `work`, which must be
    small.

    Change times cannot be set, so a folder with unchanged times has unchanged names. Bytes and attributes are
    compared anyway, as two changes within one kernel clock tick look like one. The cost does not depend on
    what changed.
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
    except OSError:  # a file system without extended attributes
        attributes = ()
    return *kept, attributes, _content(handle)


def _content(handle: int) -> bytes:
    info = os.fstat(handle)
    return os.pread(handle, info.st_size + 1, 0) if stat.S_ISREG(info.st_mode) else b""
