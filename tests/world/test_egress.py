"""The proxy, with real curl and Python in a real sandbox, and a real server on the host."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from agito.protocols import Result, SandboxSpec
from agito.world.egress import ENV, Egress
from agito.world.sandbox import Pool
from agito.world.sandbox.box import Box

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
    assert (first.method, first.host, first.port, first.path, first.status) == ("POST", "data.test", 80, "/a?b=1", 200)
    assert (first.body_sha256, first.sent_bytes, first.received_bytes) == (hashlib.sha256(b"payload").hexdigest(), 7, 12)
    assert (second.method, second.status) == ("GET", 200)
    await egress.aclose()


async def test_everything_else_is_refused_and_recorded(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(box, ["data.test:80", f"localhost:{port}"], at={"data.test:80": ("127.0.0.1", port)})
    for url, status in (
        ("http://other.test/", 403),
        ("http://data.test:81/", 403),
        (f"http://127.0.0.1:{port}/", 403),
        (f"http://localhost:{port}/", 502),  # allowed by name, but it leads back to this machine
    ):
        assert await run(egress, box, f"curl -s -o /dev/null -w '%{{http_code}}' --noproxy '' {url}") == str(status)
    assert "403" in await run(egress, box, "curl -s -v https://data.test/ 2>&1 | grep 'HTTP/1.1'")
    assert [exchange.status for exchange in egress.record] == [403, 403, 403, 502, 403]
    assert (await box.sh(f"curl -s -m 2 --noproxy '*' http://127.0.0.1:{port}/")).exit_code == 7  # nor is there a way around it
    assert await run(egress, box, "printf 'nonsense\\r\\n\\r\\n' >/dev/tcp/127.0.0.1/3128; echo alive") == "alive"
    assert seen == []
    await egress.aclose()


async def test_a_tunnel_is_counted(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(box, ["data.test:443"], at={"data.test:443": ("127.0.0.1", port)})
    assert await run(egress, box, "curl -s --proxytunnel http://data.test:443/x") == "echo"
    (exchange,) = egress.record
    assert (exchange.method, exchange.host, exchange.port, exchange.status, exchange.path) == ("CONNECT", "data.test", 443, 200, "")
    assert exchange.sent_bytes > 20 and exchange.received_bytes > 20 and seen == ["GET data.test:443 /x"]
    await egress.aclose()


async def test_between_actions_nothing_leaves(box: Box, site: tuple[int, list[str]]) -> None:
    port, seen = site
    egress = await Egress.open(box, ["data.test:80"], at={"data.test:80": ("127.0.0.1", port)})
    await box.sh("(sleep 0.05; curl -s -m 3 http://data.test/late >/dev/null; echo done > ended) >/dev/null 2>&1 &")
    await box.sh("for i in $(seq 100); do [ -e ended ] && break; sleep 0.1; done; cat ended", timeout_s=15)
    assert seen == [] and egress.record == []
    await egress.aclose()
