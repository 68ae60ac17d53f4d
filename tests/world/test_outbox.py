"""Messages to a browser and to tool servers whose senders are given up in the middle."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from agito.protocols import Service
from agito.types import Json
from agito.worlds.browser.cdp import Link
from agito.worlds.mcp.channels import Pipes

pytestmark = pytest.mark.anyio
LARGE = "x" * (1 << 18)  # more than a pipe takes at once


@dataclass
class Reader:
    """The other end: reads only when it is told to."""

    stdin: int
    stdout: int
    end: bytes
    data: bytes = b""

    async def read(self, num_bytes: int) -> None:
        while len(self.data) < num_bytes:
            await anyio.wait_readable(self.stdin)
            self.data += os.read(self.stdin, min(1 << 12, num_bytes - len(self.data)))

    async def messages(self, num: int) -> list[dict[str, Json]]:
        while self.data.count(self.end) < num:
            await anyio.wait_readable(self.stdin)
            self.data += os.read(self.stdin, 1 << 16)
        return [json.loads(each) for each in self.data.split(self.end) if each]

    def say(self, message: Mapping[str, Json]) -> None:
        os.write(self.stdout, json.dumps(message).encode() + self.end)


@asynccontextmanager
async def piped(end: bytes) -> AsyncGenerator[tuple[Service, Reader]]:
    (their_in, our_in), (our_out, their_out), (our_err, their_err) = os.pipe(), os.pipe(), os.pipe()
    for each in our_in, our_out, our_err:
        os.set_blocking(each, False)
    try:
        yield Service(stdin=our_in, stdout=our_out, stderr=our_err), Reader(their_in, their_out, end)
    finally:
        for each in their_in, their_out, their_err:
            os.close(each)


@pytest.mark.parametrize("num_read", [0, 1, 5000, 1 << 17])
async def test_a_command_that_was_given_up_half_sent_does_not_take_the_next_pages_with_it(
    num_read: int,
) -> None:
    async with piped(b"\0") as (service, reader):
        link = Link(service)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(link.command, "Page.large", text=LARGE))
            await anyio.lowlevel.checkpoint()
            await reader.read(num_read)
            tasks.cancel_scope.cancel()

        async def answer() -> None:
            *_, last = await reader.messages(2)
            assert last["method"] == "Page.next"
            reader.say({"id": last["id"], "result": {"is": "mine"}})

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                assert await link.command("Page.next", "other page") == {"is": "mine"}
        link.close()


async def test_a_command_that_was_given_up_before_it_was_begun_is_never_sent() -> None:
    async with piped(b"\0") as (service, reader):
        link = Link(service)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(link.command, "Page.first", text=LARGE))
            await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(0.01):
                await link.command("Page.second")
            await reader.messages(1)
            tasks.start_soon(link.command, "Page.third")
            assert [each["method"] for each in await reader.messages(2)] == ["Page.first", "Page.third"]
            tasks.cancel_scope.cancel()
        link.close()


async def test_a_request_to_a_tool_server_that_was_given_up_half_sent_stays_one_line() -> None:
    async with piped(b"\n") as (service, reader):
        pipes = Pipes(service)
        with anyio.move_on_after(0.05):
            await pipes.post({"id": 1, "text": LARGE})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipes.post, {"id": 2})
            with anyio.fail_after(20):
                assert [each["id"] for each in await reader.messages(2)] == [1, 2]
        await pipes.aclose()
