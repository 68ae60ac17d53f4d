"""Which server to run, how, and what tools it offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from agito.errors import SandboxFailure
from agito.protocols import Sandbox, SandboxPool, SandboxSpec
from agito.types import ToolSpec
from agito.worlds.mcp.channels import Http, Pipes
from agito.worlds.mcp.client import Channel, Client, Gone, Refused

_KEPT_BYTES = 1 << 16  # of its standard error
_ROOMY = SandboxSpec(mem_mb=1024, procs=128, cpu_s=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A program that speaks MCP. Bash runs `command` in the sandbox; with `port` it serves HTTP there,
    otherwise it uses its pipes.
    """

    name: str
    command: str
    port: int | None = None
    path: str = "/mcp"
    sandbox: SandboxSpec = _ROOMY  # its `base` is a copy of a folder of yours, such as one with node_modules
    # written to the workspace before the start
    files: Mapping[str, str | bytes] = field(default_factory=dict[str, "str | bytes"])
    # workspace folder that is its state, for digests and the grader; "" for everything that differs from the
    # base
    keeps: str = ""
    start_s: float = 30.0


async def start(server: Server, sandbox: Sandbox) -> Client:
    """Starts the server and initialises the session. Raises `SandboxFailure` with the server's error output:
    the policy had no part in it.
    """
    complaints = f"/tmp/{server.name}.stderr"
    # keeps the stderr pipe from filling or breaking
    kept = f"exec 2> >(head -c {_KEPT_BYTES} >{complaints}; exec cat >/dev/null)"
    if server.port is None:
        channel: Channel = Pipes(await sandbox.launch(f"{kept}; {server.command}"))
    else:
        await Pipes(await sandbox.launch(f"{kept}; exec >&2 </dev/null; {server.command}")).aclose()
        channel = Http(sandbox, server.port, server.path)
    client = Client(channel)
    problem = f"it was not ready within {server.start_s:g} s"
    with anyio.move_on_after(server.start_s):
        try:
            if server.port is not None:
                (await sandbox.connect(server.port, timeout_s=server.start_s)).close()
            await client.initialize()
            return client
        except (Gone, Refused, TimeoutError) as error:
            problem = str(error)
    await channel.aclose()
    # its last output may still be on its way
    patience = f"for _ in $(seq 20); do [ -s {complaints} ] && break; sleep .02; done"
    said = (
        (await sandbox.sh(f"{patience}; tail -c 600 {complaints} 2>/dev/null"))
        .output.decode("utf-8", "replace")
        .strip()
    )
    raise SandboxFailure(f"tool server {server.name!r}: {problem}{': ' if said else ''}{said}")


def refuse_twice(name: str, tools: tuple[ToolSpec, ...]) -> None:
    """Raises `ValueError` for duplicate tool names."""
    names = [tool.name for tool in tools]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise ValueError(f"tool server {name!r}: it has more than one tool {', '.join(twice)}")


async def tools_of(server: Server, pool: SandboxPool) -> tuple[ToolSpec, ...]:
    """Runs the server once to list its tools. Raises `SandboxFailure`, and `ValueError` for
    duplicate tools.
    """
    sandbox = await pool.start(server.sandbox)
    try:
        await sandbox.write(server.files)
        client = await start(server, sandbox)
        try:
            with anyio.move_on_after(server.start_s):
                tools = await client.tools()
                refuse_twice(server.name, tools)
                return tools
        except (Gone, Refused) as error:
            raise SandboxFailure(f"tool server {server.name!r}: {error}") from None
        finally:
            await client.channel.aclose()
        raise SandboxFailure(
            f"tool server {server.name!r}: it has not listed its tools for {server.start_s:g} s"
        )
    finally:
        await sandbox.close()
