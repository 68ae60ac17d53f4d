"""A workspace: a file tree in its own sandbox, with a shell, an exact editor and optional small Python tools.

The task decides which of them a policy may use: a world refuses tools that its task does not name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from agito.errors import NotFound, SandboxExhausted, Uncapturable
from agito.protocols import Sandbox, SandboxPool, SandboxSpec
from agito.types import Call, Exactness, ToolSpec
from agito.worlds.component import (
    Answer,
    Component,
    Mergeable,
    Merged,
    answer_of,
    captured,
    spec,
    text_of,
    wrong,
)
from agito.worlds.merging import Changes, changes, conflicts

SH = spec(
    "sh",
    "Run a command with bash in the working directory. Directory and exported variables carry over.",
    ["command"],
)
EDIT = spec(
    "edit",
    "Replace a text in a file. `old` must stand there exactly once; `new` may be empty.",
    ["path", "old", "new"],
)
_DIGESTED_BYTES = 1 << 24
# Folders that this empties go too, so that a file can take their place.
_REMOVE = """
import os
for path in {paths!r}:
    path = os.path.join(b"/work", path)
    try:
        os.unlink(path)
        while (path := os.path.dirname(path)) != b"/work":
            os.rmdir(path)
    except OSError:
        pass
"""
_REMOVE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A tool that runs Python in a fork of the sandbox's warm interpreter. It has no parameters."""

    tool: ToolSpec
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A workspace's definition. `open` makes the live component."""

    spec: SandboxSpec
    tree: Mapping[str, bytes]
    executable: tuple[str, ...] = ()
    snippets: tuple[Snippet, ...] = ()
    capture_bytes: int = _DIGESTED_BYTES  # more than the workspace holds; 0: files are not captured
    # paths of `tree` that differ between attempts: not part of the state until changed
    decoys: frozenset[str] = frozenset()

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return (SH, EDIT, *(snippet.tool for snippet in self.snippets))

    def open(self, pool: SandboxPool) -> LiveWorkspace:
        return LiveWorkspace(self, pool)


