"""`agito serve ENV --mcp`, driven by the SDK's own client in another process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio
pytest.importorskip("mcp", reason="needs the SDK: pip install agito[mcp]")


async def test_a_foreign_client_acts_and_never_sees_a_verdict(tmp_path: Path) -> None:
    from mcp import StdioServerParameters
    from mcp.client import Client
    from mcp.client.stdio import stdio_client

    verdicts = tmp_path / "deep" / "verdicts.jsonl"
    arguments = ["-m", "agito.cli", "serve", "shell", "--mcp", "--level", "1", "--verdicts", str(verdicts)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    heard: list[str] = []

    async with Client(stdio_client(server)) as client:

        async def use(name: str, **given: object) -> tuple[str, bool]:
            result = await client.call_tool(name, dict(given))
            text = "".join(part.text for part in result.content if part.type == "text")
            heard.append(text)
            return text, bool(result.is_error)

        assert [tool.name for tool in (await client.list_tools()).tools] == ["open", "act", "submit"]
        assert await use("act", tool="sh", arguments={"command": "ls"}) == ("no task is open: call open first", True)
        prompt, _ = await use("open")
        key = prompt.partition("value of `")[2].partition("`")[0]
        for _ in range(3):  # injected timeouts never come twice in a row
            found, is_wrong = await use("act", tool="sh", arguments={"command": f"sed -n /^{key}=/p *"})
            if not is_wrong:
                break
        assert await use("submit", answer=found.strip()) == ("the task has ended", False)
        assert (await use("act", tool="sh", arguments={"command": "ls"}))[1]
        await use("open")
        text, is_wrong = await use("act", tool="verdict", arguments={})
        assert is_wrong and "the tools are sh" in text
        await use("grade", answer="")
        await use("open")
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert [row["reward"] for row in rows] == [1.0, 0.0, 0.0]  # solved, given up, left open
    assert not any("reward" in text or "wanted" in text for text in heard)
