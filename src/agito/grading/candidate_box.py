"""The throwaway box in which a candidate runs: one process per question, and a new box if anything was left
behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import anyio

from agito.errors import SandboxFailure
from agito.grading.case_snippet import DIRTY, in_clean_box
from agito.protocols import Result, Sandbox, SandboxPool, SandboxSpec, Standing

# Same sizes as the task's own episodes, so that a pool's warm boxes serve both.
BOX = SandboxSpec(work_mb=8, tmp_mb=4, mem_mb=128, procs=32, fsize_mb=4, cpu_s=10, output_bytes=1 << 16)
_PROBE_S = 5.0
_PATIENCE = 30.0  # wall time that a question may take, in multiples of its CPU seconds
_LEAST_S = 20.0


class ThrowawayBox:
    """Use with `async with`. Raises `SandboxFailure` if a box does not start; that is no verdict.

    Each question finds the same files, with the same names, links, times and attributes, an empty /tmp and an
    unused network. A box that differs in any of these is replaced, and so is one in which unexpected
    processes ran.
    """

    def __init__(self, pool: SandboxPool, spec: SandboxSpec, files: Mapping[str, bytes]) -> None:
        self._pool, self._spec, self._files = pool, spec, dict(files)
        self._box: Sandbox | None = None
        self._standing: Standing | None = None
        self._asked = 0  # questions to this box

    async def run(self, code: str, *, timeout_s: float) -> Result | None:
        """Runs one snippet in its own process; afterwards everything that it started is dead. `timeout_s` is
        CPU time, for all of it together.

        None if the snippet crashes the sandbox twice but an empty one succeeds: then the code is to blame,
        not the machine.
        """
        for _ in range(2):
            result = await self._undisturbed(code, timeout_s)
            if result is not None:
                return result
        await self._probe()
        return None

    async def _undisturbed(self, code: str, cpu_s: float) -> Result | None:
        """Runs in a box without leftovers of earlier questions. None if the box died."""
        try:
            box, was_used = await self._ready(), self._asked > 0
            result = await self._ask(box, code, cpu_s)
            if was_used and result.exit_code == DIRTY and not result.output:
                await self._replace()
                box = await self._ready()
                result = await self._ask(box, code, cpu_s)
            if result.killed_by != "pid 1 silent":
                await box.kill()
                if self._standing is None or not self._standing.is_as_it_was():
                    await self._replace()
                return result
        except SandboxFailure:
            pass
        await self._replace()
        return None

    async def _ask(self, box: Sandbox, code: str, cpu_s: float) -> Result:
        self._asked += 1
        return await box.py(
            in_clean_box(code, self._asked - 1), timeout_s=max(_PATIENCE * cpu_s, _LEAST_S), cpu_s=cpu_s
        )

    async def _probe(self) -> None:
        """Raises `SandboxFailure` unless a new box can run an empty snippet."""
        if (await self._ask(await self._ready(), "pass", _PROBE_S)).exit_code != 0:
            raise SandboxFailure("the grader's box cannot run anything")

    async def _ready(self) -> Sandbox:
        if self._box is None:
            self._asked, self._box = 0, await self._pool.start(self._spec)
            try:
                await self._box.write(self._files)
                self._standing = await self._box.standing()
            except OSError as error:
                raise SandboxFailure(f"the solution cannot be put into the grader's box: {error}") from None
        return self._box

    async def _replace(self) -> None:
        if self._box is not None:
            box, self._box = self._box, None
            await box.close()

    async def __aenter__(self) -> ThrowawayBox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._replace()
