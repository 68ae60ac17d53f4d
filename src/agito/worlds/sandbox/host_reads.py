"""Reads an episode's files from the host: by descriptor, never by path, never through a link.

A capture is complete, or `Uncapturable` says why not. A mode that locks its owner out does not hide a file.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Generator, Sequence

from agito.errors import NotFound, Uncapturable
from agito.worlds.sandbox.inside.kernel import open_beneath

MAX_DEPTH = 64
MAX_ENTRIES = 100_000
MAX_PATH = 4_000  # bytes; a longer path cannot be opened by name
MAX_PATHS = 1 << 22  # bytes of all paths together
_SLICE_S = 0.004  # reading time before others get a turn
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
# it vanished, or was swapped for something else
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR)


def relative(path: str) -> str:
    """`path` relative to the workspace, without a leading /work. Raises `ValueError` for a path outside or no
    file name.
    """
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
        raise ValueError(
            f"path={path!r}: {os.strerror(error.errno or 0)}; only regular files without links on the way "
            "are read"
        ) from None
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError(f"path={path!r}: not a regular file")
        return _content(handle, info.st_size, path, limit_bytes)
    finally:
        os.close(handle)


Reading = Generator[None, None, dict[str, bytes]]


def read_all(work: int, limit_bytes: int, under: str = "") -> dict[str, bytes]:
    """Every regular file beneath `under`, by path relative to the workspace, in order; skips links and
    devices.

    Raises `Uncapturable` if they exceed `limit_bytes` together, for too many entries or too deep directories,
    and for files that cannot be read.
    """
    reading = read_in_turns(work, limit_bytes, under)
    try:
        while True:
            next(reading)
    except StopIteration as end:
        return end.value


def read_in_turns(work: int, limit_bytes: int, under: str = "") -> Reading:
    """As `read_all`, but yields every few milliseconds, so that the caller can let others run; returns the
    files.
    """
    top = _let_in(_Held(os.dup(work)))
    return (yield from _Walk(limit_bytes).directory(top, "", 0, under.split("/") if under else ()))


class _Walk:
    """One traversal of a tree, in an order that sorts the paths."""

    def __init__(self, limit_bytes: int) -> None:
        self.found: dict[str, bytes] = {}
        self.left = limit_bytes
        self.num_entries = self.num_path_bytes = 0
        self.began = time.perf_counter()

    def directory(self, held: _Held, prefix: str, depth: int, only: Sequence[str] = ()) -> Reading:
        """Closes `held`. With `only`, visits just the directory at that path."""
        try:
            if depth > MAX_DEPTH:
                raise Uncapturable(f"the workspace is deeper than {MAX_DEPTH} directories")
            names = [f"{only[0]}/"] if only else (yield from self._listed(held.handle, prefix))
            for name in names:
                if self._is_time():
                    yield
                is_directory = name.endswith("/")
                inner = _hold(held.handle, name.rstrip("/"), _DIRECTORY if is_directory else _FILE, prefix)
                if inner is None:
                    continue
                if is_directory:
                    yield from self.directory(inner, prefix + name, depth + 1, only[1:])
                else:
                    self._file(inner, prefix + name)
        finally:
            held.close()
        return self.found

    def _listed(self, handle: int, prefix: str) -> Generator[None, None, list[str]]:
        """Regular files, and directories with a trailing slash."""
        names: list[str] = []
        length = len(os.fsencode(prefix))
        with os.scandir(handle) as listing:
            try:
                for entry in listing:
                    self._count(length + len(os.fsencode(entry.name)))
                    if entry.is_dir(follow_symlinks=False):
                        names.append(f"{entry.name}/")
                    elif entry.is_file(follow_symlinks=False):
                        names.append(entry.name)
                    if self._is_time():
                        yield
            except FileNotFoundError:
                pass  # the directory itself was removed
        return sorted(names)

    def _count(self, path_bytes: int) -> None:
        self.num_entries += 1
        self.num_path_bytes += path_bytes
        if self.num_entries > MAX_ENTRIES:
            raise Uncapturable(f"the workspace holds more than {MAX_ENTRIES} entries")
        if path_bytes > MAX_PATH:
            raise Uncapturable(f"the workspace holds a path of more than {MAX_PATH} bytes")
        if self.num_path_bytes > MAX_PATHS:
            raise Uncapturable(f"the paths in the workspace are over {MAX_PATHS >> 20} MiB together")

    def _file(self, held: _Held, path: str) -> None:
        try:
            info = os.fstat(held.handle)
            if stat.S_ISREG(info.st_mode):
                data = _content(held.handle, info.st_size, path, self.left)
                self.found[path] = data
                self.left -= len(data)
        finally:
            held.close()

    def _is_time(self) -> bool:
        now = time.perf_counter()
        if now - self.began < _SLICE_S:
            return False
        self.began = now + _SLICE_S  # the others' time does not count
        return True


class _Held:
    """An open file or directory, and the mode to restore on closing; -1 for none."""

    __slots__ = ("handle", "mode")

    def __init__(self, handle: int, mode: int = -1) -> None:
        self.handle, self.mode = handle, mode

    def close(self) -> None:
        if self.mode >= 0:
            os.fchmod(self.handle, self.mode)
        os.close(self.handle)


def _hold(directory: int, name: str, flags: int, prefix: str) -> _Held | None:
    """None if it vanished or was swapped. Raises `Uncapturable` if it cannot be opened."""
    try:
        try:
            handle = open_beneath(directory, name, flags)
        except PermissionError:
            return _unlocked(directory, name, flags)
        return _let_in(_Held(handle)) if flags & os.O_DIRECTORY else _Held(handle)
    except OSError as error:
        if error.errno in _VANISHED:
            return None
        raise Uncapturable(f"{prefix}{name}: {os.strerror(error.errno or 0)}") from None


def _unlocked(directory: int, name: str, flags: int) -> _Held:
    """Opens what its mode hides from its owner (this process, if it is not root). Raises `OSError`."""
    key = open_beneath(directory, name, os.O_PATH | os.O_NOFOLLOW)
    try:
        info = os.fstat(key)
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
            raise FileNotFoundError(errno.ENOENT, name)
        mode = stat.S_IMODE(info.st_mode)
        os.chmod(f"/proc/self/fd/{key}", mode | (0o500 if flags & os.O_DIRECTORY else 0o400))
        try:
            return _Held(open_beneath(directory, name, flags), mode)
        except OSError:
            os.chmod(f"/proc/self/fd/{key}", mode)
            raise
    finally:
        os.close(key)


def _let_in(held: _Held) -> _Held:
    """Makes a directory's entries accessible to its owner."""
    info = os.fstat(held.handle)
    if not info.st_mode & 0o100 and info.st_uid == os.geteuid():
        held.mode = stat.S_IMODE(info.st_mode)
        os.fchmod(held.handle, held.mode | 0o500)
    return held


def _content(handle: int, size: int, path: str, limit_bytes: int) -> bytes:
    """Raises `Uncapturable` beyond `limit_bytes`."""
    if size > limit_bytes:
        raise Uncapturable(f"path={path!r}: {size} bytes, over the limit of {limit_bytes}")
    data = os.read(handle, size + 1)
    while (
        len(data) < size
        and len(data) <= limit_bytes
        and (more := os.read(handle, limit_bytes + 1 - len(data)))
    ):
        data += more
    if len(data) > limit_bytes:
        raise Uncapturable(f"path={path!r}: grew over the limit of {limit_bytes} bytes")
    return data
