"""Copying a directory tree that an episode wrote, by descriptors only, into an immutable layer.

Hard links stay links, holes stay holes, overlay's own marks (whiteouts, opaque directories) are kept. Sockets are left out.
Directories of a copy list their entries in the order of the original.
"""

from __future__ import annotations

import errno
import os
import stat

MAX_DEPTH = 128
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OVERLAY = "user.overlay."


def copy_tree(source: int, target: int) -> None:
    """From the directory open at `source` into the empty one open at `target`. Raises `OSError`."""
    _copy_directory(source, target, target, "", {}, 0)


def remove_tree(parent: int, name: str) -> None:
    """Removes `name` under the directory open at `parent`. Raises `OSError`."""
    os.chmod(name, 0o700, dir_fd=parent)
    directory = os.open(name, _READ | os.O_DIRECTORY, dir_fd=parent)
    try:
        for entry in _entries(directory):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(directory, entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _copy_directory(source: int, target: int, root: int, path: str, linked: dict[int, str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise OSError(errno.ELOOP, f"the workspace is deeper than {MAX_DEPTH} directories")
    for entry in reversed(_entries(source)):  # a tmpfs lists the newest first
        info = entry.stat(follow_symlinks=False)
        name, kind = entry.name, stat.S_IFMT(info.st_mode)
        here = f"{path}/{name}" if path else name
        if kind == stat.S_IFREG and info.st_nlink > 1 and info.st_ino in linked:
            os.link(linked[info.st_ino], name, src_dir_fd=root, dst_dir_fd=target)
            continue
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            inner_source = os.open(name, _READ | os.O_DIRECTORY, dir_fd=source)
            inner_target = os.open(name, _READ | os.O_DIRECTORY, dir_fd=target)
            try:
                _copy_directory(inner_source, inner_target, root, here, linked, depth + 1)
                _copy_marks(inner_source, inner_target)
                os.fchmod(inner_target, stat.S_IMODE(info.st_mode))
            finally:
                os.close(inner_source)
                os.close(inner_target)
        elif kind == stat.S_IFREG:
            _copy_file(source, target, name, info)
            if info.st_nlink > 1:
                linked[info.st_ino] = here
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind == stat.S_IFIFO or (kind == stat.S_IFCHR and info.st_rdev == 0):
            os.mknod(name, info.st_mode, 0, dir_fd=target)
        else:
            continue
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str, info: os.stat_result) -> None:
    reading = os.open(name, _READ, dir_fd=source)
    try:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            at, size = 0, info.st_size
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
            _copy_marks(reading, writing)
            os.fchmod(writing, stat.S_IMODE(info.st_mode))
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_marks(source: int, target: int) -> None:
    try:
        names = os.listxattr(source)
    except OSError:  # a file system without them
        return
    for name in names:
        if name.startswith(_OVERLAY):
            os.setxattr(target, name, os.getxattr(source, name))


def _entries(directory: int) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)
