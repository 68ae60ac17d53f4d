"""A module of ours in a process of its own, which keeps torch out of this one and returns its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from agito.errors import AgitoError, CorruptCheckpoint, DiskFull, NotFound

_KINDS: dict[int, type[AgitoError]] = {
    kind.exit_code: kind for kind in (CorruptCheckpoint, DiskFull, NotFound)
}


def run_module(name: str, words: Sequence[str], *, deadline_s: float, what: str) -> None:
    """Its `main` prints an `AgitoError` and returns its exit code. Raises `AgitoError`, of the same kind for
    a checkpoint, a disk, or what is not there.
    """
    done = run_command([sys.executable, "-m", name, *words], deadline_s=deadline_s, what=what)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = lines[-1] if lines else f"exit code {done.returncode}"
        if done.returncode in _KINDS:
            raise _KINDS[done.returncode](said)
        raise AgitoError(f"{what} failed: {said}")


def run_command(command: Sequence[str], *, deadline_s: float, what: str) -> subprocess.CompletedProcess[str]:
    """Raises `AgitoError` where it takes too long."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise AgitoError(f"{what} has not ended within {deadline_s:.0f} s: try again") from error
