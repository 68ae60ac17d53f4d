"""Limits an episode's share of the CPUs if no control group does.

The kernel shares CPUs among sessions, and an episode can open a session per process. So runnable processes
beyond the machine's needs are stopped and take turns. Processes that the episode stopped itself stay stopped.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agito.worlds.sandbox.inside import memory

if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums, which would be copied into every sandbox

_PER_CPU = 2

is_watched = False  # whether there is any need
_most = _PER_CPU * len(os.sched_getaffinity(0))
# in the order of stopping; whether each has been seen to stand still since
_held: dict[int, bool] = {}


def keep_small() -> None:
    """One check and the next turn. Cheap if there are few processes."""
    if not is_watched:
        return
    pids = memory.others()
    if len(pids) <= _most and not _held:
        return
    states = {pid: memory.state_of(pid) for pid in pids}
    for pid in [pid for pid in _held if pid not in states]:
        del _held[pid]
    for pid, has_stood in list(_held.items()):
        if states[pid] != "R":
            _held[pid] = True
        elif has_stood:  # another process resumed it
            del _held[pid]
            _signal(pid, signal.SIGKILL)
    running = [pid for pid, state in states.items() if state == "R" and pid not in _held]
    turn = list(_held)[: max(_most // 2, _most - len(running))]
    for pid in turn:
        del _held[pid]
        _signal(pid, signal.SIGCONT)
    for pid in running[: max(0, len(running) + len(turn) - _most)]:
        _held[pid] = False
        _signal(pid, signal.SIGSTOP)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
