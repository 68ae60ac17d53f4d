"""An agent of the `pydantic-ai` package (with its extras openai and mcp), with the tools over MCP."""

import os

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

BEARER = {"Authorization": f"Bearer {os.environ['AGITO_KEY']}"}
tools = MCPToolset(os.environ["AGITO_MCP_URL"], headers=BEARER)
Agent("openai-chat:mine", toolsets=[tools]).run_sync(os.environ["AGITO_TASK"])
