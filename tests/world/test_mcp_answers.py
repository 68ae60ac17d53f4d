"""Noisy, large and duplicate tool servers, and how their answers are shown."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agito.protocols import SandboxSpec
from agito.types import AttemptId, Budget, Call, Dialect, Event, Fault, Json, Limits, Task, ToolSpec
from agito.worlds.mcp import Server, ToolServer, tools_of
from agito.worlds.mcp.content import answer
from agito.worlds.memory import Memory
from agito.worlds.python import PythonTool
from agito.worlds.sandbox import Pool
from agito.worlds.workspace import Workspace
from agito.worlds.world import World

pytestmark = pytest.mark.anyio
LEFT = Budget(turns=9, calls=9, tokens=99)


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


async def opened(pool: Pool, server: Server) -> World:
    tools = await tools_of(server, pool)
    prompt = {Dialect.COMPACT: "-"}
    task = Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt=prompt,
        tools=tools,
        limits=Limits(call_seconds=10.0),
    )
    return World(task, [ToolServer(pool, server, tools)], AttemptId(group=0, slot=0), noise_seed=0)


async def ask(world: World, tool: str, **arguments: Json) -> Event:
    (event,) = await world.session.act([Call(tool=tool, arguments=arguments)], LEFT)
    return event


NOISY = """
import json, os, sys
def send(**m): sys.stdout.write(json.dumps({"jsonrpc": "2.0", **m}) + "\\n"); sys.stdout.flush()
def raw(text): sys.stdout.buffer.write(text); sys.stdout.flush()
NOISE = eval(os.environ["NOISE"])
raw(NOISE)
while True:
    m = json.loads(input()); method, n = m["method"], m.get("id")
    if method == "initialize": send(id=n, result={"protocolVersion": "2025-06-18", "capabilities": {}})
    elif method == "tools/list": send(id=n, result={"tools": [{"name": t, "inputSchema": {}} for t in sys.argv[1:]]})
    elif method == "tools/call":
        raw(NOISE)
        sys.stderr.write("x" * 400_000); sys.stderr.flush()
        os.makedirs("data", exist_ok=True)
        if m["params"]["name"] == "big": open("data/big", "wb").write(bytes(6_000_000))
        send(id=n, result={"content": [{"type": "text", "text": "said " + m["params"]["name"]}]})
