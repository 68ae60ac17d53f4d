"""`run_python`: code that a completion holds, run in a sandbox by a reward function."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from agito.grading.candidate_box import BOX, ThrowawayBox
from agito.protocols import SandboxPool
from agito.worlds.sandbox import Pool

_pool: ContextVar[Callable[[], Awaitable[SandboxPool]] | None] = ContextVar("prompts_pool", default=None)
_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What code did. All of it is in the hands of whoever wrote the code: compare what it computed, never
    trust what it claims.
    """

    ok: bool  # it ended by itself, without an exception
    output: str  # stdout and stderr
    killed_by: str = ""  # such as "deadline" or "memory"


@contextmanager
def boxes(pool: Callable[[], Awaitable[SandboxPool]]) -> Generator[None]:
    """`run_python` takes its sandboxes from here."""
    token = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(token)


async def run_python(code: str, *, files: Mapping[str, bytes | str] | None = None, cpu_s: float = 5.0) -> Ran:
    """Runs `code` in a sandbox of its own: no network, no file of this machine, `cpu_s` of the processor.
    `files` lie beside it.

    What the code brings about, running out of memory or time included, is a `Ran` that is not `ok`. Raises
    `SandboxFailure` and `NoIsolation` where no sandbox can be had, which is never the completion's fault.
    """
    asked = _pool.get()
    if asked is not None:
        return await _run(await asked(), code, files or {}, cpu_s)
    async with await Pool.open(warm=0) as pool:  # outside of a run, such as in a test of the reward function
        return await _run(pool, code, files or {}, cpu_s)


async def _run(pool: SandboxPool, code: str, files: Mapping[str, bytes | str], cpu_s: float) -> Ran:
    given = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    async with ThrowawayBox(pool, BOX, given) as box:
        result = await box.run(code, timeout_s=cpu_s)
    if result is None:
        return Ran(ok=False, output="", killed_by="it ended its sandbox")
    return Ran(
        ok=result.exit_code == 0,
        output=result.output.decode("utf-8", "replace"),
        killed_by=result.killed_by or "",
    )


def code_of(completion: str) -> str:
    """The last fenced block of a completion, Python's before any other; the whole where there is none."""
    found = _FENCED.findall(completion)
    python = [code for language, code in found if language.lower() in ("python", "py", "python3")]
    return (python or [code for _, code in found] or [completion])[-1]
