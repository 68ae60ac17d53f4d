"""A guest's process: started for one attempt, and ended with everything that it started.

Where the system lets it, a guest has a process namespace of its own, so that nothing that it started outlives
it. It runs as whoever trains, with their files and network: it is their agent. It is no sandbox for what a
policy writes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.abc import ByteSendStream, Process

MOST_OUTPUT_BYTES = 1 << 25  # of both streams; what comes after the first and before the last is not kept
MOST_PROCESSES = 256
_TAIL_BYTES = 4000
_LOOK_S = 0.5
_START_S, _END_S, _DRAIN_S = 10.0, 5.0, 0.5


class OwnClock:
    """A guest's own seconds: those in which it waits for the policy or for a tool do not count."""

    def __init__(self) -> None:
        self._began, self._waited_s, self._depth, self._since = time.monotonic(), 0.0, 0, 0.0

    @contextmanager
    def waiting(self) -> Generator[None]:
        if not self._depth:
            self._since = time.monotonic()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._waited_s += time.monotonic() - self._since

    def own_s(self) -> float:
        now = time.monotonic()
        return now - self._began - self._waited_s - (now - self._since if self._depth else 0.0)

    def limit(self, limit_s: float) -> tuple[Awaitable[None], str]:
        """What is waited for, and what is said then."""
        return self._passed(limit_s), f"its own {limit_s:g} s are used up"

    async def _passed(self, limit_s: float) -> None:
        while True:
            left_s = limit_s - self.own_s()
            if left_s <= 0:
                return
            await anyio.sleep(max(left_s, 0.01))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a guest ended. `why` is empty when it ended by itself, or because the episode was over."""

    exit_code: int | None
    why: str
    tail: str  # of what it wrote


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    prompt: str,
    over: anyio.Event,
    seconds: float,
    clock: OwnClock,
) -> Ended:
    """Until it ends, `over` is set, or it has used up what it may. Raises `OSError` for a program that cannot
    be started.
    """
    namespace = await to_thread.run_sync(_namespace)
    with anyio.fail_after(_START_S):
        process = await anyio.open_process(
            [*namespace, *argv], cwd=cwd, env=env, start_new_session=True, stdin=subprocess.PIPE
        )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    tail = Tail()
    try:
        why = await watched(
            tells=_tell(process.stdin, prompt),
            says=(process.stdout, process.stderr),
            keep=tail.add,
            ends=process.wait(),
            over=over.wait(),
            limits=(
                clock.limit(seconds),
                (_multiplied(process.pid), f"it runs more than {MOST_PROCESSES} processes"),
            ),
        )
    finally:
        with anyio.move_on_after(_END_S, shield=True):
            own = _namespace_of(process.pid)
            _kill(process)
            await process.aclose()
            while own is not None and _num_in(own):  # noqa: ASYNC110 - the kernel says nothing when it is empty
                await anyio.sleep(0.005)
    return Ended(exit_code=process.returncode, why=why, tail=tail.text())


async def watched(
    *,
    tells: Awaitable[object],
    says: Sequence[AsyncIterable[bytes]],
    keep: Callable[[bytes], int],
    ends: Awaitable[object],
    over: Awaitable[object],
    limits: Sequence[tuple[Awaitable[object], str]],
) -> str:
    """Until a guest `ends`, the episode is `over`, or one of the `limits` is reached: the reason is returned.
    Meanwhile it is told what it is told, and what it says is kept; `keep` returns how much that is by now.
    """
    why, is_read = "", [anyio.Event() for _ in says]
    async with anyio.create_task_group() as tasks:

        def stop(reason: str = "") -> None:
            nonlocal why
            why = why or reason
            tasks.cancel_scope.cancel()

        async def stop_after(step: Awaitable[object], reason: str = "") -> None:
            await step
            stop(reason)

        async def read(stream: AsyncIterable[bytes], done: anyio.Event) -> None:
            async for data in stream:
                if keep(data) > MOST_OUTPUT_BYTES:
                    stop(f"it wrote more than {MOST_OUTPUT_BYTES >> 20} MiB")
            done.set()

        async def to_its_end() -> None:
            await ends
            with anyio.move_on_after(_DRAIN_S):
                for each in is_read:
                    await each.wait()

        async def tell() -> None:
            await tells

        tasks.start_soon(tell)
        for stream, done in zip(says, is_read, strict=True):
            tasks.start_soon(read, stream, done)
        tasks.start_soon(stop_after, over)
        for step, reason in limits:
            tasks.start_soon(stop_after, step, reason)
        tasks.start_soon(stop_after, to_its_end())
    return why


class Tail:
    """The end of what was written."""

    def __init__(self) -> None:
        self._data, self._total = b"", 0

    def add(self, data: bytes) -> int:
        self._data, self._total = (self._data + data)[-_TAIL_BYTES:], self._total + len(data)
        return self._total

    def text(self, *, without: re.Pattern[bytes] | None = None) -> str:
        data = self._data if without is None else without.sub(b"", self._data)
        return data.decode("utf-8", "replace").strip()


async def _tell(stream: ByteSendStream, prompt: str) -> None:
    """On its standard input, which is then closed. It need not read."""
    try:
        await stream.send(prompt.encode())
        await stream.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return


async def _multiplied(pid: int) -> None:
    """Until it runs too many processes."""
    while True:
        await anyio.sleep(_LOOK_S)
        if _num_beside(pid) > MOST_PROCESSES:
            return


def _num_beside(pid: int) -> int:
    """Processes of the namespace that it has opened; where it has none, of the session that it leads."""
    own = _namespace_of(pid)
    if own is not None:
        return _num_in(own)
    found = 0
    for other in _pids():
        with suppress(OSError):
            found += os.getsid(other) == pid
    return found


def _num_in(namespace: int) -> int:
    return sum(_inode(pid, "pid") == namespace for pid in _pids())


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _namespace_of(pid: int) -> int | None:
    """That which it has opened for its children; None where it has none of its own, or is gone."""
    own = _inode(pid, "pid_for_children")
    return None if own == _inode(os.getpid(), "pid") else own


def _inode(pid: int, namespace: str) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/{namespace}").stat().st_ino
    except OSError:
        return None


def _kill(process: Process) -> None:
    """With its session's processes; with a namespace of its own, everything in it. (`Process.kill` would reap
    it behind its watcher.)
    """
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


@lru_cache(maxsize=1)
def _namespace() -> tuple[str, ...]:
    """What starts a program in a process namespace of its own, or nothing where that is not allowed."""
    unshare = shutil.which("unshare")
    for more in ((), ("--user", "--map-current-user")) if unshare else ():
        command = (unshare or "", *more, "--pid", "--fork", "--kill-child=KILL", "--")
        try:
            if (
                subprocess.run(
                    [*command, "true"], capture_output=True, timeout=_START_S, check=False
                ).returncode
                == 0
            ):
                return command
        except (OSError, subprocess.TimeoutExpired):
            continue
    return ()
