"""Runs a server for as long as somebody holds the other end of a pipe: `keeper.py FD GRACE_S DIRECTORY
COMMAND...`.

A server has child processes that would outlive a killed parent. This process prevents that: when the pipe
closes, it terminates, then kills, the server's process group, and deletes its directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> None:
    pipe, grace_s, directory, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
    # Single-threaded.
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
    )
    Path(directory, "group").write_text(str(server.pid))  # for when this process is killed
    watched = os.pidfd_open(server.pid)
    ready, _, _ = select.select([pipe, watched], [], [])  # waits as long as the run lasts
    _signal(server.pid, signal.SIGTERM)
    select.select([watched], [], [], grace_s)
    _signal(server.pid, signal.SIGKILL)
    code = server.wait()
    if pipe in ready:
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(code if code >= 0 else 128 - code)


def _signal(group: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, which)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
