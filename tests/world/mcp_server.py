"""A real MCP server, made with the SDK: a shelf in memory and on disk, tools that raise, sleep and die."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("shelf")
held: dict[str, int] = {}


@server.tool()
def put(name: str, value: int) -> str:
    """Puts a value under a name."""
    held[name] = value
    Path("data").mkdir(exist_ok=True)
    Path("data", name).write_text(str(value))
    return "ok"


@server.tool()
def get(name: str) -> str:
    """Reads the value under a name."""
    file = Path("data", name)
    return f"{held.get(name, 'none')} in memory, {file.read_text() if file.exists() else 'none'} on disk"


@server.tool()
def fail(how: str) -> str:
    """Fails."""
    if how == "raise":
        raise RuntimeError("shelf fell down")
    if how == "sleep":
        time.sleep(30)
    if how == "die":
        os._exit(3)
    if how == "shout":
        sys.stderr.write("x" * 1_000_000)
    return "survived"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
