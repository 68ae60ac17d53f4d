"""The service over real HTTP: `POST /OPERATION` with a JSON object, a bearer token, an `Idempotency-Key`.

`listening` serves it on a Unix socket of the host, or on any listener. On a listener inside a sandbox's
network (`Box.listen`), only programs in that sandbox can reach it.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from agito.types import Json
from agito.worlds.api.service import KEY, LONGEST_S, Reply, Service

START_S = 10.0
_LEAVE_S = 2.0  # for answers that are being read
_MAX_BODY = 1 << 20


def app(service: Service, tokens: Mapping[str, tuple[str, str]]) -> Starlette:
    """`tokens` maps bearer tokens to (caller, role)."""

    async def serve(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = tokens.get(token) if scheme.lower() == "bearer" else None
        if known is None:
            return _response(Reply(status=401, body={"error": "send a bearer token that is known"}))
        arguments = await _arguments(request)
        if isinstance(arguments, Reply):
            return _response(arguments)
        key = request.headers.get("idempotency-key")
        caller, role = known
        operation = request.path_params["operation"]
        return _response(
            await service.handle(operation, arguments | ({KEY: key} if key else {}), caller=caller, role=role)
        )

    return Starlette(routes=[Route("/{operation}", serve, methods=["POST"])])


@asynccontextmanager
async def listening(application: Starlette, where: Path | socket.socket) -> AsyncGenerator[None]:
    """Serves for the duration of the block, on the Unix socket at a path, or on a listener, which the caller
    must close.

    Whoever has not ended a request by then is cut off, and soon afterwards whoever has not read an answer;
    operations that have begun are carried out all the same. Raises `TimeoutError` if it does not start.
    """
    is_path = isinstance(where, Path)
    server = _Server(
        uvicorn.Config(
            application,
            uds=str(where) if is_path else None,
            log_level="warning",
            lifespan="off",
            ws="none",
            http=H11Protocol,
        )
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, None if is_path else [where])
        try:
            with anyio.fail_after(START_S):
                await server.ready.wait()
            yield
        finally:
            server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            cycle: object = vars(connection).get("cycle")
            if isinstance(cycle, RequestResponseCycle) and cycle.more_body:
                connection.transport.abort()  # else it would be waited for, for ever
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cut_off)
            await super().shutdown(sockets)
            tasks.cancel_scope.cancel()

    async def _cut_off(self) -> None:
        """Whoever does not read would be waited for, for ever."""
        await anyio.sleep(_LEAVE_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals alone: they belong to the process."""
        yield


async def _arguments(request: Request) -> dict[str, Json] | Reply:
    body = bytearray()
    try:
        with anyio.fail_after(LONGEST_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY:
                    return Reply(status=413, body={"error": f"a body has at most {_MAX_BODY} bytes"})
    except TimeoutError:
        return Reply(status=408, body={"error": "the request did not come in time"})
    except ClientDisconnect:
        return Reply(status=499, body={"error": "nobody waits for an answer"})
    try:
        parsed: Json = json.loads(bytes(body) or b"{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        parsed = None
    return (
        parsed
        if isinstance(parsed, dict)
        else Reply(status=400, body={"error": "the body must be a JSON object"})
    )


def _response(reply: Reply) -> JSONResponse:
    return JSONResponse(reply.body, status_code=reply.status)


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON")
