"""How much memory an episode holds, as far as pid 1 can see it in /proc.

Seen: what processes have written, once where they share it; page tables; shared memory that was written and
then given back by the process alone, which only the length of its mapping tells; processes whose first thread
has ended. Not seen: socket and pipe buffers, and what is left of a shared mapping that was cut down between
two looks. Where the machine runs short, an episode with many mappings of unknown content counts as holding
too much. Files in /work and /tmp are bounded by their own sizes.
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
_SHARED = b"/dev/zero (deleted)"  # how the kernel names shared memory that is in no file
_LARGEST_MAP = 1 << 22
_COST = 20  # as long as nothing has grown past the limit, a thorough look costs at most this part of the time
_SHORT = 0.06  # of the machine's memory that is available
_MANY = 16
_LOOK_S = 0.25

account = -1  # where the kernel says how many processes of this sandbox it has killed for memory


class Holding:
    """One episode's memory, look after look."""

    def __init__(self) -> None:
        # by inode: the longest that a piece of shared memory has been seen to be
        self.segments: dict[bytes, int] = {}
        self.not_before = 0.0
        self.used = self.own = 0  # as found by the last thorough look
        self.num_killed = _num_killed()

    def has_killed(self) -> bool:
        """Whether the kernel has killed a process of this sandbox for memory since the last time."""
        before, self.num_killed = self.num_killed, _num_killed()
        return self.num_killed > before

    def used_mb(self, limit_mb: float) -> float:
        """Memory of every process but this one. Exact only near `limit_mb`; elsewhere what is
        cheap to know.
        """
        limit = limit_mb * _MIB
        pids = [pid for pid in map(_living, others()) if pid]
        if sum(map(_reach, pids)) <= limit:
            return 0.0  # they could not hold more if they wanted
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
        """With what shared memory may hold beyond what is mapped of it at this moment and so
        counted already.
        """
        self.segments = {inode: max(length, self.segments.get(inode, 0)) for inode, length in mapped.items()}
        return proportional + max(0, sum(self.segments.values()) - shared)


def _look_closely(pids: list[int]) -> tuple[int, int, dict[bytes, int]] | None:
    """What `_look` finds; None where that takes too long.

    The kernel lets a process make whoever looks at its pages wait. So a child looks, and this process waits
    for it no longer than it wants to.
    """
    reading, writing = os.pipe()
    try:
        looker = os.fork()
    except OSError:
        looker = -1
    if not looker:
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
    while looker > 0 and poller.poll(max(0.0, until - time.monotonic()) * 1000):
        more = os.read(reading, 1 << 16)
        if not more:
            break
        said += more
    os.close(reading)
    if looker > 0:
        os.kill(looker, signal.SIGKILL)
    try:
        return marshal.loads(said)
    except (EOFError, ValueError, TypeError):
        return None  # it was not done, or the episode has ended it


def _look(pids: list[int]) -> tuple[int, int, dict[bytes, int]]:
    """Shared pages divided among those who share them (all that it could hold where a process hides that);
    how much of it is shared memory that is in no file; and how long each piece of that is, as far as it is
    mapped, by its inode.
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
    """A thread of the process that has its memory: not the first one where that has ended. 0
    where all have.
    """
    if _reach(pid):
        return pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    return next((int(thread) for thread in threads if _reach(int(thread))), 0)


def _reach(pid: int) -> int:
    """All that a process could hold, in bytes."""
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
