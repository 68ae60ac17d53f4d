"""A live sandbox on the host side: a socket to its pid 1, and descriptors of that process and of its
workspace.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from agito.errors import SandboxExhausted, SandboxFailure, Uncapturable
from agito.protocols import Result, SandboxSpec, Service
from agito.types import Fault
from agito.worlds.sandbox import descriptor_checks, host_reads
from agito.worlds.sandbox.commands import Program, as_program, is_stateless
from agito.worlds.sandbox.inside import wire
from agito.worlds.sandbox.link import Exchange, Pulse, Reply
from agito.worlds.sandbox.workspace_snapshot import Standing

GRACE_S = 2.0  # pid 1 enforces deadlines; if it is silent this long after one, it is killed
STARVED_S = 30.0  # extra patience if the machine is so busy that pid 1 was not scheduled
START_S = 30.0
_RETRY_S = 0.01
_ASLEEP = 4.0  # how long a metered snippet may sleep, in multiples of its CPU seconds
_KILLERS = {
    wire.DEADLINE: ("deadline", Fault.TIMEOUT),
    wire.MEMORY: ("memory", Fault.BUDGET),
    wire.OUTPUT: ("output", Fault.BUDGET),
    wire.START: ("no process left", Fault.BUDGET),
    wire.CPU: ("cpu", Fault.BUDGET),
    wire.ASLEEP: ("asleep", Fault.TIMEOUT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What a fork needs besides the files."""

    spec: SandboxSpec
    layers: tuple[str, ...]  # top first
    is_stacked: bool  # forks are stacked on the layers; otherwise they copy the only one
    cwd: str
    env: dict[str, str]


