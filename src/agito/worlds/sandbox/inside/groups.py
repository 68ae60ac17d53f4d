"""The pool's control groups as its keepers see them: by descriptor, without the file system they are in."""

from __future__ import annotations

import errno
import os
import time

_TRIES = 50
_PAUSE_S = 0.002


class Groups:
    """Where a keeper makes its own group, and then that group itself."""

    def __init__(self, places: list[tuple[bool, tuple[str, ...], int]]) -> None:
        """For each place: whether it is version 1, its controllers, and a descriptor of the directory."""
        self.places = places
        self.bounds = (0, 0)

    def has(self, controller: str) -> bool:
        return any(controller in controllers for _, controllers, _ in self.places)

    def enter(self, name: str) -> None:
        """Makes `name` and moves the calling process into it. Takes a kernel grace period, about 10 ms.
        Raises `OSError`.
        """
        inner: list[tuple[bool, tuple[str, ...], int]] = []
        for is_v1, controllers, place in self.places:
            try:
                os.mkdir(name, 0o755, dir_fd=place)
            except FileExistsError:
                pass  # of a keeper that has ended
            own = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
            _write(own, "cgroup.procs", b"0")
            inner.append((is_v1, controllers, own))
        for _, _, place in self.places:
            os.close(place)
        self.places = inner

    def account(self) -> int:
        """A descriptor of the file that counts the kernel's out-of-memory kills; -1 if there is none."""
        for is_v1, controllers, place in self.places:
            if "memory" in controllers:
                return os.open(
                    "memory.oom_control" if is_v1 else "memory.events",
                    os.O_RDONLY | os.O_CLOEXEC,
                    dir_fd=place,
                )
        return -1

    def bound(self, memory_bytes: int, procs: int) -> None:
        """Sets the group's limits. Raises `OSError`."""
        if self.bounds == (memory_bytes, procs):
            return
        for is_v1, controllers, place in self.places:
            if "memory" in controllers:
                _bound_memory(place, "memory.limit_in_bytes" if is_v1 else "memory.max", memory_bytes)
            if "pids" in controllers:
                _write(place, "pids.max", b"%d" % procs)
        self.bounds = (memory_bytes, procs)


def _bound_memory(place: int, name: str, memory_bytes: int) -> None:
    """The kernel may take a moment to release what the last sandbox held."""
    for left in range(_TRIES, -1, -1):
        try:
            _write(place, name, b"%d" % memory_bytes)
        except OSError as error:
            if error.errno != errno.EBUSY or not left:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _write(place: int, name: str, value: bytes) -> None:
    handle = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=place)
    try:
        os.write(handle, value)
    finally:
        os.close(handle)
