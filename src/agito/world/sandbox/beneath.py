"""Reading an episode's files from the host: by descriptor, never by path, never through a link."""

from __future__ import annotations

import errno
import os
import stat

from agito.errors import NotFound
from agito.world.sandbox.inside.kernel import open_beneath

MAX_DEPTH = 64
MAX_ENTRIES = 100_000
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def relative(path: str) -> str:
    """`path` beneath the workspace, without a leading /work. Raises `ValueError` for one that is outside or no file name."""
    inner = path[len("/work/") :] if path.startswith("/work/") else path
    parts = [part for part in inner.split("/") if part not in ("", ".")]
    if inner.startswith("/") or ".." in parts or not parts or "\0" in path or inner.endswith("/"):
        raise ValueError(f"path={path!r}: name a file beneath the workspace, such as notes/a.txt")
    return "/".join(parts)


def read_file(work: int, path: str, limit_bytes: int) -> bytes:
    """Raises `NotFound`, and `ValueError` for anything but a regular file of at most `limit_bytes`."""
    try:
        handle = open_beneath(work, relative(path), _FILE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFound(f"{path}: not in the workspace") from None
        raise ValueError(f"path={path!r}: {os.strerror(error.errno or 0)}; only regular files without links on the way are read") from None
    return _content(handle, path, limit_bytes)


def read_all(work: int, limit_bytes: int, under: str = "") -> dict[str, bytes]:
    """Every regular file beneath `under` that can be read, by path relative to the workspace, in order; links and devices are skipped.

    Raises `ValueError` when together they exceed `limit_bytes`, or when there are too many or too deep directories.
    """
    found: dict[str, bytes] = {}
    left, entries = limit_bytes, 0
    pending = [(under, 0)]
    while pending:
        prefix, depth = pending.pop()
        try:
            directory = open_beneath(work, prefix or ".", _DIRECTORY)
        except OSError:
            continue  # made unreadable, or swapped for something else
        try:
            with os.scandir(directory) as listing:
                for entry in listing:
                    entries += 1
                    name = f"{prefix}/{entry.name}" if prefix else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((name, depth + 1))
                    elif entry.is_file(follow_symlinks=False):
                        data = _try(work, name, left)
                        if data is not None:
                            found[name] = data
                            left -= len(data)
        finally:
            os.close(directory)
        if depth > MAX_DEPTH or entries > MAX_ENTRIES:
            raise ValueError(f"the workspace is deeper than {MAX_DEPTH} directories or holds more than {MAX_ENTRIES} entries")
    return dict(sorted(found.items()))


def _try(work: int, path: str, limit_bytes: int) -> bytes | None:
    try:
        handle = open_beneath(work, path, _FILE)
    except OSError:
        return None
    return _content(handle, path, limit_bytes)


def _content(handle: int, path: str, limit_bytes: int) -> bytes:
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError(f"path={path!r}: not a regular file")
        if info.st_size > limit_bytes:
            raise ValueError(f"path={path!r}: {info.st_size} bytes, over the limit of {limit_bytes}")
        data = os.read(handle, limit_bytes + 1)
        while len(data) < info.st_size and len(data) <= limit_bytes and (more := os.read(handle, limit_bytes + 1 - len(data))):
            data += more
        if len(data) > limit_bytes:
            raise ValueError(f"path={path!r}: grew over the limit of {limit_bytes} bytes")
        return data
    finally:
        os.close(handle)
