"""Rules about services and sockets: the host reaches into a box, and nothing reaches out of it."""

from __future__ import annotations

import os
import socket

import anyio
from anyio.abc import SocketStream

from agito.protocols import Sandbox, Service
from agito.testing.contract import require, rule
from agito.testing.sandbox.base import SandboxBase, text

_ECHO = (
    "import socket; server = socket.create_server(('127.0.0.1', 7007))\n"
    "while True:\n    link, _ = server.accept(); link.sendall(b'from ' + link.recv(100)); link.close()"
)
_CALL = "import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(('127.0.0.1', {port})))"


class NetworkRules(SandboxBase):
    @rule("connect in the box's own network namespace and hand the socket to the host")
    async def test_the_host_reaches_a_server_inside_and_only_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as outside:
            port: int = outside.getsockname()[1]
            async with self.box() as box:
                await box.write({"echo.py": _ECHO})
                close(await box.launch("exec python3 echo.py"))
                async with await SocketStream.from_socket(await box.connect(7007)) as stream:
                    await stream.send(b"inside")
                    answer = await stream.receive()
                require(answer == b"from inside", f"the server inside answered {answer!r}")
                require(not await connects(box, port), "connect() reached a server of the host")
                require(not await connects(box, 7008), "connect() succeeded where nobody listens")

    @rule("listen in the box's own network namespace: the host accepts, and nobody else can connect")
    async def test_a_listener_is_reached_from_its_own_box_alone(self) -> None:
        async with self.pool() as pool:
            one, two = await pool.start(self.spec), await pool.start(self.spec)
            listener = await one.listen()
            try:
                port: int = listener.getsockname()[1]
                require(
                    text(await one.py(_CALL.format(port=port))) == "0",
                    "the box cannot connect to its own listener",
                )
                require(
                    text(await two.py(_CALL.format(port=port))) != "0",
                    "another box can connect to the listener",
                )
                with socket.socket() as host:
                    require(
                        host.connect_ex(("127.0.0.1", port)) != 0,
                        "the host's own network reaches the listener",
                    )
                await one.close()
                three = await pool.start(self.spec)
                require(
                    text(await three.py(_CALL.format(port=port))) != "0",
                    "a later box can connect to the listener",
                )
            finally:
                listener.close()
            await two.close()
            await three.close()

    @rule("keep a launched process over actions, give the host its pipes, and end it with the rest")
    async def test_a_service_outlives_actions_and_not_its_box(self) -> None:
        async with self.box() as box:
            service = await box.launch("read line; echo got $line in $PWD; echo bad >&2; exec sleep 1000")
            try:
                await box.sh("true")
                os.write(service.stdin, b"word\n")
                said, wrong = await read(service.stdout), await read(service.stderr)
                require(
                    (said, wrong) == (b"got word in /work\n", b"bad\n"),
                    f"the service said {said!r} and {wrong!r}",
                )
                await box.kill()
                require(await read(service.stdout) == b"", "the service outlives kill()")
            finally:
                close(service)


async def connects(box: Sandbox, port: int) -> bool:
    try:
        (await box.connect(port, timeout_s=0.1)).close()
    except TimeoutError:
        return False
    return True


async def read(descriptor: int) -> bytes:
    """The next bytes within ten seconds; empty at the end."""
    with anyio.fail_after(10):
        await anyio.wait_readable(descriptor)
    return os.read(descriptor, 1 << 16)


def close(service: Service) -> None:
    for descriptor in (service.stdin, service.stdout, service.stderr):
        os.close(descriptor)
