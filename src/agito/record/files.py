"""Atomic file writes: a reader sees the old file or the new one. A full disk raises `DiskFull`.

Survives `kill -9` at any moment; a power cut only with `durable=True`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agito.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def reports_full_disk(path: Path) -> Generator[None]:
    """Raises `DiskFull` in place of the system's error."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(path) from error
        raise


def disk_full(path: Path) -> DiskFull:
    return DiskFull(
        f"{path}: no space left on this disk; what is committed is intact. Free some space, then go on "
        "with --resume"
    )


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes beside `path`, then renames over it. Raises `DiskFull`, leaving the old file in place."""
    beside = path.with_name(f".{path.name}.partial")
    with reports_full_disk(path):
        try:
            with beside.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
