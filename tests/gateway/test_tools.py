"""A guest's tools: at addresses of their own, and over MCP, by the official SDK; one call after the other."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

import anyio
import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from tests.gateway.conftest import KEY, offers

from agito.gateway import Conversations, Gateway, Terms, listening
from agito.harness.foreign.tool_server import ToolDesk
from agito.protocols import Agent, AgentSpec
from agito.testing import ByteRenderer, FakeSession, ReplayEngine
from agito.types import Dialect, Limits, TerminationReason

pytestmark = pytest.mark.anyio


@dataclass
class Opened:
    desk: ToolDesk
    session: FakeSession
    url: str


@asynccontextmanager
async def desk_of(limits: Limits | None = None) -> AsyncGenerator[Opened]:
    limits = limits or Limits(turns=5, calls=5)
    agent = Agent(spec=AgentSpec(renderer=ByteRenderer(Dialect.NATURAL)), engine=ReplayEngine(turns=[]))
    session = FakeSession(lambda call: "empty")
    conversations = Conversations(agent, seed=0, terms=Terms(limits=limits))
    desk = ToolDesk(session, limits, conversations, nullcontext)
    gateway = Gateway(lambda _: conversations, ["main"], key=KEY, overrides=True)
    async with listening(gateway.app(*desk.routes(gateway))) as url:
        yield Opened(desk, session, url)


async def test_tools_are_listed_as_chat_completions_want_them_and_called_by_name() -> None:
    async with desk_of() as opened, httpx.AsyncClient(headers={"x-api-key": KEY}) as client:
        assert (await client.get(f"{opened.url}/v1/tools")).json() == offers()
        found = (await client.post(f"{opened.url}/v1/tools/open", json={"box": "1"})).json()
        assert found == {"content": "empty\n[5 turns left]", "fault": None, "ended": False}
        wrong = (await client.post(f"{opened.url}/v1/tools/fly", json={})).json()
        assert wrong["fault"] == "policy" and wrong["content"].startswith("[policy]\nerror")
        assert (await client.post(f"{opened.url}/v1/tools/open", json=[1])).status_code == 400
        ended = (await client.post(f"{opened.url}/v1/tools/submit", json={"box": "1"})).json()
        assert ended["ended"] and opened.desk.end is TerminationReason.SUBMITTED
        assert (await client.post(f"{opened.url}/v1/tools/open", json={"box": "1"})).status_code == 409
        assert len(opened.desk.events) == 3


async def test_the_official_mcp_client_lists_and_calls_the_tools() -> None:
    async with (
        desk_of() as opened,
        create_mcp_http_client(headers={"authorization": f"Bearer {KEY}"}) as http,
        streamable_http_client(f"{opened.url}/mcp", http_client=http) as streams,
        ClientSession(*streams[:2]) as session,
    ):
        await session.initialize()
        listed = (await session.list_tools()).tools
        assert [tool.name for tool in listed] == ["open", "submit"]
        assert listed[0].input_schema["required"] == ["box"]
        found = await session.call_tool("open", {"box": "1"})
        assert not found.is_error and "empty" in found.model_dump_json()
        assert (await session.call_tool("fly", {})).is_error
        await session.send_ping()
        assert [event.call.tool for event in opened.desk.events] == ["open", "fly"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "prompts/list"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}', -32602),
        (
            b'{"id": 1, "method": "tools/call", "params": {"name": "open", "arguments": 3}}',
            -32602,
        ),
    ],
)
async def test_what_is_no_request_of_mcp_is_answered_with_its_code(body: bytes, code: int) -> None:
    async with desk_of() as opened, httpx.AsyncClient(headers={"x-api-key": KEY}) as client:
        answer = await client.post(f"{opened.url}/mcp", content=body)
        assert json.loads(answer.text)["error"]["code"] == code
        assert not opened.desk.events


async def test_calls_that_come_at_once_are_made_one_after_the_other_and_no_more_than_are_left() -> None:
    async with (
        desk_of(Limits(turns=5, calls=3)) as opened,
        httpx.AsyncClient(headers={"x-api-key": KEY}) as client,
    ):
        statuses: list[int] = []

        async def use() -> None:
            statuses.append((await client.post(f"{opened.url}/v1/tools/open", json={"box": "1"})).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(use)
        assert sorted(statuses) == [200] * 3 + [409] * 3
        assert opened.desk.end is TerminationReason.CALLS
        assert [event.index for event in opened.desk.events] == [0, 1, 2]
        assert [left.calls for _, left in opened.session.asked] == [2, 1, 0]