class Box:
    """Implements `Sandbox`. One call at a time; cancelling a call ends the sandbox."""

    def __init__(
        self,
        link: socket.socket,
        spec: SandboxSpec,
        layers: tuple[str, ...],
        on_snapshot: Callable[[Box, Frozen], Awaitable[str]],
        make_socket: Callable[[str, int], Awaitable[int]],
    ) -> None:
        self._link = link
        self._spec = spec
        self._on_snapshot = on_snapshot
        self._make_socket = make_socket
        self.layers = layers
        self.is_stacked = False  # on its layers
        self.work = self.upper = self._pidfd = -1
        self._configuration: tuple[dict[str, str], int, int, str] | None = None
        self._is_busy = False
        self._handing_over = anyio.Lock()
        self._is_idle = True
        self._end: str | None = None  # why it can no longer be used
        self.on_close: Callable[[Box], None] | None = None

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    def configure(self, spec: SandboxSpec, env: dict[str, str], cwd: str) -> None:
        """Takes effect with the next request, at no extra cost."""
        self._spec = spec
        self._configuration = (env, spec.output_bytes, spec.mem_mb, cwd)

    async def ready(self) -> None:
        """Waits for pid 1's report. Raises `SandboxFailure`."""
        if self._pidfd >= 0:
            return
        with anyio.move_on_after(START_S):
            try:
                await anyio.wait_readable(self._link)
                data, descriptors, _, _ = socket.recv_fds(self._link, 4096, 3, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise self._failed(f"the sandbox did not start: {error}") from None
            if len(descriptors) == 3:
                self._pidfd, self.work, self.upper = descriptors
                return
            self._link.close()
            reason = data[wire.REPLY.size :].decode(errors="replace")
            raise self._failed(f"the sandbox did not start: {reason or 'the zygote is gone'}")
        raise self._failed(f"the sandbox has not started for {START_S:.0f} s")

    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        """A fresh `bash -c`; working directory and exported variables carry over."""
        program = as_program(command)
        return await self._act(
            command, False, timeout_s, program is None and not is_stateless(command), program
        )

    async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
        """A snippet in a fresh fork of the warm interpreter; it sees the shell's directory and variables.

        `cpu_s` limits the CPU time of the snippet and everything it starts; `cpu_s` of the result then covers
        the whole tree. A snippet that mostly sleeps is stopped after four times as long. `timeout_s` is then
        only for a machine that gives it no CPU time.
        """
        return await self._act(
            code, True, timeout_s, False, None, None if cpu_s is None else (cpu_s, _ASLEEP * cpu_s)
        )

    async def write(self, files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> None:
        """Sends all files in one message. Raises `ValueError` for a path outside, a link on the way, or a
        target that is no regular file.

        Raises `OSError` if the workspace cannot take a file: it is full, or a directory is not writable.
        """
        rows = [
            (
                host_reads.relative(path),
                data.encode(errors="surrogateescape") if isinstance(data, str) else data,
                0o755 if path in executable else 0o644,
            )
            for path, data in files.items()
        ]
        reply = await self._call(("write", rows), START_S)
        if reply.status in (errno.ELOOP, errno.EXDEV, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
            raise ValueError(
                f"path={reply.body.decode(errors='replace')}; only regular files without links on the way "
                "are written"
            )
        if reply.kind != wire.DONE and not reply.status:
            raise self._failed(reply.body.decode(errors="replace"))
        if reply.kind != wire.DONE:
            raise OSError(reply.status, reply.body.decode(errors="replace"))

    async def read(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        """Raises `NotFound`, and `ValueError` for anything but a regular file beneath the workspace."""
        self._check()
        return host_reads.read_file(self.work, path, limit_bytes)

    async def files(self, *, limit_bytes: int = 1 << 22, under: str = "") -> dict[str, bytes]:
        """Every regular file beneath the workspace or its folder `under`; links are never followed.

        Raises `Uncapturable` beyond `limit_bytes` in total, and for anything else that cannot be captured
        whole: the policy caused it.

        Concurrent writes may be missed: `kill` first.
        """
        self._check()
        reading = host_reads.read_in_turns(
            self.work, limit_bytes, host_reads.relative(under) if under else ""
        )
        try:
            while True:
                next(reading)
                await anyio.lowlevel.checkpoint()
                self._check()
        except StopIteration as end:
            return end.value
        finally:
            reading.close()

    async def standing(self) -> Standing:
        """The current workspace, to be compared later with `is_as_it_was` once everything is killed."""
        self._check()
        return Standing(self.work)

    async def kill(self) -> None:
        """Kills everything inside but pid 1; free if nothing else is alive."""
        self._check()
        if not self._is_idle:
            reply = await self._call(("kill",), START_S)
            if reply.kind != wire.DONE:
                reason = "the kernel has not yet taken apart what the episode's processes held"
                self.discard(reason)
                raise SandboxExhausted(reason)

    async def snapshot(self) -> str:
        """Freezes, copies, thaws; the sandbox goes on. Returns a token for `pool.fork`.

        Raises `Uncapturable` if the episode's processes keep resuming each other.
        """
        reply = await self._call(("freeze",), START_S)
        if reply.kind != wire.FROZEN:
            raise Uncapturable(
                f"what runs in the sandbox could not be frozen: {reply.body.decode(errors='replace')}"
            )
        cwd, *assignments = (os.fsdecode(part) for part in reply.body.split(b"\0"))
        env: dict[str, str] = {}
        for assignment in assignments:
            name, _, value = assignment.partition("=")
            env[name] = value
        try:
            return await self._on_snapshot(
                self,
                Frozen(spec=self._spec, layers=self.layers, is_stacked=self.is_stacked, cwd=cwd, env=env),
            )
        finally:
            with anyio.CancelScope(shield=True):
                await self._call(("thaw",), START_S)

    async def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        """A connection to a server inside; waits until one listens. Raises `TimeoutError`. The caller closes
        it.
        """
        with anyio.fail_after(timeout_s):
            while True:
                self._check()
                link = descriptor_checks.tcp(await self._make_socket("connect", descriptor_checks.port(port)))
                try:
                    if await descriptor_checks.is_connected(link):
                        return link
                except BaseException:
                    link.close()
                    raise
                link.close()
                await anyio.sleep(_RETRY_S)

    async def listen(self, port: int = 0) -> socket.socket:
        """A listener at 127.0.0.1 of the sandbox's own network, accepted on the host. Raises `OSError` if the
        port is taken.

        Nothing outside this sandbox can connect to it. The caller closes it.
        """
        self._check()
        return descriptor_checks.tcp(await self._make_socket("listen", descriptor_checks.port(port, least=0)))

    async def launch(self, command: str) -> Service:
        """Starts `bash -c` in the background. It runs until it ends, the sandbox does, or everything inside
        is killed (by `kill`, or at the deadline of an action).
        """
        problem = _unsayable(command)
        if problem:
            raise ValueError(f"command={command!r}: {problem.decode().strip()}")
        return await self._launch(command)

    async def launch_script(self, arguments: Sequence[str], *, mark: str) -> Service:
        """A Python script in a copy of the pool's warm interpreter; see `Sandbox`."""
        return await self._launch(tuple(arguments), mark)

    async def _launch(self, what: str | tuple[str, ...], mark: str = "") -> Service:
        pipes = [os.pipe() for _ in range(3)]
        (reading, stdin), (stdout, writing), (stderr, complaining) = pipes
        try:
            await self._start(what, mark, (reading, writing, complaining))
        except BaseException:
            descriptor_checks.close((stdin, stdout, stderr))
            raise
        finally:
            descriptor_checks.close((reading, writing, complaining))
        for descriptor in (stdin, stdout, stderr):
            os.set_blocking(descriptor, False)
        return Service(stdin=stdin, stdout=stdout, stderr=stderr)

    async def close(self) -> None:
        """Kills pid 1; the kernel then kills everything else."""
        self.discard("closed")

    @property
    def pid(self) -> int:
        """Pid 1's number on the host; -1 if it is dead."""
        with open(f"/proc/self/fdinfo/{self._pidfd}", "rb") as file:
            return int(next(line for line in file if line.startswith(b"Pid:")).split()[1])

    def suspend(self) -> None:
        """Stops pid 1 so that it no longer answers, as a fault of ours would. For tests."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)

    def discard(self, reason: str) -> None:
        """Ends the sandbox at once. Idempotent."""
        if self._end is None:
            self._end = reason
            if self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                except OSError:
                    pass  # already dead
                for descriptor in {self._pidfd, self.work, self.upper}:
                    os.close(descriptor)
            self._link.close()
            if self.on_close is not None:
                self.on_close(self)

    async def _act(
        self,
        text: str,
        is_python: bool,
        timeout_s: float,
        carries: bool,
        program: Program | None,
        allowed: tuple[float, float] | None = None,
    ) -> Result:
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s={timeout_s}: every action needs a finite deadline above 0")
        problem = _unsayable(text)
        if problem:
            return Result(exit_code=127, output=problem, total_bytes=len(problem), fault=Fault.POLICY)
        direct = (program.words, program.globs, program.redirections) if program is not None else None
        try:
            reply = await self._call(("act", text, is_python, timeout_s, carries, direct, allowed), timeout_s)
        except TimeoutError:
            return Result(
                exit_code=None,
                output=b"",
                total_bytes=0,
                fault=Fault.TIMEOUT,
                killed_by="pid 1 silent",
                wall_s=timeout_s + GRACE_S,
            )
        if reply.kind != wire.RESULT:
            raise self._failed(reply.body.decode(errors="replace"))
        exit_code: int | None
        if reply.killer:
            killed_by, fault = _KILLERS[reply.killer]
            exit_code = None
        elif os.WIFSIGNALED(reply.status):
            number = os.WTERMSIG(reply.status)
            killed_by, fault, exit_code = f"signal {number}", None, 128 + number
        else:
            killed_by, fault, exit_code = None, None, os.WEXITSTATUS(reply.status)
        # The kernel enforces the limit in whole ticks but reports exact time here, which is much less on a
        # busy machine.
        least = {128 + signal.SIGXCPU: 0.5, 137: 0.9}.get(exit_code or 0)
        if least is not None and reply.cpu_s >= least * self._spec.cpu_s:
            killed_by, fault = "cpu", Fault.BUDGET
        return Result(
            exit_code=exit_code,
            output=reply.body,
            total_bytes=reply.total,
            fault=fault,
            killed_by=killed_by,
            wall_s=reply.wall_s,
            cpu_s=reply.cpu_s,
            peak_mb=reply.peak_mb,
        )

    async def _start(self, what: str | tuple[str, ...], mark: str, handed: Sequence[int]) -> None:
        """Passes descriptors to pid 1. Concurrent calls are fine. Raises `OSError`.

        Pid 1 never passes any itself: an episode may have as many in flight as the kernel allows a user.
        """
        async with self._handing_over:
            reply: Reply | None = None
            try:
                # it is quick, and giving up halfway would end the sandbox
                with anyio.CancelScope(shield=True):
                    reply = await self._call(("launch", what, mark), START_S, handed)
            except TimeoutError as error:
                raise SandboxFailure("the sandbox was silent and had to be killed") from error
            assert reply is not None
            if reply.kind != wire.DONE:
                if reply.killer == wire.START:
                    raise SandboxExhausted(f"launch {what}: the episode holds every process that it may have")
                raise OSError(reply.status, f"launch {what}: {reply.body.decode(errors='replace')}")

    async def _call(self, request: tuple[object, ...], timeout_s: float, handed: Sequence[int] = ()) -> Reply:
        """One request, with optional descriptors, and one reply.

        Raises `TimeoutError` if the sandbox had to be killed, `SandboxFailure` if it died.
        """
        self._check()
        if self._is_busy:
            raise RuntimeError("a sandbox does one thing at a time: wait for the call that is under way")
        if self._configuration is not None:
            request, self._configuration = ("configure", *self._configuration, request), None
        self._is_busy = True
        try:
            under_way = Exchange(self._link, wire.request(*request), handed)
            pulse: Pulse | None = None
            patience_s, wait_s = timeout_s + GRACE_S + STARVED_S, timeout_s + GRACE_S
            while patience_s > 0 and (pulse is None or pulse.is_alive()):
                with anyio.move_on_after(wait_s):
                    reply = await under_way.finish()
                    self._is_idle = reply.is_idle
                    return reply
                pulse = pulse or Pulse(self.pid)
                patience_s, wait_s = patience_s - wait_s, GRACE_S
            self.discard("it was silent and had to be killed")
            raise TimeoutError
        except (OSError, SandboxFailure) as error:
            if not isinstance(error, TimeoutError):
                raise self._failed(f"the sandbox died: {error}") from None
            raise
        except BaseException:
            self.discard("a call was cancelled")
            raise
        finally:
            self._is_busy = False

    def _check(self) -> None:
        if self._end is not None:
            raise SandboxFailure(f"this sandbox is gone: {self._end}")

    def _failed(self, reason: str) -> SandboxFailure:
        self.discard(reason)
        return SandboxFailure(reason)


def _unsayable(command: str) -> bytes:
    """Why this text cannot be passed to a program; empty if it can."""
    if "\0" in command:
        return b"bash: a command cannot hold a NUL\n"
    try:
        os.fsencode(command)
    except UnicodeEncodeError:
        return b"bash: a command cannot hold half a character\n"
    return b""