class LiveWorkspace:
    """Implements `Component`. The sandbox starts with the first call that needs it, so an immediate answer
    costs nothing.
    """

    name = "workspace"
    exactness = Exactness.FILESYSTEM
    captures = ""  # any path

    def __init__(self, workspace: Workspace, pool: SandboxPool, sandbox: Sandbox | None = None) -> None:
        self._workspace, self._pool, self._sandbox = workspace, pool, sandbox
        self.tools = workspace.tools
        self._snippets = {snippet.tool.name: snippet.code for snippet in workspace.snippets}
        self._captured: Mapping[str, bytes] | None = None
        self._base: Mapping[str, bytes] = {}  # of a branch: the files that it began with

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        if call.tool == SH.name:
            sandbox = await self._open()
            return answer_of(await sandbox.sh(text_of(call, "command"), timeout_s=timeout_s))
        if call.tool == EDIT.name:
            return await self._edit(text_of(call, "path"), text_of(call, "old"), text_of(call, "new"))
        sandbox = await self._open()
        return answer_of(await sandbox.py(self._snippets[call.tool], timeout_s=timeout_s))

    async def _edit(self, path: str, old: str, new: str) -> Answer:
        """Done on the host, without a process: a fifth of the cost of `sed`."""
        if not old:
            return wrong("edit: `old` is empty")
        sandbox = await self._open()
        try:
            text = (await sandbox.read(path)).decode("utf-8", "surrogateescape")
            count = text.count(old)
            if count != 1:
                return Answer(text=f"error: {path}: {count} places read {old}", exit_code=1)
            await sandbox.write({path: text.replace(old, new).encode("utf-8", "surrogateescape")})
        except NotFound:
            return Answer(text=f"error: {path}: no such file", exit_code=1)
        # a link, a directory, a full disk, a lone surrogate: the policy's doing
        except (ValueError, OSError) as error:
            return Answer(text=f"error: {error}", exit_code=1)
        return Answer(text="ok", exit_code=0)

    async def snapshot(self) -> object:
        return None if self._sandbox is None else await self._sandbox.snapshot()

    async def fork(self, token: object) -> Component:
        assert token is None or isinstance(token, str)
        return LiveWorkspace(self._workspace, self._pool, await self._pool.fork(token) if token else None)

    async def branch(self) -> LiveWorkspace:
        """Its directory and variables are the same; no process runs in it."""
        twin = LiveWorkspace(self._workspace, self._pool)
        if self._sandbox is not None:
            layer = await self._sandbox.snapshot()
            try:
                twin._sandbox = await self._pool.fork(layer)
            finally:
                await self._pool.drop(layer)
        try:
            twin._base = await twin._tree()
        except BaseException:
            await twin.close()
            raise
        return twin

    async def merge(self, branch: Mergeable, *, overwrite: bool) -> Merged:
        """Ends what runs in either, so that nothing else writes meanwhile. Should the workspace not take
        every file, it is put back.
        """
        assert isinstance(branch, LiveWorkspace)
        if branch._sandbox is None:
            return Merged()
        for sandbox in (branch._sandbox, self._sandbox):
            if sandbox is not None:
                await sandbox.kill()
        try:
            ours, theirs = await self._tree(), changes(branch._base, await branch._tree())
        except Uncapturable as error:
            return Merged(problem=str(error))
        if clashes := conflicts(branch._base, ours, theirs, overwrite=overwrite):
            return Merged(conflicts=clashes)
        sandbox, wanted = (
            await self._open(),
            {path: theirs[path] for path in theirs if theirs[path] != ours.get(path)},
        )
        if await _put(sandbox, wanted):
            return Merged(num=len(theirs))
        if not await _put(sandbox, {path: ours.get(path) for path in wanted}):
            raise SandboxExhausted("a merge that the workspace had no room for could not be undone")
        return Merged(
            problem="the workspace cannot take the files: it has no room, or something is in the way"
        )

    async def digest(self) -> str:
        whole = hashlib.blake2b(digest_size=16)
        files, workspace = await self._files(), self._workspace
        untouched = {path for path in workspace.decoys if files.get(path) == workspace.tree[path]}
        whole.update("\0".join(sorted(workspace.decoys - untouched)).encode())
        for path, data in sorted((path, data) for path, data in files.items() if path not in untouched):
            whole.update(f"{path}\0{len(data)}\0".encode("utf-8", "surrogateescape"))
            whole.update(data)
        return whole.hexdigest()

    async def capture(self) -> Mapping[str, bytes]:
        if not self._workspace.capture_bytes:
            self._captured = {}
            return {}
        if self._sandbox is not None:
            await self._sandbox.kill()
        self._captured = await self._files()
        return self._captured

    async def _files(self) -> Mapping[str, bytes]:
        if self._captured is not None:
            return self._captured
        if self._sandbox is None:
            return self._workspace.tree
        return await captured(self._sandbox, limit_bytes=self._workspace.capture_bytes or _DIGESTED_BYTES)

    async def _tree(self) -> Mapping[str, bytes]:
        """Raises `Uncapturable`."""
        return (
            self._workspace.tree
            if self._sandbox is None
            else await self._sandbox.files(limit_bytes=_DIGESTED_BYTES)
        )

    async def close(self) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()

    async def _open(self) -> Sandbox:
        if self._sandbox is None:
            sandbox = await self._pool.start(self._workspace.spec)
            self._sandbox = sandbox
            await sandbox.write(self._workspace.tree, executable=self._workspace.executable)
        return self._sandbox


async def _put(sandbox: Sandbox, wanted: Changes) -> bool:
    """Writes and removes files, of those that are not as they should be. Whether all of them are now."""
    try:
        now = await sandbox.files(limit_bytes=_DIGESTED_BYTES)
        left = {path: content for path, content in wanted.items() if now.get(path) != content}
        if gone := [os.fsencode(path) for path, content in left.items() if content is None]:
            await sandbox.py(_REMOVE.format(paths=gone), timeout_s=_REMOVE_S)
        if written := {path: content for path, content in left.items() if content is not None}:
            await sandbox.write(written)
        now = await sandbox.files(limit_bytes=_DIGESTED_BYTES)
    except (ValueError, OSError):  # a link in the way, a full disk, a folder that is locked
        return False
    return all(now.get(path) == content for path, content in wanted.items())
