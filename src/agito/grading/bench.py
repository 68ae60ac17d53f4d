"""The throwaway box in which a candidate runs: one process for each question, and a new box when something was left behind."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import anyio

from agito.errors import SandboxFailure
from agito.grading.runner import DIRTY
from agito.protocols import Result, Sandbox, SandboxPool, SandboxSpec

# The sizes of a task's own episodes, so that a pool's warm boxes serve both.
BOX = SandboxSpec(work_mb=8, tmp_mb=4, mem_mb=128, procs=32, fsize_mb=4, cpu_s=10, output_bytes=1 << 16)
_PROBE_S = 5.0


class Bench:
    """Use with `async with`. Raises `SandboxFailure` whenever a box does not even start, which is nobody's verdict."""

    def __init__(self, pool: SandboxPool, spec: SandboxSpec, files: Mapping[str, bytes]) -> None:
        self._pool, self._spec, self._files = pool, spec, dict(files)
        self._box: Sandbox | None = None

    async def run(self, code: str, *, timeout_s: float) -> Result | None:
        """One snippet in a process of its own; what it started is dead afterwards.

        None when the box died of it twice while one that runs nothing lives: then it is the code's doing, not the machine's.
        """
        for _ in range(2):
            box = await self._ready()
            try:
                result = await box.py(code, timeout_s=timeout_s)
                if result.exit_code == DIRTY and not result.output:
                    await self._replace()
                    continue
                if result.killed_by != "pid 1 silent":
                    await box.kill()
                    if await box.files() != self._files:
                        await self._replace()
                    return result
            except (SandboxFailure, ValueError):  # gone; or holding more than may be read
                pass
            await self._replace()
        box = await self._ready()
        if (await box.py("pass", timeout_s=_PROBE_S)).exit_code != 0:
            raise SandboxFailure("the grader's box cannot run anything")
        return None

    async def _ready(self) -> Sandbox:
        if self._box is None:
            self._box = await self._pool.start(self._spec)
            try:
                await self._box.write(self._files)
            except OSError as error:
                raise SandboxFailure(f"the solution cannot be put into the grader's box: {error}") from None
        return self._box

    async def _replace(self) -> None:
        if self._box is not None:
            box, self._box = self._box, None
            await box.close()

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with anyio.CancelScope(shield=True):
            await self._replace()
