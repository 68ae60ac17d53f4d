"""Every component with a real deadline: the same event, a free loop, and afterwards an unchanged component or
one that says it is gone.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import gymnasium
import httpx
import pytest

from agito.protocols import SandboxSpec
from agito.types import AttemptId, Call, Fault
from agito.worlds.api import Operation, Service, image
from agito.worlds.browser import Browser, Farm, NoBrowser, TextTabs, program
from agito.worlds.component import Answer, Component, Machine, spec
from agito.worlds.gym import GymWorld
from agito.worlds.http1 import Request, Response
from agito.worlds.mcp import Server, ToolServer, tools_of
from agito.worlds.memory import Memory
from agito.worlds.model_user import ModelUser
from agito.worlds.python import PythonTool
from agito.worlds.sandbox import Pool
from agito.worlds.search import Corpus, Document, SearchEngine
from agito.worlds.workspace import Snippet, Workspace

pytestmark = pytest.mark.anyio
DEADLINE_S, SLOW_S = 0.4, 1.6
MOST_STALL_S = 0.8  # half of the time for which a call would block the loop
# a component, a slow call, a quick call, the deadline of the first
Case = tuple[Component, Call, Call, float]


def call(tool: str, **arguments: Any) -> Call:
    return Call(tool=tool, arguments=arguments)


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


@asynccontextmanager
async def shell(pool: Pool) -> AsyncGenerator[Case]:
    yield (
        Workspace(spec=SandboxSpec(), tree={}).open(pool),
        call("sh", command="echo begun; sleep 9"),
        call("sh", command="ls"),
        DEADLINE_S,
    )


@asynccontextmanager
async def snippet(pool: Pool) -> AsyncGenerator[Case]:
    tools = [
        Snippet(tool=spec(name, ""), code=code)
        for name, code in (("slow", "while True: pass"), ("quick", "print(1)"))
    ]
    yield (
        Workspace(spec=SandboxSpec(), tree={}, snippets=tuple(tools)).open(pool),
        call("slow"),
        call("quick"),
        DEADLINE_S,
    )


@asynccontextmanager
async def python(pool: Pool) -> AsyncGenerator[Case]:
    yield (
        PythonTool(pool),
        call("python", code="import time; time.sleep(9)"),
        call("python", code="1"),
        DEADLINE_S,
    )


@asynccontextmanager
async def tool_server(pool: Pool) -> AsyncGenerator[Case]:
    plain = Path(__file__).with_name("plain_server.py").read_text()
    server = Server(
        name="plain",
        command="exec python3 plain.py",
        sandbox=SandboxSpec(),
        files={"plain.py": plain},
        keeps="data",
    )
    component = ToolServer(pool, server, await tools_of(server, pool))
    # its first call starts it, outside of the deadline
    await component.call(call("get", name="a"), timeout_s=10.0)
    yield component, call("sleep", name="a"), call("get", name="a"), DEADLINE_S


class Site:
    """Answers everything but `/slow` at once."""

    async def respond(self, request: Request) -> Response:
        if request.target.endswith("/slow"):
            await anyio.sleep(SLOW_S)
        html = b"<h1>Home</h1><a href=/slow>slow</a>"
        return Response(status=200, headers=(("content-type", "text/html"),), body=html)

    def state(self) -> str:
        return ""


@asynccontextmanager
async def text_browser(pool: Pool) -> AsyncGenerator[Case]:
    browser = Browser(TextTabs(), Site, "http://s.test/")
    await browser.call(call("look"), timeout_s=10.0)
    yield browser, call("click", element="slow"), call("look"), DEADLINE_S


@asynccontextmanager
async def chromium(pool: Pool) -> AsyncGenerator[Case]:
    try:
        program()
    except NoBrowser as error:
        pytest.skip(str(error))
    farm = Farm()
    try:
        browser = Browser(farm, Site, "http://s.test/")
        await browser.call(call("look"), timeout_s=30.0)
        yield browser, call("click", element="slow"), call("look"), DEADLINE_S
    finally:
        await farm.aclose()


async def _trickle(stream: anyio.abc.SocketStream) -> None:
    """A reply that comes byte by byte, so that no single wait is long."""
    async with stream:
        asked = await stream.receive()
        body = b'{"choices": [{"message": {"role": "assistant", "content": "yes"}}]}'
        with suppress(anyio.BrokenResourceError):  # the client has given up
            await stream.send(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            for byte in body:
                await stream.send(bytes([byte]))
                await anyio.sleep(SLOW_S / len(body) if b"slow" in asked else 0)


@asynccontextmanager
async def model_user(pool: Pool) -> AsyncGenerator[Case]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        group.start_soon(listener.serve, _trickle)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1/") as client:
            yield (
                ModelUser("x", client, model="m"),
                call("ask", text="slow"),
                call("ask", text="quick"),
                DEADLINE_S,
            )
        group.cancel_scope.cancel()


class Sleepy(gymnasium.Env[Any, Any]):
    action_space, observation_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if action:
            time.sleep(SLOW_S)
        return 0, 0.0, False, False, {}


class Busy(Sleepy):
    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        ends = time.monotonic() + SLOW_S
        while action and time.monotonic() < ends:
            pass
        return 0, 0.0, False, False, {}


@asynccontextmanager
async def gym_asleep(pool: Pool) -> AsyncGenerator[Case]:
    yield GymWorld(Sleepy, 0), call("act", action="1"), call("act", action="0"), DEADLINE_S


@asynccontextmanager
async def gym_busy(pool: Pool) -> AsyncGenerator[Case]:
    yield GymWorld(Busy, 0), call("act", action="1"), call("act", action="0"), DEADLINE_S


class Slow(Machine):
    name, tools = "slow", (spec("wait", ""), spec("go", ""))

    def step(self, call: Call) -> Answer:
        self.state = [call.tool]
        if call.tool == "wait":
            time.sleep(SLOW_S)
        return Answer(text="done")


@asynccontextmanager
async def machine(pool: Pool) -> AsyncGenerator[Case]:
    yield Slow([]), call("wait"), call("go"), DEADLINE_S


@asynccontextmanager
async def search(pool: Pool) -> AsyncGenerator[Case]:
    corpus = Corpus([Document(id=str(number), title="a", text="b") for number in range(150_000)])
    yield SearchEngine(corpus, limit=150_000), call("search", query="a b"), call("search", query="c"), 0.05


@asynccontextmanager
async def memory(pool: Pool) -> AsyncGenerator[Case]:
    memory = Memory(AttemptId(group=0, slot=0))
    for number in range(3000):
        await memory.call(
            call("remember", note=" ".join(f"w{each}" for each in range(32)) + f" n{number}"), timeout_s=9.0
        )
    yield (
        memory,
        call("recall", query=" ".join(f"w{each}" for each in range(32))),
        call("recall", query="n7"),
        0.01,
    )


def _sql(connection: sqlite3.Connection, arguments: Any, caller: str) -> Any:
    return [list(row) for row in connection.execute(arguments["q"]).fetchall()]


@asynccontextmanager
async def sql(pool: Pool) -> AsyncGenerator[Case]:
    service = Service(
        [Operation(tool=spec("do", "", ["q"]), run=_sql)], image("CREATE TABLE t (n)", {"t": [(1,)]})
    )
    endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    yield service, call("do", q=endless), call("do", q="SELECT n FROM t"), DEADLINE_S


def _stuck(connection: sqlite3.Connection, arguments: Any, caller: str) -> Any:
    connection.execute("UPDATE t SET n = 2")
    if arguments["q"]:
        time.sleep(SLOW_S)
    return []


@asynccontextmanager
async def stuck_service(pool: Pool) -> AsyncGenerator[Case]:
    service = Service(
        [Operation(tool=spec("do", "", ["q"]), run=_stuck, writes=True)],
        image("CREATE TABLE t (n)", {"t": [(1,)]}),
    )
    yield service, call("do", q="x"), call("do", q=""), DEADLINE_S


CASES: dict[str, Callable[[Pool], AbstractAsyncContextManager[Case]]] = {
    each.__name__: each
    for each in (
        shell,
        snippet,
        python,
        tool_server,
        text_browser,
        chromium,
        model_user,
        gym_asleep,
        gym_busy,
        machine,
        search,
        memory,
        sql,
        stuck_service,
    )
}
GONE = {"gym_asleep", "gym_busy", "stuck_service"}  # whose state is unknown afterwards


@pytest.mark.parametrize("name", CASES)
async def test_a_call_that_runs_out_of_time_is_an_event_and_holds_nobody_up(pool: Pool, name: str) -> None:
    async with CASES[name](pool) as (component, slow, quick, deadline_s):
        before = await component.digest()
        stall_s = 0.0

        async def tick() -> None:
            nonlocal stall_s
            while True:
                began = time.monotonic()
                await anyio.sleep(0.01)
                stall_s = max(stall_s, time.monotonic() - began)

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            await anyio.lowlevel.checkpoint()
            answer = await component.call(slow, timeout_s=deadline_s)
            group.cancel_scope.cancel()
        assert answer.fault is Fault.TIMEOUT and answer.text.splitlines()[-1] == "timeout"
        assert deadline_s * 0.9 <= answer.wall_s < deadline_s + 3.0
        assert stall_s < MOST_STALL_S
        if name in ("machine", "search", "sql"):
            assert await component.digest() == before
        after = await component.call(quick, timeout_s=10.0)
        assert (
            ("gone" in after.text and after.fault is Fault.TOOL) if name in GONE else after.fault is None
        ), after
        await component.capture()
        await component.close()


async def test_what_could_not_be_interrupted_leaves_nothing_in_the_database(pool: Pool) -> None:
    async with stuck_service(pool) as (service, slow, _, deadline_s):
        assert isinstance(service, Service)
        before = await service.digest()
        await service.call(slow, timeout_s=deadline_s)
        assert await service.digest() == before


async def test_a_cancelled_call_leaves_nothing_for_the_next_caller(pool: Pool) -> None:
    async with sql(pool) as (service, slow, quick, _):
        with anyio.move_on_after(0.1):
            await service.call(slow, timeout_s=30.0)
        assert (await service.call(quick, timeout_s=5.0)).text == "[[1]]"


async def test_two_hundred_calls_at_once_wait_for_themselves_alone(pool: Pool) -> None:
    """No thread queue: a sleeping call takes no other call's time."""
    machines = [Slow([]) for _ in range(200)]
    began = time.monotonic()
    async with anyio.create_task_group() as group:
        for each in machines:
            group.start_soon(lambda each=each: each.call(call("wait"), timeout_s=30.0))
    assert time.monotonic() - began < 4 * SLOW_S
