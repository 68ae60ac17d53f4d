"""A tool server as a component of a world: its own sandbox and process for every episode, started by the first call."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping

import anyio

from agito.protocols import Sandbox, SandboxPool
from agito.types import Call, Exactness, Fault, Json, ToolSpec
from agito.world.component import Answer, Component, overran, wrong
from agito.world.mcp.client import INVALID_PARAMS, METHOD_NOT_FOUND, Client, Gone, Refused
from agito.world.mcp.server import Server, start

_GIVE_UP_S = 1.0
_LIMIT_BYTES = 1 << 22
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


class ToolServer:
    """Implements `Component`. A snapshot holds the server's files; a fork starts it again over them, so what it kept in memory is lost.

    Faults: arguments that do not fit the tool's schema, and what the server itself calls a bad request, are the policy's; an answer
    marked as an error, an internal error and a server that has ended are the tool's.
    """

    exactness = Exactness.FILESYSTEM

    def __init__(self, pool: SandboxPool, server: Server, tools: tuple[ToolSpec, ...], *, layer: str | None = None) -> None:
        self.name, self.tools = server.name, tools
        self._pool, self._server, self._layer = pool, server, layer
        self._sandbox: Sandbox | None = None
        self._client: Client | None = None
        self._end = ""  # why it answers no more

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        """Raises `SandboxFailure` when the server cannot be started."""
        schema = next(tool.parameters for tool in self.tools if tool.name == call.tool)
        if problem := misfit(call.arguments, schema):
            return wrong(f"{call.tool}: {problem}")
        if self._end:
            return Answer(text=f"error: the tool server is gone: {self._end}", fault=Fault.TOOL)
        client = await self._start()
        began = time.monotonic()
        try:
            with anyio.move_on_after(timeout_s):
                return _answer(await client.request("tools/call", {"name": call.tool, "arguments": {**call.arguments}}))
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
        twin = ToolServer(self._pool, self._server, self.tools, layer=token)
        twin._end = self._end
        return twin

    async def digest(self) -> str:
        state = {path: hashlib.sha256(data).hexdigest() for path, data in (await self._files()).items()}
        return hashlib.sha256(json.dumps([state, self._end]).encode()).hexdigest()[:32]

    async def capture(self) -> Mapping[str, bytes]:
        if self._sandbox is not None:
            await self._sandbox.kill()
        return await self._files()

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

    async def _files(self) -> Mapping[str, bytes]:
        return await (await self._open()).files(limit_bytes=_LIMIT_BYTES, under=self._server.keeps)


def misfit(arguments: Mapping[str, Json], schema: Mapping[str, Json]) -> str:
    """What is plainly wrong with `arguments`: a missing one, or one of another type. The server checks the rest."""
    required, properties = schema.get("required"), schema.get("properties")
    missing = [str(name) for name in (required if isinstance(required, list) else []) if name not in arguments]
    if missing:
        return f"needs {', '.join(missing)}"
    for name, value in arguments.items():
        known = properties.get(name) if isinstance(properties, dict) else None
        kind = known.get("type") if isinstance(known, dict) else None
        if isinstance(kind, str) and kind in _KINDS:
            fits = isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
            if not fits:
                return f"`{name}` must be of type {kind}"
    return ""


def _answer(result: Mapping[str, Json]) -> Answer:
    """The text of a result; what is no text is named."""
    content = result.get("content")
    parts = [_part(each) for each in (content if isinstance(content, list) else [])]
    if not parts and result.get("structuredContent") is not None:
        parts = [json.dumps(result["structuredContent"])]
    return Answer(text="\n".join(parts), fault=Fault.TOOL if result.get("isError") else None)


def _part(content: Json) -> str:
    if not isinstance(content, dict):
        return ""
    resource = content.get("resource")
    text = resource.get("text") if isinstance(resource, dict) else content.get("text")
    return text if isinstance(text, str) else f"[{content.get('type')}]"
