"""The sandbox of one episode, and the pool that provides sandboxes."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agito.types import (
    Fault,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Contents and limits of one sandbox. Sizes in MiB, times in seconds."""

    work_mb: int = 64
    tmp_mb: int = 16
    mem_mb: int = 512
    procs: int = 64
    fsize_mb: int = 32
    cpu_s: float = 60.0
    output_bytes: int = 64_000  # kept per result: head and tail
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    base: str | None = None  # a read-only lower directory under the workspace
    path: str | None = None  # PATH inside; None: /usr/local/bin:/usr/bin:/bin
    tools: tuple[str, ...] | None = None  # only these programs are on PATH; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one action in a sandbox. The episode controls everything in it, including the exit
    code."""

    exit_code: int | None  # None when it was killed from outside
    output: bytes  # stdout and stderr, interleaved; head and tail when truncated
    total_bytes: int
    fault: Fault | None = None
    killed_by: str | None = None  # "deadline", "memory", "signal 9", "pid 1 silent", ...
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running process inside, through the host's ends of its pipes: non-blocking descriptors, which the
    caller closes."""

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPython:
    """A Python that imports modules once for all scripts of a pool. `interpreter` is the real program on the
    host; the rest is as sandboxes see it, which must be shown its folders.
    """

    interpreter: str
    executable: str  # `sys.executable` of scripts
    prefix: str  # `sys.prefix`
    library: tuple[str, ...]  # folders of the standard library
    site: tuple[str, ...]  # folders with packages
    modules: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str])  # the same for all scripts
    own: tuple[str, ...] = ()  # modules that scripts bring with them, whatever has one of these names


class Standing(Protocol):
    """The state of a workspace at one moment."""

    def is_as_it_was(self) -> bool:
        """Whether nothing was created, changed, renamed, linked, touched or removed since. Kill everything
        inside first."""
        ...


class Sandbox(Protocol):
    """The sandbox of one episode. Methods raise `SandboxFailure` when it is gone or unresponsive."""

    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        """Runs a fresh `bash -c`; working directory and exported variables carry over."""
        ...

    async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
        """Runs a snippet in a fresh fork of the warm interpreter. `cpu_s` limits the CPU time of the whole
        process tree."""
        ...

    async def read(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        """Reads a regular file beneath the workspace, from the host. Raises `NotFound`, and `ValueError` for
        a link, a device, or a path outside."""
        ...

    async def write(self, files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> None:
        """Writes files beneath the workspace, creating directories. Raises `ValueError` for a path
        outside."""
        ...

    async def files(self, *, limit_bytes: int = 1 << 22, under: str = "") -> dict[str, bytes]:
        """Every regular file beneath the workspace or its folder `under`, read from the host without
        following links.

        Raises `Uncapturable` when the policy left too much, too deep or too long names to capture everything.
        """
        ...

    async def standing(self) -> Standing:
        """The workspace's current state, for a later comparison."""
        ...

    async def kill(self) -> None:
        """Kills everything inside except pid 1, including services."""
        ...

    async def launch(self, command: str) -> Service:
        """Runs `bash -c` until it ends, the sandbox ends, or everything inside is killed."""
        ...

    async def launch_script(self, arguments: Sequence[str], *, mark: str) -> Service:
        """Runs a Python script with its arguments in a copy of the interpreter that the pool keeps warm. Last
        on its standard error is a line of `mark` and its exit code. Otherwise as `launch`."""
        ...

    async def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        """A TCP connection to a server inside, waiting until one listens. Raises `TimeoutError`. The caller
        closes it."""
        ...

    async def listen(self, port: int = 0) -> socket.socket:
        """A TCP listener inside that the host accepts on; nothing outside can connect. Raises `OSError` if
        the port is taken."""
        ...

    async def snapshot(self) -> str:
        """Freezes, copies and thaws; returns a layer's id. Raises `Uncapturable` when running processes
        cannot be frozen."""
        ...

    async def close(self) -> None:
        """Idempotent; never raises."""
        ...


OWN_FOLDERS = ("/work", "/tmp", "/run", "/proc", "/dev", "/etc", "/sys", "/old")  # a sandbox's own


def seen_at(path: str) -> str:
    """Where a folder of the host that is shown is found inside: at its own place, or beneath /mnt where a
    sandbox has something of its own at that place.
    """
    is_own = any(path == own or path.startswith(f"{own}/") for own in OWN_FOLDERS)
    return f"/mnt{path}" if is_own else path


class OpensPool(Protocol):
    """Opens a pool whose sandboxes see the folders `shown` of the host, read-only, where `seen_at` says."""

    async def __call__(
        self, *, warm: int, shown: Sequence[str], python: WarmPython | None
    ) -> SandboxPool: ...


class SandboxPool(Protocol):
    """Provides sandboxes."""

    @property
    def tier(self) -> str:
        """Such as `native+cgroup` or `native+watchdog`."""
        ...

    @property
    def cold(self) -> str | None:
        """Why the pool keeps no interpreter warm; None: it does."""
        ...

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Raises `NoIsolation` or `SandboxFailure`."""
        ...

    async def fork(self, snapshot: str) -> Sandbox: ...
    async def drop(self, snapshot: str) -> None: ...
    async def aclose(self) -> None: ...
