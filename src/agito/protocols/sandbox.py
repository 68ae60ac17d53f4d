"""One episode's box, and where boxes come from."""

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
    """What one sandbox looks like and may use. Sizes in MiB, times in seconds."""

    work_mb: int = 64
    tmp_mb: int = 16
    mem_mb: int = 512
    procs: int = 64
    fsize_mb: int = 32
    cpu_s: float = 60.0
    output_bytes: int = 64_000  # kept of one result: head and tail
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    base: str | None = None  # a read-only lower directory under the workspace
    path: str | None = None  # PATH inside; None: /usr/local/bin:/usr/bin:/bin
    tools: tuple[str, ...] | None = None  # only these programs are on PATH; None: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one action in a sandbox did. Everything in it is controlled by the episode, the exit code
    included.
    """

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
    """A process that runs on inside, by the host's ends of its pipes: non-blocking descriptors. Whoever asked
    for it closes them.
    """

    stdin: int
    stdout: int
    stderr: int


class Standing(Protocol):
    """A workspace as it stood at one moment."""

    def is_as_it_was(self) -> bool:
        """Whether nothing was made, changed, renamed, linked, touched or removed since. Kill everything
        first.
        """
        ...


class Sandbox(Protocol):
    """One episode's box. Methods raise `SandboxFailure` when the box itself is gone or silent."""

    async def sh(self, command: str, *, timeout_s: float = 30.0) -> Result:
        """A fresh `bash -c`; working directory and exported variables carry over."""
        ...

    async def py(self, code: str, *, timeout_s: float = 30.0, cpu_s: float | None = None) -> Result:
        """A snippet in a fresh fork of the warm interpreter. With `cpu_s`, the processor time of the whole
        process tree is bounded.
        """
        ...

    async def read(self, path: str, *, limit_bytes: int = 1 << 20) -> bytes:
        """A regular file beneath the workspace, read by the host. Raises `NotFound`; `ValueError` for a link,
        a device, a path outside.
        """
        ...

    async def write(self, files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> None:
        """Writes files beneath the workspace, making directories. Raises `ValueError` for a path outside."""
        ...

    async def files(self, *, limit_bytes: int = 1 << 22, under: str = "") -> dict[str, bytes]:
        """Every regular file beneath the workspace, or beneath its folder `under`, read by the host, links
        never followed.

        Raises `Uncapturable` for what the policy left too large, too deep or too long to be captured whole.
        """
        ...

    async def standing(self) -> Standing:
        """What stands in the workspace now, to be compared with later."""
        ...

    async def kill(self) -> None:
        """Kills everything inside but pid 1, services too."""
        ...

    async def launch(self, command: str) -> Service:
        """`bash -c`, kept until it ends, the sandbox does, or everything inside is killed."""
        ...

    async def connect(self, port: int, *, timeout_s: float = 5.0) -> socket.socket:
        """A TCP connection to a server inside, waiting until one listens. Raises `TimeoutError`. The caller
        closes it.
        """
        ...

    async def listen(self, port: int = 0) -> socket.socket:
        """A TCP listener inside, which the host accepts on; nothing outside can connect to it. Raises
        `OSError`: the port is taken.
        """
        ...

    async def snapshot(self) -> str:
        """Freezes, copies, thaws; returns a layer's id. Raises `Uncapturable` where what runs inside cannot
        be frozen.
        """
        ...

    async def close(self) -> None:
        """Idempotent; never raises."""
        ...


class SandboxPool(Protocol):
    """Where sandboxes come from."""

    @property
    def tier(self) -> str:
        """Such as `native+cgroup` or `native+watchdog`."""
        ...

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Raises `NoIsolation` or `SandboxFailure`."""
        ...

    async def fork(self, snapshot: str) -> Sandbox: ...
    async def drop(self, snapshot: str) -> None: ...
    async def aclose(self) -> None: ...
