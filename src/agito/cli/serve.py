"""`agito serve ENV --mcp`: an environment's episodes as an MCP server. What is behind the port acts; verdicts
stay on this side.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any, cast

import anyio
import typer
from anyio.abc import TaskGroup
from mcp import types as mcp
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server

from agito import __version__
from agito.cli.exit_codes import work
from agito.envs import load
from agito.protocols import Environment, Session
from agito.rollout import EpisodeDriver, Finished, acted
from agito.rollout.scripts import budget
from agito.types import AttemptId, Call, Dialect, Event, Json, Status, Target, Task, Trajectory

_STRING = {"type": "string"}
_OPEN = (
    "Begin the next task. An unfinished one ends as it stands. Says what is asked and which tools there are."
)
_ACT = "Use one of the task's tools by its name: for clients that read the list of tools only once."


class Desk:
    """One client's episodes, one at a time, tasks in the order of the stream.

    The client chooses neither task nor split, and reads no verdict. It is offered the tools of the open task
    as they are (before there is one: those of the first), and two more, `open` and `act`, which are called
    `open_task` and `act_task` where a tool of a task has that name.
    """

    def __init__(
        self, env: Environment, verdicts: Path, tasks: TaskGroup, *, split: str, seed: int, level: int | None
    ) -> None:
        self._env, self._verdicts, self._tasks = env, verdicts, tasks
        self._split, self._seed, self._level = split, seed, level
        self._num_opened = 0
        self._live: _Live | None = None
        self._turn = anyio.Lock()
        self._native = env.task(split=split, index=0, seed=seed, level=level)[0].tools
        levels = env.levels if level is None else (level,)
        taken = {
            tool.name
            for index, (family, each) in enumerate(product(env.families, levels))
            for tool in env.task(split=split, index=index, seed=seed, family=family, level=each)[0].tools
        }
        self._opening, self._acting = (f"{name}_task" if name in taken else name for name in ("open", "act"))

    @property
    def tools(self) -> tuple[mcp.Tool, ...]:
        schema = {
            "type": "object",
            "properties": {"tool": _STRING, "arguments": {"type": "object"}},
            "required": ["tool"],
        }
        return (
            mcp.Tool(
                name=self._opening, description=_OPEN, input_schema={"type": "object", "properties": {}}
            ),
            mcp.Tool(name=self._acting, description=_ACT, input_schema=schema),
            *(
                mcp.Tool(name=each.name, description=each.description, input_schema={**each.parameters})
                for each in self._native
            ),
        )

    async def use(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """What the client reads, and whether it did something wrong. What is under way is carried to its end,
        though its client gives it up: its answer is nobody else's, and a verdict is kept.
        """
        async with self._turn:
            with anyio.CancelScope(shield=True):
                return await self._used(name, arguments)
        raise AssertionError("a shielded call comes to its end")

    async def _used(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        if name == self._opening:
            return await self._open(), False
        if self._live is None:
            return f"no task is open: call {self._opening} first", True
        if name == self._acting:
            tool, given = arguments.get("tool"), arguments.get("arguments", {})
            if not isinstance(tool, str) or not isinstance(given, dict):
                return f"{name} takes a string `tool` and an object `arguments`", True
            return await self._act(Call(tool=tool, arguments=cast("dict[str, Json]", given)))
        if name not in {tool.name for tool in self._live.task.tools}:
            return f"{name}: the tools are {', '.join(tool.name for tool in self.tools)}", True
        return await self._act(Call(tool=name, arguments=arguments))

    async def finish(self) -> None:
        """Seals and grades what is open; the verdict goes to the file, never to the client."""
        live, self._live = self._live, None
        if live is None:
            return
        live.calls.close()
        finished = await live.finished.receive()
        live.answers.close()
        live.finished.close()
        verdict = finished.verdict
        reward = verdict.reward if verdict.status is Status.SCORED else None
        row = {
            "task": live.task.id,
            "status": verdict.status,
            "reward": reward,
            "calls": live.num_calls,
            "evidence": verdict.evidence,
        }
        with self._verdicts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    async def _open(self) -> str:
        await self.finish()
        task, target = self._env.task(
            split=self._split, index=self._num_opened, seed=self._seed, level=self._level
        )
        live, attempt = _Live(task), AttemptId(group=self._num_opened, slot=0)
        self._num_opened += 1
        self._tasks.start_soon(
            live.drive, EpisodeDriver(self._env, noise_seed=self._seed, grade_seed=0), target, attempt
        )
        self._live, self._native = live, task.tools
        tools = [
            {"name": tool.name, "description": tool.description, "parameters": {**tool.parameters}}
            for tool in task.tools
        ]
        return (
            f"{task.prompt[Dialect.NATURAL]}\n\nYou may make {task.limits.calls} calls. Tools: "
            f"{json.dumps(tools)}"
        )

    async def _act(self, call: Call) -> tuple[str, bool]:
        live = self._live
        assert live is not None
        event = await live.act(call)
        if event is None:
            await self.finish()
            return "the task broke, which is nobody's fault here", True
        left = live.task.limits.calls - live.num_calls
        if event.ended or not left:
            await self.finish()
        return _words(event, left), event.fault is not None


class _Live:
    """One episode under way: its driver runs beside the client, which acts through here."""

    def __init__(self, task: Task) -> None:
        self.task, self.num_calls = task, 0
        self.calls, self._calls = anyio.create_memory_object_stream[Call](1)
        self._events, self.answers = anyio.create_memory_object_stream[Event](1)
        self._ended, self.finished = anyio.create_memory_object_stream[Finished](1)

    async def drive(self, driver: EpisodeDriver, target: Target, attempt: AttemptId) -> None:
        async def act(session: Session) -> Trajectory:
            events: list[Event] = []
            with self._calls, self._events:
                async for call in self._calls:
                    (event,) = await session.act((call,), budget(self.task.limits, len(events) + 1))
                    events.append(event)
                    await self._events.send(event)
                    if event.ended or len(events) >= self.task.limits.calls:
                        break
            return acted(self.task, attempt, events)

        with self._ended, self._calls, self._events:
            await self._ended.send(await driver.run(self.task, target, attempt, act))

    async def act(self, call: Call) -> Event | None:
        """None when the episode has ended without an answer."""
        try:
            await self.calls.send(call)
            self.num_calls += 1
            return await self.answers.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return None


def _words(event: Event, left: int) -> str:
    if event.ended:
        return "the task has ended"
    return event.text if left else f"{event.text}\nno calls are left: the task has ended"


def serve(name: str, verdicts: Path, *, split: str, seed: int, level: int | None) -> None:
    """Serves on standard input and output until the client leaves. What does not hold is refused
    before that.
    """
    env = load(name)
    try:
        _check(env, verdicts, split=split, seed=seed, level=level)
    except BaseException:
        work(env.aclose)
        raise
    work(lambda: _serve(env, verdicts, split=split, seed=seed, level=level))


def _check(env: Environment, verdicts: Path, *, split: str, seed: int, level: int | None) -> None:
    if split not in env.splits:
        raise typer.BadParameter(f"{split!r}: {env.name} has {', '.join(env.splits)}", param_hint="--split")
    if level is not None and level not in env.levels:
        raise typer.BadParameter(
            f"{level}: {env.name} has {', '.join(map(str, env.levels))}", param_hint="--level"
        )
    try:
        env.task(split=split, index=0, seed=seed, level=level)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--split") from None
    try:
        verdicts.parent.mkdir(parents=True, exist_ok=True)
        verdicts.open("a", encoding="utf-8").close()
    except OSError as error:
        raise typer.BadParameter(
            f"{verdicts}: verdicts cannot be written there ({error.strerror})", param_hint="--verdicts"
        ) from None


async def _serve(env: Environment, verdicts: Path, *, split: str, seed: int, level: int | None) -> None:
    try:
        async with anyio.create_task_group() as tasks:
            desk = Desk(env, verdicts, tasks, split=split, seed=seed, level=level)

            async def list_tools(context: Any, parameters: Any) -> mcp.ListToolsResult:
                return mcp.ListToolsResult(tools=list(desk.tools))

            async def call_tool(context: Any, parameters: mcp.CallToolRequestParams) -> mcp.CallToolResult:
                offered = desk.tools
                text, is_wrong = await desk.use(parameters.name, parameters.arguments or {})
                if desk.tools != offered:
                    await context.session.send_tool_list_changed()
                return mcp.CallToolResult(
                    content=[mcp.TextContent(type="text", text=text)], is_error=is_wrong
                )

            server: Server[Any] = Server(
                f"agito-{env.name}", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool
            )
            options = server.create_initialization_options(NotificationOptions(tools_changed=True))
            try:
                async with stdio_server() as (reading, writing):
                    await server.run(reading, writing, options)
            finally:
                with anyio.CancelScope(shield=True):
                    await desk.finish()
    finally:
        with anyio.CancelScope(shield=True):
            await env.aclose()
