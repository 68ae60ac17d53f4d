"""What crosses between the host and a sandbox's network: bytes over sockets that the host requested, and
nothing else.
"""

from __future__ import annotations

import os
import socket

import anyio
import pytest
from anyio.abc import SocketStream

from agito.errors import SandboxFailure
from agito.protocols import SandboxSpec
from agito.worlds.sandbox import Pool, descriptor_checks
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio
REACH = "import socket; s = socket.socket(); s.settimeout(2); print(s.connect_ex(('127.0.0.1', {port})))"


async def test_connections_to_one_server_can_be_asked_for_at_once(box: Box) -> None:
    await box.launch("exec python3 -m http.server 8000 --bind 127.0.0.1")
    answers: list[bytes] = []

    async def fetch() -> None:
        async with await SocketStream.from_socket(await box.connect(8000)) as stream:
            await stream.send(b"GET / HTTP/1.0\r\n\r\n")
            answers.append((await stream.receive())[:15])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(fetch)
    assert answers == [b"HTTP/1.0 200 OK"] * 8


async def test_waiting_in_vain_for_a_server_leaves_the_box_alive(box: Box) -> None:
    with pytest.raises(TimeoutError):
        await box.connect(8000, timeout_s=0.05)
    assert (await box.sh("echo alive")).output == b"alive\n"


async def test_a_connection_to_itself_is_no_connection() -> None:
    """On client ports TCP can connect a socket to itself: nobody listens there."""
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.connect(first.getsockname())  # control: this kernel does it
        first.setblocking(False)
        assert not await descriptor_checks.is_connected(first)


async def test_a_taken_port_and_what_is_no_port_are_refused(box: Box) -> None:
    with await box.listen(7000), pytest.raises(OSError, match="in use"):
        await box.listen(7000)
    for port in (0, -1, 65_536):
        with pytest.raises(ValueError, match="port="):
            await box.connect(port)
    with pytest.raises(ValueError, match="NUL"):
        await box.launch("a\0b")


async def test_a_network_whose_listener_the_host_still_holds_is_never_used_again() -> None:
    async def network(box: Box) -> bytes:
        return (await box.sh("readlink /proc/self/ns/net")).output

    async with await Pool.open(warm=0) as pool:
        plain: list[bytes] = []
        for _ in range(12):
            box = await pool.start(SandboxSpec())
            plain.append(await network(box))
            await box.close()
        assert len(set(plain)) < 12  # control: unused networks are reused
        box = await pool.start(SandboxSpec())
        held = await network(box)
        with await box.listen(7000) as listener:
            await box.close()
            for _ in range(12):
                later = await pool.start(SandboxSpec())
                assert await network(later) != held
                assert (await later.py(REACH.format(port=7000))).output != b"0\n"
                await later.close()
            with pytest.raises(BlockingIOError):
                listener.accept()


async def test_a_connection_gives_the_sandbox_no_way_to_the_host(box: Box) -> None:
    """With a listener and a service open, the episode still sees only its own loopback, and no descriptor of
    the exchange.
    """
    with socket.create_server(("127.0.0.1", 0)) as outside, await box.listen(7000) as listener:
        port = outside.getsockname()[1]
        service = await box.launch("exec python3 -m http.server 8000 --bind 127.0.0.1")
        with await box.connect(8000):
            assert (await box.py(REACH.format(port=port))).output != b"0\n"
            assert (await box.sh("sed -n '3,$s/:.*//p' /proc/net/dev")).output.split() == [b"lo"]
            seen = await box.py("import os; print(sorted(os.listdir('/proc/self/fd')))")
            assert seen.output == b"['0', '1', '2', '3']\n"  # 3 is the listing itself
        assert listener.getsockname() == ("127.0.0.1", 7000)
        for descriptor in (service.stdin, service.stdout, service.stderr):
            os.close(descriptor)


async def test_a_descriptor_that_is_not_what_was_asked_for_is_refused() -> None:
    """What a compromised pid 1 could send: the host uses none of it."""
    file = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(SandboxFailure, match="no socket"):
        descriptor_checks.tcp(file)
    left, right = socket.socketpair()
    with right, pytest.raises(SandboxFailure, match="not TCP"):
        descriptor_checks.tcp(left.detach())
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file)


async def test_a_service_that_takes_too_much_memory_is_ended_between_actions(pool: Pool) -> None:
    box = await pool.start(SandboxSpec(mem_mb=64))
    hog = "import time; held = b'x' * (30 << 20); time.sleep(1000)"
    service = await box.launch(f'for i in 1 2 3 4; do python3 -c "{hog}" & done; wait')
    with anyio.fail_after(10):
        await anyio.wait_readable(service.stdout)
    assert os.read(service.stdout, 10) == b""
    assert (await box.sh("echo alive")).output == b"alive\n"
    for descriptor in (service.stdin, service.stdout, service.stderr):
        os.close(descriptor)
