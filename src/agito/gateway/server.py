"""An application on a port of this machine, for as long as a block lasts."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import uvicorn
from starlette.types import ASGIApp

_SILENT = logging.CRITICAL + 1  # requests that are cut off are no news; what breaks is told to the client
_START_S, _LEAVE_S = 10.0, 5.0
_MOST_CONNECTIONS = 512
_TICKS = 4  # of the event loop, from accepting to a connection


@asynccontextmanager
async def listening(
    app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0, on: socket.socket | None = None
) -> AsyncGenerator[str]:
    """Its address, such as `http://127.0.0.1:40001`. Port 0 is any free one. Raises `OSError` for one that is
    taken. `on`: a listener that is there already, of whatever network, and stays its owner's.

    At the end of the block whoever is still connected is cut off.
    """
    with contextlib.nullcontext(on) if on is not None else _listener(host, port) as listener:
        config = uvicorn.Config(
            app,
            log_level=_SILENT,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            limit_concurrency=_MOST_CONNECTIONS,
            server_header=False,
            date_header=False,
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_served, server, listener)
            try:
                with anyio.fail_after(_START_S):
                    await server.is_up.wait()
                yield f"http://{host}:{listener.getsockname()[1]}"
            finally:
                server.leaves.set()


async def _served(server: _Server, listener: socket.socket) -> None:
    """Whoever is cancelled leaves nothing open: the server ends when it is told to, and not before."""
    with anyio.CancelScope(shield=True):
        await server.serve([listener])


def _listener(host: str, port: int) -> socket.socket:
    """Of TCP by name: asyncio sends at once (TCP_NODELAY) on no other, and every answer would wait 40 ms."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except BaseException:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """Comes up by an event and leaves by one, at once; signals are the process's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up, self.leaves = anyio.Event(), anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    async def main_loop(self) -> None:
        await self.leaves.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            for each in server.sockets:
                server.get_loop().remove_reader(each.fileno())
        for _ in range(_TICKS):  # what was accepted last becomes a connection only now, and of an open server
            await anyio.lowlevel.checkpoint()
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        with anyio.move_on_after(_LEAVE_S):
            while self.server_state.tasks:
                await anyio.lowlevel.checkpoint()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
