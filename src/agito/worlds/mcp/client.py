"""The client side of MCP, one request at a time: nothing runs between calls, so an episode needs no task.

(The SDK's client keeps tasks alive for the whole session; a world's component has no parent for them.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agito.types import Json, ToolSpec

VERSION = "2025-06-18"  # of the protocol; newer servers also speak it
METHOD_NOT_FOUND, INVALID_PARAMS = -32601, -32602
_MOST_PAGES = 64


class Refused(Exception):
    """The server answered a request with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Gone(Exception):
    """The server ended, or does not speak the protocol."""


class Channel(Protocol):
    """Messages to and from one server. Every method raises `Gone`; deadlines are the caller's."""

    async def post(self, message: Mapping[str, Json]) -> None: ...
    async def receive(self) -> dict[str, Json]: ...
    async def aclose(self) -> None: ...


class Client:
    """One session with a server."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._num_requests = 0

    async def initialize(self) -> None:
        """Raises `Gone` or `Refused`."""
        about: Json = {"name": "agito", "version": "1"}
        await self.request(
            "initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": about}
        )
        await self.channel.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def tools(self) -> tuple[ToolSpec, ...]:
        found: list[ToolSpec] = []
        cursor: Json = None
        for _ in range(_MOST_PAGES):
            page = await self.request("tools/list", {"cursor": cursor} if cursor else {})
            listed = page.get("tools")
            found.extend(_tool(each) for each in (listed if isinstance(listed, list) else []))
            cursor = page.get("nextCursor")
            if not cursor:
                return tuple(found)
        raise Gone(f"its list of tools has more than {_MOST_PAGES} pages")

    async def request(self, method: str, parameters: Mapping[str, Json]) -> dict[str, Json]:
        """The result. Raises `Refused` and `Gone`. Other messages that arrive meanwhile are answered or
        skipped.
        """
        self._num_requests += 1
        mine = self._num_requests
        await self.channel.post({"jsonrpc": "2.0", "id": mine, "method": method, "params": {**parameters}})
        while True:
            message = await self.channel.receive()
            if "method" in message:
                if "id" in message:
                    await self.channel.post(_answer(message))
            elif message.get("id") == mine:  # others answer abandoned requests
                return _result(message)

    async def give_up(self) -> None:
        """Tells the server that the last request was abandoned."""
        reason: Json = {"requestId": self._num_requests, "reason": "timeout"}
        await self.channel.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": reason})


def _answer(request: Mapping[str, Json]) -> dict[str, Json]:
    """Answers a request of the server: only ping; there is no model, user or file system for it here."""
    head: dict[str, Json] = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] == "ping":
        head["result"] = {}
    else:
        head["error"] = {"code": METHOD_NOT_FOUND, "message": f"{request['method']}: not offered"}
    return head


def _result(message: Mapping[str, Json]) -> dict[str, Json]:
    error = message.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        raise Refused(code if isinstance(code, int) else 0, str(error.get("message", "")))
    result = message.get("result")
    if not isinstance(result, dict):
        raise Gone("it sent an answer without a result")
    return result


def _tool(listed: Json) -> ToolSpec:
    if not isinstance(listed, dict) or not isinstance(listed.get("name"), str):
        raise Gone("it listed a tool without a name")
    schema = listed.get("inputSchema")
    return ToolSpec(
        name=str(listed["name"]),
        description=str(listed.get("description") or ""),
        parameters=schema if isinstance(schema, dict) else {"type": "object"},
    )
