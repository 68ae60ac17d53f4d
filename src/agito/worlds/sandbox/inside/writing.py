"""Writes files beneath the workspace from inside, as the episode's own user; and messages to the host's
socket.
"""

from __future__ import annotations

import _socket
import errno
import os
import stat
from collections.abc import Sequence

from agito.worlds.sandbox.inside import kernel


def write_file(work: int, path: str, data: bytes, mode: int) -> None:
    """Replaces an existing regular file. Raises `OSError`: ELOOP for a link on the way, EEXIST for anything
    else.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    parent, name = os.path.split(path)
    try:
        handle = kernel.open_beneath(work, path, flags, mode)
    except FileExistsError:
        parent_handle = directory(work, parent)
        try:
            kind = stat.S_IFMT(os.lstat(name, dir_fd=parent_handle).st_mode)
            if kind != stat.S_IFREG:
                raise OSError(errno.ELOOP if kind == stat.S_IFLNK else errno.EEXIST, path) from None
            os.unlink(name, dir_fd=parent_handle)
            handle = kernel.open_beneath(work, path, flags, mode)
        finally:
            os.close(parent_handle)
    except FileNotFoundError:
        os.close(directory(work, parent))
        handle = kernel.open_beneath(work, path, flags, mode)
    try:
        at = os.write(handle, data)
        while at < len(data):
            at += os.write(handle, data[at:])
    finally:
        os.close(handle)


def directory(work: int, path: str) -> int:
    """An open descriptor of a directory beneath the workspace; creates missing ones."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return kernel.open_beneath(work, path or ".", flags)
    except FileNotFoundError:
        here = kernel.open_beneath(work, ".", flags)
    for name in path.split("/"):
        outer = here
        try:
            try:
                here = kernel.open_beneath(outer, name, flags)
            except FileNotFoundError:
                os.mkdir(name, 0o755, dir_fd=outer)
                here = kernel.open_beneath(outer, name, flags)
        finally:
            os.close(outer)
    return here


def send(control: _socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Sends a short message with descriptors."""
    rights = b"".join(descriptor.to_bytes(4, "little") for descriptor in descriptors)
    control.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])


def answer(link: int, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Sends a reply over `link`. A requester that has given up gets none, which is no error here: the
    process that answers serves others too.
    """
    answering = _socket.socket(fileno=link)
    try:
        if descriptors:
            send(answering, message, descriptors)
        else:
            answering.send(message)
    except OSError:
        pass
    finally:
        answering.detach()
