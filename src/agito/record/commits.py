"""Committed directories: complete under their own name, or absent.

The rename is the commit. Anything else is a leftover that the next commit of that name removes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from agito.errors import CorruptCheckpoint, DiskFull
from agito.types import Json

META = "meta.json"
_FORMAT = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


def commit(directory: Path, write: Callable[[Path], None], *, meta: Mapping[str, Json] | None = None) -> None:
    """Makes `directory` atomically: `write` fills a temporary sibling, which is synced, then renamed.

    `meta` is stored beside it: consumed slots, curriculum, counters. Raises `DiskFull`, leaving earlier
    commits intact, and `FileExistsError` when `directory` exists: a commit is never overwritten.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} is already committed: choose another name or remove it")
    temporary = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        (temporary / META).write_text(
            json.dumps({"format": _FORMAT, "meta": dict(meta or {})}, sort_keys=True), encoding="utf-8"
        )
        _sync_tree(temporary)
        temporary.rename(directory)
        _sync(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_full(error):
            raise DiskFull(
                f"{directory}: no space left; free some and resume: what was committed before is intact"
            ) from error
        raise


def latest(parent: Path, *, before: int | None = None) -> Path | None:
    """The committed `step-N` with the largest N, below `before` if given."""
    steps = {
        int(path.name[5:]): path
        for path in parent.glob("step-*")
        if path.name[5:].isdigit() and path.is_dir()
    }
    return steps[max(kept)] if (kept := [step for step in steps if before is None or step < before]) else None


def newest(parent: Path) -> Path | None:
    """The checkpoint after the last step, or else the latest one before it."""
    final = parent / "final"
    return final if final.is_dir() else latest(parent)


def prune(
    parent: Path,
    keep: int,
    *,
    spared: frozenset[str] = frozenset(),
    reach: int | None = None,
    revoked: range = range(0),
) -> None:
    """Removes all committed `step-N` except the last `keep`, those `spared`, and the last one below step
    `reach`, to which a run can still go back. `revoked` ones are always removed, and first. Each is renamed
    before deletion, so none is ever half there."""
    if keep < 1:
        raise ValueError(f"keep={keep}: need at least 1")
    steps = {int(path.name[5:]): path for path in parent.glob("step-*") if path.name[5:].isdigit()}
    kept = sorted(step for step in steps if step not in revoked)
    needed = set(kept[-keep:]) | {step for step in kept if steps[step].name in spared}
    if reach is not None:
        needed |= set([step for step in kept if step <= reach][-1:])
    for step, path in sorted(steps.items()):
        if step in needed:
            continue
        rubbish = path.with_name(f".{path.name}.partial")
        shutil.rmtree(rubbish, ignore_errors=True)
        path.rename(rubbish)
        shutil.rmtree(rubbish)


def load_meta(directory: Path) -> dict[str, Json]:
    """The `meta` passed to `commit`. Raises `CorruptCheckpoint`."""
    path = directory / META
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path}: {error}: use an earlier checkpoint") from error
    meta = value.get("meta") if isinstance(value, dict) and value.get("format") == _FORMAT else None
    if not isinstance(meta, dict):
        raise CorruptCheckpoint(
            f"{path}: not format {_FORMAT} with a 'meta' object: use an earlier checkpoint"
        )
    return meta


def _is_full(error: BaseException) -> bool:
    # Safetensors reports the operating system's error as text.
    return (isinstance(error, OSError) and error.errno in _FULL) or "No space left on device" in str(error)


def _sync_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
