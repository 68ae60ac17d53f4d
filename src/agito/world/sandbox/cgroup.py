"""One control group around the zygote and all of its sandboxes: the kernel's own bound on what they hold together.

What a single sandbox may hold is watched from inside it. Joining a group per sandbox would be exact, and would stop the host for
10 ms whenever the kernel has to wait for a grace period.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_PREFIX = "agito-"


@dataclass(frozen=True, slots=True)
class Group:
    """A directory of ours in the control group file system."""

    path: Path

    def join(self, pid: int) -> bool:
        """Whether `pid`, and what it starts from now on, is now inside."""
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError:
            return False
        return True

    def remove(self) -> bool:
        """Whether it is gone; it stays while a process is left in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def make(limit_bytes: int) -> Group | None:
    """A new group that may hold `limit_bytes`, or None where this user may not make one."""
    for parent, is_v1 in _parents():
        try:
            for stale in parent.glob(f"{_PREFIX}*"):  # of a host that was killed
                Group(stale).remove()
            path = parent / f"{_PREFIX}{os.getpid()}-{os.urandom(3).hex()}"
            path.mkdir()
        except OSError:
            continue
        try:
            if is_v1:
                (path / "memory.limit_in_bytes").write_text(str(limit_bytes))
            else:
                (path / "memory.max").write_text(str(limit_bytes))
                (path / "memory.oom.group").write_text("0")
        except OSError:
            Group(path).remove()
            continue
        return Group(path)
    return None


def half_of_memory() -> int:
    """Bytes; what all sandboxes of a pool may hold together unless it is told otherwise."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _parents() -> list[tuple[Path, bool]]:
    """Where a group could be made: below our own; with version 2, where a group with processes has no limited children, beside it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[Path, bool]] = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if "memory" in controllers.split(","):
            found.append((_V1 / name.lstrip("/"), True))
        elif not controllers:
            own = _V2 / name.lstrip("/")
            found.extend((place, False) for place in (own, own.parent) if _limits_memory(place))
    return found


def _limits_memory(place: Path) -> bool:
    try:
        return "memory" in (place / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
