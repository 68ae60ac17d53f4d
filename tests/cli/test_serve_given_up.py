"""`agito serve --mcp` and calls that its client has given up: each is carried to its end, and answers nobody
else.
"""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agito.testing import FakeEnvironment

pytestmark = pytest.mark.anyio
pytest.importorskip("mcp", reason="needs the MCP SDK: pip install 'mcp>=2.3'")
from agito.cli.serve import Desk  # noqa: E402 - needs the SDK


async def given_up(desk: Desk, name: str, arguments: dict[str, str], turns: int) -> None:
    """Cancelled after some turns of the event loop, as the SDK does for a client that cancels its call."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.use, name, arguments)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("turns", range(8))
async def test_a_call_that_was_given_up_never_answers_the_next_one(turns: int, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        desk = Desk(FakeEnvironment(), tmp_path / "v", tasks, split="train", seed=0, level=1)
        await desk.use("open_task", {})
        await given_up(desk, "open", {"box": "1"}, turns)
        wrong, is_wrong = await desk.use("act", {"tool": "open", "arguments": {}})
        assert is_wrong, wrong
        await given_up(desk, "submit", {"box": "1"}, 1)
        await desk.finish()
    (row,) = (json.loads(line) for line in (tmp_path / "v").read_text().splitlines())
    assert row["status"] == "scored"


@pytest.mark.parametrize("turns", range(1, 40, 3))
async def test_a_verdict_whose_client_has_given_up_is_kept(turns: int, tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        desk = Desk(FakeEnvironment(), tmp_path / "v", tasks, split="train", seed=0, level=1)
        await desk.use("open_task", {})
        await given_up(desk, "submit", {"box": "1"}, turns)
        await desk.use("open_task", {})
        await desk.finish()
    assert len((tmp_path / "v").read_text().splitlines()) == 2
