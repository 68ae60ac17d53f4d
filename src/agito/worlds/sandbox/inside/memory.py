"""Which processes an episode has, and how to stop them all; by looking into /proc from pid 1."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox


def others() -> list[int]:
    """Every process in the sandbox but this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def num_threads() -> int:
    """Of every process in the sandbox, this one too; the kernel counts what has ended and is not reaped."""
    return 1 + sum(_num_threads(pid) for pid in others())


def stop_others() -> list[int]:
    """Stops every process, all at once, and waits until each of their threads stands still. Returns those to
    be continued.

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
        # a parent in vfork waits for a child that stands still
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
    """What a file of /proc says, up to `most` bytes; nothing where it cannot be read."""
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
    """One letter; X where there is no such process."""
    text = read(f"/proc/{pid}/stat")
    return text[text.rfind(b")") + 2 :][:1].decode() or "X"


def _num_threads(pid: int) -> int:
    try:
        return max(1, len(os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return 1


def _moving(pid: int) -> str:
    """The states of those threads of a process that do not stand still. The first may have ended, and the
    process goes on.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ""
    states = (read(f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return "".join(
        state for text in states if (state := text[text.rfind(b")") + 2 :][:1].decode()) not in "TtZX"
    )
