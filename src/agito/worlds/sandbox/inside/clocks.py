"""CPU limits enforced from pid 1, for processes that ignore the signal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox


def end_spenders(pids: Iterable[int], seconds: float) -> None:
    """Kills every process that has used more CPU time than `seconds`."""
    for pid in pids:
        try:
            # the kernel's number for a process's CPU clock
            if time.clock_gettime(~pid << 3 | 2) > seconds:
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended
