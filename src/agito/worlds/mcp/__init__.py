"""Tool servers: any MCP server becomes tools, one process per episode, in a sandbox. See docs/mcp.md."""

from __future__ import annotations

from agito.worlds.mcp.component import ToolServer
from agito.worlds.mcp.server import Server, tools_of

__all__ = ["Server", "ToolServer", "tools_of"]
