"""Copies a directory tree written by an episode into an immutable layer, by descriptors only.

Keeps hard links, holes and extended attributes, including overlay's own marks (whiteouts, opaque
directories). Skips sockets. Directories of a copy list their entries in the original order. Depth and path
length do not matter: one directory is open at a time, and `..` leads back to its parent, because nothing in
the tree moves.
"""

from __future__ import annotations

import errno
import os
import stat

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = _READ | os.O_DIRECTORY
_USER = "user."
_OVERLAY = "user.overlay."
_NUM_NAMES = 15  # names per path in one call: at most 255 bytes each

Entry = tuple[str, os.stat_result]


def copy_tree(source: int, target: int) -> bool:
    """Copies the directory open at `source` into the empty one open at `target`. Raises `OSError`.

    Returns whether it contains anything that overlay would take for its own mark.
    """
    return _Copy(source, target).run()


def remove_tree(parent: int, name: str, *, most: int | None = None) -> bool:
    """Removes `name` under the directory open at `parent`, at most `most` entries. Returns whether it is
    gone. Raises `OSError`.
    """
    os.chmod(name, 0o700, dir_fd=parent)
    here = os.open(name, _DIRECTORY, dir_fd=parent)
    names: list[str] = []  # of the directories down to here
    pending = [_names(here)]
    left = most
    try:
        while True:
            if not pending[-1]:
                pending.pop()
                if not names:
                    break
                here = _climb(here)
                os.rmdir(names.pop(), dir_fd=here)
                continue
            entry, is_directory = pending[-1].pop()
            if is_directory:
                os.chmod(entry, 0o700, dir_fd=here)
                here = _descend(here, entry)
                names.append(entry)
                pending.append(_names(here))
            else:
                os.unlink(entry, dir_fd=here)
            if left is not None:
                left -= 1
                if left < 0:
                    return False
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=parent)
    return True


class _Copy:
    """A copy in progress: the current pair of directories, and the remaining entries at each level."""

    def __init__(self, source: int, target: int) -> None:
        self.root = target
        self.source, self.target = (
            os.open(".", _DIRECTORY, dir_fd=source),
            os.open(".", _DIRECTORY, dir_fd=target),
        )
        self.top = os.fstat(self.source)
        self.above: list[Entry] = []  # the directories down to here
        self.pending = [_entries(self.source)]
        self.linked: dict[int, tuple[str, ...]] = {}  # path of the first link to each multiply linked file
        self.has_marks = False

    def run(self) -> bool:
        try:
            while self.pending:
                if self.pending[-1]:
                    self.copy(*self.pending[-1].pop())  # a tmpfs lists the newest first
                else:
                    self.leave()
            os.fchmod(self.target, stat.S_IMODE(self.top.st_mode))
        finally:
            os.close(self.source)
            os.close(self.target)
        return self.has_marks

    def copy(self, name: str, info: os.stat_result) -> None:
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG and info.st_nlink > 1 and info.st_ino in self.linked:
            self.link(name, self.linked[info.st_ino])
            return
        if kind == stat.S_IFDIR:
            self.enter(name, info)
            return
        if kind == stat.S_IFREG:
            self.copy_file(name, info)
            if info.st_nlink > 1:
                self.linked[info.st_ino] = (*(above for above, _ in self.above), name)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=self.source), name, dir_fd=self.target)
        elif kind == stat.S_IFIFO or (kind == stat.S_IFCHR and info.st_rdev == 0):
            os.mknod(name, info.st_mode, 0, dir_fd=self.target)
            self.has_marks |= kind == stat.S_IFCHR
        else:
            return
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=self.target, follow_symlinks=False)

    def enter(self, name: str, info: os.stat_result) -> None:
        os.mkdir(name, 0o700, dir_fd=self.target)
        self.source, self.target = _descend(self.source, name), _descend(self.target, name)
        self.above.append((name, info))
        self.pending.append(_entries(self.source))

    def leave(self) -> None:
        self.pending.pop()
        if not self.above:
            return
        name, info = self.above.pop()
        self.has_marks |= _copy_attributes(self.source, self.target)
        os.fchmod(self.target, stat.S_IMODE(info.st_mode))
        self.source, self.target = _climb(self.source), _climb(self.target)
        here, outer = os.fstat(self.source), self.above[-1][1] if self.above else self.top
        if here.st_ino != outer.st_ino or here.st_dev != outer.st_dev:
            raise OSError(errno.ESTALE, "a directory was moved while it was copied")
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=self.target, follow_symlinks=False)

    def link(self, name: str, first: tuple[str, ...]) -> None:
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.root)
        try:
            for at in range(0, len(first) - 1, _NUM_NAMES):
                path = "/".join(first[at : min(at + _NUM_NAMES, len(first) - 1)])
                folder = _descend(folder, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.link(first[-1], name, src_dir_fd=folder, dst_dir_fd=self.target)
        finally:
            os.close(folder)

    def copy_file(self, name: str, info: os.stat_result) -> None:
        reading = os.open(name, _READ, dir_fd=self.source)
        try:
            writing = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.target
            )
            try:
                _copy_content(reading, writing, info.st_size)
                self.has_marks |= _copy_attributes(reading, writing)
                os.fchmod(writing, stat.S_IMODE(info.st_mode))
            finally:
                os.close(writing)
        finally:
            os.close(reading)


def _copy_content(reading: int, writing: int, size: int) -> None:
    at = 0
    while at < size:
        try:
            at = os.lseek(reading, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        hole = os.lseek(reading, at, os.SEEK_HOLE)
        os.lseek(writing, at, os.SEEK_SET)
        while at < hole and (sent := os.sendfile(writing, reading, at, hole - at)):
            at += sent
    os.ftruncate(writing, size)


def _copy_attributes(source: int, target: int) -> bool:
    """Whether overlay would take one of them for its own mark."""
    try:
        names = os.listxattr(source)
    except OSError:  # a file system without extended attributes
        return False
    for name in names:
        if name.startswith(_USER):
            os.setxattr(target, name, os.getxattr(source, name))
    return any(name.startswith(_OVERLAY) for name in names)


def _entries(directory: int) -> list[Entry]:
    """To be popped from the end."""
    with os.scandir(directory) as entries:
        return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]


def _names(directory: int) -> list[tuple[str, bool]]:
    """Names, and whether each is a directory."""
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _descend(here: int, name: str, flags: int = _DIRECTORY) -> int:
    """Closes `here` once the next is open."""
    inner = os.open(name, flags, dir_fd=here)
    os.close(here)
    return inner


def _climb(here: int) -> int:
    return _descend(here, "..")
