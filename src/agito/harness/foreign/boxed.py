"""A guest in a sandbox of its own: whatever it executes, or a policy has it execute, reaches its own gateway
and nothing else of the machine or of a network.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from io import FileIO

import anyio
from anyio import to_thread
from starlette.types import ASGIApp

from agito.errors import SandboxFailure
from agito.gateway import listening
from agito.harness.foreign.guest import MOST_PROCESSES, Ended, OwnClock, Tail, watched
from agito.harness.foreign.layout import Layout
from agito.protocols import OpensPool, Sandbox, SandboxPool, SandboxSpec

PORT = 8080  # of the gateway, in the sandbox's own network
URL = f"http://127.0.0.1:{PORT}"
_MEMORY_MB, _FILES_MB = 2048, 64
_LAST_BYTES = 64  # more than the line that says how it ended
_OWN_ENV = ("PATH", "HOME")  # not those of whoever trains


class Boxes:
    """One pool for all guests that are under way; it is closed with the last of them."""

    def __init__(self, layout: Layout, open_pool: OpensPool) -> None:
        self._layout, self._open_pool = layout, open_pool
        self._python = layout.python
        self._pool: SandboxPool | None = None
        self._num = 0
        self._changing = anyio.Lock()

    @asynccontextmanager
    async def box(self, env: Mapping[str, str], *, cpu_s: float) -> AsyncGenerator[tuple[Sandbox, bool]]:
        """With the guest's files in it, and whether its interpreter is kept warm. Raises `NoIsolation`,
        `SandboxFailure`."""
        pool = await self._enter()
        try:
            box = await pool.start(
                SandboxSpec(
                    work_mb=_FILES_MB,
                    tmp_mb=_FILES_MB,
                    mem_mb=_MEMORY_MB,
                    procs=MOST_PROCESSES,
                    fsize_mb=_FILES_MB,
                    cpu_s=cpu_s,
                    env={name: value for name, value in env.items() if name not in _OWN_ENV},
                    path=self._layout.path,
                )
            )
            try:
                files = await to_thread.run_sync(self._layout.contents)
                await box.write(files, executable=self._layout.executable())
                yield box, pool.cold is None
            finally:
                await box.close()
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave()

    async def _enter(self) -> SandboxPool:
        async with self._changing:
            if self._pool is None:
                self._pool = await self._open_pool(warm=0, shown=self._layout.shown, python=self._python)
                if self._pool.cold is not None:
                    self._python = None  # nor the next time
            self._num += 1
            return self._pool

    async def _leave(self) -> None:
        async with self._changing:
            self._num -= 1
            if not self._num and self._pool is not None:
                pool, self._pool = self._pool, None
                await pool.aclose()


@asynccontextmanager
async def serving(box: Sandbox, app: ASGIApp) -> AsyncGenerator[str]:
    """The gateway inside; nothing outside the sandbox can connect to it."""
    with await box.listen(PORT) as listener:
        async with listening(app, on=listener):
            yield URL


async def run(
    box: Sandbox,
    layout: Layout,
    *,
    is_warm: bool,
    prompt: str,
    over: anyio.Event,
    seconds: float,
    clock: OwnClock,
) -> Ended:
    """As `guest.run`. What a guest does to its sandbox it has done to itself. `is_warm`: it is forked from an
    interpreter that has imported what it imports.
    """
    mark = secrets.token_hex(16)
    command = f"exec 8>&2; {shlex.join(layout.argv)} 8>&-; printf '\\n%s %d\\n' {mark} $? >&8"
    try:
        service = await (box.launch_script(layout.argv[1:], mark=mark) if is_warm else box.launch(command))
    except (SandboxFailure, OSError) as error:
        return Ended(exit_code=None, why=f"it could not be started: {error}", tail="")
    said, stdin = _Said(mark), FileIO(service.stdin, "wb")
    try:
        why = await watched(
            tells=_tell(stdin, prompt.encode()),
            says=(said.out(service.stdout), said.error(service.stderr)),
            keep=said.add,
            ends=said.ended.wait(),
            over=over.wait(),
            limits=(clock.limit(seconds),),
        )
    finally:
        stdin.close()
        os.close(service.stdout)
        os.close(service.stderr)
    return Ended(exit_code=said.exit_code, why=why, tail=said.tail())


class _Said:
    """What a guest writes, and how its command ended: the shell that started it says so last, on standard
    error. A guest that reads the mark and says so itself ends itself.
    """

    def __init__(self, mark: str) -> None:
        self.ended = anyio.Event()
        self.exit_code: int | None = None
        self._tail, self._num_open = Tail(), 2
        self._last = re.compile(rb"\n%s (\d{1,3})\n" % mark.encode())  # an exit code has three digits at most

    def add(self, data: bytes) -> int:
        return self._tail.add(data)

    def tail(self) -> str:
        return self._tail.text(without=self._last)

    async def out(self, descriptor: int) -> AsyncGenerator[bytes]:
        """What comes by its standard output, which may be read after it has ended."""
        while data := await _some(descriptor):
            yield data
        self._closed()

    async def error(self, descriptor: int) -> AsyncGenerator[bytes]:
        """What comes by its standard error, with the last line."""
        rest = b""
        while data := await _some(descriptor):
            rest += data
            if found := self._last.search(rest):
                self.exit_code = int(found[1])
                self.ended.set()
            rest = rest[-_LAST_BYTES:]
            yield data
        self._closed()

    def _closed(self) -> None:
        """With the last of its streams it has ended."""
        self._num_open -= 1
        if not self._num_open:
            self.ended.set()


async def _some(descriptor: int) -> bytes:
    """Nothing at the end."""
    while True:
        try:
            return os.read(descriptor, 1 << 16)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)
        except OSError:
            return b""


async def _tell(stdin: FileIO, data: bytes) -> None:
    """On its standard input, which is then closed. It need not read."""
    with stdin:
        while data:
            await anyio.wait_writable(stdin)
            try:
                data = data[stdin.write(data[: 1 << 16]) or 0 :]
            except OSError:
                return
