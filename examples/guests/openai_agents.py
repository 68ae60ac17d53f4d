"""An agent of the `openai-agents` package, with the session's tools over MCP."""

import asyncio
import os

from agents import Agent, Runner
from agents.mcp import MCPServerStreamableHttp

BEARER = {"Authorization": f"Bearer {os.environ['AGITO_KEY']}"}


async def main():
    server = MCPServerStreamableHttp(params={"url": os.environ["AGITO_MCP_URL"], "headers": BEARER})
    async with server:
        agent = Agent(name="mine", model="mine", mcp_servers=[server])
        await Runner.run(agent, os.environ["AGITO_TASK"], max_turns=100)


asyncio.run(main())
