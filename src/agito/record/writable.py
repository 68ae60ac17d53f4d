"""Whether what a command is to write can be written: asked before it does its work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from agito.errors import NotFound


def require_file(path: Path, option: str) -> None:
    """Raises `NotFound` for a file that could not be written: its folder must be there."""
    if path.is_dir():
        raise NotFound(f"{option} {path}: that is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise NotFound(f"{option} {path}: there is no folder {path.absolute().parent}; make it first")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise NotFound(f"{option} {path}: it cannot be written: {error.strerror}") from None


def require_folder(path: Path, option: str = "") -> None:
    """Raises `NotFound` for a folder that could not be made, with those above it, or not be written."""
    said = f"{option} {path}".strip()
    nearest = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise NotFound(f"{said}: {nearest} is no folder; choose another place")
    try:
        tempfile.TemporaryDirectory(dir=nearest).cleanup()
    except OSError as error:
        raise NotFound(
            f"{said}: {nearest} cannot be written ({error.strerror}); choose another place"
        ) from None
