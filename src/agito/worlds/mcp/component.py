"""A tool server as a component of a world: each episode has its own sandbox and process, started by the first
call.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping

import anyio

from agito.protocols import Sandbox, SandboxPool
from agito.types import Call, Exactness, Fault, ToolSpec
from agito.worlds.component import Answer, Component, overran, wrong
from agito.worlds.mcp.base import Fingerprints, differing, fingerprints
from agito.worlds.mcp.client import INVALID_PARAMS, METHOD_NOT_FOUND, Client, Gone, Refused
from agito.worlds.mcp.content import answer
from agito.worlds.mcp.schema import misfit
from agito.worlds.mcp.server import Server, refuse_twice, start
from agito.worlds.threads import in_thread

_GIVE_UP_S = 1.0
_LIMIT_BYTES = 1 << 22  # size limit of its state
_BASE_S = 60.0  # for reading a base


class ToolServer:
    """Implements `Component`. A snapshot holds the server's files; a fork restarts the server on them, so
    in-memory state is lost.

    Faults: arguments that do not fit the tool's schema, and requests that the server calls invalid, are the
    policy's; answers marked as errors, internal errors and a dead server are the tool's.

    Its state is the folder `keeps`, or everything that differs from the base. A state over 4 MiB is not
    captured. Raises `ValueError` for duplicate names in `tools`.
    """

    exactness = Exactness.FILESYSTEM

    def __init__(
        self, pool: SandboxPool, server: Server, tools: tuple[ToolSpec, ...], *, layer: str | None = None
    ) -> None:
        refuse_twice(server.name, tools)
        self.name, self.tools, self.captures = server.name, tools, server.keeps
        self._pool, self._server, self._layer = pool, server, layer
        self._sandbox: Sandbox | None = None
        self._client: Client | None = None
        self._end = ""  # why it no longer answers

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        """Raises `SandboxFailure` if the server cannot be started."""
        schema = next(tool.parameters for tool in self.tools if tool.name == call.tool)
        if problem := misfit(call.arguments, schema):
            return wrong(f"{call.tool}: {problem}")
        if self._end:
            return Answer(text=f"error: the tool server is gone: {self._end}", fault=Fault.TOOL)
        client = await self._start()
        began = time.monotonic()
        try:
            with anyio.move_on_after(timeout_s):
                return answer(
                    await client.request("tools/call", {"name": call.tool, "arguments": {**call.arguments}})
                )
            with anyio.move_on_after(_GIVE_UP_S) as telling:
                await client.give_up()
            if telling.cancelled_caught:
                raise Gone("it reads nothing any more")
            return overran(began)
        except Refused as error:
            is_ours = error.code in (METHOD_NOT_FOUND, INVALID_PARAMS)
            return Answer(text=f"error: {error}", fault=Fault.POLICY if is_ours else Fault.TOOL)
        except Gone as error:
            self._end = str(error)
            return Answer(text=f"error: the tool server is gone: {error}", fault=Fault.TOOL)

    async def snapshot(self) -> object:
        return await (await self._open()).snapshot()

    async def fork(self, token: object) -> Component:
        assert isinstance(token, str)
        child = ToolServer(self._pool, self._server, self.tools, layer=token)
        child._end = self._end
        return child

    async def digest(self) -> str:
        files, gone = await self._state()
        state = (
            {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
            if files is not None
            else None
        )
        return hashlib.sha256(json.dumps([state, gone, self._end]).encode()).hexdigest()[:32]

    async def capture(self) -> Mapping[str, bytes]:
        if self._sandbox is not None:
            await self._sandbox.kill()
        return (await self._state())[0] or {}

    async def close(self) -> None:
        if self._client is not None:
            await self._client.channel.aclose()
        if self._sandbox is not None:
            await self._sandbox.close()

    async def _open(self) -> Sandbox:
        if self._sandbox is None and self._layer is not None:
            self._sandbox = await self._pool.fork(self._layer)
        elif self._sandbox is None:
            self._sandbox = await self._pool.start(self._server.sandbox)
            await self._sandbox.write(self._server.files)
        return self._sandbox

    async def _start(self) -> Client:
        if self._client is None:
            self._client = await start(self._server, await self._open())
        return self._client

    async def _state(self) -> tuple[Mapping[str, bytes] | None, list[str]]:
        """Files that are not the base's own (None if too large), and base files that are gone."""
        sandbox, base = await self._open(), self._server.sandbox.base
        known: Fingerprints = {}
        if base is not None:
            known = await in_thread(lambda: fingerprints(base, self._server.keeps), timeout_s=_BASE_S)
        try:
            files = await sandbox.files(
                limit_bytes=_LIMIT_BYTES + sum(size for size, _ in known.values()), under=self._server.keeps
            )
        except ValueError:
            return None, []
        gone = sorted(known.keys() - files.keys())
        if known:
            files = await in_thread(lambda: differing(files, known), timeout_s=_BASE_S)
        return (files if sum(map(len, files.values())) <= _LIMIT_BYTES else None), gone
