"""The proxy, with real curl and Python in a real sandbox, and a real server on the host."""

from __future__ import annotations

import gc
import hashlib
import http.server
import socket
import struct
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import pytest

from agito.protocols import Result, SandboxSpec
from agito.worlds.egress import ENV, Egress, _is_public
from agito.worlds.sandbox import Pool
from agito.worlds.sandbox.box import Box

pytestmark = pytest.mark.anyio


class Echo(http.server.BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append(f"{self.command} {self.headers['host']} {self.path}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"echo " + body)

    do_POST = do_GET

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        return


@pytest.fixture
def site() -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Echo,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def box(anyio_backend: str) -> AsyncIterator[Box]:
    async with await Pool.open(warm=0) as pool:
        yield await pool.start(SandboxSpec(env=ENV))


async def run(egress: Egress, box: Box, command: str) -> str:
    async def action() -> Result:
        return await box.sh(command, timeout_s=20)

    return (await egress.during(action)).output.decode().strip()


async def test_what_is_allowed_goes_through_and_is_recorded(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(box, ["data.test:80"], at={"data.test:80": ("127.0.0.1", port)})
    assert await run(egress, box, "curl -s -d payload 'http://data.test/a?b=1'") == "echo payload"
    fetch = "import urllib.request as r; print(r.urlopen('http://data.test/py').read().decode())"
    assert await run(egress, box, f'python3 -c "{fetch}"') == "echo"
    assert seen == ["POST data.test /a?b=1", "GET data.test /py"]
    first, second = egress.record
    assert (first.method, first.host, first.port, first.path, first.status) == (
        "POST",
        "data.test",
        80,
        "/a?b=1",
        200,
    )
    assert (first.body_sha256, first.sent_bytes, first.received_bytes) == (
        hashlib.sha256(b"payload").hexdigest(),
        7,
        12,
    )
    assert (second.method, second.status) == ("GET", 200)
    await egress.aclose()


async def test_everything_else_is_refused_and_recorded(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(
        box, ["data.test:80", f"localhost:{port}"], at={"data.test:80": ("127.0.0.1", port)}
    )
    for url, status in (
        ("http://other.test/", 403),
        ("http://data.test:81/", 403),
        (f"http://127.0.0.1:{port}/", 403),
        (f"http://localhost:{port}/", 502),  # allowed by name, but it leads back to this machine
    ):
        assert await run(egress, box, f"curl -s -o /dev/null -w '%{{http_code}}' --noproxy '' {url}") == str(
            status
        )
    assert "403" in await run(egress, box, "curl -s -v https://data.test/ 2>&1 | grep 'HTTP/1.1'")
    assert [exchange.status for exchange in egress.record] == [403, 403, 403, 502, 403]
    # and there is no way around it
    assert (await box.sh(f"curl -s -m 2 --noproxy '*' http://127.0.0.1:{port}/")).exit_code == 7
    assert (
        await run(egress, box, "printf 'nonsense\\r\\n\\r\\n' >/dev/tcp/127.0.0.1/3128; echo alive")
        == "alive"
    )
    assert seen == []
    await egress.aclose()


async def test_a_tunnel_is_counted(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(box, ["data.test:443"], at={"data.test:443": ("127.0.0.1", port)})
    assert await run(egress, box, "curl -s --proxytunnel http://data.test:443/x") == "echo"
    (exchange,) = egress.record
    assert (exchange.method, exchange.host, exchange.port, exchange.status, exchange.path) == (
        "CONNECT",
        "data.test",
        443,
        200,
        "",
    )
    assert exchange.sent_bytes > 20 and exchange.received_bytes > 20 and seen == ["GET data.test:443 /x"]
    await egress.aclose()


async def test_between_actions_nothing_leaves(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(box, ["data.test:80"], at={"data.test:80": ("127.0.0.1", port)})
    await box.sh(
        "(sleep 0.05; curl -s -m 3 http://data.test/late >/dev/null; echo done > ended) >/dev/null 2>&1 &"
    )
    await box.sh("for i in $(seq 100); do [ -e ended ] && break; sleep 0.1; done; cat ended", timeout_s=15)
    assert seen == [] and egress.record == []
    await egress.aclose()


@asynccontextmanager
async def gate(
    allow: Iterable[str] = (), at: Mapping[str, tuple[str, int]] | None = None, timeout_s: float = 2.0
) -> AsyncGenerator[tuple[Egress, tuple[str, int]]]:
    """A proxy on a listener of this host, without a sandbox."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Egress(listener, allow, at or {}, timeout_s), listener.getsockname()


async def send(egress: Egress, address: tuple[str, int], request: bytes) -> bytes:
    """What a client reads until the connection closes, or the head of a response has arrived."""

    async def action() -> bytes:
        async with await anyio.connect_tcp(*address) as stream:
            with suppress(anyio.BrokenResourceError):
                await stream.send(request)
            read = b""
            with anyio.fail_after(5), suppress(anyio.EndOfStream):
                while b"\r\n\r\n" not in read:
                    read += await stream.receive()
            return read

    return await egress.during(action)


HEAD = b"Host: x\r\n\r\n"
MALFORMED = [
    *(
        b"GET " + target + b" HTTP/1.1\r\n" + HEAD
        for target in (
            b"http://[/",
            b"http://[::1/",
            b"http://a]b/",
            b"http://a.test:99999/",
            b"http://a.test:x/",
            b"http://",
            b"https://a.test/",
            b"*",
            b"//",
            b"/",
            b"a.test:80",
            b"http://\xff/",
            b"http://\xe2\x84\x80.test/",
            b"http://a.test/\x7f",
            b"http://:80/",
            b"x" * 20_000,
        )
    ),
    b"CONNECT nothing HTTP/1.1\r\n" + HEAD,
    b"CONNECT : HTTP/1.1\r\n" + HEAD,
    b"CONNECT a.test:999999 HTTP/1.1\r\n" + HEAD,
    b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"G\xffT http://a.test/ HTTP/1.1\r\n" + HEAD,
    b"GET http://a.test/ HTTP/1.1\r\nX: a\x00b\r\n" + HEAD,
    b"GET http://a.test/ HTTP/1.1\r\nContent-Length: x\r\n" + HEAD,
    b"GET http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + HEAD,
    b"POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HEAD + b"zz\r\n",
    b"POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + HEAD,
    b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 99999999999\r\n" + HEAD,
    b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 9\r\n" + HEAD,
]


@pytest.mark.parametrize("request_", MALFORMED, ids=[str(number) for number in range(len(MALFORMED))])
async def test_a_request_that_makes_no_sense_is_answered_and_recorded_and_ends_nothing(
    request_: bytes,
) -> None:
    async with gate(["a.test:80"], at={"a.test:80": ("127.0.0.1", 9)}) as (egress, address):
        answer = await send(egress, address, request_)
        status = int(answer.split()[1])
        assert 400 <= status < 500 or status == 501
        assert [exchange.status for exchange in egress.record] == [status]


@pytest.mark.parametrize("target", [b"POST http://b.test/ HTTP/1.1", b"CONNECT b.test:80 HTTP/1.1"])
async def test_the_verdict_falls_before_the_body_is_read(target: bytes) -> None:
    async with gate(["a.test:80"]) as (egress, address):
        answer = await send(egress, address, target + b"\r\nContent-Length: 9999999\r\n" + HEAD + b"z" * 1000)
        assert answer.startswith(b"HTTP/1.1 403") and [exchange.status for exchange in egress.record] == [403]
        assert egress._held == 0


async def test_whoever_asks_before_sending_a_body_is_told_to_go_on_or_refused(
    site: tuple[int, list[str]],
) -> None:
    async with gate(["a.test:80"], at={"a.test:80": ("127.0.0.1", site[0])}) as (egress, address):
        for host, status in ((b"a", b"100"), (b"b", b"403")):
            head = b"POST http://%s.test/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n" % host
            assert (await send(egress, address, head + HEAD)).split()[1] == status


async def test_connections_that_are_reset_end_alone(box: Box, site: tuple[int, list[str]]) -> None:
    """Before, while and after they are taken up."""
    egress = await Egress.open(box, ["data.test:80"], at={"data.test:80": ("127.0.0.1", site[0])})
    reset = """import socket, struct
for said in (b"", b"GET http://data.test/ HTTP/1.1\\r\\n") * 40:
    with socket.create_connection(("127.0.0.1", 3128)) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.send(said)
"""

    async def action() -> Result:
        await box.py(reset, timeout_s=20)
        return await box.sh("curl -s http://data.test/", timeout_s=20)

    assert (await egress.during(action)).output.split() == [b"echo"]
    await egress.aclose()
    gc.collect()  # a socket that nobody closed would be a warning, and fail


POST = b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 9\r\n" + HEAD + b"half"
CONNECT = b"CONNECT a.test:80 HTTP/1.1\r\n" + HEAD


@pytest.mark.parametrize(("said", "status"), [(POST, 0), (CONNECT, 200)])
@pytest.mark.parametrize("resets", [True, False])
async def test_a_request_that_is_given_up_is_recorded_and_leaves_nothing_open(
    said: bytes, status: int, resets: bool, site: tuple[int, list[str]]
) -> None:
    """By a reset, or because the action ends."""
    async with gate(["a.test:80"], at={"a.test:80": ("127.0.0.1", site[0])}) as (egress, address):

        async def action() -> None:
            with socket.create_connection(address) as link:
                link.send(said)
                with anyio.fail_after(5):
                    if said is CONNECT:
                        await anyio.wait_readable(link)
                    while not (egress._held or said is CONNECT):  # noqa: ASYNC110 - the proxy notices when it does
                        await anyio.sleep(0.01)
                    if resets:
                        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        link.close()
                    while resets and not egress.record:  # noqa: ASYNC110 - the same
                        await anyio.sleep(0.01)

        before = len(list(Path("/proc/self/fd").iterdir()))
        await egress.during(action)
        assert [exchange.status for exchange in egress.record] == [status] and egress._held == 0
        gc.collect()  # a socket that nobody closed would be a warning, and fail
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the site's own end
        assert b"200" in await send(egress, address, b"GET http://a.test/ HTTP/1.0\r\n" + HEAD)


async def test_a_tunnel_that_is_given_up_before_its_host_has_answered_is_recorded() -> None:
    with ExitStack() as stack:
        host = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # it takes up no more
            link = stack.enter_context(socket.socket())
            link.setblocking(False)
            link.connect_ex(host.getsockname())
        async with gate(["a.test:80"], at={"a.test:80": host.getsockname()}) as (egress, address):
            with anyio.move_on_after(0.5):
                await send(egress, address, CONNECT)
            assert [exchange.status for exchange in egress.record] == [0]


async def test_connections_and_bodies_are_bounded() -> None:
    async with gate(["a.test:80"], timeout_s=30.0) as (egress, address):

        async def crowd() -> tuple[int, int]:
            before = len(list(Path("/proc/self/fd").iterdir()))
            streams = [await anyio.connect_tcp(*address) for _ in range(80)]
            most = 0
            for stream in streams:
                with suppress(anyio.BrokenResourceError), anyio.move_on_after(0.02):
                    await stream.send(
                        b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 16000000\r\n"
                        + HEAD
                        + b"z" * 4_000_000
                    )
                most = max(most, egress._held)
            opened = len(list(Path("/proc/self/fd").iterdir())) - before
            for stream in streams:
                await stream.aclose()
            return most, opened

        most_held, opened = await egress.during(crowd)
        assert 1 << 20 < most_held <= 1 << 25 and opened <= 80 + 32 + 2
        assert egress._held == 0


async def test_a_record_is_bounded_and_nothing_leaves_unrecorded() -> None:
    async with gate(["a.test:80"]) as (egress, address):
        answer = await send(egress, address, b"GET http://b.test/" + b"a" * 9000 + b" HTTP/1.1\r\n" + HEAD)
        assert (
            answer.split()[1] == b"403"
            and len(egress.record[-1].path) < 1100
            and "9001 characters" in egress.record[-1].path
        )
        egress.record.extend(egress.record[-1:] * 4096)
        assert (await send(egress, address, b"GET http://a.test/ HTTP/1.1\r\n" + HEAD)).split()[1] == b"429"
        assert egress.num_unrecorded == 1


async def test_an_answer_with_odd_headers_comes_through_and_a_broken_one_is_502() -> None:
    answers = iter(
        [
            b"HTTP/1.1 200 OK\r\nX-Caf\xc3\xa9: no\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: caf\xe9\r\nContent-Length: 0\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"",
        ]
    )

    async def say(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(next(answers))

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as host,
        anyio.create_task_group() as group,
    ):
        group.start_soon(host.serve, say)
        port = host.extra(anyio.abc.SocketAttribute.local_port)
        async with gate(["a.test:80"], at={"a.test:80": ("127.0.0.1", port)}) as (egress, address):
            for _ in range(4):
                await send(egress, address, b"GET http://a.test/ HTTP/1.1\r\n" + HEAD)
        group.cancel_scope.cancel()
    assert [exchange.status for exchange in egress.record] == [502, 200, 502, 502]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "224.0.0.1",
        "fe80::1",
    ],
)
def test_an_address_that_leads_back_here_is_not_public(address: str) -> None:
    assert not _is_public(address) and _is_public("93.184.215.14") and _is_public("2606:2800:21f::1")
