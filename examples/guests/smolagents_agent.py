"""An agent of the `smolagents` package (with its extras openai and mcp): either of its two agents."""

import os
import sys

import smolagents

BEARER = {"Authorization": f"Bearer {os.environ['AGITO_KEY']}"}
server = {"url": os.environ["AGITO_MCP_URL"], "transport": "streamable-http", "headers": BEARER}
model = smolagents.OpenAIServerModel("mine", api_base=os.environ["OPENAI_BASE_URL"])
with smolagents.MCPClient(server) as tools:
    agent = getattr(smolagents, sys.argv[1])(tools=tools, model=model, max_steps=100, verbosity_level=0)
    agent.run(os.environ["AGITO_TASK"])
