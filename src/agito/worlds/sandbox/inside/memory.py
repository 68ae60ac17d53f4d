"""Lists and stops an episode's processes, through /proc from pid 1."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox


def others() -> list[int]:
    """Every process in the sandbox except this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def num_threads() -> int:
    """Threads of all processes in the sandbox, including this one; the kernel counts zombies too."""
    return 1 + sum(_num_threads(pid) for pid in others())


def stop_others() -> list[int]:
    """Stops every process at once and waits until all threads stand still. Returns those to resume.

    Raises `TimeoutError`, with everything running again, if some do not stop within a second.
    """
    started = time.monotonic()
    stood = {pid for pid in others() if not _moving(pid)}
    while True:
        try:
            os.kill(-1, signal.SIGSTOP)  # one by one, they could resume each other
        except ProcessLookupError:
            return []
        states = {pid: _moving(pid) for pid in others()}
        moving = "".join(states.values())
        waited = time.monotonic() - started
        # a parent in vfork waits for a stopped child
        if not moving or (waited > 0.02 and set(moving) == {"D"}):
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


def read(path: str, most: int = 4096) -> bytes:
    """The content of a /proc file, up to `most` bytes; empty if it cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = os.read(handle, most)
        while most > 4096 and len(found) < most and (more := os.read(handle, most - len(found))):
            found += more
    except OSError:
        return b""  # its process has ended
    finally:
        os.close(handle)
    return found


def state_of(pid: int) -> str:
    """One letter; X if there is no such process."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rfind(b")") + 2 :][:1].decode() or "X"


def _num_threads(pid: int) -> int:
    try:
        return max(1, len(os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return 1


def _moving(pid: int) -> str:
    """States of the threads that do not stand still. The first thread may have ended while the process goes
    on.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ""
    states = (read(f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return "".join(
        state for text in states if (state := text[text.rfind(b")") + 2 :][:1].decode()) not in "TtZX"
    )
