"""One writer to a folder: whoever writes there holds its lock, until it ends in whatever way."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agito.errors import AgitoError


def lock(path: Path, *, otherwise: str) -> int:
    """A handle for `unlock`. Raises `AgitoError` while another writer has it: with its process and, after
    that, `otherwise`."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        writer = os.pread(handle, 32, 0).decode(errors="replace").strip()
        os.close(handle)
        raise AgitoError(f"{path}: process {writer or 'unknown'} {otherwise}") from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def unlock(handle: int) -> None:
    os.ftruncate(handle, 0)  # nobody writes any more: see `RunDir.is_written`
    os.close(handle)
