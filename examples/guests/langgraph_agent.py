"""A graph of the `langgraph` package (with langchain-openai and langchain-mcp-adapters), tools over MCP."""

import asyncio
import os

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent

BEARER = {"Authorization": f"Bearer {os.environ['AGITO_KEY']}"}


async def main():
    server = {"transport": "streamable_http", "url": os.environ["AGITO_MCP_URL"], "headers": BEARER}
    tools = await MultiServerMCPClient({"agito": server}).get_tools()
    agent = create_react_agent(ChatOpenAI(model="mine"), tools)
    await agent.ainvoke({"messages": [("user", os.environ["AGITO_TASK"])]}, {"recursion_limit": 200})


asyncio.run(main())
