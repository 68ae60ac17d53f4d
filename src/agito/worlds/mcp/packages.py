"""Copies installed Python packages into a folder that a sandbox can use as its base."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def gather(names: tuple[str, ...], folder: Path) -> Path:
    """Copies the installed distributions `names` and their dependencies into `folder`; a server sees them
    with PYTHONPATH=/work.

    Raises `ValueError` for one that is not installed.
    """
    pending, done = list(names), set[str]()
    while pending:
        name = pending.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in done:
            continue
        done.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name in names:
                raise ValueError(f"package {name!r}: not installed here; pip install {name}") from None
            continue  # needed on other platforms, or by an extra
        _copy(found, folder)
        pending.extend(
            match[0]
            for line in found.requires or ()
            if "extra ==" not in line and (match := _NAME.match(line))
        )
    return folder


def _copy(found: Distribution, folder: Path) -> None:
    for file in found.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue  # scripts, and caches for another path
        source = Path(str(file.locate()))
        if source.is_file():
            target = folder.joinpath(*file.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
