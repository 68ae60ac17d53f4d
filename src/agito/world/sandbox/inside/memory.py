"""How much memory an episode's processes hold, and how to stop them all; by looking into /proc from pid 1."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox


_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20
_LOOK_S = 0.25


def used_mb(limit_mb: float) -> float:
    """Memory of every process but this one. Exact only near `limit_mb`; below, and where it takes long to see, an overestimate.

    Files in /work and /tmp are bounded by their own sizes, and memfds do not exist here. Does not see socket and pipe buffers.
    """
    pids = others()
    rough = sum(_resident(pid) for pid in pids)
    if rough > limit_mb * _MIB:
        rough = sum(_own(pid) for pid in pids)
    exact = _closely(pids) if rough > limit_mb * _MIB else None
    return (rough if exact is None else exact) / _MIB


def _closely(pids: Sequence[int]) -> int | None:
    """Bytes, shared pages counted once; None where that takes too long to see.

    The kernel lets a process make whoever looks at its pages wait. So a child looks, and this process waits for it no longer than it
    wants to.
    """
    reading, writing = os.pipe()
    try:
        looker = os.fork()
    except OSError:
        looker = -1
    if not looker:
        try:
            os.write(writing, b"%d" % sum(_proportional(pid) for pid in pids))
        finally:
            os._exit(0)
    os.close(writing)
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    said = os.read(reading, 32) if looker > 0 and poller.poll(_LOOK_S * 1000) else b""
    os.close(reading)
    if looker > 0:
        os.kill(looker, signal.SIGKILL)
    return int(said) if said else None


def others() -> list[int]:
    """Every process in the sandbox but this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def num_threads() -> int:
    """Of every process in the sandbox, this one too; the kernel counts what has ended and is not reaped."""
    return 1 + sum(_num_threads(pid) for pid in others())


def stop_others() -> list[int]:
    """Stops every process, all at once, and waits until each of their threads stands still. Returns those to be continued.

    Raises `TimeoutError`, with everything running again, when some do not stop within a second.
    """
    started = time.monotonic()
    stood = {pid for pid in others() if not _moving(pid)}
    while True:
        try:
            os.kill(-1, signal.SIGSTOP)  # one after another, they could continue each other
        except ProcessLookupError:
            return []
        states = {pid: _moving(pid) for pid in others()}
        moving = "".join(states.values())
        waited = time.monotonic() - started
        if not moving or (waited > 0.02 and set(moving) == {"D"}):  # a parent in vfork waits for a child that stands still
            return [pid for pid in states if pid not in stood]
        if waited > 1.0:
            resume([pid for pid in states if pid not in stood])
            raise TimeoutError("processes did not stop")
        time.sleep(0.0002)


def resume(stopped: list[int]) -> None:
    for pid in stopped:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def read(path: str) -> bytes:
    """The beginning of a file of /proc; nothing where it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(handle, 4096)
    except OSError:
        return b""
    finally:
        os.close(handle)


def _num_threads(pid: int) -> int:
    try:
        return max(1, len(os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return 1


def _moving(pid: int) -> str:
    """The states of those threads of a process that do not stand still. The first may have ended, and the process goes on."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ""
    states = (read(f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return "".join(state for text in states if (state := text[text.rfind(b")") + 2 :][:1].decode()) not in "TtZX")


def _resident(pid: int) -> int:
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def _own(pid: int) -> int:
    """Without the pages of files, which are the system's or have a size of their own."""
    lines = read(f"/proc/{pid}/status").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith((b"RssAnon:", b"RssShmem:")))


def _proportional(pid: int) -> int:
    """Shared pages divided among those who share them; where a process hides that, all of its resident pages."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)
