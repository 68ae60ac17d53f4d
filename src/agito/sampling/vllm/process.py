"""One vLLM server process: start, health checks, end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import anyio.to_thread

from agito.sampling.vllm import keeper
from agito.sampling.vllm.client import VllmClient, VllmFailed
from agito.sampling.vllm.spec import VllmSpec

_LOOK_S = 0.2
_PROGRESS_S = 5.0  # between two checks for progress
_KEEPER_S = 3.0  # beyond the keeper's own grace period
_TOLD_BYTES = 1500  # of its log, in error messages
_SEARCHED_BYTES = 40_000


class VllmProcess:
    """A server that ends with this process, however that ends."""

    def __init__(self, spec: VllmSpec) -> None:
        self._spec = spec
        self.directory = Path(tempfile.mkdtemp(prefix="agito-vllm-"))  # private to this user
        self.client = VllmClient(self.directory / "s")
        self._log = self.directory / "log"
        theirs, self._hold = os.pipe()
        kept = [sys.executable, "-I", keeper.__file__, str(theirs), str(spec.end_s), str(self.directory)]
        with self._log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [*kept, *spec.command(self.directory / "s")],
                pass_fds=[theirs],
                env=spec.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirs)
        self.num_waiting = 0  # running requests
        self.gone = anyio.Event()  # set when nobody uses it any more
        self.failure = ""  # why it is no longer trusted

    @property
    def keeper_pid(self) -> int:
        return self._keeper.pid

    def fail(self, why: str) -> None:
        self.failure = self.failure or why

    async def come_up(self) -> None:
        """Waits until it is up. Raises `VllmFailed` when it ends instead or takes too long."""
        until = time.monotonic() + self._spec.start_s
        while not await self.client.is_up():
            if self._keeper.poll() is not None:
                raise VllmFailed(f"vLLM did not start:\n{self.told()}")
            if time.monotonic() > until:
                raise VllmFailed(f"vLLM has not come up for {self._spec.start_s:.0f} s:\n{self.told()}")
            await anyio.sleep(_LOOK_S)

    async def watch(self) -> str:
        """Waits until it can no longer be trusted; returns why."""
        seen: tuple[float, ...] | None = None
        moved = looked = time.monotonic()
        silence_s = self._spec.silence_s
        while True:
            if self._keeper.poll() is not None:
                return f"vLLM has ended (exit code {self._keeper.returncode})"
            if self.failure:
                return self.failure
            now = time.monotonic()
            if not self.num_waiting:
                moved = now
            elif now - looked >= min(_PROGRESS_S, silence_s / 4):
                found = await self.client.progress(silence_s)
                looked = now
                if found is not None and found != seen:
                    seen, moved = found, now
                if now - moved > silence_s:
                    return (
                        f"vLLM has computed nothing for {silence_s:.0f} s with {self.num_waiting} "
                        "requests under way"
                    )
            await anyio.sleep(_LOOK_S)

    async def end(self) -> None:
        """Idempotent."""
        if self._hold < 0:
            return
        os.close(self._hold)
        self._hold = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            await anyio.to_thread.run_sync(self._keeper.wait, self._spec.end_s + _KEEPER_S)
        self._keeper.kill()  # its server dies with it
        self._keeper.wait()
        self._end_group()
        await self.client.__aexit__(None, None, None)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_group(self) -> None:
        """A keeper that was killed takes the server along, but not the server's own processes."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int((self.directory / "group").read_text()), signal.SIGKILL)

    def error(self) -> str:
        """The last error in its log, if any."""
        found = [line for line in self.told(_SEARCHED_BYTES).splitlines() if "Error: " in line]
        return f" (its log: {found[-1].strip()[-300:]})" if found else ""

    def told(self, most: int = _TOLD_BYTES) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self._log.read_bytes()[-most:].decode(errors="replace")
        return ""
