"""An episode's memory use, as far as pid 1 can see it in /proc.

Seen: written pages, counted once where shared; page tables; shared memory that was written and then given
back by the process alone, which only the length of its mapping reveals; processes whose first thread has
ended. Not seen: socket and pipe buffers, and remains of a shared mapping that was truncated between two
checks. If the machine runs short, an episode with many mappings of unknown content counts as exceeding its
limit. Files in /work and /tmp are limited by their own sizes.
"""

from __future__ import annotations

import marshal
import os
import select
import time
from typing import TYPE_CHECKING

from agito.worlds.sandbox.inside import wire
from agito.worlds.sandbox.inside.memory import others, read

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20
_SHARED = b"/dev/zero (deleted)"  # the kernel's name for shared memory without a file
_LARGEST_MAP = 1 << 22
_COST = 20  # a thorough check takes at most 1/20 of the time, unless memory has grown beyond the limit
_SHORT = 0.06  # share of the machine's memory that must stay available
_MANY = 16
_LOOK_S = 0.25

account = -1  # descriptor of the kernel's count of out-of-memory kills in this sandbox


class Holding:
    """One episode's memory over repeated checks."""

    def __init__(self) -> None:
        # longest observed length of each piece of shared memory, by inode
        self.segments: dict[bytes, int] = {}
        self.not_before = 0.0
        self.used = self.own = 0  # from the last thorough check
        self.num_killed = _num_killed()

    def has_killed(self) -> bool:
        """Whether the kernel has killed a process of this sandbox for memory since the last check."""
        before, self.num_killed = self.num_killed, _num_killed()
        return self.num_killed > before

    def used_mb(self, limit_mb: float) -> float:
        """Memory of all processes but this one. Exact only near `limit_mb`; otherwise a cheap estimate."""
        limit = limit_mb * _MIB
        pids = [pid for pid in map(_living, others()) if pid]
        if sum(map(_reach, pids)) <= limit:
            return 0.0  # they could not hold more
        own = tables = 0
        for pid in pids:
            status = read(f"/proc/{pid}/status")
            own += _field(status, b"RssAnon:") + _field(status, b"RssShmem:")
            tables += _field(status, b"VmPTE:")
        began = time.monotonic()
        guess = tables + self.used + max(0, own - self.own)
        if tables <= limit and (began >= self.not_before or guess > limit):
            looked = _look_closely(pids)
            guess = tables + (own if looked is None else self._sum(*looked))
            self.used, self.own = guess - tables, own
            self.not_before = time.monotonic() + _COST * (time.monotonic() - began)
        return guess / _MIB if not (len(self.segments) > _MANY and _is_short()) else 2 * limit_mb

    def _sum(self, proportional: int, shared: int, mapped: dict[bytes, int]) -> int:
        """Adds shared memory beyond what is currently mapped and so already counted."""
        self.segments = {inode: max(length, self.segments.get(inode, 0)) for inode, length in mapped.items()}
        return proportional + max(0, sum(self.segments.values()) - shared)


def _look_closely(pids: list[int]) -> tuple[int, int, dict[bytes, int]] | None:
    """The result of `_look`; None if it takes too long.

    A process can make readers of its pages wait. So a child reads, and this process waits only for a limited
    time.
    """
    reading, writing = os.pipe()
    try:
        reader = os.fork()
    except OSError:
        reader = -1
    if not reader:
        try:
            data = marshal.dumps(_look(pids), wire.FORMAT)
            while data:
                data = data[os.write(writing, data) :]
        finally:
            os._exit(0)
    os.close(writing)
    said, until = b"", time.monotonic() + _LOOK_S
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    while reader > 0 and poller.poll(max(0.0, until - time.monotonic()) * 1000):
        more = os.read(reading, 1 << 16)
        if not more:
            break
        said += more
    os.close(reading)
    if reader > 0:
        os.kill(reader, signal.SIGKILL)
    try:
        return marshal.loads(said)
    except (EOFError, ValueError, TypeError):
        return None  # not finished, or the episode killed it


def _look(pids: list[int]) -> tuple[int, int, dict[bytes, int]]:
    """Proportional set size (all that a process could hold, if it hides it); the part that is shared memory
    without a file; and the mapped length of each piece of it, by inode.
    """
    proportional = shared = 0
    mapped: dict[bytes, int] = {}
    for pid in pids:
        rollup = read(f"/proc/{pid}/smaps_rollup")
        proportional += _field(rollup, b"Pss:") or _reach(pid)
        lines = [
            line for line in read(f"/proc/{pid}/maps", _LARGEST_MAP).splitlines() if line.endswith(_SHARED)
        ]
        for line in lines:
            span, _, offset, _, inode, *_ = line.split()
            first, last = (int(end, 16) for end in span.split(b"-"))
            mapped[inode] = max(mapped.get(inode, 0), int(offset, 16) + last - first)
        shared += _field(rollup, b"Pss_Shmem:") if lines else 0
    return proportional, shared, mapped


def _living(pid: int) -> int:
    """A thread that still has the process's memory: not the first one if that has ended. 0 if all have."""
    if _reach(pid):
        return pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    return next((int(thread) for thread in threads if _reach(int(thread))), 0)


def _reach(pid: int) -> int:
    """The most that a process could hold, in bytes."""
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[0]) * _PAGE if fields else 0


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _num_killed() -> int:
    if account < 0:
        return 0
    text = os.pread(account, 4096, 0).split()
    return int(text[text.index(b"oom_kill") + 1]) if b"oom_kill" in text else 0


def _is_short() -> bool:
    text = read("/proc/meminfo")
    return 0 < _field(text, b"MemAvailable:") < _SHORT * _field(text, b"MemTotal:")
