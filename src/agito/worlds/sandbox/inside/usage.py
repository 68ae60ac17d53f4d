"""Resource use of one action's processes: their total CPU time, and the time during which none of them wanted
any.

Neither depends on how busy the machine is. Dead processes are counted exactly, with threads, grandchildren
and orphans, as pid 1 is the last parent of all; live ones are read from /proc, in hundredths of a second. A
process whose parent ignores its end is not counted: so whoever ignores or handles SIGCHLD without being a
shell is charged wall time.
"""

from __future__ import annotations

import os
import resource
import time

from agito.worlds.sandbox.inside import memory, wire

_TICKS = os.sysconf("SC_CLK_TCK")
_CHILD_ENDS = 1 << 16  # SIGCHLD in the masks of /proc/PID/status
_SHELLS = frozenset(("bash", "dash", "sh", "busybox"))


class Meter:
    """One action's account, from start to end."""

    def __init__(self, cpu_s: float, asleep_s: float) -> None:
        self.most_cpu, self.most_asleep = cpu_s, asleep_s
        self.before = reaped_s()
        self.began = self.looked = time.monotonic()
        self.used = self.asleep = 0.0
        self.is_blind = False  # some process's end may have gone uncounted

    def look(self) -> int:
        """The reason to stop the action, or 0. Call it often: between two checks, only CPU time shows that
        something was awake.
        """
        now, before = time.monotonic(), self.used
        wants = self.take_stock()
        if not wants:
            self.asleep += max(0.0, now - self.looked - (self.used - before))
        self.looked = now
        if self.cpu_s() > self.most_cpu:
            return wire.CPU
        return wire.ASLEEP if self.asleep > self.most_asleep else 0

    def take_stock(self) -> bool:
        """Whether some process runs or waits for a CPU."""
        alive, wants = 0.0, False
        # parents first: a process reaped meanwhile is then missed once, never counted twice
        for pid in sorted(memory.others()):
            state, cpu_s = _standing(pid)
            alive += cpu_s
            wants = wants or state == "R"
            self.is_blind = self.is_blind or _hides_children(pid)
        self.used = max(self.used, reaped_s() - self.before + alive)
        return wants

    def settle(self, is_idle: bool) -> float:
        """The final CPU seconds. `is_idle`: nothing is alive any more."""
        if is_idle:
            self.used = max(self.used, reaped_s() - self.before)
        else:
            self.take_stock()
        return self.cpu_s()

    def cpu_s(self) -> float:
        return max(self.used, time.monotonic() - self.began) if self.is_blind else self.used


def reaped_s() -> float:
    """CPU time of all processes that have ended here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _standing(pid: int) -> tuple[str, float]:
    """The state of its first thread, and the CPU time of all its threads and reaped children."""
    text = memory.read(f"/proc/{pid}/stat")
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 15:
        return "X", 0.0
    return fields[0].decode(), sum(int(field) for field in fields[11:15]) / _TICKS


def _hides_children(pid: int) -> bool:
    masks = 0
    for line in memory.read(f"/proc/{pid}/status").splitlines():
        if line.startswith((b"SigIgn:", b"SigCgt:")):
            masks |= int(line.split()[1], 16)
    if not masks & _CHILD_ENDS:
        return False
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")) not in _SHELLS
    except OSError:
        return True
