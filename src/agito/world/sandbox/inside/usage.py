"""How much memory an episode holds, as far as pid 1 can see it in /proc.

Seen: what processes have written, once where they share it; page tables; shared memory that was written and then given back by the
process alone, which only the length of its mapping tells; processes whose first thread has ended. Not seen: socket and pipe buffers,
and what is left of a shared mapping that was cut down between two looks. Where the machine runs short, an episode with many
mappings of unknown content counts as holding too much. Files in /work and /tmp are bounded by their own sizes.
"""

from __future__ import annotations

import os
import time

from agito.world.sandbox.inside.memory import others, read

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20
_SHARED = b"/dev/zero (deleted)"  # how the kernel names shared memory that is in no file
_LARGEST_MAP = 1 << 22
_COST = 20  # as long as nothing has grown past the limit, a thorough look costs at most this part of the time
_SHORT = 0.06  # of the machine's memory that is available
_MANY = 16


class Usage:
    """One episode's memory, look after look."""

    def __init__(self) -> None:
        self.segments: dict[bytes, int] = {}  # by inode: the longest that a piece of shared memory has been seen to be
        self.not_before = 0.0
        self.used = self.resident = 0  # as found by the last thorough look

    def used_mb(self, limit_mb: float) -> float:
        """Memory of every process but this one. Exact only near `limit_mb`; elsewhere what is cheap to know."""
        pids = [pid for pid in map(_living, others()) if pid]
        if sum(_pages(pid, 0) for pid in pids) * _PAGE <= limit_mb * _MIB:
            return 0.0  # they could not hold more if they wanted
        tables = sum(_field(read(f"/proc/{pid}/status"), b"VmPTE:") for pid in pids)
        if tables > limit_mb * _MIB:
            return tables / _MIB
        began = time.monotonic()
        resident = sum(_pages(pid, 1) for pid in pids) * _PAGE
        guess = self.used + max(0, resident - self.resident)
        if began < self.not_before and guess <= limit_mb * _MIB:
            return guess / _MIB
        used = tables + sum(map(_proportional, pids)) + self._shared(pids)
        self.used, self.resident = used, resident
        self.not_before = time.monotonic() + _COST * (time.monotonic() - began)
        return used / _MIB if not (len(self.segments) > _MANY and _is_short()) else 2 * limit_mb

    def _shared(self, pids: list[int]) -> int:
        """What shared memory may hold beyond what is mapped of it at this moment and so counted already."""
        mapped: dict[bytes, int] = {}
        resident = 0
        for pid in pids:
            for line in read(f"/proc/{pid}/maps", _LARGEST_MAP).splitlines():
                if not line.endswith(_SHARED):
                    continue
                span, _, offset, _, inode, *_ = line.split()
                first, last = (int(end, 16) for end in span.split(b"-"))
                mapped[inode] = max(mapped.get(inode, 0), int(offset, 16) + last - first)
            if mapped:
                resident += _field(read(f"/proc/{pid}/smaps_rollup"), b"Pss_Shmem:")
        self.segments = {inode: max(length, self.segments.get(inode, 0)) for inode, length in mapped.items()}
        return max(0, sum(self.segments.values()) - resident)


def _proportional(pid: int) -> int:
    """Shared pages divided among those who share them; where a process hides that, all of its resident pages."""
    return _field(read(f"/proc/{pid}/smaps_rollup"), b"Pss:") or _pages(pid, 1) * _PAGE


def _living(pid: int) -> int:
    """A thread of the process that has its memory: not the first one where that has ended. 0 where all have."""
    if _pages(pid, 0):
        return pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    return next((int(thread) for thread in threads if _pages(int(thread), 0)), 0)


def _pages(pid: int, column: int) -> int:
    """Column 0: all that it could hold; 1: what is in memory."""
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[column]) if len(fields) > column else 0


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def _is_short() -> bool:
    text = read("/proc/meminfo")
    return 0 < _field(text, b"MemAvailable:") < _SHORT * _field(text, b"MemTotal:")