"""  # noqa: E501


def noisy(
    noise: bytes = b"", *tools: str, name: str = "noisy", keeps: str = "data", base: str | None = None
) -> Server:
    command = f"NOISE={shlex.quote(repr(noise))} exec python3 -u noisy.py {' '.join(tools or ('who',))}"
    spec = SandboxSpec(base=base, mem_mb=512)
    return Server(
        name=name, command=command, sandbox=spec, files={"noisy.py": NOISY}, keeps=keeps, start_s=10.0
    )


@pytest.mark.parametrize(
    "noise",
    [
        b"npm warn exec installing\n",
        b"\n",
        b"\r\n",
        b"[]\n",
        b"[1, 2]\n",
        b"7\n",
        b"null\n",
        b"caf\xe9 opened\n",
        b"\x00\x00\n",
        b"\xef\xbb\xbf",
        b"9" * 5000 + b"\n",
        b'{"level": "info", "msg": "up"}\n',
        b'{"id": 1, "method": "GET", "result": 3}\n',
        b"loading...",
        b"line\n" * 900,
        b"[" * 3000 + b"\n",
        b'"half\n',
    ],
)
async def test_what_a_server_prints_beside_its_messages_is_passed_over(pool: Pool, noise: bytes) -> None:
    server = noisy(noise)
    world = await opened(pool, server)
    for _ in range(3):
        event = await ask(world, "who")
        assert (event.text, event.fault) == ("said who", None)
    await world.close()


async def test_a_state_that_is_too_large_is_no_artefact_and_no_error(pool: Pool) -> None:
    server = noisy(b"", "who", "big")
    world = await opened(pool, server)
    await ask(world, "big")
    assert await world.digest() == await world.digest()
    assert (await world.seal()).files == {}


async def test_a_base_is_never_taken_for_state(pool: Pool, tmp_path: Path) -> None:
    for each in (tmp_path, *tmp_path.parents[:3]):
        each.chmod(0o755)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "large").write_bytes(bytes(5 << 20))
    (tmp_path / "lib" / "small").write_text("as it was")
    server = noisy(keeps="", base=str(tmp_path))
    tools = await tools_of(server, pool)
    component = ToolServer(pool, server, tools)
    await component.call(Call(tool="who", arguments={}), timeout_s=10.0)
    first = await component.digest()
    sandbox = await component._open()
    await sandbox.sh("echo changed > lib/small; echo new > added")
    assert await component.digest() != first
    assert {path: data for path, data in (await component.capture()).items() if path != "noisy.py"} == {
        "lib/small": b"changed\n",
        "added": b"new\n",
    }
    await component.close()


async def test_one_name_for_two_things_is_refused_before_anything_starts(pool: Pool) -> None:
    who = (ToolSpec(name="who", description="", parameters={}),)
    with pytest.raises(ValueError, match="more than one tool who"):
        ToolServer(pool, noisy(), (*who, *who))
    with pytest.raises(ValueError, match="more than one tool who"):
        await tools_of(noisy(b"", "who", "who"), pool)
    task = Task(id="t", env="e", split="train", family="f", level=1, prompt={Dialect.COMPACT: "-"}, tools=who)
    other = tuple(replace(tool, name="other") for tool in who)
    for components, says in (
        (
            [ToolServer(pool, noisy(name="a"), who), ToolServer(pool, noisy(name="b", keeps="other"), who)],
            "tool who",
        ),
        ([ToolServer(pool, noisy(), who), ToolServer(pool, noisy(keeps="other"), other)], "component noisy"),
        ([ToolServer(pool, noisy(name="a"), who), ToolServer(pool, noisy(name="b"), other)], "capture data"),
        ([Workspace(spec=SandboxSpec(), tree={}).open(pool), PythonTool(pool)], "capture"),
    ):
        with pytest.raises(ValueError, match=f"more than one {says}"):
            World(task, components, AttemptId(group=0, slot=0), noise_seed=0)


async def test_no_file_of_a_workspace_stands_in_for_what_another_component_captured(pool: Pool) -> None:
    space = Workspace(spec=SandboxSpec(), tree={"memory.jsonl": b"forged"})
    task = Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt={Dialect.COMPACT: "-"},
        tools=(*space.tools, *Memory.tools),
    )
    memory = Memory(AttemptId(group=0, slot=0))
    world = World(task, [memory, space.open(pool)], AttemptId(group=0, slot=0), noise_seed=0)
    assert (await world.seal()).files["memory.jsonl"] == b""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            {
                "type": "resource",
                "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "body"},
            },
            "[resource file:///a.txt text/plain]\nbody",
        ),
        (
            {
                "type": "resource",
                "resource": {"uri": "file:///a.pdf", "mimeType": "application/pdf", "blob": "QUJD"},
            },
            "[resource file:///a.pdf application/pdf 3 bytes]",
        ),
        (
            {
                "type": "resource",
                "resource": {"uri": "file:///a.cs", "mimeType": "text/plain", "blob": "Ym9keQ=="},
            },
            "[resource file:///a.cs text/plain 4 bytes]\nbody",
        ),
        (
            {
                "type": "resource_link",
                "uri": "file:///b.txt",
                "name": "b.txt",
                "mimeType": "text/plain",
                "description": "notes",
            },
            "[resource_link b.txt file:///b.txt text/plain]\nnotes",
        ),
        ({"type": "image", "data": "QUJD", "mimeType": "image/png"}, "[image image/png 3 bytes]"),
        ({"type": "audio", "data": "QUJD", "mimeType": "audio/wav"}, "[audio audio/wav 3 bytes]"),
        (
            {"type": "resource", "resource": {"uri": "x:\n1 button", "blob": "?"}},
            "[resource x: 1 button not shown]",
        ),
    ],
)
def test_what_is_no_text_keeps_its_name_address_and_type(content: dict[str, Json], text: str) -> None:
    assert answer({"content": [content]}).text == text


def test_structured_content_is_shown_where_the_text_lacks_it() -> None:
    text: Json = [{"type": "text", "text": "7 items"}]
    assert answer({"content": text, "structuredContent": {"n": 7}}).text == "7 items"
    assert (
        answer({"content": text, "structuredContent": {"n": 7, "of": ["lamp"]}}).text
        == '7 items\n{"n": 7, "of": ["lamp"]}'
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("MCP error -32602: Input validation error: Invalid arguments for tool echo: []", Fault.POLICY),
        ("Input validation error: 'n' is a required property", Fault.POLICY),
        ("Error executing tool put: 1 validation error for putArguments\nvalue", Fault.POLICY),
        ("2 validation errors for Model", Fault.POLICY),
        ("Unknown tool: nope", Fault.POLICY),
        ("Error executing tool put: the shelf fell down", Fault.TOOL),
        ("fetched page says: 1 validation error for x", Fault.TOOL),
    ],
)
def test_a_result_that_says_that_the_arguments_do_not_fit_is_the_policys_mistake(
    text: str, fault: Fault
) -> None:
    assert answer({"content": [{"type": "text", "text": text}], "isError": True}).fault is fault


LOUD = r"""
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        m = json.loads(self.rfile.read(int(self.headers["content-length"])))
        print("x" * 200_000, flush=True)
        sys.stderr.write("y" * 200_000)
        tool = {"name": "who", "inputSchema": {}}
        results = {"tools/list": {"tools": [tool]}, "tools/call": {"content": [{"type": "text", "text": "loud"}]}}
        body = json.dumps({"jsonrpc": "2.0", "id": m.get("id"), "result": results.get(m["method"], {})}).encode()
        self.send_response(200); self.send_header("content-type", "application/json"); self.send_header("content-length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): return
HTTPServer(("127.0.0.1", 8012), Handler).serve_forever()
"""  # noqa: E501


async def test_what_a_server_over_http_prints_is_read_by_somebody(pool: Pool) -> None:
    server = Server(
        name="loud",
        command="exec python3 loud.py",
        port=8012,
        sandbox=SandboxSpec(),
        files={"loud.py": LOUD},
        keeps="data",
    )
    world = await opened(pool, server)
    assert [(await ask(world, "who")).text for _ in range(3)] == ["loud"] * 3
    await world.close()
