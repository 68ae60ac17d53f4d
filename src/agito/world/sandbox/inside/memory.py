"""How much memory an episode's processes hold, and how to stop them all; by looking into /proc from pid 1."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox


_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


def used_mb(limit_mb: float) -> float:
    """Memory of every process but this one. Exact only near `limit_mb`; below, an overestimate that is cheap.

    Files in /work and /tmp are bounded by their own sizes, and memfds do not exist here. Does not see socket and pipe buffers.
    """
    pids = others()
    rough = sum(_resident(pid) for pid in pids) / _MIB
    return rough if rough <= limit_mb else sum(_proportional(pid) for pid in pids) / _MIB


def others() -> list[int]:
    """Every process in the sandbox but this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def stop_others() -> list[int]:
    """Stops every running process and waits until it stands still. Returns those to be continued; others stood already.

    Raises `TimeoutError`, with everything running again, when some do not stop within a second.
    """
    started = time.monotonic()
    stopped: list[int] = []
    while running := {pid: state for pid in others() if (state := _state(pid)) not in "TtZX"}:
        for pid in running:
            if pid not in stopped:
                try:
                    os.kill(pid, signal.SIGSTOP)
                    stopped.append(pid)
                except ProcessLookupError:
                    pass
        waited = time.monotonic() - started
        if waited > 0.02 and set(running.values()) == {"D"}:
            break  # a parent in vfork waits for a child that stands still
        if waited > 1.0:
            resume(stopped)
            raise TimeoutError("processes did not stop")
        time.sleep(0.0002)
    return stopped


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


def _state(pid: int) -> str:
    text = read(f"/proc/{pid}/stat")
    return text[text.rfind(b")") + 2 :][:1].decode() or "X"


def _resident(pid: int) -> int:
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def _proportional(pid: int) -> int:
    """Shared pages divided among those who share them; where a process hides that, all of its resident pages."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)
