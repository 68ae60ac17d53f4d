"""`agito serve ENV --mcp`, driven by the SDK's own client in another process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

from agito.cli.app import app
from agito.envs import load

pytestmark = pytest.mark.anyio
pytest.importorskip("mcp", reason="needs the MCP SDK: pip install 'mcp>=2.3'")


async def test_a_foreign_client_acts_and_never_sees_a_verdict(tmp_path: Path) -> None:
    from mcp import StdioServerParameters
    from mcp.client import Client
    from mcp.client.stdio import stdio_client

    verdicts = tmp_path / "deep" / "verdicts.jsonl"
    arguments = ["-m", "agito.cli", "serve", "shell", "--mcp", "--level", "1", "--verdicts", str(verdicts)]
    server = StdioServerParameters(
        command=sys.executable, args=arguments, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    heard: list[str] = []

    async with Client(stdio_client(server)) as client:

        async def use(name: str, **given: object) -> tuple[str, bool]:
            result = await client.call_tool(name, dict(given))
            text = "".join(part.text for part in result.content if part.type == "text")
            heard.append(text)
            return text, bool(result.is_error)

        offered = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        assert list(offered) == ["open", "act", "sh", "submit"] and offered["sh"]["required"] == ["command"]
        assert await use("act", tool="sh", arguments={"command": "ls"}) == (
            "no task is open: call open first",
            True,
        )
        prompt, _ = await use("open")
        key = prompt.partition("value of `")[2].partition("`")[0]
        for _ in range(3):  # injected timeouts never come twice in a row
            found, is_wrong = await use("sh", command=f"sed -n /^{key}=/p *")
            if not is_wrong:
                break
        assert await use("submit", answer=found.strip()) == ("the task has ended", False)
        assert (await use("act", tool="sh", arguments={"command": "ls"}))[1]
        await use("open")
        text, is_wrong = await use("act", tool="verdict", arguments={})
        assert is_wrong and "the tools are sh" in text
        text, is_wrong = await use("grade", answer="")
        assert is_wrong and text == "grade: the tools are open, act, sh, submit"
        await use("open")
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert [row["reward"] for row in rows] == [1.0, 0.0, 0.0]  # solved, given up, left open
    assert not any("reward" in text or "wanted" in text for text in heard)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--split", "tests"], "shell has train, heldout, structural"),
        (["--level", "9"], "shell has 1, 2, 3, 4, 5"),
        (["--level", "0"], "shell has 1, 2, 3, 4, 5"),
        (["--verdicts", "/"], "cannot be written there"),
        (["--verdicts", "/proc/none/verdicts.jsonl"], "cannot be written there"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_options_that_do_not_hold_are_refused_before_anything_is_served(
    options: list[str], says: str
) -> None:
    done = CliRunner().invoke(
        app, ["serve", "shell", "--mcp", *options], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    assert done.exit_code == 2 and done.stdout == ""
    assert says in " ".join(done.stderr.split())


async def test_a_task_whose_own_tool_is_called_open_keeps_it(tmp_path: Path) -> None:
    from agito.cli.serve import Desk

    async with anyio.create_task_group() as tasks:
        desk = Desk(load("research"), tmp_path / "v.jsonl", tasks, split="heldout", seed=0, level=1)
        assert [tool.name for tool in desk.tools][:2] == ["open_task", "act"] and "open" in {
            tool.name for tool in desk.tools
        }
        assert await desk.use("open", {"id": "x"}) == ("no task is open: call open_task first", True)
        assert (await desk.use("open_task", {}))[1] is False
        text, _ = await desk.use("search", {"query": "the"})
        found = text.split()[0]
        assert found in (await desk.use("open", {"id": found}))[0]
        await desk.finish()
