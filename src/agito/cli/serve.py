"""`agito serve ENV --mcp`: an environment's episodes as an MCP server. What is behind the port acts; verdicts stay on this side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
from mcp import types as mcp
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from agito import __version__
from agito.envs import load
from agito.errors import SandboxFailure
from agito.protocols import Control, Environment
from agito.types import AttemptId, Budget, Call, Dialect, Event, Key, Status, Task, Verdict

_STRING = {"type": "string"}
TOOLS = (
    mcp.Tool(
        name="open",
        description="Begin the next task. An unfinished one ends as it stands. Says what is asked and which tools there are.",
        input_schema={"type": "object", "properties": {}},
    ),
    mcp.Tool(
        name="act",
        description="Use one of the task's tools.",
        input_schema={"type": "object", "properties": {"tool": _STRING, "arguments": {"type": "object"}}, "required": ["tool"]},
    ),
    mcp.Tool(
        name="submit",
        description="End the task with an answer.",
        input_schema={"type": "object", "properties": {"answer": _STRING}, "required": ["answer"]},
    ),
)


class Desk:
    """One client's episodes, one at a time, tasks in the order of the stream.

    The client chooses neither task nor split, and reads no verdict.
    """

    def __init__(self, env: Environment, verdicts: Path, *, split: str, seed: int, level: int | None) -> None:
        self._env, self._verdicts = env, verdicts
        self._split, self._seed, self._level = split, seed, level
        self._num_opened = 0
        self._live: tuple[Control, Task, Key] | None = None
        self._num_calls = 0
        self._turn = anyio.Lock()

    async def use(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """What the client reads, and whether it did something wrong."""
        async with self._turn:
            if name == "open":
                return await self._open(), False
            if self._live is None:
                return "no task is open: call open first", True
            if name == "act" and isinstance(arguments.get("tool"), str):
                given = arguments.get("arguments")
                return await self._act(Call(tool=arguments["tool"], arguments=given if isinstance(given, dict) else {}))  # pyright: ignore[reportUnknownArgumentType]
            if name == "submit" and isinstance(arguments.get("answer"), str):
                return await self._act(Call(tool="submit", arguments={"answer": arguments["answer"]}))
            return f"{name}: the tools are open(), act(tool, arguments), submit(answer), all strings but `arguments`", True

    async def finish(self) -> None:
        """Seals and grades what is open; the verdict goes to the file, never to the client."""
        if self._live is None:
            return
        (control, task, key), self._live = self._live, None
        try:
            verdict = await self._env.grade(await control.seal(), key, 0)
        except SandboxFailure as error:
            verdict = Verdict.void(str(error))
        finally:
            await control.close()
        reward = verdict.reward if verdict.status is Status.SCORED else None
        row = {"task": task.id, "status": verdict.status, "reward": reward, "calls": self._num_calls, "evidence": verdict.evidence}
        with self._verdicts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    async def _open(self) -> str:
        await self.finish()
        task, key = self._env.task(split=self._split, index=self._num_opened, seed=self._seed, level=self._level)
        control = await self._env.open(task, key, AttemptId(group=self._num_opened, slot=0), noise_seed=self._seed)
        self._live, self._num_calls = (control, task, key), 0
        self._num_opened += 1
        tools = [{"name": tool.name, "description": tool.description, "parameters": {**tool.parameters}} for tool in task.tools]
        return f"{task.prompt[Dialect.NATURAL]}\n\nYou may make {task.limits.calls} calls. Tools: {json.dumps(tools)}"

    async def _act(self, call: Call) -> tuple[str, bool]:
        assert self._live is not None
        control, task, _ = self._live
        self._num_calls += 1
        left = max(0, task.limits.calls - self._num_calls)
        try:
            (event,) = await control.session.act((call,), Budget(turns=left, calls=left, tokens=task.limits.tokens))
        except SandboxFailure as error:
            await self.finish()
            return f"the task broke, which is nobody's fault here: {error}", True
        if event.ended or not left:
            await self.finish()
        return _words(event, left), event.fault is not None


def _words(event: Event, left: int) -> str:
    if event.ended:
        return "the task has ended"
    return event.text if left else f"{event.text}\nno calls are left: the task has ended"


async def serve_mcp(name: str, verdicts: Path, *, split: str, seed: int, level: int | None) -> None:
    """Serves on standard input and output until the client leaves."""
    env = load(name)
    verdicts.parent.mkdir(parents=True, exist_ok=True)
    desk = Desk(env, verdicts, split=split, seed=seed, level=level)

    async def list_tools(context: Any, parameters: Any) -> mcp.ListToolsResult:
        return mcp.ListToolsResult(tools=list(TOOLS))

    async def call_tool(context: Any, parameters: mcp.CallToolRequestParams) -> mcp.CallToolResult:
        text, is_wrong = await desk.use(parameters.name, parameters.arguments or {})
        return mcp.CallToolResult(content=[mcp.TextContent(type="text", text=text)], is_error=is_wrong)

    server: Server[Any] = Server(f"agito-{name}", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)
    try:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())
    finally:
        with anyio.CancelScope(shield=True):
            await desk.finish()
            await env.aclose()
