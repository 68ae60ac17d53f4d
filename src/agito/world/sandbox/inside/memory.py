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


def stop_others() -> list[int]:
    """Stops every running process and waits until it stands still. Returns those to be continued; others stood already.

    Raises `TimeoutError`, with everything running again, when some do not stop within a second.
    """
    started = time.monotonic()
    stopped: list[int] = []
    while running := {pid: state for pid in others() if (state := state_of(pid)) not in "TtZX"}:
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
