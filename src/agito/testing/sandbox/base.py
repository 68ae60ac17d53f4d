"""Shared parts of a sandbox's rules: how pools are made, and how a box is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from agito.errors import NotFound, SandboxFailure
from agito.protocols import Result, Sandbox, SandboxPool, SandboxSpec
from agito.testing.contract import Contract, require

SMALL = SandboxSpec(work_mb=8, tmp_mb=4, mem_mb=128, procs=32, fsize_mb=4, cpu_s=20.0, output_bytes=4000)


class SandboxBase(Contract):
    spec: SandboxSpec = SMALL

    async def make(self) -> SandboxPool:
        """A fresh pool. Called by every rule; closed with `aclose`."""
        raise NotImplementedError("override make() to say which sandbox is tested")

    @asynccontextmanager
    async def pool(self) -> AsyncGenerator[SandboxPool]:
        pool = await self.make()
        try:
            yield pool
        finally:
            with anyio.CancelScope(shield=True):
                await pool.aclose()

    @asynccontextmanager
    async def box(self, spec: SandboxSpec | None = None) -> AsyncGenerator[Sandbox]:
        async with self.pool() as pool:
            box = await pool.start(spec or self.spec)
            try:
                yield box
            finally:
                with anyio.CancelScope(shield=True):
                    await box.close()


def text(result: Result) -> str:
    return result.output.decode("utf-8", "replace").strip()


async def require_says(box: Sandbox, command: str, expected: str, meaning: str) -> None:
    """Checks that the command's output is `expected`; `meaning` describes the failure."""
    result = await box.sh(command)
    require(
        text(result) == expected,
        f"{meaning}: `{command}` printed {text(result)!r}, not {expected!r} (exit code {result.exit_code})",
    )


async def require_alive(box: Sandbox, after: str) -> None:
    """Checks that the box still works after an attack."""
    result = await box.sh("echo alive")
    require(
        text(result) == "alive",
        f"after {after} the box answers {text(result)!r} (exit code {result.exit_code}, {result.killed_by})",
    )


async def read_error(box: Sandbox, path: str) -> str:
    """What reading `path` raises: `ValueError`, `NotFound`, or nothing."""
    try:
        await box.read(path)
    except NotFound:
        return "NotFound"
    except ValueError:
        return "ValueError"
    return "nothing"


async def is_gone(box: Sandbox) -> bool:
    try:
        await box.sh("true")
    except SandboxFailure:
        return True
    return False


async def count_processes(box: Sandbox) -> int:
    """As a command in the box sees them, including itself; looking starts no process."""
    return int(text(await box.sh("set -- /proc/[0-9]*; echo $#")))
