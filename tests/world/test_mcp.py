"""Tool servers: real ones, made with the SDK and from npm and PyPI, in real sandboxes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agito.errors import SandboxFailure
from agito.protocols import SandboxSpec
from agito.types import AttemptId, Budget, Call, Dialect, Event, Fault, Json, Limits, Task, ToolSpec
from agito.worlds.mcp import Server, ToolServer, tools_of
from agito.worlds.mcp.packages import gather
from agito.worlds.mcp.schema import misfit
from agito.worlds.sandbox import Pool
from agito.worlds.world import SUBMIT, World

pytestmark = pytest.mark.anyio
pytest.importorskip("mcp", reason="needs the MCP SDK: pip install 'mcp>=2.3'")

SOURCE = Path(__file__).with_name("mcp_server.py")
PLAIN = Server(
    name="plain",
    command="exec python3 plain.py",
    sandbox=SandboxSpec(),
    files={"plain.py": Path(__file__).with_name("plain_server.py").read_text()},
    keeps="data",
)
LEFT = Budget(turns=9, calls=9, tokens=99)
_EXTRAS = Path(__file__).parents[2] / ".venv/mcp-servers"
ELSEWHERE = os.environ.get("AGITO_MCP_SERVERS") or (str(_EXTRAS) if (_EXTRAS / "site").is_dir() else "")
NEEDS = (
    "needs MCP servers from npm and PyPI: make extras (or AGITO_MCP_SERVERS=FOLDER that holds "
    "node_modules and site)"
)


@pytest.fixture(scope="module")
async def pool(anyio_backend: str) -> AsyncIterator[Pool]:
    async with await Pool.open(warm=0) as pool:
        yield pool


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("packages")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    return str(gather(("mcp",), folder))


def shelf(packages: str, *, port: int | None = None) -> Server:
    return Server(
        name="shelf",
        command=f"PYTHONPATH=/work exec python3 shelf.py {port or ''}",
        port=port,
        sandbox=SandboxSpec(base=packages, mem_mb=1024, procs=64, cpu_s=60),
        files={"shelf.py": SOURCE.read_text()},
        keeps="data",
    )


def world_of(pool: Pool, server: Server, tools: tuple[ToolSpec, ...], *, call_seconds: float) -> World:
    task = Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt={Dialect.COMPACT: "-"},
        tools=(*tools, SUBMIT),
        limits=Limits(call_seconds=call_seconds),
    )
    return World(task, [ToolServer(pool, server, tools)], AttemptId(group=0, slot=0), noise_seed=0)


async def ask(world: World, tool: str, **arguments: Json) -> Event:
    (event,) = await world.session.act([Call(tool=tool, arguments=arguments)], LEFT)
    return event


@pytest.mark.parametrize("port", [None, pytest.param(8001, marks=pytest.mark.full)], ids=["stdio", "http"])
async def test_a_server_of_the_sdk_becomes_tools_with_honest_faults(
    pool: Pool, packages: str, port: int | None
) -> None:
    server = shelf(packages, port=port)
    tools = await tools_of(server, pool)
    assert [(tool.name, tool.description) for tool in tools] == [
        ("put", "Puts a value under a name."),
        ("get", "Reads the value under a name."),
        ("fail", "Fails."),
    ]
    world = world_of(pool, server, tools, call_seconds=30.0)
    assert (await ask(world, "put", name="a", value=7)).text == "ok"
    assert (await ask(world, "get", name="a")).text == "7 in memory, 7 on disk"
    for name, arguments, fault, says in (
        ("nothing", {}, Fault.POLICY, "the tools are put, get, fail, submit"),
        ("put", {"name": "a"}, Fault.POLICY, "needs value"),
        ("put", {"name": "a", "value": "seven"}, Fault.POLICY, "must be of type integer"),
        ("fail", {"how": "raise"}, Fault.TOOL, "Error executing tool fail"),
        ("fail", {"how": "shout"}, None, "survived"),
        ("fail", {"how": "die"}, Fault.TOOL, "the tool server is gone"),
        ("get", {"name": "a"}, Fault.TOOL, "the tool server is gone"),
    ):
        event = await ask(world, name, **arguments)  # pyright: ignore[reportArgumentType]
        assert (event.fault, says in event.text) == (fault, True), event
    assert (await world.seal()).files == {"data/a": b"7"}


@pytest.fixture
async def plain(pool: Pool) -> AsyncIterator[World]:
    world = world_of(pool, PLAIN, await tools_of(PLAIN, pool), call_seconds=0.6)
    yield world
    await world.close()


async def test_what_a_server_says_wrong_is_told_apart(plain: World) -> None:
    for tool, fault, says in (
        ("forgotten", Fault.POLICY, "unknown tool"),
        ("internal", Fault.TOOL, "the shelf fell down"),
        ("ask", None, "sampling/createMessage: not offered\n[image]"),
        ("die", Fault.TOOL, "the tool server is gone"),
        ("get", Fault.TOOL, "the tool server is gone"),
    ):
        event = await ask(plain, tool, name="a")
        assert (event.fault, says in event.text) == (fault, True), event


async def test_a_deadline_is_an_event_and_the_late_answer_is_not_taken_for_the_next(plain: World) -> None:
    await ask(plain, "put", name="a", value=1)
    slow = await ask(plain, "sleep", name="b")
    assert (slow.text, slow.fault) == ("timeout", Fault.TIMEOUT)
    events = [await ask(plain, "get", name="a") for _ in range(20)]
    assert {event.text for event in events} <= {"timeout", "1 in memory, 1 on disk\n[image]"}
    assert events[-1].fault is None


async def test_a_fork_has_the_files_and_a_process_of_its_own(plain: World) -> None:
    await ask(plain, "put", name="a", value=1)
    snapshot = await plain.snapshot()
    fork = await plain.fork(snapshot, AttemptId(group=0, slot=1))
    assert isinstance(fork, World)
    assert snapshot.exactness == "filesystem" and await fork.digest() == snapshot.digest
    assert (await ask(fork, "get", name="a")).text.startswith("none in memory, 1 on disk")
    await ask(fork, "put", name="a", value=2)
    assert (await ask(plain, "get", name="a")).text.startswith("1 in memory, 1 on disk")
    assert await plain.digest() == snapshot.digest != await fork.digest()
    await fork.close()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo no good >&2; exit 1", "it has ended: no good"),
        ("sleep 9", "it was not ready"),
        ("cat", "initialize: not offered"),
        ("yes nonsense", "no message, such as 'nonsense'"),
        ("head -c 9000000 /dev/zero", "more than 4194304 bytes"),
        ("echo '[1]'; sleep 9", "it was not ready"),
    ],
)
async def test_a_server_that_cannot_be_started_voids_the_attempt_and_says_why(
    pool: Pool, command: str, says: str
) -> None:
    server = Server(
        name="broken", command=command, sandbox=SandboxSpec(), start_s=0.5 if "sleep 9" in command else 10.0
    )
    with pytest.raises(SandboxFailure, match=says):
        await tools_of(server, pool)


def test_arguments_are_held_against_the_schema() -> None:
    schema: dict[str, Json] = {
        "properties": {"n": {"type": "integer"}, "b": {"type": "boolean"}, "any": {}},
        "required": ["n"],
    }
    assert misfit({"n": 1, "b": True, "any": None, "unknown": 1}, schema) == ""
    assert misfit({}, schema) == "needs n"
    assert misfit({"n": 1.0}, schema) == "" != misfit({"n": 1.5}, schema)
    assert misfit({"n": True}, schema) == "`n` must be of type integer"
    assert misfit({"n": 1, "b": 1}, schema) == "`b` must be of type boolean"


@pytest.mark.skipif(not ELSEWHERE, reason=NEEDS)
@pytest.mark.parametrize(
    ("name", "command", "tool", "arguments", "says"),
    [
        (
            "everything",
            "node node_modules/@modelcontextprotocol/server-everything/dist/index.js",
            "echo",
            {"message": "hi"},
            "hi",
        ),
        (
            "filesystem",
            "node node_modules/@modelcontextprotocol/server-filesystem/dist/index.js /work/data",
            "write_file",
            {"path": "/work/data/b", "content": "x"},
            "Successfully wrote",
        ),
        (
            "time",
            "PYTHONPATH=/work/site exec python3 -m mcp_server_time",
            "get_current_time",
            {"timezone": "Asia/Tokyo"},
            "Asia/Tokyo",
        ),
        (
            "git",
            "git init -q data; PYTHONPATH=/work/site exec python3 -m mcp_server_git",
            "git_status",
            {"repo_path": "/work/data"},
            "No commits yet",
        ),
    ],
)
async def test_servers_from_npm_and_pypi_work_unmodified(
    pool: Pool, name: str, command: str, tool: str, arguments: dict[str, Json], says: str
) -> None:
    base = SandboxSpec(base=ELSEWHERE, mem_mb=2048, procs=128, work_mb=256)
    server = Server(name=name, command=command, sandbox=base, files={"data/a": "1\n"}, keeps="data")
    world = world_of(pool, server, await tools_of(server, pool), call_seconds=10.0)
    event = await ask(world, tool, **arguments)
    assert (event.fault, says in event.text) == (None, True), event
    refused = await ask(world, tool, wrong=1)
    assert refused.fault is Fault.POLICY
    assert (await world.seal()).files["data/a"] == b"1\n"


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ({"enum": ["a", "b"]}, "c", 'one of "a", "b"'),
        ({"const": 1}, True, "must be 1"),
        ({"type": ["string", "null"]}, 1, "string or null"),
        ({"type": "integer", "minimum": 1}, 0, "minimum is 1"),
        ({"type": "string", "maxLength": 2}, "abc", "at most 2 characters"),
        ({"type": "array", "items": {"type": "integer"}}, [1, "x"], "`p[1]` must be of type integer"),
        ({"type": "array", "minItems": 1}, [], "at least 1 items"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 3, "of type string"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "", "at least 1"),
        ({"$ref": "#/$defs/point"}, {"x": "1"}, "`p.x` must be of type number"),
        ({"$ref": "#/$defs/point"}, {}, "needs p.x"),
        ({"type": "object", "properties": {}, "additionalProperties": False}, {"y": 1}, "does not take p.y"),
        ({"$ref": "#/$defs/loop"}, 1, ""),
        ({"$ref": "https://elsewhere.test/x"}, 1, ""),
    ],
)
def test_arguments_are_held_against_what_is_nested_in_a_schema(part: Json, value: Json, says: str) -> None:
    point: Json = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    schema: dict[str, Json] = {
        "properties": {"p": part},
        "$defs": {"point": point, "loop": {"$ref": "#/$defs/loop"}},
    }
    problem = misfit({"p": value}, schema)
    assert says in problem and bool(says) == bool(problem)
