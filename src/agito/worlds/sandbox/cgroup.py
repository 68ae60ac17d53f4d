"""Control groups of a pool: one around the zygote and everything else, with one inside for each sandbox.

The host makes the outer group and hands it to the zygote's user. The zygote's keepers make the inner ones and
join them once (see `inside/keeper.py`), because joining waits for a kernel grace period. A group is locked
while its host lives, so that no process or container sweeps away the group of a live pool.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "agito-"
_CONTROLLERS = ("memory", "pids", "cpu")
_TRIES = 8
_NAME_BYTES = 5
_SHARES_PER_CPU = 1024  # equal to one busy process outside, per CPU


class Lock:
    """A directory held open and locked; `close` is idempotent."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True, slots=True)
class Place:
    """One directory of a group; version 1 has one per controller."""

    path: Path
    controllers: tuple[str, ...]
    is_v1: bool
    lock: Lock  # on the directory

    @property
    def entrance(self) -> Path:
        """The group for the zygote: in version 2, a group with limited children holds no processes itself."""
        return self.path if self.is_v1 else self.path / "zygote"


@dataclass(frozen=True, slots=True)
class Group:
    """Our directories in the control group file systems; the first one limits memory."""

    places: tuple[Place, ...]

    @property
    def path(self) -> Path:
        return self.places[0].path

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(name for place in self.places for name in place.controllers)

    def join(self, pid: int) -> bool:
        """Whether `pid`, and whatever it starts from now on, is now inside."""
        try:
            for place in self.places:
                (place.entrance / "cgroup.procs").write_text(str(pid))
        except OSError:
            return False
        return True

    def delegate(self, uid: int) -> None:
        """Lets `uid` make inner groups and move its own processes among them. Raises `OSError`."""
        for place in self.places:
            for path in {
                place.path,
                place.path / "cgroup.procs",
                place.entrance,
                place.entrance / "cgroup.procs",
            }:
                os.chown(path, uid, -1)

    def remove(self) -> bool:
        """Whether it is gone; it stays while it contains a process."""
        removed = [_remove(place) for place in self.places]
        return all(removed)


def make(limit_bytes: int) -> Group | None:
    """A new group limited to `limit_bytes`, or None if this user may not make one."""
    name = f"{_PREFIX}{os.urandom(_NAME_BYTES).hex()}"
    found: list[Place] = []
    for parent, controllers, is_v1 in _parents():
        place = _place(parent, name, controllers, is_v1)
        if place is None:
            continue
        try:
            _bound(place, limit_bytes)
        except OSError:
            _remove(place)
            continue
        found.append(place)
        if not is_v1:
            break
    if found and "memory" in found[0].controllers:
        return Group(tuple(found))
    for place in found:
        _remove(place)
    return None


def half_of_memory() -> int:
    """In bytes: the default memory limit of all sandboxes of a pool together."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _bound(place: Place, limit_bytes: int) -> None:
    """Raises `OSError`. Inherited limits need no write."""
    shares = _SHARES_PER_CPU * (os.cpu_count() or 1)
    if place.is_v1:
        if "memory" in place.controllers:
            (place.path / "memory.limit_in_bytes").write_text(str(limit_bytes))
        if "cpu" in place.controllers:
            (place.path / "cpu.shares").write_text(str(shares))
        return
    (place.path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in place.controllers))
    place.entrance.mkdir()
    if "memory" in place.controllers:
        (place.path / "memory.max").write_text(str(limit_bytes))
        (place.path / "memory.oom.group").write_text("0")
    if "cpu" in place.controllers:
        (place.path / "cpu.weight").write_text(str(min(10_000, shares * 100 // 1024)))


def _place(parent: Path, name: str, controllers: tuple[str, ...], is_v1: bool) -> Place | None:
    """A new, locked directory under `parent`, or None if this user may not make one. Sweeps groups of dead
    hosts.
    """
    try:
        for stale in parent.glob(f"{_PREFIX}*"):
            _sweep(stale)
        for attempt in range(_TRIES):
            path = parent / (f"{name}-{attempt}" if attempt else name)
            path.mkdir()
            lock = _lock(path)
            if lock is not None:
                return Place(path, controllers, is_v1, lock)
    except OSError:
        pass
    return None


def _lock(path: Path) -> Lock | None:
    """None if another process holds the lock or removed the directory."""
    try:
        lock = Lock(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        return None
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(lock.descriptor).st_ino:
            return lock
    except OSError:
        pass
    lock.close()
    return None


def _sweep(path: Path) -> None:
    lock = _lock(path)
    if lock is not None:  # its host is dead
        _remove_tree(path)
        lock.close()


def _remove(place: Place) -> bool:
    if not _remove_tree(place.path):
        return False
    place.lock.close()
    return True


def _remove_tree(path: Path) -> bool:
    """Whether the group and its inner groups are gone."""
    try:
        for inner in path.iterdir():
            if inner.is_dir():
                inner.rmdir()
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _parents() -> Iterator[tuple[Path, tuple[str, ...], bool]]:
    """Where groups may be made: below our own; in version 2, where a group with processes has no limited
    children, also beside it.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    found: dict[str, Path] = {}
    unified: Path | None = None
    for line in lines:
        _, controllers, name = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _CONTROLLERS:
                found[controller] = _ROOT / controller / name.lstrip("/")
        if not controllers:
            unified = _ROOT / name.lstrip("/")
    for controller in _CONTROLLERS:
        if controller in found:
            yield found[controller], (controller,), True
    if unified is not None and "memory" not in found:
        for place in (unified, unified.parent):
            controllers = _controllers(place)
            if "memory" in controllers:
                yield place, controllers, False


def _controllers(place: Path) -> tuple[str, ...]:
    """Controllers that `place` delegates to groups below it."""
    try:
        handed = (place / "cgroup.subtree_control").read_text().split()
    except OSError:
        return ()
    return tuple(name for name in _CONTROLLERS if name in handed)
