"""The session's tools for a guest: at addresses of their own, and as an MCP server. Calls are made one at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import cast

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agito.gateway import Conversations, Gateway, Refused
from agito.gateway.app import body_of
from agito.gateway.fields import Fields
from agito.protocols import Session
from agito.render.messages import answered
from agito.types import Budget, Call, Event, Json, Limits, TerminationReason, ToolSpec

_VERSIONS = ("2025-06-18", "2025-03-26", "2024-11-05")  # of MCP; the first is the one that is offered
_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD, _INVALID_PARAMS = -32700, -32600, -32601, -32602


class ToolDesk:
    """What one attempt does in its world. `over` is set when the episode has ended."""

    def __init__(
        self,
        session: Session,
        limits: Limits,
        conversations: Conversations,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._session, self._limits, self._conversations, self._waiting = (
            session,
            limits,
            conversations,
            waiting,
        )
        self._turn = anyio.Lock()
        self.events: list[Event] = []
        self.over = anyio.Event()
        self.end: TerminationReason | None = None

    async def act(self, tool: str, arguments: dict[str, Json]) -> Event:
        """Raises `Refused` once the episode has ended."""
        async with self._turn:
            if self.over.is_set():
                raise Refused(409, "the episode has ended", code="episode_ended")
            limits, num_calls = self._limits, len(self.events) + 1
            raw = self._conversations.uses(tool, arguments, event=len(self.events))
            left = Budget(
                turns=max(limits.turns - self._conversations.num_turns, 0),
                calls=limits.calls - num_calls,
                tokens=max(limits.tokens - self._conversations.longest, 0),
            )
            with self._waiting():
                events = await self._session.act((Call(tool=tool, arguments=arguments, raw=raw),), left)
            self.events.extend(events)
            if events[-1].ended or num_calls >= limits.calls:
                self.end = TerminationReason.SUBMITTED if events[-1].ended else TerminationReason.CALLS
                self.over.set()
            return events[-1]

    def routes(self, gateway: Gateway) -> Sequence[Route]:
        return (
            Route("/v1/tools", gateway.guarded(self._list), methods=["GET"]),
            Route("/v1/tools/{name:path}", gateway.guarded(self._use), methods=["POST"]),
            Route("/mcp", gateway.guarded(self._mcp), methods=["POST"]),
        )

    async def _list(self, request: Request) -> Response:
        """As chat completions want them."""
        return JSONResponse(
            [{"type": "function", "function": _described(tool, "parameters")} for tool in self._session.tools]
        )

    async def _use(self, request: Request) -> Response:
        arguments = await body_of(request)
        if not isinstance(arguments, dict):
            raise Refused(400, "a tool's arguments are a JSON object", code="invalid_value")
        event = await self.act(request.path_params["name"], arguments)
        return JSONResponse(
            {"content": answered(event), "fault": event.fault, "ended": event.ended or self.over.is_set()}
        )

    async def _mcp(self, request: Request) -> Response:
        """Streamable HTTP without streams: every message is a request of its own, and nothing is kept between
        two.
        """
        try:
            message = await body_of(request)
        except Refused as error:
            return _error(None, _PARSE_ERROR, error.message)
        if not isinstance(message, dict) or not isinstance(method := message.get("method"), str):
            if isinstance(message, dict) and ("result" in message or "error" in message):
                return Response(status_code=202)
            return _error(None, _INVALID_REQUEST, "one JSON-RPC request a message")
        if "id" not in message:
            return Response(status_code=202)
        parameters = message.get("params")
        try:
            result = await self._answer(method, parameters if isinstance(parameters, dict) else {})
        except Refused as error:
            return _error(message["id"], _INVALID_PARAMS, error.message)
        if result is None:
            return _error(message["id"], _NO_METHOD, f"{method}: not offered")
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _answer(self, method: str, parameters: dict[str, Json]) -> dict[str, Json] | None:
        match method:
            case "initialize":
                asked = parameters.get("protocolVersion")
                about: Json = {"name": "agito", "version": "1"}
                version = asked if asked in _VERSIONS else _VERSIONS[0]
                return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
            case "ping":
                return {}
            case "tools/list":
                return {
                    "tools": [cast("Json", _described(tool, "inputSchema")) for tool in self._session.tools]
                }
            case "tools/call":
                given = Fields(parameters)
                arguments = parameters.get("arguments") or {}
                if not isinstance(arguments, dict):
                    raise Refused(400, "arguments must be an object")
                event = await self.act(given.text("name"), arguments)
                return {
                    "content": [{"type": "text", "text": answered(event)}],
                    "isError": event.fault is not None,
                }
            case _:
                return None


def _described(tool: ToolSpec, parameters: str) -> dict[str, Json]:
    return {"name": tool.name, "description": tool.description, parameters: dict(tool.parameters)}


def _error(number: Json, code: int, message: str) -> Response:
    return JSONResponse({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}})
