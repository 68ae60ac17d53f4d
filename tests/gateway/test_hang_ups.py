"""Clients that hang up, at every moment of a request: it ends, nothing else does, and nothing is left."""

from __future__ import annotations

import gc
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.gateway.conftest import KEY, Served, serving
from tests.gateway.test_tools import desk_of

from agito.protocols import Row, Sampled, SampleRequest
from agito.testing import FakeEngine
from agito.testing.engines import FakeRow
from agito.types import FinishReason

pytestmark = pytest.mark.anyio
HOW = ("end", "reset", "half")
HI = [{"role": "user", "content": "hi"}]


class Halting(FakeEngine):
    """Samples so many times as it `may_say`, and then stalls."""

    def __init__(self) -> None:
        super().__init__(vocab_size=259, context=4096)
        self.may_say = self.num_said = 0

    def open(self, seed: int) -> Row:
        return _HaltingRow(self, seed)


class _HaltingRow(FakeRow):
    def __init__(self, engine: Halting, seed: int) -> None:
        super().__init__(engine, seed, [])
        self._halting = engine

    async def sample(self, request: SampleRequest) -> Sampled:
        while self._halting.num_said >= self._halting.may_say:  # noqa: ASYNC110 - a stall
            await anyio.sleep(0.002)
        self._halting.num_said += 1
        return await super().sample(request)


def request(path: str, body: object, *, key: str = KEY) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {key}",
        f"content-length: {len(data)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + data


ASKED = {
    "/v1/chat/completions": {"model": "policy", "messages": HI, "max_tokens": 200},
    "/v1/responses": {"model": "policy", "input": "hi", "max_output_tokens": 200},
    "/v1/messages": {"model": "policy", "messages": HI, "max_tokens": 200},
}


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - the server notices when it does
            await anyio.sleep(0.005)


def cut(link: socket.socket, how: str) -> None:
    if how == "reset":
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        link.shutdown(socket.SHUT_WR)
    else:
        link.close()


async def hung_up(served: Served, said: bytes, how: str, when: Callable[[], Awaitable[object]]) -> None:
    """After `said` has been sent and `when` has come."""
    with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as link:
        link.setblocking(False)
        link.send(said)
        await when()
        cut(link, how)
        await until(lambda: not any(line.is_busy for line in served.conversations.tree.lines))
        await anyio.sleep(0.02)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(("path", "choices"), [*((path, 1) for path in ASKED), ("/v1/chat/completions", 3)])
async def test_a_client_that_hangs_up_at_any_moment_leaves_no_row_no_task_and_no_descriptor(
    path: str, streams: bool, choices: int
) -> None:
    engine = Halting()
    more = {"stream": streams} | ({"n": choices} if choices > 1 else {})
    said = request(path, ASKED[path] | more)
    head = said.index(b"\r\n\r\n")
    async with serving(engine) as served:
        await served.client.get("/v1/models")
        before, tasks = descriptors(), len(anyio.get_running_tasks())

        async def soon() -> None:
            await anyio.sleep(0.02)

        async def sampling() -> None:
            await until(lambda: engine.num_open >= choices)
            await anyio.lowlevel.checkpoint()

        async def under_way() -> None:
            engine.may_say = engine.num_said + 3
            await until(lambda: engine.num_said >= engine.may_say)

        for part, when in (
            (said[: head - 9], soon),
            (said[: head + 9], soon),
            (said, soon),
            (said, sampling),
            *([(said, under_way)] if streams else []),
        ):
            for how in HOW:
                await hung_up(served, part, how, when)
        engine.may_say = 1 << 20
        answer = await served.ask(HI, (), max_tokens=4)
        assert answer["usage"]["completion_tokens"] == 4
        _, turns = served.conversations.record()
        cancelled = [turn for turn in turns if turn.stopped is FinishReason.CANCELLED]
        assert len(turns) - len(cancelled) == 1 and len(cancelled) <= choices * len(HOW)
        await until(lambda: len(anyio.get_running_tasks()) <= tasks)
        assert engine.num_open == 1, "the row of the answer, which can be gone on with"
        await until(lambda: descriptors() <= before)
    assert engine.num_open == 0


async def test_a_reader_that_stops_in_a_long_stream_and_hangs_up_ends_its_own_request() -> None:
    engine = Halting()
    engine.may_say = 1 << 20
    async with serving(engine) as served:
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.connect(("127.0.0.1", int(served.url.rpartition(":")[2])))
        link.send(
            request(
                "/v1/chat/completions", {**ASKED["/v1/chat/completions"], "stream": True, "max_tokens": 4000}
            )
        )
        await until(lambda: engine.num_said > 3)
        assert (await served.ask(HI, (), max_tokens=4))["usage"]["completion_tokens"] == 4
        cut(link, "reset")
        await until(lambda: not any(line.is_busy for line in served.conversations.tree.lines))
        assert (await served.ask(HI, (), max_tokens=4))["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("how", HOW)
async def test_a_tool_whose_caller_hangs_up_is_used_once_and_the_next_call_gets_its_own_result(
    how: str,
) -> None:
    async with desk_of() as opened:
        port = int(opened.url.rpartition(":")[2])
        use = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        mcp = request("/mcp", use | {"params": {"name": "open", "arguments": {"box": "1"}}})
        plain = request("/v1/tools/open", {"box": "2"})
        for part in (plain[:-4], plain[:20], mcp[:-4], plain, mcp):
            with socket.create_connection(("127.0.0.1", port)) as link:
                link.send(part)
                await anyio.sleep(0.02)
                cut(link, how)
                await anyio.sleep(0.02)
        await until(lambda: len(opened.desk.events) == 2)
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.setblocking(False)
            link.send(request("/v1/tools/submit", {"box": "7"}))
            await until(lambda: len(opened.desk.events) == 3)
        assert [dict(event.call.arguments) for event in opened.desk.events] == [
            {"box": "2"},
            {"box": "1"},
            {"box": "7"},
        ]
